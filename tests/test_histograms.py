import contextlib
import math
import multiprocessing
import threading
import zlib

import keras
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import kprune
from kprune import Global, Shard, histograms, sharded_masks
from kprune.granularity import keep_highest
from kprune.pruner import find_groups


class Ring:
    """Workers in threads of one process, whose sums wait for one another."""

    def __init__(self, num_workers):
        self.barrier = threading.Barrier(num_workers, timeout=20)
        self.said = [None] * num_workers
        self.sizes = []

    def all_reduce(self, worker):
        def summed(counts):
            self.said[worker] = counts
            self.barrier.wait()
            total = np.sum(self.said, axis=0)
            if worker == 0:
                self.sizes.append(counts.nbytes)
            self.barrier.wait()
            return total

        return summed


def outcomes(workers, shapes, sparsity, allocation=None, ring=None):
    """Returns what each worker gets from its call: masks, or an error."""
    ring = ring or Ring(len(workers))
    found = [None] * len(workers)

    def work(i):
        try:
            found[i] = sharded_masks(
                workers[i], shapes, sparsity, ring.all_reduce(i), allocation
            )
        except Exception as error:
            found[i] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def gathered(workers, shapes, sparsity, allocation=None, ring=None):
    """Returns whole masks by name, put together from those of all workers."""
    whole = {name: np.zeros(shape, np.int8) for name, shape in shapes.items()}
    found = outcomes(workers, shapes, sparsity, allocation, ring)
    for shards, masks in zip(workers, found, strict=True):
        if isinstance(masks, Exception):
            raise masks
        for shard, mask in zip(shards, masks, strict=True):
            assert mask.shape == shard.scores.shape and mask.dtype == bool
            whole[shard.weight][shard.index or ...] += 1 + mask
    assert all(np.isin(mask, (1, 2)).all() for mask in whole.values())
    return {name: mask == 2 for name, mask in whole.items()}


def on_one_machine(weights, sparsity, allocation=None):
    flat = [scores.reshape(-1) for scores in weights.values()]
    counts = (allocation or Global()).num_pruned(flat, sparsity)
    return {
        name: keep_highest(scores.reshape(-1), count).reshape(scores.shape)
        for (name, scores), count in zip(weights.items(), counts, strict=True)
    }


def shapes_of(weights):
    return {name: scores.shape for name, scores in weights.items()}


def pieces(shape, cuts):
    """Yields the slices of a grid, given per axis where it is cut."""
    ends = [sorted({0, n, *(c % (n + 1) for c in cs)}) for n, cs in zip(shape, cuts)]
    for corner in np.ndindex(*(len(axis) - 1 for axis in ends)):
        yield tuple(
            slice(axis[i], axis[i + 1]) for axis, i in zip(ends, corner, strict=True)
        )


def assert_same(found, expected):
    for name, mask in expected.items():
        np.testing.assert_array_equal(found[name], mask, name)


def alone(weights, sparsity, **options):
    """Returns the masks of one worker that has everything."""
    shards = [Shard(name, scores) for name, scores in weights.items()]
    masks = sharded_masks(
        shards, shapes_of(weights), sparsity, lambda x: x, **options
    )
    return dict(zip(weights, masks, strict=True))


# Every pair of these is hard to tell apart, or must not be.
HARD = [
    *(-np.inf, -3.5, -1.0, -(1 + 2**-23), -1e-45, -0.0, 0.0, 1e-45, 2e-45, 1e-38),
    *(1.0, 1 + 2**-23, 1 + 2**-7, 1 + 2**-7 + 2**-23, 65536.0, 3.4e38, np.inf),
]
few = st.integers(0, 4).map(float)
floats = st.floats(width=32, allow_nan=False)


@st.composite
def sharded_models(draw):
    elements = draw(st.sampled_from([few, st.sampled_from(HARD), floats]))
    num_workers = draw(st.sampled_from([1, 2, 3, 7]))
    workers = [[] for _ in range(num_workers)]
    weights = {}
    for i in range(draw(st.integers(1, 4))):
        shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6))
        name = f"w{9 - i}"  # Their order is that of the model, not of the names.
        weights[name] = draw(hnp.arrays(np.float32, shape, elements=elements))
        cuts = [draw(st.lists(st.integers(0, 6), max_size=2)) for _ in shape]
        for index in pieces(shape, cuts):
            worker = draw(st.integers(0, num_workers - 1))
            workers[worker].append(Shard(name, weights[name][index], index))
    return weights, [draw(st.permutations(shards)) for shards in workers]


@settings(deadline=None, max_examples=150)
@given(
    model=sharded_models(),
    sparsity=st.sampled_from([0.0, 0.1, 0.5, 0.8, 0.99]) | st.floats(0, 0.999),
    density=st.sampled_from([0.0, 0.0, 0.3, 1.0]),
)
def test_masks_are_those_of_one_machine_however_weights_are_cut(
    model, sparsity, density
):
    weights, workers = model
    allocation = Global(min_density=density)
    assert_same(
        gathered(workers, shapes_of(weights), sparsity, allocation),
        on_one_machine(weights, sparsity, allocation),
    )


