"""Which layer of the model an operator of a file comes from.

This module changes when the converter names tensors in another way.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping

from kprune.export.tflite import Operator, Subgraph

_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


@dataclasses.dataclass(frozen=True)
class Origin:
    """The layers that an operator comes from.

    Args:
        name: What the operator is called: the layer that has its weights, after the
            layers that this is part of, such as `"block/conv"`; empty if unknown.
        layers: The names of all layers that it computes, of those that these are part
            of, and such paths of both.
    """

    name: str
    layers: frozenset[str]


def origins(
    graph: Subgraph, names: Collection[str], ends: Mapping[int, str]
) -> list[Origin]:
    """Returns the origin of each operator of a graph.

    One whose name tells nothing has that of the operator before it: activations at the
    model's end are called by the converter itself.

    Args:
        graph: The main graph of a float32 file, as the converter wrote it.
        names: The names of the model's layers.
        ends: The layers that make the model's outputs, by these outputs' tensors.
    """
    unknown = Origin("", frozenset())
    makers: dict[int, Origin] = {}
    found = []
    for operator in graph.operators:
        chains = [_chain(path, names) for path in _paths(graph, operator)]
        chains += [
            (ends[i],) for i in operator.outputs if i in ends and not any(chains)
        ]
        known = [chain for chain in chains if chain]
        if known:
            layers = {
                layer
                for chain in known
                for end in range(len(chain))
                for layer in (chain[end], "/".join(chain[: end + 1]))
            }
            origin = Origin("/".join(known[0]), frozenset(layers))
        else:
            before = (makers[i] for i in operator.inputs if i in makers)
            origin = next(before, unknown)
        makers.update(dict.fromkeys(operator.outputs, origin))
        found.append(origin)
    return found


def layer_of(graph: Subgraph, operator: Operator) -> str:
    """Returns the name of the layer that an operator comes from; empty if unknown."""
    for path in _paths(graph, operator):
        return re.sub(r"_\d+$", "", path[-2])
    return ""


def told(graph: Subgraph, position: int) -> str:
    """Returns what an operator is called in messages."""
    operator = graph.operators[position]
    layer = layer_of(graph, operator)
    return f"{layer!r} ({operator.name})" if layer else f"a {operator.name}"


def _paths(graph: Subgraph, operator: Operator) -> list[list[str]]:
    """Returns the scopes of what an operator computes, what has its weights first.

    The converter names what an operator makes by the paths of all that it computes, of
    which the last one has the weights: "net_1/relu_1/Relu;net_1/conv_1/convolution".
    Batch normalisation that is folded into them may come after it. Keras numbers scopes
    anew, so that the layer is called "conv". What a model returns is named by the
    converter itself, and then its weights may tell; a slimmed file has no names.
    """
    read = operator.inputs[1:2] if operator.name in _WEIGHTED else ()
    result = []
    for index in (*operator.outputs[:1], *read):
        paths = graph.tensors[index].name.split(";")[::-1]
        paths.sort(key=lambda path: "/batchnorm/" in path)
        split = [path.replace("/batchnorm/", "/").split("/") for path in paths]
        result += [parts for parts in split if len(parts) > 1]
    return result


def _chain(path: list[str], names: Collection[str]) -> tuple[str, ...]:
    """Returns the layers that a path goes through, the outermost first."""
    numbered = ((re.sub(r"_\d+$", "", scope), scope) for scope in path[:-1])
    known = (next((name for name in each if name in names), "") for each in numbered)
    return tuple(filter(None, known))
