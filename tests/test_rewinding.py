"""Lottery tickets: prune, set back, train again."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from models import compiled, sequential

import kprune
from kprune.layers import mask_constraints, values
from kprune.rewinding import _read, _write, sparsities

WARNS = kprune.PruningWarning
FIT = {"batch_size": 16, "epochs": 6, "verbose": 0, "shuffle": False}


def inner(optimizer):
    return getattr(optimizer, "inner_optimizer", optimizer)


def slots(optimizer):
    """The optimizer's variables, without its counters."""
    counters = ("iteration", "learning_rate")
    return [v for v in inner(optimizer).variables if v.name not in counters]


def numbers(variables):
    return [variable.numpy() for variable in variables]


class Look(keras.callbacks.Callback):
    """Keeps the state after each step, and that with which each epoch begins."""

    def __init__(self):
        super().__init__()
        self.steps, self.epochs, self.masks, self.slots = {}, {}, {}, {}

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs[epoch] = numbers(self.model.weights)
        self.slots[f"epoch {epoch}"] = numbers(slots(self.model.optimizer))
        held = mask_constraints(self.model)
        self.masks[epoch] = [
            values(held[v.path].mask) if v.path in held else None
            for v in self.model.weights
        ]

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations)
        self.steps[step] = numbers(self.model.weights)
        self.slots[f"step {step}"] = numbers(slots(self.model.optimizer))


def same_where_kept(now, then, masks):
    for a, b, mask in zip(now, then, masks, strict=True):
        expected = b if mask is None else np.where(mask, b, 0)
        np.testing.assert_array_equal(a, expected)


def fitted(data, optimizer="adam", make=sequential, seed=1, **arguments):
    keras.utils.set_random_seed(seed)
    model = compiled(make(), optimizer)
    arguments = {"sparsity": 0.75, "rounds": 2} | arguments
    callback, look = kprune.RewindCallback(**arguments), Look()
    history = model.fit(*data, callbacks=[callback, look], **FIT)
    return model, callback, look, history.history


def optimizers():
    return {
        "adam": keras.optimizers.Adam(0.01),
        "momentum": keras.optimizers.SGD(0.1, momentum=0.9),
        "averaging": keras.optimizers.Adam(0.01, use_ema=True),
        "scaled": keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), 1.0),
    }


@pytest.mark.parametrize("optimizer", optimizers())
def test_survivors_are_set_back_bit_for_bit_and_the_others_are_zero(optimizer, data):
    model, callback, look, _ = fitted(data, optimizers()[optimizer])
    for epoch, sparsity in ((2, 0.5), (4, 0.75)):
        masks = [mask for mask in look.masks[epoch] if mask is not None]
        pruned = sum(int(np.sum(~mask)) for mask in masks)
        assert pruned == round(sparsity * sum(mask.size for mask in masks))
        same_where_kept(look.epochs[epoch], look.steps[6], look.masks[epoch])
        # In between it trains.
        assert not np.array_equal(look.epochs[epoch][0], look.epochs[epoch + 1][0])
    # The optimizer, too, but for its counter.
    if optimizer != "averaging":  # What it averages is held at zero.
        for now, then in zip(look.slots["epoch 4"], look.slots["step 6"], strict=True):
            np.testing.assert_array_equal(now, then)
        assert np.any(now)
    assert int(model.optimizer.iterations) == 36
    assert [step for step, _ in callback.history] == [12, 24]


def test_epochs_show_each_ticket_at_its_end(data):
    _, callback, _, history = fitted(data)
    assert history["sparsity"] == pytest.approx([0, 0, 0.5, 0.5, 0.75, 0.75], abs=1e-3)
    assert callback.report.sparsity == pytest.approx(0.75, abs=1e-3)
    assert callback.report.asked == 0.75


@pytest.mark.parametrize(
    ("moment", "step"),
    [
        (kprune.Epochs(0), 0),
        (3, 3),
        (kprune.Epochs(1.5), 9),
        (kprune.FitFraction(0.25), 9),
    ],
)
def test_any_moment_of_the_first_part_will_do(moment, step, data):
    _, _, look, _ = fitted(data, keras.optimizers.SGD(0.1), rewind_to=moment)
    early = {0: look.epochs[0]} | look.steps
    same_where_kept(look.epochs[4], early[step], look.masks[4])


