"""The order in which epochs go through arrays."""

import keras
import models
import numpy as np
import pytest

from kprune.recipe import Prune, Recipe, Train, running
from kprune.recipe.order import shuffled

L = keras.layers
NUMBERS = np.arange(10, dtype="float64")


def _epochs(epochs, seed=3):
    """Returns the numbers of each epoch, whose batches are of four, four and two."""
    batches = [x.numpy() for (x,) in shuffled((NUMBERS,), 4, seed, epochs)]
    assert [len(batch) for batch in batches] == [4, 4, 2] * len(epochs)
    return [np.concatenate(batches[i : i + 3]) for i in range(0, len(batches), 3)]


def test_each_epoch_has_all_samples_in_an_order_of_its_own():
    epochs = _epochs(range(3))
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), NUMBERS)
        assert epoch.dtype == "float32"
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert not np.array_equal(_epochs(range(1), seed=4)[0], epochs[0])


@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_the_order_follows_from_the_seed_and_the_epoch_alone(first):
    whole = _epochs(range(3))
    keras.utils.set_random_seed(first)  # Which must not matter.
    later = _epochs(range(first, 3))
    assert len(later) == 3 - first
    for one, other in zip(later, whole[first:], strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_parts_of_a_sample_stay_together():
    x = {"a": NUMBERS.astype("uint8"), "b": [NUMBERS, NUMBERS[:, None] * [1, 2]]}
    given = (x, NUMBERS.astype(str), None)
    for x, y in shuffled(given, 4, 0, range(2)):
        a = x["a"].numpy()
        assert a.dtype == "uint8"
        assert [int(float(text)) for text in y.numpy()] == a.tolist()
        one, two = x["b"]
        np.testing.assert_array_equal(one, a)
        np.testing.assert_array_equal(two, a[:, None] * [1, 2])


def test_a_recipe_shuffles_anew_in_each_epoch(tmp_path, monkeypatch):
    """Keras would repeat one order, since a recipe sets the seed."""
    for name, value in (("_try_out", None), ("_rows", []), ("_dense_rows", [])):
        monkeypatch.setattr(running.Running, name, lambda *_, value=value: value)
    orders, steps = [], []
    fit = keras.Model.fit

    def watched(model, x, **kwargs):
        orders.append([float(value) for each, _ in x for (value,) in each])
        history = fit(model, x, **kwargs)
        steps.append(int(model.optimizer.iterations))
        return history

    monkeypatch.setattr(keras.Model, "fit", watched)
    model = models.compiled(keras.Sequential([keras.Input((1,)), L.Dense(2)]))
    x = np.arange(10.0)[:, None]
    Recipe((Train(epochs=2), Prune(0.5, epochs=1)), batch_size=4).run(
        model, (x, np.arange(10) % 2), (x, np.arange(10) % 2), tmp_path, verbose=0
    )
    assert steps == [6, 3]
    assert [len(order) for order in orders] == [20, 10]
    assert orders[0][:10] != orders[0][10:]
