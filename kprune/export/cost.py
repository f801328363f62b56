"""Multiply-accumulates (MACs) of a `.tflite` graph.

This module changes when another operator's MACs are to be counted.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from kprune.export.tflite import Operator, Subgraph, Tensor, TFLiteFile


@dataclasses.dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one inference at batch 1.

    Args:
        total: All of them.
        nonzero: Those whose weight is not zero; what a runtime could skip at best.
        uncounted: Names of operators in the graph that were not counted: element-wise
            arithmetic, pooling, movement of data.
    """

    total: int
    nonzero: int
    uncounted: tuple[str, ...]


# Each entry: how often each weight element is used, from the shapes of the operator's
# first input, its weights and its output.
_Shape = tuple[int, ...]
_USES: Mapping[str, tuple[int, int, Callable[[_Shape, _Shape, _Shape], int]]] = {
    # (position of the activations, position of the weights, uses per weight element)
    "CONV_2D": (0, 1, lambda x, w, y: math.prod(y[:3])),
    "DEPTHWISE_CONV_2D": (0, 1, lambda x, w, y: math.prod(y[:3])),
    "FULLY_CONNECTED": (0, 1, lambda x, w, y: math.prod(y) // w[0]),
    "TRANSPOSE_CONV": (2, 1, lambda x, w, y: math.prod(x[:3])),
    "BATCH_MATMUL": (0, 1, lambda x, w, y: math.prod(y) * x[-1] // math.prod(w)),
}


def count_macs(file: TFLiteFile) -> Macs:
    """Counts the MACs of a file's graph; the body of a loop counts once."""
    total = nonzero = 0
    uncounted = set()
    for graph in file.subgraphs:
        for operator in graph.operators:
            found = uses(graph, operator)
            if found is None:
                uncounted.add(operator.name)
                continue
            weights, times = found
            total += times * weights.size
            nonzero += times * nonzeros(weights)
    return Macs(total, nonzero, tuple(sorted(uncounted)))


def uses(graph: Subgraph, operator: Operator) -> tuple[Tensor, int] | None:
    """Returns an operator's weights and how often each element is used at batch 1.

    Returns:
        `None` if the operator is not counted, or its shapes are not known.
    """
    weights = _weights(graph, operator)
    if weights is None:
        return None
    activations, _, times = _USES[operator.name]
    return weights, times(
        graph.tensors[operator.inputs[activations]].shape,
        weights.shape,
        graph.tensors[operator.outputs[0]].shape,
    )


def nonzeros(tensor: Tensor) -> int:
    """Returns how many elements of a tensor are not known to be zero."""
    if tensor.values is not None and tensor.sparse:
        return int(np.count_nonzero(tensor.values))
    zeros = tensor.zero_mask
    return tensor.size if zeros is None else tensor.size - int(zeros.sum())


def _weights(graph: Subgraph, operator: Operator) -> Tensor | None:
    """Returns the operator's weights, seen through an unpacking operator."""
    if operator.name not in _USES:
        return None
    activations, position, _ = _USES[operator.name]
    if len(operator.inputs) <= max(activations, position) or not operator.outputs:
        return None
    weights = graph.stored(operator.inputs[position])
    involved = (
        graph.tensors[operator.inputs[activations]],
        weights,
        graph.tensors[operator.outputs[0]],
    )
    if any(min(item.shape, default=0) < 1 for item in involved):
        return None  # Dynamic or empty shapes cannot be counted.
    return weights
