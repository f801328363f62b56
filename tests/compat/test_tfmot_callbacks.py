"""tfmot's callbacks, in fit, in loops of one's own, and across files."""

import importlib.util

import keras
import numpy as np
import pytest
import tfmot_models as case

import kprune
import kprune.compat.tfmot as sparsity
from kprune.notices import PruningWarning

L = keras.layers


def pruned(schedule=None):
    return sparsity.prune_low_magnitude(
        case.simple_dense(), schedule or case.every_step()
    )


def test_three_epochs_of_one_batch_are_three_steps(tmp_path):
    model = pruned()
    summaries = sparsity.PruningSummaries(str(tmp_path))
    model.compile("sgd", "mse")
    callback = sparsity.UpdatePruningStep()
    x, y = case.data_for(model, 20)
    model.fit(x, y, batch_size=20, epochs=3, verbose=0, callbacks=[callback, summaries])
    assert callback.report.step == 3
    assert [epoch.step for epoch in callback.report.epochs] == [1, 2, 3]
    found = scalars(tmp_path / "metrics")
    kernel = model.trainable_variables[0]
    assert [step for step, _ in found[f"{kernel.path}/sparsity"]] == [0, 1, 2, 3]
    assert {value for _, value in found[f"{kernel.path}/sparsity"]} == {0.5}
    lowest = np.abs(np.array(kernel))[np.array(kernel) != 0].min()
    assert found[f"{kernel.path}/threshold"][-1][1] == pytest.approx(lowest)
    assert list((tmp_path / "train").iterdir())  # TensorBoard's own.


def scalars(folder):
    """Returns the pairs of step and value per tag that a folder of logs holds."""
    import tensorflow as tf

    found = {}
    for path in sorted(folder.iterdir()):
        for record in tf.compat.v1.io.tf_record_iterator(str(path)):
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                number = tf.make_ndarray(value.tensor).item()
                found.setdefault(value.tag, []).append((event.step, number))
    return found


def test_summaries_in_a_loop_of_ones_own(tmp_path):
    model = pruned()
    summaries = sparsity.PruningSummaries(log_dir=tmp_path)
    steps = case.loop(model, steps=2)
    for epoch, _ in enumerate(steps):
        summaries.set_model(model)
        summaries.on_epoch_begin(epoch=epoch)
    kernel = model.trainable_variables[0]
    found = scalars(tmp_path / "metrics")[f"{kernel.path}/sparsity"]
    assert found == [(1, 0.5), (2, 0.5)]


@pytest.mark.parametrize("log_dir", ["", None, object()])
def test_what_is_no_folder_is_refused(log_dir):
    with pytest.raises(ValueError, match="`log_dir` must be the name of a folder"):
        sparsity.PruningSummaries(log_dir=log_dir)


@pytest.mark.parametrize("update_freq", ["daily", 0, None])
def test_a_frequency_that_keras_does_not_have_is_refused(tmp_path, update_freq):
    with pytest.raises(ValueError, match="`update_freq` must be 'epoch', 'batch' or"):
        sparsity.PruningSummaries(tmp_path, update_freq)


def test_without_tensorboard_summaries_say_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        sparsity.PruningSummaries("logs")


def test_a_loop_of_ones_own_is_sparse_after_each_step():
    model = pruned()
    found = []
    for callback in case.loop(model, steps=2):
        assert case.shares(model) == [0.5, 0.5]
        found.append(callback.report.step)
    assert found == [1, 2]
    assert callback.history == [(0, 0.5)]


def test_a_ramp_in_a_loop_of_ones_own_that_ends_early_is_told():
    model = pruned(sparsity.PolynomialDecay(0.2, 0.8, 0, 9, frequency=1))
    callback = [*case.loop(model, steps=2)][-1]
    with pytest.warns(PruningWarning, match="schedule asks for 0.8000 at step 9"):
        callback.on_train_end()


def test_training_without_the_callback_is_refused_each_time(tmp_path):
    """tfmot lets the second call pass."""
    model = pruned()
    x, y = case.data_for(model, 20)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"Add .*UpdatePruningStep\(\)"):
            model(x, training=True)
    model.compile("sgd", "mse")
    with pytest.raises(RuntimeError, match=r"Add .*UpdatePruningStep\(\)"):
        model.fit(x, y, verbose=0)
    case.fit(model, data=(x, y))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    with pytest.raises(RuntimeError, match=r"Add .*UpdatePruningStep\(\)"):
        loaded.fit(x, y, verbose=0)


def test_layers_in_wrappers_know_whether_they_are_trained():
    layer = sparsity.prune_low_magnitude(L.Dropout(0.5))
    model = keras.Sequential([L.Input((100,)), layer, L.Dense(1)])
    x = np.ones((4, 100), "float32")
    np.testing.assert_array_equal(np.array(layer(x)), x)
    layer.is_driven = True
    assert np.count_nonzero(np.array(layer(x, training=True)) == 0) > 0
    assert model.built


@pytest.mark.parametrize("built", [True, False])
def test_models_without_wrappers_are_left_alone(built):
    model = case.simple_dense() if built else keras.Sequential([L.Dense(5)])
    x, y = np.ones((8, 10)), np.ones((8, 5))
    model.compile("sgd", "mse")
    model.fit(x, y, verbose=0, callbacks=[sparsity.UpdatePruningStep()])
    assert case.masks(model) == {}


def test_checkpoints_of_each_step_are_sparse_wherever_the_callback_stands(tmp_path):
    """tfmot's are not."""
    model = pruned()
    path = str(tmp_path / "{batch:02d}.weights.h5")
    checkpoint = keras.callbacks.ModelCheckpoint(
        path, save_weights_only=True, save_freq=1
    )
    case.fit(model, steps=3, callbacks=[checkpoint])  # Before the pruning one.
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    for file in files:
        model.load_weights(file)
        assert case.shares(model) == [0.5, 0.5]


