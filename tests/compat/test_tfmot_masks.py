"""tfmot's masks by its own numbers: elements, blocks, and m by n."""

import json

import keras
import numpy as np
import pytest
import tfmot_models as case

import kprune
import kprune.compat.tfmot as sparsity
from kprune.axes import Axes
from kprune.granularity import Block

L = keras.layers


@pytest.mark.parametrize(("target", "kept"), [(0.9999, 1), (0.5, 50), (0.0, 100)])
def test_of_a_hundred_weights_so_many_are_kept(target, kept):
    mask = case.mask_at_once(np.arange(1, 101).reshape(10, 10), target)
    assert mask.ravel().tolist() == [False] * (100 - kept) + [True] * kept


def test_the_threshold_is_kept():
    mask = case.mask_at_once(np.arange(1, 11).reshape(2, 5), 0.200000018)
    assert mask.ravel().tolist() == [False] * 2 + [True] * 8


def test_equal_weights_are_pruned_by_number():
    """tfmot keeps all of them."""
    mask = case.mask_at_once(np.ones((4, 5)), 0.75)
    assert mask.sum() == 5


def test_each_step_prunes_what_a_list_says():
    @keras.saving.register_keras_serializable("tests")
    class Listed(sparsity.PruningSchedule):
        amounts = [0, 0.1, 0.1, 0.3, 0.3, 0.5]

        def __call__(self, step):
            return True, self.amounts[min(int(step), 5)]

        def get_config(self):
            return {"class_name": "Listed", "config": {}}

    model = sparsity.prune_low_magnitude(case.matrix(10, 10), Listed())
    counts = [100]
    for _ in case.loop(model, steps=9, learning_rate=0.0):
        counts.append(int(np.count_nonzero(model.trainable_variables[0])))
    assert counts == [100, 90, 90, 70, 70, 50, 50, 50, 50, 50]


AVERAGED = [[0.1, 0.1, 0.2, 0.2]] * 2 + [[0.3, 0.3, 0.4, 0.4]] * 2
HIGHEST = [[0.1, 0, 0, 0.2], [0, -0.1, -0.2, 0], [0.3, 0, 0, 0.4], [0, -0.3, -0.4, 0]]


@pytest.mark.parametrize(
    ("weight", "pooling"), [(AVERAGED, "AVG"), (HIGHEST, "MAX")], ids=["AVG", "MAX"]
)
def test_blocks_of_two_by_two(weight, pooling):
    mask = case.mask_at_once(weight, block_size=(2, 2), block_pooling_type=pooling)
    assert mask.astype(int).tolist() == [[0] * 4] * 2 + [[1] * 4] * 2


@pytest.mark.parametrize(("pooling", "kept"), [("AVG", 0), ("MAX", 1)])
def test_the_mean_of_a_block_is_not_its_highest(pooling, kept):
    weight = [[2, 2, 5, 0], [2, 2, 1, 1]]
    mask = case.mask_at_once(weight, block_size=(2, 2), block_pooling_type=pooling)
    assert mask[:, ::2].tolist() == [[kept == 0, kept == 1]] * 2


def test_a_block_is_given_by_inputs_and_outputs():
    weight = np.full((4, 8), 2.0)
    weight[:, 3] = 1  # All inputs of one output.
    mask = case.mask_at_once(weight, 1 / 8, block_size=(4, 1))
    assert np.argwhere(~mask.any(axis=0)).tolist() == [[3]]
    assert mask.sum() == 28


def test_blocks_of_embeddings_are_words_and_dimensions():
    model = keras.Sequential([L.Input((3,)), L.Embedding(8, 4)])
    table = np.full((8, 4), 2.0)
    table[6] = 1
    model.layers[0].embeddings.assign(table)
    pruned = sparsity.prune_low_magnitude(
        model, sparsity.ConstantSparsity(1 / 8, 0), block_size=(1, 4)
    )
    case.begin(pruned)
    (mask,) = case.masks(pruned).values()
    assert np.argwhere(~mask).tolist() == [[6, i] for i in range(4)]


def test_kernels_with_a_window_have_blocks_too():
    """tfmot takes matrices only."""
    weight = np.arange(1, 33).reshape(1, 2, 4, 4)
    mask = case.mask_at_once(weight, block_size=(4, 1))
    assert mask[0, 0].sum() == 0 and mask[0, 1].all()
    weight = np.arange(1, 33).reshape(2, 4, 4)
    assert case.mask_at_once(weight, block_size=(4, 1))[0].sum() == 0


@pytest.mark.parametrize("shape", [(4, 8), (1, 8)])
def test_one_row_of_blocks_will_do(shape):
    """tfmot fails in training."""
    weight = np.arange(1, 1 + shape[0] * shape[1]).reshape(shape)
    mask = case.mask_at_once(weight, block_size=(shape[0], 4))
    assert mask.sum() == mask.size // 2


