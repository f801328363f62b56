"""Quantised files in which some operators compute in float32.

This module changes when files of mixed precision are put together in another way.

The quantiser keeps the graph: without QUANTIZE and DEQUANTIZE, a quantised file has the
operators of the float32 file, in its order (measured with TensorFlow 2.21.0 on the
models of the tests, for all quantisations). So an operator's float32 form takes its
place, with QUANTIZE and DEQUANTIZE round it where its neighbours compute in integers.
TensorFlow's own `QuantizationDebugger` does the same with its `denylisted_nodes`, but
for int8 only: its int16x8 quantiser takes no list.
"""

import copy
import itertools
from collections.abc import Collection, Mapping
from typing import Any

from kprune.export import tflite
from kprune.export.packing import has_outside_data, pack, unpack

QUANTIZATIONS = ("dynamic", "int4", "int8", "int16x8")
"""The quantisations that change what operators compute."""

_CASTS = ("QUANTIZE", "DEQUANTIZE")
# They run other graphs of the file, which are left as they are.
_CALLS = ("WHILE", "IF", "CALL_ONCE")
_FLOAT32 = 0  # Its number in the schema.
# The versions that know of int16.
_VERSIONS = {"QUANTIZE": 2, "DEQUANTIZE": 3}


def twins(data: bytes, plain: bytes) -> dict[int, int]:
    """Returns which operator of a quantised file is which of the float32 file.

    Args:
        data: The quantised file.
        plain: The float32 file of the same model.

    Returns:
        Positions in the main graph of `data` by those in that of `plain`, of all
        operators that can be exchanged.

    Raises:
        ValueError: If the files do not have the same operators.
    """
    first, second = _operators(data), _operators(plain)
    if [name for _, name in first] != [name for _, name in second]:
        raise ValueError(
            "The quantised file does not have the operators of the float32 file, so "
            "that layers cannot be compared or exchanged. Please report it with the "
            "model."
        )
    return {
        there: here
        for (here, name), (there, _) in zip(first, second, strict=True)
        if name not in _CALLS
    }


def quantized(data: bytes, plain: bytes) -> dict[int, int]:
    """Returns those of the `twins` that quantisation has changed."""
    ours, theirs = (tflite.parse(file).subgraphs[0] for file in (data, plain))
    return {
        there: here
        for there, here in twins(data, plain).items()
        if _types(ours, ours.operators[here]) != _types(theirs, theirs.operators[there])
    }


def with_float(data: bytes, plain: bytes, kept: Collection[int]) -> bytes:
    """Returns a quantised file in which some operators compute in float32.

    Args:
        data: The quantised file.
        plain: The float32 file of the same model.
        kept: Positions of these operators in the main graph of `plain`.

    Raises:
        ValueError: If the files do not have the same operators, or are above 2 GiB.
    """
    changed = quantized(data, plain)
    places = {changed[position]: position for position in kept if position in changed}
    if not places:
        return data
    model, source = unpack(data), unpack(plain)
    if has_outside_data(model) or has_outside_data(source):
        raise ValueError("Layers of files above 2 GiB cannot be kept in float32.")
    _Mixture(model, source).make(places)
    return pack(model)


def _operators(data: bytes) -> list[tuple[int, str]]:
    """Returns positions and names of the operators that both files have."""
    operators = tflite.parse(data).subgraphs[0].operators
    return [(i, op.name) for i, op in enumerate(operators) if op.name not in _CASTS]


def _types(graph: tflite.Subgraph, operator: tflite.Operator) -> list[str]:
    """Returns the types of what an operator reads, as it is stored, and makes.

    What integers it reads beside, such as shapes, is the same in all files; a bias that
    is zero may be left out.
    """
    read = [graph.stored(i).type for i in operator.inputs if i >= 0]
    return [*read[:2], *(graph.tensors[i].type for i in operator.outputs)]


