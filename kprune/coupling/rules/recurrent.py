"""Recurrent layers, whose units are at once what they make, keep and read.

This module changes when Keras gets another cell, or lays out gates in another way.
"""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.coupling.layout import Block, Layout, volume
from kprune.coupling.registry import (
    NOT_ELEMENTWISE,
    Call,
    Labels,
    coupling,
    rule_of,
    value_at_zero,
)
from kprune.coupling.rules.wrappers import held, unbuilt

L = keras.layers

# How many matrices stand side by side in a kernel, and how many states a unit has.
_GATES = {L.SimpleRNNCell: 1, L.GRUCell: 3, L.LSTMCell: 4}
_STATES = {L.SimpleRNNCell: 1, L.GRUCell: 1, L.LSTMCell: 2}


@coupling(L.SimpleRNN, L.GRU, L.LSTM, L.RNN)
def recurrent(call: Call) -> list[Layout]:
    """Reads the features of each step, and makes units, which it reads as well."""
    unknown = _unknown(call)
    if unknown:
        return call.barrier(unknown)
    made, states = _units(call)
    labels = [made, *(states if call.operation.return_state else ())]
    return _layouts(call, labels)


@coupling(L.Bidirectional)
def bidirectional(call: Call) -> list[Layout]:
    """Runs two layers of the same width, one of them from the end, and merges them."""
    layer = call.operation
    directions = {"layer": layer.forward_layer, "backward_layer": layer.backward_layer}
    if any(rule_of(one) is not recurrent for one in directions.values()):
        return call.barrier("runs a layer without a rule for recurrent layers")
    x, states, masks = _arguments(call)
    half = len(states) // 2
    parts = {"layer": states[:half], "backward_layer": states[half:]}
    calls = [
        held(call, one, key, [x, parts[key], masks], ())
        for key, one in directions.items()
    ]
    unknown = next(filter(None, map(_unknown, calls)), "")
    if unknown:
        return call.barrier(unknown)
    # Keras gives the shapes of both directions as those of the forward one.
    forward, backward = (
        [(type(cell), cell.units) for cell in _cells(one)]
        for one in directions.values()
    )
    if forward != backward:
        return call.barrier(
            "has directions that differ, and Keras takes their sizes for the same"
        )
    (left, ends), (right, more) = map(_units, calls)
    for one, other in zip([left, *ends], [right, *more], strict=True):
        call.builder.tie(one, other)
    merged = {"concat": [np.concatenate([left, right])], None: [left, right]}
    labels = merged.get(layer.merge_mode, [left])
    if layer.return_state:
        labels = [*labels, *ends, *more]
    return _layouts(call, labels)


def _unknown(call: Call) -> str:
    """Returns why nothing is known of a recurrent layer; empty if all is."""
    layer, cells = call.operation, _cells(call.operation)
    own = isinstance(layer, L.SimpleRNN | L.GRU | L.LSTM)
    if not own and type(layer) is not L.RNN:
        return "is a subclass of RNN, which may describe its cell in its own way"
    if any(type(cell) not in _GATES for cell in cells):
        names = " and ".join(sorted({type(cell).__name__ for cell in cells}))
        return f"runs {names}, which has no coupling rule"
    if len(call.input.shape) != 3:
        return "gets steps that are not vectors"
    return ""


def _units(call: Call) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the labels of a layer's outputs, and of each of its states."""
    layer = call.operation
    x, states, masks = _arguments(call)
    x = call.mixes(x, [0, 1], "goes along this axis step by step")
    for mask in masks:
        call.mixes(mask, range(len(mask.shape)), "takes it as a mask")
    steps = volume(x.shape[1:2])
    read, ends = call.labels(x, -1), []
    for place, cell in enumerate(_cells(layer)):
        count = _STATES[type(cell)]
        units = _cell(_call_of(call, cell, place), cell, read, states[:count], steps)
        if layer.stateful:
            reason = f"{call.name} keeps its state between calls (stateful=True)"
            call.pin(units, reason)
        states = states[count:]
        ends += [units] * count
        read = units
    return units, ends


def _layouts(call: Call, labels: Sequence[np.ndarray]) -> list[Layout]:
    return [
        Layout(shape, (Block((len(shape) - 1,), its),))
        for shape, its in zip(call.shapes, labels, strict=True)
    ]


def _cells(layer: Any) -> list[Any]:
    cell = layer.cell
    return list(cell.cells) if type(cell) is L.StackedRNNCells else [cell]


def _call_of(call: Call, cell: Any, place: int) -> Call:
    """Returns the call that says where a cell is described, and what holds it."""
    if type(call.operation) is not L.RNN:
        return call  # LSTM and the like describe their cell in their own entries.
    inner = held(call, call.operation.cell, "cell", (), ())
    if inner.operation is cell:
        return inner
    keys: tuple[Any, ...] = ("cells", place)
    unbuilt(inner, *keys)
    path = (*inner.path, *keys, "config")
    return dataclasses.replace(inner, operation=cell, path=path)


def _arguments(call: Call) -> tuple[Layout, list[Layout], list[Layout]]:
    """Returns the sequence, the initial states, and masks."""
    signature = inspect.signature(call.operation.call)
    given = signature.bind(*call.args, **call.kwargs).arguments
    x, *rest = (
        [item for item in keras.tree.flatten(value) if isinstance(item, Layout)]
        for value in (
            next(iter(given.values())),
            given.get("initial_state"),
            given.get("mask"),
        )
    )
    return x[0], rest[0], rest[1]


def _cell(
    call: Call, cell: Any, read: Labels, states: Sequence[Layout], steps: int
) -> np.ndarray:
    """Returns the labels of a cell's units, having said what belongs to them."""
    units = call.fresh(cell.units)
    gates = np.tile(units, _GATES[type(cell)])
    call.weight(
        cell.kernel, reads={0: read}, makes={1: gates}, kind="units", uses=steps
    )
    call.weight(cell.recurrent_kernel, reads={0: units}, makes={1: gates}, uses=steps)
    # With `reset_after` the bias of a GRU has a row for each of the two kernels.
    call.weight(cell.bias, makes={-1: gates}, scored=False)
    for state in states:
        reason = f"{call.name} begins with a state of a fixed number of channels"
        call.tie(units, call.labels(state, -1), reason)
    call.activate(cell.activation, units)
    gate = getattr(cell, "recurrent_activation", None)
    # What a gate is at zero does not matter: it is multiplied with a state of zero.
    if gate is not None and value_at_zero(gate) is None:
        name = getattr(gate, "__name__", type(gate).__name__)
        call.pin(
            units, f"{call.name}: its recurrent activation {name!r} {NOT_ELEMENTWISE}"
        )
    call.resize("units", units)
    return units
