import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kprune import Block, Element, Kernel, NofM


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


# --- Blocks ---------------------------------------------------------------------------


def ones_and_zeros(mask):
    return mask.astype(int).tolist()


def test_blocks_by_hand():
    # The golden case of tensorflow-model-optimization, as runtimes store the kernel.
    scores = np.array([[0.1, 0.1, 0.2, 0.2]] * 2 + [[0.3, 0.3, 0.4, 0.4]] * 2)
    for pooling in ("mean", "max", "l2"):
        mask = Block((2, 2), pooling).mask(scores, 2)
        assert ones_and_zeros(mask) == [[0] * 4] * 2 + [[1] * 4] * 2


def test_pooling_by_hand():
    scores = np.array([[3.0, 3.0, 0.0, 5.0]])
    assert Block((1, 2)).unit_scores(scores).tolist() == [3.0, 2.5]
    assert Block((1, 2), "max").unit_scores(scores).tolist() == [3.0, 5.0]
    expected = [3.0, math.sqrt(12.5)]
    assert Block((1, 2), "l2").unit_scores(scores).tolist() == pytest.approx(expected)


def test_blocks_at_the_edge_are_scored_by_their_own_elements():
    scores = np.array([[1.0, 1.0, 9.0], [4.0, 4.0, 2.0], [5.0, 1.0, 3.0]])
    expected = [1.0, 9.0, 4.0, 2.0, 3.0, 3.0]
    assert Block((1, 2)).unit_scores(scores).tolist() == expected
    assert Block((2, 2)).unit_scores(scores).tolist() == [2.5, 5.5, 3.0, 3.0]
    assert ones_and_zeros(Block((1, 2)).mask(scores, 2)) == [
        [0, 0, 1],
        [1, 1, 0],
        [1, 1, 1],
    ]


def test_two_sizes_are_outputs_and_inputs_whatever_is_between():
    scores = np.random.default_rng(0).random((4, 3, 3, 8))
    block = Block((1, 4)).mask(scores, 20)
    np.testing.assert_array_equal(block, Block((1, 1, 1, 4)).mask(scores, 20))


def test_none_is_a_whole_axis():
    scores = np.random.default_rng(0).random((4, 3, 3, 8))
    mask = Block((1, None, None, 1)).mask(scores, 20)
    np.testing.assert_array_equal(mask, Kernel("mean").mask(scores, 20))
    assert np.isin(mask.sum(axis=(1, 2)), (0, 9)).all()
    assert Block((1, None)).unit_scores(scores[:, 0, 0]).shape == (4,)


def test_kernels_without_a_window_are_elements():
    scores = np.random.default_rng(0).random((4, 8))
    np.testing.assert_array_equal(
        Kernel().mask(scores, 9), Element().mask(scores, num_pruned=9)
    )


@given(st.data())
def test_blocks_of_any_size_on_weights_of_any_shape(data):
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=4, max_side=7))
    sizes = tuple(data.draw(st.integers(1, n)) for n in shape)
    if max(sizes) == 1:
        return
    # Of all places in the order of runtimes, or in Keras's: as a transposed view.
    order = data.draw(st.permutations(range(len(shape))))
    base = np.random.default_rng(data.draw(st.integers(0, 9))).random(
        [shape[axis] for axis in order]
    )
    scores = base.transpose(np.argsort(order))
    block = Block(sizes, data.draw(st.sampled_from(["mean", "max", "l2"])))
    starts = [range(0, n, b) for n, b in zip(shape, sizes, strict=True)]
    places = [
        tuple(slice(i, i + b) for i, b in zip(start, sizes, strict=True))
        for start in itertools.product(*starts)
    ]
    pool = {"mean": np.mean, "max": np.max, "l2": lambda x: np.sqrt(np.mean(x**2))}
    pooled = np.array([pool[block.pooling](scores[place]) for place in places])
    np.testing.assert_allclose(block.unit_scores(scores), pooled, rtol=1e-12)
    found = {size: n for size, n in block.unit_sizes(shape).items() if n}
    counted = [scores[place].size for place in places]
    assert found == {size: counted.count(size) for size in set(counted)}
    num_pruned = data.draw(st.integers(0, len(places)))
    mask = block.mask(scores, num_pruned)
    kept = np.array([mask[place].all() for place in places])
    assert [mask[place].any() for place in places] == kept.tolist()
    assert np.sum(~kept) == num_pruned
    if 0 < num_pruned < len(places):
        assert pooled[~kept].max() <= pooled[kept].min()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (((4,),), "at least two sizes"),
        ((4,), "at least two sizes"),
        (((0, 4),), "at least 1"),
        (((1.5, 4),), "Received 1.5"),
        (((True, 4),), "Received True"),
        (((1, 1),), r"kprune\.Element\(\)"),
        (((1, 4), "avg"), r"\['l2', 'max', 'mean'\]|one of"),
    ],
)
def test_blocks_refuse(arguments, match):
    with pytest.raises(ValueError, match=match):
        Block(*arguments)


def test_blocks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"1x16 is larger .*shape \(4, 3, 3, 8\)"):
        Block((1, 16)).why_dense((4, 3, 3, 8))
    with pytest.raises(ValueError, match="has 3 sizes"):
        Block((1, 2, 2)).why_dense((4, 3, 3, 8))


# --- N:M ------------------------------------------------------------------------------


def all_groups(granularity, scores):
    return granularity.mask(scores, granularity.unit_scores(scores).size)


