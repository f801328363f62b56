"""Models that were pruned with tfmot, from their files to Keras 3.

Keras 2 (tf_keras) and tfmot need not be installed. This module changes when what tfmot
says of pruning is to be said in kprune's words in another way.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kprune.allocation import Uniform
from kprune.compat.legacy_files import PruningState, open_file, trained_variables
from kprune.compat.legacy_models import Part, build
from kprune.compat.legacy_training import compile_as, restore_optimizer
from kprune.compat.tfmot_proof import prove as prove_equal
from kprune.granularity import Block, Element, Granularity, NofM
from kprune.layers import mask_of, pruned_layers
from kprune.notices import Notices
from kprune.plan import Plan, Rule
from kprune.schedules import ConstantSparsity, PolynomialDecay, Schedule
from kprune.transform import prune

# What tfmot writes as the threshold of weights that are pruned m:n.
_M_BY_N = 999.0


def load(
    path: str | os.PathLike[str],
    custom_objects: Mapping[str, Any] | None = None,
    prove: bool | None = None,
) -> keras.Model:
    """Returns the Keras 3 model that is in a file of Keras 2, ready to be pruned on.

    What tfmot's wrappers hold becomes `Pruned` wrappers with the same masks and the
    same schedule, and a compiled model is compiled with the same optimizer at the same
    step: `model.fit(..., callbacks=[kprune.PruningCallback()])` goes on where training
    was left. A stripped model comes back as a plain one; `kprune.hold_zeros` keeps its
    zeros. What Keras 3 refuses in old files (`groups` of depthwise convolutions, models
    in models, TensorFlow functions in graphs) is mended on the way.

    Weights are masked as they are read, which tfmot does in its next forward pass: the
    outputs are those of the file. They are compared on random inputs with what tf_keras
    computes from it, in a process of its own, if tf_keras (and tfmot, where there are
    wrappers) are installed, as by `pip install kprune[tfmot]`; a SavedModel is
    otherwise compared with the computation that it holds itself.

    Deviations from tfmot: masks are made after the step that they are due at, and what
    is pruned stays pruned, so that `ConstantSparsity` prunes once and not again and
    again; the last update falls on the schedule's end, whatever its frequency.
    Schedules count the optimizer's steps: that of a layer that is called several times
    in one step, which tfmot counts as often, is shortened. m:n, which tfmot leaves out
    of the configuration, is read from the masks; before the first step of training it
    is lost. Where pruning began later than the optimizer, the schedule is moved to the
    optimizer's steps; where the optimizer began later, it is set to pruning's.

    Args:
        path: A `.h5` or `.keras` file, or a SavedModel folder, of a Sequential or
            Functional model. Files can hold code (SavedModel, Lambda layers): load
            those that you trust.
        custom_objects: Keras 3 classes and functions by the names that the file has
            for them; also a `Schedule` of kprune for one of your own.
        prove: Whether outputs must be compared: `True` raises where they cannot be,
            `False` does not compare them, and `None` compares if it can and warns if
            it cannot.

    Raises:
        ValueError: If the file is missing, damaged, of Keras 3 or of no whole model; if
            it has a layer, function or schedule that has no counterpart in Keras 3; if
            outputs differ, or with `prove=True` cannot be compared.
        TypeError: If `path` is no path.

    Warns:
        PruningWarning: If optimizer, loss or metrics cannot be carried over, or outputs
            were not compared.
    """
    file = open_file(path)
    notices = Notices()
    try:
        root = build(file.config, custom_objects or {})
        states = file.restore(root)
        sites = [
            _Site(leaf, states[leaf.layer.path])
            for leaf in root.leaves()
            if leaf.wrapper is not None
        ]
        optimizer_weights = file.optimizer_weights() if file.training else []
        steps = int(optimizer_weights[0]) if optimizer_weights else None
        now = max([steps or 0, *(site.step for site in sites if site.state.masks)])
        model = _pruned(root.layer, sites, now, custom_objects or {})
    except ValueError as error:
        raise ValueError(f"{str(path)!r} cannot be migrated: {error}") from error
    training = file.training
    with keras.saving.custom_object_scope(custom_objects or {}):
        compiled = training is not None and compile_as(model, training, notices)
    if training is not None and compiled:
        with_masks = _counterparts(root.layer, model)
        trained = [with_masks[id(variable)] for variable in trained_variables(root)]
        restore_optimizer(model, training, trained, optimizer_weights, notices)
    if now != (steps or 0) or (now and not compiled):
        _set_steps(model, now, notices)
    if prove is not False:
        prove_equal(file, model, bool(sites), bool(prove), notices)
    return model


@dataclasses.dataclass(frozen=True)
class _Site:
    """A wrapper of tfmot, and what it holds."""

    part: Part
    state: PruningState

    @property
    def layer(self) -> keras.layers.Layer:
        return self.part.layer

    @property
    def wrapper(self) -> Mapping[str, Any]:
        return self.part.wrapper or {}

    @property
    def step(self) -> int:
        """The optimizer's steps by the wrapper's count of its own calls."""
        return max(self.state.step, 0) // self.part.calls


def _pruned(
    plain: keras.Model, sites: Sequence[_Site], now: int, custom_objects: Any
) -> keras.Model:
    """Returns the model with kprune's wrappers in the place of tfmot's."""
    sites = [site for site in sites if site.state.masks]
    if not sites:
        return plain
    only: dict[Any, list[keras.layers.Layer]] = {}
    for site in sites:
        schedule, granularity = _asked(site, now - site.step, custom_objects)
        frozen = not site.layer.trainable
        only.setdefault((schedule, granularity, frozen), []).append(site.layer)
    rules = [
        Rule(
            schedule,
            granularity=granularity,
            allocation=Uniform(),
            only=tuple(layers),
            prune_frozen=frozen,
        )
        for (schedule, granularity, frozen), layers in only.items()
    ]
    model = prune(plain, plan=Plan(tuple(rules)))
    with_masks = _counterparts(plain, model)
    for site in sites:
        variables = [with_masks[id(variable)] for variable in site.layer.weights]
        _set_masks(site, [v for v in variables if mask_of(v) is not None])
    return model


def _set_masks(site: _Site, variables: Sequence[keras.Variable]) -> None:
    """Masks the weights of a layer as tfmot's wrapper has it."""
    masks = [mask != 0 for mask in site.state.masks]
    shapes = [tuple(variable.shape) for variable in variables]
    if shapes != [mask.shape for mask in masks]:
        raise ValueError(
            f"tfmot prunes weights of {site.layer.name!r} of the shapes "
            f"{[mask.shape for mask in masks]}, and kprune {shapes}. If it is a layer "
            "of your own, call kprune.register_prunable."
        )
    for variable, mask in zip(variables, masks, strict=True):
        constraint = mask_of(variable)
        if constraint is not None:
            constraint.mask.assign(mask)
            variable.assign(constraint.masked(variable))


