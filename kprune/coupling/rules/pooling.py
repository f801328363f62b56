"""Pooling, padding, cropping and upsampling, which keep channels apart."""

import keras

from kprune.coupling.layout import Layout
from kprune.coupling.registry import Call, coupling

L = keras.layers
_ADAPTIVE = tuple(
    getattr(L, f"Adaptive{kind}Pooling{rank}D")
    for kind in ("Average", "Max")
    for rank in (1, 2, 3)
    if hasattr(L, f"Adaptive{kind}Pooling{rank}D")
)


@coupling(
    *_ADAPTIVE,
    L.AveragePooling1D,
    L.AveragePooling2D,
    L.AveragePooling3D,
    L.Cropping1D,
    L.Cropping2D,
    L.Cropping3D,
    L.MaxPooling1D,
    L.MaxPooling2D,
    L.MaxPooling3D,
    L.UpSampling1D,
    L.UpSampling2D,
    L.UpSampling3D,
    L.ZeroPadding1D,
    L.ZeroPadding2D,
    L.ZeroPadding3D,
)
def per_channel(call: Call) -> Layout:
    """Works along space or time, on each channel by itself."""
    return call.output(like=_channels_only(call, call.input))


@coupling(
    L.GlobalAveragePooling1D,
    L.GlobalAveragePooling2D,
    L.GlobalAveragePooling3D,
    L.GlobalMaxPooling1D,
    L.GlobalMaxPooling2D,
    L.GlobalMaxPooling3D,
)
def global_pooling(call: Call) -> Layout:
    """Reduces all axes but the channels'."""
    x = _channels_only(call, call.input)
    axis = _channel_axis(call, x)
    labels = call.labels(x, axis)
    return call.output({axis if call.operation.keepdims else 1: labels})


def _channel_axis(call: Call, x: Layout) -> int:
    first = getattr(call.operation, "data_format", None) == "channels_first"
    return 1 if first else len(x.shape) - 1


def _channels_only(call: Call, x: Layout) -> Layout:
    axis = _channel_axis(call, x)
    others = [i for i in range(len(x.shape)) if i != axis]
    return call.mixes(x, others, "works along this axis")
