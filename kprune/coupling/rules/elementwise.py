"""Layers with one input that work element by element, or do nothing at inference."""

import keras

from kprune.coupling.layout import Layout
from kprune.coupling.registry import NOT_ELEMENTWISE, Call, coupling, value_at_zero

L = keras.layers


@coupling(
    L.ActivityRegularization,
    L.AlphaDropout,
    L.Dropout,
    L.ELU,
    L.GaussianDropout,
    L.GaussianNoise,
    L.Identity,
    L.LeakyReLU,
    L.ReLU,
    L.SpatialDropout1D,
    L.SpatialDropout2D,
    L.SpatialDropout3D,
)
def keeps_zero(call: Call) -> Layout:
    """Maps zero to zero."""
    return call.output(like=call.input)


@coupling(L.Activation)
def activation(call: Call) -> Layout:
    """Applies a function that is known to work element by element."""
    function = call.operation.activation
    if function in (keras.activations.softmax, keras.activations.log_softmax):
        return call.output(like=call.mixes(call.input, [-1], "mixes the last axis"))
    value = value_at_zero(function)
    name = getattr(function, "__name__", type(function).__name__)
    if value is None:
        return call.barrier(f"applies {name!r}, which {NOT_ELEMENTWISE}")[0]
    if value:
        labels = call.input.labels
        call.builder.spoil(labels, f"{call.name}: {name}(0) is {value:.3g}")
    return call.output(like=call.input)


@coupling(L.Softmax)
def softmax(call: Call) -> Layout:
    """Mixes its axes."""
    axis = call.operation.axis
    axes = axis if isinstance(axis, list | tuple) else [axis]
    return call.output(like=call.mixes(call.input, axes, "mixes its axis"))


@coupling(L.PReLU)
def prelu(call: Call) -> Layout:
    """Has a slope per element, but for the axes that share it."""
    layer, x = call.operation, call.input
    shared = {axis - 1 for axis in layer.shared_axes or ()}
    scales = {
        axis: call.labels(x, axis + 1)
        for axis in range(len(layer.alpha.shape))
        if axis not in shared
    }
    call.weight(layer.alpha, scales=scales, scored=False)
    return call.output(like=x)


@coupling(L.Rescaling)
def rescaling(call: Call) -> Layout:
    """Multiplies by a number and adds one."""
    layer = call.operation
    numbers = [layer.scale, layer.offset]
    if not all(isinstance(number, int | float) for number in numbers):
        return call.barrier("has a scale or an offset per channel")[0]
    if layer.offset:
        labels = call.input.labels
        call.builder.spoil(labels, f"{call.name} adds {layer.offset:.3g}")
    return call.output(like=call.input)


@coupling(L.Masking)
def masking(call: Call) -> Layout:
    """Decides by all features of a time step whether it counts."""
    return call.output(like=call.mixes(call.input, [-1], "looks at all features"))
