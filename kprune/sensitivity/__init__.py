"""`kprune.sensitivity`: what pruning costs, weight by weight.

This module changes when weights are to be tried in another way; what is told of them is
in `kprune.sensitivity.report`.
"""

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from kprune import evidence
from kprune.channels import ChannelGroup
from kprune.config import check_fraction, get
from kprune.foreign import received
from kprune.granularity import Granularity
from kprune.groups import Group, find_groups
from kprune.guards import mode_of
from kprune.held import HeldWeight
from kprune.layers import (
    MaskConstraint,
    mask_of,
    new_mask,
    pruned_layers,
    scope_of,
    values,
)
from kprune.naming import nearest
from kprune.notices import Notices
from kprune.plan import Plan, Rule, check_final
from kprune.schedules import ConstantSparsity
from kprune.sensitivity.report import (
    PrunedAlone,
    PruningSensitivityReport,
    WeightSensitivity,
)
from kprune.steps import check_backend

__all__ = [
    "PrunedAlone",
    "PruningSensitivityReport",
    "WeightSensitivity",
    "sensitivity",
]

_OWNER = "sensitivity"
_SPARSITIES = (0.25, 0.5, 0.7, 0.8, 0.9, 0.95)


def sensitivity(
    model: keras.Model,
    data: Any,
    sparsities: Sequence[float] | None = None,
    *,
    metric: str | None = None,
    mode: str = "auto",
    criterion: Any = "magnitude",
    granularity: Any = "element",
    only: Any = None,
    skip: Any = None,
    prune_depthwise: bool = False,
    prune_frozen: bool = False,
    batch_size: int | None = None,
    num_batches: int = 8,
    verbose: Any = "auto",
) -> PruningSensitivityReport:
    """Measures what a model loses where one weight alone is pruned, without training.

    Each weight that may be pruned, or with `granularity="channel"` each group of
    coupled channels, is pruned to each sparsity while all others are as they were, and
    the model is evaluated. Layers that share a weight share a trial.

        >>> report = kprune.sensitivity(model, (x_val, y_val))  # doctest: +SKIP
        >>> callback = kprune.PruningCallback(
        ...     0.8, allocation=report.allocation(lost=0.01)
        ... )  # doctest: +SKIP

    Source: Li et al., "Pruning filters for efficient ConvNets", 2017,
    https://arxiv.org/abs/1608.08710, section 3.2, for filters by magnitude; here for
    all granularities and criteria.

    Args:
        model: A built, compiled model of any kind. It is left as it was, also if an
            error or Ctrl-C ends the trials: weights, masks, statistics, metrics and
            optimizer. What masks prune already stays pruned in all trials.
        data: What to evaluate on, which training has not seen: `(x, y)` of arrays, or
            with sample weights `(x, y, weights)`; or a `tf.data.Dataset` or `PyDataset`
            of batches. It is read once per trial.
        sparsities: Shares of a weight's units, in [0, 1). By default 0.25, 0.5,
            0.7, 0.8, 0.9 and 0.95; with `NofM` its own.
        metric: Name of a compiled metric, or of a loss, as `evaluate(return_dict=True)`
            has it. By default the first metric, or the loss where there is none.
        mode: `"max"` if higher is better, `"min"` if lower is, `"auto"` to tell by the
            metric's name.
        criterion: As for `Rule`. One that looks at data sees the first of `data`.
        granularity: As for `Rule`.
        only: What to try, as for `Rule`.
        skip: What not to try, as for `Rule`.
        prune_depthwise: Whether depthwise kernels are tried too.
        prune_frozen: Whether kernels of frozen layers are.
        batch_size: Of arrays, as for `evaluate`.
        num_batches: How many batches of data criteria look at, at least 1.
        verbose: 0 shows nothing, 1 or `"auto"` a bar of the trials.

    Returns:
        What was measured, the most sensitive weight first.

    Raises:
        ValueError: If the model is not compiled or has `Pruned` wrappers, nothing may
            be pruned, data is empty or without an end, the metric is unknown or not
            finite, or a value is out of its range.
        TypeError: If something is of the wrong type.
    """
    check_backend(_OWNER)
    _check_model(model)
    granularity = get(Granularity, granularity)
    sparsities = _checked(sparsities, granularity)
    batches = evidence.read(data, num_batches, _OWNER)
    _check_ends(data)
    rule = Rule(
        ConstantSparsity(sparsities[-1]),
        criterion=criterion,
        granularity=granularity,
        allocation="uniform",  # type: ignore[arg-type]  # A name, as users give it.
        only=only,
        skip=skip,
        prune_depthwise=prune_depthwise,
        prune_frozen=prune_frozen,
    )
    notices = Notices()
    groups, skipped = find_groups(model, Plan((rule,)), notices)
    parts = []
    for group in groups:
        group.notices = notices
        group.look(evidence.Evidence(model, batches))
        parts += _parts(group)
    trials = _Trials(model, data, batch_size)
    with trials.restored():
        found = trials.evaluate()
        metric = _metric(metric, found)
        mode = mode_of(_OWNER, metric) if mode == "auto" else _checked_mode(mode)
        baseline = found[metric]
        if not math.isfinite(baseline):
            raise ValueError(
                f"{_OWNER}: {metric!r} of the model as it is is {baseline}, so that "
                "there is nothing to compare with. Check its weights and the data."
            )
        bar = keras.utils.Progbar(
            len(parts) * len(sparsities),
            verbose=1 if verbose == "auto" else verbose,
            unit_name="trial",
        )
        weights = []
        for name, part in zip(_names(parts), parts, strict=True):
            points = []
            for sparsity in sparsities:
                reached, value = trials.pruned(part, sparsity, metric)
                lost = baseline - value if mode == "max" else value - baseline
                lost = math.inf if math.isnan(lost) else lost
                points.append(PrunedAlone(sparsity, reached, value, lost))
                bar.add(1)
            weights.append(WeightSensitivity(name, part.size, tuple(points)))
    return PruningSensitivityReport(
        model=model.name,
        metric=metric,
        mode=mode,
        baseline=baseline,
        criterion=str(rule.criterion),
        granularity=str(rule.granularity),
        weights=tuple(sorted(weights, key=lambda weight: -weight.mean_lost)),
        skipped=tuple(skipped),
    )


