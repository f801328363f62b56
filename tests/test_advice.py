"""What pays on which device, before training; checked against the files themselves."""

import json

import keras
import numpy as np
import pytest
import xnnpack_forms

import kprune
from kprune.advice import CHANNEL, ELEMENT, TWO_OF_FOUR
from kprune.export import tflite
from kprune.export.targets import TARGETS

L = keras.layers
FLOAT, INT8 = "float32 or float16", "dynamic or int8"


def network():
    """A small network whose convolutions are large enough to be encoded."""
    return keras.Sequential(
        [
            L.Input((8, 8, 1)),
            L.Conv2D(32, 3, name="first"),
            L.Conv2D(64, 3, name="second"),
            L.GlobalAveragePooling2D(),
            L.Dense(40, name="wide"),
            L.Dense(3, name="head"),
        ],
        name="net",
    )


def pruned(model, sparsity):
    for variable in model.weights:
        value = variable.numpy()
        if value.ndim > 1:
            variable.assign(xnnpack_forms.zeroed(value, sparsity))
    return model


def constants(path):
    """Bytes of all constants in a file."""
    graph = tflite.parse(path.read_bytes()).subgraphs[0]
    return sum(t.values.nbytes for t in graph.tensors if t.values is not None)


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_every_target_is_advised_on(target):
    model = network()
    before = [np.array(weight) for weight in model.weights]
    advice = kprune.advise(model, target)
    assert {option.pruning for option in advice.options} >= {ELEMENT, CHANNEL}
    channels = advice.option(CHANNEL)
    assert channels.saves_bytes and channels.saves_macs
    for option in advice.options:
        assert option.verdict
        assert option.macs_before == advice.options[0].macs_before
        for gain in option.layers:
            assert 0 < gain.macs_after <= gain.macs_before
            assert gain.bytes_after is None or 0 < gain.bytes_after <= gain.bytes_before
    assert advice.sources and all(": " in source for source in advice.sources)
    text = str(advice)
    assert "net on " + target in text and "scattered zeros" in text
    assert json.loads(advice.to_json())["target"] == target
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_a_phone_skips_zeros_in_networks_of_the_form_only():
    option = kprune.advise(xnnpack_forms.build("base", 0.0)).option(ELEMENT, FLOAT)
    assert option.saves_macs and option.saves_bytes and not option.cures
    skipping = [gain for gain in option.layers if not gain.reason]
    assert len(skipping) == 3
    for gain in skipping:
        assert gain.macs_after == pytest.approx(0.2 * gain.macs_before, abs=1)
    others = {gain.reason for gain in option.layers if gain.reason}
    assert any("depthwise convolutions have no kernel" in reason for reason in others)


def test_two_thirds_must_be_zero():
    model = xnnpack_forms.build("base", 0.0)
    option = kprune.advise(model, sparsity=0.6).option(ELEMENT, FLOAT)
    assert not option.saves_macs and "more than 2/3 must be" in option.verdict


def test_what_is_in_the_way_is_told_with_the_cure():
    option = kprune.advise(xnnpack_forms.build("same padding")).option(ELEMENT, FLOAT)
    assert not option.saves_macs and option.saves_bytes
    assert "padded by 1 on all four sides" in option.verdict
    (cure,) = option.cures
    assert "kprune.prepare(model) changes 2 layers" in cure
    prepared = kprune.prepare(xnnpack_forms.build("same padding"))
    assert kprune.advise(prepared).option(ELEMENT, FLOAT).saves_macs


def test_what_phones_would_compute_wrongly_is_told():
    model = xnnpack_forms.build("max pooling between")
    option = kprune.advise(model).option(ELEMENT, FLOAT)
    assert not option.saves_macs and not option.saves_bytes
    assert "would compute wrongly" in option.verdict
    assert "(MAX_POOL_2D)" in option.verdict


def test_integers_on_phones_gain_nothing():
    option = kprune.advise(xnnpack_forms.build("base")).option(ELEMENT, INT8)
    assert not option.saves_macs and not option.saves_bytes
    assert "larger at half of them" in option.verdict


