import numpy as np
import pytest
import settings
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kprune import Erk, Explicit, Global, Lamp, Threshold, Uniform
from kprune.allocation import Facts

ALLOCATIONS = {
    "Uniform": Uniform(),
    "Global": Global(),
    "Lamp": Lamp(),
    "Erk": Erk(),
    "Explicit": Explicit({"w1": 0.5}),
    "Threshold": Threshold(2.0),
    "Global with a floor": Global(min_density=0.3),
    "Lamp with a floor": Lamp(min_density=0.3),
}


def facts(scores):
    """Names, and the shape of a dense kernel of as many elements, for each weight."""
    return [Facts((f"w{i}",), (1, s.size)) for i, s in enumerate(scores)]


def test_every_allocation_is_tried():
    assert {type(a) for a in settings.ALLOCATIONS} <= {
        type(a) for a in ALLOCATIONS.values()
    }


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
    counts = ALLOCATIONS[name].num_pruned(scores, sparsity, facts(scores), final=0.999)
    assert len(counts) == len(scores)
    assert all(0 <= c < s.size for c, s in zip(counts, scores, strict=True))


@pytest.mark.parametrize("name", ["Global", "Lamp"])
@given(scores=score_lists, sparsity=st.floats(0, 0.999))
def test_the_total_is_exact(name, scores, sparsity):
    sizes = [s.size for s in scores]
    counts = ALLOCATIONS[name].num_pruned(scores, sparsity)
    assert sum(counts) == min(round(sparsity * sum(sizes)), sum(sizes) - len(sizes))


@pytest.mark.parametrize("name", ALLOCATIONS)
@given(scores=score_lists, sparsities=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)))
def test_more_sparsity_never_frees_a_weight(name, scores, sparsities):
    low, high = sorted(sparsities)
    allocation, known = ALLOCATIONS[name], facts(scores)
    fewer = allocation.num_pruned(scores, low, known, final=0.99)
    more = allocation.num_pruned(scores, high, known, final=0.99)
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


@pytest.mark.parametrize("allocation", [Global(), Lamp()])
def test_a_floor_holds_for_each_weight(allocation):
    scores = [np.linspace(0.01, 1, 100) ** 9, np.ones(100), np.linspace(0.9, 1, 100)]
    assert max(allocation.num_pruned(scores, 0.6)) > 80
    floored = type(allocation)(min_density=0.2)
    counts = floored.num_pruned(scores, 0.6)
    assert max(counts) == 80 and sum(counts) == 180


# --- ERK ------------------------------------------------------------------------------

# The kernels of LeNet-5: outputs, window, inputs.
LENET = [(6, 5, 5, 1), (16, 5, 5, 6), (120, 400), (84, 120), (10, 84)]


def erk(shapes, sparsity):
    known = [Facts((str(shape),), shape) for shape in shapes]
    counts = Erk().num_pruned([np.ones(np.prod(s)) for s in shapes], sparsity, known)
    return [1 - c / np.prod(s) for c, s in zip(counts, shapes, strict=True)]


def test_erk_by_its_equation():
    # All of them within bounds: the factor is 0.1 * 61470 / 867, as many weights as are
    # left over the sum of all sizes of axes.
    factor = 0.1 * 61_470 / 867
    ratios = [17 / 150, 32 / 2400, 520 / 48_000, 204 / 10_080, 94 / 840]
    expected = [factor * ratio for ratio in ratios]
    assert erk(LENET, 0.9) == pytest.approx(expected, abs=0.01)
    # Twice as many: the first and the last would be above 1, and stay dense.
    densities = erk(LENET, 0.8)
    assert densities[0] == densities[4] == 1.0
    ratios = [sum(shape) / np.prod(shape) for shape in LENET]
    factors = [d / r for d, r in zip(densities, ratios, strict=True) if d < 1]
    assert factors == pytest.approx([factors[0]] * 3, rel=0.01)
    kept = sum(d * np.prod(s) for d, s in zip(densities, LENET, strict=True))
    sizes = sum(np.prod(shape) for shape in LENET)
    assert kept == pytest.approx(0.2 * sizes, abs=len(LENET))


def test_erk_without_dense_layers_is_the_plain_equation():
    # 20 / 100 and 110 / 1000 of equal factor, by hand: factor = 0.1 * 1100 / 130.
    assert erk([(10, 10), (10, 100)], 0.9) == pytest.approx(
        [0.2 * 110 / 130, 0.11 * 110 / 130], abs=0.006
    )


def test_erk_of_nothing_pruned_and_of_equal_layers():
    assert erk(LENET, 0.0) == [1.0] * 5
    assert erk([(20, 30)] * 3, 0.8) == pytest.approx([0.2] * 3)


def test_erk_needs_shapes():
    with pytest.raises(ValueError, match="`facts` must be 1"):
        Erk().num_pruned([np.ones(3)], 0.5)


# --- Explicit and thresholds ----------------------------------------------------------

NAMED = [Facts(("m/conv/kernel", "conv")), Facts(("m/head/kernel", "head"))]


def test_explicit_ramps_with_the_schedule_and_others_follow_it():
    allocation = Explicit({"conv": 0.5})
    scores = [np.ones(100), np.ones(100)]
    assert allocation.num_pruned(scores, 0.8, NAMED, final=0.8) == [50, 80]
    assert allocation.num_pruned(scores, 0.4, NAMED, final=0.8) == [25, 40]
    assert allocation.num_pruned(scores, 0.4, NAMED) == [50, 40]
    assert allocation.asked([100, 300], 0.8, NAMED, 0.8) == pytest.approx(0.725)


def test_explicit_takes_the_first_pattern_that_matches():
    allocation = Explicit({"*conv*": 0.0, "*": 0.9})
    assert allocation.num_pruned([np.ones(10)] * 2, 0.5, NAMED) == [0, 9]


@pytest.mark.parametrize(
    ("mapping", "error", "match"),
    [
        ({"a": 1.0}, ValueError, r"`a` is the fraction of zeros"),
        ({"a": 50}, ValueError, r"Did you mean 0\.5\?"),
        ({3: 0.5}, TypeError, "named by patterns"),
        ({}, ValueError, "at least one"),
    ],
)
def test_explicit_refuses(mapping, error, match):
    with pytest.raises(error, match=match):
        Explicit(mapping)


def test_explicit_says_what_was_probably_meant():
    with pytest.raises(ValueError, match="'haed' matches nothing.*mean 'head'"):
        Explicit({"haed": 0.5}).check(NAMED)


def test_a_threshold_takes_what_is_below_up_to_the_sparsity():
    scores = [np.array([0.1, 0.2, 0.9]), np.array([0.3, 0.8, 0.7])]
    assert Threshold(0.5).num_pruned(scores, 0.99) == [2, 1]
    assert Threshold(0.3).num_pruned(scores, 0.99) == [2, 0]
    assert Threshold(0.5).num_pruned(scores, 1 / 3) == [2, 0]
    assert Threshold(9.0).num_pruned(scores, 0.99) == [2, 2]
    assert Threshold(9.0, min_density=0.5).num_pruned(scores, 0.99) == [1, 1]


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan")])
def test_a_threshold_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match="positive and finite"):
        Threshold(value)