@pytest.mark.parametrize(
    ("weight", "m_by_n", "expected"),
    [
        (
            [[0.74, 0.68], [-0.89, -0.45], [-1.68, 1.24], [0.31, -0.6]],
            (2, 4),
            [[0, 1], [1, 0], [1, 1], [0, 0]],
        ),
        (
            [[[[-0.36, -0.77], [-0.43, -0.18], [0.12, 1.36], [0.77, 0.96]]]],
            (2, 4),
            [[[[0, 0], [1, 0], [0, 1], [1, 1]]]],
        ),
        (
            [[[[-0.36, -0.77], [-0.43, -0.18], [0.12, 1.36], [0.77, 0.96]]]],
            (1, 2),
            [[[[0, 1], [1, 0], [0, 1], [1, 0]]]],
        ),
        # Filled up with zeros.
        (
            [[1.92, -0.21], [-0.19, 0.57], [1.1, -0.42]],
            (2, 4),
            [[1, 0], [0, 1], [1, 1]],
        ),
        (
            [[[[-0.37, 1.85], [0.82, 0.07], [1.17, 0.5]]]],
            (2, 4),
            [[[[0, 1], [1, 0], [1, 1]]]],
        ),
    ],
)
def test_m_by_n_by_hand(weight, m_by_n, expected):
    mask = case.mask_at_once(weight, sparsity_m_by_n=m_by_n)
    assert mask.astype(int).tolist() == expected


@pytest.mark.parametrize(
    ("rows", "m_by_n", "expected"),
    [
        (
            [[-0.49, -0.66, 0.42], [0.31, 0.63, -1.63]],
            (2, 4),
            [[1, 1, 0], [0, 1, 1]],
        ),
        (
            [[-0.49, -0.66, 0.42], [0.31, 0.63, -1.63]],
            (1, 2),
            [[0, 1, 1], [0, 1, 1]],
        ),
        (
            [[0.25, -1.33, 0.43, -0.11], [0.47, 0.92, -0.13, -2.23]],
            (2, 4),
            [[0, 1, 1, 0], [0, 1, 0, 1]],
        ),
        (
            [[1.71, -0.27, -0.3, -0.61, -0.19], [-0.4, 1.12, 0.46, -1.12, 0.17]],
            (3, 5),
            [[1, 0, 0, 1, 0], [0, 1, 0, 1, 0]],
        ),
    ],
)
def test_groups_of_a_row_by_hand(rows, m_by_n, expected):
    target = m_by_n[0] / m_by_n[1]
    mask = case.mask_at_once(np.transpose(rows), target, sparsity_m_by_n=m_by_n)
    assert mask.T.astype(int).tolist() == expected


def test_one_input_makes_no_group_and_that_is_said():
    """tfmot says nothing."""
    with pytest.warns(kprune.PruningWarning) as warned:
        model = sparsity.prune_low_magnitude(case.matrix(1, 2), sparsity_m_by_n=(2, 4))
    said = [str(warning.message) for warning in warned]
    assert "1 inputs are too few for a group of 2:4" in said[0]
    assert "nothing of" in said[1]
    assert case.masks(model) == {}


def test_kernels_of_one_dimension_have_groups_too():
    """tfmot fails in training."""
    weight = np.arange(1, 17).reshape(1, 8, 2)
    mask = case.mask_at_once(weight, sparsity_m_by_n=(2, 4))
    assert mask[0, :, 0].astype(int).tolist() == [0, 0, 1, 1] * 2


