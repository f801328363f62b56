"""Reading `.tflite` files: tensors, operators and constant data.

This module changes when the TFLite schema does. It trusts nothing in the file: a
damaged or hostile one gives a `ValueError`, never a crash or an endless loop.

Schema: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs
"""

import collections
import contextlib
import dataclasses
import functools
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

_IDENTIFIER = b"TFL3"

_DTYPES: Mapping[str, str] = {
    "FLOAT32": "<f4",
    "FLOAT16": "<f2",
    "FLOAT64": "<f8",
    "INT8": "<i1",
    "UINT8": "<u1",
    "INT16": "<i2",
    "UINT16": "<u2",
    "INT32": "<i4",
    "UINT32": "<u4",
    "INT64": "<i8",
    "UINT64": "<u8",
    "BOOL": "?",
}
_PACKED_BITS: Mapping[str, int] = {"INT4": 4, "UINT4": 4, "INT2": 2}

UNPACKING = frozenset(("DENSIFY", "DEQUANTIZE"))
"""Operators that float16 and sparse weights go through when a file is loaded."""

# The most elements one tensor may have; far above what a 2 GiB file can hold.
_MAX_ELEMENTS = 2**40


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a subgraph.

    Args:
        index: Its position in the subgraph.
        name: Its name in the file.
        shape: Its shape; -1 for a dimension that is known only when running.
        type: Its type in the schema's words, e.g. `"INT8"`.
        values: The stored values of a constant, flat; `None` for other tensors and for
            types without numbers.
        sparse: Whether `values` are only the stored part of a sparse encoding.
        scale: Quantisation scales: none, one, or one per slice along `axis`.
        zero_point: Quantised values of zero, as many as scales.
        axis: The dimension that several scales run along.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    type: str
    values: np.ndarray | None
    sparse: bool
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int

    @property
    def size(self) -> int:
        """Number of elements of the dense tensor."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> np.dtype | None:
        """NumPy's name of the type; `None` for those that it lacks."""
        if self.type == "BFLOAT16":
            import ml_dtypes  # Keras itself needs it.

            return np.dtype(ml_dtypes.bfloat16)
        return np.dtype(_DTYPES[self.type]) if self.type in _DTYPES else None

    @property
    def array(self) -> np.ndarray | None:
        """The constant in its shape, as stored; `None` if it has no dense data."""
        if self.values is None or self.sparse:
            return None
        return self.values.reshape(self.shape)

    @property
    def zero_mask(self) -> np.ndarray | None:
        """Where the constant means zero (its zero point, if quantised)."""
        array = self.array
        return None if array is None else array == self._along_axis(self.zero_point)

    @property
    def real(self) -> np.ndarray | None:
        """The constant's real values as float32, quantisation undone."""
        array = self.array
        if array is None:
            return None
        values = array.astype(np.float32)
        if not self.scale.size:
            return values
        zero = self._along_axis(self.zero_point)
        return (values - zero) * self._along_axis(self.scale)

    def _along_axis(self, numbers: np.ndarray) -> np.ndarray:
        if numbers.size <= 1:
            return numbers.reshape(()) if numbers.size else np.zeros(())
        shape = [1] * len(self.shape)
        shape[self.axis] = -1
        return numbers.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Window:
    """How the window of a convolution moves.

    Args:
        same: Whether the runtime pads to the same size (over the stride); otherwise it
            does not pad.
        strides: Along height and width.
        dilations: Along height and width.
    """

    same: bool
    strides: tuple[int, int]
    dilations: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator.

    Args:
        name: Its name in the schema's words.
        inputs: The indices of the tensors it reads (-1: left out).
        outputs: The indices of those it makes.
        window: Of CONV_2D and DEPTHWISE_CONV_2D how they move; otherwise `None`.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    window: Window | None = None


