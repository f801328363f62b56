"""Weights that TensorFlow Lite Micro decodes while it runs, in less flash.

This module changes when that runtime decodes something new.

Its operator TFLM_DECODE takes an encoded tensor and a header, and makes the weights
before the operator that reads them. Two of its ways to decode are used here: *pruning*,
one bit per element that says whether it is zero and then the others in their order; and
*look-up tables*, a table of the values and an index of 1 to 7 bits per element. Both
give back the very same weights.

Source: the operator's kernel and format,
https://github.com/tensorflow/tflite-micro/tree/main/tensorflow/lite/micro/kernels
(decode_state_prune.cc, decode_state_lut.cc), and the package's own modules in
tflite_micro.tensorflow.lite.micro.compression, which insert the operators and write
look-up tables. Their encoder for pruning raises an error; the one here takes its place.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kprune.export import tflite
from kprune.export.slim import slim
from kprune.export.tflite import Operator, Subgraph, Tensor, TFLiteFile
from kprune.report import EncodedWeight

RAW, PRUNING, TABLE = "as it is", "pruning", "look-up table"
DECODE = "CUSTOM:TFLM_DECODE"

# Where operators have weights that their kernels read only while they run.
_WEIGHTS = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "FULLY_CONNECTED": 1,
    "TRANSPOSE_CONV": 1,
}
DTYPES = {"INT8": "<i1", "INT16": "<i2", "FLOAT32": "<f4"}
"""The types of weights that are encoded, and how their elements are stored."""
HEADER = 16
"""Bytes before the values of either encoding."""
_MOST_VALUES = 128  # In one table: an index has 7 bits at most.
# What the operator, its tensors and the alignment of its buffers take in the file, at
# most: a gain below it is none.
_OVERHEAD = 256
_ALIGNMENT = 16  # Of a decoded tensor in memory.


@dataclasses.dataclass(frozen=True)
class _Choice:
    """How one weight of a file is best stored.

    Args:
        graph: Position of its subgraph.
        tensor: Position of it there.
        shape: Its shape.
        method: `RAW`, `PRUNING` or `TABLE`.
        bytes: What it takes then, header included.
        raw_bytes: What it takes as it is.
        entropy_bytes: Its zeroth-order entropy.
        uses: How many operators read it.
        axis: Of look-up tables, the axis that each have their own; `None` for one.
        bits: Of look-up tables, bits of an index.
    """

    graph: int
    tensor: int
    shape: tuple[int, ...]
    method: str
    bytes: int
    raw_bytes: int
    entropy_bytes: int
    uses: int
    axis: int | None = None
    bits: int = 0

    @property
    def gain(self) -> int:
        """Bytes of flash that are saved for certain."""
        return self.raw_bytes - self.bytes - self.uses * _OVERHEAD


def survey(
    data: bytes, names: Mapping[int, str] | None = None, limit: int | None = None
) -> tuple[EncodedWeight, ...]:
    """Returns how each weight of a file is best stored, without doing it.

    Args:
        data: A `.tflite` file.
        names: What weights are called, by their tensor's index in the main graph.
        limit: The most bytes of a weight that is to be encoded; any number if `None`.

    Raises:
        ValueError: If it is not a readable TFLite model.
    """
    choices = _choices(tflite.parse(data), limit)
    return tuple(_told(choice, names or {}) for choice in choices)


def encode(data: bytes, limit: int | None = None) -> bytes:
    """Returns a file whose weights are decoded while it runs, slimmed.

    Each weight is stored in the smallest of three ways: as it is, by pruning or by a
    look-up table. Only TensorFlow Lite Micro can run the result.

    Args:
        data: A `.tflite` file.
        limit: The most bytes of a weight that is to be encoded, since it takes as many
            in memory when it is decoded; any number if `None`.

    Returns:
        The encoded file; `data`, slimmed, if that is not larger.

    Raises:
        ValueError: If `data` is not a readable TFLite model.
    """
    plain = slim(data)
    found = _choices(tflite.parse(plain), limit)
    choices = [item for item in found if item.method != RAW]
    if not choices:
        return plain
    from tflite_micro.tensorflow.lite.micro.compression import (
        decode_insert,
        model_editor,
    )

    model = model_editor.read(plain)
    results = {
        (item.graph, item.tensor): _encoded(
            model.subgraphs[item.graph].tensors[item.tensor], item
        )
        for item in choices
    }
    decode_insert.insert_decode_operators(model, results)
    for graph, tensor in results:
        # The package forgets it in its own object only: bytes have no scales.
        model.subgraphs[graph].tensors[tensor]._fb.quantization = None
    smaller = slim(bytes(model.build()))
    return smaller if len(smaller) < len(plain) else plain


def pruned_bytes(size: int, kept: int, width: int) -> int:
    """Returns what a weight takes if its zeros are bits, or as it is if that is less.

    Args:
        size: Number of elements.
        kept: How many are not zero.
        width: Bytes of one.
    """
    pruned = _pruning(size, kept, width)
    return pruned if size * width - pruned > _OVERHEAD else size * width


def _pruning(size: int, kept: int, width: int) -> int:
    return HEADER + -(-size // 8) + kept * width


def alternate_bytes(data: bytes) -> int:
    """Returns the memory that holds what is decoded for any one operator, in bytes.

    An application may give the runtime so much memory for decoded weights, which then
    take no place in the arena.

    Args:
        data: An encoded file.
    """
    return max(
        (
            sum(
                _in_memory(graph.tensors[index]) + _ALIGNMENT
                for index in operator.outputs
            )
            for graph in tflite.parse(data).subgraphs
            for operator in graph.operators
            if operator.name == DECODE
        ),
        default=0,
    )


def _in_memory(tensor: Tensor) -> int:
    width = np.dtype(DTYPES[tensor.type]).itemsize
    return -(-tensor.size * width // _ALIGNMENT) * _ALIGNMENT


def _told(choice: _Choice, names: Mapping[int, str]) -> EncodedWeight:
    name = f"tensor {choice.tensor}"
    if choice.graph:
        name += f" of graph {choice.graph}"
    return EncodedWeight(
        name if choice.graph else names.get(choice.tensor, name),
        choice.shape,
        choice.method,
        choice.raw_bytes,
        choice.bytes,
        choice.entropy_bytes,
    )


def _choices(file: TFLiteFile, limit: int | None) -> Iterator[_Choice]:
    """Yields how the weights of a file are best stored, each once."""
    for place, graph in enumerate(file.subgraphs):
        readers = _readers(graph)
        for tensor in graph.tensors:
            reading, array = readers.get(tensor.index, []), tensor.array
            if array is None or not reading:
                continue
            if all(_decodes(graph, tensor, item) for item in reading):
                yield _best(place, tensor, array, len(reading), limit)


def _readers(graph: Subgraph) -> dict[int, list[tuple[Operator, int]]]:
    """Returns by a tensor's index which operators read it, and in which place."""
    found: dict[int, list[tuple[Operator, int]]] = {}
    for operator in graph.operators:
        for position, index in enumerate(operator.inputs):
            found.setdefault(index, []).append((operator, position))
    return found


