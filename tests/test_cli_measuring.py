"""`kprune sensitivity` and `kprune sweep`: options in, text, JSON and pictures out."""

import json
import pathlib
import sys

import numpy as np
import pytest
from models import compiled, sequential
from test_cli import refused, run
from test_sweep import MODULE, STAND_IN


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a compiled model, data, and a module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    compiled(sequential(), metrics=["accuracy"]).save("m.keras")
    rng = np.random.default_rng(0)
    x, y = rng.random((40, 8, 8, 1), "f4"), rng.integers(0, 3, 40)
    np.savez("d.npz", x=x, y=y, x_val=x[:9], y_val=y[:9])
    pathlib.Path("searched.py").write_text(
        "from kprune.recipe import Prune, Recipe\n"
        "def space(trial):\n"
        "    print('chatter')\n"
        "    return Recipe((Prune(trial.suggest_float('s', 0, 0.9), epochs=1),))\n"
    )
    yield tmp_path
    sys.modules.pop("searched", None)


def sensitivity(*options):
    return run("sensitivity", "m.keras", "--data", "d.npz", *options)


def sweep(*options):
    return run("sweep", "m.keras", "searched:space", "--data", "d.npz", *options)


def test_sensitivity_as_text_json_and_picture(here):
    before = pathlib.Path("m.keras").read_bytes()
    options = ("--sparsities", "0.5,0.9", "--lost", 0.1)
    result = sensitivity(*options, "--plot", "s.png")
    assert result.exit_code == 0, result.stderr
    assert "Most sensitive: " in result.stdout and result.stderr == ""
    assert "Each alone loses at most 0.1 with allocation={" in result.stdout
    assert pathlib.Path("s.png").read_bytes().startswith(b"\x89PNG")
    result = sensitivity(*options, "--json", "--granularity", "channel")
    values = json.loads(result.stdout)
    assert set(values["allocation"]) == {w["name"] for w in values["weights"]}
    assert values["granularity"].startswith("Channel")
    assert pathlib.Path("m.keras").read_bytes() == before


@pytest.mark.parametrize(
    "options, words",
    [
        (["--sparsities", "50%"], ["numbers with commas between them", "'50%'"]),
        (["--sparsities", "0.5,1"], ["must lie in [0, 1). Received 1.0"]),
        (["--measure", "acuracy"], ["Did you mean 'accuracy'?"]),
        (["--granularity", "chanel"], ["Unknown granularity 'chanel'"]),
        (["--plot", "s.pdf"], ["--plot: `path` must end in .png or .svg"]),
        (["--lost", "-1", "--sparsities", "0.5"], ["`lost` must be at least 0"]),
        (["--data", "no.npz"], ["There is no file 'no.npz'"]),
    ],
)
def test_what_sensitivity_refuses(here, options, words):
    assert refused(sensitivity(*options), *words)


def test_a_sweep_from_the_command_line_and_going_on(here, monkeypatch):
    monkeypatch.setattr(MODULE, "_COMMAND", [sys.executable, "-c", STAND_IN])
    result = sweep("--trials", 2, "--workers", 2, "--plot", "s.svg")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("2 recipes; ") and "chatter" in result.stderr
    assert result.stdout.endswith("Written to m-swept\nDrawn in s.svg\n")
    values = json.loads(sweep("--trials", 3, "--json").stdout)
    assert [trial["number"] for trial in values["trials"]] == [0, 1, 2]
    assert values["objectives"] == {"accuracy": "max", "bytes": "min"}
    refused(sweep("--objective", "macs"), "has the objectives", "another folder")


def test_what_sweep_refuses(here):
    gone = run("sweep", "m.keras", "searched:spaces", "--data", "d.npz")
    assert refused(gone, "Did you mean 'searched:space'?")
    assert refused(run("sweep", "m.keras", "gone:x", "--data", "d"), "no module 'gone'")
    assert refused(run("sweep", "m.keras", "space", "--data", "d"), "'module:function'")
    assert refused(sweep("--objective", "byte"), "objectives={'byte': 'max'")
    assert refused(sweep("--trials", 0), "`trials` must be a whole number")
    assert not pathlib.Path("m-swept").exists()
