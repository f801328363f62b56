"""Searches that copy callbacks, build models anew and load weights: KerasTuner.

Optuna, which does none of it, is on docs/pruning.md, whose code tests run.
"""

import keras
import keras_tuner
import numpy as np
import pytest

import kprune

L = keras.layers
pytestmark = [
    pytest.mark.slow,
    # KerasTuner's own.
    pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning"),
]


def build(hp=None):
    model = keras.Sequential(
        [L.Input((20,)), L.Dense(32, activation="relu"), L.Dense(3)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


class Pruned(keras_tuner.HyperModel):
    """Searches for the sparsity; the objective is that of the last epoch."""

    def __init__(self):
        super().__init__()
        self.reports = []

    def build(self, hp):
        return build()

    def fit(self, hp, model, *args, callbacks=(), **kwargs):
        sparsity = hp.Choice("sparsity", [0.5, 0.9])
        pruning = kprune.PruningCallback(sparsity)
        fit = model.fit(*args, callbacks=[*callbacks, pruning], **kwargs)
        self.reports.append((sparsity, pruning.report.sparsity))
        return fit.history["val_accuracy"][-1]


@pytest.fixture
def search(tmp_path):
    def search(hypermodel, max_trials, **kwargs):
        random = np.random.default_rng(0)
        x, y = random.normal(size=(64, 20)), random.integers(0, 3, 64)
        tuner = keras_tuner.GridSearch(
            hypermodel,
            keras_tuner.Objective("default_objective", "max")
            if isinstance(hypermodel, Pruned)
            else "val_accuracy",
            max_trials=max_trials,
            directory=str(tmp_path),
        )
        tuner.search(x, y, epochs=2, validation_split=0.25, verbose=0, **kwargs)
        return tuner

    return search


def test_keras_tuner_searches_for_the_sparsity(search):
    hypermodel = Pruned()
    search(hypermodel, max_trials=2)
    assert {asked for asked, _ in hypermodel.reports} == {0.5, 0.9}
    for asked, reached in hypermodel.reports:
        assert reached == pytest.approx(asked, abs=1e-3)


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_one_callback_prunes_each_trial_of_a_search(search):
    callback = kprune.PruningCallback(schedule=kprune.ConstantSparsity(0.8))
    tuner = search(build, max_trials=1, callbacks=[callback])
    (model,) = tuner.get_best_models(1)
    kernels = [layer.kernel.numpy() for layer in model.layers]
    zeros = sum(np.count_nonzero(kernel == 0) for kernel in kernels)
    assert zeros == round(0.8 * sum(kernel.size for kernel in kernels))
