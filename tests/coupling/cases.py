"""What tests of single rules do with a model."""

import keras
import numpy as np
from zoo import scrambled

import kprune
from kprune.coupling.graph import analyse

L = keras.layers


def around(layer, *shapes, units=8):
    """Returns a model of a layer between dense layers, with random weights.

    Args:
        layer: The layer, or a function from tensors to tensors.
        shapes: The shape of each input; the last axis gets `units` removable channels.
        units: How many.
    """
    keras.utils.set_random_seed(0)
    inputs = [L.Input(shape) for shape in shapes]
    made = [L.Dense(units, name=f"before_{i}")(x) for i, x in enumerate(inputs)]
    outputs = keras.tree.flatten(layer(*made))
    heads = [L.Dense(2, name=f"after_{i}")(y) for i, y in enumerate(outputs)]
    return scrambled(keras.Model(inputs, heads))


def groups(model):
    """Returns the sizes of groups that can lose units, by their names."""
    return {group.name: group.size for group in analyse(model).groups}


def why_fixed(model):
    """Returns why groups stay, by their names; without the outputs' own."""
    return {
        group.name: group.reason
        for group in analyse(model).fixed
        if not group.name.startswith("after")
    }


def proven(model, sparsity=0.5):
    """Shrinks a model, checks that it computes the same, and returns it."""
    small = kprune.shrink(
        model, sparsity, granularity=kprune.Channel(head_dimensions=True)
    )
    report = small.shrink_report
    assert report.equality.relative < 1e-5
    assert small.count_params() == report.plan.parameters_after
    again = analyse(small)
    assert again.macs(again.nothing()) == report.plan.macs_after
    return small


def mask_of(model, group_name, unit):
    """Returns which indices of which weight go with a unit, by the weights' paths."""
    coupling = analyse(model)
    group = next(g for g in coupling.groups if g.name == group_name)
    removed = coupling.nothing()
    removed[group.units[unit]] = True
    masks = coupling.masks(removed)
    return {
        variable.path: [tuple(map(int, i)) for i in np.argwhere(~masks[id(variable)])]
        for variable in model.weights
        if id(variable) in masks
    }
