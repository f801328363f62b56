"""Layouts: which label each index along a tensor's axes bears.

A label stands for something that can only be removed as a whole, such as one filter of
a convolution with all that belongs to it. This module changes when tensors are to be
described in another way.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

Shape = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Block:
    """Labels over one axis, or jointly over several axes that a reshape has made.

    Args:
        axes: The axes, ascending.
        labels: Integers, of the shape that the tensor has along these axes.
    """

    axes: tuple[int, ...]
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Layout:
    """The shape of a tensor and the labels along its axes.

    Args:
        shape: As Keras gives it, `None` where it is not known. Axis 0 is the batch.
        blocks: Disjoint; an axis in none of them keeps its size whatever is removed.
    """

    shape: Shape
    blocks: tuple[Block, ...] = ()

    def axis(self, axis: int) -> int:
        """Returns an axis counted from the front."""
        return axis + len(self.shape) if axis < 0 else axis

    def block(self, axis: int) -> Block | None:
        """Returns the block that an axis is part of."""
        axis = self.axis(axis)
        return next((block for block in self.blocks if axis in block.axes), None)

    @property
    def labels(self) -> np.ndarray:
        """All labels in the layout, flat."""
        if not self.blocks:
            return np.zeros(0, np.int64)
        return np.concatenate([block.labels.reshape(-1) for block in self.blocks])

    def without(self, axes: Sequence[int]) -> "Layout":
        """Returns the layout of a tensor whose given axes have gone, or were summed."""
        gone = sorted({self.axis(axis) for axis in axes})
        left = [axis for axis in range(len(self.shape)) if axis not in gone]
        return self.moved(left)

    def moved(self, order: Sequence[int], shape: Shape | None = None) -> "Layout":
        """Returns the layout of a tensor whose axis i is this one's `order[i]`.

        Blocks of which an axis is missing are dropped. -1 in `order` is a new axis.
        """
        place = {old: new for new, old in enumerate(order) if old >= 0}
        blocks = []
        for block in self.blocks:
            if not all(axis in place for axis in block.axes):
                continue
            axes = [place[axis] for axis in block.axes]
            turn = np.argsort(axes)
            blocks.append(
                Block(tuple(sorted(axes)), np.transpose(block.labels, tuple(turn)))
            )
        if shape is None:
            shape = tuple(1 if old < 0 else self.shape[old] for old in order)
        return Layout(shape, tuple(sorted(blocks, key=lambda block: block.axes)))

    def size(self, axis: int, alive: np.ndarray) -> int | None:
        """Returns how many indices along an axis are left.

        Args:
            axis: The axis.
            alive: Boolean per label: whether it is left.
        """
        axis = self.axis(axis)
        block = self.block(axis)
        if block is None:
            return self.shape[axis]
        others = tuple(i for i, a in enumerate(block.axes) if a != axis)
        return int(np.count_nonzero(alive[block.labels].any(axis=others)))

    def new_shape(self, alive: np.ndarray) -> Shape:
        """Returns the shape that the tensor has after removal."""
        return tuple(self.size(axis, alive) for axis in range(len(self.shape)))


def reshaped(layout: Layout, shape: Shape) -> tuple[Layout, np.ndarray]:
    """Returns the layout of a reshaped tensor, in row-major order.

    Args:
        layout: The tensor before.
        shape: Its new shape; batch and other unknown sizes may be `None`.

    Returns:
        The new layout, and the labels that could not be followed, which have to stay.
    """
    chunks = _chunks(layout.shape, shape)
    single = {old[0]: new[0] for old, new in chunks if len(old) == len(new) == 1}
    blocks: list[Block] = []
    lost: list[np.ndarray] = []
    for block in layout.blocks:
        if all(axis in single for axis in block.axes):
            axes = tuple(single[axis] for axis in block.axes)
            blocks.append(Block(axes, block.labels))
            continue
        old, new = next(chunk for chunk in chunks if block.axes[0] in chunk[0])
        others = [b for b in layout.blocks if b is not block and set(b.axes) & set(old)]
        sizes = [layout.shape[axis] for axis in old]
        new_sizes = [shape[axis] for axis in new]
        known = None not in sizes + new_sizes and volume(sizes) == volume(new_sizes)
        alone = not others and set(block.axes) <= set(old)
        if not (known and alone) or len(np.unique(block.labels)) == 1:
            # One label cannot say which index of two merged axes it stands for, and a
            # single one has no axis to go along.
            lost.append(block.labels.reshape(-1))
            continue
        spread = block.labels.reshape(
            [int(layout.shape[axis] or 1) if axis in block.axes else 1 for axis in old]
        )
        whole = np.broadcast_to(spread, [int(size or 1) for size in sizes])
        whole = whole.reshape([int(size or 1) for size in new_sizes])
        blocks.append(_simplest(new, whole))
    return Layout(tuple(shape), tuple(sorted(blocks, key=lambda b: b.axes))), (
        np.concatenate(lost) if lost else np.zeros(0, np.int64)
    )


def _simplest(axes: Sequence[int], labels: np.ndarray) -> Block:
    """Drops the axes along which labels do not change."""
    kept = []
    for i, axis in enumerate(axes):
        first = labels.take([0], axis=i)
        if labels.shape[i] > 1 and not np.array_equal(
            np.broadcast_to(first, labels.shape), labels
        ):
            kept.append(axis)
        else:
            labels = first
    sizes = [labels.shape[i] for i, axis in enumerate(axes) if axis in kept]
    return Block(tuple(kept), labels.reshape(sizes))


def _chunks(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Pairs runs of axes of equal size, the shortest possible, from the front."""
    chunks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [], []
        if i < len(old) and j < len(new) and old[i] == new[j]:
            chunks.append(([i], [j]))
            i, j = i + 1, j + 1
            continue
        size_left = size_right = 1
        while True:
            if size_left <= size_right and i < len(old):
                if old[i] is None:
                    break
                size_left *= int(old[i] or 1)
                left.append(i)
                i += 1
            elif j < len(new):
                if new[j] is None:
                    break
                size_right *= int(new[j] or 1)
                right.append(j)
                j += 1
            else:
                break
            if size_left == size_right and left and right:
                break
        if size_left != size_right or not (left and right):
            # Unknown sizes on both sides: the rest as one run.
            left += range(i, len(old))
            right += range(j, len(new))
            i, j = len(old), len(new)
        chunks.append((left, right))
    return chunks


def volume(shape: Sequence[int | None]) -> int:
    """Returns the number of elements; sizes that are not known count as 1."""
    return math.prod(1 if size is None else size for size in shape)
