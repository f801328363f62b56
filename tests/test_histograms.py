import threading

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


def outcomes(workers, shapes, sparsities, allocation=None, ring=None):
    """Returns what each worker gets from its call: masks, or an error.

    Workers have the same sparsity, unless there is one for each.
    """
    ring = ring or Ring(len(workers))
    if isinstance(sparsities, float):
        sparsities = [sparsities] * len(workers)
    found = [None] * len(workers)

    def work(i):
        try:
            found[i] = sharded_masks(
                workers[i], shapes, sparsities[i], ring.all_reduce(i), allocation
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
    ends = [
        sorted({0, n, *(c % (n + 1) for c in cs)})
        for n, cs in zip(shape, cuts, strict=True)
    ]
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
    masks = sharded_masks(shards, shapes_of(weights), sparsity, lambda x: x, **options)
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
            workers[worker].append(Shard(name, np.asarray(weights[name][index]), index))
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
    assert alone(weights, 3 / 6)["w"].tolist() == [
        False,
        False,
        True,
        True,
        True,
        False,
    ]


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


def test_counts_beyond_32_bits_are_summed_exactly():
    # Of others there are 2**33 zeros, as their sums say.
    mine, others = np.array([1.0, 2.0, 3.0], "float32"), 2**33

    def all_reduce(counts):
        total = counts.copy()
        if counts.size == 2:  # Below the score, and equal to it.
            total[0] += others
        elif not upper:
            upper.append(True)
            total[2**15] += others  # The upper digit of zero.
        return total

    place = histograms._place(Shard("w", mine), ["w"], {"w": (3,)})
    workers = histograms._Workers([place], [others + 3], np.float32, all_reduce)
    for n, score in ((others + 1, 1.0), (others + 2, 2.0)):
        upper = []
        (cut,), counts = workers.lowest([0], n)
        assert (cut.score, counts) == (score, [n])


@pytest.mark.parametrize("num_workers", [1, 2, 3, 7])
def test_the_mask_of_a_model_is_that_of_the_callback(num_workers):
    model = keras.Sequential(
        [
            keras.layers.Input((8, 8, 2)),
            keras.layers.Conv2D(12, 3),
            keras.layers.Flatten(),
            keras.layers.Dense(20),
            keras.layers.Dense(3),
        ]
    )
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]
    weights = {kernel.path: np.abs(kernel.numpy()) for kernel in kernels}
    workers = [[] for _ in range(num_workers)]
    for name, scores in weights.items():  # Rows, as evenly as it goes.
        ends = np.linspace(0, len(scores), num_workers + 1).astype(int)
        for worker, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
            index = (slice(start, end), *[slice(None)] * (scores.ndim - 1))
            workers[worker].append(Shard(name, scores[index], index))
    ring = Ring(num_workers)
    found = gathered(workers, shapes_of(weights), 0.8, ring=ring)
    plan = kprune.Plan(kprune.Rule(kprune.ConstantSparsity(0.8), allocation="global"))
    pruner = kprune.Pruner(model, plan, keras.optimizers.SGD())
    assert pruner.sparsity == pytest.approx(0.8, abs=1e-3)
    for kernel in kernels:
        mask = kernel.constraint.mask.numpy()
        np.testing.assert_array_equal(found[kernel.path], mask, kernel.path)
    assert sum(ring.sizes) < 2**20 + 200 and max(ring.sizes) == 2**19


def test_what_is_pruned_stays_so_and_replicas_count_once():
    scores = np.array([5.0, 4.0, 3.0, 2.0], "float32")
    mask = np.array([False, True, True, True])
    workers = [[Shard("w", scores, mask=mask, replica_id=i)] for i in range(3)]
    for masks in outcomes(workers, {"w": (4,)}, 0.5):
        assert masks[0].tolist() == [False, True, True, False]


def refusals(workers, sparsities=0.5):
    return list(map(str, outcomes(workers, {"w": (4,)}, sparsities)))


def test_all_workers_are_told_what_is_wrong():
    left = Shard("w", np.ones(2, "float32"), (slice(0, 2),))
    right = Shard("w", np.ones(2, "float32"), (slice(2, 4),))
    broken = Shard("w", np.array([1.0, np.nan], "float32"), (slice(2, 4),))
    for workers, sparsities, match in (
        ([[left], []], (0.5, 0.5), "'w' have 2 elements, and it has 4"),
        ([[left, right], [right]], (0.5, 0.5), "'w' have 6 elements"),
        ([[left], [broken]], (0.5, 0.5), "1 scores of 'w' are NaN"),
        ([[left], [right]], (0.5, 0.6), "different `shapes`"),
    ):
        found = refusals(workers, sparsities)
        assert all(match in told for told in found), found
    assert "first is at (3,) of 'w'" in refusals([[left], [broken]])[1]


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Shard(3, np.ones(2)), TypeError, "the weight's name"),
        (lambda: Shard("w", [1.0]), TypeError, "must be a NumPy array"),
        (lambda: Shard("w", np.ones(2, int)), TypeError, "must be a NumPy array"),
        (lambda: Shard("w", np.ones(2), 3), TypeError, "tuple of slices"),
        (lambda: Shard("w", np.ones(2), ()), ValueError, "slice for each axis"),
        (lambda: Shard("w", np.ones(2), mask=np.ones(2)), ValueError, "boolean"),
        (lambda: alone({"w": np.ones(2)}, 1.0), ValueError, "sparsity"),
        (
            lambda: alone({"w": np.ones(2)}, 0.5, allocation=kprune.Uniform()),
            TypeError,
            "must be a kprune.Global",
        ),
        (
            lambda: sharded_masks([Shard("v", np.ones(2))], {"w": (2,)}, 0.5, int),
            ValueError,
            "does not name",
        ),
        (
            lambda: sharded_masks([Shard("w", np.ones(2))], {"w": (3,)}, 0.5, int),
            ValueError,
            "Give `index`",
        ),
        (
            lambda: sharded_masks(
                [Shard("w", np.ones(2))], {"w": (2,)}, 0.5, lambda x: x * 1.0
            ),
            TypeError,
            "must return an int64 array",
        ),
    ],
)
def test_bad_input_is_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()
