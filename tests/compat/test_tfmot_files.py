"""Files of tfmot-pruned models go on in Keras 3, and compute what they did."""

import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

import kprune
from kprune.compat import tfmot_proof
from kprune.compat.tfmot_files import load
from kprune.layers import mask_of, pruned_layers, values

MAKE = pathlib.Path(__file__).parent / "make_tfmot_files.py"
BATCH, STEPS = 8, 8

WRAPPED = [
    ("cnn", ".h5"),
    ("cnn", ".keras"),
    ("cnn", ""),
    ("nested", ".h5"),
    ("nested", ".keras"),
    ("nested", ""),
    ("lstm", ".keras"),
    ("lstm", ""),
    ("patterns", ".h5"),
    ("patterns", ""),
]
STRIPPED = [
    ("cnn", ".h5"),
    ("cnn", ".keras"),
    ("cnn", ""),
    ("nested", ".h5"),
    ("lstm", ".h5"),
    ("patterns", ""),
]


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The folder of samples, written by tfmot in a process of its own."""
    folder = tmp_path_factory.mktemp("tfmot")
    command = [sys.executable, str(MAKE), str(folder)]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return folder


def facts(files, name):
    with np.load(files / f"{name}.npz") as found:
        return dict(found)


def masks(model):
    """The masks of a model's wrappers, by `layer/number`."""
    return {
        f"{layer.name}/{i}": values(mask_of(variable).mask)
        for layer in pruned_layers(model)
        for i, variable in enumerate(v for v in layer.layer.weights if mask_of(v))
    }


def go_on(model, x, y, **settings):
    callback = kprune.PruningCallback()
    model.fit(x, y, BATCH, shuffle=False, verbose=0, callbacks=[callback], **settings)
    return callback


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name, ending", WRAPPED)
def test_outputs_masks_and_step_are_those_of_the_file(files, name, ending):
    said = facts(files, name)
    model = load(files / f"{name}_wrapped{ending}", prove=False)
    close(model.predict(said["x"], verbose=0), said["outputs"])
    expected = {
        key.removeprefix("mask/"): mask != 0
        for key, mask in said.items()
        if key.startswith("mask/")
    }
    found = masks(model)
    assert found.keys() == expected.keys()
    for key, mask in found.items():
        np.testing.assert_array_equal(mask, expected[key])
    assert model.optimizer.iterations == STEPS
    twice = {"shared", "z_first", "a_second"}
    for layer in pruned_layers(model):
        calls = 2 if layer.name in twice else 1
        assert said[f"step/{layer.name}"] == calls * STEPS


@pytest.mark.parametrize("name, ending", STRIPPED)
def test_stripped_models_come_back_plain_with_their_zeros(files, name, ending):
    said = facts(files, name)
    model = load(files / f"{name}_stripped{ending}", prove=False)
    close(model.predict(said["x"], verbose=0), said["outputs"])
    assert not list(pruned_layers(model))
    zeros = sum(np.sum(m == 0) for key, m in said.items() if key.startswith("mask/"))
    assert sum(np.sum(values(v) == 0) for v in model.trainable_weights) >= zeros
    kprune.hold_zeros(model)
    assert model.optimizer.iterations == 0


