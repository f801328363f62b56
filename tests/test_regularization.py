"""Penalties that make channels ready to be pruned."""

import keras
import numpy as np
import pytest
import settings
import tensorflow as tf
from models import compiled, sequential

import kprune
from kprune.regularization import risen

L = keras.layers
WARNS = kprune.PruningWarning
HALFWAY = kprune.ConstantSparsity(0.5, kprune.FitFraction(0.5))
AT_THE_END = kprune.ConstantSparsity(0.5, kprune.FitFraction(1.0))
AT_ONCE = {"begin_step": 0, "end_step": 0}


def callback(regularization, **arguments):
    """A callback for the convolution of `sequential()`, which is normalised."""
    arguments = {"schedule": HALFWAY, "skip": "*dense*"} | arguments
    return kprune.PruningCallback(
        granularity="channel", regularization=regularization, **arguments
    )


def fitted(
    data, regularization, make=sequential, epochs=2, schedule=HALFWAY, **arguments
):
    keras.utils.set_random_seed(1)
    model = compiled(make(), keras.optimizers.SGD(0.1, momentum=0.9))
    used = callback(regularization, schedule=schedule)
    fit = {"batch_size": 16, "verbose": 0, "epochs": epochs} | arguments
    history = model.fit(*data, callbacks=[used], **fit)
    return model, used, history.history


def same(one, other):
    return all(
        np.array_equal(a.numpy(), b.numpy())
        for a, b in zip(one.weights, other.weights, strict=True)
    )


def regularizers(model):
    return [variable.regularizer for variable in model.weights]


# --- What is paid ---------------------------------------------------------------------


def by_hand():
    """Two inputs, three hidden units and an output."""
    model = keras.Sequential(
        [
            L.Input((2,)),
            L.Dense(3, use_bias=False, name="hidden"),
            L.BatchNormalization(name="norm"),
            L.ReLU(),
            L.Dense(1, name="head"),
        ]
    )
    model.get_layer("hidden").kernel.assign([[2.0, 9.0, 1.0], [4.0, 9.0, 2.0]])
    model.get_layer("norm").gamma.assign([4.0, 9.0, -2.0])
    model.get_layer("head").kernel.assign([[8.0], [9.0], [4.0]])
    return compiled(model, "sgd")


@pytest.mark.parametrize(
    ("regularization", "paid", "gradients"),
    [
        # Four weights in a channel. Norms: sqrt(4 + 16 + 16 + 64) = 10, 0 and 5.
        (
            kprune.GroupLasso(0.5, **AT_ONCE),
            0.5 * 2 * 15,
            {
                "hidden": [[0.2, 0, 0.2], [0.4, 0, 0.4]],
                "norm": [0.4, 0, -0.4],
                "head": [[0.8], [0], [0.8]],
            },
        ),
        (kprune.BatchNormL1(0.5, **AT_ONCE), 0.5 * 6, {"norm": [0.5, 0, -0.5]}),
    ],
    ids=["group_lasso", "batch_norm_l1"],
)
def test_penalties_and_their_gradients_by_hand(regularization, paid, gradients):
    model = by_hand()
    kprune.Pruner(
        model,
        schedule=kprune.ConstantSparsity(0.3, 9),
        granularity="channel",
        regularization=regularization,
    )
    weights = {"hidden": "kernel", "norm": "gamma", "head": "kernel"}
    variables = {n: getattr(model.get_layer(n), w) for n, w in weights.items()}
    for variable in variables.values():  # The second channel is zero.
        variable.assign(np.where(np.asarray(variable.value) == 9, 0, variable.value))
    with tf.GradientTape() as tape:
        (loss,) = model.losses
    found = tape.gradient(loss, {name: v.value for name, v in variables.items()})
    assert float(loss) == pytest.approx(paid)
    assert {n for n, g in found.items() if g is not None} == set(gradients)
    for name, expected in gradients.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, err_msg=name)


def test_held_channels_pay_nothing(data):
    model = compiled(sequential(), "sgd")
    schedule = kprune.PiecewiseSparsity((0, 9), (0.5, 0.7))
    pruner = kprune.Pruner(
        model,
        schedule=schedule,
        granularity="channel",
        skip="*dense*",
        regularization=kprune.BatchNormL1(1.0, **AT_ONCE),
    )
    assert pruner.sparsity == 0.5
    assert float(sum(model.losses)) == 3  # Three scales of six are left, each is 1.


