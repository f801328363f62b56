import functools
import gzip
import json
import os
import re
from pathlib import Path

import keras
import nets
import numpy as np
import pytest

import kprune
from kprune.export import export, flash, tflite
from kprune.export import litert as litert_module
from kprune.export.encoding import encode as encode_weights

L = keras.layers
MICRO = "microcontroller"


def files(folder):
    return sorted(os.listdir(folder))


@pytest.fixture(scope="module")
def micro(tmp_path_factory):
    """A network exported for a microcontroller, with everything measured."""
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("export") / "net.tflite"
    return export(nets.cnn(), path, MICRO, representative_data=nets.images())


def test_the_report_states_what_is_on_the_disk(micro):
    data = Path(micro.path).read_bytes()
    assert micro.quantization == "int8"
    assert (micro.size.raw, micro.size.gzip) == (
        len(data),
        len(gzip.compress(data, 9, mtime=0)),
    )
    assert [os.path.basename(name) for name in micro.files] == [
        "net.tflite",
        "net.cc",
        "net.h",
        "net_test.cc",
        "net_test.h",
    ]
    assert all(os.path.isfile(name) for name in micro.files)
    assert micro.operators == tflite.parse(data).operator_counts()
    assert micro.dense_size.raw > 1.2 * micro.size.raw
    assert micro.dense_size.gzip > 1.5 * micro.size.gzip


def test_inputs_and_outputs_are_integers_on_a_microcontroller(micro):
    assert micro.inputs == (("image", (1, 8, 8, 1), "int8"),)
    assert micro.outputs == (("output", (1, 3), "int8"),)


def test_zeros_are_counted_in_the_file(micro):
    assert [w.counted_in for w in micro.weights] == ["file"] * 4
    assert all(0.75 <= w.sparsity < 0.8 for w in micro.weights)
    assert micro.asked is None
    assert micro.nonzero_macs <= 0.25 * micro.macs


def test_both_runtimes_were_run_and_agree_with_keras(micro):
    assert [d.runtime for d in micro.differences] == ["LiteRT", "TensorFlow Lite Micro"]
    for difference in micro.differences:
        assert difference.samples == 24
        assert 0 < difference.relative < 0.1
        assert difference.max_steps < 10
    assert micro.compared_on == "24 samples of representative_data"


def test_times_compare_with_both_dense_files(micro):
    assert [(t.runtime.split(",")[0], t.baseline) for t in micro.latency] == [
        ("LiteRT", "this file with its zeros filled"),
        ("LiteRT", "dense float32"),
        ("TensorFlow Lite Micro", "this file with its zeros filled"),
    ]
    assert all(t.low <= t.ratio <= t.high for t in micro.latency)


def test_the_report_is_told_as_text_and_json(micro):
    text = str(micro)
    for words in ("asked", "gzip bytes", "arena", "speed", "note: ", "net.h"):
        assert words in text
    values = json.loads(micro.to_json())
    assert values["arena"]["bytes"] == micro.arena.bytes
    assert values["weights"][0]["sparsity"] == micro.weights[0].sparsity


def test_the_header_has_the_arena_that_was_measured(micro):
    header = Path(micro.files[2]).read_text()
    assert f"#define NET_ARENA_BYTES {micro.arena.bytes}\n" in header


@pytest.mark.parametrize(
    ("target", "quantization", "limit"),
    [
        ("android", "none", 1e-5),
        ("android", "float16", 5e-3),
        ("android", None, 0.05),
        ("android", "int8", 0.1),
        ("android", "int16x8", 0.05),
        (MICRO, "none", 1e-5),
        (MICRO, "int16x8", 0.05),
    ],
)
def test_every_quantisation_of_every_target(tmp_path, target, quantization, limit):
    report = export(
        nets.cnn(),
        tmp_path / "m.tflite",
        target,
        quantization,
        nets.images(),
        benchmark=False,
        c_source=False,
    )
    assert files(tmp_path) == ["m.tflite"]
    assert max(d.relative for d in report.differences) < limit
    assert report.latency == ()
    assert report.sparsity >= 0.75
    if target == "android":
        assert report.inputs[0][2] == report.outputs[0][2] == "float32"