@dataclasses.dataclass(frozen=True)
class Subgraph:
    """One graph of tensors and operators; the first of a file is the main one."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @functools.cached_property
    def _unpacked_from(self) -> dict[int, int]:
        """By what an unpacking operator makes, what it reads."""
        return {
            index: operator.inputs[0]
            for operator in self.operators
            if operator.name in UNPACKING and operator.inputs
            for index in operator.outputs
        }

    def stored(self, index: int) -> Tensor:
        """Returns a tensor as the file stores it, before what unpacks it on loading."""
        seen = set()
        while index in self._unpacked_from and index not in seen:
            seen.add(index)  # A hostile file may go round in circles.
            index = self._unpacked_from[index]
        return self.tensors[index]


@dataclasses.dataclass(frozen=True)
class Signature:
    """Names of a subgraph's inputs and outputs, and their tensor indices."""

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class TFLiteFile:
    """The readable content of a `.tflite` file."""

    subgraphs: tuple[Subgraph, ...]
    signatures: tuple[Signature, ...]

    def operator_counts(self) -> dict[str, int]:
        """Returns how often each operator occurs, in all subgraphs, by name."""
        counts = collections.Counter(
            operator.name for graph in self.subgraphs for operator in graph.operators
        )
        return dict(sorted(counts.items()))

    def weights(self) -> Iterator[Tensor]:
        """Yields the constants that are weights.

        Constants of integer types without quantisation are shapes, axes or indices,
        not weights; a quantised bias is an integer with a scale.
        """
        for graph in self.subgraphs:
            for tensor in graph.tensors:
                if tensor.values is not None and (
                    tensor.scale.size or tensor.type.startswith("FLOAT")
                ):
                    yield tensor


def parse(data: bytes | bytearray) -> TFLiteFile:
    """Reads a `.tflite` file's bytes.

    Args:
        data: The whole file. Constants of the result are views of it, not copies.

    Raises:
        ValueError: If `data` is not a readable TFLite model.
    """
    if len(data) < 8 or data[4:8] != _IDENTIFIER:
        raise ValueError(
            "Not a TFLite model: bytes 4 to 8 must be b'TFL3'. "
            f"Received: {bytes(data[4:8])!r}. {_guess(bytes(data[:4]))}"
        )
    with refusing_damage():
        return _Reader(data).read()


@contextlib.contextmanager
def refusing_damage() -> Iterator[None]:
    """Turns what the schema's code raises on damaged bytes into a `ValueError`.

    `parse` has checked what this module reads. Other fields, such as options of
    operators and metadata, are read in such a block by who needs them.
    """
    try:
        yield
    except (
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        OverflowError,
        AttributeError,
        MemoryError,
        RecursionError,
        struct.error,
    ) as error:
        said = str(error) or type(error).__name__
        if isinstance(error, struct.error):  # Which speaks of buffers and offsets.
            said = "it ends before what it points to"
        raise ValueError(
            f"The TFLite model is damaged: {said}. "
            "Write it again, or fetch it again if it was downloaded."
        ) from error