class _Mixture:
    """A file while operators of another one come into it.

    Args:
        model: The quantised file's content, which is changed.
        source: The float32 file's content.
    """

    def __init__(self, model: Any, source: Any) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema = schema
        self._model, self._source = model, source
        self._graph, self._origin = model.subgraphs[0], source.subgraphs[0]
        self._operators: list[Any] = []
        # By tensors of integers, the float32 tensors of the same values.
        self._real: dict[int, int] = {}
        self._copies: dict[int, int] = {}

    def make(self, places: Mapping[int, int]) -> None:
        """Exchanges operators; `places` are their positions here, and in the source."""
        operators = self._graph.operators
        unpacked = {
            int(operator.inputs[0]): int(operator.outputs[0])
            for operator in operators
            if self._is(operator, "DEQUANTIZE")
        }
        written: set[int] = set()
        for position, operator in enumerate(operators):
            if position in places:
                twin = self._origin.operators[places[position]]
                written.update(self._exchange(operator, twin, unpacked))
            elif not written.intersection(map(int, operator.outputs)):
                self._operators.append(operator)
                if self._is(operator, "QUANTIZE"):
                    self._remember(int(operator.inputs[0]), int(operator.outputs[0]))
        self._drop_unread()

    def _remember(self, read: int, made: int) -> None:
        """Keeps in mind what the real values are of a tensor that was cast."""
        if self._graph.tensors[read].type == _FLOAT32:
            self._real[made] = read
        elif read in self._real:
            self._real[made] = self._real[read]

    def _exchange(
        self, operator: Any, twin: Any, unpacked: Mapping[int, int]
    ) -> list[int]:
        """Puts the float32 form of an operator in its place; returns what it writes."""
        new = copy.copy(twin)
        new.opcodeIndex = self._code(self._source.operatorCodes[twin.opcodeIndex])
        pairs = itertools.zip_longest(operator.inputs, twin.inputs, fillvalue=-1)
        new.inputs = [self._input(int(ours), int(theirs)) for ours, theirs in pairs]
        new.outputs = []
        made: list[tuple[int, int]] = []
        for ours, theirs in zip(operator.outputs, twin.outputs, strict=True):
            tensor = self._origin.tensors[theirs]
            if self._graph.tensors[ours].type == tensor.type:
                new.outputs.append(int(ours))
                continue
            real = unpacked.get(int(ours))
            real = self._tensor(tensor) if real is None else real
            self._real[int(ours)] = real
            new.outputs.append(real)
            made.append((real, int(ours)))
        self._operators.append(new)
        for real, ours in made:
            self._cast("QUANTIZE", real, ours)
        return [real for real, _ in made]

    def _input(self, ours: int, theirs: int) -> int:
        """Returns what the float32 form of an operator reads instead of `ours`."""
        if theirs < 0:
            return -1
        tensor = self._origin.tensors[theirs]
        if self._source.buffers[tensor.buffer].data is not None:
            if theirs not in self._copies:
                self._copies[theirs] = self._tensor(tensor)
            return self._copies[theirs]
        if self._graph.tensors[ours].type == tensor.type:
            return ours
        if ours not in self._real:
            self._real[ours] = self._tensor(tensor)
            self._cast("DEQUANTIZE", ours, self._real[ours])
        return self._real[ours]

    def _tensor(self, tensor: Any) -> int:
        """Returns a copy of a tensor of the source, with its data."""
        new = copy.copy(tensor)
        new.buffer = 0  # The first buffer is the one without data.
        data = self._source.buffers[tensor.buffer].data
        if data is not None:
            new.buffer = len(self._model.buffers)
            buffer = self._schema.BufferT()
            buffer.data = data
            self._model.buffers.append(buffer)
        self._graph.tensors.append(new)
        return len(self._graph.tensors) - 1

    def _cast(self, name: str, read: int, made: int) -> None:
        operator = self._schema.OperatorT()
        number = getattr(self._schema.BuiltinOperator, name)
        code = self._schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = number
        code.version = _VERSIONS[name]
        operator.opcodeIndex = self._code(code)
        operator.inputs, operator.outputs = [read], [made]
        self._operators.append(operator)

    def _code(self, code: Any) -> int:
        """Returns the index of an operator code, which the file has from now on."""
        for index, known in enumerate(self._model.operatorCodes):
            if vars(known) == vars(code):
                return index
        self._model.operatorCodes.append(code)
        return len(self._model.operatorCodes) - 1

    def _is(self, operator: Any, name: str) -> bool:
        code = self._model.operatorCodes[operator.opcodeIndex]
        return bool(code.builtinCode == getattr(self._schema.BuiltinOperator, name))

    def _drop_unread(self) -> None:
        """Leaves out casts, tensors and data that nothing reads any more."""
        graph = self._graph
        needed = {int(index) for index in graph.outputs}
        operators = []
        for operator in reversed(self._operators):
            cast = any(self._is(operator, name) for name in _CASTS)
            if not cast or needed.intersection(map(int, operator.outputs)):
                needed.update(map(int, operator.inputs))
                operators.append(operator)
        graph.operators = operators[::-1]
        for operator in operators:
            needed.update(map(int, operator.outputs))
        needed.update(map(int, graph.inputs))
        places = {old: new for new, old in enumerate(sorted(needed - {-1}))}
        graph.tensors = [graph.tensors[index] for index in places]
        places[-1] = -1
        for table in (graph, *operators):
            table.inputs = [places[int(index)] for index in table.inputs]
            table.outputs = [places[int(index)] for index in table.outputs]
        for signature in self._model.signatureDefs or ():
            for entry in (*signature.inputs, *signature.outputs):
                entry.tensorIndex = places[entry.tensorIndex]
        tensors = [tensor for each in self._model.subgraphs for tensor in each.tensors]
        read = {item.buffer for item in (*tensors, *(self._model.metadata or ()))}
        for index, buffer in enumerate(self._model.buffers):
            if index not in read:
                buffer.data = None
