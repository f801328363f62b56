"""The code in docs runs as it stands, and prunes."""

import inspect
import pathlib
import re
import types

import keras
import numpy as np
import optuna
import pytest

import kprune
from kprune.data_file import TrainingData, check_inputs

DOCS = pathlib.Path(__file__).parent.parent / "docs"


def run(page, names):
    text = (DOCS / page).read_text()
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(code, names)
    return names


def test_the_code_of_the_page_on_pruning_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run("pruning.md", {})
    model, callback = names["model"], names["callback"]
    model.compile("sgd", "mse")
    x, y = np.zeros((8, 16, 16, 3)), np.zeros((8, 10))
    model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
    sparsities = {w.path.split("/")[-2]: w.sparsity for w in callback.report.weights}
    assert sparsities == pytest.approx(
        {"conv": 0.8, "hidden": 0.5, "head": 0.5}, abs=1e-3
    )
    for trial in names["study"].trials:
        low, high = sorted(trial.params.values())
        assert low <= trial.values[1] <= high
    assert names["pruning"].report.guard.within
    assert (tmp_path / "fit.png").exists()


def test_the_code_of_the_page_on_criteria_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 28, 28)), rng.integers(0, 10, 64)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: (images, images))
    names = run("criteria.md", {})
    assert names["model"].count_params() == 50890
    # The last callback of the page is one for SynFlow, before training.
    names["model"].fit(
        names["x_train"], names["y_train"], verbose=0, callbacks=[names["callback"]]
    )
    assert names["callback"].report.sparsity == pytest.approx(0.9, abs=1e-3)
    assert len(names["plan"].rules) == 2


def test_the_code_of_the_page_on_distillation_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (256, 28, 28)), rng.integers(0, 10, 256)
    data = keras.datasets.fashion_mnist
    monkeypatch.setattr(data, "load_data", lambda: (images, images))
    names = run("distillation.md", {})
    assert names["pruning"].report.sparsity == pytest.approx(0.95, abs=1e-3)
    assert names["small"].count_params() < names["teacher"].count_params()
    loaded = keras.models.load_model("student.keras")
    assert [layer.name for layer in loaded.layers][:2] == ["stem", "body"]
    kernel = np.array(loaded.get_layer("head").kernel)
    assert np.count_nonzero(kernel == 0) > 0.9 * kernel.size


def test_the_code_of_the_page_on_many_machines_runs():
    names = run("beyond_one_machine.md", {})
    pruned = sum(int((~mask).sum()) for mask in names["masks"])
    assert pruned == round(0.9 * 1024 * 256)


def test_the_code_of_the_page_on_clustering_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run("clustering.md", {})
    assert names["clustering"].report.clustered
    assert names["pruning"].report.sparsity == pytest.approx(0.8, abs=1e-3)
    assert names["clustering"].report.sparsity >= 0.799
    assert names["few"].clustering_report.clustered
    sizes = [(tmp_path / f"{name}.tflite").stat().st_size for name in ("many", "few")]
    assert sizes[1] < sizes[0]


def test_the_code_of_the_page_on_training_for_int8_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = run("quantization_aware_training.md", {})
    assert names["report"].quantization == "int8"
    assert not names["aware"].quantization_report.floats
    kernels = [w for w in names["both"].weights if w.name == "kernel"]
    zeros = sum((w.numpy() == 0).sum() for w in kernels[::2])
    assert zeros / sum(w.numpy().size for w in kernels[::2]) > 0.88


def test_the_code_of_the_page_on_quantization_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run("quantization.md", {})
    layers = {item.layer for item in names["sensitivity"].layers}
    assert layers == {"stem", "body", "pool", "head"}
    assert names["report"].float_layers == names["sensitivity"].worst()
    assert (tmp_path / "model.tflite").exists()


def test_the_code_of_the_page_on_tfmot_runs():
    names = run("migrating_from_tfmot.md", {})
    shares = {
        name: [float(np.mean(np.array(w) == 0)) for w in names[name].get_weights()[::2]]
        for name in ("their_way", "our_way", "own_loop", "own_schedule")
    }
    assert shares["their_way"] == pytest.approx([0.8, 0.8], abs=2e-3)
    assert shares["our_way"] == pytest.approx([0.8, 0.8], abs=2e-3)
    assert shares["own_loop"] == [0.5, 0.5]
    assert shares["own_schedule"] == pytest.approx([0.4, 0.4], abs=2e-3)


def test_the_code_of_the_page_on_reports_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = run("report.md", {})
    assert [layer["after"]["channels"] for layer in names["data"]["layers"]] == [16, 4]
    assert names["data"]["files"][1]["path"] == "small.tflite"


