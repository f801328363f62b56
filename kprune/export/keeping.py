"""From layers that the user wants in float32 to operators of a file.

This module changes when users may name such layers in another way.
"""

import itertools
from collections.abc import Iterable
from typing import Any

import keras

from kprune.export import mixed, tflite
from kprune.export.interface import Interface
from kprune.export.origin import Origin, origins
from kprune.naming import is_pattern, matches, unknown
from kprune.plan import matchers, means


def check(
    float_layers: Any, quantization: str, model: keras.Model
) -> list[tuple[str, ...]]:
    """Returns names of layers, or patterns of names, for each thing that was given.

    Args:
        float_layers: A layer, a layer class, a name or a pattern of names, a function
            from a layer to bool, or a sequence of these; `None` for no layer.
        quantization: How the others are quantised.
        model: The model.

    Raises:
        TypeError: If it is something else.
        ValueError: If the model has no such layer, or the quantisation keeps all
            operators in float32 anyway.
    """
    wanted = matchers("`float_layers`", float_layers)
    if wanted and quantization not in mixed.QUANTIZATIONS:
        raise ValueError(
            f"`float_layers` is for a quantization of {mixed.QUANTIZATIONS}. With "
            f"{quantization!r} everything computes in float32: leave it out."
        )
    layers = list(model._flatten_layers(include_self=False))
    return [_names(matcher, layers) for matcher in wanted]


def _names(matcher: Any, layers: list[keras.layers.Layer]) -> tuple[str, ...]:
    names = [layer.name for layer in layers]
    if isinstance(matcher, str):
        if not is_pattern(matcher) and matcher.split("/")[-1] not in names:
            raise ValueError(f"float_layers: {unknown(matcher, names)}")
        return (matcher,)
    found = tuple(each.name for each in layers if means(matcher, (each,), ()))
    if not found:
        raise ValueError(f"float_layers: {matcher!r} is no layer of the model.")
    return found


def operators(
    plain: bytes,
    interface: Interface,
    model: keras.Model,
    wanted: Iterable[tuple[str, ...]],
) -> dict[int, str]:
    """Returns the operators of layers, and what the layers are called.

    Args:
        plain: The model's float32 file, as the converter wrote it.
        interface: The model's inputs and outputs.
        model: The model.
        wanted: Names of layers, or patterns, as `check` returns them. Of several
            together some may have no operator.

    Returns:
        Names of layers by the positions of their operators in the main graph.

    Raises:
        ValueError: If a layer has no operator in the file.
    """
    found: dict[int, str] = {}
    origin = of_operators(plain, interface, model)
    for patterns in wanted:
        places = {
            position: each.name
            for position, each in enumerate(origin)
            if any(matches(*pair) for pair in itertools.product(each.layers, patterns))
        }
        if not places:
            known = dict.fromkeys(each.name for each in origin if each.name)
            raise ValueError(
                f"float_layers: {', '.join(map(repr, patterns))} has no operator in "
                "the file. It does nothing on a device, or is folded into another "
                f"layer: name that one. The file has {', '.join(map(repr, known))}."
            )
        found |= places
    return dict(sorted(found.items()))


def of_operators(
    plain: bytes, interface: Interface, model: keras.Model
) -> list[Origin]:
    """Returns the layers that each operator of a float32 file comes from."""
    file = tflite.parse(plain)
    outputs = file.signatures[0].outputs
    made_by = [
        history.operation.name
        for tensor in getattr(model, "outputs", None) or ()
        if (history := getattr(tensor, "_keras_history", None)) is not None
    ]
    ends = dict(
        zip((outputs[name] for name in interface.output_names), made_by, strict=False)
    )
    names = {layer.name for layer in model._flatten_layers(include_self=False)}
    return origins(file.subgraphs[0], names, ends)
