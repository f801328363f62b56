"""Callbacks that pick epochs: unsafe ones are told, wrapped ones see the target."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from models import Subclassed, compiled, sequential
from test_guards import Scripted

import kprune
from kprune.judges import traps

WARNS = kprune.PruningWarning
E, M = keras.callbacks.EarlyStopping, keras.callbacks.ModelCheckpoint


def fit(data, epochs, *callbacks, model=None, **kwargs):
    model = model or compiled(sequential())
    kwargs = {"batch_size": 16, "verbose": 0, **kwargs}
    model.fit(*data, epochs=epochs, callbacks=list(callbacks), **kwargs)
    return model


def zeros(model):
    kernels = [w.numpy() for w in model.weights if w.path.endswith("kernel")]
    return sum((k == 0).sum() for k in kernels) / sum(k.size for k in kernels)


class Hooks(keras.callbacks.Callback):
    """Writes down the ends that it is told of."""

    def __init__(self):
        super().__init__()
        self.epochs, self.batches, self.began, self.ended = [], 0, 0, 0

    def on_train_begin(self, logs=None):
        self.began += 1

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(epoch)

    def on_train_end(self, logs=None):
        self.ended += 1


# --- Wrapped --------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_only_epochs_that_began_at_the_target_are_seen(first, data):
    hooks = Hooks()
    schedule = kprune.PolynomialDecay(0.0, 0.8, 2, 12)  # six steps in an epoch
    pruning = kprune.PruningCallback(schedule=schedule)
    wrapped = kprune.AtTarget(hooks, pruning)
    fit(data, 4, *((wrapped, pruning) if first else (pruning, wrapped)))
    assert hooks.epochs == [2, 3] and hooks.batches == 12
    assert hooks.began == hooks.ended == 1
    assert hooks.params["epochs"] == 4 and hooks.model is pruning.model


def test_the_best_epoch_is_at_the_target(data, tmp_path):
    # The metric falls all the time: the best epochs are the dense ones.
    script = Scripted([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    path = str(tmp_path / "best.keras")
    pruning = kprune.PruningCallback(0.8)
    stop = E("val_accuracy", mode="max", patience=1, restore_best_weights=True)
    keep = M(path, "val_accuracy", mode="max", save_best_only=True)
    model = fit(
        data,
        6,
        script,
        pruning,
        kprune.AtTarget(stop, pruning),
        kprune.AtTarget(keep, pruning),
    )
    assert stop.stopped_epoch == 4 and stop.best_epoch == 3 and keep.best == 0.6
    assert zeros(model) == pytest.approx(0.8, abs=1e-3)
    assert zeros(keras.models.load_model(path)) == pytest.approx(0.8, abs=1e-3)


def test_where_a_guard_settled_is_the_target(data):
    hooks = Hooks()
    late = kprune.PolynomialDecay(0.0, 0.8, kprune.Epochs(1), kprune.Epochs(3))
    guard = kprune.AccuracyGuard(roll_back_after=1)
    pruning = kprune.PruningCallback(schedule=late, guard=guard)
    script = Scripted([0.9, 0.9, 0.5, 0.9])
    with pytest.warns(WARNS, match="set back"):
        fit(data, 4, script, pruning, kprune.AtTarget(hooks, pruning))
    assert hooks.epochs == [3]


@pytest.mark.filterwarnings("ignore:.*shuffle:UserWarning")
@pytest.mark.filterwarnings("ignore:.*ran out of data:UserWarning")
def test_data_of_unknown_length_and_a_model_that_is_not_built(data):
    x, y = data
    dataset = tf.data.Dataset.from_generator(
        lambda: zip(x, y, strict=True),
        output_signature=(tf.TensorSpec((8, 8, 1)), tf.TensorSpec((), tf.int64)),
    ).batch(16)
    hooks = Hooks()
    pruning = kprune.PruningCallback(0.8)
    wrapped = kprune.AtTarget(hooks, pruning)
    model = compiled(Subclassed())
    model.fit(dataset, epochs=5, verbose=0, callbacks=[wrapped, pruning])
    assert hooks.epochs and min(hooks.epochs) >= 2
    epochs = {e.epoch: e.logs["sparsity"] for e in pruning.report.epochs}
    assert all(epochs[e] == pytest.approx(0.8, abs=1e-3) for e in hooks.epochs)


def test_masks_that_are_only_held_are_at_the_target_from_the_begin(data):
    model = fit(data, 2, kprune.PruningCallback(0.5))
    hooks, pruning = Hooks(), kprune.PruningCallback()
    fit(data, 2, kprune.AtTarget(hooks, pruning), pruning, model=model)
    assert hooks.epochs == [0, 1]


def test_a_target_that_is_never_reached_is_told(data):
    pruning = kprune.PruningCallback(
        schedule=kprune.PolynomialDecay(0.0, 0.8, 0, kprune.Epochs(2))
    )
    hooks = Hooks()
    with pytest.warns(WARNS, match="No epoch of the fit.*Hooks has judged none"):
        fit(data, 2, pruning, kprune.AtTarget(hooks, pruning))
    assert hooks.epochs == []


def test_what_cannot_be_wrapped_is_refused():
    pruning = kprune.PruningCallback(0.5)
    with pytest.raises(TypeError, match="keras.callbacks.Callback"):
        kprune.AtTarget("early_stopping", pruning)
    with pytest.raises(TypeError, match="PruningCallback"):
        kprune.AtTarget(Hooks(), Hooks())


# --- Not wrapped ----------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_unsafe_callbacks_of_the_fit_are_found(first, data, tmp_path):
    keep = M(str(tmp_path / "best.keras"), "loss", save_best_only=True)
    stop = E("loss", patience=9, restore_best_weights=True)
    pruning = kprune.PruningCallback(0.5)
    callbacks = (keep, stop, pruning) if first else (pruning, keep, stop)
    with pytest.warns(WARNS) as caught:
        fit(data, 2, *callbacks)
    text = str(caught[0].message)
    assert "ModelCheckpoint(monitor='loss') may keep one that is less sparse" in text
    assert "EarlyStopping(monitor='loss') may stop before it, and bring back" in text
    assert "kprune.AtTarget(EarlyStopping(...), pruning)" in text
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "callbacks",
    [
        lambda path, pruning: [M(path)],
        lambda path, pruning: [E("loss", patience=9, start_from_epoch=2)],
        lambda path, pruning: [kprune.AtTarget(E("loss"), pruning)],
    ],
)
def test_safe_callbacks_are_left_alone(callbacks, data, tmp_path):
    pruning = kprune.PruningCallback(0.5)
    fit(data, 4, pruning, *callbacks(str(tmp_path / "{epoch}.keras"), pruning))


def test_one_shot_before_the_fit_has_no_earlier_epochs(data, tmp_path):
    keep = M(str(tmp_path / "best.keras"), "loss", save_best_only=True)
    pruning = kprune.PruningCallback(schedule=kprune.ConstantSparsity(0.5))
    fit(data, 1, pruning, keep)


def test_a_list_made_by_the_user_is_found_too(data):
    model = compiled(sequential())
    pruning = kprune.PruningCallback(0.5)
    callbacks = keras.callbacks.CallbackList(
        [pruning, E("loss", patience=9)], True, model=model, epochs=2, steps=6
    )
    with pytest.warns(WARNS, match="may stop before it"):
        model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=callbacks)


def test_where_early_stopping_is_safe_by_hand():
    stop = E("loss", start_from_epoch=3)
    assert traps([stop], 3) == "" and traps([stop], 2) == ""
    assert "EarlyStopping" in traps([stop], 4)
    assert "EarlyStopping" in traps([stop], None)
    assert traps([], None) == ""
    assert np.char.count(traps([stop, E("loss")], 9), "kprune.AtTarget") == 1
