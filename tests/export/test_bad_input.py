"""What `kprune.export` is given and cannot use: said clearly, and nothing is written.

Unknown targets, missing packages of Python and operators that a runtime lacks have
their tests in test_export, test_tflm and test_vela; crashes of the converter in
test_converter.
"""

import errno
import importlib.util
import os
import subprocess
import tempfile

import keras
import nets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kprune
from kprune.export import capacity, export, litert
from kprune.export.baseline import TOO_LARGE
from kprune.export.files import temporary_folder, write_together

L = keras.layers
MICRO = "microcontroller"


def refused(folder, words, model, *args, **kwargs):
    """Checks that an export is refused in such words, and leaves nothing behind."""
    before = sorted(os.listdir(folder))
    with pytest.raises(ValueError, match=words):
        export(model, folder / "m.tflite", *args, **kwargs)
    assert sorted(os.listdir(folder)) == before


def test_a_dimension_that_is_not_fixed(tmp_path):
    model = keras.Sequential([L.Input((None, 3), name="sound"), L.Conv1D(2, 3)])
    refused(tmp_path, "'sound'.*None.*must be fixed.*keras.Input", model)


def vectorised():
    layer = L.TextVectorization(output_sequence_length=4, vocabulary=["a", "b"])
    return keras.Sequential(
        [L.Input((1,), dtype="string", name="text"), layer, L.Embedding(4, 2)]
    )


def looked_up():
    inputs = L.Input((4,), dtype="string", name="text")
    x = L.StringLookup(vocabulary=["a", "b"])(inputs)
    return keras.Model(inputs, L.Flatten()(L.Embedding(4, 2)(x)))


@pytest.mark.parametrize("make", [vectorised, looked_up])
@pytest.mark.parametrize("target", ["android", MICRO])
def test_words(tmp_path, make, target):
    words = "'text'.*data type string.*look.* words up.*before the model.*int32"
    refused(tmp_path, words, make(), target, "none")


def test_words_for_a_model_without_a_graph(tmp_path):
    class Reader(keras.Model):
        def __init__(self):
            super().__init__()
            self.words = L.StringLookup(vocabulary=["a", "b"])
            self.embedding = L.Embedding(4, 2)

        def call(self, inputs):
            return self.embedding(self.words(inputs))

    model = Reader()
    data = np.array([["a", "b"], ["b", "c"]])
    model(keras.ops.convert_to_tensor(data))
    refused(tmp_path, "data type string", model, representative_data=data)


def test_numbers_that_are_not_real(tmp_path):
    inputs = L.Input((4,), dtype="complex64", name="wave")
    model = keras.Model(inputs, keras.ops.real(inputs))
    refused(tmp_path, "'wave'.*complex64.*real and imaginary parts", model)


class Cast(L.Layer):
    def call(self, inputs):
        return keras.ops.cast(inputs, "float32")


def cast_from(dtype):
    inputs = L.Input((6,), dtype=dtype, name="odd")
    return keras.Model(inputs, L.Dense(3)(Cast()(inputs)))


def numbers(dtype):
    return np.random.default_rng(0).integers(0, 2, (8, 6)).astype(dtype)


RUN_IN_TFLM = ("bool", "int8", "int16", "int32", "uint32")


@pytest.mark.parametrize(
    "dtype",
    [*RUN_IN_TFLM, "uint8", "uint16", "int64", "float16", "bfloat16", "float64"],
)
def test_inputs_of_any_type_are_computed_or_refused(tmp_path, dtype):
    model = cast_from(dtype)
    data = numbers("float32" if dtype == "bfloat16" else dtype)
    path = tmp_path / "m.tflite"
    report = export(model, path, "android", "int8", data, benchmark=False)
    assert report.inputs[0][2] == dtype
    assert report.differences[0].relative < 0.03
    path.unlink()
    settings = {"c_source": False, "benchmark": False}
    if dtype in RUN_IN_TFLM:
        report = export(model, path, MICRO, "int8", data, **settings)
        assert max(d.relative for d in report.differences) < 0.03
    else:
        words = f"'odd' is {dtype}, which few of its operators take.*keras.Input"
        refused(tmp_path, words, model, MICRO, "none", data, **settings)


@pytest.mark.parametrize(
    ("quantization", "each", "words"),
    [
        ("none", 4, "quantization='float16' would fit"),
        ("int8", 4, r"calibrated in float32.*quantization='float16' would fit"),
        ("float16", 2, "quantization='dynamic' would fit"),
        ("dynamic", 1, r"Use fewer channels \(kprune.shrink\)"),
    ],
)
def test_weights_that_no_file_can_hold(
    tmp_path, monkeypatch, quantization, each, words
):
    model, data = nets.cnn(), nets.images()
    count = model.count_params()
    monkeypatch.setattr(capacity, "MOST_BYTES", each * count - 1)
    words = f"`model` has {count:,} parameters.*{each * count:,} bytes.*{words}"
    refused(tmp_path, words, model, "android", quantization, data)


def test_a_dense_model_that_no_file_can_hold(tmp_path, monkeypatch):
    wide = keras.Sequential([L.Input((99,)), L.Dense(999)])
    monkeypatch.setattr(capacity, "MOST_BYTES", 4 * wide.count_params() - 1)
    refused(tmp_path, "`dense` has 99,900 parameters", nets.cnn(), dense=wide)


def test_a_float32_file_that_cannot_be_is_not_compared_with(tmp_path, monkeypatch):
    model = nets.cnn()
    monkeypatch.setattr(capacity, "MOST_BYTES", 4 * model.count_params() - 1)
    report = export(model, tmp_path / "m.tflite", "android", "dynamic")
    assert report.dense_from == TOO_LARGE
    assert report.dense_size.raw == report.size.raw
    assert report.dense_size.gzip > report.size.gzip
    assert [t.baseline for t in report.latency] == ["this file with its zeros filled"]
    assert f"Sizes are compared with {TOO_LARGE}." in report.notes


