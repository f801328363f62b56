"""Physically smaller models: a plan of what goes, the act, and its proof.

The order of work is here; each step has a module of its own. This module changes when a
step is added or users may ask for something new.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.config import check_fraction, get
from kprune.coupling.graph import analyse, check_graph
from kprune.coupling.groups import Coupling, Group
from kprune.coupling.scores import choose, facts_of, unit_scores
from kprune.coupling.sites import groups_under
from kprune.criteria import Criterion
from kprune.evidence import Evidence, inputs_of, read
from kprune.export.precision import low_precision_layers
from kprune.granularity import Channel
from kprune.plan import Rule
from kprune.report import Refusal
from kprune.schedules import ConstantSparsity
from kprune.structure import costs, depth, proof
from kprune.structure.budget import Budget, meet
from kprune.structure.plan import (
    GroupPlan,
    LayerWidth,
    ShrinkPlan,
    ShrinkReport,
    listed,
)
from kprune.structure.removal import Cut, compile_like, remove

__all__ = ["Budget", "ShrinkPlan", "ShrinkReport", "plan_shrink", "shrink"]

# Of data that a criterion looks at.
_BATCHES = 8
# Of float32, in networks of usual depth.
_ROUNDING = 1e-4
# What is not rounding any more. A wrong rule differs in the first digits.
_MOST = {"float64": 1e-6, "its own precision": 1e-2}


def shrink(
    model: keras.Model,
    sparsity: float | None = None,
    *,
    budget: Budget | None = None,
    blocks: int | Sequence[str] | None = None,
    plan: ShrinkPlan | None = None,
    data: Any = None,
    prove: bool = True,
    **rule: Any,
) -> keras.Model:
    """Returns a smaller model, without the channels that are zero or matter least.

    Without `sparsity`, `budget`, `blocks` or `plan`, what is zero already is removed,
    such as after a fit with `PruningCallback(sparsity=0.5, granularity="channel")`.

    Args:
        model: A built Sequential or Functional model, also one with nested or shared
            models, several inputs and outputs, or `Pruned` wrappers. It is not changed.
        sparsity: Share of the channels of each group of coupled channels to remove, in
            [0, 1), those of the lowest scores.
        budget: What the smaller model may cost, instead of `sparsity`.
        blocks: Residual blocks to remove as a whole: how many, those that change their
            input least; or the names of the `Add` layers that end them.
        plan: A plan that `plan_shrink` made for this model, instead of all others.
        data: Representative inputs, as `fit` takes them: for the proof, for choosing
            blocks, and for calibrating the files that a budget in bytes or time needs.
            Random inputs by default. For a criterion that needs data it is `(x, y)`, or
            batches of these, and its first eight batches are looked at.
        prove: Whether masked and smaller model are run and compared.
        **rule: Arguments of `Rule`: `criterion`, `granularity` (a `Channel`),
            `allocation` (`"uniform"` by default), `only`, `skip`, `skip_first`,
            `skip_last`.

    Returns:
        An ordinary Keras model with the layers' names, compiled as the given one is,
        its optimizer's state sliced along. Its attribute `shrink_report` is a
        `ShrinkReport`: what was removed, what had to stay and why, and how far outputs
        are from those of the model with the same channels set to zero.

    Raises:
        ValueError: If the model has no graph or is not built, nothing can be removed,
            a budget cannot be met, or arguments contradict each other.
        TypeError: If an argument is of the wrong type.
        RuntimeError: If the smaller model computes something else than the masked one:
            a coupling rule is wrong.
    """
    if plan is not None and (
        sparsity is not None or budget is not None or blocks is not None or rule
    ):
        raise ValueError(
            "shrink: `plan` says everything; give no other argument than `data` and "
            "`prove` beside it."
        )
    check_graph("shrink", model)
    data, evidence = _seen(model, data, rule, "shrink")
    if plan is None:
        coupling, removed, plan, bypass = _decide(
            model, sparsity, budget, blocks, data, evidence, rule, "shrink"
        )
    else:
        coupling, removed, bypass = _from_plan(model, plan)
    inputs = masked = None
    if prove:
        inputs, said = proof.probe(model, data)
        masks = {**coupling.masks(removed), **depth.zeroed(model, bypass)}
        masked = proof.masked_outputs(model, masks, inputs)
    cut = Cut(coupling, removed, bypass)
    small, copies = remove(coupling, cut)
    state = compile_like(model, small, copies, cut)
    equality = None
    if masked is not None:
        equality = proof.equality(masked, proof.outputs(small, inputs), said)
        if equality.relative > _ROUNDING or low_precision_layers(model):
            # Rounding grows in deep networks, and is coarse in half precision.
            finer = proof.in_float64(model, small, masks, inputs, said)
            equality = finer or equality
        _check(model, equality)
    small.shrink_report = ShrinkReport(plan, equality, state)
    return small


def plan_shrink(
    model: keras.Model,
    sparsity: float | None = None,
    *,
    budget: Budget | None = None,
    blocks: int | Sequence[str] | None = None,
    data: Any = None,
    **rule: Any,
) -> ShrinkPlan:
    """Returns what `shrink` would remove with these arguments, without doing it.

    Args:
        model: As for `shrink`, and so are all others.
        sparsity: Share of each coupled group's channels to remove.
        budget: What the smaller model may cost.
        blocks: Residual blocks to remove.
        data: Representative inputs.
        **rule: Arguments of `Rule`.

    Returns:
        The plan: print it, save it as JSON, draw it, and hand it to `shrink(plan=...)`.

    Raises:
        ValueError: As for `shrink`.
        TypeError: As for `shrink`.
    """
    check_graph("plan_shrink", model)
    data, evidence = _seen(model, data, rule, "plan_shrink")
    return _decide(
        model, sparsity, budget, blocks, data, evidence, rule, "plan_shrink"
    )[2]


def _seen(
    model: keras.Model, data: Any, rule: dict[str, Any], owner: str
) -> tuple[Any, Evidence]:
    """Returns inputs that can be read again, and what the criterion may look at."""
    criterion = get(Criterion, rule.get("criterion", "magnitude"))
    if data is None or not criterion.needs_data:
        return proof.kept(model, data), Evidence(model)
    batches = read(data, _BATCHES, owner)
    return inputs_of(batches), Evidence(model, batches)


def _decide(
    model: keras.Model,
    sparsity: float | None,
    budget: Budget | None,
    blocks: int | Sequence[str] | None,
    data: Any,
    evidence: Evidence,
    rule: dict[str, Any],
    owner: str,
) -> tuple[Coupling, np.ndarray, ShrinkPlan, dict[int, int]]:
    if sparsity is not None:
        check_fraction("sparsity", sparsity, owner)
        if budget is not None:
            raise ValueError(f"{owner}: give `sparsity` or `budget`, not both.")
    if budget is not None and not isinstance(budget, Budget):
        raise TypeError(
            f"{owner}: `budget` must be a kprune.Budget, such as Budget(macs=0.5). "
            f"Received {budget!r} of type {type(budget).__name__}."
        )
    settings = _rule(owner, rule, budget)
    bypass, names = depth.choose(model, blocks, data)
    coupling = analyse(model, bypass)
    groups, refusals = groups_under(coupling, settings)
    settings.allocation.check([facts_of(coupling, group) for group in groups])
    asked = [f"{len(names)} residual blocks removed"] if names else []
    notes: tuple[str, ...] = ()
    removed = coupling.nothing()
    if budget is None and sparsity is None and blocks is None:
        if rule.keys() - {"only", "skip", "skip_first", "skip_last"}:
            raise ValueError(
                f"{owner}: {sorted(rule)[0]!r} says how channels are chosen; say how "
                "many, too: sparsity=... or budget=..."
            )
        removed, more = _zero(coupling, groups)
        refusals += more
        asked.append("channels that are zero removed")
        if not removed.any():
            raise ValueError(_nothing(owner, model, refusals))
    elif sparsity is not None or budget is not None:
        if not groups:
            raise ValueError(_nothing(owner, model, refusals))
        scores = unit_scores(coupling, settings.criterion, groups, evidence)
        if np.isnan(scores).any():
            raise ValueError(
                f"{owner}: weights of {model.name!r} are NaN, or their gradients."
            )
        if budget is not None:
            cost = costs.of(budget, coupling, bypass, data)
            met = meet(budget, coupling, groups, scores, settings, cost)
            removed, notes = met.removed, met.notes
            asked.append(met.asked)
        elif sparsity is not None:
            granularity: Any = settings.granularity
            spread = settings.allocation
            removed = choose(coupling, groups, scores, sparsity, spread, granularity)
            asked.append(f"{sparsity} of each coupled group's channels removed")
    said = " and ".join(asked)
    plan = _plan(model, coupling, groups, refusals, removed, names, said, notes)
    return coupling, removed, plan, bypass


def _rule(owner: str, rule: dict[str, Any], budget: Budget | None) -> Rule:
    known = {"criterion", "granularity", "allocation", "only", "skip"}
    known |= {"skip_first", "skip_last"}
    unknown = sorted(set(rule) - known)
    if unknown:
        raise TypeError(
            f"{owner}: unknown argument {unknown[0]!r}. Known are sparsity, budget, "
            f"blocks, plan, data, prove, {', '.join(sorted(known))}."
        )
    multiple = 1 if budget is None else budget.multiple
    settings = Rule(
        ConstantSparsity(0.5), **{"granularity": Channel(multiple=multiple), **rule}
    )
    if not isinstance(settings.granularity, Channel):
        raise ValueError(
            f"{owner} removes channels: `granularity` must be a kprune.Channel. "
            f"Received {settings.granularity!r}."
        )
    return settings


def _zero(
    coupling: Coupling, groups: Sequence[Group]
) -> tuple[np.ndarray, list[Refusal]]:
    """Returns which units are zero, leaving groups alone that are so altogether."""
    zero = coupling.zero_units()
    removed = coupling.nothing()
    refusals = []
    for group in groups:
        dead = zero[group.units]
        if dead.all():
            refusals.append(
                Refusal(
                    group.name,
                    group.size,
                    "all of its channels are zero, as if it was only initialised: a "
                    "group keeps its last channel",
                )
            )
        else:
            removed[group.units[dead]] = True
    return removed, refusals


def _nothing(owner: str, model: keras.Model, refusals: Sequence[Refusal]) -> str:
    lines = [f"  {item.name} ({item.size}): {item.reason}" for item in refusals[:20]]
    if len(refusals) > 20:
        lines.append(f"  ... and {len(refusals) - 20} more")
    reasons = "\nWhat has to stay, and why:\n" + "\n".join(lines) if lines else ""
    return (
        f"{owner}: no channel of {model.name!r} can go. To remove zeros, train it "
        'first with PruningCallback(sparsity=0.5, granularity="channel"); or say how '
        f"many channels to remove, shrink(model, sparsity=0.5).{reasons}"
    )


def _plan(
    model: keras.Model,
    coupling: Coupling,
    groups: Sequence[Group],
    refusals: Sequence[Refusal],
    removed: np.ndarray,
    blocks: Sequence[str],
    asked: str,
    notes: Sequence[str],
) -> ShrinkPlan:
    plans = tuple(
        GroupPlan(
            group.name,
            group.kind,
            group.size,
            tuple(int(i) for i in np.flatnonzero(removed[group.units])),
            tuple(dict.fromkeys(coupling.slots[i].layer.path for i in group.slots)),
        )
        for group in groups
    )
    before = coupling if not blocks else analyse(model)
    notes = [*dict.fromkeys(coupling.builder.notes), *notes]
    if not removed.any() and not blocks:
        notes.append("Nothing is removed.")
    return ShrinkPlan(
        model=model.name,
        asked=asked,
        groups=plans,
        refusals=tuple(refusals),
        blocks=tuple(blocks),
        widths=_widths(before, coupling, groups, removed),
        parameters=model.count_params(),
        parameters_after=coupling.parameters(removed),
        macs=before.macs(before.nothing()),
        macs_after=coupling.macs(removed),
        notes=tuple(notes),
    )


def _widths(
    before: Coupling, coupling: Coupling, groups: Sequence[Group], removed: np.ndarray
) -> tuple[LayerWidth, ...]:
    """Returns all widths in the graph's order, also of layers that go with blocks."""
    names = {int(unit): group.name for group in groups for unit in group.units}
    left: dict[tuple[str, str, int], LayerWidth] = {}
    for slot in coupling.slots:
        if slot.kind:
            units = coupling.units(slot)
            ((group, _),) = Counter(
                names.get(int(unit), "") for unit in units
            ).most_common(1)
            after = int(np.count_nonzero(~removed[units]))
            key = (slot.layer.path, slot.kind, units.size)
            left.setdefault(key, LayerWidth(*key, after, group))
    keys = [(s.layer.path, s.kind, s.labels.size) for s in before.slots if s.kind]
    return tuple(left.get(key, LayerWidth(*key, 0)) for key in dict.fromkeys(keys))


