import keras
import nets
import numpy as np
import pytest

from kprune.export import export

L = keras.layers


def with_dead_layer(always):
    """A network with a layer that makes zeros: of any input, or of calm ones."""
    start = -100.0 if not always else 0.0
    kernel = "zeros" if always else "glorot_uniform"
    dead = L.Conv2D(
        4, 3, activation="relu", name="dead", kernel_initializer=kernel,
        bias_initializer=keras.initializers.Constant(start),
    )  # fmt: skip
    after = L.Conv2D(4, 3, bias_initializer="ones", name="next")
    head = L.Dense(3, bias_initializer="ones", name="head")
    return keras.Sequential([L.Input((8, 8, 1)), dead, after, L.Flatten(), head])


def exported(tmp_path, model, quantization, data, **settings):
    path = tmp_path / "m.tflite"
    settings = {"benchmark": False, "c_source": False, **settings}
    return export(model, path, "microcontroller", quantization, data, **settings)


@pytest.mark.parametrize("quantization", ["int8", "int16x8"])
def test_ranges_that_were_never_observed_are_refused(tmp_path, quantization):
    model = with_dead_layer(always=False)
    before = [weight.numpy() for weight in model.weights]
    words = r"on all 24 samples these were nothing but zero.*: 'dead' \(CONV_2D\)\. On"
    with pytest.raises(ValueError, match=words):
        exported(tmp_path, model, quantization, nets.images())
    assert list(tmp_path.iterdir()) == []
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, new.numpy())


@pytest.mark.parametrize("target", ["android", "microcontroller"])
@pytest.mark.parametrize("quantization", ["int8", "int16x8"])
def test_inputs_of_zeros_are_refused(tmp_path, quantization, target):
    with pytest.raises(ValueError, match="not known: an input of the model"):
        export(
            nets.cnn(), tmp_path / "m.tflite", target, quantization,
            np.zeros((4, 8, 8, 1)), benchmark=False,
        )  # fmt: skip


def test_what_needs_no_range_is_no_mistake(tmp_path):
    silent = exported(tmp_path, with_dead_layer(always=True), "int8", nets.images())
    assert silent.weights[0].sparsity == 1.0
    cure = {"float_layers": ["dead", "next"]}
    model = with_dead_layer(always=False)
    report = exported(tmp_path, model, "int8", nets.images(), **cure)
    assert report.float_layers == ("dead", "next")
    assert exported(tmp_path, nets.cnn(), "none", np.zeros((4, 8, 8, 1)))
