"""`keras.ops` that sum products: matrix products, and attention written with them.

Each is taken for an einsum: one letter per axis, and letters that the result does not
have are summed over. This module changes when an operation of this kind is added.
"""

import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from kprune.coupling.layout import Layout
from kprune.coupling.registry import Call, coupling
from kprune.coupling.rules.axes import (
    as_layout,
    is_array,
    keep,
    only,
    operations,
    settled,
)


@coupling(*operations("Matmul"))
def matmul(call: Call) -> Any:
    """Multiplies matrices; leading axes are broadcast."""
    factors = _factors(call)
    if factors is None or min(len(factor.shape) for factor in factors) < 2:
        return call.barrier("multiplies it with a vector or a number")
    leading = string.ascii_lowercase[: max(len(factor.shape) for factor in factors) - 2]
    names = []
    for factor, matrix in zip(factors, ("MK", "KN"), strict=True):
        rank = len(factor.shape) - 2
        names.append(leading[len(leading) - rank :] + matrix)
    return contract(call, factors, names, leading + "MN")


@coupling(*operations("Dot"))
def dot(call: Call) -> Any:
    """Sums over the last axis of one factor and the last but one of the other."""
    factors = _factors(call)
    if factors is None:
        return call.barrier("multiplies it with a vector or a number")
    left, right = (len(factor.shape) for factor in factors)
    return _tensor_product(call, factors, [left - 1], [right - min(2, right)])


@coupling(*operations("Tensordot"))
def tensordot(call: Call) -> Any:
    """Sums over pairs of axes."""
    factors, axes = _factors(call), call.operation.axes
    if factors is None:
        return call.barrier("multiplies it with a vector or a number")
    if isinstance(axes, int):
        rank = len(factors[0].shape)
        axes = [range(rank - axes, rank), range(axes)]
    pairs = [
        [factor.axis(int(axis)) for axis in np.atleast_1d(np.asarray(side))]
        for factor, side in zip(factors, axes, strict=True)
    ]
    return _tensor_product(call, factors, *pairs)


@coupling(*operations("Einsum"))
def einsum(call: Call) -> Any:
    """Sums over the letters that the result does not have."""
    equation = call.operation.subscripts.replace(" ", "")
    factors = _factors(call, number=None)
    names, _, result = equation.partition("->")
    parts = names.split(",")
    if "." in equation or "->" not in equation or factors is None:
        return call.barrier("has an equation that is not followed: write out all axes")
    if any(len(set(part)) < len(part) for part in parts):
        return call.barrier("takes a diagonal")
    return contract(call, factors, parts, result)


@coupling(*operations("DotProductAttention"))
def attention(call: Call) -> Any:
    """Compares queries with keys, and mixes values along time."""
    names = ("query", "key", "value", "bias", "mask", "scale")
    given = dict(zip(names, call.args, strict=False)) | dict(call.kwargs)
    q, k, v = (
        keep(call, given[name], [1], "mixes along time")
        for name in ("query", "key", "value")
    )
    if q.shape[2] != k.shape[2]:
        return call.barrier("shares keys among several queries")
    if any(given.get(name) is not None for name in ("bias", "mask")):
        q, k, v = (
            keep(call, x, [2], "has a bias or a mask per head") for x in (q, k, v)
        )
    if given.get("scale") is None:
        why = "divides by the square root of their number"
        q, k = (keep(call, x, [3], why) for x in (q, k))
    for name in ("bias", "mask"):
        if isinstance(given.get(name), Layout):
            call.pin(given[name].labels, f"{call.name} uses it as {name}")
    steps = ["btsnh", "btsnd"]
    return contract(call, [q, k, v], ["btnh", "bsnh", "bsnd"], "btnd", steps)


