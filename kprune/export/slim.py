"""Smaller `.tflite` files that compute the same: what no runtime reads is left out.

This module changes when the converter writes something else that nobody reads.

A file as the converter writes it names every tensor, keeps the ranges that it was
calibrated on, tells of its own making, has one buffer entry for each activation, and
repeats scales and zero points for weights, biases and results. Flatbuffers may point to
the same bytes from several places, so that each is written once here.
"""

from collections.abc import Hashable
from typing import Any

import numpy as np

from kprune.export import tflite
from kprune.export.metadata import append, appended
from kprune.export.packing import has_outside_data, pack, unpack

# What the converter tells of itself. Other entries are read: labels, plans of memory.
_UNREAD = (b"min_runtime_version", b"CONVERSION_METADATA")


def slim(data: bytes) -> bytes:
    """Returns a file with the same graph, weights and signatures in fewer bytes.

    Names of tensors go, except those of inputs and outputs that no signature names.
    Files that metadata has appended, such as labels, stay.

    Args:
        data: A `.tflite` file.

    Returns:
        The smaller file, or `data` itself if it is not smaller.

    Raises:
        ValueError: If `data` is not a readable TFLite model.
    """
    tflite.parse(data)
    from ai_edge_litert import schema_py_generated as schema

    model = unpack(data)
    files = appended(data)
    if has_outside_data(model) or files is None:
        return data
    model.description = None
    model.metadataBuffer = None
    model.metadata = [
        item for item in model.metadata or () if item.name not in _UNREAD
    ] or None
    signed = {item.subgraphIndex for item in model.signatureDefs or ()}
    once = _Once()
    for index, graph in enumerate(model.subgraphs):
        ends: set[int] = set()
        if index not in signed:
            ends = {int(i) for i in (*_items(graph.inputs), *_items(graph.outputs))}
        graph.name = None
        for place, tensor in enumerate(graph.tensors or ()):
            if place not in ends:
                tensor.name = None
            if -1 not in _items(tensor.shapeSignature):
                tensor.shapeSignature = None
            if tensor.quantization is not None:
                tensor.quantization.min = tensor.quantization.max = None
                tensor.quantization = once(tensor.quantization)
        for operator in graph.operators or ():
            operator.builtinOptions = once(operator.builtinOptions)
    with tflite.refusing_damage():  # Metadata may name a buffer that is missing.
        _merge_buffers(model, schema)
    smaller = append(pack(model), files)
    return smaller if len(smaller) < len(data) else data


def _items(vector: Any) -> tuple[Any, ...]:
    """Returns a vector's items; the generated code has other things for none."""
    return () if vector is None or isinstance(vector, int) else tuple(vector)


def _merge_buffers(model: Any, schema: Any) -> None:
    """Leaves one buffer for each content, and the first one for no content."""
    empty = schema.BufferT()
    kept, places = [empty], {b"": 0}

    def place(index: int) -> int:
        buffer = model.buffers[index]
        data = b"" if buffer.data is None else bytes(bytearray(buffer.data))
        if data not in places:
            places[data] = len(kept)
            kept.append(buffer)
        return places[data]

    for graph in model.subgraphs:
        for tensor in graph.tensors or ():
            tensor.buffer = place(tensor.buffer)
    for item in model.metadata or ():
        item.buffer = place(item.buffer)
    model.buffers = kept


class _Once:
    """Returns for equal tables the same object, which writes itself once."""

    def __init__(self) -> None:
        self.known: dict[Hashable, Any] = {}

    def __call__(self, table: Any) -> Any:
        if table is None:
            return None
        return self.known.setdefault(_frozen(table), _Table(table))


class _Table:
    """A table that stands once in the file, however many others point to it."""

    def __init__(self, table: Any) -> None:
        self.table = table
        self.offset: int | None = None

    def Pack(self, builder: Any) -> int:  # noqa: N802  (the generated code's name)
        """Writes the table, the first time, and returns where it stands."""
        if self.offset is None:
            self.offset = self.table.Pack(builder)
        return self.offset


def _frozen(value: Any) -> Hashable:
    """Returns what is equal for equal tables, vectors and numbers."""
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.tobytes())
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    if hasattr(value, "__dict__"):
        fields = sorted(vars(value).items())
        return (type(value), tuple((name, _frozen(item)) for name, item in fields))
    return value