def _asked(
    site: _Site, delay: int, custom_objects: Mapping[str, Any]
) -> tuple[Schedule, Granularity]:
    """Returns how a wrapper prunes, in kprune's words.

    Args:
        site: The wrapper.
        delay: How many steps the optimizer has made more than the wrapper.
        custom_objects: Schedules of the user's own.
    """
    masks, calls = site.state.masks, site.part.calls
    if _M_BY_N in site.state.thresholds:
        begin = min(1, site.step) + delay
        pattern = _pattern(site)
        if pattern is not None:
            return ConstantSparsity(pattern.fixed_sparsity, begin), pattern
        zeros = sum(np.count_nonzero(mask == 0) for mask in masks)
        share = float(zeros / sum(mask.size for mask in masks))
        return ConstantSparsity(share, begin), Element()

    def step(of_tfmot: int) -> int:
        return math.ceil(of_tfmot / calls) + delay

    described = site.wrapper["pruning_schedule"]
    name, c = described["class_name"], described["config"]
    every = max(1, c.get("frequency", 100) // calls)
    schedule: Schedule
    if name == "PolynomialDecay":
        schedule = PolynomialDecay(
            c["initial_sparsity"],
            c["final_sparsity"],
            step(c["begin_step"]),
            step(c["end_step"]),
            power=c["power"],
            frequency=every,
        )
    elif name == "ConstantSparsity":
        # tfmot counts from 1: of a begin at 0 the first update is one frequency later.
        first = c["begin_step"] or c["frequency"]
        schedule = ConstantSparsity(c["target_sparsity"], step(first))
    elif name in custom_objects:
        schedule = custom_objects[name].from_config(c)
    else:
        raise ValueError(
            f"layer {site.layer.name!r} has the schedule {name!r}, which is none of "
            f"tfmot's. Say load(path, custom_objects={{{name!r}: a subclass of "
            "kprune.Schedule with the same settings}})."
        )
    return schedule, _blocks(site)


def _blocks(site: _Site) -> Granularity:
    """Returns the blocks that a wrapper prunes."""
    rows, columns = site.wrapper["block_size"]
    if (rows, columns) == (1, 1):
        return Element()
    # Rows are inputs in all matrices of Keras but embeddings.
    shape = (columns, rows)
    if isinstance(site.layer, keras.layers.Embedding):
        shape = (rows, columns)
    pooling = {"AVG": "mean", "MAX": "max"}[site.wrapper["block_pooling_type"]]
    return Block(shape, pooling)


def _pattern(site: _Site) -> NofM | None:
    """Returns the m:n that masks show along the inputs; `None` if there is none."""
    if isinstance(
        site.layer, keras.layers.Conv2DTranspose | keras.layers.Embedding
    ):  # tfmot takes their other axis for the inputs.
        return None
    lines = [np.moveaxis(mask != 0, -2, -1) for mask in site.state.masks]
    for length in range(2, 65):
        kept = set()
        for line in lines:
            whole = line[..., : line.shape[-1] // length * length]
            groups = whole.reshape(-1, length)
            kept |= set(np.count_nonzero(groups, axis=1).tolist())
        if len(kept) == 1 and 0 < min(kept) < length:
            return NofM(kept.pop(), length, remainder="pad")
    return None


def _counterparts(plain: keras.Model, model: keras.Model) -> dict[int, keras.Variable]:
    """Returns the variables of a pruned copy by the id of the plain model's."""
    masks = {id(v) for each in pruned_layers(model) for v in each.weights}
    masks -= {id(v) for each in pruned_layers(model) for v in each.layer.weights}
    copies = [variable for variable in model.weights if id(variable) not in masks]
    return {id(old): new for old, new in zip(plain.weights, copies, strict=True)}


def _set_steps(model: keras.Model, now: int, notices: Notices) -> None:
    """Lets the optimizer count on from where tfmot's wrappers are."""
    if getattr(model, "optimizer", None) is not None:
        model.optimizer.iterations.assign(now)
        notices.warn(
            f"Pruning is at step {now}, and the file's optimizer has made fewer: it "
            f"was set to step {now}. A learning rate that depends on the step jumps."
        )
        return
    notices.warn(
        f"Pruning is at step {now}, and the model is not compiled. Before training "
        f"goes on: model.compile(...); model.optimizer.iterations.assign({now})."
    )
