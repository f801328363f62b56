"""Residual blocks: where they end, which way round them is the shortcut, what goes.

This module changes when another kind of block can be removed as a whole.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from kprune.rebuild import graph_of, has_graph, nodes_of, plain
from kprune.structure.zeroing import run, zeroing


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """A branch that is added to a shortcut.

    Args:
        name: The name of the operation that adds them, after the names of the nested
            models that it is in.
        operation: That operation.
        shortcut: Position of the shortcut among its inputs; it is what stays.
        gone: Ids of the operations that nothing needs any more without the branch.
        zero: What makes the branch zero: by a variable's id a boolean array, all
            False, that broadcasts to the variable's shape.
        reason: Why the branch cannot be removed; empty if it can.
    """

    name: str
    operation: Any
    shortcut: int = 0
    gone: frozenset[int] = frozenset()
    zero: Mapping[int, np.ndarray] = dataclasses.field(default_factory=dict)
    reason: str = ""


def find(model: keras.Model) -> list[Block]:
    """Returns all blocks of a model, nested models included, in the graph's order.

    A block ends where an operation of two inputs of the same shape gives back one of
    them if the other one is zero, such as `Add`, `x + y`, or a layer that scales the
    branch first. Its shortcut is the input that the other one is computed from; or else
    of the two ways from where they part the one with fewer weights, a projection.
    """
    return [
        _block(model, prefix, graph, node)
        for prefix, graph in _graphs(model)
        for node in nodes_of(graph)
        if _passes(node)
    ]


def operations(
    model: keras.Model, bypass: Mapping[int, int] | None = None
) -> dict[int, Any]:
    """Returns by id what a model computes with, the layers of nested models included.

    Args:
        model: A model with a graph.
        bypass: By the id of an operation the position of the input that stands for it.
    """
    bypass = bypass or {}
    found: dict[int, Any] = {}
    for node in nodes_of(graph_of(model), bypass):
        operation = plain(node.operation)
        if _is_nested(operation):
            found |= operations(operation, bypass)
        elif id(node.operation) not in bypass:
            found[id(node.operation)] = operation
    return found


def _graphs(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """Yields a model's graph and those of nested models, each once, with its prefix."""
    waiting = [("", graph_of(model))]
    seen = set()
    for prefix, graph in waiting:
        if id(graph) not in seen:
            seen.add(id(graph))
            yield prefix, graph
            for node in nodes_of(graph):
                operation = plain(node.operation)
                if _is_nested(operation):
                    name = f"{prefix}{operation.name}/"
                    waiting.append((name, graph_of(operation)))


def _is_nested(operation: Any) -> bool:
    return has_graph(operation) and graph_of(operation) is not None


def _passes(node: Any) -> list[int]:
    """Returns the positions of inputs that a node gives back if the other is zero."""
    tensors = [*node.input_tensors, *node.outputs]
    if len({id(x) for x in node.input_tensors}) != 2 or len(tensors) != 3:
        return []
    kinds = {
        (tuple(x.shape), keras.backend.standardize_dtype(x.dtype)) for x in tensors
    }
    if len(kinds) > 1 or not keras.backend.is_float_dtype(tensors[0].dtype):
        return []
    found = []
    for place, tensor in enumerate(node.input_tensors):
        values, outputs = run(node, zero=[node.input_tensors[1 - place]])
        if outputs and np.array_equal(values[id(tensor)], outputs[0]):
            found.append(place)
    return found


