"""Units, which are removed as a whole, and groups of units of the same kind.

This module changes when what rules said is to be put together in another way.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from kprune.coupling.builder import MAKES, READS, SCALES, Builder, Cost, Slot
from kprune.layers import values


@dataclasses.dataclass(frozen=True)
class Group:
    """Units whose channels belong to the same weights.

    Args:
        name: The layer that makes them, and what they are called there.
        kind: What they are called: `"filters"`, `"units"`, `"heads"`, ...
        units: Their numbers, ascending.
        slots: Positions in `Coupling.slots` of the axes that they are part of.
        stage: The shape, without the batch, of the first tensor that has them.
        reason: Why none of them can be removed; empty if they can.
    """

    name: str
    kind: str
    units: np.ndarray
    slots: tuple[int, ...]
    stage: tuple[int | None, ...]
    reason: str = ""

    @property
    def size(self) -> int:
        """Number of units."""
        return len(self.units)


@dataclasses.dataclass(frozen=True)
class Coupling:
    """Which channels of a model can only be removed together.

    Args:
        model: The model.
        builder: What the rules said.
        slots: All axes of weights that have labels.
        unit_of: The unit of each label.
        groups: Groups that can lose units.
        fixed: Groups that cannot, each with its reason.
        not_zero: Per unit why its channel is not zero even if all that makes it is;
            empty if it is.
    """

    model: keras.Model
    builder: Builder
    slots: tuple[Slot, ...]
    unit_of: np.ndarray
    groups: tuple[Group, ...]
    fixed: tuple[Group, ...]
    not_zero: Mapping[int, str]

    @property
    def num_units(self) -> int:
        """Number of units, removable or not."""
        return int(self.unit_of.max()) + 1 if self.unit_of.size else 0

    def units(self, slot: Slot) -> np.ndarray:
        """Returns the unit of each index of a slot."""
        return self.unit_of[slot.labels]

    def alive(self, removed: np.ndarray) -> np.ndarray:
        """Returns per label whether it is left.

        Args:
            removed: Boolean per unit.
        """
        return ~removed[self.unit_of]

    def nothing(self) -> np.ndarray:
        """Returns `removed` for removing nothing."""
        return np.zeros(self.num_units, bool)

    def masks(self, removed: np.ndarray) -> dict[int, np.ndarray]:
        """Returns what removing units keeps of each weight they are part of.

        Args:
            removed: Boolean per unit.

        Returns:
            By the variable's id a boolean array that broadcasts to the variable's
            shape, True = keep; weights that keep everything are left out.
        """
        found: dict[int, np.ndarray] = {}
        for slot in self.slots:
            if slot.role == SCALES and not slot.scored:
                continue  # Statistics and slopes need not be zero.
            gone = removed[self.units(slot)]
            if gone.any():
                shape = [1] * len(slot.variable.shape)
                shape[slot.axis] = gone.size
                keep = (~gone).reshape(shape)
                key = id(slot.variable)
                found[key] = found[key] & keep if key in found else keep
        return found

    def zero_units(
        self, look: Callable[[keras.Variable], np.ndarray] = values
    ) -> np.ndarray:
        """Returns per unit whether its removal changes no output, as weights are now.

        That is so if nothing reads it, or if all that makes it is zero and every
        operation it passes maps zero to zero.

        Args:
            look: What is looked at of a weight; its values by default.
        """
        read, made = self._all_zero(READS, look), self._all_zero(MAKES, look)
        made[list(self.not_zero)] = False
        demanded = np.zeros(self.num_units, bool)
        for labels, _ in self.builder.demands:
            demanded[self.unit_of[labels]] = True
        return np.where(demanded, made, read | made)

    def _all_zero(
        self, role: str, look: Callable[[keras.Variable], np.ndarray]
    ) -> np.ndarray:
        zero = np.ones(self.num_units, bool)
        for slot in self.slots:
            if slot.role == role:
                axes = range(len(slot.variable.shape))
                others = tuple(axis for axis in axes if axis != slot.axis)
                live = (look(slot.variable) != 0).any(axis=others)
                zero[self.units(slot)[live]] = False
        return zero

    def macs(self, removed: np.ndarray) -> int:
        """Returns the multiply-accumulates of one inference after removal."""
        alive = self.alive(removed)
        return sum(cost_of(cost, alive) for cost in self.builder.costs)

    def parameters(self, removed: np.ndarray) -> int:
        """Returns the number of weights after removal."""
        alive = self.alive(removed)
        total = 0
        for variable in self.builder.weights.values():
            slots = self.builder.slots.get(id(variable), {})
            size = 1
            for axis, length in enumerate(variable.shape):
                slot = slots.get(axis)
                size *= length if slot is None else int(alive[slot.labels].sum())
            total += size
        return total


def cost_of(cost: Cost, alive: np.ndarray) -> int:
    """Returns multiply-accumulates of one call with what is left."""
    total = cost.factor
    for labels in cost.labels:
        total *= int(np.count_nonzero(alive[labels]))
    return total


def solve(builder: Builder, model: keras.Model) -> Coupling:
    """Makes units of tied labels, and groups of units with the same members."""
    _keep_rectangular(builder)
    unit_of = _components(builder)
    slots = tuple(slot for axes in builder.slots.values() for slot in axes.values())
    members = [np.unique(unit_of[slot.labels]) for slot in slots]
    not_zero = _reasons(builder.spoilt, unit_of)
    stages = _stages(builder, unit_of)
    groups: list[Group] = []
    fixed: list[Group] = []
    names: dict[str, int] = {}
    kinds = _kinds(
        builder, unit_of, slots, members, _pinned(builder, unit_of, not_zero)
    )
    # All units of a kind are in the same slots: one of them stands for all.
    firsts = np.asarray([units[0] for units, _ in kinds])
    inside = [np.isin(firsts, units) for units in members]
    for place, (units, reason) in enumerate(kinds):
        its = tuple(index for index, there in enumerate(inside) if there[place])
        maker = next(slots[index] for index in its if slots[index].kind)
        name = f"{maker.layer.path} {maker.kind}"
        names[name] = names.get(name, 0) + 1
        if names[name] > 1:
            name = f"{name} ({names[name]})"
        stage = stages.get(units[0], ())
        group = Group(name, maker.kind, np.asarray(units), its, stage, reason)
        (fixed if reason else groups).append(group)
    return Coupling(
        model, builder, slots, unit_of, tuple(groups), tuple(fixed), not_zero
    )


def _pinned(
    builder: Builder, unit_of: np.ndarray, not_zero: Mapping[int, str]
) -> dict[int, str]:
    """Returns why units cannot be removed, by unit."""
    pinned = _reasons(builder.pins, unit_of)
    for unit, reason in _reasons(builder.demands, unit_of).items():
        if unit in not_zero:
            pinned.setdefault(unit, f"{not_zero[unit]}, and {reason}")
    return pinned


def _kinds(
    builder: Builder,
    unit_of: np.ndarray,
    slots: Sequence[Slot],
    members: Sequence[np.ndarray],
    pinned: Mapping[int, str],
) -> list[tuple[list[int], str]]:
    """Returns units with the same members, in their order, and why they are fixed."""
    num_units = int(unit_of.max()) + 1 if unit_of.size else 0
    # Slices of a tensor tell units apart as weights do: each slice keeps one.
    pieces = [np.unique(unit_of[labels]) for labels in builder.pieces]
    # Units with the same members have the same sum of the members' random keys.
    num_keys = len(members) + len(pieces)
    keys = np.random.default_rng(0).integers(1, 2**63, num_keys, dtype=np.uint64)
    signature = np.zeros(num_units, np.uint64)
    for units, key in zip([*members, *pieces], keys, strict=True):
        signature[units] += key
    made = np.zeros(num_units, bool)
    for slot, units in zip(slots, members, strict=True):
        made[units] |= bool(slot.kind)
    kinds: dict[tuple[int, str], list[int]] = {}
    for unit in np.flatnonzero(made).tolist():  # Others are fillers of fixed size.
        reason = pinned.get(unit, "")
        kinds.setdefault((int(signature[unit]), reason), []).append(unit)
    return [(units, reason) for (_, reason), units in kinds.items()]


def _components(builder: Builder) -> np.ndarray:
    """Returns the number of the unit that each label belongs to."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = builder.num_labels
    if not count:
        return np.zeros(0, np.int64)
    pairs = [(a.reshape(-1), b.reshape(-1)) for a, b in builder.ties]
    left = np.concatenate([a for a, _ in pairs]) if pairs else np.zeros(0, np.int64)
    right = np.concatenate([b for _, b in pairs]) if pairs else np.zeros(0, np.int64)
    edges = coo_array((np.ones(left.size, bool), (left, right)), shape=(count, count))
    _, components = connected_components(edges, directed=False)
    # Numbered by their first label, so that units are in the order of the graph.
    _, first, inverse = np.unique(components, return_index=True, return_inverse=True)
    rank = np.empty(first.size, np.int64)
    rank[np.argsort(first)] = np.arange(first.size)
    return rank[inverse]


