"""Pruning in training loops of the user's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from models import compiled, sequential

import kprune
from kprune.layers import mask_constraints, values

WARNS = kprune.PruningWarning
SCHEDULE = kprune.PolynomialDecay(0.2, 0.75, 2, 9, frequency=3)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def batches(data, epochs=2):
    x, y = data
    for start in [*range(0, 96, 16)] * epochs:
        yield x[start : start + 16], y[start : start + 16]


def step_of(model, optimizer, compile_it=True):
    """A training step as the Keras guide to custom loops writes it."""

    def train_step(x, y):
        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_weights)
        optimizer.apply(gradients, model.trainable_weights)
        return loss

    return tf.function(train_step) if compile_it else train_step


def no_mask_is_broken(model):
    for path, constraint in mask_constraints(model).items():
        weight = next(w for w in model.weights if w.path == path)
        assert not values(weight)[~values(constraint.mask)].any(), path
    return bool(mask_constraints(model))


def fitted(data):
    keras.utils.set_random_seed(1)
    model = compiled(sequential(), keras.optimizers.Adam(0.01))
    callback = kprune.PruningCallback(schedule=SCHEDULE)
    model.fit(
        *data, batch_size=16, epochs=2, verbose=0, shuffle=False, callbacks=[callback]
    )
    return model, callback


def test_train_on_batch_is_pruned_as_in_fit(data):
    expected, callback = fitted(data)
    keras.utils.set_random_seed(1)
    model = compiled(sequential(), keras.optimizers.Adam(0.01))
    pruner = kprune.Pruner(model, kprune.Plan(kprune.Rule(SCHEDULE)), model.optimizer)
    for x, y in batches(data):
        model.train_on_batch(x, y)
        pruner.step()
        assert no_mask_is_broken(model)
    for a, b in zip(expected.weights, model.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)
    assert pruner.history == callback.history
    counts = [(w.size, w.zeros, w.asked) for w in pruner.finish().weights]
    assert counts == [(w.size, w.zeros, w.asked) for w in callback.report.weights]


@pytest.mark.parametrize("compile_it", [True, False], ids=["graph", "eager"])
def test_a_loop_with_a_gradient_tape(compile_it, data):
    model, optimizer = sequential(), keras.optimizers.Adam(0.01)
    pruner = kprune.Pruner(model, kprune.Plan(kprune.Rule(SCHEDULE)), optimizer)
    train_step = step_of(model, optimizer, compile_it)
    made = []
    for x, y in batches(data):
        train_step(x, y)
        made.append(pruner.step())
        assert no_mask_is_broken(model)
    # Due at 2, 5, 8 and, as the end, at 9.
    assert [i + 1 for i, was in enumerate(made) if was] == [2, 5, 8, 9]
    assert pruner.sparsity == pytest.approx(0.75, abs=1e-3)


def test_sparsity_alone_needs_the_length_of_training(data):
    model, optimizer = sequential(), keras.optimizers.SGD(0.01)
    with pytest.raises(ValueError, match="steps_per_epoch=.*epochs="):
        kprune.Pruner(model, optimizer=optimizer, sparsity=0.75)
    assert not mask_constraints(model)
    pruner = kprune.Pruner(
        model, optimizer=optimizer, sparsity=0.75, steps_per_epoch=6, epochs=2
    )
    train_step = step_of(model, optimizer)
    for x, y in batches(data):
        train_step(x, y)
        pruner.step()
    assert [step for step, _ in pruner.history] == [0, 1, 2, 3, 4, 5, 6]
    assert pruner.finish().sparsity == pytest.approx(0.75, abs=1e-3)


def test_a_step_that_was_traced_before_is_told_and_masked(data):
    model, optimizer = sequential(), keras.optimizers.Adam(0.01)
    train_step = step_of(model, optimizer)
    x, y = next(batches(data))
    train_step(x, y)
    pruner = kprune.Pruner(
        model, optimizer=optimizer, schedule=kprune.ConstantSparsity(0.75)
    )
    train_step(x, y)
    with pytest.warns(WARNS, match="traced before the Pruner"):
        pruner.step()
    for _ in range(3):  # Told once, and held from then on.
        train_step(x, y)
        pruner.step()
        assert no_mask_is_broken(model)
    assert pruner.finish().sparsity == pytest.approx(0.75, abs=1e-3)


def test_an_optimizer_that_never_steps_is_told(data):
    model = sequential()
    pruner = kprune.Pruner(
        model, optimizer=keras.optimizers.SGD(), schedule=kprune.ConstantSparsity(0.5)
    )
    for _ in range(99):
        pruner.step()
    with pytest.warns(WARNS, match="called 100 times.*step 0"):
        pruner.step()


def test_another_optimizer_in_mid_training_is_refused(data):
    model = compiled(sequential())
    pruner = kprune.Pruner(model, schedule=kprune.ConstantSparsity(0.5))
    x, y = next(batches(data))
    model.train_on_batch(x, y)
    pruner.step()
    compiled(model, "sgd")
    model.train_on_batch(x, y)
    with pytest.raises(ValueError, match="another optimizer in mid-training"):
        pruner.step()


def test_another_optimizer_within_a_fit_is_refused(data):
    class Recompiles(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                compiled(self.model, "sgd")
                self.model.make_train_function()

    callbacks = [kprune.PruningCallback(0.5), Recompiles()]
    with pytest.raises(ValueError, match="another optimizer in mid-training"):
        compiled(sequential()).fit(*data, epochs=2, verbose=0, callbacks=callbacks)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (dict(sparsity=0.5, steps_per_epoch=0), ValueError, "`steps_per_epoch` must"),
        (dict(sparsity=0.5, steps_per_epoch=2, epochs=0.5), ValueError, "`epochs`"),
        (dict(sparsity=0.5, schedule=lambda step: 0.5), ValueError, "give either"),
        (dict(sparsity=0.5, optimizer="adam"), TypeError, "keras.optimizers.Optim"),
        (dict(sparsity=0.5, criterion="taylor"), ValueError, "needs data"),
        (dict(), ValueError, "holds masks, and"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        kprune.Pruner(compiled(sequential()), **arguments)


def test_what_is_not_a_built_and_compiled_model_is_refused():
    with pytest.raises(TypeError, match="must be a Keras 3 model"):
        kprune.Pruner("model", sparsity=0.5)
    with pytest.raises(ValueError, match="has no weights yet"):
        kprune.Pruner(keras.Sequential([keras.layers.Dense(2)]), sparsity=0.5)
    with pytest.raises(ValueError, match="has no optimizer"):
        kprune.Pruner(sequential(), schedule=kprune.ConstantSparsity(0.5))


# --- Several optimizers ---------------------------------------------------------------


class Gan(keras.Model):
    """A generator and a discriminator, trained in turns, as Keras's guide has it."""

    def __init__(self):
        super().__init__()
        self.generator = keras.Sequential(
            [keras.layers.Input((4,)), keras.layers.Dense(16, activation="relu")]
            + [keras.layers.Dense(8)],
            name="generator",
        )
        self.discriminator = keras.Sequential(
            [keras.layers.Input((8,)), keras.layers.Dense(16, activation="relu")]
            + [keras.layers.Dense(1)],
            name="discriminator",
        )
        self.built = True

    def compile(self, critic_steps=1):
        super().compile()
        self.optimizer = None
        self.critic_steps = critic_steps
        self.d_optimizer = keras.optimizers.Adam(0.01)
        self.g_optimizer = keras.optimizers.Adam(0.01)

    def train_step(self, real):
        entropy = keras.losses.BinaryCrossentropy(from_logits=True)
        noise = keras.random.normal((16, 4))
        for _ in range(self.critic_steps):
            with tf.GradientTape() as tape:
                fake = self.discriminator(self.generator(noise))
                loss = entropy(tf.ones((16, 1)), self.discriminator(real))
                loss += entropy(tf.zeros((16, 1)), fake)
            weights = self.discriminator.trainable_weights
            self.d_optimizer.apply(tape.gradient(loss, weights), weights)
        with tf.GradientTape() as tape:
            fake = self.discriminator(self.generator(noise))
            g_loss = entropy(tf.ones((16, 1)), fake)
        weights = self.generator.trainable_weights
        self.g_optimizer.apply(tape.gradient(g_loss, weights), weights)
        return {"d_loss": loss, "g_loss": g_loss}


