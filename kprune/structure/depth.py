"""Removing residual blocks as a whole: which ones, and their branches as zeros.

This module changes when blocks are to be chosen in another way.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kprune.rebuild import graph_of, has_graph, nodes_of, plain
from kprune.structure import proof
from kprune.structure.blocks import Block, find
from kprune.structure.zeroing import call

_SAMPLES = 32
_BATCH = 4  # All activations of a batch are in memory at once.


def choose(
    model: keras.Model, blocks: int | Sequence[str] | None, data: Any
) -> tuple[dict[int, int], tuple[str, ...]]:
    """Returns which residual blocks to remove.

    A residual block is a branch that is added to a shortcut. What goes is the branch;
    the shortcut stays, be it the identity or a projection. If a number is given, those
    go that change their input least, and blocks that hold others are left alone.

    Args:
        model: A built model with a graph, nested models included.
        blocks: How many; or the names of the operations that add branch and shortcut,
            after the names of nested models, as in `"backbone/add_1"`.
        data: Inputs as `fit` takes them; random ones if `None`.

    Returns:
        By the id of each adding operation the position of its input that is the
        shortcut; and the operations' names, in the graph's order.

    Raises:
        ValueError: If there are not that many, or one of that name cannot go.
        TypeError: If `blocks` is neither a number nor names.
    """
    _check(blocks)
    if not blocks:
        return {}, ()
    there = find(model)
    if isinstance(blocks, int):
        chosen = _least(model, there, blocks, data)
    else:
        chosen = _named(model, there, blocks)
    names = tuple(block.name for block in chosen)
    return {id(block.operation): block.shortcut for block in chosen}, names


def zeroed(model: keras.Model, bypass: Mapping[int, int]) -> dict[int, np.ndarray]:
    """Returns the masks that make the branches of removed blocks exactly zero.

    Args:
        model: The model.
        bypass: What `choose` returned for it.

    Returns:
        By a variable's id a boolean array that broadcasts to the variable's shape, all
        False.
    """
    masks: dict[int, np.ndarray] = {}
    for block in find(model) if bypass else ():
        if id(block.operation) in bypass:
            masks |= block.zero
    return masks


def influences(
    model: keras.Model, blocks: Sequence[Block], data: Any = None
) -> list[float]:
    """Returns how much each block changes its input, between 0 and 2.

    That is 1 minus the cosine between shortcut and output of the block, as vectors
    along the last axis, on average over samples and positions.

    Source: Men et al., "ShortGPT: Layers in Large Language Models are More Redundant
    Than You Expect", 2024, https://arxiv.org/abs/2403.03853, the equation
    for Block Influence. Deviations: a block is what ends in one addition, where the
    paper takes a transformer layer, attention and MLP together; its input is the
    shortcut where it enters the addition, projected if it is; vectors of zeros count as
    equal to each other, and as orthogonal to all others.

    Args:
        model: The model.
        blocks: Blocks that were found in it.
        data: Inputs as `fit` takes them; random ones if `None`.

    Raises:
        ValueError: If activations are NaN.
    """
    inputs, _ = proof.probe(model, data, _SAMPLES)
    arrays = keras.tree.flatten(inputs)
    wanted = {id(block.operation): block.shortcut for block in blocks}
    sums = dict.fromkeys(wanted, 0.0)
    counts = dict.fromkeys(wanted, 0)
    for start in range(0, len(arrays[0]), _BATCH):
        batch = [
            keras.ops.convert_to_tensor(array[start : start + _BATCH])
            for array in arrays
        ]
        graph = graph_of(model)
        tensors = dict(zip(map(id, graph.inputs), batch, strict=True))
        for key, cosines in _cosines(graph, tensors, wanted):
            sums[key] += float(cosines.sum())
            counts[key] += cosines.size
    found = [1.0 - sums[key] / max(1, counts[key]) for key in wanted]
    if np.isnan(found).any():
        raise ValueError(
            f"Blocks of {model.name!r} cannot be ranked: its activations are NaN. "
            "Check its weights and `data`."
        )
    return found


def _cosines(
    graph: Any, tensors: dict[int, Any], wanted: Mapping[int, int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Runs a graph, and yields cosines of shortcut and output for each wanted block.

    Args:
        graph: The graph.
        tensors: Values by tensors' ids: those of its inputs, to which all are added.
        wanted: Positions of the shortcut by the id of the operation.
    """
    for node in nodes_of(graph):
        operation = plain(node.operation)
        args, kwargs = node.arguments.fill_in(tensors)
        if has_graph(operation) and graph_of(operation) is not None:
            inner = graph_of(operation)
            given = [x for x in keras.tree.flatten((args, kwargs)) if x is not None]
            local = dict(zip(map(id, inner.inputs), given, strict=True))
            yield from _cosines(inner, local, wanted)
            outputs = [local[id(x)] for x in inner.outputs]
        else:
            outputs = keras.tree.flatten(call(node.operation, args, kwargs))
        for tensor, value in zip(node.outputs, outputs, strict=True):
            tensors[id(tensor)] = value
        place = wanted.get(id(node.operation))
        if place is not None:
            shortcut = tensors[id(node.input_tensors[place])]
            yield id(node.operation), _cosine(shortcut, outputs[0])