def _keep_rectangular(builder: Builder) -> None:
    """Ties labels of jointly labelled axes until what is left is always a rectangle.

    The axis with the most units after all other ties keeps them apart; along the other
    axes of the block they go together.
    """
    for block in builder.blocks:
        units = _components(builder)[block.labels]
        best = max(range(units.ndim), key=lambda i: (_apart(units, i), i))
        rows = np.moveaxis(block.labels, best, 0).reshape(units.shape[best], -1)
        builder.tie(rows[:, :1], rows)


def _apart(units: np.ndarray, axis: int) -> int:
    """Returns how many units are left if each index of an axis becomes one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = np.moveaxis(units, axis, 0).reshape(units.shape[axis], -1)
    _, compact = np.unique(rows, return_inverse=True)
    compact = compact.reshape(rows.shape)
    left = np.broadcast_to(compact[:, :1], compact.shape).reshape(-1)
    count = int(compact.max()) + 1
    edges = coo_array(
        (np.ones(left.size, bool), (left, compact.reshape(-1))), shape=(count, count)
    )
    return int(connected_components(edges, directed=False)[0])


def _reasons(
    marks: Sequence[tuple[np.ndarray, str]], unit_of: np.ndarray
) -> dict[int, str]:
    found: dict[int, str] = {}
    for labels, reason in marks:
        for unit in np.unique(unit_of[labels]):
            found.setdefault(int(unit), reason)
    return found


def _stages(builder: Builder, unit_of: np.ndarray) -> dict[int, tuple[int | None, ...]]:
    """Returns for each unit the sizes of space of the first tensor that has it."""
    found: dict[int, tuple[int | None, ...]] = {}
    seen = np.zeros(unit_of.size, bool)
    for labels, shape in builder.stages:
        units = np.unique(unit_of[labels])
        for unit in units[~seen[units]]:
            found[int(unit)] = tuple(shape[1:-1])
        seen[units] = True
    return found
