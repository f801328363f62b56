"""Recurrent layers as straight lines, where a loop would crash or hang.

This module changes when the converter or a runtime learns to run loops.
"""

from collections.abc import Iterator
from typing import Any

import keras

from kprune.export.targets import NEEDS_DATA, Target
from kprune.rebuild import Changes, graph_of, has_graph, nodes_of, rebuild

# Each step is some ten operators; above it converting takes minutes.
_MOST_STEPS = 256


def without_loops(
    model: keras.Model, quantization: str, target: Target
) -> tuple[keras.Model, tuple[str, ...]]:
    """Returns a model whose recurrent layers are unrolled where they have to be.

    An unrolled layer computes the same with the same weights, one step after the other.

    Args:
        model: The model, which is not changed.
        quantization: A key of `targets.QUANTIZATIONS`.
        target: What the file is for.

    Returns:
        A copy with unrolled layers and their names; or the model itself and none.

    Raises:
        ValueError: If a layer has to be unrolled and cannot be.
    """
    found = dict(_loops(model, quantization, target))
    if not found:
        return model, ()
    name, trouble = next(iter(found.items()))
    said = f"Layer {name!r} is a loop, and {trouble}. "
    if not has_graph(model) or graph_of(model) is None:
        raise ValueError(
            f"{said}Build it with unroll=True: it takes the same weights. Models with "
            "a graph (Sequential, Functional) are unrolled for you."
        )
    _check_steps(model, said)
    cure = "Build it with unroll=True: it takes the same weights."
    try:
        copy = rebuild(model, _Unrolled())
    except ValueError as error:
        raise ValueError(
            f"{said}{cure} It could not be done for you: {error}"
        ) from error
    if left := dict(_loops(copy, quantization, target)):
        # Inside of layers of the user's own, whose configurations do not tell of it.
        name, trouble = next(iter(left.items()))
        raise ValueError(
            f"Layer {name!r} is a loop, and {trouble}. {cure} It could not be done for "
            "you, since it is inside of another layer that makes it."
        )
    return copy, tuple(found)


def _loops(
    model: keras.Model, quantization: str, target: Target
) -> Iterator[tuple[str, str]]:
    """Yields the names of layers that would crash or hang, and which of it."""
    for layer in model._flatten_layers():
        if not isinstance(layer, keras.layers.RNN) or getattr(layer, "unroll", False):
            continue
        # https://github.com/tensorflow/tensorflow/issues/101050: the calibrator ends
        # the process that it runs in.
        if quantization in NEEDS_DATA:
            yield (
                layer.name,
                f"TensorFlow's converter crashes on loops for {quantization}",
            )
        elif target.micro and layer.return_sequences:
            yield layer.name, "TensorFlow Lite Micro never returns from its loop"


def _check_steps(model: Any, said: str) -> None:
    """Raises if a sequence has too many steps, or nobody knows how many."""
    for node in nodes_of(graph_of(model)):
        operation = node.operation
        if has_graph(operation):
            _check_steps(operation, said)
        elif isinstance(operation, (keras.layers.RNN, keras.layers.Bidirectional)):
            steps = node.input_tensors[0].shape[1]
            if steps is None:
                raise ValueError(
                    f"{said}It can be unrolled only for a fixed number of steps: give "
                    f"the input of {operation.name!r} one, keras.Input((steps, ...))."
                )
            if steps > _MOST_STEPS:
                raise ValueError(
                    f"{said}Unrolled for the {steps} steps of {operation.name!r} it "
                    f"would be too large; up to {_MOST_STEPS} are unrolled. Shorten "
                    "the sequence, for instance by strided convolutions before it."
                )


class _Unrolled(Changes):
    def config(self, operation: Any, config: dict[str, Any]) -> dict[str, Any]:
        """Returns the configuration with every loop in it unrolled."""
        return _unrolled(config)


def _unrolled(config: Any) -> Any:
    if isinstance(config, dict):
        return {
            key: True if key == "unroll" else _unrolled(value)
            for key, value in config.items()
        }
    return config
