"""Files for Ethos-U: compiled by Vela, estimated beside the same file without zeros."""

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import keras
import nets
import numpy as np
import pytest

import kprune
from kprune.export import export, tflite, vela
from kprune.export.targets import TARGETS

L = keras.layers
NPUS = [name for name, target in TARGETS.items() if target.npu is not None]


def network(*widths):
    layers = [L.Conv2D(width, 3, padding="same", activation="relu") for width in widths]
    return keras.Sequential(
        [L.Input((8, 8, 16)), *layers, L.GlobalAveragePooling2D(), L.Dense(16)]
    )


def data(model, count=8):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(0).random(shape, dtype="float32")


def exported(model, path, target, **kwargs):
    settings = {"representative_data": data(model), "benchmark": False}
    return export(model, path, target, **{**settings, **kwargs})


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """One network with 0.9 of zeros, for every NPU."""
    keras.utils.set_random_seed(0)
    model = nets.zeroed(network(64, 64), 0.9)
    folder = tmp_path_factory.mktemp("npu")
    return {name: exported(model, folder / f"{name}.tflite", name) for name in NPUS}


def test_there_are_the_npus_that_are_promised():
    assert NPUS == ["ethos-u55-128", "ethos-u55-256", "ethos-u65-256", "ethos-u85-256"]


@pytest.mark.parametrize("name", NPUS)
def test_the_compiled_file_stands_beside_the_one_that_was_run(reports, name):
    report = reports[name]
    endings = [os.path.basename(path)[len(name) :] for path in report.files]
    sources = [".cc", ".h", "_test.cc", "_test.h"]
    assert endings == [".tflite", "_vela.tflite", *sources]
    assert report.npu.compiled == report.files[1]
    plain, compiled = (Path(path).read_bytes() for path in report.files[:2])
    assert report.size.raw == len(plain)
    assert report.npu.file.file_bytes == len(compiled)
    assert "CONV_2D" in tflite.parse(plain).operator_counts()
    assert tflite.parse(compiled).operator_counts() == {"CUSTOM:ethos-u": 1}
    assert [d.runtime for d in report.differences] == [
        "LiteRT",
        "TensorFlow Lite Micro",
    ]
    source = Path(report.files[2]).read_text()
    assert f"_len = {len(compiled)};" in source


@pytest.mark.parametrize("name", NPUS)
def test_zeros_save_what_the_npu_reads_and_stores(reports, name):
    npu = reports[name].npu
    assert npu.accelerator == name
    assert npu.file.encoded_weight_bytes < 0.35 * npu.filled.encoded_weight_bytes
    assert npu.file.file_bytes < 0.35 * npu.filled.file_bytes
    assert npu.file.traffic_bytes < npu.filled.traffic_bytes
    # Where weights are no bottleneck, another schedule may cost a little.
    assert 0 < npu.file.cycles <= 1.05 * npu.filled.cycles
    assert npu.file.weight_bytes == npu.filled.weight_bytes
    assert npu.file.on_cpu == {}
    if "u85" not in name:  # It skips pairs of zeros.
        assert npu.file.macs == npu.filled.macs


def test_two_zeros_of_four_input_channels_halve_the_work_of_a_u85(tmp_path):
    model = network(64, 64, 64)
    for layer in model.layers:
        if isinstance(layer, L.Conv2D):
            kernel = layer.kernel.numpy()
            fours = np.moveaxis(kernel, 2, -1).reshape(-1, 4)
            least = np.argsort(np.abs(fours), axis=1)[:, :2]
            np.put_along_axis(fours, least, 0, axis=1)
            moved = fours.reshape(np.moveaxis(kernel, 2, -1).shape)
            layer.kernel.assign(np.moveaxis(moved, -1, 2))
    npu = exported(model, tmp_path / "m.tflite", "ethos-u85-256").npu
    assert npu.file.macs < 0.55 * npu.filled.macs
    assert npu.file.npu_cycles < 0.7 * npu.filled.npu_cycles


def test_the_report_tells_it_as_text_and_json(reports):
    report = reports["ethos-u55-128"]
    text = str(report)
    for said in ("estimated by Vela for ethos-u55-128", "bytes over the buses", "sram"):
        assert said in text
    assert any("was not run" in note for note in report.notes)
    assert not any("encode=True would" in note for note in report.notes)
    values = json.loads(report.to_json())["npu"]
    assert values["file"]["cycles"] == report.npu.file.cycles


def test_widths_that_the_npu_fills_up_are_named(tmp_path, reports):
    report = exported(network(12, 32, 33), tmp_path / "m.tflite", "ethos-u65-256")
    (note,) = (note for note in report.notes if "multiples of 16" in note[:120])
    assert note.startswith("2 of 3 convolutions") and ": 12, 33." in note
    first = reports["ethos-u65-256"].notes
    assert not any("convolutions have numbers" in note for note in first)


def test_operators_that_stay_on_the_cpu_are_named(tmp_path):
    inputs = L.Input((8, 16))
    x = keras.ops.cumsum(L.Dense(16, activation="relu")(inputs), axis=1)
    model = keras.Model(inputs, x)
    report = exported(model, tmp_path / "m.tflite", "ethos-u55-128")
    assert report.npu.file.on_cpu.get("CUMSUM") == 1
    assert any("CUMSUM 1" in note and "on the CPU" in note for note in report.notes)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"quantization": "none"}, "Ethos-U computes in integers"),
        ({"quantization": "dynamic"}, "no kernels that mix"),
        ({"encode": True}, "Vela encodes the weights"),
    ],
)
def test_what_makes_no_sense_on_an_npu_is_refused(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        exported(network(16), tmp_path / "m.tflite", "ethos-u55-128", **kwargs)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_the_command(tmp_path, monkeypatch):
    real = importlib.util.find_spec

    def without(name, *args):
        return None if name == "ethosu" else real(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(ValueError, match=r"pip install 'kprune\[ethos\]'"):
        exported(network(16), tmp_path / "m.tflite", "ethos-u55-128")


def test_vela_that_fails_crashes_or_hangs_is_survived(tmp_path, monkeypatch):
    npu = TARGETS["ethos-u55-128"].npu
    with pytest.raises(ValueError, match="Vela cannot compile.*exit code"):
        vela.compile_file(b"nothing like a model", npu)
    done = subprocess.CompletedProcess((), -11, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: done)
    with pytest.raises(ValueError, match="crashed with signal 11"):
        vela.compile_file(b"", npu)

    def hangs(command, timeout, **kwargs):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hangs)
    with pytest.raises(ValueError, match="did not compile the file .* within 600 s"):
        vela.compile_file(b"", npu)


def test_a_budget_for_an_npu_leaves_multiples_of_sixteen():
    budget = kprune.Budget(macs=0.5, target="ethos-u55-128")
    small = kprune.shrink(network(64, 64, 48), budget=budget)
    widths = [layer.filters for layer in small.layers if isinstance(layer, L.Conv2D)]
    assert all(width % 16 == 0 for width in widths) and widths != [64, 64, 48]


@pytest.mark.parametrize("limit", ["flash_bytes", "arena_bytes", "latency_ratio"])
def test_budgets_measure_nothing_on_an_npu(limit):
    value = 2.0 if limit == "latency_ratio" else 0.5
    with pytest.raises(ValueError, match=f"`{limit}` is measured on a runtime"):
        kprune.Budget(**{limit: value}, target="ethos-u85-256")
