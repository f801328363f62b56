"""How much each unit matters, and which ones go.

This module changes when members' scores are to be combined in another way.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from kprune.allocation import Allocation, Facts
from kprune.coupling.builder import MAKES
from kprune.coupling.groups import Coupling, Group
from kprune.criteria import Criterion
from kprune.evidence import Evidence
from kprune.granularity import Channel
from kprune.layers import values


def unit_scores(
    coupling: Coupling,
    criterion: Criterion,
    groups: Sequence[Group] | None = None,
    evidence: Evidence | None = None,
) -> np.ndarray:
    """Returns one score per unit, larger = keep; a group's scores are 1 on average.

    Each member weight gives the norm of the criterion's scores over the unit's slice of
    it, of the order that the criterion says, divided by the mean of these norms over
    the group; a unit's score is the mean of these normalised norms over its members,
    which ranks as their sum does. Kernels that make, read or scale the channel count,
    and the scales of normalisations, unless the criterion looks at some of them only;
    biases and statistics do not.

    Source: Fang et al., "DepGraph: Towards any structural pruning", 2023,
    https://arxiv.org/abs/2301.12900: importance summed over all members of a group.
    Deviations: norms, not their squares, and each normalised by its mean, so that no
    member outweighs the others by its size.

    Args:
        coupling: The analysed model.
        criterion: How the elements of a weight are scored.
        groups: The groups that are to be scored; all by default.
        evidence: Where the criterion finds what it needs beside the weights.

    Returns:
        float64 array of the number of units; what is not scored has 0.

    Raises:
        ValueError: If a group has no weight that the criterion looks at, or the
            criterion cannot find what it needs.
    """
    groups = coupling.groups if groups is None else groups
    group_of = np.full(coupling.num_units, -1)
    for index, group in enumerate(groups):
        group_of[group.units] = index
    totals, members = np.zeros(coupling.num_units), np.zeros(coupling.num_units)
    its = [
        slot
        for slot in coupling.slots
        if slot.scored
        and criterion.counts(slot.layer, len(slot.variable.shape), slot.role)
        and (group_of[coupling.units(slot)] >= 0).any()
    ]
    variables = list({id(slot.variable): slot.variable for slot in its}.values())
    found = (evidence or Evidence(coupling.model)).about(criterion, variables)
    known = {id(v): beside for v, beside in zip(variables, found, strict=True)}
    powers: dict[tuple[int, int], np.ndarray] = {}
    for slot in its:
        units, inverse = np.unique(coupling.units(slot), return_inverse=True)
        inside = group_of[units] >= 0
        beside: dict[str, Any] = dict(known[id(slot.variable)])
        if "axis" in criterion.needs:
            beside["axis"] = slot.axis
        key = (id(slot.variable), beside.get("axis", 0))
        if key not in powers:
            score = criterion.score(values(slot.variable), **beside)
            # One at a time.
            powers = {key: _power(score, criterion.order)}
        others = tuple(
            axis for axis in range(len(slot.variable.shape)) if axis != slot.axis
        )
        energy = np.bincount(inverse.reshape(-1), powers[key].sum(axis=others))
        norms, units = energy[inside], units[inside]
        if criterion.order == 2:
            norms = np.sqrt(norms)
        places = group_of[units]
        counts = np.bincount(places)
        means = np.bincount(places, norms) / np.maximum(counts, 1)
        scale = means[places]
        members[units] += 1
        # NaN stays, for the caller to see.
        totals[units] += np.divide(
            norms, scale, out=np.zeros_like(norms), where=scale != 0
        )
    for group in groups:
        scored = any(coupling.slots[index].scored for index in group.slots)
        if scored and not members[group.units].all():
            raise ValueError(
                f"The criterion {criterion} looks at none of the weights that "
                f"{group.name!r} are part of. Leave the layer out (skip=...), or use "
                "another criterion, such as 'magnitude'."
            )
    return totals / np.maximum(members, 1)


def _power(score: np.ndarray, order: int) -> np.ndarray:
    if order == 2:
        return np.square(score, dtype=np.float64)
    return np.abs(score, dtype=np.float64)


def choose(
    coupling: Coupling,
    groups: Sequence[Group],
    scores: np.ndarray,
    sparsity: float,
    allocation: Allocation,
    granularity: Channel,
    final: float | None = None,
) -> np.ndarray:
    """Returns per unit whether it is removed.

    Args:
        coupling: The analysed model.
        groups: The groups to choose from.
        scores: One per unit, larger = keep; -inf for what is to go first.
        sparsity: Share of the units, in [0, 1).
        allocation: How it is spread over the groups.
        granularity: Multiples, floors, and whether stages are ranked apart.
        final: The sparsity at the schedule's end; `sparsity` by default.

    Returns:
        Boolean array of the number of units. Each group keeps at least one.
    """
    removed = coupling.nothing()
    stages: dict[tuple[int | None, ...] | None, list[Group]] = {}
    for group in groups:
        stages.setdefault(group.stage if granularity.by_stage else None, []).append(
            group
        )
    for members in stages.values():
        unit_scores = [scores[group.units] for group in members]
        facts = [facts_of(coupling, group) for group in members]
        counts = allocation.num_pruned(unit_scores, sparsity, facts, final)
        for group, its, count in zip(members, unit_scores, counts, strict=True):
            left = allowed_size(coupling, group, group.size - count, granularity)
            order = np.argsort(its, kind="stable")
            removed[group.units[order[: group.size - left]]] = True
    return removed


def facts_of(coupling: Coupling, group: Group) -> Facts:
    """Returns what an allocation may know of a group: the names of its makers."""
    slots = [coupling.slots[index] for index in group.slots]
    names = [
        name
        for slot in slots
        if slot.role == MAKES
        for name in (slot.variable.path, slot.layer.name, slot.layer.path)
    ]
    return Facts((group.name, *names))


def allowed_size(
    coupling: Coupling, group: Group, wanted: int, granularity: Channel
) -> int:
    """Returns the number of units nearest to `wanted` that a group may be left with."""
    step = step_of(coupling, group, granularity)
    floor = min(group.size, max(1, granularity.min_channels))
    nearest = step * max(1, math.floor(wanted / step + 0.5), math.ceil(floor / step))
    # All of them are as good as a multiple: nothing has to go for the sake of it.
    if nearest > group.size or abs(group.size - wanted) <= abs(nearest - wanted):
        return group.size
    return nearest


def step_of(coupling: Coupling, group: Group, granularity: Channel) -> int:
    """Returns how many units make up the multiple of channels that is asked for."""
    if granularity.multiple == 1 or group.kind == "heads":
        return 1
    maker = next(
        coupling.slots[index]
        for index in group.slots
        if coupling.slots[index].role == MAKES
    )
    # Several channels go with one unit where a normalisation or grouping ties them.
    width = int(np.isin(coupling.units(maker), group.units).sum()) // group.size
    return granularity.multiple // math.gcd(granularity.multiple, max(1, width))
