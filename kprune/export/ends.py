"""What a `.tflite` file takes and returns, as the file stores it.

This module changes when TFLite describes inputs and outputs differently.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from kprune.export import tflite
from kprune.export.interface import Interface, unique_names


@dataclasses.dataclass(frozen=True)
class End:
    """One input or output of a file.

    Args:
        name: Its name.
        index: Its tensor in the main graph.
        shape: Its shape with the batch, which is 1 where the file leaves it free; -1
            for any other free dimension.
        dtype: The type that is stored.
        scale: The real value of one integer step; 0 for floats and plain integers.
        zero_point: The integer that means zero.
    """

    name: str
    index: int
    shape: tuple[int, ...]
    dtype: np.dtype
    scale: float
    zero_point: int

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample: without the batch, if that is 1."""
        return self.shape[1:] if self.shape[:1] == (1,) else self.shape

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """Returns real values as the tensor stores them."""
        if not self.scale:
            return values.astype(self.dtype)
        limits = np.iinfo(self.dtype)
        steps = np.rint(values / self.scale) + self.zero_point
        return np.clip(steps, limits.min, limits.max).astype(self.dtype)

    def dequantize(self, values: np.ndarray) -> np.ndarray:
        """Returns the real values of what the tensor stores."""
        if not self.scale:
            return values
        return (values.astype(np.float32) - self.zero_point) * np.float32(self.scale)


@dataclasses.dataclass(frozen=True)
class Ends:
    """The inputs and outputs of a file, in the order that callers use."""

    inputs: tuple[End, ...]
    outputs: tuple[End, ...]


def of_file(data: bytes, interface: Interface | None = None) -> Ends:
    """Returns the inputs and outputs of a file's main graph.

    Args:
        data: The `.tflite` file.
        interface: Inputs and outputs by the names that the file's signature has. By
            default all of the file, in its own order, under the signature's names, or
            without a signature under those of the tensors.

    Raises:
        ValueError: If the file is damaged, or stores one as something else than
            numbers.
    """
    file = tflite.parse(data)
    graph = file.subgraphs[0]
    if interface is not None:
        signature = file.signatures[0]
        names = [item.name for item in interface.inputs]
        return Ends(
            _ends(graph, {name: signature.inputs[name] for name in names}, "input"),
            _ends(
                graph,
                {name: signature.outputs[name] for name in interface.output_names},
                "output",
            ),
        )
    inputs: dict[int, str] = {}
    outputs: dict[int, str] = {}
    if file.signatures:
        signature = file.signatures[0]
        inputs = {index: name for name, index in signature.inputs.items()}
        outputs = {index: name for name, index in signature.outputs.items()}
    return Ends(
        _ends(graph, _named(graph, graph.inputs, inputs, "input"), "input"),
        _ends(graph, _named(graph, graph.outputs, outputs, "output"), "output"),
    )


def _named(
    graph: tflite.Subgraph, indices: tuple[int, ...], known: dict[int, str], kind: str
) -> dict[str, int]:
    if -1 in indices:
        raise ValueError(f"The TFLite model is damaged: an {kind} has no tensor.")
    found = [known.get(index) or graph.tensors[index].name or kind for index in indices]
    return dict(zip(unique_names(found), indices, strict=True))


def _ends(graph: tflite.Subgraph, named: dict[str, int], kind: str) -> tuple[End, ...]:
    return tuple(_end(name, graph.tensors[i], kind) for name, i in named.items())


def _end(name: str, tensor: tflite.Tensor, kind: str) -> End:
    if tensor.dtype is None:
        raise ValueError(
            f"The file's {kind} {name!r} is of type {tensor.type}, which is no number."
        )
    free_batch = tensor.shape[:1] == (-1,)
    return End(
        name=name,
        index=tensor.index,
        shape=(1, *tensor.shape[1:]) if free_batch else tensor.shape,
        dtype=tensor.dtype,
        scale=float(tensor.scale[0]) if tensor.scale.size else 0.0,
        zero_point=int(tensor.zero_point[0]) if tensor.zero_point.size else 0,
    )


def without_batch(values: np.ndarray) -> np.ndarray:
    """Returns tensors of several samples, stacked, without their batches of 1."""
    return values[:, 0] if values.shape[1:2] == (1,) else values


def described(ends: Iterable[End]) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    """Returns name, shape with the batch and data type of each, as reports have it."""
    return tuple((end.name, end.shape, end.dtype.name) for end in ends)