def test_training_stops_and_goes_on_from_a_file(tmp_path):
    model = pruned(sparsity.PolynomialDecay(0.2, 0.6, 1, 4, 3, 1))
    with case.short():
        case.fit(model, steps=1)
    assert case.shares(model) == pytest.approx([0.2, 0.2])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert case.shares(loaded) == pytest.approx([0.2, 0.2])
    case.fit(loaded, steps=3)
    assert case.shares(loaded) == pytest.approx([0.6, 0.6])


def test_training_goes_on_from_an_h5_file_at_the_same_step(tmp_path):
    """Keras 3 cannot train what it loaded; tfmot's users have such checkpoints."""
    model = pruned(sparsity.PolynomialDecay(0.2, 0.6, 1, 4, 3, 1))
    model.compile("adam", keras.losses.MeanSquaredError())
    case.fit(model, steps=1)
    model.save(tmp_path / "model.h5")
    with sparsity.prune_scope():
        loaded = keras.models.load_model(tmp_path / "model.h5")
    assert case.shares(loaded) == pytest.approx([0.2, 0.2])
    with pytest.warns(PruningWarning, match="Training goes on at step 1; what 'adam'"):
        callback = case.fit(loaded, steps=3)
    assert callback.report.step == 4
    assert case.shares(loaded) == pytest.approx([0.6, 0.6])
    for variable in loaded.optimizer.variables[2:]:
        assert np.count_nonzero(np.array(variable)), variable.path


@pytest.mark.parametrize("strategy", ["OneDeviceStrategy", "MirroredStrategy"])
def test_a_file_out_of_a_strategy_is_as_sparse(strategy, tmp_path):
    """Two devices, and two workers, are in tests/test_distribution.py."""
    import tensorflow as tf

    device = "CPU:0" if strategy == "OneDeviceStrategy" else ["CPU:0"]
    with getattr(tf.distribute, strategy)(device).scope():
        model = pruned()
        assert max(case.shares(model)) == 0
        model.compile("sgd", keras.losses.MeanSquaredError())
    for _ in range(2):
        case.fit(model)
    model.save(tmp_path / "model.h5")
    for found in (model, keras.models.load_model(tmp_path / "model.h5")):
        assert case.shares(found) == [0.5, 0.5]


def test_training_goes_on_past_the_end(tmp_path):
    model = pruned(sparsity.PolynomialDecay(0.2, 0.6, 0, 2, 3, 1))
    case.fit(model, steps=3)
    assert case.shares(model) == pytest.approx([0.6, 0.6])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert case.shares(loaded) == pytest.approx([0.6, 0.6])
    case.fit(loaded, steps=1)
    assert case.shares(loaded) == pytest.approx([0.6, 0.6])


def test_a_second_fit_counts_on():
    model = pruned(sparsity.PolynomialDecay(0.2, 0.6, 1, 4, 3, 1))
    steps = [case.fit(model, steps=2).report.step for _ in range(2)]
    assert steps == [2, 4]
    assert case.shares(model) == pytest.approx([0.6, 0.6])


def test_the_end_is_reached_although_the_frequency_does_not_divide():
    """tfmot stops at 0.79."""
    model = sparsity.prune_low_magnitude(
        case.matrix(10, 10), sparsity.PolynomialDecay(0.2, 0.8, 0, 8, frequency=3)
    )
    callback = case.fit(model, steps=9)
    assert case.share_of_zeros(model) == 0.8
    assert [step for step, _ in callback.history] == [0, 3, 6, 8]


def test_zeros_of_a_sparse_start_do_not_come_back_unsaid():
    """tfmot's mask keeps all of them."""
    model = case.matrix(10, 10)
    kernel = np.array(model.layers[0].kernel)
    model.layers[0].kernel.assign(np.where(kernel > 80, kernel, 0))
    wrapped = sparsity.prune_low_magnitude(model, case.every_step())
    with pytest.warns(PruningWarning, match="zeros that nothing holds"):
        case.fit(wrapped)
    (mask,) = case.masks(wrapped).values()
    assert np.count_nonzero(~mask) == 50
    wrapped = sparsity.prune_low_magnitude(model, case.every_step())
    kprune.hold_zeros(wrapped)
    with pytest.warns(PruningWarning, match="What is pruned stays pruned"):
        case.fit(wrapped)
    assert case.share_of_zeros(wrapped) == 0.8


def test_a_fit_that_is_too_short_is_told():
    """tfmot prunes nothing, and says nothing."""
    model = pruned(sparsity.PolynomialDecay(0.0, 0.8, 50, 100))
    model.compile("sgd", "mse")
    x, y = case.data_for(model, 20)
    with pytest.warns(PruningWarning, match="the fit will reach sparsity 0.0000 of"):
        model.fit(x, y, verbose=0, callbacks=[sparsity.UpdatePruningStep()])


def test_one_shot_pruning_needs_no_training():
    """What tfmot's tool for benchmarks does."""
    model = keras.Sequential([L.Input((16,)), L.Dense(10), L.Dense(2)])
    wrapped = sparsity.prune_low_magnitude(model, sparsity.ConstantSparsity(0.8, 0))
    case.begin(wrapped)
    assert case.shares(wrapped) == pytest.approx([0.8, 0.8])
    nested = keras.Sequential([L.Input((16,)), model])
    wrapped = sparsity.prune_low_magnitude(nested, sparsity.ConstantSparsity(0.8, 0))
    case.begin(wrapped)
    assert len(case.wrappers(wrapped)) == 2
    assert case.shares(wrapped) == pytest.approx([0.8, 0.8])