def test_by_hand_with_ties_between_and_within_weights():
    weights = {
        "late": np.array([[2.0, 1.0, 1.0], [1.0, 3.0, 0.0]], "float32"),
        "early": np.array([1.0, 1.0, 5.0], "float32"),
    }
    # 0 goes, and of the five ones three: those of the first weight.
    found = alone(weights, 4 / 9)
    assert found["late"].tolist() == [[True, False, False], [False, True, False]]
    assert found["early"].tolist() == [True, True, True]
    # One of the two ones that come second goes, too.
    assert alone(weights, 5 / 9)["early"].tolist() == [False, True, True]
    # Of three only two: the first in C order, though workers have columns.
    workers = [
        [Shard("late", weights["late"][:, [c]], (slice(None), slice(c, c + 1)))]
        for c in (2, 0, 1)
    ]
    workers[1].append(Shard("early", weights["early"]))
    found = gathered(workers, shapes_of(weights), 3 / 9)
    assert found["late"].tolist() == [[True, False, False], [True, True, False]]


def test_zeros_of_either_sign_are_equal():
    weights = {"w": np.array([0.0, -0.0, 0.0, -0.0, 1e-45, -1e-45], "float32")}
    assert alone(weights, 3 / 6)["w"].tolist() == [False, False, True, True, True, False]


def test_infinities_are_the_ends_of_the_order():
    weights = {"w": np.array([np.inf, 3e38, -3e38, -np.inf], "float32")}
    for num_pruned, expected in enumerate(
        [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]
    ):
        assert alone(weights, num_pruned / 4)["w"].tolist() == expected


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float64", ">f4"])
def test_other_formats_rank_exactly(dtype):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(40, 25)).astype(dtype)
    assert_same(alone({"w": scores}, 0.7), on_one_machine({"w": scores}, 0.7))


def test_float64_is_told_apart_where_float32_could_not():
    scores = 1 + np.arange(7)[::-1] * 2.0**-52
    assert alone({"w": scores}, 3 / 7)["w"].tolist() == [True] * 4 + [False] * 3


def test_one_worker_with_float64_makes_all_rank_so():
    weights = {
        "wide": np.array([1 + 2.0**-40, 1 - 2.0**-40, 2.0]),
        "narrow": np.array([1.0, 1.0, 0.5], "float32"),
    }
    workers = [[Shard(name, scores)] for name, scores in weights.items()]
    for sparsity in (1 / 6, 2 / 6, 3 / 6, 4 / 6):
        assert_same(
            gathered(workers, shapes_of(weights), sparsity),
            on_one_machine(weights, sparsity),
        )


@pytest.mark.parametrize("size", [2**16 - 1, 2**16, 2**16 + 1, 200_000])
@pytest.mark.parametrize("share", [1e-5, 0.4, 0.9])
def test_all_equal_in_weights_around_one_digit_of_the_index(size, share):
    num_pruned = round(share * size)
    mask = alone({"w": np.full(size, 0.25, "float32")}, share)["w"]
    assert np.array_equal(np.flatnonzero(mask), np.arange(num_pruned, size))


def test_indices_are_counted_beyond_32_bits():
    # One row of a weight of 2**36 elements that nobody has as a whole.
    shard = Shard("w", np.zeros((1, 4), "float32"), (slice(5, 6), slice(0, 8, 2)))
    place = histograms._place(shard, ["w"], {"w": (2**33, 8)})
    assert place.in_weight(np.arange(4)).tolist() == [40, 42, 44, 46]
    shard = Shard("w", np.zeros((1, 8)), (slice(2**33 - 1, 2**33), slice(None)))
    place = histograms._place(shard, ["w"], {"w": (2**33, 8)})
    assert place.in_weight(np.array([7])).tolist() == [2**36 - 1]


def test_counts_beyond_32_bits_are_summed_exactly(monkeypatch):
    # Others have 2**33 scores of 0 and as many of 3: what comes from them is added.
    mine = np.array([1.0, 2.0], "float32")
    others = 2**33

    def all_reduce(counts):
        total = counts.copy()
        if counts.size == 4 and total[0] == 1:  # Settings: a worker alike.
            return 2 * total
        if counts.size == 4 and not counts[2:].any() and counts[1] == 0:
            return total  # Sizes and NaN; see below.
        if counts.size == 4:  # Below and equal: of the others the zeros are below.
            return total + [others, 0, 0, 0]
        if not upper:
            upper.append(True)
            total[0x8000] += others
            total[0x8000 + 0x4040] += others
        return total

    upper = []
    place = histograms._place(Shard("w", mine), ["w"], {"w": (2,)})
    workers = histograms._Workers([place], [2 * others + 2], np.float32, all_reduce)

    def reduce_counts(counts):
        return counts + others * np.array([1, 0]) if counts.size == 2 else (
            all_reduce(counts)
        )

    monkeypatch.setattr(histograms, "_summed", lambda _, counts: reduce_counts(counts))
    for n, score in ((others + 1, 1.0), (others + 2, 2.0)):
        upper.clear()
        (cut,), counts = workers.lowest([0], n)
        assert (cut.score, counts) == (score, [n])