def _block(model: keras.Model, prefix: str, graph: Any, node: Any) -> Block:
    """Returns the block that a node ends, with the reason if it cannot be removed."""
    block = Block(f"{prefix}{node.operation.name}", node.operation)
    nodes = nodes_of(graph)
    if sum(other.operation is node.operation for other in nodes) > 1:
        return _refused(block, "its last layer is called several times")
    ways = _Ways(nodes, node)
    if ways.reason:
        return _refused(block, ways.reason)
    if ways.shortcut not in _passes(node):
        return _refused(block, "what it adds is not the shortcut as it is")
    bypass = {id(node.operation): ways.shortcut}
    left = operations(model, bypass)
    used = {id(x) for other in nodes_of(graph, bypass) for x in other.outputs}
    used -= {id(x) for x in node.outputs}
    used |= {id(x) for x in graph.outputs}
    for other in nodes:
        if any(id(x) in ways.inner and id(x) in used for x in other.outputs):
            return _refused(
                block, f"{other.operation.name!r}, inside of it, is used elsewhere, too"
            )
    kept = {id(v) for layer in left.values() for v in getattr(layer, "weights", ())}
    zero, reason = zeroing(
        {id(x): other for other in nodes for x in other.outputs},
        node.input_tensors[1 - ways.shortcut],
        kept,
    )
    if reason:
        return _refused(block, f"its branch cannot be made zero: {reason}")
    gone = frozenset(operations(model).keys() - left.keys())
    return dataclasses.replace(block, shortcut=ways.shortcut, gone=gone, zero=zero)


def _refused(block: Block, reason: str) -> Block:
    return dataclasses.replace(block, reason=reason)


class _Ways:
    """The two ways that end in a node, from where they part.

    Attributes:
        shortcut: Position of the shortcut among the node's inputs.
        inner: Ids of the tensors on the other way.
        reason: Why there is no shortcut; empty if there is one.
    """

    shortcut = 0
    inner: frozenset[int] = frozenset()
    reason = ""

    def __init__(self, nodes: list[Any], end: Any) -> None:
        # Per tensor the bits of all that it is computed from, and its own.
        self._bit: dict[int, int] = {}
        self._above: dict[int, int] = {}
        self._tensors: list[Any] = []
        self._makers: list[Any] = []
        for node in nodes:
            for tensor in node.input_tensors:
                if id(tensor) not in self._bit:  # An input of the graph.
                    self._add(tensor, None)
            for tensor in node.outputs:
                self._add(tensor, node)
        above = [self._above[id(tensor)] for tensor in end.input_tensors]
        common = above[0] & above[1]
        apart = [bits & ~common for bits in above]
        costs = [(self._weights(bits), bits.bit_count()) for bits in apart]
        if not common:
            self.reason = "its inputs do not come from the same tensor"
        elif costs[0][0] == costs[1][0] and costs[0][1] and costs[1][1]:
            self.reason = (
                "both ways to it have as many weights: neither is the shortcut"
            )
        else:
            self.shortcut = 0 if costs[0] < costs[1] else 1
            self._look(end, common, apart)

    def _add(self, tensor: Any, node: Any) -> None:
        bit = 1 << len(self._tensors)
        self._bit[id(tensor)] = bit
        self._tensors.append(tensor)
        self._makers.append(node)
        for other in node.input_tensors if node else ():
            bit |= self._above[id(other)]
        self._above[id(tensor)] = bit

    def _weights(self, bits: int) -> int:
        """Returns how many weights there are on a way."""
        layers = {
            id(node.operation): node.operation
            for node in self._makers_of(bits)
            if isinstance(node.operation, keras.layers.Layer)
        }
        return sum(layer.count_params() for layer in layers.values())

    def _makers_of(self, bits: int) -> Iterator[Any]:
        for node, tensor in zip(self._makers, self._tensors, strict=True):
            if node is not None and bits & self._bit[id(tensor)]:
                yield node

    def _look(self, end: Any, common: int, apart: list[int]) -> None:
        """Finds what is on the branch; other models may join it from the side."""
        short, branch = apart[self.shortcut], apart[1 - self.shortcut]
        entry = 0
        for node in self._makers_of(short):
            for tensor in node.input_tensors:
                entry |= self._bit[id(tensor)] & common
        entry = entry or self._bit[id(end.input_tensors[self.shortcut])]
        if not any(
            keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype))
            for x in self._tensors
            if self._bit[id(x)] & entry
        ):
            self.reason = "both ways to it begin at whole numbers, as embeddings do"
        self.inner = frozenset(
            id(x)
            for x in self._tensors
            if self._bit[id(x)] & branch and self._above[id(x)] & entry
        )
        if id(end.input_tensors[1 - self.shortcut]) not in self.inner:
            self.reason = "its inputs do not come from the same tensor"
