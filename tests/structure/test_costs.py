"""What costs are counted on or measured with."""

import importlib.util

import keras
import pytest

import kprune
from kprune.coupling.graph import analyse
from kprune.structure import costs
from kprune.structure.budget import Budget

L = keras.layers


def small():
    return keras.Sequential(
        [
            L.Input((6, 6, 2)),
            L.Conv2D(8, 3, activation="relu"),
            L.Flatten(),
            L.Dense(3),
        ]
    )


def test_counts_are_those_of_the_smaller_model():
    model = small()
    coupling = analyse(model)
    shrunk = kprune.shrink(model, sparsity=0.5)
    removed = coupling.nothing()
    (group,) = coupling.groups
    (plan,) = shrunk.shrink_report.plan.groups
    removed[group.units[list(plan.removed)]] = True
    cost = costs.of(Budget(params=0.5), coupling, {}, None)
    assert cost.before == model.count_params()
    assert cost.after(removed) == shrunk.count_params()


def test_the_file_of_the_model_as_it_is_is_exported_once(monkeypatch):
    coupling = analyse(small())
    made = []
    monkeypatch.setattr(costs, "convert", lambda *rest: made.append(1) or b"bytes")
    monkeypatch.setattr(costs, "check_operators", lambda *rest: None)
    monkeypatch.setattr(costs, "slim", lambda content: content)
    cost = costs.of(Budget(flash_bytes=0.5), coupling, {}, None)
    assert cost.before == cost.after(coupling.nothing()) == 5
    assert len(made) == 1


def test_without_tflite_micro_an_arena_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'kprune\[micro\]'"):
        costs.of(Budget(arena_bytes=0.5), analyse(small()), {}, None)


def test_files_need_fixed_input_sizes():
    model = keras.Sequential(
        [L.Input((None, None, 2)), L.Conv2D(8, 3), L.GlobalMaxPooling2D(), L.Dense(3)]
    )
    with pytest.raises(ValueError, match="every dimension but the batch must be fixed"):
        costs.of(Budget(flash_bytes=0.5), analyse(model), {}, None)
