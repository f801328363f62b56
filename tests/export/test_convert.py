import keras
import nets
import numpy as np
import pytest

import kprune
from kprune.export import int4, tflite
from kprune.export.choosing import choose
from kprune.export.convert import check_backend

L = keras.layers


class Strange(L.Layer):
    def call(self, inputs):
        return keras.ops.erfinv(inputs * 0.5)


def test_an_operator_without_a_tflite_form_is_named_with_its_layer():
    model = keras.Sequential([L.Input((4,)), L.Dense(3), Strange(name="odd_one")])
    with pytest.raises(ValueError, match="operators Erfinv.*layers 'odd_one'"):
        nets.converted(model, "none")


def test_other_backends_are_refused_with_the_cure(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="KERAS_BACKEND=tensorflow"):
        check_backend()


@pytest.mark.parametrize(
    ("quantization", "weights", "activations"),
    [
        ("none", "FLOAT32", "FLOAT32"),
        ("float16", "FLOAT16", "FLOAT32"),
        ("dynamic", "INT8", "FLOAT32"),
        ("int4", "INT4", "FLOAT32"),
        ("int8", "INT8", "INT8"),
        ("int16x8", "INT8", "INT16"),
    ],
)
@pytest.mark.parametrize("integer_io", [False, True])
def test_each_quantisation_stores_what_it_says(
    quantization, weights, activations, integer_io
):
    if quantization == "int4":
        pytest.importorskip("ai_edge_quantizer")
    model = keras.Sequential([L.Input((40,)), L.Dense(40, activation="relu")])
    data = np.random.default_rng(0).random((8, 40), dtype="float32")
    file = tflite.parse(nets.converted(model, quantization, data, integer_io))
    (kernel,) = (t for t in file.weights() if len(t.shape) == 2)
    assert kernel.type == weights
    graph = file.subgraphs[0]
    (fc,) = (o for o in graph.operators if o.name == "FULLY_CONNECTED")
    assert graph.tensors[fc.outputs[0]].type == activations
    ends = {graph.tensors[i].type for i in graph.inputs + graph.outputs}
    assert ends == {activations if integer_io else "FLOAT32"}


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_converting_is_silent(capfd, quantization):
    if quantization == "int4":
        pytest.importorskip("ai_edge_quantizer")
    nets.converted(nets.two_inputs(), quantization, nets.two_inputs_data())
    assert capfd.readouterr() == ("", "")


def test_int4_needs_a_package_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(int4.importlib.util, "find_spec", lambda name: None)
    model = keras.Sequential([L.Input((4,)), L.Dense(3)])
    with pytest.raises(ValueError, match=r"pip install 'kprune\[int4\]'"):
        kprune.export(model, tmp_path / "m.tflite", "android", "int4")


def test_int4_that_fails_is_told_with_the_cure():
    pytest.importorskip("ai_edge_quantizer")
    with pytest.raises(ValueError, match="fails on the model.*quantization='dynamic'"):
        int4.quantize(b"no file")


@pytest.mark.parametrize("target", ["generic", "microcontroller", "ethos-u55-128"])
def test_int4_is_for_litert(target):
    with pytest.raises(ValueError, match="int4.*Use one of"):
        choose(target, "int4")