def _cosine(left: Any, right: Any) -> np.ndarray:
    left, right = (
        keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")).astype(np.float64)
        for x in (left, right)
    )
    norms = [np.linalg.norm(x, axis=-1) for x in (left, right)]
    product = norms[0] * norms[1]
    same = np.where(norms[0] == norms[1], 1.0, 0.0)  # Both are zero, or one of them.
    return np.divide(np.sum(left * right, axis=-1), product, same, where=product != 0)


def _check(blocks: Any) -> None:
    names = (
        not isinstance(blocks, str)
        and isinstance(blocks, Sequence)
        and all(isinstance(name, str) for name in blocks)
    )
    number = isinstance(blocks, int) and not isinstance(blocks, bool)
    if blocks is not None and not names and not number:
        raise TypeError(
            "`blocks` must be how many residual blocks to remove, or a list of the "
            f"names of the layers that end them. Received {blocks!r} of type "
            f"{type(blocks).__name__}."
        )
    if number and blocks < 0:
        raise ValueError(f"`blocks` must not be negative. Received {blocks}.")


def _least(
    model: keras.Model, there: Sequence[Block], count: int, data: Any
) -> list[Block]:
    """Returns the blocks that change their input least, of those that hold no other."""
    free = [block for block in there if not block.reason]
    keys = {id(block.operation) for block in free}
    inner = [block for block in free if not keys & (block.gone - {id(block.operation)})]
    if count > len(inner):
        raise ValueError(
            f"`blocks` is {count}, and {_listed(model, inner)}{_refusals(there)}"
        )
    ranked = np.argsort(influences(model, inner, data), kind="stable")
    return [inner[index] for index in sorted(ranked[:count])]


def _named(
    model: keras.Model, there: Sequence[Block], names: Sequence[str]
) -> list[Block]:
    """Returns the blocks of these names."""
    known = {block.name: block for block in there}
    for name in names:
        if name not in known:
            free = [block for block in there if not block.reason]
            raise ValueError(
                f"`blocks` names {name!r}, and {_listed(model, free)}{_refusals(there)}"
            )
        if known[name].reason:
            raise ValueError(
                f"Block {name!r} of {model.name!r} cannot be removed: "
                f"{known[name].reason}."
            )
    return [block for block in there if block.name in names]


def _listed(model: keras.Model, blocks: Sequence[Block]) -> str:
    names = ", ".join(repr(block.name) for block in blocks)
    return (
        f"{model.name!r} has {len(blocks)} residual blocks that can be removed"
        f"{': ' if names else ''}{names}."
    )


def _refusals(blocks: Sequence[Block]) -> str:
    lines = [f"\n  {block.name!r}: {block.reason}" for block in blocks if block.reason]
    return f"\nThese cannot:{''.join(lines)}" if lines else ""
