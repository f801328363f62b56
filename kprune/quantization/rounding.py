"""Rounding, and what is folded into weights before it: functions of tensors.

What they compute is TensorFlow's own fake quantisation, whose operators the converter
reads as the ranges of an integer model. This module changes when weights or activations
are to be rounded in another way.
"""

import dataclasses
from typing import Any

import keras
import numpy as np

from kprune.quantization.kernels import Kernel
from kprune.quantization.mode import DEPLOYED, Mode

_LEAST_SHARE = 1e-3
"""The least range of a channel's weights, as a share of the widest channel's.

What such a channel adds is below a step of the 8 bits of its output. With a range near
zero its bias, which is stored in steps of the weights', would not fit its 32 bits.
"""


@dataclasses.dataclass(frozen=True)
class Folding:
    """A batch normalisation in inference: what it multiplies by, and what it adds."""

    scale: Any
    offset: Any


def folding_of(norm: keras.layers.BatchNormalization) -> Folding:
    """Returns what a normalisation does in inference."""
    variance = keras.ops.cast(norm.moving_variance, "float32")
    mean = keras.ops.cast(norm.moving_mean, "float32")
    scale = keras.ops.rsqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * keras.ops.cast(norm.gamma, "float32")
    offset = -mean * scale
    if norm.center:
        offset = offset + keras.ops.cast(norm.beta, "float32")
    return Folding(scale, offset)


def scaling_of(layer: keras.layers.Layer, channels: int) -> Folding:
    """Returns what a scaling layer does, as a vector per entry of the last axis.

    Args:
        layer: A `BatchNormalization`, `Normalization` or `Rescaling`.
        channels: How many entries that has.
    """
    if isinstance(layer, keras.layers.BatchNormalization):
        return folding_of(layer)
    if isinstance(layer, keras.layers.Normalization):
        mean, deviation = np.asarray(layer.mean), np.sqrt(np.asarray(layer.variance))
        scale = 1 / np.maximum(deviation, keras.config.epsilon())
        scale, offset = scale, -mean * scale
        if layer.invert:
            scale, offset = deviation, mean
    else:
        scale, offset = np.asarray(layer.scale), np.asarray(layer.offset)
    scale, offset = (
        np.broadcast_to(np.reshape(each, -1).astype("float32"), (channels,))
        for each in (scale, offset)
    )
    return Folding(keras.ops.convert_to_tensor(scale), offset)


def round_activations(x: Any, low: Any, high: Any) -> Any:
    """Returns activations rounded to 256 values in a range, with 0 among them."""
    import tensorflow as tf

    return tf.quantization.fake_quant_with_min_max_vars(x, low, high)


def passing(rounding: Any, weight: Any, kernel: Kernel) -> Any:
    """Returns what a rounding makes of a weight, with the gradient of the weight.

    TensorFlow's own gradient is zero outside of the range, to which the largest weight
    of a channel may belong by an error of rounding.
    """
    if Mode.now == DEPLOYED:
        return rounding(weight, kernel)
    return weight + keras.ops.stop_gradient(rounding(weight, kernel) - weight)


def round_weight(weight: Any, kernel: Kernel) -> Any:
    """Returns a weight rounded to the 255 values of int8 that lie around zero.

    Args:
        weight: Values of the kernel's shape, float32.
        kernel: What its axes are.
    """
    import tensorflow as tf

    ops = keras.ops
    if not kernel.per_channel:
        end = ops.stop_gradient(ops.max(ops.abs(weight)))
        end = ops.where(end == 0, 1.0, end)
        return tf.quantization.fake_quant_with_min_max_vars(
            weight, -end, end, num_bits=8, narrow_range=True
        )
    flat = kernel.outputs_last(weight)
    ends = ops.stop_gradient(
        ops.max(ops.abs(flat), axis=tuple(range(len(flat.shape) - 1)))
    )
    widest = ops.max(ends)
    ends = ops.maximum(ends, ops.where(widest == 0, 1.0, _LEAST_SHARE * widest))
    return ops.reshape(round_channels(flat, ends), weight.shape)


def round_channels(values: Any, ends: Any) -> Any:
    """Returns values rounded with a range per entry of the last axis."""
    import tensorflow as tf

    return tf.quantization.fake_quant_with_min_max_vars_per_channel(
        values, -ends, ends, num_bits=8, narrow_range=True
    )