def test_bytes_on_phones_are_those_of_the_sparse_file(tmp_path):
    model = pruned(xnnpack_forms.build("base", 0.0), 0.8)
    option = kprune.advise(model).option(ELEMENT, FLOAT)
    sizes = {}
    for encode in (False, True):
        path = tmp_path / "m.tflite"
        report = kprune.export(
            model, path, "android", "none", benchmark=False, encode=encode
        )
        sizes[encode] = constants(path)
    assert "DENSIFY" in report.operators
    saved = option.bytes_before - option.bytes_after
    # Where elements stand is no constant to the reader: a byte for each.
    kept = round(0.2 * option.bytes_before / 4)
    assert saved == pytest.approx(sizes[False] - sizes[True] - kept, rel=0.05)


def test_flash_on_microcontrollers_is_that_of_the_encoded_file(tmp_path):
    model = pruned(network(), 0.8)
    option = kprune.advise(model, "microcontroller").option(ELEMENT)
    assert option.stored == "int8, encoded" and not option.saves_macs
    x = np.random.default_rng(0).random((8, 8, 8, 1), dtype="float32")
    report = kprune.export(
        model,
        tmp_path / "m.tflite",
        "microcontroller",
        representative_data=x,
        benchmark=False,
        encode=True,
    )
    weights = report.encoding.weights
    assert option.bytes_before == sum(weight.raw_bytes for weight in weights)
    assert option.bytes_after == pytest.approx(sum(w.bytes for w in weights), rel=0.05)
    small = {gain.layer: gain for gain in option.layers}["'head' (FULLY_CONNECTED)"]
    assert small.bytes_after == small.bytes_before == 120
    assert "too small" in small.reason


def test_two_of_four_halves_multiplications_of_some_layers_on_u85_alone():
    advice = kprune.advise(network(), "ethos-u85-256")
    option = advice.option(TWO_OF_FOUR)
    gains = {gain.layer: gain for gain in option.layers}
    second = gains["'second' (CONV_2D)"]
    assert 2 * second.macs_after == second.macs_before and not second.reason
    first = gains["'first' (CONV_2D)"]
    assert first.macs_after == first.macs_before
    assert first.reason == "1 input channels are no multiple of 4"
    assert option.bytes_after is None and "?" in str(advice)
    with pytest.raises(KeyError, match="2 of 4 zeros"):
        kprune.advise(network(), "ethos-u55-128").option(TWO_OF_FOUR)


def test_odd_widths_on_an_npu_are_named():
    odd = keras.Sequential(
        [L.Input((8, 8, 3)), L.Conv2D(20, 3, name="odd"), L.Conv2D(32, 3), L.Flatten()]
    )
    odd.add(L.Dense(5))
    (cure,) = kprune.advise(odd, "ethos-u65-256", sparsity=0.5).option(CHANNEL).cures
    assert "1 of 3 layers" in cure and "odd 20" in cure and "multiple=16" in cure


def test_the_number_of_heads_is_no_width():
    inputs = keras.Input((4, 16))
    model = keras.Model(inputs, L.MultiHeadAttention(3, 8)(inputs, inputs))
    assert kprune.advise(model, "ethos-u55-128").option(CHANNEL).cures == ()


def test_models_without_a_graph_keep_their_channels_and_say_so():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(4)

        def call(self, x):
            return self.dense(x)

    model = Subclassed()
    x = np.zeros((2, 8), "float32")
    model(x)
    option = kprune.advise(model, data=x).option(CHANNEL)
    assert not option.saves_bytes and "needs a graph" in option.verdict
    with pytest.raises(ValueError, match="unknown"):
        kprune.advise(model)


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="advise needs a Keras 3 model"):
        kprune.advise("model")
    with pytest.raises(ValueError, match="Did you mean 'android'"):
        kprune.advise(network(), "adroid")
    with pytest.raises(ValueError, match="is not built"):
        kprune.advise(keras.Sequential([L.Dense(3)]))


@pytest.mark.parametrize("sparsity", [0, 1.0, -0.1, 80, "0.5"])
def test_bad_sparsities_are_refused(sparsity):
    with pytest.raises((ValueError, TypeError), match="advise: `sparsity`"):
        kprune.advise(network(), sparsity=sparsity)