class _Trials:
    """A model that is pruned in part, evaluated and restored, again and again."""

    def __init__(self, model: keras.Model, data: Any, batch_size: int | None) -> None:
        self._model = model
        self._given: dict[str, Any] = {"x": data}
        if isinstance(data, tuple):
            x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
            self._given = {"x": x, "y": y, "sample_weight": weight}
            self._given["batch_size"] = batch_size
        every = {id(v): v for v in (*model.variables, *model.metrics_variables)}
        self._before = [(v, np.array(values(v))) for v in every.values()]

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Sets all variables of the model back in the end, whatever happens."""
        try:
            yield
        finally:
            self._model.reset_metrics()  # Those that the first evaluation made.
            for variable, value in self._before:
                variable.assign(value)

    def evaluate(self) -> dict[str, float]:
        """Returns the compiled loss and metrics of the model as it is now."""
        found = self._model.evaluate(**self._given, verbose=0, return_dict=True)
        return {name: float(value) for name, value in found.items()}

    def pruned(
        self, part: Group | ChannelGroup, sparsity: float, metric: str
    ) -> tuple[float, float]:
        """Returns the share of units that was pruned, and the metric meanwhile."""
        if isinstance(part, ChannelGroup):
            part = dataclasses.replace(part, removed=part.removed.copy())
        with self.restored(), _masks(self._model, part.weights):
            part.update(sparsity)
            return part.num_pruned / part.size, self.evaluate()[metric]


@contextlib.contextmanager
def _masks(model: keras.Model, weights: Sequence[HeldWeight]) -> Iterator[None]:
    """Puts masks on weights, which begin as those that are there, and takes them off.

    The masks that are there, and whatever they are around, are not touched.
    """
    before = [(weight.variable, weight.variable.constraint) for weight in weights]
    try:
        with scope_of(model):
            for weight in weights:
                mask, held = new_mask(weight.variable), mask_of(weight.variable)
                if held is not None:
                    mask.assign(values(held.mask))
                weight.variable.constraint = MaskConstraint(mask)
                weight.attach(None)
        yield
    finally:
        for variable, constraint in before:
            variable.constraint = constraint


def _parts(group: Group | ChannelGroup) -> list[Any]:
    """Returns what is pruned alone: each weight, or each group of coupled channels."""
    if isinstance(group, Group):
        return [dataclasses.replace(group, weights=[w]) for w in group.weights]
    parts = []
    for coupled in group.coupled:
        mine = group.coupling.nothing()
        mine[coupled.units] = True
        touched = group.coupling.masks(mine)
        weights = [w for w in group.weights if id(w.variable) in touched]
        parts.append(
            dataclasses.replace(
                group, coupled=[coupled], weights=weights, removed=group.removed & mine
            )
        )
    return parts


def _names(parts: Sequence[Group | ChannelGroup]) -> list[str]:
    """Returns what each part is called: its layer where that has no other part.

    A path would differ between a model and the same model from a file, where layers
    are built before the model is.
    """
    known = [
        (part.coupled[0].name,)
        if isinstance(part, ChannelGroup)
        else part.weights[0].facts.names
        for part in parts
    ]
    counts = Counter(name for names in known for name in set(names))
    # The path is first; last come the innermost layer's name and path.
    return [
        names[-2] if len(names) > 2 and counts[names[-2]] == 1 else names[0]
        for names in known
    ]


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(f"{_OWNER}: `model` must be a Keras 3 model. {received(model)}")
    if not model.compiled:
        raise ValueError(
            f"{_OWNER}: {model.name!r} is not compiled, so that it has no metric to "
            "measure. Call compile(optimizer, loss, metrics=[...]) first."
        )
    wrapper = next(pruned_layers(model), None)
    if wrapper is not None:
        raise ValueError(
            f"{_OWNER}: {model.name!r} has Pruned wrappers (such as {wrapper.name!r}), "
            "which bring their own rules. Give kprune.strip(model)."
        )


def _checked(
    sparsities: Sequence[float] | None, granularity: Granularity
) -> tuple[float, ...]:
    """Returns the sparsities, each once and in order."""
    fixed = granularity.fixed_sparsity
    if sparsities is None:
        return _SPARSITIES if fixed is None else (fixed,)
    if isinstance(sparsities, int | float | str):
        raise TypeError(
            f"{_OWNER}: `sparsities` must be several numbers in [0, 1), such as "
            f"(0.5, 0.8). Received {sparsities!r}."
        )
    if not len(sparsities):
        raise ValueError(
            f"{_OWNER}: `sparsities` is empty. Leave it out, or give some, such as "
            "(0.5, 0.8)."
        )
    found = []
    for sparsity in sparsities:
        if isinstance(sparsity, np.floating):
            sparsity = float(sparsity)
        check_fraction("sparsities", sparsity, _OWNER)
        check_final(granularity, ConstantSparsity(sparsity))
        found.append(float(sparsity))
    return tuple(sorted(set(found)))


def _checked_mode(mode: Any) -> str:
    if mode not in ("max", "min"):
        raise ValueError(
            f"{_OWNER}: `mode` must be 'max', 'min' or 'auto'. Received {mode!r}."
        )
    return str(mode)


def _check_ends(data: Any) -> None:
    cardinality = getattr(data, "cardinality", None)
    if cardinality is not None and int(cardinality()) == -1:  # tf.data's INFINITE.
        raise ValueError(
            f"{_OWNER}: `data` has no end: it is repeated. Leave repeat() out, or give "
            "data.take(batches)."
        )


def _metric(name: str | None, found: dict[str, float]) -> str:
    """Returns the name of the metric to measure."""
    if name is None:
        return next((key for key in found if not key.endswith("loss")), "loss")
    if name not in found:
        near = nearest(name, found)
        hint = f" Did you mean {near!r}?" if near else ""
        raise ValueError(
            f"{_OWNER}: the model has no metric {name!r}.{hint} It is compiled with "
            f"{', '.join(found)}."
        )
    return name