# --- When -----------------------------------------------------------------------------


def test_the_strength_rises_along_a_line_in_the_graph():
    model = by_hand()
    kprune.Pruner(
        model,
        schedule=kprune.ConstantSparsity(0.3, 9),
        granularity="channel",
        regularization=kprune.BatchNormL1(2.0, 2, 6),
    )
    loss = tf.function(lambda: sum(model.losses))
    found = []
    for step in range(11):
        model.optimizer.iterations.assign(step)
        found.append(float(loss()))
    assert found == [0, 0, 0, 7.5, 15, 22.5, 30, 30, 30, 0, 0]
    assert found == [30 * float(risen(step, 2, 6, 9)) for step in range(11)]


def test_a_strength_of_one_step_and_steps_beyond_what_floats_can_count():
    assert [float(risen(step, 3, 3, 5)) for step in (2, 3, 4, 5)] == [0, 1, 1, 0]
    far = 2**40
    steps = keras.ops.array([far - 1, far + 1, far + 4], "int64")
    begin, end = (keras.ops.array(n, "int64") for n in (far, far + 4))
    share = risen(steps, begin, end, keras.ops.array(2**50, "int64"))
    assert share.numpy().tolist() == [0, 0.25, 1]


@pytest.mark.parametrize("regularization", settings.REGULARIZATIONS, ids=settings.name)
def test_a_strength_of_zero_changes_nothing_and_another_does(regularization, data):
    plain, _, history = fitted(data, None)
    zero, _, zeros = fitted(data, type(regularization)(0.0, **AT_ONCE))
    assert same(plain, zero)
    assert history == zeros
    assert not same(plain, fitted(data, regularization)[0])


@pytest.mark.parametrize("steps_per_execution", [2, 3])
def test_several_steps_in_one_execution_are_the_same(steps_per_execution, data):
    one = fitted(data, kprune.BatchNormL1(0.1))[0]
    keras.utils.set_random_seed(1)
    model = sequential()
    compiled(
        model,
        keras.optimizers.SGD(0.1, momentum=0.9),
        steps_per_execution=steps_per_execution,
    )
    used = callback(kprune.BatchNormL1(0.1))
    model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[used])
    assert same(one, model)


