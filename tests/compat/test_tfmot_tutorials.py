"""tfmot's five tutorials, run to their ends, of which the import is changed only.

The scripts in `tutorials/` run as they stand on kprune here, and with that one line
turned back on the real tfmot, in a process of its own.
"""

import json
import pathlib
import subprocess
import sys
import warnings

import pytest

import kprune.compat.tfmot as sparsity
from kprune.export import tflite
from kprune.notices import PruningWarning

tf = pytest.importorskip("tensorflow")
FOLDER = pathlib.Path(__file__).parent / "tutorials"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def on_tfmot(tmp_path_factory):
    """Runs all scripts on tfmot, beside those that run here; returns their findings."""
    folder = tmp_path_factory.mktemp("tfmot")
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, str(FOLDER / "tutorial_runs.py"), str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=said,
        )

    def found(name):
        assert process.wait() == 0, (folder / "said").read_text()[-3000:]
        return json.loads((folder / "found.json").read_text())[name]

    yield found
    process.kill()


@pytest.fixture
def on_kprune(tmp_path, monkeypatch):
    """Runs a script on kprune; returns its findings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(FOLDER)
    from tutorial_runs import run

    def found(name):
        with warnings.catch_warnings():
            # Keras 3 would rather have an Input, and LiteRT another interpreter.
            warnings.simplefilter("ignore")
            return run(name)

    return found


def test_train_sparse_models(on_kprune, on_tfmot):
    """Wrapped layer by layer, and restored from an `.h5` file in mid-training."""
    name = "train_sparse_models"
    ours = on_kprune(name)
    assert ours["zeros"] == pytest.approx([0.9] * 4, abs=1e-3)
    compare(ours, on_tfmot(name))


def test_pruning_with_keras(on_kprune, on_tfmot):
    name = "pruning_with_keras"
    ours = on_kprune(name)
    assert ours["zeros"] == pytest.approx([0.8, 0.8], abs=5e-3)
    assert abs(ours["of_quantized"] - ours["accuracy"]) <= 0.02
    # As the tutorial's headings have it: 3x, and with quantization nearly 10x.
    model, _, quantized = ours["bytes"]
    assert 3 * model < ours["baseline_bytes"] and 8 * quantized < ours["baseline_bytes"]
    assert ours["accuracy"] > ours["baseline"] - 0.05
    compare(ours, on_tfmot(name))


def test_structural_pruning_2_by_4(on_kprune, on_tfmot):
    name = "pruning_with_sparsity_2_by_4"
    ours, theirs = on_kprune(name), on_tfmot(name)
    assert ours["zeros"] == [0.5, 0.5, 0.5, 0.0]
    # `frequency=100` is more than its steps.
    assert theirs["zeros"] == [0.0, 0.5, 0.5, 0.0]
    assert ours["most_of_four"] == theirs["most_of_four"] == [2, 2]
    compare(ours, theirs)


def test_pruning_for_on_device_inference_with_xnnpack(on_kprune, on_tfmot, tmp_path):
    name = "pruning_for_on_device_inference"
    ours = on_kprune(name)
    # Depthwise kernels, which Keras 3 calls kernels too, are left alone.
    assert ours["zeros"] == [0.0, 0.0, 0.75, 0.0, 0.75, 0.0]
    assert "In the way" in ours["refusal"]
    content = tflite.parse((tmp_path / "pruned.tflite").read_bytes())
    assert content.operator_counts()["DENSIFY"] == 2
    # So short a training of normalisations is much of a lottery.
    compare(ours, on_tfmot(name), chance=0.2)


def test_comprehensive_guide(on_kprune, on_tfmot):
    name = "comprehensive_guide"
    ours, theirs = on_kprune(name), on_tfmot(name)
    for way in ("whole", "some", "functional", "loop", "loaded"):
        assert ours[way] == theirs[way] == [0.5]
    # Biases that are equal: tfmot keeps nearly all of them.
    assert ours["own"] == [0.5, 0.5]
    assert theirs["own"][1] < 0.1
    assert ours["steps"] == theirs["steps"] == 2
    assert ours["bytes"][0] < ours["unstripped_bytes"]
    assert 0.2 < ours["blocks"][0] < 0.8
    compare(ours, theirs)


def compare(ours, theirs, chance=0.06):
    """The same results or better."""
    assert ours["of_file"] == pytest.approx(ours["accuracy"], abs=0.01)
    # Of 200 images a few are chance.
    assert ours["accuracy"] >= theirs["accuracy"] - chance
    for size, other in zip(ours.get("bytes", []), theirs.get("bytes", []), strict=True):
        assert size <= 1.05 * other


def test_early_stopping_of_a_tutorial_is_told_what_it_does():
    x = tf.random.normal((64, 8))
    schedule = sparsity.PolynomialDecay(0.0, 0.8, 0, 4)
    model = tf.keras.Sequential([tf.keras.Input((8,)), tf.keras.layers.Dense(4)])
    model_for_pruning = sparsity.prune_low_magnitude(model, schedule)
    model_for_pruning.compile("sgd", "mse")
    stopping = tf.keras.callbacks.EarlyStopping(monitor="loss", patience=10)
    with pytest.warns(PruningWarning, match="Epochs before the target sparsity"):
        model_for_pruning.fit(
            x,
            x[:, :4],
            epochs=2,
            callbacks=[sparsity.UpdatePruningStep(), stopping],
            verbose=0,
        )
