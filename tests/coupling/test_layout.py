"""Labels follow indices through reshapes and transpositions."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from kprune.coupling.layout import Block, Layout, reshaped


def channels(*shape, axis=-1, first=0):
    axis %= len(shape)
    labels = np.arange(first, first + shape[axis])
    return Layout(tuple(shape), (Block((axis,), labels),))


def spread(layout):
    """The label of each element of a tensor without unknown sizes."""
    (block,) = layout.blocks
    shape = [
        size if axis in block.axes else 1 for axis, size in enumerate(layout.shape)
    ]
    return np.broadcast_to(block.labels.reshape(shape), layout.shape)


@pytest.mark.parametrize(
    ("old", "axis", "new", "axes"),
    [
        ((1, 2, 3, 4), 3, (1, 24), (1,)),
        ((1, 24), 1, (1, 2, 3, 4), (1, 2, 3)),
        ((1, 2, 3, 4), 3, (1, 6, 4), (2,)),
        ((1, 2, 3, 4), 3, (1, 1, 6, 4, 1), (3,)),
        ((1, 1, 1, 8), 3, (1, 8), (1,)),
        ((1, 8), 1, (1, 1, 1, 8), (3,)),
        ((1, 8, 5), 1, (1, 2, 4, 5), (1, 2)),
    ],
)
def test_each_element_keeps_its_label(old, axis, new, axes):
    layout, lost = reshaped(channels(*old, axis=axis), new)
    assert lost.size == 0
    assert layout.blocks[0].axes == axes
    np.testing.assert_array_equal(
        spread(layout), spread(channels(*old, axis=axis)).reshape(new)
    )


@hypothesis.given(st.data())
@hypothesis.settings(deadline=None, derandomize=True)
def test_any_reshape_keeps_labels(data):
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    axis = data.draw(st.integers(1, len(sizes)))
    merged = data.draw(st.permutations(sizes))
    old, new = (1, *sizes), (1, *merged)
    before = channels(*old, axis=axis)
    after, lost = reshaped(before, new)
    if old[axis] == 1:  # A single index has no axis of its own to go along.
        assert lost.size or after.blocks[0].labels.size == 1
        return
    assert lost.size == 0
    np.testing.assert_array_equal(spread(after), spread(before).reshape(new))


def test_there_and_back_again_is_the_same():
    layout = channels(1, 7, 7, 16)
    flat, _ = reshaped(layout, (1, 7 * 7 * 16))
    back, _ = reshaped(flat, (1, 7, 7, 16))
    assert [b.axes for b in back.blocks] == [(3,)]
    np.testing.assert_array_equal(back.blocks[0].labels, layout.blocks[0].labels)


def test_unknown_sizes_pass_where_they_stay():
    layout = Layout((None, None, 8), (Block((2,), np.arange(8)),))
    split, lost = reshaped(layout, (None, None, 2, 4))
    assert lost.size == 0
    assert [b.axes for b in split.blocks] == [(2, 3)]


def test_labels_that_cannot_be_followed_are_named():
    layout = Layout((None, None, 8), (Block((2,), np.arange(8)),))
    _, lost = reshaped(layout, (None, None))
    assert sorted(lost) == list(range(8))


def test_two_labelled_axes_cannot_be_merged():
    both = (Block((1,), np.arange(2)), Block((2,), np.arange(2, 5)))
    _, lost = reshaped(Layout((1, 2, 3), both), (1, 6))
    assert sorted(lost) == [0, 1, 2, 3, 4]


def test_a_joint_block_passes_a_reshape_beside_it():
    joint = Layout((1, 2, 4, 6), (Block((1, 2), np.arange(8).reshape(2, 4)),))
    new, lost = reshaped(joint, (1, 2, 4, 2, 3))
    assert lost.size == 0
    assert new.blocks[0].axes == (1, 2)


def test_transposing_moves_labels_along():
    joint = Layout((1, 2, 3, 4), (Block((1, 3), np.arange(8).reshape(2, 4)),))
    moved = joint.moved([0, 3, 2, 1])
    assert moved.shape == (1, 4, 3, 2)
    np.testing.assert_array_equal(moved.blocks[0].labels, np.arange(8).reshape(2, 4).T)


def test_sizes_after_removal():
    layout = channels(None, 5, 4)
    alive = np.array([True, False, True, True])
    assert layout.new_shape(alive) == (None, 5, 3)