@pytest.mark.parametrize("regularization", settings.REGULARIZATIONS, ids=settings.name)
def test_resumed_training_equals_uninterrupted(regularization, data, tmp_path):
    grown = type(regularization)(0.05, kprune.Epochs(0.5), kprune.Epochs(1.5))
    through = fitted(data, grown, epochs=4, shuffle=False)[0]
    keras.utils.set_random_seed(1)
    model = compiled(sequential(), keras.optimizers.SGD(0.1, momentum=0.9))

    class Interrupted(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.save(tmp_path / "model.keras")
            raise KeyboardInterrupt

    fit = {"batch_size": 16, "epochs": 4, "verbose": 0, "shuffle": False}
    with pytest.raises(KeyboardInterrupt):
        model.fit(*data, callbacks=[callback(grown), Interrupted()], **fit)
    model = keras.models.load_model(tmp_path / "model.keras")
    model.fit(*data, callbacks=[callback(grown)], initial_epoch=1, **fit)
    assert same(through, model)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Of Keras.
def test_data_of_unknown_length_pays_from_the_second_epoch_on(data):
    x, y = data

    def unknown():
        return tf.data.Dataset.from_generator(
            lambda: zip(x, y, strict=True),
            output_signature=(tf.TensorSpec((8, 8, 1)), tf.TensorSpec((), tf.int64)),
        ).batch(16)

    losses = {}
    for strength in (0.0, 0.1):
        keras.utils.set_random_seed(1)
        model = compiled(sequential(), keras.optimizers.SGD(0.1))
        used = callback(kprune.BatchNormL1(strength))
        history = model.fit(
            unknown(), epochs=4, shuffle=False, verbose=0, callbacks=[used]
        )
        losses[strength] = history.history["loss"]
    assert losses[0.0][0] == losses[0.1][0]
    assert losses[0.0][1] < losses[0.1][1]


def test_one_that_begins_when_all_is_pruned_is_told(data):
    model = compiled(sequential(), "sgd")
    late = callback(kprune.BatchNormL1(0.1), schedule=kprune.ConstantSparsity(0.5))
    with pytest.warns(WARNS, match="begins at step 0, .* final at step 0.*never acts"):
        model.fit(*data, verbose=0, callbacks=[late])


# --- What it is for -------------------------------------------------------------------


def redundant():
    return keras.Sequential(
        [
            L.Input((8, 8, 1)),
            L.Conv2D(16, 3),
            L.BatchNormalization(),
            L.ReLU(),
            L.GlobalAveragePooling2D(),
            L.Dense(3, name="dense"),
        ]
    )


def bright(data):
    """Images of three brightnesses, which a few channels tell apart."""
    return data[0] + data[1].reshape(-1, 1, 1, 1) - 1, data[1]


def gammas_before_pruning(regularization, data):
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 12 * 6:
                seen.append(np.abs(self.model.layers[1].gamma.numpy()))

    keras.utils.set_random_seed(1)
    model = compiled(redundant(), keras.optimizers.SGD(0.1))
    used = callback(
        regularization,
        criterion="batch_norm_scale",
        schedule=kprune.ConstantSparsity(0.5, kprune.Epochs(12)),
    )
    look = Look()  # Goes first.
    model.fit(
        *bright(data), batch_size=16, epochs=20, verbose=0, callbacks=[look, used]
    )
    assert used.report.channel_sparsity == 0.5
    return seen[0], model


def test_network_slimming_makes_scales_small_and_prunes_these(data):
    plain, _ = gammas_before_pruning(None, data)
    slim, model = gammas_before_pruning(
        kprune.BatchNormL1(0.2, end_step=kprune.Epochs(1)), data
    )
    assert np.mean(plain < 0.1) == 0
    assert np.mean(slim < 0.1) >= 0.75
    pruned = model.layers[1].gamma.numpy() == 0
    assert pruned[slim < np.median(slim)].all()
    x, y = bright(data)
    assert np.mean(model.predict(x, verbose=0).argmax(1) == y) > 0.9


def test_group_lasso_makes_whole_channels_small(data):
    norms = {}
    for strength in (0.0, 0.03):
        keras.utils.set_random_seed(1)
        model = compiled(redundant(), keras.optimizers.SGD(0.1))
        used = callback(
            kprune.GroupLasso(strength, **AT_ONCE),
            schedule=kprune.ConstantSparsity(0.5, kprune.Epochs(12)),
        )
        model.fit(*bright(data), batch_size=16, epochs=12, verbose=0, callbacks=[used])
        # What it holds at the end it had made small before.
        conv, norm, *_, head = model.layers
        parts = [conv.kernel.numpy().reshape(-1, 16), norm.gamma.numpy()[None]]
        parts.append(head.kernel.numpy().T)
        energy = sum(np.sum(part**2, axis=0) for part in parts)
        norms[strength] = np.sqrt(energy[energy > 0])
    assert norms[0.03].max() < norms[0.0].min()


# --- What is left behind: nothing -----------------------------------------------------


def own():
    """A model whose layers bring regularizers."""
    return keras.Sequential(
        [
            L.Input((8, 8, 1)),
            L.Conv2D(6, 3, kernel_regularizer=keras.regularizers.L2(0.01)),
            L.BatchNormalization(gamma_regularizer=keras.regularizers.L1(0.01)),
            L.Flatten(),
            L.Dense(3, name="dense"),
        ]
    )


@pytest.mark.parametrize("regularization", settings.REGULARIZATIONS, ids=settings.name)
def test_regularizers_of_layers_count_too_and_are_there_after_the_fit(
    regularization, data
):
    plain = fitted(data, None, own, schedule=AT_THE_END)[0]
    # It begins to rise with the last step.
    later = type(regularization)(0.1, 11, 12)
    asleep = fitted(data, later, own, schedule=AT_THE_END)[0]
    assert same(plain, asleep)
    keras.utils.set_random_seed(1)
    model = compiled(own(), keras.optimizers.SGD(0.1))
    before, config = regularizers(model), model.get_config()
    model.fit(*data, epochs=2, verbose=0, callbacks=[callback(regularization)])
    assert all(a is b for a, b in zip(before, regularizers(model), strict=True))
    assert len([each for each in before if each is not None]) == 2
    assert model.get_config() == config
    assert len(model.losses) == 2


class Fails(keras.callbacks.Callback):
    def __init__(self, at):
        super().__init__()
        setattr(self, at, self.fail)

    def fail(self, *args, **kwargs):
        raise OSError("no space left")


@pytest.mark.parametrize("at", ["on_train_batch_end", "on_epoch_begin", "on_epoch_end"])
def test_a_fit_that_failed_leaves_no_penalty_for_the_next_one(at, data):
    model = compiled(own(), keras.optimizers.SGD(0.1))
    before = regularizers(model)
    late = kprune.ConstantSparsity(0.5, kprune.Epochs(2))
    penalised = callback(kprune.BatchNormL1(0.5, **AT_ONCE), schedule=late)
    with pytest.raises(OSError, match="no space"):
        model.fit(*data, epochs=2, verbose=0, callbacks=[penalised, Fails(at)])
    assert all(a is b for a, b in zip(before, regularizers(model), strict=True))
    twin = compiled(keras.models.clone_model(model), keras.optimizers.SGD(0.1))
    twin.set_weights(model.get_weights())
    for each in (model, twin):
        each.fit(*data, epochs=1, shuffle=False, verbose=0)
    assert same(model, twin)


def test_a_step_that_fails_takes_it_off(data):
    model = compiled(sequential(), "sgd", run_eagerly=True)
    x, y = data
    with pytest.raises(ValueError, match="[Ss]hape|size"):
        model.fit(
            x, y[:, None].repeat(5, 1), verbose=0, callbacks=[callback("group_lasso")]
        )
    assert regularizers(model) == [None] * len(model.weights)


def test_evaluation_is_without_it(data):
    model = compiled(sequential(), keras.optimizers.SGD(0.0))
    used = callback(kprune.BatchNormL1(1.0, **AT_ONCE))
    fit = {"batch_size": 96, "epochs": 2, "verbose": 0}
    expected = model.evaluate(*data, batch_size=96, verbose=0)
    history = model.fit(*data, validation_data=data, callbacks=[used], **fit).history
    assert history["loss"][0] > 6  # Six scales of one.
    assert history["val_loss"][0] < 6
    assert model.optimizer.iterations == 2
    assert expected < 6


# --- In every loop --------------------------------------------------------------------


def test_train_on_batch_pays_as_fit_does(data):
    lasso = kprune.GroupLasso(0.01, 2, 5)
    schedule = kprune.ConstantSparsity(0.5, 9)
    expected = compiled(sequential(), keras.optimizers.SGD(0.1))
    model = keras.models.clone_model(expected)
    compiled(model, keras.optimizers.SGD(0.1)).set_weights(expected.get_weights())
    x, y = data
    used = callback(lasso, schedule=schedule)
    fit = {"batch_size": 16, "epochs": 2, "shuffle": False, "verbose": 0}
    expected.fit(x, y, callbacks=[used], **fit)
    rule = {"granularity": "channel", "skip": "*dense*", "regularization": lasso}
    pruner = kprune.Pruner(model, schedule=schedule, **rule)
    for start in [*range(0, 96, 16)] * 2:
        model.train_on_batch(x[start : start + 16], y[start : start + 16])
        pruner.step()
    assert len(model.losses) == 1
    pruner.finish()
    assert same(model, expected)
    assert model.losses == []


def test_a_traced_loop_pays_until_it_is_finished():
    model = by_hand()
    pruner = kprune.Pruner(
        model,
        schedule=kprune.ConstantSparsity(0.3, 1),
        granularity="channel",
        regularization=kprune.BatchNormL1(1.0, **AT_ONCE),
    )
    loss = tf.function(lambda: sum(model.losses))
    assert float(loss()) == 15
    with pytest.warns(WARNS, match="ended at sparsity"):
        pruner.finish()
    assert float(loss()) == 0


@keras.saving.register_keras_serializable("tests")
class Forgetful(keras.Sequential):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.losses.sparse_categorical_crossentropy(y, self(x), True)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


def test_a_step_without_the_model_s_losses_is_told(data):
    model = compiled(Forgetful(sequential().layers), "sgd")
    used = callback(kprune.BatchNormL1(0.1))
    with pytest.warns(WARNS, match=r"BatchNormL1.*not|loss \+= sum\(model.losses\)"):
        model.fit(*data, epochs=2, verbose=0, callbacks=[used])


def test_a_loop_without_the_model_s_losses_is_told(data):
    model, optimizer = sequential(), keras.optimizers.SGD(0.1)
    pruner = kprune.Pruner(
        model,
        optimizer=optimizer,
        schedule=kprune.ConstantSparsity(0.5, 9),
        granularity="channel",
        regularization=kprune.GroupLasso(0.1, **AT_ONCE),
    )
    zeros = [keras.ops.zeros_like(v) for v in model.trainable_variables]
    optimizer.apply(zeros, model.trainable_variables)
    with pytest.warns(WARNS, match=r"loss \+= sum\(model.losses\)"):
        pruner.step()


def test_two_rules_pay_each_for_its_channels(data):
    model = compiled(
        keras.Sequential(
            [
                L.Input((8, 8, 1)),
                L.Conv2D(4, 3, name="one"),
                L.BatchNormalization(),
                L.Conv2D(6, 3, name="two"),
                L.BatchNormalization(),
                L.Flatten(),
                L.Dense(3),
            ]
        ),
        "sgd",
    )
    rule = {"granularity": "channel", "schedule": HALFWAY}
    plan = kprune.Plan(
        tuple(
            kprune.Rule(only=only, regularization=each(0.5, **AT_ONCE), **rule)
            for only, each in [
                ("one", kprune.BatchNormL1),
                ("two", kprune.GroupLasso),
            ]
        )
    )
    losses = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            losses.append(len(self.model.losses))

    used = kprune.PruningCallback(plan=plan)
    model.fit(*data, epochs=2, verbose=0, callbacks=[used, Look()])
    assert set(losses) == {0}
    pruner = kprune.Pruner(
        compiled(keras.models.clone_model(model), "sgd"),
        plan,
        steps_per_epoch=6,
        epochs=2,
    )
    first, second = pruner._updates._model.losses
    assert float(first) == 0.5 * 4
    assert float(second) > 0.5 * 6


# --- What is refused ------------------------------------------------------------------


def test_rules_refuse_what_it_cannot_be_used_with():
    with pytest.raises(ValueError, match="whole channels.*granularity='channel'"):
        kprune.Rule(0.5, regularization="group_lasso")
    with pytest.raises(ValueError, match="Unknown regularization 'lasso'"):
        kprune.Rule(0.5, granularity="channel", regularization="lasso")
    rule = kprune.Rule(0.5, granularity="channel", regularization="batch_norm_l1")
    assert rule.regularization == kprune.BatchNormL1()
    assert kprune.Rule.from_config(rule.get_config()) == rule


@pytest.mark.parametrize("cls", [kprune.BatchNormL1, kprune.GroupLasso])
def test_values_out_of_range_are_refused(cls):
    with pytest.raises(ValueError, match=f"{cls.__name__}: `strength`"):
        cls(-1.0)
    with pytest.raises(TypeError, match=f"{cls.__name__}: `begin_step`"):
        cls(0.1, "now")
    with pytest.raises(ValueError, match=f"{cls.__name__}: the end must not lie"):
        cls(0.1, 5, 3)


def test_moments_in_the_wrong_order_are_refused_when_they_are_known(data):
    model = compiled(sequential(), "sgd")
    used = callback(kprune.BatchNormL1(0.1, 50, kprune.Epochs(1)))
    with pytest.raises(ValueError, match="begins at step 50 and ends at step 3"):
        model.fit(*data, verbose=0, callbacks=[used])


def test_channels_without_a_batch_normalisation_are_refused_by_name(data):
    model = compiled(sequential(), "sgd")
    used = callback("batch_norm_l1", skip=None)
    with pytest.raises(
        ValueError, match="none of the weights of sequential/dense.*scale=True"
    ):
        model.fit(*data, verbose=0, callbacks=[used])
    assert model.train_function is not None
    assert not any(regularizers(model))
