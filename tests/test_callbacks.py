import keras
import numpy as np
import pytest
import tensorflow as tf
from models import GRAPHS, KINDS, Subclassed, compiled, sequential

import kprune
from kprune.layers import mask_constraints, values

WARNS = kprune.PruningWarning


def kernels(model):
    return [w for w in model.weights if w.path.endswith("kernel")]


def sparsity(model):
    sizes = sum(w.numpy().size for w in kernels(model))
    return sum(np.count_nonzero(w.numpy() == 0) for w in kernels(model)) / sizes


def num_weights(model):
    return sum(w.numpy().size for w in kernels(model))


def of_unknown_length(data):
    x, y = data
    return tf.data.Dataset.from_generator(
        lambda: zip(x, y, strict=True),
        output_signature=(tf.TensorSpec((8, 8, 1)), tf.TensorSpec((), tf.int64)),
    ).batch(16)


class SparsityAtEachBatch(keras.callbacks.Callback):
    """Checks, as any other callback might, that pruned weights are exactly zero."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(sparsity(self.model))
        for constraint_path, constraint in mask_constraints(self.model).items():
            weight = next(w for w in self.model.weights if w.path == constraint_path)
            pruned = values(weight)[~values(constraint.mask)]
            assert not pruned.any(), constraint_path
            assert not np.signbit(pruned).any(), "negative zeros"


# --- What is reached, on every kind of model ------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_asked_sparsity_is_reached_exactly(kind, data):
    model = compiled(KINDS[kind]())
    callback = kprune.PruningCallback(sparsity=0.75)
    model.fit(*data, batch_size=16, epochs=3, verbose=0, callbacks=[callback])
    zeros = sum(np.count_nonzero(w.numpy() == 0) for w in kernels(model))
    assert zeros == round(0.75 * num_weights(model))
    assert callback.report.asked == 0.75
    assert callback.report.sparsity == zeros / num_weights(model)


def test_uniform_gives_each_kernel_the_same(data):
    model = compiled(sequential())
    callback = kprune.PruningCallback(sparsity=0.5, allocation="uniform")
    model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    for weight in callback.report.weights:
        assert weight.zeros == round(0.5 * weight.size)


def test_the_model_is_pruned_in_place(data):
    model = compiled(sequential())
    layers, variables = list(model.layers), [id(v) for v in model.weights]
    names = [v.path for v in model.weights]
    model.fit(
        *data, verbose=0, epochs=2, callbacks=[kprune.PruningCallback(sparsity=0.5)]
    )
    assert model.layers == layers
    assert [id(v) for v in model.weights] == variables
    assert [v.path for v in model.weights] == names


def test_default_schedule_ramps_over_half_of_the_fit(data):
    model = compiled(sequential())
    callback = kprune.PruningCallback(sparsity=0.8)
    history = model.fit(
        *data, batch_size=16, epochs=4, verbose=0, callbacks=[callback]
    ).history["sparsity"]
    assert history == sorted(history)
    assert history[0] < history[1] == history[3] == pytest.approx(0.8, abs=1e-3)
    steps = [step for step, _ in callback.history]
    assert steps == list(range(0, 13))  # 24 steps, 12 of them the ramp


def test_length_unknown_before_the_first_epoch(data):
    dataset = of_unknown_length(data)
    model = compiled(sequential())
    callback = kprune.PruningCallback(sparsity=0.8)
    with pytest.warns(UserWarning, match="shuffle|ran out of data") as caught:
        history = model.fit(dataset, epochs=4, verbose=0, callbacks=[callback])
    assert not [w for w in caught if issubclass(w.category, WARNS)]
    # Nothing before the length is known; then up to half of the fit, by the count of
    # the optimizer, which on such data also counts the call that finds the end.
    steps = [step for step, _ in callback.history]
    assert steps[0] in (6, 7)
    assert steps[-1] == 2 * steps[0]
    assert history.history["sparsity"][0] < 0.8
    assert sparsity(model) == pytest.approx(0.8, abs=1e-3)


def test_unknown_length_of_a_single_epoch_is_refused_before_training(data):
    dataset = of_unknown_length(data)
    model = compiled(sequential())
    before = model.get_weights()
    with pytest.raises(ValueError, match="steps_per_epoch"):
        with pytest.warns(UserWarning, match="shuffle"):
            model.fit(dataset, verbose=0, callbacks=[kprune.PruningCallback(0.8)])
    assert_unchanged(model, before)


def test_schedule_in_epochs(data):
    model = compiled(sequential())
    schedule = kprune.PolynomialDecay(
        0.0, 0.8, kprune.Epochs(1), kprune.Epochs(2.5), frequency=3
    )
    callback = kprune.PruningCallback(schedule=schedule)
    model.fit(*data, batch_size=16, epochs=3, verbose=0, callbacks=[callback])
    assert [step for step, _ in callback.history] == [6, 9, 12, 15]


def test_schedule_in_steps_and_the_last_update_at_its_end(data):
    model = compiled(sequential())
    schedule = kprune.PolynomialDecay(0.2, 0.8, begin_step=2, end_step=9, frequency=3)
    callback = kprune.PruningCallback(schedule=schedule)
    model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    assert [step for step, _ in callback.history] == [2, 5, 8, 9]
    assert sparsity(model) == pytest.approx(0.8, abs=1e-3)


def test_constant_sparsity_holds_from_before_the_first_step(data):
    model = compiled(sequential())
    watch = SparsityAtEachBatch()
    callback = kprune.PruningCallback(schedule=kprune.ConstantSparsity(0.5))
    model.fit(*data, batch_size=16, verbose=0, callbacks=[callback, watch])
    assert watch.seen == [pytest.approx(0.5, abs=1e-3)] * 6
    assert len(callback.history) == 1


def test_begin_at_epoch_counts_within_a_later_fit(data):
    model = compiled(sequential())
    model.fit(*data, batch_size=16, epochs=2, verbose=0)
    callback = kprune.PruningCallback(
        schedule=kprune.ConstantSparsity(0.5, begin_step=kprune.Epochs(1))
    )
    model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    assert [step for step, _ in callback.history] == [18]


# --- Zeros at every moment, however one trains ----------------------------------------

OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "momentum": lambda: keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    "ema": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9),
    "ema_overwrite": lambda: keras.optimizers.SGD(
        0.01, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=4
    ),
    "accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=4),
    "clipped": lambda: keras.optimizers.Adam(0.01, global_clipnorm=1.0),
}
MODES = {
    "graph": {},
    "jit": dict(jit_compile=True),
    "eager": dict(run_eagerly=True),
    "steps_per_execution": dict(steps_per_execution=4),
}


# Every optimizer in a graph; how the step is compiled, on those that differ most.
WAYS = [(name, "graph") for name in OPTIMIZERS] + [
    (name, mode) for name in ("adamw", "ema") for mode in MODES if mode != "graph"
]


@pytest.mark.parametrize(("name", "mode"), WAYS)
def test_exact_zeros_after_every_step(name, mode, data):
    kwargs = {"jit_compile": False, **MODES[mode]}
    model = compiled(sequential(), OPTIMIZERS[name](), **kwargs)
    before, after = SparsityAtEachBatch(), SparsityAtEachBatch()
    callback = kprune.PruningCallback(sparsity=0.75)
    callbacks = [before, callback, after]
    model.fit(*data, batch_size=16, epochs=3, verbose=0, callbacks=callbacks)
    assert after.seen == sorted(after.seen)
    assert before.seen[1:] >= after.seen[:-1]
    assert sparsity(model) == round(0.75 * num_weights(model)) / num_weights(model)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_exact_zeros_in_low_precision(policy, data):
    keras.config.set_dtype_policy(policy)
    try:
        model = compiled(sequential())
    finally:
        keras.config.set_dtype_policy("float32")
    watch = SparsityAtEachBatch()
    callback = kprune.PruningCallback(sparsity=0.75)
    model.fit(*data, batch_size=16, epochs=3, verbose=0, callbacks=[callback, watch])
    assert callback.report.sparsity == pytest.approx(0.75, abs=1e-3)


def test_a_constraint_of_the_user_still_holds(data):
    model = keras.Sequential(
        [
            keras.layers.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(8, kernel_constraint=keras.constraints.NonNeg()),
            keras.layers.Dense(3),
        ]
    )
    watch = SparsityAtEachBatch()
    compiled(model).fit(
        *data, epochs=3, verbose=0, callbacks=[kprune.PruningCallback(0.3), watch]
    )
    assert (model.layers[1].kernel.numpy() >= 0).all()


def test_a_model_that_was_fitted_before_is_traced_anew(data):
    model = compiled(sequential())
    model.fit(*data, batch_size=16, verbose=0)
    watch = SparsityAtEachBatch()
    callback = kprune.PruningCallback(0.75)
    model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[callback, watch])
    assert sparsity(model) == pytest.approx(0.75, abs=1e-3)


def test_checkpoints_are_sparse_whatever_the_order(data, tmp_path):
    model = compiled(sequential())

    def checkpoint(name):
        path = str(tmp_path / (name + "{epoch}.keras"))
        return keras.callbacks.ModelCheckpoint(path)

    callback = kprune.PruningCallback(schedule=kprune.ConstantSparsity(0.5, 3))
    callbacks = [checkpoint("before"), callback, checkpoint("after")]
    model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=callbacks)
    for file in tmp_path.iterdir():
        loaded = keras.models.load_model(file)
        assert sparsity(loaded) == pytest.approx(0.5, abs=1e-3), file.name
        assert [w.name for w in loaded.weights] == [w.name for w in model.weights]
    assert len(list(tmp_path.iterdir())) == 4


def test_gradient_accumulation_counts_optimizer_steps(data):
    model = compiled(sequential(), OPTIMIZERS["accumulation"]())
    callback = kprune.PruningCallback(
        schedule=kprune.ConstantSparsity(0.5, begin_step=kprune.Epochs(2))
    )
    model.fit(*data, batch_size=16, epochs=4, verbose=0, callbacks=[callback])
    assert [step for step, _ in callback.history] == [3]  # 12 batches, 4 per step


# --- Zeros stay -----------------------------------------------------------------------


def test_masks_hold_through_a_later_fit_without_the_callback(data):
    model = compiled(sequential())
    model.fit(*data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback(0.75)])
    zero = [w.numpy() == 0 for w in kernels(model)]
    compiled(model)
    model.fit(*data, epochs=2, verbose=0)
    for mask, weight in zip(zero, kernels(model), strict=True):
        np.testing.assert_array_equal(weight.numpy() == 0, mask)


def test_moving_averages_do_not_bring_zeros_back_in_a_later_fit(data):
    model = compiled(sequential(), OPTIMIZERS["ema"]())
    model.fit(*data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback(0.75)])
    model.fit(*data, epochs=2, verbose=0)
    assert sparsity(model) == pytest.approx(0.75, abs=1e-3)


def test_swapped_averages_are_sparse_too(data):
    model = compiled(sequential(), OPTIMIZERS["ema"]())
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    callback = kprune.PruningCallback(schedule=kprune.ConstantSparsity(0.5))
    model.fit(*data, epochs=2, verbose=0, callbacks=[callback, swap])
    assert sparsity(model) == pytest.approx(0.5, abs=1e-3)


def test_a_second_schedule_goes_on_from_the_first(data):
    model = compiled(sequential())
    model.fit(*data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback(0.5)])
    zero = [w.numpy() == 0 for w in kernels(model)]
    watch = SparsityAtEachBatch()
    model.fit(
        *data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback(0.8), watch]
    )
    assert min(watch.seen) >= 0.499
    for mask, weight in zip(zero, kernels(model), strict=True):
        assert (weight.numpy()[mask] == 0).all()


def test_pruned_weights_stay_pruned_when_less_is_asked(data):
    model = compiled(sequential())
    model.fit(*data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback(0.8)])
    callback = kprune.PruningCallback(schedule=kprune.ConstantSparsity(0.5))
    with pytest.warns(kprune.PruningWarning, match=r"hold 0\.7999.* than the 0\.5"):
        model.fit(*data, epochs=1, verbose=0, callbacks=[callback])
    assert sparsity(model) == pytest.approx(0.8, abs=1e-3)


def test_callback_without_arguments_holds_what_is_masked(data):
    model = compiled(sequential())
    model.fit(*data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback(0.75)])
    callback = kprune.PruningCallback()
    history = model.fit(*data, epochs=2, verbose=0, callbacks=[callback])
    assert history.history["sparsity"] == [pytest.approx(0.75, abs=1e-3)] * 2
    assert callback.report.asked is None
    assert callback.history == []


# --- Interrupted and resumed is uninterrupted -----------------------------------------


def in_order(data):
    """The same batches in the same order every epoch, whenever it begins."""
    x, y = data
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(16)


SCHEDULES = {
    "default": dict(sparsity=0.8),
    "steps": dict(schedule=kprune.PolynomialDecay(0.1, 0.8, 2, 17, frequency=4)),
    "epochs": dict(
        schedule=kprune.PolynomialDecay(0.1, 0.8, kprune.Epochs(1), kprune.Epochs(3))
    ),
    "uniform": dict(sparsity=0.8, allocation="uniform"),
    "global": dict(sparsity=0.8, allocation="global"),
    "constant": dict(schedule=kprune.ConstantSparsity(0.8, 8)),
}


@pytest.mark.filterwarnings("ignore:`shuffle=True`:UserWarning")
@pytest.mark.parametrize("wrapped", [False, True], ids=["in_place", "wrapped"])
@pytest.mark.parametrize(
    ("name", "stop"),
    [("default", 1), ("default", 2), ("default", 3)]
    + [(name, 2) for name in SCHEDULES if name != "default"],
)
def test_resumed_equals_uninterrupted(name, stop, wrapped, data, tmp_path):
    def make():
        keras.utils.set_random_seed(1)
        if not wrapped:
            return compiled(sequential()), kprune.PruningCallback(**SCHEDULES[name])
        pruned = kprune.prune(sequential(), **SCHEDULES[name])
        return compiled(pruned), kprune.PruningCallback()

    def fit(model, callback, callbacks=(), **kwargs):
        model.fit(in_order(data), verbose=0, callbacks=[callback, *callbacks], **kwargs)

    whole, callback = make()
    fit(whole, callback, epochs=4)

    # As if killed after an epoch: what is left is the checkpoint of that epoch. It is
    # listed before the pruning callback, which has not acted on the last step then.
    first, callback = make()
    path = str(tmp_path / "{epoch}.keras")
    checkpoint = keras.callbacks.ModelCheckpoint(path)
    fit(first, callback, [checkpoint], epochs=4)
    second = keras.models.load_model(tmp_path / f"{stop}.keras")
    _, callback = make()
    fit(second, callback, epochs=4, initial_epoch=stop)

    for a, b in zip(whole.weights, second.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)


@pytest.mark.filterwarnings("ignore:`shuffle=True`:UserWarning")
def test_backup_and_restore_goes_on_where_it_stopped(data, tmp_path):
    class Crash(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def make():
        keras.utils.set_random_seed(1)
        return compiled(sequential())

    def callbacks():
        return [
            kprune.PruningCallback(0.8),
            keras.callbacks.BackupAndRestore(str(tmp_path)),
        ]

    whole = make()
    whole.fit(in_order(data), epochs=4, verbose=0, callbacks=callbacks())
    with pytest.raises(KeyboardInterrupt):
        make().fit(
            in_order(data), epochs=4, verbose=0, callbacks=[*callbacks(), Crash()]
        )
    resumed = make()
    resumed.fit(in_order(data), epochs=4, verbose=0, callbacks=callbacks())
    for a, b in zip(whole.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)


# --- What does not fit is said before training ----------------------------------------


def assert_unchanged(model, weights):
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert mask_constraints(model) == {}


def test_a_fit_too_short_for_the_schedule_is_told_before_and_after(data):
    model = compiled(sequential())
    schedule = kprune.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=2000)
    with pytest.warns(WARNS) as caught:
        model.fit(
            *data,
            batch_size=16,
            verbose=0,
            callbacks=[kprune.PruningCallback(schedule=schedule)],
        )
    before, after = [str(w.message) for w in caught]
    assert "ends at step 6" in before and "0 to 2000" in before
    assert "Go on with another fit" in after and "0.8000" in after


def test_warnings_as_errors_stop_before_anything_changes(data):
    model = compiled(sequential())
    before = model.get_weights()
    schedule = kprune.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=2000)
    with pytest.raises(WARNS, match="2000"):
        model.fit(
            *data, verbose=0, callbacks=[kprune.PruningCallback(schedule=schedule)]
        )
    assert_unchanged(model, before)


def test_a_schedule_that_is_over_already_is_told(data):
    model = compiled(sequential())
    model.fit(*data, batch_size=16, epochs=2, verbose=0)
    schedule = kprune.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=8)
    with pytest.warns(WARNS, match="at step 12 already.*at once"):
        model.fit(
            *data, verbose=0, callbacks=[kprune.PruningCallback(schedule=schedule)]
        )


def test_an_initial_epoch_that_was_not_pruned_is_told(data):
    model = compiled(sequential())
    with pytest.warns(WARNS, match="initial_epoch"):
        model.fit(
            *data,
            epochs=4,
            initial_epoch=3,
            verbose=0,
            callbacks=[kprune.PruningCallback(0.8)],
        )
    assert sparsity(model) == pytest.approx(0.8, abs=1e-3)


def test_zeros_that_nothing_holds_are_told(data):
    model = compiled(sequential())
    kernel = model.layers[3].kernel
    kernel.assign(np.where(np.random.random(kernel.shape) < 0.5, 0, kernel.numpy()))
    wrapped = compiled(kprune.prune(model, 0.8))
    with pytest.warns(WARNS, match=r"nothing holds .*hold_zeros"):
        model.fit(*data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback(0.8)])
    with pytest.warns(WARNS, match=r"nothing holds .*hold_zeros"):
        wrapped.fit(*data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback()])


def test_nan_weights_keep_the_old_mask_and_are_named(data):
    model = compiled(sequential())
    callback = kprune.PruningCallback(schedule=kprune.ConstantSparsity(0.5))
    kernel = model.layers[3].kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.warns(WARNS) as caught:
        model.fit(*data, verbose=0, callbacks=[callback])
    assert "dense" in str(caught[0].message) and "NaN" in str(caught[0].message)
    assert callback.report.weights[0].asked == 0.0


def test_restored_weights_of_an_earlier_epoch_are_told(data):
    class Restore(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.weights = self.model.get_weights()

        def on_train_end(self, logs=None):
            self.model.set_weights(self.weights)

    model = compiled(sequential())
    callbacks = [Restore(), kprune.PruningCallback(0.75)]
    with pytest.warns(WARNS, match="restored an earlier epoch"):
        model.fit(*data, epochs=2, verbose=0, callbacks=callbacks)
    assert sparsity(model) == pytest.approx(0.75, abs=1e-3)


def test_a_plan_that_matches_nothing_lists_the_weights(data):
    model = compiled(sequential())
    before = model.get_weights()
    with pytest.raises(ValueError, match="only=.'nothing_.'") as error:
        model.fit(
            *data, verbose=0, callbacks=[kprune.PruningCallback(0.8, only="nothing_*")]
        )
    assert "dense/bias" in str(error.value)
    assert_unchanged(model, before)


def test_no_arguments_and_nothing_to_hold_is_refused(data):
    model = compiled(sequential())
    with pytest.raises(ValueError, match=r"PruningCallback\(sparsity=0.8\)"):
        model.fit(*data, verbose=0, callbacks=[kprune.PruningCallback()])


def test_wrappers_and_a_plan_are_refused(data):
    model = compiled(kprune.prune(sequential(), 0.5))
    with pytest.raises(ValueError, match="Pruned wrappers"):
        model.fit(*data, verbose=0, callbacks=[kprune.PruningCallback(0.8)])


def test_a_model_that_is_not_compiled_is_refused(data):
    with pytest.raises(ValueError, match="compile"):
        sequential().fit(*data, callbacks=[kprune.PruningCallback(0.8)])


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (dict(sparsity=1.0), ValueError, r"\[0, 1\)"),
        (dict(sparsity=-0.1), ValueError, r"\[0, 1\)"),
        (dict(sparsity=80), ValueError, "Did you mean 0.8"),
        (dict(sparsity="0.8"), TypeError, "must be a number"),
        (dict(sparsity=0.8, schedule=kprune.ConstantSparsity(0.5)), ValueError, "eith"),
        (dict(allocation="uniform"), ValueError, "either `sparsity`"),
        (dict(sparsity=0.8, granulatity="element"), TypeError, "'granulatity'"),
        (dict(sparsity=0.8, allocation="unifrom"), ValueError, "unifrom.*uniform"),
        (dict(sparsity=0.8, criterion=3), TypeError, "Criterion"),
        (dict(sparsity=0.8, only=3), TypeError, "only"),
        (dict(plan=0.8), TypeError, "kprune.Plan"),
        (dict(sparsity=0.8, optimizer="adam"), TypeError, "keras.optimizers.Optim"),
        (
            dict(plan=kprune.Plan(kprune.Rule(0.5)), sparsity=0.8),
            ValueError,
            "else|oth",
        ),
    ],
)
def test_bad_arguments_are_refused_at_construction(arguments, error, match):
    with pytest.raises(error, match=match):
        kprune.PruningCallback(**arguments)


# --- The report -----------------------------------------------------------------------


def test_report_says_what_stays_dense_and_why(data):
    inputs = keras.layers.Input((8, 8, 1))
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=4)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Flatten()(x)
    frozen = keras.layers.Dense(4, trainable=False, name="frozen")
    model = compiled(keras.Model(inputs, keras.layers.Dense(3)(frozen(x))))
    callback = kprune.PruningCallback(0.5)
    model.fit(*data, epochs=2, verbose=0, callbacks=[callback])
    reasons = {s.path: s.reason for s in callback.report.skipped}
    assert "prune_depthwise=True" in reasons["depthwise_conv2d/kernel"]
    text = str(callback.report)
    for expected in ("frozen/kernel", "trainable=False", "normalisation", "bias"):
        assert expected in text
    assert [w.path for w in callback.report.weights] == ["dense/kernel"]


def test_report_before_a_fit_is_refused():
    with pytest.raises(RuntimeError, match="no fit has begun"):
        _ = kprune.PruningCallback(0.5).report


def test_a_plan_of_two_rules(data):
    model = compiled(sequential())
    plan = kprune.Plan(
        (
            kprune.Rule(0.25, only="conv2d"),
            kprune.Rule(kprune.ConstantSparsity(0.75), only=keras.layers.Dense),
        )
    )
    callback = kprune.PruningCallback(plan=plan)
    model.fit(*data, epochs=2, verbose=0, callbacks=[callback])
    conv, *dense = callback.report.weights
    assert conv.zeros == round(0.25 * conv.size)
    assert sum(d.zeros for d in dense) == round(0.75 * sum(d.size for d in dense))
    expected = (0.25 * conv.size + 0.75 * sum(d.size for d in dense)) / num_weights(
        model
    )
    assert callback.report.asked == pytest.approx(expected)


def test_a_callback_can_be_used_for_two_fits(data):
    callback = kprune.PruningCallback(0.5)
    for _ in range(2):
        model = compiled(sequential())
        model.fit(*data, epochs=2, verbose=0, callbacks=[callback])
        assert sparsity(model) == pytest.approx(0.5, abs=1e-3)


def test_predict_and_evaluate_ignore_the_callback(data):
    model = compiled(sequential())
    before = model.get_weights()
    model.evaluate(*data, verbose=0, callbacks=[kprune.PruningCallback(0.8)])
    model.predict(data[0], verbose=0, callbacks=[kprune.PruningCallback(0.8)])
    assert_unchanged(model, before)


def test_wrapped_models_are_driven_too(data):
    for make in GRAPHS.values():
        model = compiled(kprune.prune(make(), 0.75))
        callback = kprune.PruningCallback()
        model.fit(*data, batch_size=16, epochs=3, verbose=0, callbacks=[callback])
        zeros = sum(np.count_nonzero(w.numpy() == 0) for w in kernels(model))
        assert zeros == round(0.75 * num_weights(model))


@pytest.mark.parametrize("eagerly", [False, True])
def test_wrapped_models_that_nothing_drives_are_told_once(data, eagerly):
    model = compiled(kprune.prune(sequential(), 0.75), run_eagerly=eagerly)
    model.evaluate(*data, verbose=0)
    model.predict(data[0], verbose=0)
    with pytest.warns(WARNS, match=r"is trained, and nothing .*PruningCall") as caught:
        model.fit(*data, epochs=2, verbose=0)
    assert [w.filename for w in caught] == [__file__]
    model.fit(*data, verbose=0)


def test_wrappers_whose_masks_are_held_are_not_told_of(data, tmp_path):
    model = compiled(kprune.prune(sequential(), 0.75))
    pruning = kprune.PruningCallback()
    model.fit(*data, epochs=3, verbose=0, callbacks=[pruning])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.fit(*data, verbose=0)
    assert sparsity(loaded) == pytest.approx(0.75, abs=1e-2)


def test_wrappers_that_are_built_while_they_are_trained_are_driven(data):
    layers = [keras.layers.Flatten(), kprune.prune(keras.layers.Dense(10), 0.5)]
    model = compiled(keras.Sequential(layers))
    assert not model.built
    model.fit(*data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback()])
    assert np.mean(layers[1].layer.kernel.numpy() == 0) == pytest.approx(0.5, abs=1e-2)


def test_a_subclassed_model_that_was_never_built(data):
    model = compiled(Subclassed())
    assert not model.built
    model.fit(*data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback(0.5)])
    assert sparsity(model) == pytest.approx(0.5, abs=1e-3)


def test_a_fit_of_unknown_length_too_short_is_told_after_its_first_epoch(data):
    dataset = of_unknown_length(data)
    model = compiled(sequential())
    schedule = kprune.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=2000)
    callback = kprune.PruningCallback(schedule=schedule)
    with pytest.warns(UserWarning) as caught:
        model.fit(dataset, epochs=2, verbose=0, callbacks=[callback])
    texts = [str(w.message) for w in caught if issubclass(w.category, WARNS)]
    assert len(texts) == 2 and "before" not in texts[0]
    assert "0 to 2000" in texts[0] and "Go on with another fit" in texts[1]


def test_zeros_that_would_regrow_before_a_late_begin_are_told(data):
    model = compiled(sequential())
    kernel = model.layers[3].kernel
    kernel.assign(np.where(np.random.random(kernel.shape) < 0.5, 0, kernel.numpy()))
    schedule = kprune.ConstantSparsity(0.8, begin_step=9)
    with pytest.warns(WARNS, match=r"nothing holds .*hold_zeros"):
        model.fit(
            *data,
            batch_size=16,
            epochs=2,
            verbose=0,
            callbacks=[kprune.PruningCallback(schedule=schedule)],
        )


def test_held_zeros_are_not_warned_of_and_are_built_upon(data):
    model = compiled(sequential())
    kernel = model.layers[3].kernel
    kernel.assign(np.where(np.random.random(kernel.shape) < 0.5, 0, kernel.numpy()))
    zero = kernel.numpy() == 0
    kprune.hold_zeros(model)
    model.fit(*data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback(0.8)])
    assert (kernel.numpy()[zero] == 0).all()
    assert sparsity(model) == pytest.approx(0.8, abs=1e-3)
