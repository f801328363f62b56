"""A variable whose elements share values while its model trains.

This module changes when shared values are held in another way.
"""

from typing import Any

import keras
import numpy as np

from kprune.axes import Axes
from kprune.clustering import Clustering
from kprune.layers import MaskConstraint, values
from kprune.plan import Site
from kprune.report import ClusterRecord


class ClusterConstraint(keras.constraints.Constraint):
    """Gives the elements of a cluster their mean, and leaves zeros at zero.

    Keras applies it after the optimizer's step, inside the compiled training step, so
    that a cluster moves by the mean of its elements' steps. Before `share` it does
    nothing.

    Source: Han, Mao and Dally, "Deep compression", 2016,
    https://arxiv.org/abs/1510.00149, section 3.3, which sums the gradients of a cluster
    and steps once. Deviation: each element makes its own step with its own momentum,
    and the mean of these is taken; for plain SGD that is the source's step divided by
    the cluster's size, so that the learning rate stays what it was without clusters.

    Args:
        variable: The weight.
        num_codes: How many codes there are, with 0.
        inner: The constraint that the variable had before, if any. What it returns is
            averaged.
    """

    def __init__(
        self, variable: keras.Variable, num_codes: int, inner: Any = None
    ) -> None:
        self.num_codes = num_codes
        self.inner = inner
        # Beside the weight as for masks, see MaskConstraint.
        self.averages: tuple[keras.Variable, ...] = ()
        self.active = _untracked(np.asarray(False), "bool", f"{variable.name}_shares")
        # 0: a zero for good.
        codes = np.zeros(variable.shape, np.int32)
        self.codes = _untracked(codes, "int32", f"{variable.name}_codes")
        # Where the first element of each cluster is.
        first = np.zeros(num_codes, np.int32)
        self.first = _untracked(first, "int32", f"{variable.name}_first")

    def __call__(self, w: Any) -> Any:
        """Returns the shared values, after the inner constraint."""
        for average in self.averages:
            average.assign(self.shared(average))
        return self.shared(w if self.inner is None else self.inner(w))

    def share(self, codes: np.ndarray) -> None:
        """Lets elements of the same code share their value from now on."""
        first = np.zeros(self.num_codes, np.int32)
        found, places = np.unique(codes, return_index=True)
        first[found] = places
        self.first.assign(first)
        self.codes.assign(codes)
        self.active.assign(True)

    def shared(self, w: Any) -> Any:
        """Returns the values that are shared, if they are by now."""
        w = keras.ops.convert_to_tensor(w)
        return keras.ops.cond(self.active.value, lambda: self._means(w), lambda: w)

    def _means(self, w: Any) -> Any:
        ops, zero = keras.ops, keras.ops.zeros((), dtype=w.dtype)
        codes = self.codes.value
        # What a mask has set to zero has no say in the mean, and stays zero.
        has_say = ops.logical_and(codes > 0, w != zero)
        codes = ops.reshape(ops.where(has_say, codes, 0), (-1,))
        elements = ops.cast(ops.reshape(w, (-1,)), _accurate(w.dtype))
        # The mean is counted from the first element on: a cluster whose elements are
        # the same keeps its value to the last bit, however many they are.
        first = ops.take(elements, self.first.value)
        beyond = _sums(elements - ops.take(first, codes), codes, self.num_codes)
        number = ops.cast(_sums(None, codes, self.num_codes), beyond.dtype)
        means = ops.cast(first + beyond / ops.maximum(number, 1), w.dtype)
        return ops.where(has_say, ops.reshape(ops.take(means, codes), w.shape), zero)


def _sums(elements: Any, codes: Any, number: int) -> Any:
    """Returns the sum of the elements of each code, or without elements their number.

    It takes a fifth of the time of `keras.ops.segment_sum`, which trained dense layers
    are slowed down by.
    """
    import tensorflow as tf

    none = tf.zeros((0,), tf.int32)
    # Of a single row, since one thread adds up a row, always in the same order.
    return tf.raw_ops.DenseBincount(
        input=tf.reshape(codes, (1, -1)),
        size=number,
        weights=none if elements is None else tf.reshape(elements, (1, -1)),
    )[0]


