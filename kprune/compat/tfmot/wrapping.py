"""tfmot's wrapper, and models and layers in it.

This module changes when tfmot wraps other things, or takes other arguments.
"""

import abc
import contextlib
import dataclasses
import math
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.allocation import Uniform
from kprune.compat.tfmot.policies import PruningPolicy
from kprune.compat.tfmot.schedules import ConstantSparsity, to_kprune
from kprune.foreign import received
from kprune.granularity import Block, Element, Granularity, NofM
from kprune.layers import Pruned, mask_of, pruned_layers
from kprune.notices import Notices
from kprune.plan import Rule, why_uncut
from kprune.prunable import UNKNOWN, Candidate, candidates
from kprune.rebuild import Changes, graph_of, has_graph, rebuild
from kprune.schedules import ConstantSparsity as OneShot
from kprune.schedules import Schedule
from kprune.transform import check_has_graph, copy_layer, not_keras, strip

_POOLINGS = {"AVG": "mean", "MAX": "max"}
_DEFAULT_SCHEDULE = ConstantSparsity(0.5, 0)


class PrunableLayer(abc.ABC):
    """A layer that says itself which of its weights are pruned."""

    @abc.abstractmethod
    def get_prunable_weights(self) -> list[keras.Variable]:
        """Returns these weights. It is called once the layer is built."""


@keras.saving.register_keras_serializable("kprune.compat")
class PruneLowMagnitude(Pruned):
    """Wraps a layer, of whose weights all may stay dense.

    `prune_low_magnitude` makes it. Unlike its base class it refuses to be trained
    without the callback that makes masks, as tfmot's wrapper does, and takes layers
    with nothing to prune.
    """

    def on_undriven(self) -> None:
        """Refuses to be trained.

        Raises:
            RuntimeError: Each time.
        """
        raise RuntimeError(
            f"The wrapped layer {self.name!r} is trained, and nothing prunes it. "
            "Add kprune.compat.tfmot.UpdatePruningStep() to the callbacks of fit; "
            "in a loop of your own call its set_model(model), on_train_begin(), "
            "on_train_batch_begin(batch) and on_epoch_end(epoch)."
        )

    def pruned_variables(self) -> dict[str, keras.Variable]:
        """Returns the weights that are pruned, by their name in the inner layer."""
        found, left = _divided(self.layer, self.rule)
        if not found:
            _warn_of(left)
            return {}
        return super().pruned_variables()


def prune_low_magnitude(
    to_prune: Any,
    pruning_schedule: Any = _DEFAULT_SCHEDULE,
    block_size: Sequence[int] = (1, 1),
    block_pooling_type: str = "AVG",
    pruning_policy: PruningPolicy | None = None,
    sparsity_m_by_n: Sequence[int] | None = None,
    **kwargs: Any,
) -> Any:
    """Wraps a model, a layer or a list of layers, so that training prunes it.

    Each weight by itself loses those of its elements, blocks or groups that have the
    lowest magnitude. Train with `UpdatePruningStep()`, then call `strip_pruning`.

    Args:
        to_prune: A Sequential or Functional model, nested ones included; a layer; or a
            list of layers. A model and a layer that is built are copied, with their
            weights; a layer that is not built becomes part of the wrapper.
        pruning_schedule: A `PruningSchedule`, or a schedule of kprune's.
        block_size: Inputs and outputs, at least 1, of the blocks that are pruned as a
            whole. In convolutions a block lies at one place of the window.
        block_pooling_type: `"AVG"` or `"MAX"`: what makes one magnitude of a block's.
        pruning_policy: Says which layers are pruned.
        sparsity_m_by_n: (m, n): m zeros, at least 1 and fewer than n, in each n weights
            along the inputs. n is at most 64. A schedule that ends at another sparsity
            than m / n says only when.
        **kwargs: Arguments of the wrapper, for a single layer.

    Returns:
        What was given, with its layers in wrappers that bear their names. A model is
        not compiled.

    Raises:
        ValueError: If `to_prune` is none of these, is subclassed, or cannot be cut as
            the arguments say; or if an argument is out of its range.
        TypeError: If an argument is of the wrong type.
    """
    _warn_of_tfmot()
    way = _Way.of(
        pruning_schedule,
        block_size,
        block_pooling_type,
        pruning_policy,
        sparsity_m_by_n,
    )
    if kwargs and (isinstance(to_prune, list) or isinstance(to_prune, keras.Model)):
        raise TypeError(
            f"prune_low_magnitude: unknown argument {next(iter(kwargs))!r}. Further "
            "arguments are those of the wrapper of a single layer."
        )
    if isinstance(to_prune, list):
        return [_in_list(layer, way) for layer in to_prune]
    if isinstance(to_prune, keras.Model):
        if pruning_policy is not None:
            pruning_policy.ensure_model_supports_pruning(to_prune)
        return _model(to_prune, way)
    if isinstance(to_prune, Pruned):
        raise ValueError(
            f"prune_low_magnitude: layer {to_prune.name!r} is wrapped already."
        )
    if isinstance(to_prune, keras.layers.Layer):
        return _layer(to_prune, way, **kwargs)
    raise ValueError(
        not_keras("prune_low_magnitude", to_prune) + " A list of layers will do, too."
    )