class _Reader:
    """One pass over a flatbuffer.

    `_budget` is what stops a small hostile file from announcing millions of entries:
    every entry of a vector takes at least four bytes, so an honest file never has more
    entries than a quarter of its bytes. Tables may be shared between vectors; the
    factor of 4 leaves room for that.
    """

    def __init__(self, data: bytes | bytearray) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema = schema
        self._data = data
        self._budget = len(data)
        self._types = _names(schema.TensorType)
        self._builtins = _names(schema.BuiltinOperator)

    def read(self) -> TFLiteFile:
        model = self._schema.Model.GetRootAs(self._data, 0)
        codes = [
            self._operator_name(code)
            for code in self._each(model.OperatorCodesLength(), model.OperatorCodes)
        ]
        buffers = [
            self._buffer(buffer)
            for buffer in self._each(model.BuffersLength(), model.Buffers)
        ]
        subgraphs = tuple(
            self._subgraph(graph, codes, buffers)
            for graph in self._each(model.SubgraphsLength(), model.Subgraphs)
        )
        if not subgraphs:
            raise ValueError("it has no subgraph")
        signatures = tuple(
            Signature(
                self._tensor_map(item.InputsLength(), item.Inputs),
                self._tensor_map(item.OutputsLength(), item.Outputs),
            )
            for item in self._each(model.SignatureDefsLength(), model.SignatureDefs)
        )
        return TFLiteFile(subgraphs, signatures)

    def _spend(self, count: int) -> None:
        self._budget -= count
        if self._budget < 0:
            raise ValueError("it announces more entries than its bytes can hold")

    def _each(self, length: int, item: Callable[[int], Any]) -> Iterator[Any]:
        self._spend(length)
        for index in range(length):
            yield item(index)

    def _integers(self, vector: Any) -> tuple[int, ...]:
        # The generated code returns the integer 0 for an absent vector.
        if isinstance(vector, int):
            return ()
        self._spend(len(vector))
        return tuple(vector.tolist())

    def _operator_name(self, code: Any) -> str:
        # Old files use the one-byte field, new ones the other; the schema says to take
        # the larger.
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        name = self._builtins.get(number, f"UNKNOWN_{number}")
        if name == "CUSTOM":
            return f"CUSTOM:{_text(code.CustomCode())}"
        return name

    def _buffer(self, buffer: Any) -> np.ndarray | None:
        # Files above 2 GiB keep data behind the flatbuffer, at an offset from byte 0.
        offset, size = buffer.Offset(), buffer.Size()
        if offset > 1:
            if offset + size > len(self._data):
                raise ValueError("a buffer reaches beyond the end of the file")
            return np.frombuffer(self._data, np.uint8, size, offset)
        data = buffer.DataAsNumpy()
        return None if isinstance(data, int) or not len(data) else data

    def _tensor_map(self, length: int, item: Callable[[int], Any]) -> dict[str, int]:
        return {
            _text(entry.Name()): entry.TensorIndex()
            for entry in self._each(length, item)
        }

    def _operator(self, operator: Any, codes: list[str], tensors: int) -> Operator:
        name = codes[operator.OpcodeIndex()]
        inputs = self._indices(operator.InputsAsNumpy(), tensors)
        # What may be left out comes later, as biases do, but for some gates of LSTMs.
        # LiteRT does not check it, and crashes.
        if -1 in inputs[:2] and "LSTM" not in name and not name.startswith("CUSTOM"):
            raise ValueError(f"an operator {name} is without one of its inputs")
        outputs = self._indices(operator.OutputsAsNumpy(), tensors)
        return Operator(name, inputs, outputs, self._window(operator))

    def _subgraph(
        self, graph: Any, codes: list[str], buffers: list[np.ndarray | None]
    ) -> Subgraph:
        tensors = tuple(
            self._tensor(index, tensor, buffers)
            for index, tensor in enumerate(
                self._each(graph.TensorsLength(), graph.Tensors)
            )
        )
        operators = tuple(
            self._operator(operator, codes, len(tensors))
            for operator in self._each(graph.OperatorsLength(), graph.Operators)
        )
        inputs = self._indices(graph.InputsAsNumpy(), len(tensors))
        outputs = self._indices(graph.OutputsAsNumpy(), len(tensors))
        if -1 in inputs + outputs:
            raise ValueError("an input or output of a graph is no tensor")
        return Subgraph(tensors, operators, inputs, outputs)

    def _window(self, operator: Any) -> Window | None:
        schema = self._schema
        kinds = schema.BuiltinOptions
        options = {
            kinds.Conv2DOptions: schema.Conv2DOptions,
            kinds.DepthwiseConv2DOptions: schema.DepthwiseConv2DOptions,
        }.get(operator.BuiltinOptionsType())
        table = operator.BuiltinOptions()
        if options is None or table is None:
            return None
        found = options()
        found.Init(table.Bytes, table.Pos)
        return Window(
            found.Padding() == schema.Padding.SAME,
            (found.StrideH(), found.StrideW()),
            (found.DilationHFactor(), found.DilationWFactor()),
        )

    def _indices(self, vector: Any, count: int) -> tuple[int, ...]:
        indices = self._integers(vector)
        if any(not -1 <= index < count for index in indices):
            raise ValueError(f"a tensor index is outside 0..{count - 1}")
        return indices

    def _tensor(
        self, index: int, tensor: Any, buffers: list[np.ndarray | None]
    ) -> Tensor:
        signature = self._integers(tensor.ShapeSignatureAsNumpy())
        shape = signature or self._integers(tensor.ShapeAsNumpy())
        type_name = self._types.get(tensor.Type(), f"UNKNOWN_{tensor.Type()}")
        name = _text(tensor.Name())
        if any(size < -1 for size in shape) or math.prod(shape) > _MAX_ELEMENTS:
            raise ValueError(f"tensor {name!r} has the impossible shape {shape}")
        number = tensor.Buffer()
        if number >= len(buffers):
            raise ValueError(f"tensor {name!r} names buffer {number}, which is missing")
        sparse = tensor.Sparsity() is not None
        values = None
        raw = buffers[number]
        if raw is not None:
            values = _decode(raw, type_name, None if sparse else math.prod(shape), name)
        scale, zero_point, axis = self._quantization(tensor, shape, name)
        return Tensor(
            index, name, shape, type_name, values, sparse, scale, zero_point, axis
        )

    def _quantization(
        self, tensor: Any, shape: tuple[int, ...], name: str
    ) -> tuple[np.ndarray, np.ndarray, int]:
        none = np.zeros(0)
        found = tensor.Quantization()
        if found is None or not found.ScaleLength():
            return none, none, 0
        scale, zero = found.ScaleAsNumpy(), found.ZeroPointAsNumpy()
        zero = np.zeros(len(scale), np.int64) if isinstance(zero, int) else zero
        axis = found.QuantizedDimension()
        if len(scale) > 1 and (not 0 <= axis < len(shape) or shape[axis] != len(scale)):
            raise ValueError(
                f"tensor {name!r} of shape {shape} has {len(scale)} quantisation "
                f"scales along axis {axis}"
            )
        if len(zero) != len(scale):
            raise ValueError(
                f"tensor {name!r} has {len(scale)} scales and {len(zero)} zero points"
            )
        return scale, zero, axis


