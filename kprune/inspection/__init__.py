"""`kprune.inspect`: what is in a model or a file, whoever made it.

This module changes when another kind of model can be looked at, or when what is told
about one changes.
"""

import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kprune.axes import Axes
from kprune.foreign import received
from kprune.inspection import patterns
from kprune.model_file import load_model
from kprune.prunable import candidates
from kprune.report import FileSize
from kprune.report.pruning import Zeros, share_of_zeros
from kprune.report.text import as_json, bars, table

_LABELS_SHOWN = 5
_BINS = 16


@dataclasses.dataclass(frozen=True)
class WeightView(Zeros):
    """One weight of an inspected model.

    Args:
        name: The variable's path, or the tensor's name in the file.
        shape: Its shape, in the layout of where it was found.
        dtype: Its data type.
        zeros: Number of elements that are zero (that mean zero, if quantised).
        pattern: How the zeros are arranged, in the words of `patterns.describe`.
        largest: The largest finite magnitude; 0 if there is none.
        histogram: How many elements that are finite and not zero lie in each of equal
            bins from `-largest` to `largest`; of real values, if they are quantised.
            Empty if the values are not known.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    zeros: int
    pattern: str
    largest: float
    histogram: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What `kprune.inspect` found.

    Args:
        name: The file's path, or the model's name.
        kind: `"Keras model"`, `"Keras file"` or `"TFLite file"`.
        weights: The weights of rank 2 and more.
        parameters: Elements of all weights, those of rank 1 included.
        nonzero_parameters: Those that are not zero.
        macs: Multiply-accumulates of one inference; `None` if they cannot be counted.
        nonzero_macs: Those whose weight is not zero.
        uncounted: Layers or operators that are not in `macs`.
        operators: How often each operator or layer class occurs.
        size: The file's bytes; `None` for a model in memory.
        labels: Class names that a TFLite file holds.
    """

    name: str
    kind: str
    weights: tuple[WeightView, ...]
    parameters: int
    nonzero_parameters: int
    macs: int | None
    nonzero_macs: int | None
    uncounted: tuple[str, ...]
    operators: dict[str, int]
    size: FileSize | None = None
    labels: tuple[str, ...] = ()

    @property
    def sparsity(self) -> float:
        """Share of zeros over all listed weights together, in [0, 1]."""
        return share_of_zeros(self.weights)

    def to_dict(self) -> dict[str, Any]:
        """Returns the findings as plain Python values."""
        values = dataclasses.asdict(self)
        values["sparsity"] = self.sparsity
        for row, weight in zip(values["weights"], self.weights, strict=True):
            row["sparsity"] = weight.sparsity
        return values

    def to_json(self) -> str:
        """Returns the findings as JSON text."""
        return as_json(self.to_dict())

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.kind}"]
        if self.size is not None:
            lines.append(
                f"size        {self.size.raw:,} bytes, gzip {self.size.gzip:,} bytes"
            )
        lines.append(
            f"parameters  {self.parameters:,}, not zero {self.nonzero_parameters:,}"
        )
        if self.macs is not None:
            lines.append(
                f"MACs        {self.macs:,}, with weights that are not zero "
                f"{self.nonzero_macs:,}"
            )
        if self.uncounted:
            lines.append(f"  not counted: {', '.join(self.uncounted)}")
        counts = ", ".join(f"{name} {count}" for name, count in self.operators.items())
        lines.append(f"made of     {counts}")
        if self.labels:
            lines.append(f"labels      {len(self.labels)}: {_shortened(self.labels)}")
        lines.append("")
        rows = [
            (
                weight.name,
                "x".join(map(str, weight.shape)),
                weight.dtype,
                f"{weight.sparsity:.4f}",
                f"{weight.largest:.3g}" if weight.histogram else "-",
                bars(weight.histogram),
                weight.pattern,
            )
            for weight in self.weights
        ]
        rows.append(("all of these", "", "", f"{self.sparsity:.4f}", "", "", ""))
        header = (
            *("weight", "shape", "dtype", "zeros"),
            *("largest", "values, - to +", "pattern"),
        )
        return "\n".join([*lines, *table(header, rows)])