def test_several_inputs_and_outputs_for_a_microcontroller(tmp_path):
    report = export(
        nets.two_inputs(),
        tmp_path / "m.tflite",
        MICRO,
        representative_data=nets.two_inputs_data(),
        benchmark=False,
    )
    assert [name for name, _, _ in report.inputs] == ["facts", "pixels"]
    assert [d.output for d in report.differences] == ["kind", "price"] * 2
    assert report.differences[0].same_top == 1.0


def test_an_unrolled_recurrent_network_for_a_microcontroller(tmp_path):
    model = keras.Sequential([L.Input((4, 3)), L.LSTM(5, unroll=True), L.Dense(2)])
    data = np.random.default_rng(0).random((16, 4, 3), dtype="float32")
    report = export(model, tmp_path / "m.tflite", MICRO, None, data, benchmark=False)
    assert [w.counted_in for w in report.weights] == ["file"] * 3


def test_dense_layers_and_convolutions_over_sequences(tmp_path):
    model = keras.Sequential(
        [
            L.Input((6, 4)),
            L.Dense(8, activation="relu"),
            L.Conv1D(6, 3),
            L.GlobalAveragePooling1D(),
        ]
    )
    data = np.random.default_rng(0).random((16, 6, 4), dtype="float32")
    report = export(model, tmp_path / "m.tflite", MICRO, None, data, benchmark=False)
    assert [w.counted_in for w in report.weights] == ["file"] * 2
    assert report.macs == 6 * 32 + 4 * 3 * 8 * 6


def test_attention_leaves_its_biases_out_of_the_table(tmp_path):
    inputs = L.Input((6, 8))
    model = keras.Model(inputs, L.MultiHeadAttention(2, 4)(inputs, inputs))
    report = export(model, tmp_path / "m.tflite", quantization="none", benchmark=False)
    assert [w.counted_in for w in report.weights] == ["file"] * 4
    assert "random inputs" in report.compared_on


def test_a_model_of_mixed_precision_is_exported(tmp_path):
    model = keras.Sequential(
        [L.Input((8, 8, 1)), L.Conv2D(4, 3), L.Flatten(), L.Dense(3)]
    )
    config = json.dumps(model.get_config())
    for layer in model.layers:
        layer.dtype_policy = keras.DTypePolicy("mixed_float16")
    assert json.dumps(model.get_config()) != config
    report = export(model, tmp_path / "m.tflite", quantization="none", benchmark=False)
    assert report.differences[0].relative < 1e-5


def dense():
    return keras.Sequential(
        [L.Input((8, 8, 1)), L.Conv2D(4, 3), L.Flatten(), L.Dense(3)]
    )


def trained_in_place(model):
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = nets.images(), np.arange(24) % 3
    model.fit(
        x,
        y,
        epochs=2,
        batch_size=8,
        verbose=0,
        callbacks=[kprune.PruningCallback(sparsity=0.5, allocation="uniform")],
    )
    return model


