"""Layers that hold another layer: what is inside is asked for its own rule.

This module changes when Keras wraps layers, or describes wrapped ones, in another way.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

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
    if rule is None:
        return call.barrier(_unknown(layer))
    for mask in call.inputs[1:]:
        call.mixes(mask, range(len(mask.shape)), "takes it as a mask")
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


@coupling(L.SpectralNormalization)
def spectral_normalization(call: Call) -> Layout | list[Layout]:
    """Calls its layer, whose kernel it divides by a norm while training."""
    layer, inner = call.operation, call.operation.layer
    rule = rule_of(inner)
    if rule is None:
        return call.barrier(_unknown(inner))
    outputs = rule(held(call, inner, "layer", [call.input], call.shapes))
    # It goes on with the vector that stands for the kernel's last axis.
    last = len(layer.kernel.shape) - 1
    slot = call.builder.slots.get(id(layer.kernel), {}).get(last)
    labels = None if slot is None else slot.labels
    call.weight(layer.vector_u, scales={1: labels}, scored=False)
    return outputs


def _unknown(layer: keras.layers.Layer) -> str:
    if isinstance(layer, keras.Model):
        return "wraps a model; call its layers one by one"
    return f"wraps {type(layer).__name__}, which has no coupling rule"


def held(
    call: Call,
    layer: keras.layers.Layer,
    key: str,
    args: Sequence[Any],
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


def unbuilt(call: Call, *keys: Any) -> None:
    """Says that a layer described in the configuration is not built from it.

    The description says what shapes the layer was built with, and Keras would build it
    with the same. What holds the layer builds it with what is left.
    """
    path = (*call.path, *keys, "build_config")
    call.builder.resize(call.owner, Resize(path, lambda alive: None))