def _decode(
    raw: np.ndarray, type_name: str, count: int | None, name: str
) -> np.ndarray | None:
    """Returns a buffer's numbers, flat; `None` for types that hold none.

    Args:
        raw: The buffer's bytes.
        type_name: The tensor's type in the schema's words.
        count: The number of elements there must be; `None` if any number will do.
        name: The tensor's name, for the message.
    """
    if type_name in _PACKED_BITS:
        values = _unpack(raw, _PACKED_BITS[type_name], type_name.startswith("INT"))
        if (
            count is not None
            and 0 <= len(values) - count < 8 // _PACKED_BITS[type_name]
        ):
            values = values[:count]
    elif type_name in _DTYPES:
        dtype = np.dtype(_DTYPES[type_name])
        if len(raw) % dtype.itemsize:
            raise ValueError(
                f"tensor {name!r} has {len(raw)} bytes of {type_name} data, not a "
                f"multiple of {dtype.itemsize}"
            )
        values = np.frombuffer(raw, dtype)
    else:
        return None
    if count is not None and len(values) != count:
        raise ValueError(
            f"tensor {name!r} stores {len(values)} values where its shape has {count}"
        )
    return values


def _unpack(raw: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    """Returns the `bits` wide integers in `raw`, lowest bits of each byte first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values = (raw[:, None] >> shifts & (2**bits - 1)).astype(np.int16).ravel()
    if signed:
        values -= (values >= 2 ** (bits - 1)).astype(np.int16) << bits
    return values.astype(np.int8 if signed else np.uint8)


def _guess(start: bytes) -> str:
    """Returns what another file may be, by its first bytes, and what to do with it."""
    if start.startswith(b"PK"):
        return "If it is a '.keras' file: kprune export makes a '.tflite' file of it."
    if not start:
        return "It is empty: write it again."
    return "Name a file that kprune export or a TFLite converter wrote."


def _names(enumeration: type) -> dict[int, str]:
    return {
        value: name
        for name, value in vars(enumeration).items()
        if isinstance(value, int) and not name.startswith("_")
    }


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8", "replace")
