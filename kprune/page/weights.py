"""The weights of a model or a file, counted for a page.

This module changes when layers are to be named, matched or counted in another way.
"""

import dataclasses
from collections.abc import Mapping

import keras
import numpy as np

from kprune.export import tflite
from kprune.export.decoding import decoded
from kprune.page.facts import LayerFacts, WeightFacts
from kprune.prunable import candidates

_BINS = 48


@dataclasses.dataclass(frozen=True)
class Weight:
    """A weight's values.

    Args:
        kind: The layer's class, or the data type in a file.
        channels: How many channels it makes.
        values: Its elements.
    """

    kind: str
    channels: int
    values: np.ndarray


def of_model(model: keras.Model) -> dict[str, Weight]:
    """Returns the weights of two axes and more that could be pruned, by layer.

    Args:
        model: A built model.
    """
    found = [item for item in candidates(model) if len(item.variable.shape) > 1]
    found = [item for item in found if item.axes is not None]
    layers = ["/".join(layer.name for layer in item.owners) for item in found]
    result = {}
    for item, layer in zip(found, layers, strict=True):
        several = layers.count(layer) > 1
        name = f"{layer}/{item.variable.name}" if several else layer
        values = item.variable.numpy()
        owner = item.owners[-1] if item.owners else model
        channels = item.axes.shape(values.shape)[0]  # type: ignore[union-attr]
        result[name] = Weight(type(owner).__name__, channels, values)
    return result


def of_file(data: bytes) -> dict[str, Weight]:
    """Returns the weights of two axes and more of a `.tflite` file, by tensor.

    Those that are stored in LiteRT's sparse encoding are left out.

    Args:
        data: The file.

    Raises:
        ValueError: If it is not a readable TFLite model.
    """
    file = decoded(tflite.parse(data))
    depthwise = {
        id(graph.tensors[operator.inputs[1]])
        for graph in file.subgraphs
        for operator in graph.operators
        if operator.name == "DEPTHWISE_CONV_2D" and len(operator.inputs) > 1
    }
    result = {}
    for tensor in file.weights():
        values = tensor.real
        if len(tensor.shape) < 2 or values is None:
            continue
        axis = -1 if id(tensor) in depthwise else 0
        name = tensor.name or f"tensor {tensor.index}"
        result[name] = Weight(tensor.type.lower(), values.shape[axis], values)
    return result


def compared(
    before: Mapping[str, Weight], after: Mapping[str, Weight]
) -> tuple[LayerFacts, ...]:
    """Returns the layers of both, in the order of the first.

    Args:
        before: The weights before, by layer.
        after: The weights after.
    """
    return tuple(
        _layer(name, before.get(name), after.get(name)) for name in {**before, **after}
    )


def _layer(name: str, before: Weight | None, after: Weight | None) -> LayerFacts:
    given = [weight for weight in (before, after) if weight is not None]
    finite = [w.values[np.isfinite(w.values)].astype(np.float64) for w in given]
    low = min((values.min(initial=0.0) for values in finite), default=0.0)
    high = max((values.max(initial=0.0) for values in finite), default=0.0)
    if low == high:
        low, high = low - 1.0, high + 1.0
    states = [
        None if weight is None else _counted(weight, low, high)
        for weight in (before, after)
    ]
    return LayerFacts(name, given[-1].kind, float(low), float(high), *states)


def _counted(weight: Weight, low: float, high: float) -> WeightFacts:
    values = weight.values[np.isfinite(weight.values)].astype(np.float64)
    counts, _ = np.histogram(values[values != 0], _BINS, (low, high))
    return WeightFacts(
        channels=weight.channels,
        size=weight.values.size,
        zeros=int(np.count_nonzero(weight.values == 0)),
        histogram=tuple(int(count) for count in counts),
    )
