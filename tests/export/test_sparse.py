"""Files for LiteRT whose weights are stored without their zeros."""

import gzip

import keras
import nets
import numpy as np
import pytest
import xnnpack_forms
from ai_edge_litert.interpreter import Interpreter

import kprune
from kprune.export import export, tflite
from kprune.export.sparse import QUANTIZATIONS


def pictures(count=4):
    return np.random.default_rng(0).random((count, 32, 32, 3), dtype="float32")


def exported(model, path, **kwargs):
    settings = {"quantization": "none", "representative_data": pictures()}
    return export(model, path, **{**settings, "benchmark": False, **kwargs})


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_zeros_take_no_place_where_the_phone_skips_them(tmp_path, quantization):
    model = xnnpack_forms.build("base")
    path = tmp_path / "m.tflite"
    report = exported(model, path, quantization=quantization)
    dense = exported(
        model, tmp_path / "dense.tflite", quantization=quantization, encode=False
    )
    assert report.size.raw == path.stat().st_size < 0.75 * dense.size.raw
    assert report.size.gzip == len(gzip.compress(path.read_bytes(), 9, mtime=0))
    assert report.operators["DENSIFY"] == 3 and "DENSIFY" not in dense.operators
    # What is counted in the file is counted before its zeros were left out.
    assert (report.weights, report.nonzero_macs) == (dense.weights, dense.nonzero_macs)
    (note,) = (note for note in report.notes if note.startswith("Zeros: "))
    assert "XNNPACK skips them in 3 of 8 layers" in note
    (note,) = (note for note in dense.notes if note.startswith("Zeros: "))
    assert "XNNPACK would skip them" in note and "encode=True" in note


def test_the_sparse_file_is_timed_beside_dense_ones(tmp_path):
    model = xnnpack_forms.build("base")
    report = exported(model, tmp_path / "m.tflite", benchmark=True)
    assert "DENSIFY" in report.operators
    assert [item.baseline for item in report.latency] == [
        "this file with its zeros filled",
        "dense float32",
    ]


def test_the_sparse_file_is_what_was_compared_and_computes_what_keras_does(tmp_path):
    model = xnnpack_forms.build("residual")
    path = tmp_path / "m.tflite"
    report = exported(model, path)
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    runner = interpreter.get_signature_runner()
    fresh = np.random.default_rng(7).random((1, 32, 32, 3), dtype="float32")
    (found,) = runner(image=fresh).values()
    np.testing.assert_allclose(found, model(fresh).numpy(), rtol=1e-4, atol=1e-5)
    assert "DENSIFY" in report.operators
    assert max(item.relative for item in report.differences) < 1e-5


def test_a_file_that_phones_would_compute_wrongly_stays_dense(tmp_path):
    model = xnnpack_forms.build("max pooling between")
    report = exported(model, tmp_path / "m.tflite")
    assert "DENSIFY" not in report.operators
    (note,) = (note for note in report.notes if "would compute wrongly" in note)
    assert "MAX_POOL_2D" in note


def test_and_is_refused_if_it_is_asked_for(tmp_path):
    model = xnnpack_forms.build("max pooling between")
    with pytest.raises(ValueError, match="wrongly on phones.*MAX_POOL_2D.*GlobalAver"):
        exported(model, tmp_path / "m.tflite", encode=True)
    assert list(tmp_path.iterdir()) == []


def test_where_zeros_are_multiplied_the_smaller_file_is_offered(tmp_path):
    model = xnnpack_forms.build("same padding")
    plain = exported(model, tmp_path / "m.tflite")
    asked = exported(model, tmp_path / "m.tflite", encode=True)
    assert "DENSIFY" not in plain.operators
    assert asked.operators["DENSIFY"] == 3 and asked.size.raw < plain.size.raw
    (reason,) = (n for n in plain.notes if n.startswith("XNNPACK multiplies the zero"))
    assert "padded by 1 on all four sides" in reason
    assert any(note.startswith("encode=True would store") for note in plain.notes)
    assert not any(note.startswith("encode=True would store") for note in asked.notes)


