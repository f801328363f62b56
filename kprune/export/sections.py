"""What the bytes of a `.tflite` file are for.

This module changes when files hold something else that is worth telling apart.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from kprune.export import tflite
from kprune.export.encoding import DECODE
from kprune.report import FileSize

SECTIONS = (
    "weights",
    "sparsity metadata",
    "biases and constants",
    "quantisation",
    "graph",
    "metadata",
    "appended files",
)
"""The sections.

`weights` are constants of two axes and more, and the values of encoded ones. `sparsity
metadata` says where the stored values belong: indices of LiteRT's sparse tensors, and
the codes of encoded weights. `quantisation` are scales and zero points. `appended
files` lie behind the model, as labels do. `graph` is all else: operators, tensors,
names, signatures and what fills up to the next multiple of 16.
"""


def sections(data: bytes) -> dict[str, FileSize]:
    """Returns the bytes of each section that a file has, the largest first.

    Raw bytes add up to the file's. Each section is compressed by itself, so that the
    compressed bytes add up to about those of the file.

    Args:
        data: A `.tflite` file.

    Raises:
        ValueError: If `data` is not a readable TFLite model.
    """
    file = tflite.parse(data)
    with tflite.refusing_damage():
        places = list(_places(file, data))
    bytes_of = np.frombuffer(data, np.uint8)
    graph = SECTIONS.index("graph")
    owner = np.full(len(data), graph, np.uint8)
    for name, start, length in places:
        part = owner[start : start + length]
        part[part == graph] = SECTIONS.index(name)  # What is shared counts once.
    sizes = {
        name: FileSize.of(bytes_of[owner == number].tobytes())
        for number, name in enumerate(SECTIONS)
        if (owner == number).any()
    }
    return dict(sorted(sizes.items(), key=lambda item: -item[1].raw))


def _places(file: tflite.TFLiteFile, data: bytes) -> Iterator[tuple[str, int, int]]:
    """Yields section, first byte and length of all that is not the graph."""
    from ai_edge_litert import schema_py_generated as schema

    base = _address(np.frombuffer(data, np.uint8))

    def place(name: str, vector: Any) -> Iterator[tuple[str, int, int]]:
        if not isinstance(vector, int):  # The generated code's word for none.
            yield name, _address(vector) - base, vector.nbytes

    model = schema.Model.GetRootAs(data, 0)
    for number, graph in enumerate(file.subgraphs):
        names = _names(graph)
        table = model.Subgraphs(number)
        for tensor in graph.tensors:
            entry = table.Tensors(tensor.index)
            buffer = model.Buffers(entry.Buffer())
            name = names.get(tensor.index, "biases and constants")
            if buffer.Offset() > 1:
                yield name, buffer.Offset(), buffer.Size()
            yield from place(name, buffer.DataAsNumpy())
            if (scales := entry.Quantization()) is not None:
                yield from place("quantisation", scales.ScaleAsNumpy())
                yield from place("quantisation", scales.ZeroPointAsNumpy())
            if (sparsity := entry.Sparsity()) is not None:
                for vector in _indices(sparsity, schema):
                    yield from place("sparsity metadata", vector)
    for number in range(model.MetadataLength()):
        vector = model.Buffers(model.Metadata(number).Buffer()).DataAsNumpy()
        yield from place("metadata", vector)
    end = _end(data)
    yield "appended files", end, len(data) - end


def _names(graph: tflite.Subgraph) -> dict[int, str]:
    """Returns sections by the tensors that do not hold biases and constants."""
    names = {
        tensor.index: "weights"
        for tensor in graph.tensors
        if len(tensor.shape) > 1 and (tensor.scale.size or "FLOAT" in tensor.type)
    }
    for operator in graph.operators:
        if operator.name == DECODE:
            names |= dict.fromkeys(operator.inputs[::2], "sparsity metadata")
            names |= dict.fromkeys(operator.inputs[1::2], "weights")
    return names


def _indices(sparsity: Any, schema: Any) -> Iterator[Any]:
    """Yields the vectors that say where the values of a sparse tensor belong."""
    kinds = schema.SparseIndexVector
    classes = {
        kinds.Int32Vector: schema.Int32Vector,
        kinds.Uint16Vector: schema.Uint16Vector,
        kinds.Uint8Vector: schema.Uint8Vector,
    }
    for number in range(sparsity.DimMetadataLength()):
        axis = sparsity.DimMetadata(number)
        for kind, table in (
            (axis.ArraySegmentsType(), axis.ArraySegments()),
            (axis.ArrayIndicesType(), axis.ArrayIndices()),
        ):
            if kind in classes and table is not None:
                found = classes[kind]()
                found.Init(table.Bytes, table.Pos)
                yield found.ValuesAsNumpy()


def _end(data: bytes) -> int:
    """Returns where the files begin that lie behind the model, or the file's end."""
    import io
    import zipfile

    from kprune.export.metadata import appended

    if not appended(data):
        return len(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return min(entry.header_offset for entry in archive.infolist())


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])
