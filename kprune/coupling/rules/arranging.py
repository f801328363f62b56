"""`keras.ops` that move, repeat or pad data without computing.

This module changes when an operation of this kind is added.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kprune.coupling.layout import Block, Layout, Shape, volume
from kprune.coupling.registry import Call
from kprune.coupling.rules.axes import axes_of, keep, rule, settled


@rule("Reshape")
def reshape(call: Call) -> Any:
    """Gives the same values another shape."""
    x, shape = call.input, call.shapes[0]
    if x.shape[:1] == shape[:1] and volume(x.shape[1:]) == volume(shape[1:]):
        new = call.reshape(x)
    else:
        # The batch is merged with other axes: what is behind them may still pass.
        same = _common_tail(x.shape, shape)
        x = keep(call, x, range(len(x.shape) - same), "merges it with the batch")
        shift = len(shape) - len(x.shape)
        new = Layout(shape, tuple(_moved(block, shift) for block in x.blocks))
    asked = call.operation.newshape
    if new.blocks:
        call.resize("newshape", lambda alive: _resized(asked, new, alive))
    return new


@rule("Ravel")
def ravel(call: Call) -> Any:
    """Merges all axes, the batch among them."""
    return call.barrier("merges its channels with the batch")


@rule("Transpose")
def transpose(call: Call) -> Any:
    """Changes the order of the axes."""
    rank = len(call.input.shape)
    axes = call.operation.axes
    return _ordered(call, range(rank)[::-1] if axes is None else axes)


@rule("Swapaxes")
def swapaxes(call: Call) -> Any:
    """Changes places of two axes."""
    order = list(range(len(call.input.shape)))
    first, second = call.operation.axis1, call.operation.axis2
    order[first], order[second] = order[second], order[first]
    return _ordered(call, order)


@rule("Moveaxis")
def moveaxis(call: Call) -> Any:
    """Moves axes to other places."""
    source, destination = call.operation.source, call.operation.destination
    rank = len(call.input.shape)
    order = [axis for axis in range(rank) if axis not in {s % rank for s in source}]
    for target, axis in sorted(
        (d % rank, s % rank) for s, d in zip(source, destination, strict=True)
    ):
        order.insert(target, axis)
    return _ordered(call, order)


@rule("Squeeze")
def squeeze(call: Call) -> Any:
    """Drops axes of size 1."""
    x, axis = call.input, call.operation.axis
    gone = [i for i, size in enumerate(x.shape) if size == 1]
    if axis is not None:
        gone = axes_of(x, axis)
    x = keep(call, x, gone, "drops it, as it has a single index")
    if axis is None:
        # Axes that only get down to size 1 by removal have to stay.
        call.resize("axis", lambda alive: tuple(gone))
    return settled(call, x.without(gone))


@rule("ExpandDims")
def expand_dims(call: Call) -> Any:
    """Adds axes of size 1."""
    rank = len(call.shapes[0])
    axes = call.operation.axis
    new = {a % rank for a in (axes if isinstance(axes, tuple | list) else [axes])}
    old = iter(range(len(call.input.shape)))
    order = [-1 if axis in new else next(old) for axis in range(rank)]
    return settled(call, call.input.moved(order, call.shapes[0]))


@rule("BroadcastTo")
def broadcast_to(call: Call) -> Any:
    """Spreads axes of size 1."""
    x, shape = call.input, call.shapes[0]
    shift = len(shape) - len(x.shape)
    spread = [a for a, size in enumerate(x.shape) if size != shape[a + shift]]
    x = keep(call, x, spread, "spreads this single channel over many")
    new = Layout(shape, tuple(_moved(block, shift) for block in x.blocks))
    asked = call.operation.shape
    if new.blocks:
        call.resize("shape", lambda alive: _resized(asked, new, alive))
    return settled(call, new)


@rule("Tile")
def tile(call: Call) -> Any:
    """Repeats a tensor: all copies of a channel go together."""
    rank = len(call.shapes[0])
    given = [int(times) for times in np.atleast_1d(call.operation.repeats)]
    repeats = [1] * (rank - len(given)) + given
    shift = rank - len(call.input.shape)
    x = call.input.moved([-1] * shift + list(range(len(call.input.shape))))

    def tiled(axis: int, labels: np.ndarray, place: int) -> np.ndarray:
        times = [1] * labels.ndim
        times[place] = repeats[axis]
        return np.tile(labels, times)

    return settled(call, Layout(call.shapes[0], _each(x, tiled)))


@rule("Repeat")
def repeat(call: Call) -> Any:
    """Repeats each index: all copies of a channel go together."""
    x, axis = call.input, call.operation.axis
    times = np.atleast_1d(call.operation.repeats)
    if axis is None:
        return call.barrier("merges all axes, the batch among them")
    if times.size > 1:
        x = keep(call, x, [axis], "repeats each index another number of times")

    def repeated(at: int, labels: np.ndarray, place: int) -> np.ndarray:
        return np.repeat(labels, times, place) if at == x.axis(axis) else labels

    return call.output(like=Layout(call.shapes[0], _each(x, repeated)))


@rule("Flip")
def flip(call: Call) -> Any:
    """Turns axes around."""
    axes = axes_of(call.input, call.operation.axis)

    def flipped(axis: int, labels: np.ndarray, place: int) -> np.ndarray:
        return np.flip(labels, place) if axis in axes else labels

    return Layout(call.shapes[0], _each(call.input, flipped))


@rule("Pad")
def pad(call: Call) -> Any:
    """Adds indices at both ends: of a constant, or copies of others."""
    x, widths = call.input, [tuple(width) for width in call.operation.pad_width]
    widths = widths * len(x.shape) if len(widths) == 1 else widths
    padded = [axis for axis, width in enumerate(widths) if any(width)]
    if call.operation.mode != "constant":
        x = keep(call, x, padded, "fills up with copies of other channels")
    # Only a run of channels by itself can get more at its ends.
    joint = [a for b in x.blocks if len(b.axes) > 1 for a in b.axes if a in padded]
    x = keep(call, x, joint, "adds indices to it")
    value = [*call.args, *call.kwargs.values()][1:]
    if any(np.any(np.asarray(item)) for item in value if item is not None):
        call.builder.spoil(x.labels, f"{call.name} fills up with another value")

    def filled(axis: int, labels: np.ndarray, place: int) -> np.ndarray:
        if axis not in padded:
            return labels
        before, after = (call.fresh(width) for width in widths[axis])
        for new in (before, after):
            call.pin(new, f"{call.name} adds it")
        return np.concatenate([before, labels, after])

    return Layout(call.shapes[0], _each(x, filled))


def _ordered(call: Call, order: Sequence[int]) -> Layout:
    order = [call.input.axis(axis) for axis in order]
    return settled(call, call.input.moved(order, call.shapes[0]))


def _each(
    x: Layout, change: Callable[[int, np.ndarray, int], np.ndarray]
) -> tuple[Block, ...]:
    """Returns blocks whose labels were changed along each of their axes."""
    blocks = []
    for block in x.blocks:
        labels = block.labels
        for place, axis in enumerate(block.axes):
            labels = change(axis, labels, place)
        blocks.append(Block(block.axes, labels))
    return tuple(blocks)


def _moved(block: Block, shift: int) -> Block:
    return Block(tuple(axis + shift for axis in block.axes), block.labels)


def _common_tail(old: Shape, new: Shape) -> int:
    count = 0
    for left, right in zip(old[:0:-1], new[:0:-1], strict=False):
        if left is None or left != right:
            break
        count += 1
    return count


def _resized(
    asked: Sequence[int | None], layout: Layout, alive: np.ndarray
) -> tuple[int | None, ...]:
    """Returns the shape that is asked for with the sizes that are left."""
    return tuple(
        layout.size(axis, alive) if size != -1 and layout.block(axis) else size
        for axis, size in enumerate(asked)
    )
