import numpy as np
import pytest

from kprune.inspection import patterns


def rows(*texts):
    """Zeros as dots: one text per output channel."""
    return np.array([[letter == "." for letter in text] for text in texts])


def scattered(sparsity, shape=(32, 64), seed=0):
    return np.random.default_rng(seed).random(shape) < sparsity


def test_zero_channels():
    zeros = rows("x.x.", "....", "x.xx")
    assert patterns.zero_channels(zeros, 0).tolist() == [False, True, False]
    assert patterns.zero_channels(zeros, -1).tolist() == [False, True, False, False]


TWO_OF_FOUR = rows("xx..x.x.", ".xx...xx", "x..xxx..", "..xx.x.x")


def test_n_of_m():
    assert patterns.n_of_m(TWO_OF_FOUR, 4) == 2
    assert patterns.n_of_m(TWO_OF_FOUR, 8) is None  # Too few groups to tell.
    assert patterns.n_of_m(rows(*["x....", ".x..."] * 8), 4) is None  # 5 is no 4s.
    broken = TWO_OF_FOUR.copy()
    broken[0] = False
    assert patterns.n_of_m(broken, 4) is None
    assert patterns.n_of_m(np.ones((8, 8), bool), 4) is None
    assert patterns.n_of_m(np.zeros((8, 8), bool), 4) is None


@pytest.mark.parametrize(
    ("texts", "length", "expected"),
    [
        (["xx.."], 4, 2),
        (["xx.."], 2, None),
        (["x.x."], 2, 1),
        (["xxxx"], 4, None),
        (["...."], 4, None),  # Nothing is left, which is no pattern of groups.
        (["xx.x", "..xx"], 4, None),
        # At most two in each: where not exactly two, zeros may be scattered.
        (["xx..", "...x", ".xx."], 4, None),
        # tfmot fills the last group up; runtimes do not.
        (["xx..xx"], 4, None),
        (["xx..xx."], 4, None),
    ],
)
def test_n_of_m_by_the_rows_of_tfmots_checker(texts, length, expected):
    assert patterns.n_of_m(rows(*texts * 16), length) == expected


BLOCKS = rows(*["xxxx....", "....xxxx", "xxxxxxxx", "xxxx...."] * 2)


def test_blocks_along_inputs_and_outputs():
    assert patterns.in_blocks(BLOCKS, (1, 4))
    assert patterns.in_blocks(BLOCKS.T, (4, 1))
    assert not patterns.in_blocks(BLOCKS, (1, 8))
    assert not patterns.in_blocks(np.roll(BLOCKS, 1, axis=1), (1, 4))
    assert not patterns.in_blocks(rows(*["xxx...xxx..."] * 8), (1, 4))


def test_blocks_of_outputs_and_inputs_and_whole_kernels():
    square = np.repeat(np.repeat(scattered(0.5, (8, 16)), 4, axis=0), 4, axis=1)
    assert patterns.in_blocks(square, (4, 4)) and patterns.in_blocks(square, (2, 4))
    assert not patterns.in_blocks(np.roll(square, 1, axis=0), (4, 4))
    kernels = np.broadcast_to(scattered(0.5, (8, 1, 1, 16)), (8, 3, 3, 16))
    assert patterns.in_kernels(kernels)
    assert not patterns.in_kernels(scattered(0.5, (8, 3, 3, 16)))
    assert not patterns.in_kernels(scattered(0.5, (8, 1, 1, 16)))


CHANNELS = scattered(0.0)
CHANNELS[:8] = True
BOTH = CHANNELS.copy()
BOTH[:, 5] = True
MIXED = CHANNELS | scattered(0.7)


@pytest.mark.parametrize(
    ("zeros", "words"),
    [
        (scattered(0.0), "dense"),
        (scattered(0.02), "dense"),  # What rounding to int8 leaves behind.
        (np.ones((4, 4), bool), "all zero"),
        (np.zeros((0, 4), bool), "dense"),
        (np.array([True, False]), "unstructured"),
        (scattered(0.5), "unstructured"),
        (scattered(0.9, (256, 256)), "unstructured"),
        (CHANNELS, "8 of 32 output channels"),
        (CHANNELS.T, "8 of 32 input channels"),
        (BOTH, "8 of 32 output channels + 1 of 64 input channels"),
        (MIXED, "8 of 32 output channels + unstructured"),
        (np.tile(TWO_OF_FOUR, (4, 4)), "2:4 along inputs"),
        (
            np.concatenate([np.ones((4, 8), bool), np.tile(TWO_OF_FOUR, (4, 1))]),
            "4 of 20 output channels + 2:4 along inputs",
        ),
        (np.repeat(scattered(0.5, (32, 16)), 4, axis=1), "blocks of 4 inputs"),
        (np.repeat(scattered(0.5, (32, 16)), 16, axis=1), "blocks of 16 inputs"),
        (np.repeat(scattered(0.5, (16, 64)), 2, axis=0), "blocks of 2 outputs"),
        (np.tile(TWO_OF_FOUR[:, None], (4, 3, 4)), "2:4 along inputs"),
        (
            np.repeat(np.repeat(scattered(0.5, (8, 16)), 4, axis=0), 2, axis=1),
            "blocks of 4 outputs x 2 inputs",
        ),
        (
            np.broadcast_to(scattered(0.5, (8, 1, 1, 16)), (8, 3, 3, 16)),
            "whole kernels",
        ),
    ],
)
def test_patterns_by_hand(zeros, words):
    assert patterns.describe(zeros) == words


def test_scattered_zeros_are_never_taken_for_groups():
    for sparsity in (0.3, 0.5, 0.75, 0.95):
        for seed in range(20):
            words = patterns.describe(scattered(sparsity, seed=seed))
            assert words.endswith("unstructured"), (sparsity, seed)
