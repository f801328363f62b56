"""Dense layers and embeddings."""

import keras

from kprune.coupling.layout import Layout, volume
from kprune.coupling.registry import Call, coupling

L = keras.layers


@coupling(L.Dense)
def dense(call: Call) -> Layout:
    """Reads the last axis, and makes units."""
    layer, x = call.operation, call.input
    made = call.fresh(layer.units)
    call.weight(
        layer.kernel,
        reads={0: call.labels(x, -1)},
        makes={1: made},
        kind="units",
        uses=volume(x.shape[1:-1]),
    )
    call.weight(layer.bias, makes={0: made}, scored=False)
    call.resize("units", made)
    if layer.bias is not None or layer.activation is not keras.activations.linear:
        call.shifts(x, [-1], "adds the same bias along this axis")
    return call.output({-1: call.activate(layer.activation, made)}, like=x)


@coupling(L.Embedding)
def embedding(call: Call) -> Layout:
    """Makes the dimensions of its vectors; its rows are looked up and stay."""
    layer = call.operation
    x = call.mixes(call.input, range(len(call.input.shape)), "looks its values up")
    made = call.fresh(layer.output_dim)
    call.weight(layer.embeddings, makes={1: made}, kind="dimensions")
    call.resize("output_dim", made)
    return call.output({-1: made}, like=x)
