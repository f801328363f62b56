"""The table of what an integer model does with the range of an operation's output.

This module changes when TFLite runs another operation in int8, or Keras gets one.
"""

import dataclasses
from typing import Any

import keras

from kprune.quantization.kernels import entry_of
from kprune.rebuild import plain

L = keras.layers

WEIGHTS = "weights"
"""Its weights are int8, and its output has a range of its own."""
SCALING = "scaling"
"""It is written as a depthwise convolution of one pixel."""
FREE = "free"
"""It has no weights, and its output has a range of its own."""
FIXED = "fixed"
"""TFLite prescribes the range of its output."""
SAME = "same"
"""Its output, and every input, have one range; each value is one of its inputs'."""
ROUNDED = "rounded"
"""Its output has the range of its input, and other values."""
RELU = "relu"
"""Part of what comes before it, where that can be; otherwise as `FREE`."""
AGAIN = "again"
"""It gives a value another range than the prescribed one that it has."""
NOTHING = "nothing"
"""It does nothing in inference."""
FLOAT = "float"
"""It is computed in float32."""


@dataclasses.dataclass(frozen=True)
class Role:
    """What an operation is for a model of integers.

    Args:
        kind: One of the constants of this module.
        range: The ends of a `FIXED` range.
        reason: Why it is `FLOAT`.
    """

    kind: str
    range: tuple[float, float] | None = None
    reason: str = ""


_UNIT = (0.0, 255 / 256)
_SIGNED = (-1.0, 127 / 128)

_FUNCTIONS: dict[str, Role] = {
    "linear": Role(NOTHING),
    "relu": Role(RELU),
    "relu6": Role(RELU),
    "sigmoid": Role(FIXED, _UNIT),
    "softmax": Role(FIXED, _UNIT),
    "tanh": Role(FIXED, _SIGNED),
    "hard_swish": Role(FREE),
    "hard_silu": Role(FREE),
    "leaky_relu": Role(FREE),
    "gelu": Role(FREE),
}

_LAYERS: dict[type, Role] = {
    **dict.fromkeys(
        (L.BatchNormalization, L.Rescaling, L.Normalization), Role(SCALING)
    ),
    **dict.fromkeys(
        (
            L.Add,
            L.Subtract,
            L.Multiply,
            L.GlobalAveragePooling1D,
            L.GlobalAveragePooling2D,
            L.LeakyReLU,
            L.PReLU,
        ),
        Role(FREE),
    ),
    **dict.fromkeys(
        (
            L.Concatenate,
            L.Maximum,
            L.Minimum,
            L.MaxPooling1D,
            L.MaxPooling2D,
            L.GlobalMaxPooling1D,
            L.GlobalMaxPooling2D,
            L.Flatten,
            L.Reshape,
            L.Permute,
            L.RepeatVector,
            L.ZeroPadding1D,
            L.ZeroPadding2D,
            L.Cropping1D,
            L.Cropping2D,
            L.UpSampling1D,
        ),
        Role(SAME),
    ),
    **dict.fromkeys((L.AveragePooling1D, L.AveragePooling2D), Role(ROUNDED)),
    **dict.fromkeys(
        (
            L.Identity,
            L.ActivityRegularization,
            L.Dropout,
            L.SpatialDropout1D,
            L.SpatialDropout2D,
            L.GaussianDropout,
            L.GaussianNoise,
            L.AlphaDropout,
        ),
        Role(NOTHING),
    ),
}

# Operations of `keras.ops`, whose classes are not public.
_OPERATIONS: dict[str, Role] = {
    **dict.fromkeys(("Add", "Subtract", "Multiply"), Role(FREE)),
    **dict.fromkeys(
        ("Reshape", "Transpose", "Squeeze", "ExpandDims", "Concatenate"), Role(SAME)
    ),
    "Relu": Role(RELU),
    "Relu6": Role(RELU),
    "Sigmoid": Role(FIXED, _UNIT),
    "Tanh": Role(FIXED, _SIGNED),
    "HardSilu": Role(FREE),
    "LeakyRelu": Role(FREE),
}

_FUSED_INTO = (L.Add, L.Subtract, L.Multiply)


def role_of(operation: Any, rank: int) -> Role:
    """Returns what an operation without activation is for a model of integers.

    Args:
        operation: The operation, built or not.
        rank: How many axes its output has.
    """
    inner = plain(operation)
    reason = _unfit(inner, rank)
    if reason:
        return Role(FLOAT, reason=reason)
    if entry_of(inner) is not None:
        return Role(WEIGHTS)
    cls = type(inner)
    if cls is L.Activation:
        name = _name(inner.activation)
        return _FUNCTIONS.get(name, _unknown(f"the activation {name!r}"))
    if cls is L.ReLU:
        return _relu(inner)
    if cls is L.Softmax:
        return _FUNCTIONS["softmax"]
    if cls is L.UpSampling2D:
        return Role(SAME if inner.interpolation == "nearest" else ROUNDED)
    if cls in _LAYERS:
        return _LAYERS[cls]
    if not isinstance(inner, L.Layer) and cls.__module__.startswith("keras."):
        return _OPERATIONS.get(cls.__name__, _unknown(f"the operation {cls.__name__}"))
    return _unknown(f"the layer {cls.__name__}")


def takes_relu(operation: Any, role: Role) -> bool:
    """Returns whether a ReLU after an operation is part of it in TFLite."""
    if role.kind in (WEIGHTS, SCALING):
        return not isinstance(plain(operation), L.Embedding)
    is_operation = not isinstance(operation, L.Layer)
    return isinstance(operation, _FUSED_INTO) or (
        is_operation and type(operation).__name__ in ("Add", "Subtract", "Multiply")
    )


def _relu(layer: keras.layers.ReLU) -> Role:
    plain_slope = not layer.negative_slope and not layer.threshold
    if plain_slope and layer.max_value in (None, 6):
        return Role(RELU)
    if layer.max_value is None and not layer.threshold:
        return Role(FREE)
    return _unknown("a ReLU with other ends than 0 and 6")


def _unfit(layer: Any, rank: int) -> str:
    if getattr(layer, "data_format", None) == "channels_first":
        return "its channels come first; TFLite has them last"
    if isinstance(layer, (L.BatchNormalization, L.Softmax, L.Normalization)):
        axes = layer.axis if isinstance(layer.axis, (list, tuple)) else (layer.axis,)
        if any(axis is not None and axis % rank != rank - 1 for axis in axes):
            return "it works along another axis than the last"
    if getattr(layer, "quantization_mode", None):
        return f"Keras has quantised it already ({layer.quantization_mode})"
    if getattr(layer, "lora_enabled", False):
        return "it has LoRA weights; merge them first"
    return ""


def _name(activation: Any) -> str:
    if isinstance(activation, L.Layer):
        return type(activation).__name__
    return getattr(activation, "__name__", type(activation).__name__)


def _unknown(what: str) -> Role:
    return Role(FLOAT, reason=f"no int8 form of {what} is known")
