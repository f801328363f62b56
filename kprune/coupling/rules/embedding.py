"""Embeddings that are also read backwards.

This module changes when Keras gets another kind of embedding.
"""

import keras

from kprune.coupling.layout import Layout, volume
from kprune.coupling.registry import Call, coupling
from kprune.coupling.rules.dense import embedding

L = keras.layers


@coupling(L.ReversibleEmbedding)
def reversible_embedding(call: Call) -> Layout:
    """Makes the dimensions of its vectors, or reads them and compares with each row."""
    layer, x = call.operation, call.input
    backwards = [*call.args[1:], call.kwargs.get("reverse", False)][0]
    if isinstance(backwards, Layout):
        return call.barrier("decides by a tensor which way it works")[0]
    if not layer.tie_weights:
        # Made with the others, whichever way the layer is called first.
        made = call.fresh(layer.output_dim)
        call.weight(layer.embeddings, makes={1: made}, kind="dimensions")
        call.weight(layer.reverse_embeddings, reads={0: made})
    if not backwards:
        return embedding(call)
    read = call.labels(x, -1)
    if layer.tie_weights:
        call.weight(layer.embeddings, reads={1: read})
        if read is not None:
            # The weights that read a dimension may be those that make it.
            call.builder.demand(read, f"{call.name} sums over it")
    else:
        call.weight(layer.reverse_embeddings, reads={0: read})
    if read is not None:
        call.resize("output_dim", read)
    call.product([volume(x.shape[1:-1]), layer.input_dim, x.shape[-1]], {2: read})
    return call.output({-1: None}, like=x)