def in_blocks(sparsity):
    """Two dense layers whose zeros come in blocks of four inputs."""
    layers = [
        keras.Input((64,)),
        keras.layers.Dense(128, "relu"),
        keras.layers.Dense(8),
    ]
    model = keras.Sequential(layers)
    for layer in model.layers:
        scores = np.abs(layer.kernel.numpy())
        count = round(sparsity * scores.size / 4)
        mask = kprune.Block((1, 4)).mask(scores.T, count).T
        layer.kernel.assign(layer.kernel * mask)
    return model


def test_blocks_of_dense_layers_are_skipped_and_stored_so(tmp_path):
    path = tmp_path / "m.tflite"
    x = np.random.default_rng(0).random((8, 64), dtype="float32")
    model = in_blocks(0.8)
    report = exported(model, path, representative_data=x)
    dense = exported(model, tmp_path / "d.tflite", representative_data=x, encode=False)
    assert report.size.raw < 0.5 * dense.size.raw
    # Nothing unpacks them: the kernel reads them as they are stored.
    assert report.operators == dense.operators == {"FULLY_CONNECTED": 2}
    assert "Zeros: LiteRT skips them in 2 dense layers" in report.notes[0]
    advice = kprune.advise(model).option("blocks of 4 zeros")
    saved = advice.bytes_before - advice.bytes_after
    assert saved == pytest.approx(dense.size.raw - report.size.raw, rel=0.1)
    assert advice.macs_after == pytest.approx(0.2 * advice.macs_before, rel=0.01)


def test_too_few_blocks_stay_dense_unless_the_user_says(tmp_path):
    x = np.random.default_rng(0).random((8, 64), dtype="float32")
    model = in_blocks(0.5)
    plain = exported(model, tmp_path / "m.tflite", representative_data=x)
    asked = exported(model, tmp_path / "m.tflite", representative_data=x, encode=True)
    assert asked.size.raw < plain.size.raw
    assert any(note.startswith("encode=True would store") for note in plain.notes)
    advice = kprune.advise(model, sparsity=0.5).option("blocks of 4 zeros")
    assert not advice.saves_macs
    assert {gain.reason for gain in advice.layers} == {
        "a dense kernel is faster below 0.7"
    }


def test_scattered_zeros_that_fill_blocks_are_multiplied_and_stored(tmp_path):
    x = np.random.default_rng(0).random((8, 64), dtype="float32")
    model = in_blocks(0.0)
    for layer in model.layers:
        scattered = np.random.default_rng(0).random(layer.kernel.shape) < 0.95
        layer.kernel.assign(np.where(scattered, 0, layer.kernel))
    plain = exported(model, tmp_path / "m.tflite", representative_data=x)
    assert plain.operators == {"FULLY_CONNECTED": 2}
    assert any(note.startswith("encode=True would store") for note in plain.notes)
    asked = exported(model, tmp_path / "m.tflite", representative_data=x, encode=True)
    assert asked.size.raw < 0.5 * plain.size.raw


def test_dense_models_are_told_that_there_are_no_zeros(tmp_path):
    model = xnnpack_forms.build("base", sparsity=0.0)
    report = exported(model, tmp_path / "m.tflite", encode=True)
    assert "DENSIFY" not in report.operators
    assert not any("XNNPACK" in note for note in report.notes)
    assert any("although encode=True" in note for note in report.notes)


def test_names_are_left_out_of_sparse_files_too(tmp_path):
    model = xnnpack_forms.build("base")
    path = tmp_path / "m.tflite"
    report = exported(model, path, slim=True)
    assert "DENSIFY" in report.operators
    (graph,) = tflite.parse(path.read_bytes()).subgraphs
    assert not any(tensor.name for tensor in graph.tensors)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"quantization": "dynamic"}, "needs a quantization of"),
        (
            {"quantization": "int8", "representative_data": nets.images()},
            "LiteRT refuses sparsely stored weights",
        ),
        ({"target": "generic"}, "'generic' may be any runtime"),
        ({"decoding_bytes": 10}, "`decoding_bytes` is for target='microcontroller'"),
    ],
)
def test_what_cannot_be_stored_so_is_refused(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        export(
            nets.cnn(),
            tmp_path / "m.tflite",
            **{"quantization": "none", "encode": True, **kwargs},
        )
    assert list(tmp_path.iterdir()) == []
