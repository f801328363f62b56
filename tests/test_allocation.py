import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kprune import Global, Lamp, Uniform
from kprune.allocation import Allocation
from kprune.config import concrete_subclasses

ALLOCATIONS = {cls.__name__: cls for cls in concrete_subclasses(Allocation)}

score_lists = st.lists(
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.integers(0, 6).map(float)),
    min_size=1,
    max_size=5,
)


def test_uniform_rounds_for_each_weight():
    scores = [np.arange(10.0), np.arange(5.0), np.arange(3.0)]
    assert Uniform().num_pruned(scores, 0.5) == [5, 2, 2]


def test_global_by_hand():
    scores = [np.array([1.0, 2.0, 9.0]), np.array([3.0, 8.0, 7.0])]
    assert Global().num_pruned(scores, 0.5) == [2, 1]


def test_global_ties_take_the_earlier_weight_first():
    scores = [np.ones(4), np.array([1.0, 0.5, 1.0]), np.ones(3)]
    assert Global().num_pruned(scores, 0.5) == [3, 2, 0]


def test_global_never_takes_a_whole_weight():
    scores = [np.zeros(4), np.arange(1.0, 7.0)]
    assert Global().num_pruned(scores, 0.5) == [3, 2]


def test_a_floor_is_kept_and_the_total_all_the_same():
    scores = [np.zeros(100), np.arange(1.0, 101.0)]
    assert Global(min_density=0.2).num_pruned(scores, 0.5) == [80, 20]


def test_a_floor_above_the_density_asked_for_becomes_uniform():
    scores = [np.zeros(100), np.arange(1.0, 101.0)]
    assert Global(min_density=0.9).num_pruned(scores, 0.5) == [50, 50]


def test_floor_out_of_range_is_refused():
    with pytest.raises(ValueError, match="min_density"):
        Global(min_density=1.5)


def lamp_counts_by_definition(scores, total):
    """The formula, unit by unit, and a plain sort of everything."""
    entries = []
    for i, weight in enumerate(scores):
        ascending = sorted(weight.tolist())
        for rank, score in enumerate(ascending):
            tail = sum(s**2 for s in ascending[rank:])
            entries.append((score**2 / tail if score else 0.0, i, rank))
    counts = [0] * len(scores)
    for _, i, _ in sorted(entries)[:total]:
        counts[i] += 1
    return counts


def test_lamp_by_definition():
    rng = np.random.default_rng(0)
    scores = [rng.random(30) * scale for scale in (1.0, 0.01, 100.0)]
    scores[1] **= 3
    for sparsity in (0.1, 0.5, 0.9):
        expected = lamp_counts_by_definition(scores, round(sparsity * 90))
        assert Lamp().num_pruned(scores, sparsity) == expected


def test_lamp_does_not_depend_on_a_weights_scale():
    rng = np.random.default_rng(0)
    scores = [rng.random(50), rng.random(70) ** 2]
    scaled = [scores[0] * 1000, scores[1]]
    assert Lamp().num_pruned(scores, 0.7) == Lamp().num_pruned(scaled, 0.7)


def test_lamp_prunes_what_is_zero_first():
    scores = [np.array([0.0, 0.0, 0.0, 5.0]), np.arange(1.0, 9.0)]
    assert Lamp().num_pruned(scores, 0.25) == [3, 0]
    assert Lamp().num_pruned(scores, 2 / 12) == [2, 0]


def test_lamp_of_a_sample_is_close_and_the_total_exact():
    rng = np.random.default_rng(0)
    scores = [np.abs(rng.normal(size=n)) for n in (40_000, 3_000, 300)]
    exact = Lamp().num_pruned(scores, 0.8)
    sampled = Lamp(max_sample=4_000).num_pruned(scores, 0.8)
    assert sum(exact) == sum(sampled) == round(0.8 * 43_300)
    assert sampled == pytest.approx(exact, abs=0.02 * 40_000)
    assert exact != sampled  # or else the sample was none


def test_lamp_refuses_an_empty_sample():
    with pytest.raises(ValueError, match="max_sample"):
        Lamp(max_sample=0)


@pytest.mark.parametrize("name", ALLOCATIONS)
@given(scores=score_lists, sparsity=st.floats(0, 0.999))
def test_each_weight_keeps_a_unit_and_gives_no_more_than_it_has(name, scores, sparsity):
    counts = ALLOCATIONS[name]().num_pruned(scores, sparsity)
    assert len(counts) == len(scores)
    assert all(0 <= c < s.size for c, s in zip(counts, scores, strict=True))


@pytest.mark.parametrize("name", sorted(set(ALLOCATIONS) - {"Uniform"}))
@given(scores=score_lists, sparsity=st.floats(0, 0.999))
def test_the_total_is_exact(name, scores, sparsity):
    sizes = [s.size for s in scores]
    counts = ALLOCATIONS[name]().num_pruned(scores, sparsity)
    assert sum(counts) == min(round(sparsity * sum(sizes)), sum(sizes) - len(sizes))


@pytest.mark.parametrize("name", ALLOCATIONS)
@given(scores=score_lists, sparsities=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)))
def test_more_sparsity_never_frees_a_weight(name, scores, sparsities):
    low, high = sorted(sparsities)
    allocation = ALLOCATIONS[name]()
    fewer = allocation.num_pruned(scores, low)
    more = allocation.num_pruned(scores, high)
    assert all(a <= b for a, b in zip(fewer, more, strict=True))


@given(scores=score_lists, sparsity=st.floats(0, 0.999))
def test_global_takes_the_lowest_of_all(scores, sparsity):
    """Where no weight would be taken whole, against a plain sort of everything."""
    total = round(sparsity * sum(s.size for s in scores))
    owner = np.repeat(np.arange(len(scores)), [s.size for s in scores])
    order = np.argsort(np.concatenate(scores), kind="stable")
    expected = np.bincount(owner[order[:total]], minlength=len(scores)).tolist()
    if all(e < s.size for e, s in zip(expected, scores, strict=True)):
        assert Global().num_pruned(scores, sparsity) == expected
