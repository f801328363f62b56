"""Convolutions: plain, transposed, grouped, depthwise and separable."""

import keras
import numpy as np

from kprune.coupling.layout import Layout, volume
from kprune.coupling.registry import Call, Labels, coupling

L = keras.layers


@coupling(L.Conv1D, L.Conv2D, L.Conv3D)
def convolution(call: Call) -> Layout:
    """Reads all input channels of its group, and makes filters."""
    layer = call.operation
    axis = _channel_axis(layer)
    x = _spatial(call, axis)
    read = call.labels(x, axis)
    if read is not None and 1 < layer.groups == len(read):
        return _one_channel_per_group(call, x, axis, read)
    made = call.fresh(layer.filters)
    positions = volume(_without(call.shapes[0], axis))
    if layer.groups > 1:
        # A kernel is a rectangle: each group gives up the same places.
        read = _same_in_groups(call, read, layer.groups)
        _same_in_groups(call, made, layer.groups)
    call.weight(
        layer.kernel, reads={-2: read}, makes={-1: made}, kind="filters", uses=positions
    )
    return _filters(call, x, axis, made)


@coupling(L.Conv1DTranspose, L.Conv2DTranspose, L.Conv3DTranspose)
def transposed_convolution(call: Call) -> Layout:
    """Reads all input channels, and makes filters; its kernel is (..., out, in)."""
    layer = call.operation
    axis = _channel_axis(layer)
    x = _spatial(call, axis)
    made = call.fresh(layer.filters)
    call.weight(
        layer.kernel,
        reads={-1: call.labels(x, axis)},
        makes={-2: made},
        kind="filters",
        uses=volume(_without(x.shape, axis)),
    )
    return _filters(call, x, axis, made)


@coupling(L.DepthwiseConv1D, L.DepthwiseConv2D)
def depthwise_convolution(call: Call) -> Layout:
    """Passes each channel on, `depth_multiplier` times."""
    layer = call.operation
    axis = _channel_axis(layer)
    x = _spatial(call, axis)
    channels = call.labels(x, axis)
    positions = volume(_without(call.shapes[0], axis))
    call.weight(layer.kernel, scales={-2: channels}, uses=positions)
    passed = None if channels is None else np.repeat(channels, layer.depth_multiplier)
    call.weight(layer.bias, makes={0: passed}, scored=False)
    return call.output({axis: call.activate(layer.activation, passed)}, like=x)


@coupling(L.SeparableConv1D, L.SeparableConv2D)
def separable_convolution(call: Call) -> Layout:
    """Passes each channel through a depthwise kernel, reads them, makes filters."""
    layer = call.operation
    axis = _channel_axis(layer)
    x = _spatial(call, axis)
    channels, made = call.labels(x, axis), call.fresh(layer.filters)
    between = None if channels is None else np.repeat(channels, layer.depth_multiplier)
    positions = volume(_without(call.shapes[0], axis))
    call.weight(layer.depthwise_kernel, scales={-2: channels}, uses=positions)
    call.weight(
        layer.pointwise_kernel,
        reads={-2: between},
        makes={-1: made},
        kind="filters",
        uses=positions,
    )
    return _filters(call, x, axis, made)


def _filters(call: Call, x: Layout, axis: int, made: np.ndarray) -> Layout:
    """Returns the output of a layer that makes filters."""
    layer = call.operation
    call.weight(layer.bias, makes={0: made}, scored=False)
    call.resize("filters", made)
    return call.output({axis: call.activate(layer.activation, made)}, like=x)


def _one_channel_per_group(
    call: Call, x: Layout, axis: int, channels: np.ndarray
) -> Layout:
    """Passes each channel on, as a depthwise convolution does: so ConvNeXt has it."""
    layer = call.operation
    passed = np.repeat(channels, layer.filters // layer.groups)
    positions = volume(_without(call.shapes[0], axis))
    call.weight(layer.kernel, scales={-1: passed}, uses=positions)
    call.weight(layer.bias, makes={0: passed}, scored=False)
    call.resize("filters", passed)
    call.resize("groups", channels)
    return call.output({axis: call.activate(layer.activation, passed)}, like=x)


def _channel_axis(layer: keras.layers.Layer) -> int:
    return 1 if layer.data_format == "channels_first" else -1


def _spatial(call: Call, axis: int) -> Layout:
    """Returns the input with all axes but the channels' fixed."""
    x = call.input
    others = [i for i in range(len(x.shape)) if i != x.axis(axis)]
    return call.mixes(x, others, "slides along this axis")


def _without(shape: tuple[int | None, ...], axis: int) -> list[int | None]:
    return [size for i, size in enumerate(shape) if i not in (0, axis % len(shape))]


def _same_in_groups(call: Call, labels: Labels, groups: int) -> Labels:
    if labels is None:
        return None
    rows = labels.reshape(groups, -1)
    call.builder.tie(rows[:1], rows)
    return rows[0]
