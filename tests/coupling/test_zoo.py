"""Models in use: their groups, their costs, and the proof of what is left of them."""

import keras
import numpy as np
import pytest
import zoo

import kprune
from kprune.coupling.graph import analyse
from kprune.structure.proof import outputs, probe

OUTPUT = "it is an output of the model, which keeps its shape"
NORMALISED = "takes mean and variance over these channels"

names = pytest.mark.parametrize("name", zoo.FACTORIES)


@names
def test_groups_are_those_that_the_architecture_says(name):
    coupling = analyse(zoo.built(name))
    found = sorted(group.size for group in coupling.groups)
    assert found == sorted(zoo.GROUPS[zoo.FACTORIES[name]])


@names
def test_only_outputs_and_what_layer_normalisations_see_are_fixed(name):
    coupling = analyse(zoo.built(name))
    reasons = {group.reason for group in coupling.fixed}
    others = {reason for reason in reasons if NORMALISED not in reason} - {OUTPUT}
    assert not others
    if name != "vit":
        assert reasons == {OUTPUT}


@names
def test_all_parameters_are_counted(name):
    model = zoo.built(name)
    coupling = analyse(model)
    assert coupling.parameters(coupling.nothing()) == model.count_params()


@pytest.mark.parametrize(
    ("name", "granularity"),
    [
        *((name, kprune.Channel()) for name in zoo.FACTORIES),
        ("vit", kprune.Channel(head_dimensions=True)),
        ("causal", kprune.Channel(head_dimensions=True)),
    ],
)
def test_masked_and_smaller_models_agree(name, granularity):
    model = zoo.built(name)
    small = kprune.shrink(model, 0.5, granularity=granularity)
    report = small.shrink_report
    assert report.equality.relative < 1e-4
    inputs, _ = probe(small)
    for output in outputs(small, inputs):  # Nothing can differ if all are the same.
        assert np.ptp(output, axis=0).max() > 0.01 * np.abs(output).max()
    assert small.count_params() == report.plan.parameters_after
    again = analyse(small)
    assert again.macs(again.nothing()) == report.plan.macs_after
    assert report.plan.macs_after < 0.75 * report.plan.macs


def test_multiply_accumulates_are_those_of_the_formulas():
    coupling = analyse(zoo.built("vit"))
    tokens, width, heads, dims = 16, 16, 4, 6
    attention = 4 * tokens * width * heads * dims + 2 * tokens**2 * heads * dims
    block = attention + 2 * tokens * width * 32
    patches = tokens * 4 * 4 * 3 * width
    assert coupling.macs(coupling.nothing()) == patches + 2 * block + width * 5


def test_towers_stay_shared_and_models_stay_nested():
    small = kprune.shrink(zoo.built("siamese"), 0.5)
    assert [layer.name for layer in small.layers if layer.name == "tower"] == ["tower"]
    inner = kprune.shrink(zoo.built("functional_in_functional"), 0.5).get_layer("inner")
    assert inner.inputs[0].shape[-1] == 3


def test_inputs_and_outputs_keep_their_structure():
    model = zoo.built("two_in_two_out")
    small = kprune.shrink(model, 0.5)
    inputs = {"image": np.ones((2, 8, 8, 2)), "vector": np.ones((2, 5))}
    assert [y.shape for y in small.predict(inputs, verbose=0)] == [(2, 3), (2, 1)]


def test_a_smaller_model_trains_and_is_saved(tmp_path):
    small = kprune.shrink(zoo.built("lstm"), 0.5)
    small.compile("adam", "mse")
    x = np.random.default_rng(0).integers(0, 30, (8, 10))
    small.fit(x, np.zeros((8, 4)), verbose=0)
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(loaded(x), small(x), atol=1e-6)
