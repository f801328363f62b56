import ml_dtypes
import numpy as np
import pytest

from kprune.config import concrete_subclasses
from kprune.criteria import Criterion, Magnitude

CRITERIA = {cls.__name__: cls for cls in concrete_subclasses(Criterion)}


def test_magnitude_by_hand():
    weight = np.array([[-3.0, 0.5], [0.0, -0.25]], "float32")
    assert Magnitude().score(weight).tolist() == [[3.0, 0.5], [0.0, 0.25]]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", CRITERIA)
def test_scores_have_the_weights_shape_and_leave_it_alone(name, dtype):
    weight = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(dtype)
    before = weight.copy()
    scores = CRITERIA[name]().score(weight)
    assert scores.shape == weight.shape
    assert scores.dtype in (np.float32, np.float64)
    assert not np.shares_memory(scores, weight)
    np.testing.assert_array_equal(weight, before)


@pytest.mark.parametrize("name", CRITERIA)
def test_scores_are_the_same_again(name):
    weight = np.random.default_rng(0).normal(size=(5, 5)).astype("float32")
    np.testing.assert_array_equal(
        CRITERIA[name]().score(weight), CRITERIA[name]().score(weight)
    )