def strip_pruning(model: keras.Model) -> keras.Model:
    """Returns an ordinary model with the weights, zeros included, and no wrappers.

    Args:
        model: A Sequential or Functional model, nested ones included.

    Returns:
        A new model. It is compiled as the given one is.

    Raises:
        ValueError: If it is no model, or a subclassed one.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"strip_pruning: expected a Keras 3 model. {received(model)} A layer is "
            "stripped with the model that it is in."
        )
    check_has_graph("strip_pruning", model)
    return strip(model)


def prune_scope() -> contextlib.AbstractContextManager[Any]:
    """Returns a scope for loading pruned models, which kprune's do not need."""
    return keras.saving.custom_object_scope({"PruneLowMagnitude": PruneLowMagnitude})


@dataclasses.dataclass(frozen=True)
class _Way:
    """How layers are pruned.

    Args:
        schedule: When, and how far.
        granularity: The units of kernels.
        of_embeddings: Those of embeddings, whose axes lie the other way round.
        policy: Which layers are.
    """

    schedule: Schedule
    granularity: Granularity
    of_embeddings: Granularity
    policy: PruningPolicy | None

    @classmethod
    def of(
        cls, schedule: Any, block: Any, pooling: Any, policy: Any, m_by_n: Any
    ) -> "_Way":
        """Returns what the arguments of `prune_low_magnitude` say."""
        ours = to_kprune(schedule)
        block, m_by_n = _plain(block), _plain(m_by_n)
        inputs, outputs = _block(block)
        if not isinstance(pooling, str) or pooling not in _POOLINGS:
            raise ValueError(
                "prune_low_magnitude: `block_pooling_type` must be 'AVG' or 'MAX'. "
                f"Received {pooling!r}."
            )
        if policy is not None and not isinstance(policy, PruningPolicy):
            raise TypeError(
                "prune_low_magnitude: `pruning_policy` must be a PruningPolicy, such "
                "as kprune.compat.tfmot.PruneForLatencyOnXNNPack(). "
                f"{received(policy)}"
            )
        if not m_by_n:
            if inputs == outputs == 1:
                return cls(ours, Element(), Element(), policy)
            of_kernels, of_embeddings = (
                Block(shape, _POOLINGS[pooling])
                for shape in ((outputs, inputs), (inputs, outputs))
            )
            return cls(ours, of_kernels, of_embeddings, policy)
        if (inputs, outputs) != (1, 1):
            raise ValueError(
                "prune_low_magnitude: give either `block_size` or `sparsity_m_by_n`. "
                f"Received block_size={block!r}, sparsity_m_by_n={m_by_n!r}."
            )
        groups = _groups(m_by_n)
        fixed, final = groups.fixed_sparsity, ours.final_sparsity
        if final is None or not math.isclose(final, fixed, abs_tol=1e-6):
            if schedule is not _DEFAULT_SCHEDULE:
                Notices().warn(
                    f"`sparsity_m_by_n`={m_by_n} makes {fixed:.4g} of the "
                    f"weights zero, and {schedule!r} ends at another sparsity: all "
                    f"masks are made at once, at step {ours.begin_step}. Give a "
                    f"schedule that ends at {fixed:.4g}."
                )
            ours = OneShot(fixed, ours.begin_step)
        return cls(ours, groups, groups, policy)

    def rule(self, layer: keras.layers.Layer) -> Rule:
        """Returns the rule for a layer's weights."""
        granularity = self.granularity
        if isinstance(layer, keras.layers.Embedding):
            granularity = self.of_embeddings
        return Rule(
            self.schedule,
            granularity=granularity,
            allocation=Uniform(),
            # Weights of frozen layers are pruned, too.
            prune_frozen=True,
        )

    def allows(self, layer: keras.layers.Layer) -> bool:
        """Returns whether a layer is to be pruned."""
        return self.policy is None or self.policy.allow_pruning(layer)


class _Wrapping(Changes):
    """Wraps the layers of a model that have something to prune."""

    def __init__(self, model: keras.Model, way: _Way) -> None:
        self.way = way
        self.before = {id(each.layer): each for each in pruned_layers(model)}
        # Old and new wrappers.
        self.kept: list[tuple[Pruned, Pruned]] = []
        self.num_wrapped = 0
        self.left: list[str] = []

    def replacement(self, operation: Any, copy: Any) -> Any:
        old = self.before.get(id(operation))
        if old is not None:
            new = type(old)(copy, old.rule, old.pruned_weights, name=old.name)
            self.kept.append((old, new))
            return new
        is_layer = isinstance(operation, keras.layers.Layer)
        if not is_layer or has_graph(operation) or not self.way.allows(operation):
            return copy
        rule = self.way.rule(operation)
        found, left = _divided(operation, rule)
        self.left += left
        if not found:
            return copy
        self.num_wrapped += 1
        return PruneLowMagnitude(copy, rule)


