"""A guard makes pruning wait, or go back, and says where it settled."""

import keras
import numpy as np
import pytest
from models import compiled, sequential

import kprune
from kprune.layers import mask_constraints, values

WARNS = kprune.PruningWarning
LATE = kprune.PolynomialDecay(0.0, 0.8, kprune.Epochs(1), kprune.Epochs(3), frequency=1)


class Scripted(keras.callbacks.Callback):
    """Writes the values of a metric that a test asks for, epoch by epoch."""

    def __init__(self, values, name="val_accuracy"):
        super().__init__()
        self.values, self.name = values, name

    def on_epoch_end(self, epoch, logs=None):
        if self.values[epoch] is not None:
            logs[self.name] = self.values[epoch]


class Keep(keras.callbacks.Callback):
    """Keeps weights and masks as they are after each epoch."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def on_epoch_end(self, epoch, logs=None):
        masks = {k: np.array(values(c.mask)) for k, c in held(self.model).items()}
        self.kept.append(([np.array(w) for w in self.model.get_weights()], masks))


def held(model):
    return mask_constraints(model)


def guarded(data, script, guard, schedule=LATE, model=None, **kwargs):
    model = model or compiled(sequential())
    pruning = kprune.PruningCallback(schedule=schedule, guard=guard, **kwargs)
    before, after = Keep(), Keep()
    model.fit(
        *data,
        batch_size=16,
        epochs=len(script),
        verbose=0,
        callbacks=[Scripted(script), before, pruning, after],
    )
    return model, pruning, before.kept, after.kept


# --- Deciding -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guard", "value", "below", "decision"),
    [
        (dict(), 0.93, 0, "go on"),
        (dict(), 0.99, 5, "go on"),
        (dict(), 0.929, 0, "hold"),
        (dict(), float("nan"), 0, "hold"),
        (dict(tolerance=0), 0.94, 0, "go on"),
        (dict(roll_back_after=1), 0.92, 0, "roll back"),
        (dict(roll_back_after=3), 0.92, 1, "hold"),
        (dict(roll_back_after=3), 0.92, 2, "roll back"),
        (dict(monitor="val_loss"), 0.96, 0, "hold"),
        (dict(monitor="val_loss"), 0.95, 0, "go on"),
    ],
)
def test_decisions_by_hand(guard, value, below, decision):
    assert kprune.AccuracyGuard(**guard).decide(value, 0.94, below) == decision


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (dict(monitor="val_score"), ValueError, "mode='max' or mode='min'"),
        (dict(monitor=3), TypeError, "name of a metric"),
        (dict(tolerance=-0.1), ValueError, "negative"),
        (dict(tolerance="1%"), TypeError, "number"),
        (dict(dense_level=float("nan")), ValueError, "finite"),
        (dict(roll_back_after=0), ValueError, "at least 1"),
        (dict(mode="up"), ValueError, "'max', 'min' or 'auto'"),
    ],
)
def test_bad_settings_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        kprune.AccuracyGuard(**arguments)


def test_what_is_no_guard_is_refused():
    with pytest.raises(TypeError, match="kprune.AccuracyGuard"):
        kprune.PruningCallback(0.5, guard="val_accuracy")


# --- Holding --------------------------------------------------------------------------


def test_a_guard_that_never_acts_changes_nothing(data):
    script = [0.9, 0.9, 0.9, 0.9]
    _, pruning, _, kept = guarded(data, script, kprune.AccuracyGuard())
    keras.utils.set_random_seed(0)
    _, plain, _, expected = guarded(data, script, None)
    assert pruning.history == plain.history
    for a, b in zip(kept[-1][0], expected[-1][0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert pruning.report.guard.dense_level == 0.9
    assert pruning.report.guard.epochs_below == 0
    assert "never held" in str(pruning.report)


def test_the_schedule_stands_still_and_goes_on_from_there(data):
    script = [0.9, 0.8, 0.8, 0.9, 0.9, 0.9]
    _, pruning, _, kept = guarded(data, script, kprune.AccuracyGuard())
    # Updates from step 6 to 12, then two epochs of waiting, then from 24 on.
    expected = [*range(6, 13), *range(25, 31)]
    assert [step for step, _ in pruning.history] == expected
    sparsities = [sparsity for _, sparsity in pruning.history]
    asked = [0.8 - 0.8 * (1 - n / 12) ** 3 for n in range(13)]
    assert sparsities == pytest.approx(asked, abs=2e-3)
    for name in kept[1][1]:
        np.testing.assert_array_equal(kept[1][1][name], kept[3][1][name])
    record = pruning.report.guard
    assert (record.epochs_below, record.rolled_back_to) == (2, None)
    assert record.within and record.sparsity == pytest.approx(0.8, abs=1e-3)


def test_a_guard_that_holds_to_the_end_says_where_it_settled(data):
    with pytest.warns(WARNS) as caught:
        _, pruning, _, _ = guarded(
            data, [0.9, 0.85, 0.8, 0.8], kprune.AccuracyGuard(tolerance=0.04)
        )
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "settled at sparsity 0.7" in text
    assert "0.8000 NOT within 0.04 of the dense model's 0.9000" in text
    assert "and step 24, held short of the 0.8000 that the schedule asks for" in text
    assert pruning.report.guard.sparsity == pruning.history[-1][1]


def test_lower_is_better_for_a_loss(data):
    guard = kprune.AccuracyGuard("loss", tolerance=1e9, dense_level=0.0)
    _, pruning, _, _ = guarded(data, [None] * 4, guard)
    assert pruning.report.guard.within
    with pytest.warns(WARNS, match="settled at sparsity 0"):
        guarded(data, [None] * 4, kprune.AccuracyGuard("loss", 0.0, dense_level=-9.0))


def test_epochs_without_validation_change_nothing(data):
    script = [0.9, 0.8, None, None, 0.9, 0.9]
    _, pruning, _, _ = guarded(data, script, kprune.AccuracyGuard())
    # Held at step 12, and let go at step 30.
    assert [s for s, _ in pruning.history] == [*range(6, 13), *range(31, 37)]


# --- Going back -----------------------------------------------------------------------

GRANULARITIES = {
    "element": {},
    "channel": dict(granularity="channel", skip_last=True),
}


@pytest.mark.parametrize("name", GRANULARITIES)
def test_going_back_sets_weights_and_masks_back_and_stays(name, data):
    guard = kprune.AccuracyGuard(roll_back_after=2)
    with pytest.warns(WARNS, match="masks of step 12 were set back") as caught:
        model, pruning, before, after = guarded(
            data, [0.9, 0.9, 0.7, 0.7, 0.7, 0.9], guard, **GRANULARITIES[name]
        )
    assert len(caught) == 1
    weights, masks = after[1]
    for a, b in zip(after[3][0], weights, strict=True):
        np.testing.assert_array_equal(a, b)
    sparser = sum((~mask).sum() for mask in before[3][1].values())
    assert sparser > sum((~mask).sum() for mask in masks.values()) > 0
    for path, mask in masks.items():
        np.testing.assert_array_equal(after[3][1][path], mask)
        np.testing.assert_array_equal(after[-1][1][path], mask)
        # What is back is trained: it has left zero by the end.
        weight = next(w for w in model.weights if w.path == path)
        if "kernel" in path:
            assert np.count_nonzero(values(weight)[mask]) > 0
        assert not values(weight)[~mask].any()
    assert pruning.history[-1] == (24, pruning.report.guard.sparsity)
    assert pruning.report.guard.rolled_back_to == 12
    assert [w.asked for w in pruning.report.weights] == pytest.approx(
        [1 - masks[w.path].mean() for w in pruning.report.weights]
    )


def test_going_back_sets_the_optimizer_back_but_not_its_clock(data):
    class State(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.kept = []

        def on_epoch_end(self, epoch, logs=None):
            optimizer = self.model.optimizer
            self.kept.append([np.array(v) for v in optimizer.variables])

    model, state = compiled(sequential(), keras.optimizers.Adam(use_ema=True)), State()
    guard = kprune.AccuracyGuard(roll_back_after=1)
    pruning = kprune.PruningCallback(schedule=LATE, guard=guard)
    with pytest.warns(WARNS, match="set back"):
        model.fit(
            *data,
            batch_size=16,
            epochs=3,
            verbose=0,
            callbacks=[Scripted([0.9, 0.9, 0.5]), pruning, state],
        )
    assert int(model.optimizer.iterations) == 18
    for variable, a, b in zip(
        model.optimizer.variables, state.kept[1], state.kept[2], strict=True
    ):
        if variable.name != "iteration":
            np.testing.assert_array_equal(a, b, err_msg=variable.path)


def test_nothing_to_go_back_to_is_told(data):
    guard = kprune.AccuracyGuard(dense_level=0.99, roll_back_after=1)
    schedule = kprune.PolynomialDecay(0.1, 0.8, 0, kprune.Epochs(2))
    with pytest.warns(WARNS, match="NOT within.*there was no epoch to go back to"):
        _, pruning, _, _ = guarded(data, [0.5, 0.5, 0.5], guard, schedule)
    assert pruning.report.guard.rolled_back_to is None


# --- What cannot be guarded is said ---------------------------------------------------


@pytest.mark.parametrize(
    "schedule",
    [kprune.ConstantSparsity(0.5), kprune.ConstantSparsity(0.5, kprune.Epochs(1))],
)
def test_an_unknown_dense_level_is_refused_before_training(schedule, data):
    model = compiled(sequential())
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"dense_level=model.evaluate.*Epochs\(1\)"):
        guarded(data, [0.9, 0.9], kprune.AccuracyGuard(), schedule, model)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert held(model) == {}


def test_masks_of_an_earlier_fit_are_not_the_dense_level(data):
    model = compiled(sequential())
    model.fit(*data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback(0.5)])
    with pytest.raises(ValueError, match="dense_level="):
        guarded(data, [0.9] * 4, kprune.AccuracyGuard(), LATE, model)


def test_a_metric_that_is_not_there_is_refused_with_those_that_are(data):
    guard = kprune.AccuracyGuard("val_accurracy", dense_level=0.9)
    with pytest.raises(ValueError, match="Did you mean 'val_accuracy'.*loss"):
        guarded(data, [0.9] * 4, guard)


def test_a_guard_that_saw_nothing_says_so(data):
    guard = kprune.AccuracyGuard(dense_level=0.9)
    with pytest.warns(WARNS, match="only loss. Without .*validation_data") as caught:
        guarded(data, [None] * 4, guard)
    assert len(caught) == 2
    assert "saw no val_accuracy, and did nothing" in str(caught[-1].message)


def test_a_resumed_fit_is_refused(data):
    model = compiled(sequential())
    guard = kprune.AccuracyGuard(dense_level=0.5)
    with pytest.raises(ValueError, match="in no checkpoint.*a fit of its own"):
        model.fit(
            *data,
            epochs=4,
            initial_epoch=2,
            verbose=0,
            callbacks=[kprune.PruningCallback(0.5, guard=guard)],
        )
    assert held(model) == {}


# --- In a loop of the user's own ------------------------------------------------------


def test_a_pruner_is_guarded_as_the_callback_is(data):
    script = [0.9, 0.8, 0.9, 0.9, 0.6]
    guard = kprune.AccuracyGuard(roll_back_after=1)
    schedule = kprune.PolynomialDecay(0.0, 0.8, 6, 24, frequency=1)
    model = compiled(sequential())
    with pytest.warns(WARNS, match="step 6 were set back"):
        model.fit(
            *data,
            batch_size=16,
            epochs=5,
            verbose=0,
            shuffle=False,
            callbacks=[
                Scripted(script),
                callback := kprune.PruningCallback(schedule=schedule, guard=guard),
            ],
        )
    keras.utils.set_random_seed(0)
    own = compiled(sequential())
    pruner = kprune.Pruner(own, schedule=schedule, guard=guard)
    for value in script:
        for start in range(0, 96, 16):
            own.train_on_batch(data[0][start : start + 16], data[1][start : start + 16])
            pruner.step()
        pruner.end_epoch({"val_accuracy": value})
    with pytest.warns(WARNS, match="step 6 were set back"):
        report = pruner.finish()
    assert report.history == callback.report.history
    assert report.guard == callback.report.guard
    assert [e.step for e in report.epochs] == [6, 12, 18, 24, 30]


def test_an_end_that_comes_too_late_is_told(data):
    with pytest.warns(WARNS, match=r"at step 30, 12 steps after its time. Go on"):
        guarded(data, [0.9, 0.8, 0.8, 0.9], kprune.AccuracyGuard())


def test_a_pruner_that_goes_on_is_not_guarded():
    with pytest.raises(ValueError, match="in no checkpoint"):
        kprune.Pruner(
            compiled(sequential()),
            sparsity=0.5,
            steps_per_epoch=6,
            epochs=4,
            initial_epoch=1,
            guard=kprune.AccuracyGuard(dense_level=0.9),
        )