def _untracked(value: np.ndarray, dtype: str, name: str) -> keras.Variable:
    """Returns a variable that no model tracks."""
    return keras.Variable(value, dtype=dtype, trainable=False, name=name)


def _accurate(dtype: str) -> str:
    """Returns the type that means are computed in."""
    return keras.backend.result_type(keras.backend.standardize_dtype(dtype), "float32")


class SharedWeight:
    """A variable whose elements share values, or will.

    Args:
        site: The weight.
        settings: How many values it may have.

    Attributes:
        active: Whether they share them by now.
    """

    def __init__(self, site: Site, settings: Clustering) -> None:
        self.variable, self.axes, self.settings = site.variable, site.axes, settings
        self.active = False
        self.constraint: ClusterConstraint

    @property
    def array(self) -> np.ndarray:
        """The weight's values now."""
        return values(self.variable)

    @property
    def is_clustered(self) -> bool:
        """Whether it has no more values than it may have."""
        return self.settings.is_clustered(self.array, self.axes)

    def attach(self, average: keras.Variable | None) -> None:
        """Puts a constraint on the variable that does nothing yet.

        One that it has is made anew. It lies inside of a mask, which later masks need
        not know of.

        Args:
            average: The optimizer's moving average of the variable, if it keeps one.
        """
        variable = self.variable
        number = self.settings.num_codes(tuple(variable.shape), self.axes)
        unclustered(variable)
        mask = variable.constraint
        holder = mask if isinstance(mask, MaskConstraint) else variable
        inner = mask.inner if isinstance(mask, MaskConstraint) else mask
        self.constraint = ClusterConstraint(variable, number, inner)
        self.constraint.averages = () if average is None else (average,)
        if isinstance(holder, MaskConstraint):
            holder.inner = self.constraint
        else:
            holder.constraint = self.constraint

    def share(self) -> None:
        """Finds the values, and lets elements share them from now on."""
        codes, shared = self.settings.assign(np.array(self.array), self.axes)
        self.variable.assign(shared)
        self.constraint.share(codes)
        self.active = True
        for average in self.constraint.averages:
            average.assign(self.constraint.shared(average))

    def why_not_now(self) -> str | None:
        """Returns why the weight's present values cannot be clustered, or `None`."""
        return why_not(self.array)

    def num_pruned_since(self) -> int:
        """Returns how many elements of clusters a mask prunes."""
        mask = self.variable.constraint
        if not self.active or not isinstance(mask, MaskConstraint):
            return 0
        pruned = ~values(mask.mask) & (values(self.constraint.codes) > 0)
        return int(np.count_nonzero(pruned))

    def record(self) -> ClusterRecord:
        """Returns how many values the weight has."""
        return record(self.variable, self.array, self.axes, self.settings)


def record(
    variable: keras.Variable, array: np.ndarray, axes: Axes | None, settings: Clustering
) -> ClusterRecord:
    """Returns how many values a weight has, if its values are those of an array."""
    return ClusterRecord(
        variable.path,
        tuple(variable.shape),
        settings.num_values(array, axes),
        array.size - int(np.count_nonzero(array)),
        settings.num_clusters,
        settings.per_channel,
    )


def why_not(array: np.ndarray) -> str | None:
    """Returns why values cannot be clustered, or `None`."""
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        return "holds values that are not finite"
    if (array == array.flat[0]).all():
        return f"all elements are {array.flat[0]:g}, as they were initialised"
    return None


def clusters_of(variable: keras.Variable) -> ClusterConstraint | None:
    """Returns what holds the shared values of a variable, or `None`."""
    constraint = variable.constraint
    if isinstance(constraint, MaskConstraint):
        constraint = constraint.inner
    return constraint if isinstance(constraint, ClusterConstraint) else None


def unclustered(variable: keras.Variable) -> bool:
    """Takes off what holds shared values of a variable; returns whether there was."""
    found, outer = clusters_of(variable), variable.constraint
    if found is None:
        return False
    if isinstance(outer, MaskConstraint):
        outer.inner = found.inner
    else:
        variable.constraint = found.inner
    return True