@pytest.mark.parametrize(
    ("granularity", "kernel", "expected"),
    [
        # The golden cases of tensorflow-model-optimization, kernels as Keras has them;
        # its m:n are m zeros of n.
        (
            NofM(2, 4),
            [[0.74, 0.68], [-0.89, -0.45], [-1.68, 1.24], [0.31, -0.6]],
            [[0, 1], [1, 0], [1, 1], [0, 0]],
        ),
        (
            NofM(2, 4),
            [[-0.36, -0.77], [-0.43, -0.18], [0.12, 1.36], [0.77, 0.96]],
            [[0, 0], [1, 0], [0, 1], [1, 1]],
        ),
        (
            NofM(1, 2),
            [[-0.36, -0.77], [-0.43, -0.18], [0.12, 1.36], [0.77, 0.96]],
            [[0, 1], [1, 0], [0, 1], [1, 0]],
        ),
        (
            NofM(2, 4, "pad"),
            [[1.92, -0.21], [-0.19, 0.57], [1.1, -0.42]],
            [[1, 0], [0, 1], [1, 1]],
        ),
        (
            NofM(2, 4, "pad"),
            [[-0.37, 1.85], [0.82, 0.07], [1.17, 0.5]],
            [[0, 1], [1, 0], [1, 1]],
        ),
        (
            NofM(2, 5),
            [[1.71, -0.4], [-0.27, 1.12], [-0.3, 0.46], [-0.61, -1.12], [-0.19, 0.17]],
            [[1, 0], [0, 1], [0, 0], [1, 1], [0, 0]],
        ),
    ],
)
def test_n_of_m_by_hand(granularity, kernel, expected):
    scores = np.abs(np.array(kernel)).T
    assert ones_and_zeros(all_groups(granularity, scores).T) == expected


def test_groups_of_least_loss_go_first():
    scores = np.array([[9.0, 8.0, 7.0, 6.0, 1.0, 5.0, 5.0, 1.0, 0.0, 9.0, 9.0, 3.0]])
    assert NofM(2, 4).unit_scores(scores).tolist() == [13.0, 2.0, 3.0]
    one = NofM(2, 4).mask(scores, 1)
    assert ones_and_zeros(one) == [[1, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1]]
    two = NofM(2, 4).mask(scores, 2)
    assert ones_and_zeros(two) == [[1, 1, 1, 1, 0, 1, 1, 0, 0, 1, 1, 0]]


def test_ties_in_a_group_prune_the_lower_index():
    mask = all_groups(NofM(2, 4), np.ones((2, 8)))
    assert ones_and_zeros(mask) == [[0, 0, 1, 1] * 2] * 2


def test_what_does_not_divide():
    with pytest.raises(ValueError, match="multiple of 4 along the input axis.* 7"):
        NofM(2, 4).why_dense((5, 7))
    scores = np.arange(1.0, 8.0)[None]
    dense, pad = NofM(2, 4, "dense"), NofM(2, 4, "pad")
    assert ones_and_zeros(all_groups(dense, scores)) == [[0, 0, 1, 1, 1, 1, 1]]
    assert ones_and_zeros(all_groups(pad, scores)) == [[0, 0, 1, 1, 0, 1, 1]]
    assert dense.unit_sizes((5, 7)) == {2: 5}
    assert pad.unit_sizes((5, 7)) == {2: 5, 1: 5}
    # Two left over are as many as may be kept.
    assert pad.unit_sizes((5, 6)) == {2: 5}
    assert "too few for a group" in pad.why_dense((5, 2))
    assert "too few for a group" in dense.why_dense((5, 3))


@given(st.data())
def test_n_of_m_on_weights_of_any_shape(data):
    m = data.draw(st.integers(2, 9))
    n = data.draw(st.integers(1, m - 1))
    lead = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
    inputs = data.draw(st.integers(1, 25))
    remainder = data.draw(st.sampled_from(["dense", "pad"]))
    values = np.random.default_rng(data.draw(st.integers(0, 9)))
    # Inputs last, as runtimes have them, but first in memory, as Keras has.
    scores = np.moveaxis(values.integers(0, 5, (inputs, *lead)).astype("f4"), 0, -1)
    granularity = NofM(n, m, remainder)
    mask = all_groups(granularity, scores)
    for line, kept in zip(
        scores.reshape(-1, inputs), mask.reshape(-1, inputs), strict=True
    ):
        for start in range(0, inputs, m):
            group, left = line[start : start + m], kept[start : start + m]
            most = group.size if group.size < m and remainder == "dense" else n
            best = np.argsort(group, kind="stable")[::-1][:most]
            assert set(np.flatnonzero(left)) == set(best)
    num_units = granularity.unit_scores(scores).size
    num_pruned = data.draw(st.integers(0, num_units))
    some = granularity.mask(scores, num_pruned)
    assert not (~some & mask).any()
    losses = granularity.unit_scores(scores)
    changed = granularity.unit_scores(some * (scores + 1)) == 0
    assert changed.sum() == num_pruned
    if 0 < num_pruned < num_units:
        assert losses[changed].max() <= losses[~changed].min()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((4, 4), ValueError, "1 <= n < m"),
        ((0, 4), ValueError, "1 <= n < m"),
        ((2, 65), ValueError, "64"),
        ((2.0, 4), TypeError, "`n` must be an integer"),
        ((2, 4, "drop"), ValueError, "refuse"),
    ],
)
def test_n_of_m_refuses(arguments, error, match):
    with pytest.raises(error, match=match):
        NofM(*arguments)


def test_the_share_of_groups_follows_the_sparsity():
    assert NofM(2, 4).share(0.25) == 0.5
    assert NofM(2, 4).share(0.5) == 1.0
    assert NofM(1, 3).share(2 / 3) == NofM(1, 3).share(1 - 1 / 3) == 1.0
