"""Writing `.tflite` files: the schema's objects become bytes.

This module changes when the builder that writes flatbuffers does.
"""

from collections.abc import Hashable
from typing import Any

import numpy as np

from kprune.export import tflite

_IDENTIFIER = b"TFL3"
# The schema's force_align of Buffer.data, which the Python builder does not know of:
# https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs
_BUFFER_ALIGNMENT = 16


def unpack(data: bytes) -> Any:
    """Returns a file's content as the schema's objects, a `ModelT`.

    Args:
        data: A `.tflite` file that `tflite.parse` has read.

    Raises:
        ValueError: If what `parse` does not read of it is damaged.
    """
    from ai_edge_litert import schema_py_generated as schema

    with tflite.refusing_damage():
        return schema.ModelT.InitFromPackedBuf(data, 0)


def has_outside_data(model: Any) -> bool:
    """Returns whether data stands behind the flatbuffer, as in files above 2 GiB."""
    return any(buffer.offset > 1 for buffer in model.buffers)


def pack(model: Any) -> bytes:
    """Returns the file of a `ModelT`, in which equal vectors are stored once."""
    builder = _builder()
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _builder() -> Any:
    """Returns a flatbuffer builder that writes equal vectors once."""
    import flatbuffers

    class Builder(flatbuffers.Builder):
        def __init__(self) -> None:
            super().__init__(1 << 16)
            self.vectors: dict[Hashable, int] = {}
            self.alignment = 1

        def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802
            key = (x.dtype.str, x.tobytes())
            if key not in self.vectors:
                # Buffers are the only vectors of bytes besides custom options.
                self.alignment = _BUFFER_ALIGNMENT if x.dtype == np.uint8 else 1
                self.vectors[key] = super().CreateNumpyVector(x)
                self.alignment = 1
            return self.vectors[key]

        def StartVector(self, size: int, count: int, alignment: int) -> Any:  # noqa: N802
            return super().StartVector(size, count, max(alignment, self.alignment))

    return Builder()
