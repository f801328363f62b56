import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys

import pytest
import random_forms
import xnnpack_forms
from tools import need
from xnnpack_forms import FORMS, MULTIPLIES, SKIPS, WRONG

from kprune.export import tflite
from kprune.export.convert import convert
from kprune.export.interface import of_model
from kprune.export.xnnpack import judge

# Rounding; wrong results differ by 5e-5 at the least.
ROUNDING = 1e-5


def emulator():
    """Returns the command that runs this Python on a CPU whose zeros XNNPACK skips."""
    if platform.machine() != "x86_64":
        return []
    found = shutil.which("qemu-x86_64")
    need("qemu-user", found)
    return [found, "-cpu", "Nehalem"]


def converted(model, sparse, quantization="none"):
    return convert(of_model(model), model, quantization, None, False, sparse)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Each form as a sparsely stored file, and as a dense one if both are right."""
    folder = tmp_path_factory.mktemp("forms")
    for name in FORMS:
        model = xnnpack_forms.build(name)
        (folder / f"{name}.sparse.tflite").write_bytes(converted(model, sparse=True))
        if FORMS[name][1] is not WRONG:
            dense = converted(model, sparse=False)
            (folder / f"{name}.dense.tflite").write_bytes(dense)
    return folder


def what_litert_does(folder):
    """Runs each file on a CPU on which XNNPACK skips zeros; see `emulated_litert`."""
    script = pathlib.Path(__file__).with_name("emulated_litert.py")
    done = subprocess.run(
        [*emulator(), sys.executable, str(script), str(folder)],
        capture_output=True,
        text=True,
        check=True,
        # Where it says Haswell, NumPy's library uses what the emulated CPU lacks.
        env={**os.environ, "OPENBLAS_CORETYPE": "Nehalem"},
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"]
    return {row["name"]: row for row in found}


def is_right(row):
    return "fails" not in row and row["error"] <= ROUNDING


@pytest.mark.slow
def test_verdicts_are_what_was_measured(files):
    wrong = {}
    for path in files.iterdir():
        name = path.name.split(".")[0]
        expected = FORMS[name][1]
        verdict = judge(tflite.parse(path.read_bytes()))
        if verdict.outcome != expected:
            wrong[path.name] = verdict
        assert bool(verdict.mistakes) == (expected is WRONG)
        assert any(layer.skips for layer in verdict.layers) or expected != SKIPS
    assert wrong == {}


@pytest.mark.slow
def test_the_runtime_does_what_the_verdict_says(files):
    wrong = {}
    for name, row in what_litert_does(files).items():
        found = WRONG
        if is_right(row):
            found = MULTIPLIES if row["same_bits"] else SKIPS
        if found != FORMS[name][1]:
            wrong[name] = row
    assert wrong == {}


@pytest.mark.slow
def test_no_random_network_is_wrong_that_is_said_to_be_right(tmp_path):
    """KPRUNE_RANDOM_FORMS=500 tries more of them; 450 others had no such case."""
    verdicts = {}
    for seed in range(int(os.environ.get("KPRUNE_RANDOM_FORMS", 15))):
        model = random_forms.build(seed)
        data = converted(model, sparse=True)
        (tmp_path / f"{seed}.sparse.tflite").write_bytes(data)
        (tmp_path / f"{seed}.dense.tflite").write_bytes(converted(model, sparse=False))
        verdicts[str(seed)] = judge(tflite.parse(data)).outcome
    found = what_litert_does(tmp_path)
    assert {
        name: found[name]
        for name, outcome in verdicts.items()
        if outcome is not WRONG and not is_right(found[name])
    } == {}
    assert set(verdicts.values()) == {SKIPS, MULTIPLIES, WRONG}


@pytest.fixture(scope="module")
def base(files):
    return tflite.parse((files / "base.dense.tflite").read_bytes())


def test_more_than_two_thirds_must_be_zero(base):
    def counted(share):
        return judge(base, lambda tensor: round((1 - share) * tensor.size))

    assert counted(0.66).outcome is MULTIPLIES
    assert counted(0.68).outcome is SKIPS
    (reason,) = {
        layer.reason for layer in counted(0.5).layers if "must be" in layer.reason
    }
    assert reason.startswith("0.500 of the weights")


def test_layers_say_why_they_multiply_zeros(base):
    layers = judge(base).layers
    kinds = [base.subgraphs[0].operators[layer.operator].name for layer in layers]
    assert [layer.skips for layer in layers] == [
        kind == "CONV_2D" and place > 0 for place, kind in enumerate(kinds)
    ]
    reasons = dict(zip(kinds, (layer.reason for layer in layers), strict=True))
    assert "dense layers have no kernel" in reasons["FULLY_CONNECTED"]
    assert "depthwise" in reasons["DEPTHWISE_CONV_2D"]


def test_float16_weights_are_seen_through_their_unpacking():
    model = xnnpack_forms.build("base")
    for sparse in (True, False):
        data = converted(model, sparse, "float16")
        assert judge(tflite.parse(data)).outcome is SKIPS


def test_integers_are_multiplied(cnn_files):
    file = tflite.parse(cnn_files["int8"])
    verdict = judge(file, lambda tensor: 0)
    assert verdict.outcome is MULTIPLIES
    assert any("floating point" in layer.reason for layer in verdict.layers)