def without_scale():
    """Channels whose statistics alone would shift what is zero."""
    L = keras.layers
    return keras.Sequential(
        [
            L.Input((8, 8, 1)),
            L.Conv2D(6, 3),
            L.BatchNormalization(scale=False),
            L.Flatten(),
            L.Dense(3, name="dense"),
        ]
    )


def test_channels_are_set_back_and_stay_out(data):
    model, callback, look, _ = fitted(
        data, make=without_scale, granularity="channel", skip="dense", sparsity=0.5
    )
    assert callback.report.channel_sparsity == 0.5
    x = data[0][:8]
    small = kprune.shrink(model)
    np.testing.assert_allclose(
        small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5
    )
    gone = ~look.masks[4][0].any(axis=(0, 1, 2))
    assert gone.sum() == 3
    mean = 3  # kernel, bias, beta, mean, variance
    np.testing.assert_array_equal(
        look.epochs[4][mean], np.where(gone, 0, look.steps[6][mean])
    )


class Interrupted(keras.callbacks.Callback):
    def __init__(self, path, epoch):
        super().__init__()
        self.path, self.epoch = path, epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epoch:
            self.model.save(self.path)
            raise KeyboardInterrupt


def resumed(data, epoch, folder, optimizer="adam", **arguments):
    """Returns a model whose training was interrupted before an epoch."""

    def callback():
        file = folder / "early.npz"
        return kprune.RewindCallback(0.75, 2, rewind_file=file, **arguments)

    keras.utils.set_random_seed(1)
    model = compiled(sequential(), optimizer)
    stop = Interrupted(folder / "model.keras", epoch)
    with pytest.raises(KeyboardInterrupt):
        model.fit(*data, callbacks=[callback(), stop], **FIT)
    model = keras.models.load_model(folder / "model.keras")
    model.fit(*data, callbacks=[callback()], initial_epoch=epoch, **FIT)
    return model


@pytest.mark.parametrize("epoch", [1, 2, 3, 4, 5])
def test_resumed_training_equals_uninterrupted(epoch, data, tmp_path):
    expected = fitted(data)[0]
    model = resumed(data, epoch, tmp_path)
    for a, b in zip(expected.weights, model.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "early.npz",
        "model.keras",
    ]


def test_files_hold_numbers_of_half_precision(tmp_path):
    value = np.linspace(-1, 1, 7, dtype="float32")
    kinds = ("float16", "bfloat16", "float32")
    arrays = [keras.ops.cast(value, kind).numpy() for kind in kinds]
    _write(tmp_path / "early", arrays, 3)
    read, step = _read(tmp_path / "early")
    assert step == 3
    for array, given in zip(read, arrays, strict=True):
        np.testing.assert_array_equal(array, given.astype(array.dtype))
        np.testing.assert_array_equal(array.astype(given.dtype), given)
    assert [path.name for path in tmp_path.iterdir()] == ["early"]


def test_resuming_without_the_early_state_is_refused(data, tmp_path):
    model = compiled(sequential())
    with pytest.raises(KeyboardInterrupt):
        stop = Interrupted(tmp_path / "model.keras", 3)
        model.fit(*data, callbacks=[kprune.RewindCallback(0.75, 2), stop], **FIT)
    for file, said in [
        (None, "no rewind_file is given.*same rewind_file='early.npz'"),
        (tmp_path / "lost.npz", "lost.npz' does not exist"),
    ]:
        model = keras.models.load_model(tmp_path / "model.keras")
        before = [v.numpy() for v in model.weights]
        callback = kprune.RewindCallback(0.75, 2, rewind_file=file)
        with pytest.raises(ValueError, match=said):
            model.fit(*data, callbacks=[callback], initial_epoch=3, **FIT)
        for a, b in zip(before, model.weights, strict=True):
            np.testing.assert_array_equal(a, b.numpy())


