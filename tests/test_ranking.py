import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kprune import ranking
from kprune.ranking import nth_lowest


@given(
    scores=hnp.arrays(
        np.float32,
        st.integers(1, 400),
        elements=st.sampled_from([0.0, 0.0, 0.0, -np.inf, 1.0, 2.0, 3.5]),
    ),
    share=st.floats(0, 1),
)
def test_it_is_the_nth_of_the_sorted_scores(scores, share):
    n = max(1, round(share * scores.size))
    assert nth_lowest(scores, n) == np.sort(scores)[n - 1]


@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.499, 0.5, 0.9, 0.905, 0.9999, 1.0])
def test_large_arrays_where_a_sample_leads_the_way(zeros, share):
    rng = np.random.default_rng(1)
    scores = rng.random(2**20 + 12345, dtype="float32")
    scores[rng.random(scores.size) < zeros] = 0
    n = max(1, round(share * scores.size))
    assert nth_lowest(scores, n) == np.sort(scores)[n - 1]


def test_a_sample_that_misleads_does_no_harm(monkeypatch):
    scores = np.random.default_rng(1).random(2**20 + 1, dtype="float32")
    for bounds in ((0.1, 0.2), (0.8, 0.9)):
        monkeypatch.setattr(ranking, "_bounds", lambda *_, bounds=bounds: bounds)
        assert nth_lowest(scores, 2**19) == np.sort(scores)[2**19 - 1]


def test_scores_are_left_alone():
    scores = np.array([3.0, 1.0, 2.0, 1.0])
    nth_lowest(scores, 3)
    assert scores.tolist() == [3.0, 1.0, 2.0, 1.0]