def _model(model: keras.Model, way: _Way) -> keras.Model:
    check_has_graph("prune_low_magnitude", model)
    if graph_of(model) is None:  # Sequential, and not built.
        layers = [_in_list(layer, way) for layer in model.layers]
        return keras.Sequential(layers, name=model.name)
    wrapping = _Wrapping(model, way)
    wrapped = rebuild(model, wrapping)
    for old, new in wrapping.kept:
        masks = _masks(old)
        for name, mask in _masks(new).items():
            mask.assign(masks[name])
    _warn_of(wrapping.left)
    if not (wrapping.num_wrapped or wrapping.kept):
        Notices().warn(
            f"prune_low_magnitude: nothing of {model.name!r} is pruned: it has no layer"
            " with kernels that the policy allows."
        )
    return wrapped


def _masks(wrapper: Pruned) -> dict[str, keras.Variable]:
    constraints = {n: mask_of(v) for n, v in wrapper.pruned_variables().items()}
    return {name: each.mask for name, each in constraints.items() if each is not None}


def _in_list(layer: Any, way: _Way) -> Any:
    if isinstance(layer, keras.Model):
        return _model(layer, way)
    if not isinstance(layer, keras.layers.Layer):
        raise ValueError(not_keras("prune_low_magnitude", layer))
    if isinstance(layer, Pruned | keras.layers.InputLayer):
        return layer
    return _layer(layer, way)


def _layer(layer: keras.layers.Layer, way: _Way, **kwargs: Any) -> Any:
    if not way.allows(layer):
        return layer
    if not layer.built:
        wrapper = PruneLowMagnitude(layer, way.rule(layer), **kwargs)
        if "input_shape" not in kwargs and hasattr(layer, "_input_shape_arg"):
            # Sequential asks its first layer for it.
            wrapper._input_shape_arg = layer._input_shape_arg
        return wrapper
    wrapper = PruneLowMagnitude(copy_layer(layer), way.rule(layer), **kwargs)
    wrapper.build()
    return wrapper


def _divided(
    layer: keras.layers.Layer, rule: Rule
) -> tuple[list[Candidate], list[str]]:
    """Returns the weights of a built layer that a rule prunes, and what one may miss.

    Raises:
        ValueError: If a weight cannot be cut as the rule says.
    """
    found, left = [], []
    for candidate in candidates(layer):
        reason = candidate.why_dense(rule.prune_depthwise, rule.prune_frozen)
        expected = reason is None or reason.startswith(UNKNOWN)
        reason = reason or why_uncut(rule.granularity, candidate)
        if reason is None:
            found.append(candidate)
        elif expected:
            left.append(f"{candidate.variable.path}: {reason}")
    return found, left


def _warn_of(left: list[str]) -> None:
    if left:
        lines = "".join(f"\n- {line}" for line in left)
        Notices().warn(f"Weights that prune_low_magnitude leaves dense:{lines}")


def _warn_of_tfmot() -> None:
    """Warns where models go between kprune and tfmot, whose own words name neither."""
    if "tensorflow_model_optimization" in sys.modules:
        Notices().warn(
            "tensorflow_model_optimization is imported beside kprune.compat.tfmot. It "
            "refuses models and layers of Keras 3, kprune's among them, with '"
            "`prune_low_magnitude` can only prune an object of the following types': "
            "of Keras 2, these are. And it turns `tf.keras` into Keras 2, which kprune "
            "refuses. Take its import out; kprune.compat.tfmot has the same names."
        )


def _plain(value: Any) -> Any:
    """Returns sequences, NumPy's too, as tuples of Python's numbers."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return value
    return tuple(n.item() if isinstance(n, np.integer) else n for n in value)


def _block(value: Any) -> tuple[int, int]:
    if not _are_sizes(value):
        raise ValueError(
            "prune_low_magnitude: `block_size` must be two integers of at least 1, "
            f"inputs and outputs, such as (1, 4). Received {value!r}."
        )
    return value


def _groups(value: Any) -> NofM:
    if not _are_sizes(value):
        raise ValueError(
            "prune_low_magnitude: `sparsity_m_by_n` must be two integers, the zeros "
            f"and the length of a group, such as (2, 4). Received {value!r}."
        )
    m, n = value
    if not m < n <= 64:
        raise ValueError(
            "prune_low_magnitude: `sparsity_m_by_n` leaves at least one weight of a "
            "group of at most 64: m must be less than n. "
            f"Received {value!r}."
        )
    return NofM(n - m, n, remainder="pad")


def _are_sizes(value: Any) -> bool:
    """Returns whether a value is a pair of integers of at least 1."""
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and all(type(size) is int and size >= 1 for size in value)
    )
