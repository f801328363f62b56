"""Which layer of the model an operator of a file comes from.

This module changes when the converter names tensors in another way.
"""

import re

from kprune.export.tflite import Operator, Subgraph

_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


def layer_of(graph: Subgraph, operator: Operator) -> str:
    """Returns the name of the layer that an operator comes from; empty if unknown.

    The converter names what an operator makes by the paths of all that it computes, of
    which the last one has the weights: "net_1/relu_1/Relu;net_1/conv_1/convolution".
    Batch normalisation that is folded into them may come after it. Keras numbers scopes
    anew, so that the layer is called "conv". What a model returns is named by the
    converter itself, and then its weights may tell; a slimmed file has no names.
    """
    read = operator.inputs[1:2] if operator.name in _WEIGHTED else ()
    for index in (*operator.outputs[:1], *read):
        paths = graph.tensors[index].name.split(";")
        folded = [path for path in paths if "/batchnorm/" not in path]
        last = (folded or [paths[-1].replace("/batchnorm/", "/")])[-1]
        parts = last.split("/")
        if len(parts) > 1:
            return re.sub(r"_\d+$", "", parts[-2])
    return ""


def told(graph: Subgraph, position: int) -> str:
    """Returns what an operator is called in messages."""
    operator = graph.operators[position]
    layer = layer_of(graph, operator)
    return f"{layer!r} ({operator.name})" if layer else f"a {operator.name}"
