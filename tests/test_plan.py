import re

import keras
import numpy as np
import pytest
from models import compiled, nested, sequential

import kprune
from kprune.plan import Plan, Rule, resolve

L = keras.layers


def paths(model, **arguments):
    return [s.path for s in resolve(Plan(Rule(0.5, **arguments)), model).sites]


def test_kernels_are_found_and_everything_else_has_a_reason():
    model = sequential()
    resolution = resolve(Plan(Rule(0.5)), model)
    assert [s.path.split("/")[-2] for s in resolution.sites] == [
        "conv2d",
        "dense",
        "dense_1",
    ]
    found = {s.path for s in resolution.sites} | {s.path for s in resolution.skipped}
    assert found == {w.path for w in model.weights}
    assert all(skip.reason for skip in resolution.skipped)


@pytest.mark.parametrize(
    ("only", "count"),
    [
        ("conv2d", 1),
        ("dense*", 2),
        ("*/dense/kernel", 1),
        (L.Dense, 2),
        ([L.Conv2D, "dense"], 2),
        (lambda layer: getattr(layer, "units", 0) == 16, 1),
    ],
)
def test_only_and_skip_select_by_name_class_and_function(only, count):
    model = sequential()
    assert len(paths(model, only=only)) == count
    assert len(paths(model, skip=only)) == 3 - count


def test_selection_by_layer_object_includes_what_it_holds():
    model = nested()
    backbone = model.get_layer("backbone")
    assert len(paths(model, only=backbone)) == 1
    assert len(paths(model, only="backbone")) == 1
    assert len(paths(model, skip=backbone)) == 1


def test_first_matching_rule_counts():
    plan = Plan((Rule(0.25, only="dense"), Rule(0.75)))
    sites = resolve(plan, sequential()).sites
    finals = [s.rule.schedule.final_sparsity for s in sites]
    assert finals == [0.75, 0.25, 0.75]


def test_a_rule_that_matches_nothing_is_an_error_also_beside_others():
    plan = Plan((Rule(0.25), Rule(0.75, only="dense")))
    with pytest.raises(ValueError, match="Rule 1 of the plan .*only=.'dense'"):
        resolve(plan, sequential())


def test_unbuilt_models_are_refused():
    with pytest.raises(ValueError, match=r"model\.build"):
        resolve(Plan(Rule(0.5)), keras.Sequential([L.Dense(3)]))


def test_resolving_changes_nothing():
    model = sequential()
    before = model.get_weights()
    resolve(Plan(Rule(0.5)), model)
    assert all(v.constraint is None for v in model.weights)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_plans_refuse_what_is_no_rule():
    with pytest.raises(TypeError, match="Rule objects"):
        Plan((0.5,))
    with pytest.raises(ValueError, match="at least one"):
        Plan(())
    with pytest.raises(TypeError, match="`schedule` must be a Schedule"):
        Rule("polynomial")


def test_a_rule_with_a_layer_in_it_says_that_it_cannot_be_saved():
    rule = kprune.Rule(0.5, only=L.Dense)
    with pytest.raises(ValueError, match="name patterns only"):
        rule.get_config()


# --- First and last, tied weights, names ----------------------------------------------


def layers(model, **arguments):
    return [path.split("/")[-2] for path in paths(model, **arguments)]


def test_first_and_last_layer_are_exempt_by_option():
    assert layers(sequential(), skip_first=True) == ["dense", "dense_1"]
    keras.backend.clear_session()
    assert layers(sequential(), skip_first=True, skip_last=True) == ["dense"]
    keras.backend.clear_session()
    assert layers(nested(), skip_last=True) == ["conv2d"]


def test_all_kernels_of_the_first_layer_are_exempt():
    model = keras.Sequential(
        [L.Input((5, 2)), L.Bidirectional(L.LSTM(4)), L.Dense(3), L.Dense(2)]
    )
    assert len(paths(model)) == 6
    assert layers(model, skip_first=True) == ["dense", "dense_1"]


def test_a_frozen_first_layer_is_the_first():
    model = sequential()
    model.layers[0].trainable = False
    assert layers(model, skip_first=True) == ["dense", "dense_1"]


def test_wrappers_know_nothing_of_first_and_last():
    pruned = kprune.prune(sequential(), 0.5, skip_first=True, skip_last=True)
    wrapped = [layer for layer in pruned.layers if isinstance(layer, kprune.Pruned)]
    assert [layer.name for layer in wrapped] == ["dense"]
    assert wrapped[0].rule == Rule(0.5)


class Tied(L.Layer):
    """Uses another layer's kernel backwards."""

    def __init__(self, other, **kwargs):
        super().__init__(**kwargs)
        self.kernel = other.kernel

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.kernel))


def tied():
    encoder = L.Dense(4, name="encoder")
    encoder.build((None, 6))
    return keras.Sequential([L.Input((6,)), encoder, Tied(encoder, name="decoder")])


def test_a_tied_weight_falls_under_one_rule():
    model = tied()
    assert len(paths(model)) == 1
    assert len(paths(model, only="encoder")) == 1
    assert len(paths(model, only="decoder")) == 1
    with pytest.raises(ValueError, match="matches nothing"):
        paths(model, skip="decoder")