def test_the_code_of_the_page_on_recipes_runs(monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 28, 28)), rng.integers(0, 10, 64)
    data = keras.datasets.fashion_mnist
    monkeypatch.setattr(data, "load_data", lambda: (images, images))
    seen = []

    def noted(recipe, *args, **kwargs):
        seen.append((recipe, args, kwargs))
        return types.SimpleNamespace(report="")

    # tests/test_recipe.py runs one; here are the arguments.
    monkeypatch.setattr(kprune.Recipe, "run", noted)
    names = run("recipes.md", {})
    ((recipe, (model, train, test), rest),) = seen
    assert rest == {"folder": "out"} and len(train) == len(test) == 2
    assert model.compiled and len(recipe.stages) == 4
    kprune.Recipe(recipe.stages, names["exports"])
    assert len(names["Recipe"].from_yaml(names["text"]).stages) == 4


def test_the_code_of_the_page_on_sensitivity_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen, parameters = [], inspect.signature(kprune.sweep).parameters

    def noted(*args, **kwargs):
        seen.append((args[0], kwargs))
        return kprune.SweepReport({}, (), ())

    # tests/test_sweep.py runs one; here are the arguments.
    monkeypatch.setattr(kprune, "sweep", noted)
    monkeypatch.setattr(kprune.SweepReport, "plot", lambda self, path: None)
    monkeypatch.setattr(kprune.SweepReport, "best", ())
    names = run("sensitivity.md", {})
    assert set(names["allocation"]) == {"stem", "hidden", "head"}
    assert (tmp_path / "sensitivity.png").exists()
    ((space, rest),) = seen
    assert set(rest) <= set(parameters)
    trial = optuna.trial.FixedTrial({"sparsity": 0.7, "channels": "half"})
    assert [type(s).__name__ for s in space(trial).stages] == ["Shrink", "Prune"]


def test_the_data_on_the_page_on_the_command_line_can_be_trained_on(monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (256, 28, 28)), rng.integers(0, 10, 256)
    data = keras.datasets.fashion_mnist
    monkeypatch.setattr(data, "load_data", lambda: (images, images))
    pair = run("command_line.md", {})["make"]()
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten()])
    check_inputs(model, TrainingData(*pair))
    assert len(pair[0]) == 2
    flat = keras.Sequential([keras.Input((9,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"\(None, 28, 28, 1\), expected \(None, 9\)"):
        check_inputs(flat, TrainingData(*pair))


def test_the_code_of_the_page_on_concepts_runs():
    names = run("concepts.md", {})
    sparsities = {w.path: w.sparsity for w in names["pruning"].report.weights}
    found = [
        sparsities[f"{names['model'].name}/{n}/kernel"] for n in ("hidden", "head")
    ]
    assert found == pytest.approx([0.8, 0.5], abs=1e-3)
    assert kprune.inspect(names["plain"]).sparsity == pytest.approx(0.7, abs=1e-3)


def test_the_code_of_the_page_on_subclassed_models_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = run("how_to/subclassed_models.md", {})
    assert names["pruning"].report.sparsity == pytest.approx(0.9, abs=1e-3)
    assert names["report"].sparsity == pytest.approx(0.9, abs=1e-3)
    assert "is a subclassed model (Classifier)" in capsys.readouterr().out
    assert names["small"].count_params() == 32 * 33 + 10 * 33


def test_the_code_of_the_page_on_custom_layers_runs():
    names = run("how_to/custom_layers.md", {})
    reasons = [weight.reason for weight in names["before"].report.skipped]
    assert any("call kprune.register_prunable(Mix" in reason for reason in reasons)
    assert any("mix/matrix" in w.path for w in names["after"].report.weights)
    assert names["small"].get_layer("mix").units == 32
    assert names["small"].shrink_report.equality.relative < 1e-6


def test_the_code_of_the_page_on_granularities_runs():
    names = run("how_to/which_granularity.md", {})
    assert "blocks of 4 zeros" in str(names["advice"])
    blocks = names["pruning"].report.weights
    assert {w.path.split("/")[-2] for w in blocks} == {"hidden", "head"}


def test_the_code_of_the_page_on_sizes_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = run("how_to/not_smaller.md", {})["sizes"]
    files = {path.stem: sizes(path) for path in tmp_path.iterdir()}
    said = {
        "trained": (266, 152),
        "plain": (101, 13),
        "dense": (82, 11),
        "sparse": (14, 11),
        "int8": (26, 6),
    }
    for name, kilobytes in said.items():
        assert np.array(files[name]) / 1000 == pytest.approx(kilobytes, rel=0.15), name


def test_the_code_of_the_page_on_troubles_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run("troubleshooting.md", {})
    assert names["driving"].report.sparsity == pytest.approx(0.8, abs=1e-3)
    assert names["pruning"].report.sparsity == pytest.approx(0.8, abs=1e-3)
    held = kprune.inspect(names["loaded"]).sparsity
    assert held == pytest.approx(kprune.inspect("pruned.keras").sparsity)
    assert kprune.inspect(names["model"]).sparsity == pytest.approx(0.8, abs=1e-3)
    assert [layer.name for layer in names["plain"].layers] == ["hidden", "head"]
