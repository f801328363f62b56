"""Labels inside of a `.tflite` file, as apps and Android Studio look for them.

This module changes when the format of TFLite Metadata does: a flatbuffer of its own,
among the model's buffers, says what inputs and outputs are; files that it names, here
`labels.txt`, stand in a ZIP archive behind the model. Of the packages that write it,
tflite-support needs an older protobuf than TensorFlow, and mediapipe OpenCV and
Matplotlib; the few tables that labels need are written here.

Format: https://ai.google.dev/edge/litert/models/metadata
Schema: https://github.com/tensorflow/tflite-support/blob/master/tensorflow_lite_support/metadata/metadata_schema.fbs
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kprune.export import tflite
from kprune.export.labels import Labels
from kprune.export.packing import has_outside_data, pack, unpack

LABELS = "labels.txt"
"""The name of the file with the labels, one per line."""

_ENTRY = b"TFLITE_METADATA"
_IDENTIFIER = b"M001"
_SCHEMA = "1.0.0"  # The first that has all that is written here.
# What all files in the archive have, so that equal models make equal files anywhere.
_TIME = (1980, 1, 1, 0, 0, 0)
_UNIX, _MODE = 3, 0o644

# The schema's tables in the order of their fields, up to the last that is written. A
# union is two fields: which of its tables it is, and that table.
_FIELDS: Mapping[str, Sequence[str]] = {
    "AssociatedFile": ("name", "description", "type"),
    "Content": ("content_properties_type", "content_properties"),
    "TensorMetadata": (
        "name",
        "description",
        "dimension_names",
        "content",
        "process_units",
        "stats",
        "associated_files",
    ),
    "SubGraphMetadata": (
        "name",
        "description",
        "input_tensor_metadata",
        "output_tensor_metadata",
    ),
    "ModelMetadata": (
        "name",
        "description",
        "version",
        "subgraph_metadata",
        "author",
        "license",
        "associated_files",
        "min_parser_version",
    ),
}
# Values of the schema's AssociatedFileType and ContentProperties.
_TENSOR_AXIS_LABELS = 2
_FEATURE_PROPERTIES = 1


def with_labels(data: bytes, labels: Labels, name: str, description: str) -> bytes:
    """Returns a file that names the entries of an output, besides what it was.

    Args:
        data: A `.tflite` file with a signature.
        labels: The labels, and the name of their output in the signature.
        name: What the model is called.
        description: What it is, in a sentence.

    Raises:
        ValueError: If the file is one of more than 2 GiB.
    """
    from ai_edge_litert import schema_py_generated as schema

    file = tflite.parse(data)
    model = unpack(data)
    if has_outside_data(model):
        raise ValueError(
            "Files of more than 2 GiB cannot hold labels. Leave `labels` out."
        )
    buffer, entry = schema.BufferT(), schema.MetadataT()
    content = _metadata(file, labels, name, description)
    buffer.data = np.frombuffer(content, np.uint8)
    entry.name, entry.buffer = _ENTRY, len(model.buffers)
    model.buffers = [*model.buffers, buffer]
    model.metadata = [*(model.metadata or ()), entry]
    text = "".join(f"{label}\n" for label in labels.names)
    return append(pack(model), {LABELS: text.encode()})


def labels_of(data: bytes) -> tuple[str, ...]:
    """Returns the labels that a file holds, or none."""
    text = (appended(data) or {}).get(LABELS, b"").decode("utf-8", "replace")
    return tuple(text.removesuffix("\n").split("\n")) if text else ()


def append(data: bytes, files: Mapping[str, bytes]) -> bytes:
    """Returns a model with a ZIP archive of files behind it, if there are files.

    They are not compressed, and places in the archive count from the model's first
    byte, as the format has it: apps read them out of a file that they have mapped.
    """
    if not files:
        return data
    result = io.BytesIO(data)
    result.seek(0, io.SEEK_END)
    # Not "a": that goes on with an archive that a damaged model holds itself.
    with zipfile.ZipFile(result, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.create_system, entry.external_attr = _UNIX, _MODE << 16
            archive.writestr(entry, content)
    return result.getvalue()


def appended(data: bytes) -> dict[str, bytes] | None:
    """Returns the files behind a model by name; none, as for most models, is `{}`.

    Returns:
        The files, or `None` if what looks like an archive is not one of the format.
    """
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            # A few bytes may stand for any number of compressed ones, and entries may
            # share theirs.
            if any(
                entry.compress_type != zipfile.ZIP_STORED for entry in entries
            ) or sum(entry.file_size for entry in entries) > len(data):
                return None
            return {entry.filename: archive.read(entry) for entry in entries}
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, RuntimeError):
        return None


def _metadata(
    file: tflite.TFLiteFile, labels: Labels, name: str, description: str
) -> bytes:
    """Returns the flatbuffer that describes a model's inputs and outputs."""
    import flatbuffers

    graph, signature = file.subgraphs[0], file.signatures[0]
    inputs = {index: called for called, index in signature.inputs.items()}
    outputs = {index: called for called, index in signature.outputs.items()}
    listed = _table(
        "AssociatedFile",
        name=LABELS,
        description=f"Names of the entries of {labels.output}, one per line.",
        type=_TENSOR_AXIS_LABELS,
    )
    files = {signature.outputs[labels.output]: [listed]}
    described = _table(
        "SubGraphMetadata",
        input_tensor_metadata=[
            _tensor(graph.tensors[index], inputs[index]) for index in graph.inputs
        ],
        output_tensor_metadata=[
            _tensor(graph.tensors[index], outputs[index], files.get(index))
            for index in graph.outputs
        ],
    )
    model = _table(
        "ModelMetadata",
        name=name,
        description=description,
        subgraph_metadata=[described],
        min_parser_version=_SCHEMA,
    )
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write(builder, model), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _tensor(
    tensor: tflite.Tensor, name: str, files: list[dict[int, Any]] | None = None
) -> dict[int, Any]:
    return _table(
        "TensorMetadata",
        name=name,
        description=f"{tensor.type.lower()} of shape {tensor.shape}",
        content=_table(
            "Content",
            content_properties_type=_FEATURE_PROPERTIES,
            content_properties={},
        ),
        associated_files=files or [],
    )


def _table(kind: str, **fields: Any) -> dict[int, Any]:
    """Returns a table's fields by their positions in the schema."""
    return {_FIELDS[kind].index(name): value for name, value in fields.items()}


def _write(builder: Any, value: Any) -> int:
    """Writes a string, a list of tables, or a table; returns where it stands.

    Args:
        builder: The flatbuffer's builder.
        value: The value. A table's fields are strings, lists, tables and numbers of
            one byte.
    """
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, list):
        items = [_write(builder, item) for item in value]
        builder.StartVector(4, len(items), 4)
        for place in reversed(items):
            builder.PrependUOffsetTRelative(place)
        return int(builder.EndVector())
    places = {
        field: _write(builder, item)
        for field, item in value.items()
        if not isinstance(item, int)
    }
    builder.StartObject(max(value, default=-1) + 1)
    for field, item in value.items():
        if isinstance(item, int):
            builder.PrependByteSlot(field, item, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(field, places[field], 0)
    return int(builder.EndObject())
