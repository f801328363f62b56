"""Layers that move or repeat data without computing."""

import keras
import numpy as np

from kprune.coupling.layout import Layout
from kprune.coupling.registry import Call, coupling

L = keras.layers


@coupling(L.Flatten)
def flatten(call: Call) -> Layout:
    """Merges all axes; each index keeps the label of its channel."""
    x = call.input
    if call.operation.data_format == "channels_first" and len(x.shape) > 2:
        # Keras moves the channels to the end first.
        x = x.moved([0, *range(2, len(x.shape)), 1])
    return call.reshape(x)


@coupling(L.Reshape)
def reshape(call: Call) -> Layout:
    """Gives the same values another shape."""
    new = call.reshape(call.input)
    asked = call.operation.target_shape
    if new.blocks:
        call.resize("target_shape", lambda alive: _resized(new, asked, alive))
    return new


def _resized(
    layout: Layout, asked: tuple[int, ...], alive: np.ndarray
) -> tuple[int, ...]:
    sizes = layout.new_shape(alive)[1:]
    return tuple(
        -1 if old == -1 else int(size or old)
        for old, size in zip(asked, sizes, strict=True)
    )


@coupling(L.Permute)
def permute(call: Call) -> Layout:
    """Changes the order of the axes."""
    return call.input.moved([0, *call.operation.dims])


@coupling(L.RepeatVector)
def repeat_vector(call: Call) -> Layout:
    """Adds a time axis."""
    return call.output({2: call.labels(call.input, 1)})