@pytest.mark.parametrize(
    "name, ending",
    [
        ("cnn", ".h5"),
        ("cnn", ""),
        ("nested", ".h5"),
        ("nested", ".keras"),
        ("lstm", ""),
    ],
)
def test_the_next_batch_does_what_it_does_in_tfmot(files, name, ending):
    said = facts(files, name)
    model = load(files / f"{name}_wrapped{ending}", prove=False)
    x, y = said["x"], said["y"]
    if name == "lstm":
        go_on(model, x[:BATCH], y[:BATCH])
    else:
        with pytest.warns(kprune.PruningWarning, match="This fit ends at step 9"):
            go_on(model, x[:BATCH], y[:BATCH])
    after = model.predict(x, verbose=0)
    assert np.abs(after - said["outputs"]).max() > 1e-3
    np.testing.assert_allclose(after, said["after"], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("name, ending", [("cnn", ".h5"), ("nested", ".keras")])
def test_training_goes_on_to_the_target_and_is_resumed_from_a_keras_file(
    files, name, ending, tmp_path
):
    said = facts(files, name)
    x, y = said["x"], said["y"]

    def until_step(model, epochs):
        return go_on(model, x, y, epochs=epochs)

    model = load(files / f"{name}_wrapped{ending}", prove=False)
    schedules = {layer.rule.schedule for layer in pruned_layers(model)}
    assert schedules == {kprune.PolynomialDecay(0.2, 0.8, 0, 20, 3, 4)}
    model.save(tmp_path / "model.keras")
    callback = until_step(model, 2)
    assert [step for step, _ in callback.history] == [8, 12, 16, 20]
    for layer in masks(model).values():
        assert np.sum(~layer) == round(0.8 * layer.size)

    resumed = keras.saving.load_model(tmp_path / "model.keras")
    assert resumed.optimizer.iterations == STEPS
    close(resumed.predict(x, verbose=0), said["outputs"])
    until_step(resumed, 2)
    for one, other in zip(model.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(values(one), values(other))


def test_patterns_and_constant_sparsity(files):
    model = load(files / "patterns_wrapped.h5", prove=False)
    conv, dense = pruned_layers(model)
    assert conv.rule.granularity == kprune.NofM(2, 4, remainder="pad")
    # Keras's rows are inputs; kprune's blocks are (outputs, inputs).
    assert dense.rule.granularity == kprune.Block((2, 4), "max")
    # A begin at 0 with frequency 2 is first due at step 2: tfmot counts from 1.
    assert dense.rule.schedule == kprune.ConstantSparsity(0.5, 2)
    before = masks(model)
    said = facts(files, "patterns")
    go_on(model, said["x"], said["y"])
    for key, mask in masks(model).items():
        np.testing.assert_array_equal(mask, before[key])


def test_outputs_are_proven_equal(files):
    assert load(files / "cnn_wrapped.h5", prove=True).built
    # tfmot's wrappers swallow the mask of time steps, and stripping brings it back.
    with pytest.warns(kprune.PruningWarning, match="not pass on which time steps"):
        load(files / "padded.keras", prove=True)


def test_other_outputs_are_refused(files, monkeypatch):
    probe = tfmot_proof.outputs

    def wrong(model, inputs):
        return [value + 0.01 for value in probe(model, inputs)]

    monkeypatch.setattr(tfmot_proof, "outputs", wrong)
    with pytest.raises(ValueError, match="computes something else than tf_keras"):
        load(files / "nested_wrapped.h5", prove=True)


def test_without_tf_keras_only_a_saved_model_is_proven(files, monkeypatch):
    monkeypatch.setattr(tfmot_proof.importlib.util, "find_spec", lambda name: None)
    assert load(files / "nested_wrapped", prove=True).built
    with pytest.warns(kprune.PruningWarning, match=r"pip install 'kprune\[tfmot\]'"):
        load(files / "cnn_wrapped.h5")
    with pytest.raises(ValueError, match="were not compared"):
        load(files / "cnn_wrapped.h5", prove=True)


def test_a_model_that_was_never_trained_begins_with_its_schedule(files):
    model = load(files / "fresh.h5", prove=False)
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(160, 6)).astype("float32")
    callback = go_on(model, x, x[:, :5])
    assert callback.report.sparsity == pytest.approx(0.8)


def test_the_optimizer_is_set_to_where_pruning_is(files):
    with pytest.warns(kprune.PruningWarning, match="Pruning is at step 6"):
        model = load(files / "compiled_anew.h5", prove=False)
    assert model.optimizer.iterations == 6


def test_layers_of_the_users_own(files):
    @keras.saving.register_keras_serializable("tests")
    class Doubled(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    model = load(files / "own.h5", custom_objects={"Doubled": Doubled}, prove=False)
    x = np.ones((1, 6), "float32")
    close(model.predict(x, verbose=0), model.layers[-1](2 * x))


def test_tensorflow_functions_compute_the_same(files):
    said = facts(files, "functions")
    model = load(files / "functions.h5", prove=False)
    close(model.predict(said["x"], verbose=0), said["outputs"])


def own_loss(true, predicted):
    return keras.ops.mean(keras.ops.abs(true - predicted) ** 1.5, -1)


@pytest.mark.parametrize(
    "name", ["adafactor", "amsgrad", "ftrl", "half", "nadam", "old_adam", "rmsprop"]
)
def test_optimizers_losses_and_metrics_go_on_as_in_tfmot(files, name):
    said = facts(files, f"by_{name}")
    x, y = said["x"], said["y"]
    model = load(files / f"by_{name}.h5", {"own_loss": own_loss}, prove=False)
    tolerance = 5e-3 if name == "half" else 2e-5
    evaluated = model.evaluate(x, [y, y], BATCH, verbose=0)
    np.testing.assert_allclose(evaluated, said["evaluated"], atol=tolerance)
    go_on(model, x[16:], [y[16:]] * 2)
    after = np.stack(model.predict(x, verbose=0)).astype("float32")
    np.testing.assert_allclose(after, said["after"], atol=tolerance)


def test_what_cannot_be_carried_over_is_said(files):
    own = {"own_loss": own_loss}
    with pytest.warns(kprune.PruningWarning, match="momentum grow slower"):
        load(files / "by_old_nadam.h5", own, prove=False)
    with pytest.warns(kprune.PruningWarning) as said:
        load(files / "by_old_adam.keras", own, prove=False)
    assert "keeps 0 arrays" in str(said[0].message)
    assert "Pruning is at step 2" in str(said[1].message)
    with pytest.warns(kprune.PruningWarning) as said:
        model = load(files / "by_nadam.h5", prove=False)
    assert "identifier: own_loss" in str(said[0].message)
    assert not model.compiled


def refused(match, path):
    with pytest.raises(ValueError, match=match):
        load(path, prove=False)


def test_what_is_no_file_of_keras_2_is_refused(files, tmp_path):
    refused("There is no file", tmp_path / "nothing.h5")
    (tmp_path / "text.h5").write_text("words")
    refused("is of no known format, or damaged", tmp_path / "text.h5")
    refused("is no SavedModel", tmp_path)
    refused("may hold weights only", files / "weights.h5")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.save(tmp_path / "new.keras")
    refused("was saved by Keras 3", tmp_path / "new.keras")
    model.export(tmp_path / "exported", verbose=False)
    refused("only a computation", tmp_path / "exported")
    with pytest.raises(ValueError, match="is of Keras 3 already"):
        load(model)
    with pytest.raises(TypeError, match="expected a path"):
        load(3)


@pytest.mark.parametrize("name", ["cnn_wrapped.h5", "cnn_wrapped.keras"])
def test_truncated_files_are_refused(files, tmp_path, name):
    data = (files / name).read_bytes()
    for share in (0.3, 0.9):
        (tmp_path / name).write_bytes(data[: int(share * len(data))])
        refused("damaged", tmp_path / name)


def test_a_truncated_saved_model_is_refused(files, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(files / "cnn_wrapped", folder)
    (weights,) = folder.glob("variables/*.data*")
    weights.write_bytes(weights.read_bytes()[:1000])
    refused("TensorFlow cannot load", folder)


def test_what_keras_3_cannot_do_is_refused(files):
    refused("'doubled' of class Doubled .* the class is unknown", files / "own.h5")
    refused("calls the TensorFlow function tf.math.bessel_i0", files / "bessel.h5")
    refused("'lambda' is a Lambda", files / "lambda.h5")
