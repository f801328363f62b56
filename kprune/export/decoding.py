"""Reading weights that TensorFlow Lite Micro decodes while it runs.

This module changes when files may hold weights in another encoding. The formats are
those of `kprune.export.encoding`; like `tflite`, it trusts nothing in the file.
"""

import dataclasses
from typing import Any

import numpy as np

from kprune.export.encoding import DECODE, DTYPES, HEADER, PRUNING, TABLE
from kprune.export.tflite import Subgraph, Tensor, TFLiteFile

_TYPES = {0: TABLE, 2: PRUNING}
_ONE_TABLE = 15  # In the place of an axis.


def decoded(file: TFLiteFile) -> TFLiteFile:
    """Returns a file whose encoded weights have the values that are decoded of them.

    Args:
        file: A file that was read. Decoded tensors of other types, or by other
            decoders, are left as they are.

    Raises:
        ValueError: If an encoded tensor is damaged.
    """
    graphs = tuple(_decoded_graph(graph) for graph in file.subgraphs)
    return dataclasses.replace(file, subgraphs=graphs)


def _decoded_graph(graph: Subgraph) -> Subgraph:
    tensors = list(graph.tensors)
    for operator in graph.operators:
        if operator.name != DECODE:
            continue
        if len(operator.inputs) != 2 * len(operator.outputs):
            raise ValueError(
                f"{DECODE} has {len(operator.inputs)} inputs for "
                f"{len(operator.outputs)} outputs, and must have two for each."
            )
        pairs = zip(operator.inputs[::2], operator.inputs[1::2], strict=True)
        for (code, header), index in zip(pairs, operator.outputs, strict=True):
            bytes_of = [_bytes(tensors[place]) for place in (code, header)]
            values = _values(tensors[index], *bytes_of)
            if values is not None:
                tensors[index] = dataclasses.replace(tensors[index], values=values)
    return dataclasses.replace(graph, tensors=tuple(tensors))


def _bytes(tensor: Tensor) -> np.ndarray:
    values = tensor.values
    if values is None or tensor.type != "UINT8":
        raise ValueError(f"{DECODE} reads tensor {tensor.index}, which has no bytes.")
    return values


def _values(
    tensor: Tensor, code: np.ndarray, ancillary: np.ndarray
) -> np.ndarray | None:
    """Returns what is decoded, flat; `None` if it is not known how."""
    if len(ancillary) < HEADER:
        raise ValueError(
            f"The header for tensor {tensor.index} has {len(ancillary)} of "
            f"{HEADER} bytes."
        )
    method = _TYPES.get(int(ancillary[0]))
    if method is None or tensor.type not in DTYPES or min(tensor.shape, default=1) < 1:
        return None
    dtype: Any = np.dtype(DTYPES[tensor.type])
    rest = ancillary[HEADER:].tobytes()
    if len(rest) % dtype.itemsize:
        raise ValueError(f"The values for tensor {tensor.index} end in the middle.")
    values = np.frombuffer(rest, dtype)
    if method == PRUNING:
        return _unpruned(tensor, code, values)
    return _looked_up(tensor, code, values, int(ancillary[5]), int(ancillary[6]))


def _unpruned(tensor: Tensor, code: np.ndarray, values: np.ndarray) -> np.ndarray:
    kept = _numbers(tensor, code, 1).astype(bool)
    if np.count_nonzero(kept) != len(values):
        raise ValueError(
            f"Tensor {tensor.index} keeps {np.count_nonzero(kept)} elements, and "
            f"{len(values)} values stand for them."
        )
    shape = [1] * len(tensor.shape)
    zero = tensor.zero_point if tensor.type == "INT8" else np.zeros(0)
    if zero.size > 1:
        shape[tensor.axis] = -1
    filled = zero.reshape(shape) if zero.size else 0
    result = np.broadcast_to(filled, tensor.shape).astype(values.dtype).reshape(-1)
    result[kept] = values
    return result


def _looked_up(
    tensor: Tensor, code: np.ndarray, values: np.ndarray, layout: int, stride: int
) -> np.ndarray:
    axis, bits = layout >> 4, layout & 7
    if not bits or (axis != _ONE_TABLE and axis >= len(tensor.shape)):
        raise ValueError(
            f"The look-up table of tensor {tensor.index} has indices of {bits} bits, "
            f"along axis {axis}."
        )
    places = _numbers(tensor, code, bits)
    if axis != _ONE_TABLE:
        channels = np.arange(tensor.shape[axis]) * stride
        shape = [1] * len(tensor.shape)
        shape[axis] = -1
        there = np.broadcast_to(channels.reshape(shape), tensor.shape)
        places = places + there.reshape(-1)
    if places.max(initial=0) >= len(values):
        raise ValueError(f"The look-up table of tensor {tensor.index} is too short.")
    return values[places]


def _numbers(tensor: Tensor, code: np.ndarray, bits: int) -> np.ndarray:
    """Returns one number of so many bits per element, highest bits first."""
    if len(code) != -(-tensor.size * bits // 8):
        raise ValueError(
            f"Tensor {tensor.index} of {tensor.size} elements is encoded in {len(code)}"
            f" bytes, {bits} bits for each."
        )
    single = np.unpackbits(code)[: tensor.size * bits].reshape(-1, bits)
    return single @ (1 << np.arange(bits)[::-1])
