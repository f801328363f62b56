"""`kprune.sweep`: searching, what is told of trials, and going on after a stop."""

import builtins
import fcntl
import functools
import json
import sys

import keras
import numpy as np
import pytest
from models import compiled, sequential
from pictures import texts

import kprune
from kprune.recipe import Prune, Recipe
from kprune.sweep.report import _labels

optuna = pytest.importorskip("optuna")
MODULE = sys.modules["kprune.sweep"]  # `kprune.sweep` is its function.

# In the place of a trial's process: what a recipe is like is known in a moment.
STAND_IN = """
import json, os, pathlib, signal, sys, yaml
job = json.loads(sys.argv[1])
(stage,) = yaml.safe_load(pathlib.Path(job["recipe"]).read_text())["stages"]
sparsity, epochs = stage["prune"]["sparsity"], stage["prune"]["epochs"]
folder = pathlib.Path(job["folder"])
again = folder.exists()
folder.mkdir(exist_ok=True)
if epochs == 7 or epochs == 8 and not again:
    os.kill(os.getpid(), signal.SIGKILL)
result = {"measures": {
    "loss": 0.5, "accuracy": 1 - sparsity**2, "bytes": 1e4 * (1 - sparsity) * epochs,
    "arena_bytes": None, "macs": 5000, "milliseconds": 1.0 * job["benchmark"],
}}
if epochs == 9:
    result = {"error": "ValueError: too large"}
pathlib.Path(job["result"]).write_text(json.dumps(result))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with data, in which trials take a moment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MODULE, "_COMMAND", [sys.executable, "-c", STAND_IN])
    rng = np.random.default_rng(0)
    x, y = rng.random((8, 8, 8, 1), "f4"), rng.integers(0, 3, 8)
    np.savez("data.npz", x=x, y=y, x_val=x, y_val=y)
    return tmp_path


@functools.cache
def network():
    return compiled(sequential(), metrics=["accuracy"])


def recipe(sparsity, epochs=1):
    return Recipe((Prune(sparsity, epochs=epochs),))


def space(trial):
    return recipe(trial.suggest_float("sparsity", 0, 0.9), trial.suggest_int("n", 1, 2))


def swept(space=space, folder="swept", trials=3, **kwargs):
    return kprune.sweep(
        space, network(), "data.npz", folder, trials=trials, verbose=0, **kwargs
    )


def test_the_front_is_what_none_beats(here):
    grid = [(0.2, 1), (0.8, 2), (0.2, 2), (0.8, 1)]

    def chosen(trial):
        sparsity, n = grid[trial.number]
        trial.suggest_float("sparsity", sparsity, sparsity)
        return recipe(sparsity, trial.suggest_int("n", n, n))

    found = swept(chosen, trials=4, workers=3)
    assert {t.state for t in found.trials} == {"complete"} and len(found.trials) == 4
    front = [(t.params["sparsity"], t.params["n"]) for t in found.best]
    assert front == [(0.2, 1), (0.8, 1)]
    assert found.objectives == {"accuracy": "max", "bytes": "min"}
    assert (here / "swept/report.json").read_text() == found.to_json()
    lines = str(found).splitlines()
    assert lines[0].startswith("4 recipes; * marks those")
    assert sum("*" in line for line in lines[4:]) == 2
    shown = texts(found.plot(here / "sweep.svg"))
    assert {"accuracy", "Pareto front of accuracy, bytes", "multiplications"} <= {
        *shown
    }
    assert "bytes of working memory" not in shown


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_sweep_that_went_on_is_one_that_was_not_stopped(here, sampler):
    whole = swept(folder="whole", trials=5, sampler=sampler)
    swept(trials=2, sampler=sampler)
    assert swept(trials=5, sampler=sampler) == whole
    assert len({trial.params["sparsity"] for trial in whole.trials}) == 5
    other = swept(folder="other", trials=1, sampler=sampler, seed=1)
    assert other.trials[0].params != whole.trials[0].params


def test_a_sweep_that_was_stopped_in_a_trial_tries_it_again(here):
    whole = swept(folder="whole", trials=4)

    def stopped(trial):
        found = space(trial)
        if trial.number == 2:
            raise KeyboardInterrupt
        return found

    with pytest.raises(KeyboardInterrupt):
        swept(stopped, trials=4)
    found = swept(trials=4)
    assert [trial.state for trial in found.trials] == [
        *("complete", "complete", "again", "complete", "complete")
    ]
    assert found.trials[2].reason == "the sweep was stopped; trial 3 takes its place"
    assert found.trials[3].folder == "trials/0002"
    params = [trial.params for trial in found.trials if trial.state == "complete"]
    assert params == [trial.params for trial in whole.trials]


@pytest.mark.parametrize("epochs, states", [(8, "again complete"), (7, "again failed")])
def test_a_process_that_was_killed_is_told_of_and_tried_again_once(
    here, epochs, states
):
    def deadly(trial):
        sparsity = trial.suggest_float("sparsity", 0, 0.9)
        return recipe(sparsity, epochs if trial.number < 2 else 1)

    found = swept(deadly)
    assert " ".join(trial.state for trial in found.trials[:2]) == states
    assert len(found.trials) == 4
    assert "signal 9 (Killed)" in found.trials[0].reason
    assert found.trials[1].params == found.trials[0].params
    assert "trial 0, again: its process ended with signal 9" in str(found)


def test_trials_that_fail_are_listed_with_the_reason(here):
    def choosy(trial):
        trial.suggest_float("sparsity", 0.1, 0.9)
        if trial.number == 0:
            raise optuna.TrialPruned("do not go together")
        if trial.number == 1:
            return Recipe(())
        if trial.number == 2:
            return 5
        return recipe(0.5, 9 if trial.number == 3 else 1)

    found = swept(choosy, trials=5)
    states = [trial.state for trial in found.trials]
    assert states == ["pruned", "failed", "failed", "failed", "complete"]
    for trial, words in zip(
        found.trials,
        ["go together", "`stages` is empty", "Received 5", "ValueError: too large", ""],
        strict=True,
    ):
        assert words in trial.reason and (not words or words in str(found))
    assert swept(choosy, trials=5) == found


def test_if_all_fail_it_says_why(here):
    with pytest.raises(ValueError, match="none of the 2 trials is complete(.|\n)*5"):
        swept(lambda trial: 5, trials=2)
    with pytest.raises(ValueError, match="no finite 'arena_bytes' of its file"):
        swept(folder="b", trials=1, objectives=("accuracy", "arena_bytes"))


def test_times_are_measured_where_they_are_asked_for(here):
    found = swept(trials=1, objectives={"accuracy": "max", "milliseconds": "min"})
    assert found.trials[0].measures["milliseconds"] == 1


def test_two_sweeps_do_not_work_in_one_folder(here):
    swept(trials=1)
    with (here / "swept/lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another sweep is at work"):
            swept(trials=2)
    with pytest.raises(ValueError, match="has the objectives {'accuracy': 'max'"):
        swept(trials=2, objectives=("loss", "bytes"))
    other = compiled(
        keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()]),
        metrics=["accuracy"],
    )
    with pytest.raises(ValueError, match="a sweep of another model"):
        kprune.sweep(space, other, "data.npz", "swept")


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"space": "module:space"}, TypeError, "`space` must be a function"),
        ({"trials": 0}, ValueError, "`trials` must be a whole number of at least 1"),
        ({"workers": 1.5}, ValueError, "`workers` must be a whole number"),
        ({"seed": -1}, ValueError, "`seed` must be"),
        ({"sampler": "grid"}, ValueError, "must be one of ['nsga2', 'random', 'tpe']"),
        (
            {"sampler": optuna.samplers.GridSampler({"a": [1]})},
            ValueError,
            "GridSampler ends a study itself",
        ),
        ({"objectives": "bytes"}, TypeError, "must be several names"),
        ({"objectives": ()}, ValueError, "at least one name"),
        ({"objectives": {"bytes": "down"}}, ValueError, "with 'max' or 'min'"),
        ({"objectives": ("quality",)}, ValueError, "objectives={'quality': 'max'"),
        (
            {"objectives": ("accurracy", "bytes")},
            ValueError,
            "Did you mean 'accuracy'?",
        ),
        ({"folder": "."}, ValueError, "holds other files"),
        ({"folder": "data.npz"}, ValueError, "cannot make the folder"),
        ({"model": sequential}, ValueError, "is not compiled"),
        ({"model": lambda: "m"}, TypeError, "must be a Keras 3 model"),
        ({"data": (1, 2)}, TypeError, "the path of a '.npz' file or"),
        ({"data": "no.npz"}, ValueError, "There is no file 'no.npz'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_refused(here, change, error, words):
    given = {"space": space, "model": network, "data": "data.npz", "folder": "swept"}
    given |= change
    given["model"] = given["model"]()
    with pytest.raises(error) as caught:
        kprune.sweep(**given, verbose=0)
    assert words in str(caught.value)
    assert not [*here.glob("swept/*")]


def test_without_optuna_it_says_what_to_install(here, monkeypatch):
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "optuna":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install optuna"):
        swept()


@pytest.mark.slow
def test_a_recipe_is_run_and_measured_in_its_own_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x, y = rng.random((32, 8, 8, 1), "f4"), rng.integers(0, 3, 32)
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def make():\n"
        "    found = np.load('arrays.npz')\n"
        "    return (found['x'], found['y']), (found['x'], found['y'])\n"
    )
    np.savez("arrays.npz", x=x, y=y)
    found = kprune.sweep(
        space,
        network(),
        "mine:make",
        "swept",
        trials=1,
        verbose=0,
        objectives=["bytes"],
    )
    sys.modules.pop("mine", None)
    (trial,) = found.trials
    file = tmp_path / "swept" / trial.folder / "microcontroller.tflite"
    assert trial.measures["bytes"] == file.stat().st_size
    assert trial.measures["macs"] == kprune.inspect(file).macs
    rows = json.loads((file.parent / "report.json").read_text())["rows"]
    assert rows[-1]["metrics"]["accuracy"] == trial.measures["accuracy"]
    assert trial.measures["arena_bytes"] == rows[-1]["arena"] > 0


def test_close_points_share_a_label_at_the_left_and_upper_one():
    points = [(100.0, 0.5), (1.0, 0.1), (102.0, 0.51)]
    assert _labels(points, ["0", "1", "2"]) == [
        ((1.0, 0.1), "1"),
        ((100.0, 0.51), "0, 2"),
    ]
    assert _labels([(3, 1)], ["7"]) == [((3, 1), "7")] and _labels([], []) == []