@pytest.fixture
def real():
    return np.random.default_rng(0).normal(size=(96, 8)).astype("float32")


def test_a_gan_prunes_its_generator_by_that_ones_optimizer(real):
    gan = Gan()
    gan.compile()
    callback = kprune.PruningCallback(
        sparsity=0.75, only=[gan.generator], optimizer=gan.g_optimizer
    )
    gan.fit(real, batch_size=16, epochs=4, verbose=0, callbacks=[callback])
    assert no_mask_is_broken(gan)
    assert len(callback.report.weights) == 2
    assert callback.report.sparsity == pytest.approx(0.75, abs=1e-2)


def test_a_gan_must_say_which_optimizer(real):
    gan = Gan()
    gan.compile()
    with pytest.raises(ValueError, match=r"d_optimizer, g_optimizer.*optimizer="):
        gan.fit(real, verbose=0, callbacks=[kprune.PruningCallback(sparsity=0.75)])


def test_an_optimizer_of_another_pace_is_told(real):
    gan = Gan()
    gan.compile(critic_steps=3)
    callback = kprune.PruningCallback(
        sparsity=0.75, only=[gan.discriminator], optimizer=gan.d_optimizer
    )
    with pytest.warns(WARNS, match="made 18 steps in an epoch of 6 batches"):
        gan.fit(real, batch_size=16, epochs=4, verbose=0, callbacks=[callback])
    assert no_mask_is_broken(gan)


def test_an_optimizer_that_trains_nothing_is_told(real):
    gan = Gan()
    gan.compile()
    callback = kprune.PruningCallback(
        schedule=kprune.ConstantSparsity(0.5), optimizer=keras.optimizers.SGD()
    )
    with pytest.warns(WARNS, match="made 0 steps in an epoch of 6 batches"):
        gan.fit(real, batch_size=16, epochs=2, verbose=0, callbacks=[callback])


def test_two_pruners_in_a_gan_of_ones_own(real):
    gan = Gan()
    gan.compile()
    schedule = kprune.ConstantSparsity(0.75, begin_step=1)
    pruners = [
        kprune.Pruner(model, kprune.Plan(kprune.Rule(schedule)), optimizer)
        for model, optimizer in (
            (gan.generator, gan.g_optimizer),
            (gan.discriminator, gan.d_optimizer),
        )
    ]
    train_step = tf.function(gan.train_step)
    for _ in range(4):
        train_step(real[:16])
        for pruner in pruners:
            pruner.step()
        assert no_mask_is_broken(gan)
    assert [p.sparsity for p in pruners] == pytest.approx([0.75, 0.75], abs=1e-2)
