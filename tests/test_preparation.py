"""Models whose architecture LiteRT's XNNPACK makes use of."""

import json
import os

import keras
import numpy as np
import pytest
import xnnpack_forms

import kprune
from kprune.export.xnnpack import Outcome
from kprune.preparation import foresee

L = keras.layers


def outputs(model):
    rng = np.random.default_rng(3)
    inputs = [rng.random((2, *x.shape[1:]), dtype="float32") for x in model.inputs]
    return np.asarray(model(inputs if len(inputs) > 1 else inputs[0]))


def changed(model):
    return {change.layer: change for change in model.prepare_report.changes}


@pytest.mark.parametrize(
    "form",
    [
        "same padding",
        "stem same padding",
        "convolution as head",
        "average pooling and flatten",
    ],
)
def test_what_can_be_changed_is_and_zeros_are_skipped(form):
    model = xnnpack_forms.build(form)
    before = [np.array(weight) for weight in model.weights]
    expected = outputs(model)
    assert foresee(model).outcome is not Outcome.SKIPS
    prepared = kprune.prepare(model)
    report = prepared.prepare_report
    assert report.skips and foresee(prepared).outcome is Outcome.SKIPS
    assert report.changes and not report.remaining
    found = outputs(prepared)
    assert found.shape == expected.shape
    if all(change.exact for change in report.changes):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    else:
        assert not np.allclose(found, expected, rtol=1e-5, atol=1e-6)
    # The model itself is as it was, and its weights are in the new one.
    np.testing.assert_array_equal(outputs(model), expected)
    for old, new in zip(before, prepared.weights, strict=True):
        np.testing.assert_array_equal(old.reshape(new.shape), new)


def test_padding_is_moved_by_a_pixel_and_nothing_else():
    """A picture that is shifted along with the padding gives the same outputs."""
    model = keras.Sequential(
        [L.Input((8, 8, 3)), L.Conv2D(4, 3, strides=2, padding="same", name="stem")]
    )
    prepared = kprune.prepare(model)
    assert [layer.name for layer in prepared.layers] == ["stem_padding", "stem"]
    x = np.random.default_rng(0).random((1, 8, 8, 3), dtype="float32")
    moved = np.roll(x, (-1, -1), (1, 2))
    inner = np.s_[:, 1:-1, 1:-1]
    np.testing.assert_allclose(
        np.asarray(prepared(moved))[inner], np.asarray(model(x))[inner], atol=1e-5
    )


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("odd size", "even height and width"),
        ("stem 5x5", "is 5x5 with a stride of 2"),
        ("one input channel", "on 1 channels"),
        ("prelu", "(PRELU) is none of the operators"),
        ("hard sigmoid gate", "fewer than four dimensions"),
        ("flatten", "nothing that it leads to is a mean"),
        ("max pooling between", "(MAX_POOL_2D)"),
    ],
)
def test_what_is_in_the_way_is_named(form, reason):
    prepared = kprune.prepare(xnnpack_forms.build(form))
    report = prepared.prepare_report
    assert not report.skips
    assert any(reason in text for text in report.remaining), report
    assert reason in str(report)


# Without KPRUNE_ALL_APPLICATIONS=1 the quickest.
APPLICATIONS = ["MobileNet", "MobileNetV2", "EfficientNetB0"]
TESTED = APPLICATIONS[: None if os.environ.get("KPRUNE_ALL_APPLICATIONS") else 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTED)
def test_applications_get_the_form(name):
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(64, 64, 3), classes=10)
    assert foresee(model).outcome is not Outcome.SKIPS
    prepared = kprune.prepare(model)
    report = prepared.prepare_report
    assert report.skips and not report.remaining
    assert outputs(prepared).shape == outputs(model).shape == (2, 10)
    assert prepared.count_params() == model.count_params()