def _decodes(graph: Subgraph, tensor: Tensor, reader: tuple[Operator, int]) -> bool:
    operator, position = reader
    return (
        _WEIGHTS.get(operator.name) == position
        and tensor.index not in graph.outputs
        and tensor.type in DTYPES
        and (tensor.type == "INT8" or not tensor.zero_point.any())
        and (tensor.scale.size <= 1 or tensor.axis in (0, len(tensor.shape) - 1))
    )


def _best(
    graph: int, tensor: Tensor, array: np.ndarray, uses: int, limit: int | None
) -> _Choice:
    raw = array.nbytes
    kept = int(np.count_nonzero(_kept(array, tensor.zero_point, tensor.axis)))
    as_it_is = _Choice(
        graph,
        tensor.index,
        tensor.shape,
        RAW,
        raw,
        raw,
        math.ceil(_entropy(array) / 8),
        uses,
    )
    if limit is not None and raw > limit:
        return as_it_is
    pruned = _pruning(array.size, kept, array.itemsize)
    found = [dataclasses.replace(as_it_is, method=PRUNING, bytes=pruned)]
    # One table, or one per scale: the runtime goes by the scales, whatever axis the
    # header names (measured).
    axis = tensor.axis if tensor.scale.size > 1 else None
    longest = _longest_table(array, axis)
    if longest <= _MOST_VALUES:
        bits = max(1, (longest - 1).bit_length())
        tables = (1 if axis is None else array.shape[axis]) * longest
        size = HEADER + -(-array.size * bits // 8) + tables * array.itemsize
        found.append(
            dataclasses.replace(
                as_it_is, method=TABLE, bytes=size, axis=axis, bits=bits
            )
        )
    best = min(found, key=lambda item: item.bytes)
    return best if best.gain > 0 else as_it_is


def _kept(array: np.ndarray, zero_point: np.ndarray, axis: int) -> np.ndarray:
    """Returns which elements are not stored as the zero that pruning decodes to."""
    if array.dtype.kind == "f":  # A negative zero is no zero, bit for bit.
        return array.view(f"u{array.itemsize}") != 0
    shape = [1] * array.ndim
    if zero_point.size > 1:
        shape[axis] = zero_point.size
    zero = zero_point.reshape(shape) if zero_point.size else 0
    return array != zero


def _entropy(array: np.ndarray) -> float:
    """Returns the zeroth-order entropy of all elements together, in bits."""
    _, counts = np.unique(_bits(array), return_counts=True)
    return float((counts * np.log2(array.size / counts)).sum())


def _bits(array: np.ndarray) -> np.ndarray:
    # Floats are told apart by their bits: NaN and the two zeros.
    return array.view(f"u{array.itemsize}") if array.dtype.kind == "f" else array


def _longest_table(array: np.ndarray, axis: int | None) -> int:
    """Returns how many values the slice with most of them has."""
    rows = _bits(array)
    rows = rows.reshape(1, -1) if axis is None else np.moveaxis(rows, axis, 0)
    rows = np.sort(rows.reshape(rows.shape[0], -1), axis=1)
    return 1 + int((rows[:, 1:] != rows[:, :-1]).sum(axis=1).max(initial=0))


def _encoded(tensor: Any, choice: _Choice) -> Any:
    from tflite_micro.tensorflow.lite.micro.compression import compressor, lut, spec

    if choice.method == TABLE:
        mode = spec.PerTensor() if choice.axis is None else spec.PerChannel(choice.axis)
        return lut.LutCompressor().compress(
            tensor, spec.LookUpTableCompression(choice.bits, mode)
        )
    return compressor.CompressionResult(*_pruned(tensor))


def _pruned(tensor: Any) -> tuple[bytes, bytes]:
    """Returns the bits of a tensor, and its header with the elements that are kept."""
    from tflite_micro.tensorflow.lite.micro.compression import decode

    quantization = tensor.quantization
    points: Sequence[int] = [0]
    axis = 0
    if quantization is not None:
        points = np.atleast_1d(quantization.zero_points).tolist()
        axis = quantization.axis or 0
    kept = _kept(tensor.array, np.asarray(points), axis)
    version = bytes([1])  # Of the format, after the header's own.
    header = decode.DecodeCommonMetadata(decode.DecodeType.PRUNING, user_data=version)
    bits = np.packbits(kept.reshape(-1))  # The first element is the highest bit.
    return bits.tobytes(), header.to_bytes() + tensor.array[kept].tobytes()