def _from_plan(
    model: keras.Model, plan: ShrinkPlan
) -> tuple[Coupling, np.ndarray, dict[int, int]]:
    if not isinstance(plan, ShrinkPlan):
        raise TypeError(
            "shrink: `plan` must be what kprune.plan_shrink returned. Received "
            f"{plan!r} of type {type(plan).__name__}."
        )
    bypass, _ = depth.choose(model, plan.blocks or None, None)
    coupling = analyse(model, bypass)
    removed = coupling.nothing()
    groups = {group.name: group for group in coupling.groups}
    for item in plan.groups:
        group = groups.get(item.name)
        if group is None or group.size != item.size:
            raise ValueError(
                "shrink: the plan was made for another model: it speaks of "
                f"{item.size} {item.name!r}, and {model.name!r} has "
                f"{'none' if group is None else group.size}. Its groups: "
                f"{listed(list(groups))}."
            )
        if len(item.removed) >= item.size or any(
            not 0 <= place < item.size for place in item.removed
        ):
            raise ValueError(
                f"shrink: the plan removes {len(item.removed)} of {item.size} "
                f"{item.name!r}. A group keeps its last channel, and places run from 0 "
                f"to {item.size - 1}."
            )
        removed[group.units[list(item.removed)]] = True
    return coupling, removed, bypass


def _check(model: keras.Model, equality: Any) -> None:
    most = _MOST[equality.computed_in]
    if not (equality.finite and equality.relative <= most):
        raise RuntimeError(
            f"shrink: the smaller {model.name!r} does not compute what the masked "
            f"model computes: outputs differ by {equality.max_abs:.3g}, "
            f"{equality.relative:.2g} of the largest one, on {equality.inputs}, in "
            f"{equality.computed_in}"
            f"{'' if equality.finite else ', and are not all finite'}. The model was "
            "not changed. A coupling rule is wrong, or a layer computes something "
            "random: if it is none of your own (kprune.register_coupling), please "
            "report it."
        )
