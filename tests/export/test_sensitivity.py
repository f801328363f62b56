import json

import keras
import nets
import numpy as np
import pytest

import kprune
from kprune.export import export
from kprune.report import LayerSensitivity, SensitivityReport

L = keras.layers


def uneven():
    """A network of which one layer suffers: its weights and values span decades."""
    layers = [
        L.Input((16,), name="facts"),
        L.Dense(24, activation="relu", name="even"),
        L.Dense(24, name="wild"),
        L.Dense(24, activation="relu", name="calm"),
        L.Dense(4, name="head"),
    ]
    model = keras.Sequential(layers, name="uneven")
    wild, calm = (np.array(model.get_layer(name).kernel) for name in ("wild", "calm"))
    # One of its values is large, and counts little afterwards.
    wild[:, 0] *= 300
    calm[0] /= 300
    model.get_layer("wild").kernel.assign(wild)
    model.get_layer("calm").kernel.assign(calm)
    return nets.zeroed(model, 0.5)


def facts(count=40):
    return np.random.default_rng(0).random((count, 16), dtype="float32")


@pytest.fixture(scope="module")
def report():
    keras.utils.set_random_seed(0)
    return kprune.quantization_sensitivity(uneven(), facts(), num_samples=24)


def test_layers_that_suffer_are_first_and_worth_keeping(report):
    assert report.samples == 24
    # The values between them are what quantises badly.
    assert set(report.worst(2)) == set(report.worth_keeping) == {"wild", "calm"}
    assert {item.layer for item in report.layers} == {"even", "wild", "calm", "head"}
    alone = [item.error_alone for item in report.layers]
    assert alone == sorted(alone, reverse=True)
    assert alone[1] > 5 * alone[2]
    first, second = report.layers[:2]
    assert first.error_left > report.error / 2 > second.error_left
    assert report.layers[2].error_left is None


def test_what_it_promises_is_what_an_export_measures(report, tmp_path):
    model = uneven()  # The same numbers as the fixture's.
    for kept, promised in (
        ((), report.error),
        (report.worst(1), report.layers[0].error_left),
        (report.worst(2), report.layers[1].error_left),
    ):
        exported = export(
            model, tmp_path / "m.tflite", "android", "int8", facts(),
            num_samples=24, float_layers=kept, benchmark=False,
        )  # fmt: skip
        assert exported.float_layers == tuple(
            name for name in ("even", "wild", "calm", "head") if name in kept
        )
        (difference,) = exported.differences
        assert difference.relative == pytest.approx(promised, rel=0.01)


def test_activations_are_compared_layer_by_layer(report):
    errors = {item.layer: item.activation_error for item in report.layers}
    assert 0 < errors["even"] < 0.02
    assert all(0 < item.activation_error < 1 for item in report.layers)
    for item in report.layers:
        assert item.sqnr == pytest.approx(-20 * np.log10(item.activation_error))


@pytest.mark.parametrize("quantization", ["int16x8", "dynamic", "int4"])
def test_other_quantisations_have_sensitive_layers_too(quantization):
    if quantization == "int4":
        pytest.importorskip("ai_edge_quantizer")
    model = keras.Sequential(
        [L.Input((40,)), L.Dense(40, name="a"), L.Dense(40, name="b")]
    )
    before = [weight.numpy() for weight in model.weights]
    data = np.random.default_rng(0).random((8, 40), dtype="float32")
    found = kprune.quantization_sensitivity(model, [data[:4], data[4:]], quantization)
    assert {item.layer for item in found.layers} == {"a", "b"}
    assert all(0 < item.error_alone < 1 for item in found.layers)
    assert found.layers[0].error_left < found.error
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, new.numpy())


def test_a_model_of_which_nothing_is_quantised():
    model = keras.Sequential([L.Input((4,)), L.Dense(3)])
    found = kprune.quantization_sensitivity(model, np.ones((2, 4)), "dynamic")
    assert found.layers == found.worth_keeping == found.worst(3) == ()
    assert "Nothing is quantised" in str(found)


def test_reports_are_read():
    layers = (
        LayerSensitivity("a", ("CONV_2D", "MUL", "MUL"), 0.1, 0.02, 0.02),
        LayerSensitivity("block/b", ("ADD",), 0.0, 0.1, None),
    )
    found = SensitivityReport("net", "int8", "android", 5, 0.1, layers, ("a",))
    lines = str(found).splitlines()
    assert lines[0].startswith("net in int8 for android: the output is off by 0.1")
    assert lines[4].split() == "a CONV_2D, MUL 0.1 20.0 dB 0.02 0.02".split()
    assert lines[5].split() == "block/b ADD 0 inf dB 0.1 -".split()
    assert lines[-1] == "Worth keeping: float_layers=['a'] halves the error."
    values = json.loads(found.to_json())
    assert values["layers"][0]["sqnr"] == pytest.approx(20)
    assert values["layers"][1]["sqnr"] == "inf"
    assert found.worst(0) == ()
    with pytest.raises(ValueError, match="at least 0. Received: -1"):
        found.worst(-1)
    none = SensitivityReport("net", "int8", "android", 5, 0.1, layers, ())
    assert "No layers stand out" in str(none)


@pytest.mark.parametrize(
    ("arguments", "error_type", "words"),
    [
        ((facts(), "none"), ValueError, "compute in something else.*'none'"),
        ((facts(), "int16"), ValueError, "Did you mean 'int16x8'"),
        ((None,), ValueError, "`representative_data` is needed"),
        ((facts() * np.nan,), ValueError, "values that are NaN"),
        ((facts()[:0],), ValueError, "is empty"),
        ((iter([]),), ValueError, "is empty"),
        ((facts() * 0,), ValueError, "ranges are not known: an input"),
        ((facts(), "int4", "microcontroller"), ValueError, "no kernels that mix int4"),
        ((3,), TypeError, "must be an array"),
    ],
)
def test_bad_input_is_refused(arguments, error_type, words):
    with pytest.raises(error_type, match=words):
        kprune.quantization_sensitivity(uneven(), *arguments)


def test_only_keras_models_are_taken():
    with pytest.raises(TypeError, match="must be a Keras 3 model"):
        kprune.quantization_sensitivity("model.keras", facts())


def test_samples_are_at_least_one():
    with pytest.raises(ValueError, match="`num_samples` must be an integer"):
        kprune.quantization_sensitivity(uneven(), facts(), num_samples=0)


def test_a_model_that_is_not_finite_is_refused():
    model = uneven()
    model.get_layer("head").bias.assign(np.full(4, np.nan))
    with pytest.raises(ValueError, match="NaN or infinite.*Check the model's weights"):
        kprune.quantization_sensitivity(model, facts())