def _shortened(labels: tuple[str, ...]) -> str:
    shown = ", ".join(labels[:_LABELS_SHOWN])
    return f"{shown}, ..." if len(labels) > _LABELS_SHOWN else shown


def inspect(model_or_path: keras.Model | str | os.PathLike[str]) -> Inspection:
    """Looks at a Keras model, a `.keras` file or a `.tflite` file.

    Args:
        model_or_path: A built Keras 3 model, or the path of a file.

    Returns:
        Shape, sparsity and pattern of each weight, totals and sizes. `print` it.

    Raises:
        TypeError: If it is neither a model nor a path.
        ValueError: If the file is missing, of another kind, or damaged; or the model is
            not built.
    """
    if isinstance(model_or_path, keras.Model):
        return _inspect_model(model_or_path)
    if not isinstance(model_or_path, (str, os.PathLike)):
        raise TypeError(
            "`model_or_path` must be a Keras 3 model or the path of a '.keras' or "
            f"'.tflite' file. {received(model_or_path)}"
        )
    path = Path(model_or_path)
    if path.is_dir():
        raise ValueError(
            f"{str(path)!r} is a folder. Name a '.keras' or '.tflite' file."
        )
    if path.suffix not in _READERS:
        raise ValueError(
            "`model_or_path` must end in '.keras' or '.tflite'. "
            f"Received: {str(path)!r}. Load what is of another format in Python, and "
            "save it with model.save('model.keras')."
        )
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}.")
    return _READERS[path.suffix](path)


def _inspect_keras_file(path: Path) -> Inspection:
    model = load_model(path)
    found = _inspect_model(model)
    return dataclasses.replace(
        found, name=str(path), kind="Keras file", size=_file_size(path.read_bytes())
    )


def _inspect_model(model: keras.Model) -> Inspection:
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} is not built: it has no weights yet. Call it on "
            "data, or give it a keras.Input first."
        )
    weights, parameters, nonzero = [], 0, 0
    axes = {id(item.variable): item.axes for item in candidates(model)}
    for variable in model.weights:
        # Masks are boolean, and the state of random generators is integer.
        if "float" not in variable.dtype and "int8" not in variable.dtype:
            continue
        values = variable.numpy()
        zeros = values == 0
        parameters += zeros.size
        nonzero += zeros.size - int(zeros.sum())
        if zeros.ndim < 2:
            continue
        weights.append(
            WeightView(
                variable.path,
                tuple(zeros.shape),
                variable.dtype,
                int(zeros.sum()),
                patterns.describe(_arranged(zeros, axes.get(id(variable)))),
                *_distribution(values),
            )
        )
    counts: dict[str, int] = {}
    macs = nonzero_macs = 0
    uncounted = []
    for layer in _leaves(model):
        counts[type(layer).__name__] = counts.get(type(layer).__name__, 0) + 1
        found = _layer_macs(layer)
        if found is not None:
            macs, nonzero_macs = macs + found[0], nonzero_macs + found[1]
        elif any(len(variable.shape) > 1 for variable in layer.weights):
            uncounted.append(layer.name)
    countable = macs > 0 or not uncounted
    return Inspection(
        name=model.name,
        kind="Keras model",
        weights=tuple(weights),
        parameters=parameters,
        nonzero_parameters=nonzero,
        macs=macs if countable else None,
        nonzero_macs=nonzero_macs if countable else None,
        uncounted=tuple(uncounted),
        operators=dict(sorted(counts.items())),
    )


def _distribution(values: np.ndarray | None) -> tuple[float, tuple[int, ...]]:
    """Returns a weight's `largest` and `histogram`."""
    if values is None:
        return 0.0, ()
    kept = values[values != 0].astype(np.float64)
    kept = kept[np.isfinite(kept)]
    largest = float(np.abs(kept).max(initial=0))
    ends = (-largest, largest) if largest else None
    counts, _ = np.histogram(kept, _BINS, ends)
    return largest, tuple(map(int, counts))


