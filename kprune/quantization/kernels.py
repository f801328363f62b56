"""The one table: which weight of a layer is stored in int8, and how its axes lie.

This module changes when TFLite quantises the weights of another layer.
"""

import dataclasses
from typing import Any

import keras

from kprune.rebuild import plain

L = keras.layers

_LAST, _DEPTHWISE, _TRANSPOSED = "last", "depthwise", "transposed"


@dataclasses.dataclass(frozen=True)
class _Entry:
    """How a layer class's weight is stored.

    Args:
        weight: The attribute that holds it.
        outputs: Where its output channels are.
        per_channel: Whether TFLite has a range per output channel for it.
    """

    weight: str = "kernel"
    outputs: str = _LAST
    per_channel: bool = True


_TABLE: dict[type, _Entry] = {
    L.Conv1D: _Entry(),
    L.Conv2D: _Entry(),
    L.DepthwiseConv1D: _Entry(outputs=_DEPTHWISE),
    L.DepthwiseConv2D: _Entry(outputs=_DEPTHWISE),
    # The converter refuses a range per channel for these two: it transposes them.
    L.Conv2DTranspose: _Entry(outputs=_TRANSPOSED, per_channel=False),
    L.Dense: _Entry(per_channel=False),
    L.Embedding: _Entry("embeddings", per_channel=False),
}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """The weight of a layer that is stored in int8.

    Args:
        variable: The weight.
        bias: The layer's bias, if any.
        outputs: Where its output channels are.
        per_channel: Whether each of them has a range.
    """

    variable: keras.Variable
    bias: keras.Variable | None
    outputs: str
    per_channel: bool

    def along_outputs(self, values: Any) -> Any:
        """Returns one value per output channel in a shape to multiply the weight by."""
        if self.outputs == _DEPTHWISE:
            return keras.ops.reshape(values, self.variable.shape[-2:])
        if self.outputs == _TRANSPOSED:
            return keras.ops.reshape(values, (-1, 1))
        return values

    def outputs_last(self, weight: Any) -> Any:
        """Returns a weight that has a range per channel with these as the last axis."""
        if self.outputs == _DEPTHWISE:
            *window, channels, multiplier = weight.shape
            return keras.ops.reshape(weight, (*window, 1, channels * multiplier))
        return weight


def entry_of(layer: Any) -> _Entry | None:
    """Returns the table's entry for a layer; of a subclass nothing is known."""
    return _TABLE.get(type(plain(layer)))


def kernel_of(layer: keras.layers.Layer) -> Kernel:
    """Returns the weight of a built layer that is stored in int8."""
    entry, inner = entry_of(layer), plain(layer)
    if entry is None:
        raise ValueError(f"{layer.name!r}: no weight of it is known to be quantised.")
    variable = getattr(inner, f"_{entry.weight}", None)
    if variable is None:
        variable = getattr(inner, entry.weight)
    bias = getattr(inner, "bias", None)
    return Kernel(variable, bias, entry.outputs, entry.per_channel)


def is_one_dimensional(layer: keras.layers.Layer) -> bool:
    """Returns whether a layer's window has one side only."""
    return isinstance(plain(layer), (L.Conv1D, L.DepthwiseConv1D))


def convolve_as_image(layer: Any, inputs: Any, kernel: Any, bias: Any) -> Any:
    """Returns what a one-dimensional convolution makes, computed on an image of a row.

    Keras gives its kernel another side once it is rounded, which the converter refuses.

    Args:
        layer: A `Conv1D` or `DepthwiseConv1D`.
        inputs: Its inputs.
        kernel: Its weights, as of an image.
        bias: What it adds instead of its own bias; `None` for that.
    """
    ops, padding = keras.ops, layer.padding
    if padding == "causal":
        inputs = ops.pad(inputs, layer._compute_causal_padding())
        padding = "valid"
    convolve = ops.conv if isinstance(layer, L.Conv1D) else ops.depthwise_conv
    # Keras wants depthwise strides to be the same on both sides; a row has but one.
    both = isinstance(layer, L.DepthwiseConv1D)
    made = convolve(
        ops.expand_dims(inputs, 1),
        kernel,
        strides=(layer.strides[0] if both else 1, layer.strides[0]),
        padding=padding,
        dilation_rate=(1, layer.dilation_rate[0]),
    )
    if bias is None and layer.use_bias:
        bias = layer.bias
    if bias is not None:
        made += bias  # While it is an image: it becomes the convolution's own.
    return ops.squeeze(made, 1)
