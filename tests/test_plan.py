import keras
import numpy as np
import pytest
from models import nested, sequential

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