def test_two_rules_on_a_tied_weight_are_refused():
    model = tied()
    plan = Plan((Rule(0.5, only="encoder"), Rule(0.8, only="decoder")))
    match = "shared by several layers.*rule 0 by 'encoder', rule 1 by 'decoder'"
    with pytest.raises(ValueError, match=match):
        resolve(plan, model)
    apart = Plan((Rule(0.5, only="encoder"), Rule(0.8, only="*coder", skip="encoder")))
    with pytest.raises(ValueError, match="Rule 1 of the plan .* matches nothing"):
        resolve(apart, model)
    both = Plan((Rule(0.5, only=["encoder", "decoder"]), Rule(0.8)))
    with pytest.raises(ValueError, match="Rule 1 of the plan matches nothing"):
        resolve(both, model)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (dict(only="densse"), "only: 'densse' matches nothing.*mean 'dense'"),
        (dict(skip=["conv2d", "dense_2"]), "skip: 'dense_2' .*mean 'dense_1'"),
        (dict(allocation={"conv": 0.1}), "'conv' matches nothing.*mean 'conv2d'"),
        (
            dict(granularity=kprune.NofM(2, 4)),
            "conv2d/kernel: 2:4 needs a multiple of 4 along the input axis.* 1",
        ),
        (
            dict(granularity=kprune.Block((8, 1))),
            r"conv2d/kernel: a block of 8x1 is larger(.|\n)*dense_1/kernel",
        ),
    ],
)
def test_what_cannot_be_is_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        paths(sequential(), **arguments)


def test_names_of_layers_without_weights_may_be_skipped():
    assert len(paths(sequential(), skip=["flatten", "conv2d", "nothing*"])) == 2


@pytest.mark.parametrize(
    "matcher",
    ["nothing*", L.LSTM, L.Dense(2, name="mine"), lambda layer: layer.name == "dens"],
)
def test_what_means_nothing_is_told(matcher):
    model = sequential()
    idle = resolve(Plan((Rule(0.5, skip=[L.Flatten, "dense*", matcher]),)), model).idle
    assert len(idle) == 1
    match = re.escape(f"skip: {matcher!r} means no layer of ")
    assert re.match(match, idle[0])
    with pytest.warns(kprune.PruningWarning, match=match):
        kprune.prune(model, sparsity=0.5, skip=matcher)


def test_axes_of_a_custom_layer_are_asked_for(monkeypatch):
    class Mine(L.Layer):
        def build(self, shape):
            self.matrix = self.add_weight(shape=(shape[-1], 4), name="matrix")

        def call(self, x):
            return keras.ops.matmul(x, self.matrix)

    monkeypatch.setattr("kprune.prunable._TABLE", dict(kprune.prunable._TABLE))
    model = keras.Sequential([L.Input((8,)), Mine()])
    kprune.register_prunable(Mine, ["matrix"])
    assert len(paths(model)) == 1
    match = r"register_prunable\(Mine, {'matrix': 'io'}\)"
    with pytest.raises(ValueError, match=match):
        paths(model, granularity=kprune.Block((1, 4)))
    kprune.register_prunable(Mine, {"matrix": "io"})
    assert len(paths(model, granularity=kprune.Block((1, 4)))) == 1
    with pytest.raises(ValueError, match="a letter each"):
        kprune.register_prunable(Mine, {"matrix": "hw"})


# --- What does not go together --------------------------------------------------------

TWO_OF_FOUR = kprune.NofM(2, 4)


def test_n_of_m_brings_its_sparsity():
    assert Rule(granularity=TWO_OF_FOUR).schedule.final_sparsity == 0.5
    assert Rule(0.5, granularity=TWO_OF_FOUR).schedule.final_sparsity == 0.5
    callback = kprune.PruningCallback(granularity=TWO_OF_FOUR, skip_first=True)
    assert callback._plan.rules[0] == Rule(granularity=TWO_OF_FOUR, skip_first=True)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (dict(schedule=0.9, granularity=TWO_OF_FOUR), "ends at sparsity 0.9.* 0.5"),
        (dict(granularity=TWO_OF_FOUR, allocation="erk"), "same share of every"),
        (dict(granularity=TWO_OF_FOUR, allocation={"a": 0.1}), "same share of every"),
        (
            dict(schedule=0.5, granularity="channel", allocation="erk"),
            "shape of single kernels",
        ),
        (dict(schedule=0.5, allocation="erq"), "Did you mean 'erk'"),
        (dict(schedule=0.5, granularity="block"), r"Block\(\.\.\.\) needs arguments"),
    ],
)
def test_rules_refuse_what_does_not_go_together(arguments, match):
    with pytest.raises(ValueError, match=match):
        Rule(**arguments)


def test_a_function_that_ends_beside_n_of_m_is_refused_when_the_fit_begins(data):
    model = compiled(sequential())
    arguments = dict(granularity=TWO_OF_FOUR, skip_first=True)
    callback = kprune.PruningCallback(schedule=lambda step: 0.4, **arguments)
    with pytest.raises(ValueError, match="ends at sparsity 0.4"):
        model.fit(*data, verbose=0, callbacks=[callback])
