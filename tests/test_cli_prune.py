"""`kprune prune`: data and recipes from files, what is refused, and going on."""

import json
import pathlib
import sys

import keras
import numpy as np
import pytest
from models import sequential
from test_cli import corrupt, process, refused, run

from kprune.data_file import read_training_data

SAMPLES = 40


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a compiled model, data, and a module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = sequential()
    model.compile("adam", "mse", metrics=["mae"])
    model.save("model.keras")
    rng = np.random.default_rng(0)
    x = rng.random((SAMPLES, *model.input_shape[1:]), "f4")
    y = rng.random((SAMPLES, *model.output_shape[1:]), "f4")
    np.savez("data.npz", x=x, y=y)
    np.savez("four.npz", x=x, y=y, x_val=x[:7], y_val=y[:7])
    yield tmp_path
    sys.modules.pop("mine", None)


def module(text):
    pathlib.Path("mine.py").write_text(
        "import numpy as np\n"
        "def arrays():\n"
        "    with np.load('data.npz') as found:\n"
        "        return found['x'], found['y']\n" + text
    )


def prune(*options):
    return run("prune", "model.keras", *options, "--no-benchmark")


QUICK = ("--data", "data.npz", "--epochs", 1)


def test_a_model_is_pruned_with_data_from_a_file(here):
    result = prune(*QUICK, "--sparsity", 0.5, "--out", "out")
    assert result.exit_code == 0, result.stderr
    assert "4 of its 40 samples, drawn by lot, are kept" in result.stderr
    assert result.stdout.endswith("As a page: out/report.html\nWritten to out\n")
    kernels = [
        weight.numpy()
        for weight in keras.saving.load_model("out/model.keras").weights
        if len(weight.shape) > 1
    ]
    zeros = sum((kernel == 0).sum() for kernel in kernels)
    assert zeros == pytest.approx(0.5 * sum(kernel.size for kernel in kernels), abs=2)
    assert pathlib.Path("out/android.tflite").stat().st_size > 1000


def test_a_recipe_names_stages_targets_and_data(here):
    pathlib.Path("recipe.yaml").write_text(
        "stages:\n- train: {epochs: 1}\n- prune: {epochs: 1, sparsity: 0.5}\n"
        "export: [generic]\nbatch_size: 8\ndata: four.npz\n"
    )
    result = prune("--recipe", "recipe.yaml", "--json")
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert [row["stage"] for row in rows] == ["dense", "train", "prune"]
    assert pathlib.Path("model-pruned/generic.tflite").exists()
    both = prune("--recipe", "recipe.yaml", "--epochs", 3)
    assert refused(both, "write --sparsity, --epochs", "leave --recipe out")


def test_a_loss_is_said_for_a_file_without_one(here):
    sequential().save("model.keras")
    assert refused(prune(*QUICK), "without a loss", "--loss")
    assert refused(prune(*QUICK, "--metric", "mae"), "--metric goes with --loss")
    result = prune(*QUICK, "--loss", "mse", "--metric", "mae", "--json")
    assert result.exit_code == 0, result.stderr
    assert set(json.loads(result.stdout)["rows"][0]["metrics"]) == {"loss", "mae"}


def test_data_are_what_a_function_returns(here):
    module(
        "import tensorflow as tf\n"
        "def make():\n"
        "    print('chatter')\n"
        "    data = tf.data.Dataset.from_tensor_slices(arrays()).batch(8)\n"
        "    return data, data.take(1)\n"
    )
    result = prune("--data", "mine:make", "--epochs", 1, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["rows"]
    assert "chatter" in result.stderr


def test_samples_to_measure_on_are_not_trained_on(here):
    np.savez("index.npz", x=np.arange(50), y=np.arange(50))
    data = read_training_data("index.npz")
    assert len(data.validation[0]) == 5
    both = np.concatenate([data.train[0], data.validation[0]])
    assert sorted(both) == list(range(50))
    np.testing.assert_array_equal(data.train[0], data.train[1])
    again = read_training_data("index.npz")
    np.testing.assert_array_equal(data.validation[0], again.validation[0])


def test_the_users_traceback_begins_in_the_users_code(here):
    module("def make():\n    return helper()\ndef helper():\n    return {}['gone']\n")
    result = prune("--data", "mine:make")
    assert result.exit_code == 1
    said = result.stderr
    assert said.startswith("Error: 'mine:make' failed:\n\nTraceback (most recent call")
    assert "in make" in said and "in helper" in said and "KeyError: 'gone'" in said
    assert "data_file" not in said and "kprune_cli" not in said


@pytest.mark.parametrize(
    "text, words",
    [
        ("import nothing_such", ["No module named 'nothing_such'", "mine.py"]),
        ("def make(:", ["SyntaxError", "line 5"]),
        ("1 / 0", ["ZeroDivisionError", "line 5, in <module>"]),
    ],
)
def test_a_module_that_does_not_load_shows_why(here, text, words):
    module(text)
    result = prune("--data", "mine:make")
    assert result.exit_code == 1
    assert all(word in result.stderr for word in words)
    assert "data_file" not in result.stderr and "importlib" not in result.stderr


@pytest.mark.parametrize(
    "data, words",
    [
        ("no.npz", ["There is no file 'no.npz'"]),
        ("data.csv", ["a '.npz' file with the arrays x and y", "'data.csv'"]),
        (":make", ["Received: ':make'"]),
        ("broken.npz", ["NumPy cannot read"]),
        ("names.npz", ["Received x_train, y_train", "numpy.savez"]),
        ("short.npz", ["same number of samples", "(40, 8, 8, 1) and (3,)"]),
        ("flat.npz", ["to train on do not fit", "(36, 64)", "(None, 8, 8, 1)"]),
        ("gone:make", ["There is no module 'gone'"]),
        ("mine.py:arrays", ["Did you mean 'mine:arrays'?"]),
        ("mine:array", ["no function 'array'", "Did you mean 'mine:arrays'?"]),
        ("mine:arrays", ["must return a pair", "tuple of ndarray, ndarray"]),
        ("mine:none", ["Received a NoneType"]),
        ("mine:single", ["It has no axis of samples: batch it"]),
    ],
)
def test_data_that_do_not_fit_are_refused(here, data, words):
    with np.load("data.npz") as found:
        x, y = found["x"], found["y"]
    corrupt(pathlib.Path("broken.npz"))
    np.savez("names.npz", x_train=x, y_train=y)
    np.savez("short.npz", x=x, y=np.zeros(3))
    np.savez("flat.npz", x=x.reshape(SAMPLES, -1), y=y)
    module(
        "def none(): pass\n"
        "def single():\n"
        "    import tensorflow as tf\n"
        "    data = tf.data.Dataset.from_tensor_slices(arrays())\n"
        "    return data, data\n"
    )
    assert refused(prune("--data", data), *words)
    assert not pathlib.Path("model-pruned").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        (["--sparsity", "80"], ["Did you mean 0.8?"]),
        (["--target", "androit"], ["Did you mean 'android'?"]),
        (["--loss", "mean_squared"], ["mean_squared"]),
        (["--out", "data.npz"], ["data.npz"]),
        (["--recipe", "no.yaml"], ["Cannot read the recipe 'no.yaml'"]),
        (["--recipe", "typo.yaml"], ["line 2", "Did you mean 'epochs'?"]),
        (["--recipe", "."], ["Cannot read the recipe '.'"]),
    ],
)
def test_bad_options_are_refused(here, options, words):
    pathlib.Path("typo.yaml").write_text("stages:\n- train: {epoch: 1}\n")
    before = sorted(here.iterdir())
    assert refused(prune("--data", "four.npz", *options), *words)
    assert sorted(here.iterdir()) == before


