"""Layers that hold another layer: what is inside is asked for its own rule.

This module changes when Keras wraps layers, or writes down wrapped ones, in another way.
"""

import dataclasses
from collections.abc import Sequence

import keras

from kprune.coupling.builder import Resize
from kprune.coupling.layout import Layout, Shape, volume
from kprune.coupling.registry import Call, coupling, rule_of

L = keras.layers


@coupling(L.TimeDistributed)
def time_distributed(call: Call) -> Layout | list[Layout]:
    """Applies its layer to each step of time by itself, with the same weights."""
    layer = call.operation.layer
    rule = rule_of(layer)
    if hasattr(layer, "operations") or isinstance(layer, keras.Sequential):
        return call.barrier("wraps a model; call the layers of it one by one")
    if rule is None:
        return call.barrier(f"wraps a {type(layer).__name__}, which has no coupling rule")
    if len(call.inputs) > 1:
        return call.barrier("gets a mask as an argument")
    x = call.mixes(call.input, [1], "applies its layer to each step of this axis")
    shape = call.shapes[0]
    step = held(call, layer, "layer", [x.without([1])], [(shape[0], *shape[2:])])
    costs = call.builder.costs
    before = len(costs)
    made = keras.tree.flatten(rule(step))[0]
    steps = volume(shape[1:2])
    costs[before:] = [
        dataclasses.replace(cost, factor=cost.factor * steps) for cost in costs[before:]
    ]
    return made.moved([0, -1, *range(1, len(made.shape))], shape)


def held(
    call: Call,
    layer: keras.layers.Layer,
    key: str,
    args: Sequence[Layout],
    shapes: Sequence[Shape],
) -> Call:
    """Returns the call of a layer that another one holds and describes.

    Args:
        call: The call of the outer layer.
        layer: The inner one.
        key: The outer one's configuration entry that describes it.
        args: Its arguments.
        shapes: The shapes of its outputs.
    """
    unbuilt(call, key)
    return call.inner(layer, key, args, shapes)


def unbuilt(call: Call, *keys: str) -> None:
    """Says that a layer described in the configuration is not built from it.

    The description says what shapes the layer was built with, and Keras would build it
    with the same. What holds the layer builds it with what is left.
    """
    path = (*call.path, *keys, "build_config")
    call.builder.resize(call.owner, Resize(path, lambda alive: None))
