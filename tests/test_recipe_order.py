"""The order in which epochs go through arrays."""

import keras
import numpy as np
import pytest

from kprune.recipe.order import shuffled

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
