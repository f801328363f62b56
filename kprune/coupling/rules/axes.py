"""What rules of `keras.ops` have in common: their classes, and axes that keep a size.

This module changes when Keras moves its operations, or axes are fixed in another way.
"""

import functools
import importlib
import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from kprune.coupling.layout import Block, Layout
from kprune.coupling.registry import Call, Rule, coupling


def operations(names: str) -> list[type]:
    """Returns the classes of operations that `keras.ops` functions put into graphs.

    Keras exports the functions only, so that the classes have to be looked up where
    they are defined. Releases differ in which ones they have: others are left out.
    """
    modules = [
        importlib.import_module(f"keras.src.ops.{name}")
        for name in ("numpy", "nn", "core", "math", "linalg", "image")
    ]
    found = (
        next((vars(module)[name] for module in modules if name in vars(module)), None)
        for name in names.split()
    )
    return [item for item in found if isinstance(item, type)]


def rule(names: str) -> Callable[[Rule], Rule]:
    """Registers a rule that is asked only where an input has labels."""

    def register(function: Rule) -> Rule:
        @functools.wraps(function)
        def asked(call: Call) -> Any:
            if not any(layout.blocks for layout in call.inputs):
                return [Layout(shape) for shape in call.shapes]
            return function(call)

        coupling(*operations(names))(asked)
        return function

    return register


def is_array(item: Any) -> bool:
    """Returns whether an argument is a constant of more than one element."""
    if isinstance(item, list | tuple):
        return True
    if not hasattr(item, "shape") or isinstance(item, Layout):
        return False
    return isinstance(item, keras.Variable) or math.prod(item.shape) != 1


def as_layout(item: Any) -> Layout:
    """Returns a layout as it is, and that of a constant array."""
    return item if isinstance(item, Layout) else Layout(np.shape(item))


def axes_of(layout: Layout, axis: Any) -> list[int]:
    """Returns the axes that an argument names, all of them for `None`."""
    if axis is None:
        return list(range(len(layout.shape)))
    axes = axis if isinstance(axis, Iterable) else [axis]
    return sorted({layout.axis(int(one)) for one in axes})


def keep(call: Call, layout: Layout, axes: Iterable[int], why: str) -> Layout:
    """Returns the layout with axes that keep their size.

    Of a jointly labelled run of axes the indices along a kept axis go together, so that
    others of the run can still shrink.

    Args:
        call: The call that needs it.
        layout: The layout.
        axes: The axes.
        why: What the operation does to them, as in `"sorts this axis"`.
    """
    for axis in axes:
        block = layout.block(axis)
        if block is None:
            continue
        others = tuple(b for b in layout.blocks if b is not block)
        if len(block.axes) == 1:
            call.pin(block.labels, f"{call.name} {why}")
        else:
            place = block.axes.index(layout.axis(axis))
            call.builder.tie(block.labels.take([0], place), block.labels)
            rest = tuple(a for a in block.axes if a != layout.axis(axis))
            others = (*others, Block(rest, block.labels.take(0, place)))
        layout = Layout(layout.shape, _sorted(others))
    return layout


def only(call: Call, layout: Layout, axis: int) -> Layout:
    """Returns the layout in which no axis is labelled jointly with the given one."""
    block = layout.block(axis)
    if block is None or len(block.axes) == 1:
        return layout
    labels = call.labels(layout, axis)
    others = [b for b in layout.blocks if b is not block]
    if labels is not None:
        others.append(Block((layout.axis(axis),), labels))
    return Layout(layout.shape, _sorted(others))


def settled(call: Call, layout: Layout) -> Layout:
    """Returns the layout without labels along the first axis.

    Other rules take it for the batch, also after an operation has moved that away.
    """
    return keep(call, layout, [0], "puts it first, in the place of the batch")


def like(layout: Layout, shape: tuple[int | None, ...], drop: Iterable[int]) -> Layout:
    """Returns a layout of another shape that lost the labels along some axes."""
    gone = set(drop)
    return Layout(shape, tuple(b for b in layout.blocks if not gone & set(b.axes)))


def _sorted(blocks: Iterable[Block]) -> tuple[Block, ...]:
    return tuple(sorted(blocks, key=lambda block: block.axes))
