"""Recurrent layers in files: unrolled where loops crash, with the same outputs."""

import keras
import nets
import numpy as np
import pytest

from kprune.export import export, tflite
from kprune.export.targets import TARGETS
from kprune.export.unrolling import without_loops

L = keras.layers
LAYERS = [L.LSTM, L.GRU, L.SimpleRNN]


def model(layer, steps=5, **kwargs):
    layers = [L.Input((steps, 6)), layer(8, name="loopy", **kwargs), L.Flatten()]
    return keras.Sequential([*layers, L.Dense(3, name="head")])


def data(count=24, steps=5):
    return np.random.default_rng(0).normal(size=(count, steps, 6)).astype("float32")


def unrolled_layers(copy):
    return [x.unroll for x in copy._flatten_layers() if isinstance(x, L.RNN)]


@pytest.mark.parametrize("target", ["android", "microcontroller"])
@pytest.mark.parametrize("quantization", ["int8", "int16x8"])
@pytest.mark.parametrize("layer", LAYERS)
def test_recurrent_models_come_out_in_integers(tmp_path, layer, quantization, target):
    given = model(layer)
    report = export(
        given,
        tmp_path / "m.tflite",
        target,
        quantization,
        data(),
        benchmark=False,
        c_source=False,
    )
    assert max(difference.relative for difference in report.differences) < 0.1
    assert "WHILE" not in report.operators
    assert any("unrolled" in note and "loopy" in note for note in report.notes)
    assert given.get_layer("loopy").unroll is False


def test_sequences_are_returned_on_a_microcontroller(tmp_path):
    layer = L.Bidirectional(L.LSTM(4, return_sequences=True), name="both")
    given = keras.Sequential([L.Input((5, 6)), layer, L.Flatten(), L.Dense(2)])
    report = export(
        given, tmp_path / "m.tflite", "microcontroller", "none", data(), benchmark=False
    )
    assert max(difference.relative for difference in report.differences) < 1e-4


def test_an_unrolled_copy_computes_the_same_with_the_same_weights():
    inputs = L.Input((5, 6))
    inner = keras.Model(
        inputs,
        L.GRU(4, return_sequences=True)(L.LSTM(6, return_sequences=True)(inputs)),
    )
    outer = L.Input((5, 6))
    given = keras.Model(outer, L.Bidirectional(L.SimpleRNN(3))(inner(outer)))
    copy, names = without_loops(given, "int8", TARGETS["android"])
    assert len(names) == 4
    assert unrolled_layers(copy) == [True] * 4
    assert unrolled_layers(given) == [False] * 4
    np.testing.assert_allclose(copy(data()), given(data()), atol=1e-6)


def test_loops_that_run_stay_loops():
    given = model(L.LSTM)
    for quantization, target in (("none", "android"), ("none", "microcontroller")):
        assert without_loops(given, quantization, TARGETS[target]) == (given, ())
    straight = model(L.LSTM, unroll=True)
    assert without_loops(straight, "int8", TARGETS["android"]) == (straight, ())
    assert without_loops(nets.cnn(), "int8", TARGETS["android"])[1] == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: model(L.LSTM, steps=300), "the 300 steps of 'loopy'.*up to 256"),
        (
            lambda: keras.Sequential([L.Input((None, 6)), L.LSTM(3, name="loopy")]),
            r"fixed number of steps.*'loopy' one, keras.Input\(\(steps",
        ),
    ],
)
def test_what_cannot_be_unrolled_is_refused_by_name(tmp_path, make, message):
    with pytest.raises(
        ValueError, match=f"'loopy' is a loop, and .*crashes.*{message}"
    ):
        export(make(), tmp_path / "m.tflite", "android", "int8", data())
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_graph_says_what_to_do():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.loop = L.LSTM(3, name="loopy")

        def call(self, inputs):
            return self.loop(inputs)

    given = Subclassed()
    given(data(2))
    with pytest.raises(ValueError, match="'loopy' is a loop.*unroll=True: it takes"):
        without_loops(given, "int8", TARGETS["android"])


@keras.saving.register_keras_serializable("test_unrolling")
class Composite(L.Layer):
    """Makes its loop itself, and tells nothing of it."""

    def build(self, shape):
        self.loop = L.LSTM(3, name="hidden_loop")
        self.loop.build(shape)

    def call(self, inputs):
        return self.loop(inputs)


def test_loops_that_a_layer_hides_are_refused_and_crash_nothing(tmp_path):
    given = keras.Sequential([L.Input((5, 6)), Composite(), L.Dense(2)])
    with pytest.raises(ValueError, match="'hidden_loop' is a loop.*inside of another"):
        export(given, tmp_path / "m.tflite", "android", "int8", data())
    assert list(tmp_path.iterdir()) == []


def test_unrolled_weights_are_pruned_weights(tmp_path):
    given = nets.zeroed(model(L.LSTM), 0.9)
    path = tmp_path / "m.tflite"
    report = export(given, path, "android", "int8", data(), benchmark=False)
    assert {w.counted_in for w in report.weights} == {"file"}
    assert report.sparsity == pytest.approx(0.9, abs=0.01)
    kernels = [t for t in tflite.parse(path.read_bytes()).weights() if t.size == 6 * 32]
    assert 1 <= len(kernels) < 5  # Not once for each of the steps.