def test_bad_models_are_refused(here):
    corrupt(pathlib.Path("no.keras"))
    corrupt(pathlib.Path("m.tflite"))
    assert refused(run("prune", "no.keras", *QUICK), "no zip archive")
    assert refused(run("prune", "m.tflite", *QUICK), "Expected a '.keras' file")
    assert refused(run("prune", ".", *QUICK), "is a folder")
    assert refused(run("prune", "gone.keras", *QUICK), "There is no file")
    assert refused(prune(), "Name the data")


def test_a_file_that_may_not_be_read_is_refused(here, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "open", denied)
    assert refused(prune(*QUICK), "Cannot read 'model.keras': Permission denied")


def test_a_stop_in_mid_training_says_how_to_go_on(here):
    """By Ctrl-C in the second epoch of the second stage, by SIGTERM in the third."""
    module(
        "import os, signal, keras\n"
        # A suite that runs in a shell's background is deaf to Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Batches(keras.utils.PyDataset):\n"
        "    def __len__(self): return 5\n"
        "    def __getitem__(self, index):\n"
        "        for epoch, name in ((1, 'SIGINT'), (2, 'SIGTERM')):\n"
        "            kept = f'model-pruned/stages/2_prune_epoch_{epoch}.keras'\n"
        "            if os.path.exists(kept) and not os.path.exists(name):\n"
        "                open(name, 'w').close()\n"
        "                os.kill(os.getpid(), getattr(signal, name))\n"
        "        x, y = arrays()\n"
        "        return x[index * 8:][:8], y[index * 8:][:8]\n"
        "def make(): return Batches(), arrays()\n"
    )
    pathlib.Path("recipe.yaml").write_text(
        "stages:\n- train: {epochs: 1}\n- prune: {epochs: 3, sparsity: 0.5}\n"
        "export: [generic]\ndata: mine:make\n"
    )
    command = ("prune", "model.keras", "--recipe", "recipe.yaml", "--no-benchmark")
    for epoch, code in ((1, 130), (2, 143)):
        stopped = process(*command)
        assert stopped.returncode == code
        assert stopped.stdout == "" and "Traceback" not in stopped.stderr
        files = f"0_given.keras, 1_train.keras, 2_prune_epoch_{epoch}.keras"
        assert f"Stopped. model-pruned/stages holds {files}." in stopped.stderr
        assert "Give the same command again to go on" in stopped.stderr
    kept = pathlib.Path("model-pruned/stages/1_train.keras")
    written = kept.stat().st_mtime_ns
    done = process(*command)
    assert done.returncode == 0, done.stderr
    assert "Epoch 3/3" in done.stderr and "Epoch 2/3" not in done.stderr
    assert kept.stat().st_mtime_ns == written
    assert "\nprune " in done.stdout


def test_what_tensorflow_stops_at_is_no_traceback(here):
    model = sequential()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.save("model.keras")
    with np.load("data.npz") as found:
        x, y = found["x"], np.full(SAMPLES, 999)
        np.savez("labels.npz", x=x, y=y, x_val=x, y_val=y)
    result = prune("--data", "labels.npz", "--epochs", 1)
    assert result.exit_code == 1
    assert "Error: TensorFlow stopped: " in result.stderr
    assert "label value of 999" in result.stderr
    assert ".py" not in result.stderr
