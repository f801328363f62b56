"""Builds the coupling of a model: labels, what ties them, and what holds them fast.

Rules report here what they know of an operation; `solve` makes units and groups of it.
This module changes when another kind of constraint between channels is needed.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from kprune.coupling.layout import Block, Layout, Shape, volume

# How a weight's axis takes part in its channels.
READS = "reads"  # Indexed by an input channel: zeros there make the layer ignore it.
MAKES = "makes"  # Indexed by an output channel: zeros there make the output zero.
SCALES = "scales"  # Indexed by a channel that passes through.


@dataclasses.dataclass(frozen=True, eq=False)
class Slot:
    """One axis of one weight, and the label of each index along it.

    Args:
        layer: The layer that holds the weight.
        variable: The weight.
        axis: The axis.
        role: `READS`, `MAKES` or `SCALES`.
        labels: One per index.
        kind: What the channels are called, such as `"filters"`; empty for slots that
            do not make channels.
        scored: Whether the values say how much the channel matters.
    """

    layer: keras.layers.Layer
    variable: keras.Variable
    axis: int
    role: str
    labels: np.ndarray
    kind: str = ""
    scored: bool = True


@dataclasses.dataclass(frozen=True)
class Resize:
    """An entry of an operation's configuration that depends on the channels left.

    Args:
        path: Keys to the entry, from the operation's own configuration on.
        value: From a boolean per label, whether it is left, to the new entry.
    """

    path: tuple[str, ...]
    value: Callable[[np.ndarray], Any]


@dataclasses.dataclass(frozen=True)
class Rescale:
    """Values that change when channels go: times (left / before) ** power.

    Args:
        variable: The weight.
        labels: The labels that are counted.
        power: The exponent.
    """

    variable: keras.Variable
    labels: np.ndarray
    power: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one call of a layer.

    Args:
        layer: Path of the layer.
        factor: What does not change.
        labels: Axes whose sizes are multiplied with it.
    """

    layer: str
    factor: int
    labels: tuple[np.ndarray, ...]


class Builder:
    """Collects what rules say about a model's operations."""

    def __init__(self) -> None:
        self.num_labels = 0
        self.ties: list[tuple[np.ndarray, np.ndarray]] = []
        self.pins: list[tuple[np.ndarray, str]] = []
        self.spoilt: list[tuple[np.ndarray, str]] = []
        self.demands: list[tuple[np.ndarray, str]] = []
        self.blocks: list[Block] = []
        self.slots: dict[int, dict[int, Slot]] = {}
        self.untouched: dict[int, set[int]] = {}
        self.resizes: dict[int, list[Resize]] = {}
        self.rescales: dict[int, Rescale] = {}
        self.costs: list[Cost] = []
        self.layouts: dict[int, Layout] = {}
        self.arguments: dict[int, list[tuple[Any, Callable[[np.ndarray], Any]]]] = {}
        self.called: dict[int, list[Layout]] = {}
        self.pieces: list[np.ndarray] = []
        self.stages: list[tuple[np.ndarray, Shape]] = []
        self.notes: list[str] = []
        self.weights: dict[int, keras.Variable] = {}  # All that the walk came across.

    def fresh(self, count: int) -> np.ndarray:
        """Returns labels that nothing else bears yet."""
        labels = np.arange(self.num_labels, self.num_labels + count)
        self.num_labels += count
        return labels

    def tie(self, left: np.ndarray, right: np.ndarray) -> None:
        """Says that labels stand for the same thing, index by index."""
        left, right = np.broadcast_arrays(left, right)
        differ = left != right
        if differ.any():
            self.ties.append((left[differ], right[differ]))

    def pin(self, labels: np.ndarray, reason: str) -> None:
        """Says that nothing of that label can be removed, and why."""
        if labels.size:
            self.pins.append((np.unique(labels), reason))

    def spoil(self, labels: np.ndarray, reason: str) -> None:
        """Says that a channel of zeros does not stay zero, and why."""
        if labels.size:
            self.spoilt.append((np.unique(labels), reason))

    def demand(self, labels: np.ndarray, reason: str) -> None:
        """Says that a removed channel must have been zero, and what for."""
        if labels.size:
            self.demands.append((np.unique(labels), reason))

    def along(self, layout: Layout, axis: int) -> np.ndarray | None:
        """Returns the labels along one axis; `None` if its size is fixed.

        Of a jointly labelled run of axes, each index of this one becomes one label.
        """
        block = layout.block(axis)
        if block is None:
            return None
        place = block.axes.index(layout.axis(axis))
        rows = np.moveaxis(block.labels, place, 0).reshape(
            block.labels.shape[place], -1
        )
        self.tie(rows[:, :1], rows)
        return rows[:, 0]

    def slot(
        self,
        layer: keras.layers.Layer,
        variable: keras.Variable,
        axis: int,
        role: str,
        labels: np.ndarray | None,
        kind: str = "",
        scored: bool = True,
    ) -> None:
        """Says which labels the indices along a weight's axis bear.

        A weight that is used several times gets them tied together, or fixed where one
        of the uses has none.
        """
        slots = self.slots.setdefault(id(variable), {})
        known = slots.get(axis)
        untouched = self.untouched.setdefault(id(variable), set())
        shared = (
            f"{variable.path!r} is shared, and another use of it has a fixed number of "
            "channels"
        )
        if labels is None:
            untouched.add(axis)
            if known is not None:
                self.pin(known.labels, shared)
            return
        if len(labels) != variable.shape[axis]:
            raise ValueError(
                f"The coupling rule of {type(layer).__name__} gave {len(labels)} labels"
                f" for axis {axis} of {variable.path!r}, whose shape is "
                f"{tuple(variable.shape)}."
            )
        if axis in untouched:
            self.pin(labels, shared)
        if known is not None:
            self.tie(known.labels, labels)
        else:
            slots[axis] = Slot(layer, variable, axis, role, labels, kind, scored)

    def piece(self, labels: np.ndarray) -> None:
        """Says that not all of these may go: a tensor consists of nothing else."""
        self.pieces.append(labels)

    def resize(self, operation: Any, resize: Resize) -> None:
        """Says that an entry of a configuration changes; the same key once only."""
        known = self.resizes.setdefault(id(operation), [])
        if all(other.path != resize.path for other in known):
            known.append(resize)

    def resize_argument(
        self, operation: Any, place: int | str, value: Callable[[np.ndarray], Any]
    ) -> None:
        """Says that an argument of an operation's call changes; the same once only."""
        known = self.arguments.setdefault(id(operation), [])
        if all(other != place for other, _ in known):
            known.append((place, value))

    def cost(
        self, layer: str, shape: Sequence[int | None], uses: int, labels: dict[int, Any]
    ) -> None:
        """Counts a weight or product of that shape whose elements are used so often."""
        fixed = [size for axis, size in enumerate(shape) if labels.get(axis) is None]
        changing = tuple(value for value in labels.values() if value is not None)
        self.costs.append(Cost(layer, uses * volume(fixed), changing))
