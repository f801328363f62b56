import importlib.util

import keras
import nets
import numpy as np
import pytest

from kprune.export import tflm
from kprune.export.baseline import without_zeros
from kprune.export.ends import of_file
from kprune.export.interface import of_model
from kprune.export.litert import Session
from kprune.export.samples import collect
from kprune.export.targets import TARGETS

L = keras.layers


def run(model, data, file, baseline=None):
    interface = of_model(model)
    samples = collect(data, interface.inputs, 8)
    session = Session(file, of_file(file, interface))
    return session.run(samples), tflm.run(file, session.ends, samples, baseline)


def test_int8_agrees_with_litert_within_a_step(cnn_files):
    file = cnn_files["int8"]
    (expected,), found = run(nets.cnn(), nets.images(), file, without_zeros(file))
    step = Session(file, of_file(file)).steps[0]
    assert np.abs(expected - found.outputs[0]).max() <= 1.01 * step
    assert len(found.times) == 2 and len(found.times[0]) == len(found.times[1]) >= 5


def test_the_arena_is_the_smallest_that_works(cnn_files):
    from tflite_micro.python.tflite_micro import runtime

    _, found = run(nets.cnn(), nets.images(), cnn_files["int8"])
    assert found.arena_bytes % 16 == 0
    assert 0 < found.arena_head < found.arena_bytes
    assert found.arena_head + found.arena_tail <= found.arena_bytes
    runtime.Interpreter.from_bytes(cnn_files["int8"], arena_size=found.arena_bytes)
    with pytest.raises(RuntimeError):
        runtime.Interpreter.from_bytes(
            cnn_files["int8"], arena_size=found.arena_bytes - 16
        )


def test_several_inputs_and_outputs_arrive_in_their_places():
    model, data = nets.two_inputs(), nets.two_inputs_data()
    expected, found = run(
        model, data, nets.converted(model, "int8", data, integer_io=True)
    )
    assert [x.shape for x in found.outputs] == [(8, 3), (8, 1)]
    for first, second in zip(expected, found.outputs, strict=True):
        assert np.abs(first - second).max() < 0.02


def test_samples_are_run_for_the_seconds_that_are_given(cnn_files):
    interface = of_model(nets.cnn())
    samples = collect(nets.images(), interface.inputs, 8)
    ends = of_file(cnn_files["int8"], interface)
    found = tflm.run(cnn_files["int8"], ends, samples)
    assert len(found.outputs[0]) == 8 and found.times == ()
    found = tflm.run(
        cnn_files["int8"], ends, samples, run_seconds=1e-9, time_seconds=0.1
    )
    assert len(found.outputs[0]) == 1
    (times,) = found.times  # Of the file alone.
    assert len(times) >= 5 and all(time > 0 for time in times)


def test_a_baseline_may_store_its_inputs_otherwise(cnn_files):
    interface = of_model(nets.cnn())
    samples = collect(nets.images(), interface.inputs, 2)
    ends, others = (of_file(cnn_files[kind], interface) for kind in ("int8", "none"))
    found = tflm.run(
        *(cnn_files["int8"], ends, samples, cnn_files["none"]),
        baseline_ends=others,
        time_seconds=0.1,
    )
    assert len(found.times) == 2


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
def test_seconds_must_be_positive(seconds):
    with pytest.raises(ValueError, match="`run_seconds` must be a positive number"):
        tflm.check_seconds("run_seconds", seconds)


@pytest.mark.parametrize("seconds", ["2", None, True])
def test_seconds_must_be_a_number(seconds):
    with pytest.raises(TypeError, match="must be a number of seconds"):
        tflm.check_seconds("run_seconds", seconds)


def test_missing_operators_are_named_with_their_layer_and_cure():
    inputs = L.Input((4, 4, 2))
    x = L.Activation("gelu", name="soft")(L.UpSampling2D(name="grow")(inputs))
    x = L.GlobalAveragePooling2D()(x)
    data = np.random.default_rng(0).random((4, 4, 4, 2), dtype="float32")
    file = nets.converted(keras.Model(inputs, x), "int8", data)
    with pytest.raises(ValueError, match="TILE.*grow.*GELU.*soft.*HardSwish"):
        tflm.check_operators(file, TARGETS["microcontroller"])
    tflm.check_operators(file, TARGETS["android"])


def test_the_runtime_has_the_last_word(cnn_files):
    # Hybrid kernels are missing although the operator is there.
    model = keras.Sequential([L.Input((64,)), L.Dense(64)])
    data = np.zeros((2, 64), "float32")
    with pytest.raises(ValueError, match="fails on the operator FULLY_CONNECTED"):
        run(model, data, nets.converted(model, "dynamic"))


def test_a_crash_is_told_and_survived(cnn_files, tmp_path, monkeypatch):
    worker = tmp_path / "tflm_worker.py"
    worker.write_text("import os; os.kill(os.getpid(), 11)")
    monkeypatch.setattr(tflm, "__file__", str(tmp_path / "tflm.py"))
    with pytest.raises(ValueError, match="crashed with signal 11"):
        run(nets.cnn(), nets.images(), cnn_files["int8"])


def test_a_runtime_that_hangs_is_stopped(cnn_files, tmp_path, monkeypatch):
    worker = tmp_path / "tflm_worker.py"
    worker.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(tflm, "__file__", str(tmp_path / "tflm.py"))
    monkeypatch.setattr(tflm, "_TIMEOUT_SECONDS", 0.5)
    interface = of_model(nets.cnn())
    samples = collect(nets.images(), interface.inputs, 1)
    ends = of_file(cnn_files["int8"], interface)
    with pytest.raises(ValueError, match="did not finish"):
        tflm.run(cnn_files["int8"], ends, samples, run_seconds=0.1)


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'kprune\[micro\]'"):
        tflm.check_installed()
