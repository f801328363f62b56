"""The act: a smaller model out of slices of the old one's weights.

This module changes when something else of a model has to be cut.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kprune.coupling.groups import Coupling
from kprune.layers import values
from kprune.rebuild import Changes, rebuild_with_variables


def remove(
    coupling: Coupling, cut: "Cut"
) -> tuple[keras.Model, dict[int, keras.Variable]]:
    """Returns a model without the removed units and blocks.

    Args:
        coupling: The analysed model, which is not changed.
        cut: What goes.

    Returns:
        The new model, not compiled, and its variables by the id of the old ones.
    """
    return rebuild_with_variables(coupling.model, cut)


class Cut(Changes):
    """Gives configurations, arguments and values the sizes that are left.

    Args:
        coupling: The analysed model.
        removed: Boolean per unit.
        bypass: By the id of an operation the position of the input that stands for it.
    """

    def __init__(
        self,
        coupling: Coupling,
        removed: np.ndarray,
        bypass: Mapping[int, int] | None = None,
    ) -> None:
        self.bypass = dict(bypass or {})
        self.builder = coupling.builder
        self.alive = coupling.alive(removed)

    def config(self, operation: Any, config: dict[str, Any]) -> dict[str, Any]:
        """Returns the configuration with all entries that depend on sizes."""
        for resize in self.builder.resizes.get(id(operation), ()):
            inner = config
            for key in resize.path[:-1]:
                inner = inner[key]
            inner[resize.path[-1]] = resize.value(self.alive)
        return config

    def arguments(
        self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the arguments with all that depend on sizes."""
        for place, value in self.builder.arguments.get(id(operation), ()):
            if isinstance(place, int) and place < len(args):
                args = (*args[:place], value(self.alive), *args[place + 1 :])
            else:
                kwargs = {**kwargs, place: value(self.alive)}
        return args, kwargs

    def shape(self, tensor: Any) -> tuple[int | None, ...]:
        """Returns what is left of the shape of a nested model's input."""
        layout = self.builder.layouts.get(id(tensor))
        return tuple(tensor.shape) if layout is None else layout.new_shape(self.alive)

    def value(self, variable: keras.Variable) -> Any:
        """Returns the slice of a weight that is left."""
        array = self.cut(variable, values(variable))
        rescale = self.builder.rescales.get(id(variable))
        if rescale is not None:
            alive = self.alive[rescale.labels]
            share = np.count_nonzero(alive) / alive.size
            array = array * np.asarray(share**rescale.power, array.dtype)
        return array

    def cut(
        self, variable: keras.Variable, array: np.ndarray, of_columns: bool = False
    ) -> np.ndarray:
        """Returns an array of a weight's shape without the removed indices.

        Args:
            variable: The weight.
            array: Of its shape; or of its shape without one of the last two axes, as
                the factors are that Adafactor keeps.
            of_columns: Which one that is: the last but one.
        """
        shape = tuple(variable.shape)
        axes = list(range(len(shape)))
        if array.shape != shape:
            axes = axes[:-2] + axes[-1:] if of_columns else axes[:-1]
            if array.shape != tuple(shape[axis] for axis in axes):
                return array
        for axis, slot in self.builder.slots.get(id(variable), {}).items():
            if axis in axes:
                keep = self.alive[slot.labels]
                if not keep.all():
                    array = np.compress(keep, array, axis=axes.index(axis))
        return array


def compile_like(
    old: keras.Model,
    new: keras.Model,
    copies: dict[int, keras.Variable],
    cut: Cut,
) -> str:
    """Compiles a model as another one is, and hands over the optimizer's state.

    Args:
        old: The model that may be compiled.
        new: Its smaller copy.
        copies: Variables of the copy by the id of the old ones.
        cut: How they were sliced.

    Returns:
        What was done, as a sentence for the report.
    """
    if not old.compiled or old.optimizer is None:
        return "The model was not compiled, and is not."
    try:
        with warnings.catch_warnings(record=True):
            new.compile_from_config(old.get_compile_config())
    except Exception as error:  # Whatever the user's objects raise.
        return f"Not compiled, since its compile state cannot be copied: {error}"
    if not new.compiled or new.optimizer is None:
        return "Not compiled: it has a compile() method of its own; call it."
    return _copy_state(old.optimizer, new.optimizer, copies, cut)


def _copy_state(old: Any, new: Any, copies: dict[int, Any], cut: Cut) -> str:
    if hasattr(old, "inner_optimizer"):  # LossScaleOptimizer
        for source, target in zip(old._variables, new._variables, strict=True):
            target.assign(source)
        return _copy_state(old.inner_optimizer, new.inner_optimizer, copies, cut)
    if not old.built:
        return "Compiled; the optimizer has no state yet."
    trained = list(old._trainable_variables)
    # Without the weights of removed blocks, which may change the order of the others.
    left = [i for i, variable in enumerate(trained) if id(variable) in copies]
    places = {id(variable): i for i, variable in enumerate(new._trainable_variables)}
    wanted = [places.pop(id(copies[id(trained[i])]), -1) for i in left]
    if places or -1 in wanted:
        return (
            "Compiled with a fresh optimizer: what is trainable has changed since the "
            "old one was built."
        )
    done = {id(new._iterations)}
    new._iterations.assign(old._iterations)  # Batches, where gradients accumulate.
    # Keras keeps a slot per trainable variable in lists of their order.
    for name, slots in vars(old).items():
        others = vars(new).get(name)
        if isinstance(slots, keras.Variable) and isinstance(others, keras.Variable):
            if slots.shape == others.shape:
                others.assign(slots)
                done.add(id(others))
        if name == "_trainable_variables" or not _are_slots(slots, len(trained)):
            continue
        for i, place in zip(left, wanted, strict=True):
            if slots[i] is not None:
                target = others[place]
                state = cut.cut(trained[i], values(slots[i]), of_columns=name == "_c")
                if state.shape == tuple(target.shape):
                    target.assign(state)
                    done.add(id(target))
    if wanted == list(range(len(trained))):  # Then these have the same order.
        for source, target in zip(old.variables, new.variables, strict=True):
            if id(target) not in done and source.shape == target.shape:
                target.assign(source)
                done.add(id(target))
    lost = [v.path for v in new.variables if id(v) not in done]
    if lost:
        return (
            f"Compiled; {len(lost)} of {len(new.variables)} optimizer variables begin "
            f"anew, such as {lost[0]!r}."
        )
    return (
        f"Compiled; the optimizer goes on at step {int(new.iterations)} with its "
        "state, sliced along."
    )


def _are_slots(value: Any, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(item is None or isinstance(item, keras.Variable) for item in value)
        and any(item is not None for item in value)
    )