@pytest.fixture
def tiny_disk(tmp_path):
    """A folder on a file system of its own with room for 64 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    done = subprocess.run(["mount", *options], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def large():
    return keras.Sequential([L.Input((8, 8, 1)), L.Flatten(), L.Dense(999)])


def test_no_space_for_the_file(tiny_disk):
    path = tiny_disk / "m.tflite"
    path.write_bytes(b"the former file")
    refused(
        tiny_disk, "No space left on device.*Nothing was changed", large(), "android",
        "none", benchmark=False,
    )  # fmt: skip
    assert path.read_bytes() == b"the former file"


def test_no_space_for_temporary_files(tiny_disk, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tiny_disk))
    words = "No space is left in the folder of temporary files.*tiny.*TMPDIR"
    refused(tmp_path / "out", words, large(), benchmark=False)
    left = [name for name in os.listdir(tiny_disk) if "autograph" not in name]
    assert left == []
    # What did fit was read by the worker, which has no space for what it makes.
    monkeypatch.setattr(tempfile, "tempdir", None)
    export(large(), tmp_path / "out" / "m.tflite", benchmark=False)


def test_a_full_disk_for_any_user(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a").write_bytes(b"before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match="No space left.*Nothing was changed"):
        write_together({tmp_path / "a": b"after", tmp_path / "b": b"new"})
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"before"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("RESOURCE_EXHAUSTED: m.pb; No space left on device"),
        FileNotFoundError(errno.ENOENT, "No usable temporary directory found in [...]"),
    ],
)
def test_no_space_is_told_whoever_meets_it(error):
    with pytest.raises(ValueError, match="No space is left.*TMPDIR"):
        with temporary_folder():
            raise error
    with pytest.raises(KeyError):
        with temporary_folder():
            raise KeyError("something else")


def test_missing_packages_are_named_before_anything_is_done(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    for package, target, extra in (
        ("tflite_micro", MICRO, "micro"),
        ("ethosu", "ethos-u55-128", "ethos"),
    ):
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *args, package=package: (
                None if name == package else found(name, *args)
            ),
        )
        words = rf"pip install 'kprune\[{extra}\]'"
        refused(tmp_path, words, nets.cnn(), target, None, nets.images())


def without_a_kernel(data):
    """Returns a file whose first convolution names no kernel; LiteRT trusts it."""
    from ai_edge_litert import schema_py_generated as schema

    changed = bytearray(data)
    graph = schema.Model.GetRootAs(changed, 0).Subgraphs(0)
    operator = graph.Operators(0)
    place = operator._tab.Vector(operator._tab.Offset(6)) + 4  # Of its second input.
    changed[place : place + 4] = (-1).to_bytes(4, "little", signed=True)
    return bytes(changed)


def test_a_dense_file_that_its_runtime_would_trust(tmp_path, cnn_files):
    path = tmp_path / "hostile.tflite"
    path.write_bytes(without_a_kernel(cnn_files["none"]))
    words = "hostile.*CONV_2D is without one of its inputs"
    refused(tmp_path, f"`dense`, .*{words}", nets.cnn(), dense=path)
    with pytest.raises(ValueError, match=words):
        kprune.inspect(path)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os.kill(os.getpid(), 11)", r"crashes on it with signal 11 \(Seg"),
        ("import time; time.sleep(60)", "did not finish one run of it within 1 s"),
    ],
)
def test_a_dense_file_that_ends_its_runtime(
    tmp_path, cnn_files, monkeypatch, code, words
):
    (tmp_path / "litert_worker.py").write_text(code)
    path = tmp_path / "dense.tflite"
    path.write_bytes(cnn_files["none"])
    monkeypatch.setattr(litert, "__file__", str(tmp_path / "litert.py"))
    monkeypatch.setattr(litert, "_TRIAL_SECONDS", 1.0)
    refused(tmp_path, f"`dense`, .*dense.tflite.*{words}", nets.cnn(), dense=path)


def test_a_dense_file_is_tried_and_then_timed(tmp_path, cnn_files):
    path = tmp_path / "dense.tflite"
    path.write_bytes(cnn_files["none"])
    report = export(nets.cnn(), tmp_path / "m.tflite", dense=path)
    assert "dense float32" in [item.baseline for item in report.latency]


FEW = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FEW
@given(st.data())
def test_damaged_files_are_inspected_or_refused_by_name(tmp_path, cnn_files, data):
    changed = bytearray(cnn_files[data.draw(st.sampled_from(["none", "int8"]))])
    if data.draw(st.booleans()):
        del changed[data.draw(st.integers(0, len(changed) - 1)) :]
    else:
        place = data.draw(st.integers(2, len(changed) // 4 - 1)) * 4
        word = data.draw(st.one_of(st.integers(0, 300), st.integers(0, 2**32 - 1)))
        changed[place : place + 4] = word.to_bytes(4, "little")
    path = tmp_path / "damaged.tflite"
    path.write_bytes(changed)
    try:
        found = kprune.inspect(path)
    except ValueError as error:
        assert "damaged.tflite" in str(error)
    else:
        assert str(found)


@pytest.mark.parametrize("damage", ["truncated", "other"])
def test_damaged_dense_files(tmp_path, cnn_files, damage):
    path = tmp_path / "dense.tflite"
    content = {"truncated": cnn_files["none"][:999], "other": b"PK\3\4" + bytes(99)}
    path.write_bytes(content[damage])
    words = "`dense`, .*dense.tflite'.*(damaged|Not a TFLite model)"
    refused(tmp_path, words, nets.cnn(), dense=path)