def test_nested_and_sequential_models_are_prepared_inside():
    block = keras.Sequential(
        [
            L.Input((16, 16, 8)),
            L.SeparableConv2D(16, 5, strides=2, padding="same", name="separable"),
            L.DepthwiseConv2D(3, strides=2, padding="same", name="depthwise"),
        ],
        name="block",
    )
    inputs = L.Input((32, 32, 3))
    x = L.Conv2D(8, 3, strides=2, padding="same", name="stem")(inputs)
    x = L.GlobalAveragePooling2D()(L.Conv2D(16, 1)(block(x)))
    model = keras.Model(inputs, L.Dense(3)(x))
    prepared = kprune.prepare(model)
    assert set(changed(prepared)) == {"stem", "separable", "depthwise"}
    names = [layer.name for layer in prepared.get_layer("block").layers]
    assert names == [
        "separable_padding",
        "separable",
        "depthwise_padding",
        "depthwise",
    ]
    assert prepared.prepare_report.skips


def test_what_needs_no_change_gets_none():
    """Other convolutions of stride 2, and heads that others read, stay as they are."""
    inputs = L.Input((16, 16, 3))
    x = L.Conv2D(8, 5, strides=2, padding="same")(inputs)
    x = L.Conv2D(8, 3, strides=2, padding="same")(x)
    x = L.AveragePooling2D(2)(x)
    mean = L.GlobalAveragePooling2D(keepdims=True)(x)
    gate = L.Conv2D(8, 1, activation="sigmoid")(mean)
    x = L.Multiply()([x, gate])
    model = keras.Model(inputs, L.Flatten()(x))
    prepared = kprune.prepare(model)
    assert prepared.prepare_report.changes == ()
    assert "Nothing was changed." in str(prepared.prepare_report)
    np.testing.assert_array_equal(outputs(prepared), outputs(model))


def test_a_head_with_normalisation_and_an_output_inside():
    def head(*, output_inside):
        inputs = L.Input((8, 8, 3))
        x = L.GlobalAveragePooling2D(keepdims=True)(inputs)
        x = L.Conv2D(8, 1, use_bias=False, name="wide")(x)
        x = L.ReLU()(L.BatchNormalization(axis=3)(x))
        y = L.Conv2D(4, 1, activation="tanh", name="logits")(L.Dropout(0.5)(x))
        y = L.Reshape((4,))(y)
        return keras.Model(inputs, [y, x] if output_inside else y)

    model = head(output_inside=False)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.moving_mean.assign(np.linspace(-1, 1, 8))
            layer.gamma.assign(np.linspace(0.5, 2, 8))
    prepared = kprune.prepare(model)
    assert {"wide", "logits"} < set(changed(prepared))
    assert isinstance(prepared.get_layer("logits"), L.Dense)
    np.testing.assert_allclose(outputs(prepared), outputs(model), atol=1e-6)
    assert changed(kprune.prepare(head(output_inside=True))) == {}


def test_other_targets_need_no_other_architecture():
    model = xnnpack_forms.build("same padding")
    prepared = kprune.prepare(model, "microcontroller")
    report = prepared.prepare_report
    assert report.changes == () and "no use of another" in report.outlook
    np.testing.assert_array_equal(outputs(prepared), outputs(model))
    assert json.loads(report.to_json())["target"] == "microcontroller"


def test_a_prepared_model_trains_prunes_and_is_stored_sparsely(tmp_path):
    model = kprune.prepare(xnnpack_forms.FORMS["same padding"][0]())
    rng = np.random.default_rng(0)
    x, y = rng.random((64, 32, 32, 3), dtype="float32"), rng.integers(0, 5, 64)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(
        x, y, epochs=2, verbose=0, callbacks=[kprune.PruningCallback(sparsity=0.9)]
    )
    report = kprune.export(model, tmp_path / "m.tflite", "android", "none")
    assert "DENSIFY" in report.operators
    assert any("XNNPACK skips them" in note for note in report.notes)


def test_what_has_no_graph_is_refused():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="prepare needs a graph of layers"):
        kprune.prepare(Subclassed())
    with pytest.raises(ValueError, match="knows no input shape"):
        kprune.prepare(keras.Sequential([L.Dense(3)]))
    with pytest.raises(TypeError, match="prepare needs a Keras 3 model"):
        kprune.prepare("model")
    with pytest.raises(ValueError, match="Did you mean 'android'"):
        kprune.prepare(xnnpack_forms.build("base"), "andriod")