def contract(
    call: Call,
    factors: Sequence[Layout],
    names: Sequence[str],
    result: str,
    steps: Sequence[str] = (),
) -> Layout:
    """Returns the layout of an einsum, and ties what has the same letter.

    Args:
        call: The call.
        factors: The layouts that are multiplied.
        names: For each of them one letter per axis.
        result: The letters of the result's axes.
        steps: Per step of the computation the letters it multiplies over; one step over
            all by default.
    """
    factors = _told_apart(call, list(factors), names, result)
    found: dict[str, np.ndarray | None] = {}
    sizes: dict[str, int | None] = {}
    for letter in dict.fromkeys("".join(names)):
        found[letter], sizes[letter] = _letter(call, factors, names, letter)
        along = found[letter]
        if along is not None and letter not in result:
            call.builder.demand(along, f"{call.name} sums their products")
    for step in steps or ["".join(sizes)]:
        letters = [letter for letter in step if letter != names[0][0]]  # The batch.
        call.product(
            [sizes[letter] for letter in letters],
            {i: found[letter] for i, letter in enumerate(letters)},
        )
    joint = [
        block
        for factor, name in zip(factors, names, strict=True)
        for block in factor.moved([name.find(letter) for letter in result]).blocks
        if len(block.axes) > 1
    ]
    taken = {axis for block in joint for axis in block.axes}
    single = {
        axis: found[letter] for axis, letter in enumerate(result) if axis not in taken
    }
    whole = call.output(single, like=Layout(call.shapes[0], tuple(joint)))
    return settled(call, whole)


def _told_apart(
    call: Call, factors: list[Layout], names: Sequence[str], result: str
) -> list[Layout]:
    """Returns factors whose axes are labelled jointly only where no other has them.

    Heads and the dimensions of each one are such axes. Where dimensions are summed over
    it is whole heads that can go.
    """
    for i, name in enumerate(names):
        for axis, letter in enumerate(name):
            if letter not in result and _is_joint(factors[i], axis):
                why = "sums over it"
                factors[i] = keep(call, factors[i], [axis], why)
    for i, name in enumerate(names):
        for axis, letter in enumerate(name):
            others = [
                factor.block(other.index(letter))
                for j, (factor, other) in enumerate(zip(factors, names, strict=True))
                if j != i and factor.shape[other.find(letter)] != 1 and letter in other
            ]
            if others and _is_joint(factors[i], axis):
                if all(block is None for block in others):
                    factors[i] = keep(call, factors[i], [axis], "keeps it")
                else:
                    factors[i] = only(call, factors[i], axis)
    return factors


def _is_joint(factor: Layout, axis: int) -> bool:
    block = factor.block(axis)
    return block is not None and len(block.axes) > 1


def _letter(
    call: Call, factors: Sequence[Layout], names: Sequence[str], letter: str
) -> tuple[np.ndarray | None, int | None]:
    """Returns the labels and the size of all axes of one letter, and ties them."""
    have = [
        (factor, name.index(letter))
        for factor, name in zip(factors, names, strict=True)
        if letter in name
    ]
    sizes = [factor.shape[axis] for factor, axis in have]
    size = next((size for size in sizes if size != 1), 1)
    labels: list[np.ndarray | None] = []
    for factor, axis in have:
        if _is_joint(factor, axis):
            return None, size  # Nothing else has it: it passes with its block.
        along = call.labels(factor, axis)
        if factor.shape[axis] == 1 and size != 1:
            call.pin(along, f"{call.name} spreads this single channel over many")
        else:
            labels.append(along)
    tied = labels[0]
    for along in labels[1:]:
        tied = call.tie(tied, along, f"{call.name} multiplies it with a fixed size")
    return tied, size


def _tensor_product(
    call: Call, factors: Sequence[Layout], left: Sequence[int], right: Sequence[int]
) -> Any:
    """Returns the layout of sums over pairs of axes, one of each factor."""
    letters = iter(string.ascii_letters)
    names = [[next(letters) for _ in factor.shape] for factor in factors]
    for first, second in zip(left, right, strict=True):
        names[1][second] = names[0][first]
    summed = {names[0][axis] for axis in left}
    result = [letter for name in names for letter in name if letter not in summed]
    return contract(call, factors, ["".join(name) for name in names], "".join(result))


def _factors(call: Call, number: int | None = 2) -> list[Layout] | None:
    """Returns the layouts of what is multiplied; `None` if some of it is a number."""
    arguments = [*call.args, *call.kwargs.values()]
    found = [as_layout(a) for a in arguments if isinstance(a, Layout) or _is_factor(a)]
    if len(found) != len(arguments) or (number is not None and len(found) != number):
        return None
    return found if all(factor.shape for factor in found) else None


def _is_factor(item: Any) -> bool:
    return is_array(item) or hasattr(item, "shape")
