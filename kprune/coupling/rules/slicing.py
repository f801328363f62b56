"""`keras.ops` that take tensors apart along an axis, or put them together.

This module changes when an operation of this kind is added.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kprune.coupling.layout import Block, Layout
from kprune.coupling.registry import Call
from kprune.coupling.rules.axes import as_layout, is_array, keep, rule, settled
from kprune.coupling.rules.merging import joined

_BY_PLACE = "takes one of its indices by place"


@rule("GetItem")
def get_item(call: Call) -> Any:
    """Takes slices, which stay slices of what is left."""
    x, key = _arguments(call)
    parts = _parts(key, len(x.shape))
    if parts is None:
        return call.barrier("chooses indices in a way that cannot be followed")
    order: list[int] = []
    new_parts: list[Any] = []
    axis = 0
    for part in parts:
        if part is None:
            order.append(-1)
            new_parts.append(None)
            continue
        if isinstance(part, slice):
            x, part = _sliced(call, x, axis, part)
            order.append(axis)
        else:
            x = keep(call, x, [axis], _BY_PLACE)
        new_parts.append(part)
        axis += 1
    if any(callable(part) for part in new_parts):
        place = 1 if len(call.args) > 1 else "key"
        call.resize_argument(place, lambda alive: _key(new_parts, alive))
    return settled(call, x.moved(order, call.shapes[0]))


@rule("Slice")
def slice_(call: Call) -> Any:
    """Takes a box; along axes that can shrink only where it takes all."""
    x, starts = _arguments(call)
    sizes = call.operation.shape
    if not all(isinstance(number, int) for number in (*starts, *sizes)):
        return call.barrier("chooses indices in a way that cannot be followed")
    cut = [i for i, size in enumerate(sizes) if size not in (-1, x.shape[i])]
    x = keep(call, x, cut, "takes a part of it")
    if x.blocks:
        call.resize("shape", lambda alive: _box(sizes, x, alive))
    return call.output(like=Layout(call.shapes[0], x.blocks))


@rule("Split")
def split(call: Call) -> Any:
    """Takes a tensor apart into slices."""
    operation, x = call.operation, call.input
    axis = x.axis(operation.axis)
    block = x.block(axis)
    if block is None:
        return [Layout(shape, x.blocks) for shape in call.shapes]
    sizes = [int(shape[axis] or 0) for shape in call.shapes]
    if len(block.axes) > 1 and set(sizes) == {1}:
        # Such as queries, keys and values: a head goes from all of them.
        x = keep(call, x, [axis], _BY_PLACE)
        return [Layout(shape, x.blocks) for shape in call.shapes]
    ends = np.cumsum(sizes)
    pieces = [
        _piece(call, x, axis, int(end - size), int(end))
        for end, size in zip(ends, sizes, strict=True)
    ]
    call.resize(
        "indices_or_sections",
        lambda alive: tuple(_left(x, axis, int(end), alive) for end in ends[:-1]),
    )
    return pieces


@rule("ArraySplit")
def array_split(call: Call) -> Any:
    """Takes a tensor apart; parts of other sizes cannot be told to it."""
    x = keep(call, call.input, [call.operation.axis], "splits it by its size")
    return [Layout(shape, x.blocks) for shape in call.shapes]


@rule("Unstack")
def unstack(call: Call) -> Any:
    """Takes a tensor apart into its indices along an axis."""
    x, axis = call.input, call.input.axis(call.operation.axis)
    x = keep(call, x, [axis], _BY_PLACE)
    piece = settled(call, x.without([axis]))
    return [Layout(shape, piece.blocks) for shape in call.shapes]


@rule("Concatenate")
def concatenate(call: Call) -> Any:
    """Puts tensors side by side."""
    parts = [as_layout(item) for item in _tensors(call)]
    return joined(call, parts, call.operation.axis)


@rule("Stack")
def stack(call: Call) -> Any:
    """Puts tensors side by side along a new axis: their channels go together."""
    parts = [as_layout(item) for item in _tensors(call)]
    rank = len(call.shapes[0])
    new = call.operation.axis % rank
    labels = {}
    for axis in range(rank - 1):
        along = call.labels(parts[0], axis)
        for part in parts[1:]:
            reason = f"{call.name} stacks it with a tensor of fixed size"
            along = call.tie(along, call.labels(part, axis), reason)
        labels[axis + (axis >= new)] = along
    return settled(call, call.output(labels))


def _arguments(call: Call) -> tuple[Layout, Any]:
    """Returns the tensor, and the other argument; that holds None if it is a tensor."""
    arguments = [*call.args, *call.kwargs.values()]
    others = [item for item in arguments if not isinstance(item, Layout)]
    return call.input, others[0] if others else (None,)


def _tensors(call: Call) -> list[Any]:
    (found,) = [*call.args, *call.kwargs.values()]
    return [item for item in found if isinstance(item, Layout) or is_array(item)]


def _parts(key: Any, rank: int) -> list[Any] | None:
    """Returns one slice, integer or None per axis; None for a key of another kind."""
    parts = list(key) if isinstance(key, tuple | list) else [key]
    if sum(part is Ellipsis for part in parts) > 1:
        return None
    if not any(part is Ellipsis for part in parts):
        parts.append(Ellipsis)
    used = sum(part is not None and part is not Ellipsis for part in parts)
    place = next(i for i, part in enumerate(parts) if part is Ellipsis)
    parts[place : place + 1] = [slice(None)] * (rank - used)
    return parts if all(_is_known(part) for part in parts) else None


def _is_known(part: Any) -> bool:
    if isinstance(part, slice):
        numbers = (part.start, part.stop, part.step)
        return all(number is None or isinstance(number, int) for number in numbers)
    return part is None or (isinstance(part, int) and not isinstance(part, bool))


def _sliced(call: Call, x: Layout, axis: int, part: slice) -> tuple[Layout, Any]:
    """Returns the layout of a slice, and the slice or a function to the new one."""
    size = x.shape[axis]
    if x.block(axis) is None or size is None or part == slice(None):
        return x, part
    start, stop, step = part.indices(size)
    if (start, stop, step) == (0, size, 1):
        # Of an end beyond the last index nothing has to be changed.
        return x, slice(None)
    if step != 1 or stop <= start:
        return keep(call, x, [axis], "takes indices of it that are not one run"), part
    if stop - start == 1 and len(x.block(axis).axes) > 1:  # type: ignore[union-attr]
        return keep(call, x, [axis], _BY_PLACE), part
    piece = _piece(call, x, axis, start, stop)
    return piece, lambda alive: slice(
        _left(x, axis, start, alive), _left(x, axis, stop, alive)
    )


def _piece(call: Call, x: Layout, axis: int, start: int, stop: int) -> Layout:
    """Returns the layout of a slice along a labelled axis."""
    shape = (*x.shape[:axis], stop - start, *x.shape[axis + 1 :])
    blocks = []
    for block in x.blocks:
        if axis in block.axes:
            place = block.axes.index(axis)
            labels = block.labels.take(range(start, stop), place)
            call.builder.piece(labels)
            block = Block(block.axes, labels)
        blocks.append(block)
    return Layout(shape, tuple(blocks))


def _left(x: Layout, axis: int, before: int, alive: np.ndarray) -> int:
    """Returns how many of the first indices along an axis are left."""
    block = x.block(axis)
    if block is None:
        return before
    place = block.axes.index(axis)
    others = tuple(i for i in range(block.labels.ndim) if i != place)
    kept = alive[block.labels].any(axis=others)
    return int(np.count_nonzero(kept[:before]))


def _key(parts: Sequence[Any], alive: np.ndarray) -> tuple[Any, ...]:
    return tuple(part(alive) if callable(part) else part for part in parts)


def _box(sizes: Sequence[int], x: Layout, alive: np.ndarray) -> tuple[int, ...]:
    return tuple(
        int(x.size(axis, alive) or 0) if size != -1 and x.block(axis) else size
        for axis, size in enumerate(sizes)
    )
