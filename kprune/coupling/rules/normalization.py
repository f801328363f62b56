"""Normalisations: over the batch, which keep channels apart, and over channels."""

import keras
import numpy as np

from kprune.coupling.layout import Layout
from kprune.coupling.registry import Call, coupling

L = keras.layers


@coupling(L.BatchNormalization)
def batch_normalization(call: Call) -> Layout:
    """Scales and shifts each channel by itself."""
    layer, x = call.operation, call.input
    channels = call.labels(x, layer.axis)
    call.weight(layer.gamma, makes={0: channels})
    call.weight(layer.beta, makes={0: channels}, scored=False)
    statistics = [layer.moving_mean, layer.moving_variance]
    if layer.gamma is None:  # Where gamma is zero, the mean is of no matter.
        call.weight(statistics.pop(0), makes={0: channels}, scored=False)
    for variable in statistics:
        call.weight(variable, scales={0: channels}, scored=False)
    call.shifts(x, [layer.axis], "shifts it by means of another axis")
    return call.output(like=x)


@coupling(L.LayerNormalization)
def layer_normalization(call: Call) -> Layout:
    """Mixes its axes: a channel of zeros counts in mean and variance."""
    layer = call.operation
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    if layer.beta is not None:
        call.shifts(call.input, axes, "shifts it by values of another axis")
    return call.output(
        like=call.mixes(
            call.input,
            axes,
            "takes mean and variance over these channels, so that also a channel of "
            "zeros counts",
        )
    )


@coupling(L.RMSNormalization)
def rms_normalization(call: Call) -> Layout:
    """Divides by the root mean square; zeros change it by a known factor.

    With d of D channels left, all others zero, x / sqrt(sum / D + eps) equals
    sqrt(D / d) ** -1 * x / sqrt(sum / d + eps * D / d): scale and epsilon take it up.
    """
    layer, x = call.operation, call.input
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    if len(axes) > 1:
        return call.output(like=call.mixes(x, axes, "squares over several axes"))
    axis = axes[0]
    channels = call.labels(x, axis)
    if channels is None:
        return call.output(like=x)
    call.builder.demand(channels, f"{call.name} sums their squares")
    call.weight(layer.scale, makes={0: channels})
    call.rescale(layer.scale, channels, -0.5)
    epsilon, before = layer.epsilon, len(channels)
    call.resize(
        "epsilon",
        lambda alive: epsilon * before / max(1, int(np.count_nonzero(alive[channels]))),
    )
    return call.output({axis: channels}, like=x)


@coupling(L.GroupNormalization)
def group_normalization(call: Call) -> Layout:
    """Mixes the channels of each group, which go together."""
    layer, x = call.operation, call.input
    axis = x.axis(layer.axis)
    others = [i for i in range(1, len(x.shape)) if i != axis]
    x = call.mixes(x, others, "takes mean and variance along this axis")
    channels = call.labels(x, axis)
    if channels is None:
        return call.output(like=x)
    rows = channels.reshape(layer.groups, -1)
    call.builder.tie(rows[:, :1], rows)
    for variable, scored in ((layer.gamma, True), (layer.beta, False)):
        call.weight(variable, makes={0: channels}, scored=scored)
    call.resize("groups", rows[:, 0])
    return call.output({axis: channels}, like=x)


@coupling(L.UnitNormalization)
def unit_normalization(call: Call) -> Layout:
    """Divides by the norm over its axes, to which zeros add nothing."""
    layer, x = call.operation, call.input
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    for axis in axes:
        labels = call.labels(x, axis)
        if labels is not None:
            call.builder.demand(labels, f"{call.name} sums their squares")
    return call.output(like=x)


@coupling(L.Normalization)
def fixed_normalization(call: Call) -> Layout:
    """Has means and variances that were measured on data of this shape."""
    layer = call.operation
    axes = [a for a in layer.axis or () if a != 0]
    call.shifts(call.input, axes, "subtracts a mean")
    return call.output(
        like=call.mixes(call.input, axes, "was adapted to this number of channels")
    )