def test_the_file_of_another_fit_is_refused(data, tmp_path):
    file = tmp_path / "early.npz"
    fitted(data, rewind_file=file)
    for arguments in ({"rewind_to": 3}, {"optimizer": "sgd"}):
        with pytest.raises(ValueError, match="holds .* of step 6, and not the"):
            model = compiled(sequential(), arguments.pop("optimizer", "adam"))
            model.optimizer.iterations.assign(18)
            callback = kprune.RewindCallback(0.75, 2, rewind_file=file, **arguments)
            model.fit(*data, callbacks=[callback], initial_epoch=3, **FIT)


def test_steps_in_one_execution_keep_the_first_state_they_show(data):
    keras.utils.set_random_seed(1)
    model = compiled(sequential(), "sgd", steps_per_execution=4)
    look = Look()
    callback = kprune.RewindCallback(0.75, 2, rewind_to=3)
    model.fit(*data, callbacks=[callback, look], **FIT)
    same_where_kept(look.epochs[2], look.steps[4], look.masks[2])


def test_two_fits_with_one_callback_are_two_tickets(data):
    model = compiled(sequential(), "sgd")
    callback = kprune.RewindCallback(0.75, 2)
    model.fit(*data, callbacks=[callback], **FIT)
    model, look = compiled(sequential(), "sgd"), Look()
    model.fit(*data, callbacks=[callback, look], **FIT)
    same_where_kept(look.epochs[4], look.steps[6], look.masks[4])


def test_each_round_takes_the_same_share_of_what_is_left():
    assert sparsities(0.875, 3) == pytest.approx((0.5, 0.75, 0.875))
    assert sparsities(0.9, 1) == (0.9,)
    assert sparsities(0.9, 7)[-1] == 0.9


# --- What is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"sparsity": 0}, ValueError, "`sparsity` must not be 0"),
        ({"sparsity": 90}, ValueError, "Did you mean 0.9"),
        ({"rounds": 0}, ValueError, "`rounds` must be an integer of at least 1"),
        ({"rewind_to": 0.5}, TypeError, "`rewind_to` must be a step"),
        ({"schedule": 0.5}, TypeError, "`schedule` is not an argument"),
        ({"plan": None}, TypeError, "`plan` is not an argument"),
        ({"criterium": "random"}, TypeError, "RewindCallback: unknown.*'criterion'"),
    ],
)
def test_arguments_are_checked_at_once(arguments, error, said):
    with pytest.raises(error, match=said):
        kprune.RewindCallback(**arguments)


@pytest.mark.parametrize(
    ("arguments", "fit", "said"),
    [
        ({"rounds": 4}, {}, "5 equal parts. Received epochs=6; say epochs=5 or 10"),
        ({"rounds": 9}, {}, "10 equal parts. Received epochs=6; say epochs=10 or 10"),
        ({"rounds": 5}, {}, "is step 6. It has to lie in the first part"),
        ({"rewind_to": kprune.Epochs(2)}, {}, "between step 0 and 11. Choose an earl"),
    ],
)
def test_fits_that_are_too_short_are_refused(arguments, fit, said, data):
    model = compiled(sequential())
    callback = kprune.RewindCallback(**{"rounds": 2} | arguments)
    with pytest.raises(ValueError, match=said):
        model.fit(*data, callbacks=[callback], **FIT | fit)
    assert not mask_constraints(model)


def test_data_of_unknown_length_and_models_that_are_not_built_are_refused(data):
    x, y = data
    unknown = tf.data.Dataset.from_tensor_slices((x, y)).filter(lambda *_: True)
    with pytest.raises(ValueError, match="how many batches an epoch has"):
        compiled(sequential()).fit(
            unknown.batch(16),
            epochs=6,
            shuffle=False,
            verbose=0,
            callbacks=[kprune.RewindCallback(rounds=2)],
        )
    model = compiled(keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)]))
    with pytest.raises(ValueError, match="no weights yet that could be set back to"):
        model.fit(*data, callbacks=[kprune.RewindCallback(rounds=2)], **FIT)