def _arranged(zeros: np.ndarray, axes: Axes | None) -> np.ndarray:
    """Returns a Keras weight's zeros with outputs first and inputs last."""
    return np.moveaxis(zeros, -1, 0) if axes is None else axes.arranged(zeros)


def _leaves(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yields the layers that hold weights themselves or have no layers inside."""
    for layer in model._flatten_layers(include_self=False):
        inner = list(layer._flatten_layers(include_self=False))
        if not inner or any(
            getattr(layer, name, None) is not None for name in ("kernel", "gamma")
        ):
            yield layer


def _layer_macs(layer: keras.layers.Layer) -> tuple[int, int] | None:
    """Returns a layer's MACs and those with weights that are not zero.

    `None` for layers of other kinds, or whose output shape is not known: those outside
    of a Functional or Sequential model, and shared ones.
    """
    layers = keras.layers
    transposed = isinstance(layer, (layers.Conv1DTranspose, layers.Conv2DTranspose))
    convolution = isinstance(
        layer,
        (
            layers.Conv1D,
            layers.Conv2D,
            layers.Conv3D,
            layers.DepthwiseConv1D,
            layers.DepthwiseConv2D,
        ),
    )
    separable = isinstance(layer, (layers.SeparableConv1D, layers.SeparableConv2D))
    if separable or not (convolution or transposed or isinstance(layer, layers.Dense)):
        return None
    try:
        tensor = layer.input if transposed else layer.output
    except (AttributeError, ValueError):
        return None
    shape = tuple(tensor.shape)[1:]
    channels_first = getattr(layer, "data_format", None) == "channels_first"
    positions = shape[1:] if channels_first else shape[:-1]
    if None in positions:
        return None
    kernel = layer.kernel.numpy()
    times = math.prod(positions)
    return times * kernel.size, times * int(np.count_nonzero(kernel))


def _inspect_tflite(path: Path) -> Inspection:
    from kprune.export import tflite
    from kprune.export.cost import count_macs, nonzeros
    from kprune.export.decoding import decoded
    from kprune.export.metadata import labels_of

    try:
        data = path.read_bytes()
        file = decoded(tflite.parse(data))
    except OSError as error:
        raise ValueError(f"Cannot read {str(path)!r}: {error.strerror}.") from error
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error
    depthwise = {
        id(graph.tensors[operator.inputs[1]])
        for graph in file.subgraphs
        for operator in graph.operators
        if operator.name == "DEPTHWISE_CONV_2D" and len(operator.inputs) > 1
    }
    weights, parameters, nonzero = [], 0, 0
    for tensor in file.weights():
        kept = nonzeros(tensor)
        parameters += tensor.size
        nonzero += kept
        if len(tensor.shape) < 2:
            continue
        zeros = tensor.zero_mask
        if zeros is None:
            pattern = "stored in a sparse encoding"
        elif id(tensor) in depthwise:
            pattern = patterns.describe(zeros.reshape(-1, zeros.shape[-1]).T)
        else:
            pattern = patterns.describe(zeros)
        # What a sparse encoding stores has no places, and so no scales along an axis.
        stored = tensor.sparse and not tensor.scale.size
        values = tensor.values if stored else tensor.real
        weights.append(
            WeightView(
                tensor.name or f"tensor {tensor.index}",
                tensor.shape,
                tensor.type.lower(),
                tensor.size - kept,
                pattern,
                *_distribution(values),
            )
        )
    macs = count_macs(file)
    return Inspection(
        name=str(path),
        kind="TFLite file",
        weights=tuple(weights),
        parameters=parameters,
        nonzero_parameters=nonzero,
        macs=macs.total,
        nonzero_macs=macs.nonzero,
        uncounted=macs.uncounted,
        operators=file.operator_counts(),
        size=_file_size(data),
        labels=labels_of(data),
    )


def _file_size(data: bytes) -> FileSize:
    return FileSize.of(data)


_READERS = {".keras": _inspect_keras_file, ".tflite": _inspect_tflite}
