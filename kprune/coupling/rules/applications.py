"""Layers that models of `keras.applications` have of their own.

They have no public name: Keras exports the functions that build these models, not the
layers, which are looked up where they are written. In a version of Keras that has them
elsewhere they have no rule, so that their channels stay.

This module changes when Keras adds applications, or moves their layers.
"""

import importlib

from kprune.coupling.layout import Layout
from kprune.coupling.registry import Call, coupling
from kprune.coupling.rules.merging import elementwise


def _private(module: str, name: str) -> tuple[type, ...]:
    """Returns a layer class that Keras does not export, if it is still there."""
    try:
        found = importlib.import_module(f"keras.src.applications.{module}")
    except ImportError:
        return ()
    return (getattr(found, name),) if hasattr(found, name) else ()


@coupling(*_private("convnext", "LayerScale"))
def layer_scale(call: Call) -> Layout:
    """Multiplies each channel by a weight."""
    channels = call.labels(call.input, -1)
    call.weight(call.operation.gamma, scales={0: channels})
    if channels is not None:
        call.resize("projection_dim", channels)
    return call.output({-1: channels}, like=call.input)


@coupling(*_private("convnext", "StochasticDepth"))
def stochastic_depth(call: Call) -> Layout:
    """Passes everything on at inference."""
    return call.output(like=call.input)


@coupling(*_private("inception_resnet_v2", "CustomScaleLayer"))
def scaled_sum(call: Call) -> Layout:
    """Adds the second input, times a number, to the first."""
    return elementwise(call, call.inputs)