@pytest.mark.parametrize("window", [(1, 1), (4, 4), (1, 4), (4, 1), (1, 8), (8, 1)])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooling_by_axes_is_pooling_of_windows(window, pooling):
    scores = np.abs(np.random.default_rng(0).normal(size=(1024, 2048)))
    if window == (1, 1):
        units = kprune.Element()
    else:
        units = Block(window, pooling)
    h, w = window
    cut = scores.reshape(1024 // h, h, 2048 // w, w)
    expected = getattr(np, pooling)(cut, axis=(1, 3))
    np.testing.assert_allclose(units.unit_scores(scores), expected.ravel())


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_windows_that_do_not_divide_pool_what_is_there(pooling):
    scores = np.abs(np.random.default_rng(0).normal(size=(1024, 2048)))
    expected = [
        getattr(np, pooling)(scores[i : i + 6, j : j + 6])
        for i in range(0, 1024, 6)
        for j in range(0, 2048, 6)
    ]
    found = Block((6, 6), pooling).unit_scores(scores)
    np.testing.assert_allclose(found, expected)


def test_masks_of_blocks_are_kronecker_products():
    units = np.random.default_rng(0).random((256, 256)) < 0.5
    mask = Block((4, 2)).expand(units.ravel(), np.zeros((1024, 512)))
    np.testing.assert_array_equal(mask, np.kron(units, np.ones((4, 2))) == 1)


@pytest.mark.parametrize(
    ("letters", "shape", "lines"),
    [("io", (4, 3), (3, 4)), ("ssio", (5, 5, 3, 4), (100, 3))],
)
def test_groups_lie_along_the_inputs(letters, shape, lines):
    weight = np.arange(np.prod(shape)).reshape(shape)
    arranged = Axes(letters).arranged(weight)
    assert arranged.reshape(-1, arranged.shape[-1]).shape == lines
    np.testing.assert_array_equal(Axes(letters).restored(arranged, shape), weight)


# What is refused, where tfmot fails in training or not at all.


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (dict(block_pooling_type="MIN"), ValueError, "must be 'AVG' or 'MAX'"),
        (dict(block_pooling_type="avg"), ValueError, "must be 'AVG' or 'MAX'"),
        (dict(block_pooling_type=None), ValueError, "must be 'AVG' or 'MAX'"),
        (dict(block_pooling_type=["AVG"]), ValueError, "must be 'AVG' or 'MAX'"),
        (dict(block_size=(0, 1)), ValueError, "two integers of at least 1"),
        (dict(block_size=(4,)), ValueError, "two integers of at least 1"),
        (dict(block_size=4), ValueError, "two integers of at least 1"),
        (dict(block_size=("1", "4")), ValueError, "two integers of at least 1"),
        (dict(block_size=(1.0, 4)), ValueError, "two integers of at least 1"),
        (dict(block_size=(1, 2, 4)), ValueError, "two integers of at least 1"),
        (dict(block_size=(True, 4)), ValueError, "two integers of at least 1"),
        (dict(block_size=None), ValueError, "two integers of at least 1"),
        (dict(sparsity_m_by_n=(4, 4)), ValueError, "m must be less than n"),
        (dict(sparsity_m_by_n=(5, 4)), ValueError, "m must be less than n"),
        (dict(sparsity_m_by_n=(0, 4)), ValueError, "must be two integers"),
        (dict(sparsity_m_by_n=(2, 4, 8)), ValueError, "must be two integers"),
        (dict(sparsity_m_by_n=2), ValueError, "must be two integers"),
        (dict(sparsity_m_by_n="2:4"), ValueError, "must be two integers"),
        (dict(sparsity_m_by_n=(2, 65)), ValueError, "a group of at most 64"),
        (dict(sparsity_m_by_n=(2.0, 4.0)), ValueError, "must be two integers"),
        (
            dict(sparsity_m_by_n=(2, 4), block_size=(1, 4)),
            ValueError,
            "either `block_size` or `sparsity_m_by_n`",
        ),
        (dict(pruning_policy="xnnpack"), TypeError, "must be a PruningPolicy"),
        (
            dict(pruning_policy=sparsity.PruneForLatencyOnXNNPack),
            TypeError,
            r"such as .*PruneForLatencyOnXNNPack\(\)",
        ),
    ],
)
def test_arguments_that_cannot_be_are_refused_at_once(arguments, error, match):
    with pytest.raises(error, match=match):
        sparsity.prune_low_magnitude(L.Dense(4), **arguments)


def test_a_block_that_is_larger_than_a_weight_is_refused_at_once():
    with pytest.raises(ValueError, match="is larger than the weight"):
        sparsity.prune_low_magnitude(case.matrix(4, 4), block_size=(8, 1))


def test_sizes_of_numpy_are_taken_as_they_come():
    def granularity(**arguments):
        rule = sparsity.prune_low_magnitude(L.Dense(4), **arguments).rule
        json.dumps(keras.saving.serialize_keras_object(rule))
        return rule.granularity

    assert granularity(block_size=np.array([4, 2])) == Block((2, 4), "mean")
    for groups in (np.array([1, 4]), [np.int64(1), 4]):
        assert granularity(sparsity_m_by_n=groups) == kprune.NofM(3, 4, "pad")


@pytest.mark.parametrize("nothing", [None, (), 0, np.array([])])
def test_no_groups_means_none(nothing):
    mask = case.mask_at_once(np.arange(1, 9).reshape(2, 4), sparsity_m_by_n=nothing)
    assert mask.ravel().tolist() == [False] * 4 + [True] * 4


def test_groups_at_a_step_of_a_schedule_with_another_sparsity():
    ramp = sparsity.PolynomialDecay(0.0, 0.8, 3, 9)
    with pytest.warns(kprune.PruningWarning, match="all masks are made at once, at s"):
        layer = sparsity.prune_low_magnitude(L.Dense(4), ramp, sparsity_m_by_n=(2, 4))
    assert layer.rule.schedule == kprune.ConstantSparsity(0.5, 3)
    ramp = sparsity.PolynomialDecay(0.0, 0.5, 3, 9)
    layer = sparsity.prune_low_magnitude(L.Dense(4), ramp, sparsity_m_by_n=(2, 4))
    assert layer.rule.schedule == kprune.PolynomialDecay(0.0, 0.5, 3, 9, 3, 100)
    layer = sparsity.prune_low_magnitude(L.Dense(4), sparsity_m_by_n=(1, 4))
    assert layer.rule.schedule == kprune.ConstantSparsity(0.25, 0)


def test_of_half_a_weight_what_is_pruned_is_rounded():
    """tfmot rounds what is kept, and keeps two."""
    assert case.mask_at_once([[1, 2, 3, 4, 5]], 0.5).sum() == 3