def test_a_model_pruned_in_place_is_exported_and_left_as_it_was(tmp_path):
    model = trained_in_place(dense())
    before = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    optimizer = model.optimizer
    constraints = [v.constraint for v in model.trainable_variables]
    function = model.train_function
    report = export(
        model,
        tmp_path / "m.tflite",
        "android",
        "int8",
        nets.images(),
        benchmark=False,
    )
    asked = [w.asked for w in report.weights]
    assert asked == [0.5, 0.5]
    assert all(w.sparsity >= 0.5 and w.counted_in == "file" for w in report.weights)
    assert report.asked == 0.5
    assert model.optimizer is optimizer
    assert model.train_function is function
    assert [v.constraint for v in model.trainable_variables] == constraints
    now = (*model.variables, *model.optimizer.variables)
    for variable, value in zip(now, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_a_model_of_wrappers_gives_the_file_of_the_stripped_one(tmp_path):
    model = kprune.prune(dense(), sparsity=0.5, allocation="uniform")
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(
        nets.images(),
        np.arange(24) % 3,
        epochs=2,
        batch_size=8,
        verbose=0,
        callbacks=[kprune.PruningCallback()],
    )
    report = export(model, tmp_path / "m.tflite", quantization="none", benchmark=False)
    plain = kprune.strip(model)
    other = export(plain, tmp_path / "p.tflite", quantization="none", benchmark=False)
    masked = [w for w in report.weights if w.asked is not None]
    assert len(masked) == 2 and all(w.asked == 0.5 for w in masked)
    assert report.parameters == plain.count_params() == other.parameters
    assert report.operators == other.operators
    first, second = (
        sorted(t.values.tobytes() for t in _weights(path))
        for path in (tmp_path / "m.tflite", tmp_path / "p.tflite")
    )
    assert first == second


def _weights(path):
    return tflite.parse(path.read_bytes()).weights()


@keras.saving.register_keras_serializable("tests")
class Classifier(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.flatten = L.Flatten()
        self.head = L.Dense(3)

    def call(self, inputs):
        return self.head(self.flatten(inputs))


def test_a_subclassed_model_is_exported_by_its_data(tmp_path):
    model = Classifier()
    model(nets.images())
    report = export(
        model, tmp_path / "m.tflite", "android", "int8", nets.images(), benchmark=False
    )
    assert report.inputs == (("input", (1, 8, 8, 1), "float32"),)


def test_the_dense_model_or_its_file_may_be_given(tmp_path):
    wide = keras.Sequential([L.Input((8, 8, 1)), L.Flatten(), L.Dense(99)], name="wide")
    small = keras.Sequential([L.Input((8, 8, 1)), L.Flatten(), L.Dense(9)])
    path = tmp_path / "wide.tflite"
    first = export(wide, path, quantization="none", benchmark=False)
    for dense, words in ((wide, "'wide'"), (path, "the file")):
        report = export(
            small, tmp_path / "m.tflite", quantization="none", dense=dense,
            benchmark=False,
        )  # fmt: skip
        assert report.dense_size == first.size
        assert words in report.dense_from
    with pytest.raises(ValueError, match="Cannot read `dense`"):
        export(small, tmp_path / "m.tflite", dense=tmp_path / "none.tflite")
    with pytest.raises(TypeError, match="`dense`"):
        export(small, tmp_path / "m.tflite", dense=3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"target": "androit"}, "Did you mean 'android'"),
        ({"quantization": "int7"}, "Unknown `quantization`"),
        ({"target": MICRO}, "needs `representative_data`"),
        ({"quantization": "int8"}, "needs `representative_data`"),
        ({"target": MICRO, "quantization": "dynamic"}, "cannot run"),
        ({"representative_data": np.ones((4, 9, 9, 1))}, "input 'image'.*expected"),
        ({"representative_data": np.ones((0, 8, 8, 1))}, "empty"),
        ({"num_samples": 0}, "`num_samples`"),
        ({"tolerance": 0.0}, "`tolerance`"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_written(tmp_path, arguments, words):
    with pytest.raises(ValueError, match=words):
        export(nets.cnn(), tmp_path / "m.tflite", **arguments)
    assert files(tmp_path) == []


def test_a_bad_path_is_told_before_data_is_read(tmp_path):
    def data():
        raise AssertionError("read")
        yield

    with pytest.raises(ValueError, match="does not exist"):
        export(nets.cnn(), tmp_path / "no" / "m.tflite", representative_data=data())


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(TypeError, match="`model` must be a Keras 3 model"):
        export("model.keras", tmp_path / "m.tflite")
    with pytest.raises(ValueError, match="not built"):
        export(keras.Sequential([L.Dense(1)]), tmp_path / "m.tflite")


def test_an_embedding_is_refused_for_a_microcontroller(tmp_path):
    model = keras.Sequential(
        [L.Input((6,), dtype="int32"), L.Embedding(9, 4, name="words"), L.Flatten()]
    )
    data = np.arange(54).reshape(9, 6) % 9
    with pytest.raises(ValueError, match="SELECT.*words.*Embedding"):
        export(model, tmp_path / "m.tflite", MICRO, None, data)
    assert files(tmp_path) == []
    report = export(
        model, tmp_path / "m.tflite", "android", "int8", data, benchmark=False
    )
    assert report.inputs[0][2] == "int32"
    assert report.weights[0].counted_in == "file"


def test_a_model_whose_outputs_are_not_finite_is_refused(tmp_path):
    model = nets.cnn()
    model.layers[-1].bias.assign([np.inf, 0, 0])
    with pytest.raises(ValueError, match="Keras model itself"):
        export(model, tmp_path / "m.tflite", quantization="none")


def test_a_file_that_computes_wrongly_is_never_written(tmp_path, monkeypatch):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"the former file")
    run = litert_module.Session.run
    monkeypatch.setattr(
        litert_module.Session, "run", lambda self, x: [-y for y in run(self, x)]
    )
    with pytest.raises(ValueError, match="Nothing was written"):
        export(nets.cnn(), path, quantization="none")
    assert path.read_bytes() == b"the former file"
    assert files(tmp_path) == ["m.tflite"]


def test_the_same_model_gives_the_same_bytes(tmp_path):
    model = nets.cnn()
    for name in ("a.tflite", "b.tflite"):
        export(
            model, tmp_path / name, "android", "int8", nets.images(), benchmark=False
        )
    first, second = ((tmp_path / name).read_bytes() for name in files(tmp_path))
    assert len(first) == len(second)
    assert [t.values.tobytes() for t in tflite.parse(first).weights()] == [
        t.values.tobytes() for t in tflite.parse(second).weights()
    ]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """A network of 10,000 weights, 0.9 of them zero, with encoded weights."""
    keras.utils.set_random_seed(0)
    layers = [
        L.Input((8, 8, 1)),
        L.Conv2D(16, 3),
        L.Flatten(),
        L.Dense(16, name="wide"),
    ]
    model = nets.zeroed(keras.Sequential([*layers, L.Dense(3)]), 0.9)
    folder = tmp_path_factory.mktemp("encoded")
    export_to = functools.partial(
        export, model, target=MICRO, representative_data=nets.images()
    )
    plain = export_to(folder / "plain.tflite", benchmark=False, c_source=False)
    return plain, export_to(folder / "net.tflite", encode=True)


def test_encoded_weights_save_flash_and_cost_what_is_said(encoded):
    plain, report = encoded
    size = Path(report.path).stat().st_size
    found = report.encoding
    assert report.size.raw == size < 0.5 * plain.size.raw
    assert found.plain_size == plain.size
    assert found.plain_arena == plain.arena
    assert found.samples == 24
    assert report.arena.bytes > found.arena_elsewhere.bytes
    assert {w.name.split("/")[-1] for w in found.weights} == {"kernel"}
    assert [w.method for w in found.weights].count("pruning") >= 1
    assert all(w.bytes <= w.raw_bytes for w in found.weights)
    assert report.operators["CUSTOM:TFLM_DECODE"] >= 1
    # What is counted in the file is counted before its weights were encoded.
    assert (report.weights, report.macs) == (plain.weights, plain.macs)
    assert [t.baseline for t in report.latency] == ["the same file, not encoded"] * 2


def test_encoding_is_told_and_offered(encoded):
    plain, report = encoded
    text = str(report)
    assert "outputs are those of the file before, bit for bit, on 24 inputs" in text
    assert "wide/kernel" in text and "decoding elsewhere" in text
    assert any("AddDecode()" in note for note in report.notes)
    header = Path(report.files[2]).read_text()
    assert f"NET_DECODING_BYTES {report.encoding.other_bytes}" in header
    assert json.loads(report.to_json())["encoding"]["samples"] == 24
    (offer,) = (note for note in plain.notes if note.startswith("encode=True would"))
    saved = int(re.search(r"about ([\d,]+) bytes", offer)[1].replace(",", ""))
    assert saved == pytest.approx(plain.size.raw - report.size.raw, rel=0.15)


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    def wrong(data, limit):
        damaged = bytearray(encode_weights(data))
        place = damaged.rindex(b"\x02\x01\x00\x00\x01")  # Of a header.
        damaged[place + 16 : place + 20] = bytes(4)
        return bytes(damaged)

    monkeypatch.setattr(flash, "encode", wrong)
    model = keras.Sequential([L.Input((8, 8, 1)), L.Flatten(), L.Dense(40)])
    with pytest.raises(ValueError, match="computes something else with encoded"):
        export(
            nets.zeroed(model, 0.8),
            tmp_path / "m.tflite",
            MICRO,
            representative_data=nets.images(),
            benchmark=False,
            encode=True,
        )
    assert files(tmp_path) == []


def test_weights_that_would_not_get_smaller_stay_and_that_is_said(tmp_path):
    model = keras.Sequential([L.Input((8, 8, 1)), L.Flatten(), L.Dense(40)])
    report = export(
        model,
        tmp_path / "m.tflite",
        MICRO,
        representative_data=nets.images(),
        benchmark=False,
        encode=True,
    )
    assert report.encoding is None
    assert "CUSTOM:TFLM_DECODE" not in report.operators
    assert any(note.startswith("No weight was encoded") for note in report.notes)


def test_memory_that_costs_more_than_it_saves_is_told_with_the_cure(encoded):
    _, report = encoded
    (note,) = (note for note in report.notes if "bytes more of arena" in note)
    assert "wide/kernel' takes 9,216 when it is decoded" in note
    assert "decoding_bytes=4608" in note


def test_a_limit_on_decoded_weights_is_kept(tmp_path):
    layers = [L.Input((8, 8, 1)), L.Flatten(), L.Dense(40, name="small")]
    model = nets.zeroed(keras.Sequential([*layers, L.Dense(80), L.Dense(3)]), 0.9)
    settings = {
        "target": MICRO,
        "representative_data": nets.images(),
        "benchmark": False,
        "c_source": False,
        "encode": True,
    }
    path = tmp_path / "m.tflite"
    limited = export(model, path, decoding_bytes=3000, **settings)
    free = export(model, path, **settings)
    assert limited.encoding.other_bytes < 3000 < free.encoding.other_bytes
    assert limited.size.raw > free.size.raw
    none = export(model, path, decoding_bytes=10, **settings)
    assert none.encoding is None
    assert any("within `decoding_bytes`" in note for note in none.notes)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"decoding_bytes": 100}, "give both"),
        ({"decoding_bytes": 0, "encode": True}, "at least 1, such as 16384"),
        ({"decoding_bytes": 1.5, "encode": True}, "must be an integer"),
        ({"decoding_bytes": True, "encode": True}, "must be an integer"),
    ],
)
def test_bad_limits_are_refused(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        export(nets.cnn(), tmp_path / "m.tflite", MICRO, "none", **kwargs)
    assert files(tmp_path) == []


@pytest.mark.parametrize("slim", [None, True, False])
def test_names_of_tensors_are_left_out_where_wanted(tmp_path, slim):
    for target, default in ((MICRO, True), ("android", False)):
        path = tmp_path / f"{target}.tflite"
        export(nets.cnn(), path, target, "none", benchmark=False, slim=slim)
        (graph,) = tflite.parse(path.read_bytes()).subgraphs
        named = any(tensor.name for tensor in graph.tensors)
        assert named == (not (default if slim is None else slim))
