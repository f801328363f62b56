import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kprune import Element


def test_golden_mask():
    scores = np.array([[0.9, 0.1, 0.5, 0.3], [0.2, 0.8, 0.4, 0.7]])
    expected = [[1, 0, 1, 0], [0, 1, 0, 1]]
    assert Element().mask(scores, num_pruned=4).astype(int).tolist() == expected


def test_ties_prune_the_lower_index():
    scores = np.array([[1.0, 1.0, 2.0, 1.0], [1.0, 2.0, 2.0, 1.0]])
    expected = [[0, 0, 1, 0], [1, 1, 1, 1]]
    assert Element().mask(scores, num_pruned=3).astype(int).tolist() == expected


def test_all_equal_scores_are_still_cut_exactly():
    # tfmot prunes nothing here.
    mask = Element().mask(np.ones((4, 4)), num_pruned=8)
    assert mask.ravel().tolist() == [False] * 8 + [True] * 8


def test_nothing_and_everything():
    scores = np.arange(6.0).reshape(2, 3)
    assert Element().mask(scores, num_pruned=0).all()
    assert not Element().mask(scores, num_pruned=6).any()


@pytest.mark.parametrize("num_pruned", [-1, 7])
def test_more_than_there_is_is_refused(num_pruned):
    with pytest.raises(ValueError, match="between 0 and the number of units, 6"):
        Element().mask(np.ones((2, 3)), num_pruned)


@given(
    scores=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=1, max_dims=4, max_side=9),
        elements=st.integers(0, 5).map(float),
    ),
    share=st.floats(0, 1),
)
def test_counts_are_exact_and_what_is_kept_scores_highest(scores, share):
    num_pruned = round(share * scores.size)
    before = scores.copy()
    mask = Element().mask(scores, num_pruned)
    assert mask.shape == scores.shape and mask.dtype == bool
    assert np.count_nonzero(~mask) == num_pruned
    # A stable sort says which: lower scores first, then lower indices.
    order = np.argsort(scores.ravel(), kind="stable")
    assert set(np.flatnonzero(~mask.ravel())) == set(order[:num_pruned])
    np.testing.assert_array_equal(scores, before)
