"""Layers that merge several tensors."""

from collections.abc import Collection, Sequence

import keras
import numpy as np

from kprune.coupling.layout import Block, Layout
from kprune.coupling.registry import Call, coupling

L = keras.layers


@coupling(L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum)
def merge(call: Call) -> Layout:
    """Works on the same element of each input: their channels go together."""
    product = isinstance(call.operation, L.Multiply)
    return elementwise(call, call.inputs, range(len(call.inputs)) if product else ())


@coupling(L.Concatenate)
def concatenate(call: Call) -> Layout:
    """Puts the inputs' channels side by side."""
    return joined(call, call.inputs, call.operation.axis)


@coupling(L.Dot)
def dot(call: Call) -> Layout:
    """Sums products along one axis of each input, to which zeros add nothing."""
    layer = call.operation
    left, right = call.inputs
    if layer.normalize:
        return call.barrier("divides by norms")[0]
    axes = layer.axes if isinstance(layer.axes, list | tuple) else [layer.axes] * 2
    a, b = call.labels(left, axes[0]), call.labels(right, axes[1])
    reason = f"{call.name} multiplies it with a tensor of fixed size"
    summed = call.tie(a, b, reason)
    if summed is not None:
        call.builder.demand(summed, f"{call.name} sums their products")
    kept = [i for i in range(len(left.shape)) if i != left.axis(axes[0])]
    others = [i for i in range(1, len(right.shape)) if i != right.axis(axes[1])]
    labels = [call.labels(left, i) for i in kept]
    labels += [call.labels(right, i) for i in others]
    if len(labels) != len(call.shapes[0]):  # Two vectors: Keras adds an axis.
        return call.output()
    call.product(
        [
            *(left.shape[i] for i in kept[1:]),
            left.shape[left.axis(axes[0])],
            *(right.shape[i] for i in others),
        ],
        {},
    )
    return call.output(dict(enumerate(labels)))


def elementwise(
    call: Call, inputs: Sequence[Layout], absorbing: Collection[int] = ()
) -> Layout:
    """Ties tensors that are broadcast together, axis by axis from the last one.

    Args:
        call: The call.
        inputs: The tensors.
        absorbing: Positions of those of which a zero makes the result zero.
    """
    shape = call.shapes[0]
    # A jointly labelled run of axes passes as it is if no input tells it apart.
    blocks = _common_blocks(call, inputs, absorbing)
    done = {axis for block in blocks for axis in block.axes}
    for axis in range(len(shape)):
        if axis in done:
            continue
        found, fixed = {}, False
        for index, layout in enumerate(inputs):
            place = axis - (len(shape) - len(layout.shape))
            if place < 0:
                continue
            labels = call.labels(layout, place)
            if layout.shape[place] == 1 and shape[axis] != 1:
                call.pin(labels, f"{call.name} spreads this single channel over many")
            elif labels is None:
                fixed = fixed or layout.shape[place] == shape[axis]
            else:
                found[index] = labels
        if not found:
            continue
        first = next(iter(found.values()))
        for labels in found.values():
            call.builder.tie(first, labels)
        if fixed:
            reason = (
                f"{call.name} merges it with a tensor of a fixed number of channels"
            )
            call.pin(first, reason)
            continue
        if len(found) < len(inputs):
            _spread(call, first, found, absorbing)
        blocks.append(Block((axis,), first))
    return Layout(shape, tuple(sorted(blocks, key=lambda block: block.axes)))


def _spread(
    call: Call, labels: np.ndarray, found: Collection[int], absorbing: Collection[int]
) -> None:
    """Says that inputs without these channels give the same value to all of them."""
    if not set(found) & set(absorbing):
        reason = f"{call.name} gives the values of a tensor without channels to all"
        call.builder.spoil(labels, reason)


def _common_blocks(
    call: Call, inputs: Sequence[Layout], absorbing: Collection[int]
) -> list[Block]:
    """Returns joint runs of labels, over axes of the output, that pass as they are."""
    rank = len(call.shapes[0])
    common: dict[tuple[int, ...], Block] = {}
    for layout in inputs:
        for block in layout.blocks:
            axes = tuple(axis + rank - len(layout.shape) for axis in block.axes)
            if len(axes) == 1 or axes in common:
                continue
            others = [_seen_by(other, axes, rank) for other in inputs]
            if any(other is None for other in others):
                continue
            same = {
                i: b.labels for i, b in enumerate(others) if b is not None and b.axes
            }
            for labels in same.values():
                call.builder.tie(block.labels, labels)
            if len(same) < len(inputs):
                _spread(call, block.labels, same, absorbing)
            common[axes] = Block(axes, block.labels)
    return list(common.values())


def _seen_by(layout: Layout, axes: tuple[int, ...], rank: int) -> Block | None:
    """Returns an input's block over axes of the output.

    A block without axes if the input is the same along all of them; `None` if it tells
    them apart in another way.
    """
    places = tuple(axis - (rank - len(layout.shape)) for axis in axes)
    for block in layout.blocks:
        if block.axes == places:
            return block
    there = [place for place in places if place >= 0]
    if any(layout.shape[p] != 1 or layout.block(p) is not None for p in there):
        return None
    return Block((), np.zeros(0, np.int64))


def joined(call: Call, inputs: Sequence[Layout], axis: int) -> Layout:
    """Returns inputs put side by side along an axis, and tied along all others."""
    shape = call.shapes[0]
    axis %= len(shape)
    parts = [call.labels(layout, axis) for layout in inputs]
    labels = None
    if any(part is not None for part in parts):
        filled = []
        for part, layout in zip(parts, inputs, strict=True):
            if part is None:
                part = call.fresh(int(layout.shape[axis] or 0))
                call.pin(part, f"{call.name} gets it from a tensor of fixed size")
            filled.append(part)
        labels = np.concatenate(filled)
    rest: dict[int, np.ndarray | None] = {}
    for other in range(1, len(shape)):
        if other != axis:
            along = call.labels(inputs[0], other)
            for layout in inputs[1:]:
                reason = f"{call.name} puts it beside a tensor of fixed size"
                along = call.tie(along, call.labels(layout, other), reason)
            rest[other] = along
    return call.output({axis: labels, **rest})
