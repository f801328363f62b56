"""What firmware has to know of a `.tflite` file.

This module changes when firmware needs to know something else.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from kprune.export import resolver, tflite
from kprune.export.labels import Labels
from kprune.export.tflm import Example

# How far a float output may be from what was computed on the host, by the largest value
# of that output: other compilers and libraries round sums and exponentials otherwise.
_FLOAT_TOLERANCE = 1e-4
# How many steps an integer output of an NPU may be away: none was here to compare with.
_NPU_STEPS = 1.0


@dataclasses.dataclass(frozen=True)
class Memory:
    """How much memory a file needs.

    Args:
        arena_bytes: Bytes of tensor arena.
        planned: Whether a compiler planned the arena, so that the runtime's own
            structures come on top; otherwise it was tried.
        decoding_bytes: Bytes of memory outside of the arena that hold what is decoded
            of weights, if any are encoded.
        arena_bytes_then: Bytes of tensor arena if they are decoded there.
    """

    arena_bytes: int
    planned: bool = False
    decoding_bytes: int | None = None
    arena_bytes_then: int | None = None


@dataclasses.dataclass(frozen=True)
class Port:
    """One input or output.

    Args:
        name: What the user calls it.
        index: What the runtime knows it by: its place in the file.
        tensor: Its type, shape and quantisation.
        labels: What its entries are called; none if that is not known.
    """

    name: str
    index: int
    tensor: tflite.Tensor
    labels: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Firmware:
    """What firmware has to know of a file.

    Args:
        content: The `.tflite` file.
        inputs: The inputs by name, in the file's order.
        outputs: The outputs by name, in the file's order.
        methods: Methods of the runtime's operator resolver, for exactly the operators
            that the file needs.
        variables: How many resource variables the file may have; most have none.
        memory: What it needs.
        example: One sample as the file takes it, and what the runtime computes of it.
        tolerances: For each output of the example how far elements may be from it on
            the device: 0 for equal bits, otherwise steps of integers or real values.
    """

    content: bytes
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    methods: tuple[str, ...]
    variables: int
    memory: Memory
    example: Example
    tolerances: tuple[float, ...]


def describe(
    content: bytes, memory: Memory, example: Example, labels: Labels | None = None
) -> Firmware:
    """Returns what firmware has to know of a file.

    Args:
        content: The `.tflite` file, with a signature that names inputs and outputs.
        memory: What it needs.
        example: One sample, as the file takes it, and its outputs. Of a file compiled
            for an NPU those of the file before it was compiled.
        labels: What the entries of an output are called.

    Raises:
        ValueError: If an operator has no method of the runtime's resolver.
    """
    file = tflite.parse(content)
    graph, signature = file.subgraphs[0], file.signatures[0]
    counts = file.operator_counts()
    return Firmware(
        content,
        _ports(graph.tensors, graph.inputs, signature.inputs),
        _ports(graph.tensors, graph.outputs, signature.outputs, labels),
        resolver.methods(counts),
        counts.get("VAR_HANDLE", 0),
        memory,
        example,
        tuple(_tolerance(values, memory.planned) for values in example.outputs),
    )


def _ports(
    tensors: tuple[tflite.Tensor, ...],
    order: tuple[int, ...],
    named: Mapping[str, int],
    labels: Labels | None = None,
) -> tuple[Port, ...]:
    """Returns what a signature names, in the order that the runtime counts in."""
    known = {} if labels is None else {labels.output: labels.names}
    ports = [
        Port(name, order.index(i), tensors[i], known.get(name, ()))
        for name, i in named.items()
    ]
    return tuple(sorted(ports, key=lambda port: (port.index, port.name)))


def _tolerance(values: np.ndarray, npu: bool) -> float:
    if values.dtype.kind == "f":
        return _FLOAT_TOLERANCE * (float(np.abs(values).max()) or 1.0)
    return _NPU_STEPS if npu else 0.0
