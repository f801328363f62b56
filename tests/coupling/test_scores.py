"""Units are scored by all their members, and chosen with multiples and floors."""

import keras
import numpy as np
import pytest

import kprune
from kprune.coupling.graph import analyse
from kprune.coupling.scores import allowed_size, choose, unit_scores

L = keras.layers


def two_layers():
    model = keras.Sequential(
        [L.Input((2,)), L.Dense(3, name="a"), L.Dense(2, name="b")]
    )
    model.get_layer("a").kernel.assign([[3.0, 0.0, 0.0], [4.0, 5.0, 0.0]])
    model.get_layer("b").kernel.assign([[0.0, 1.0], [0.0, 3.0], [2.0, 0.0]])
    return model


def test_a_score_is_the_mean_of_the_members_normalised_norms():
    coupling = analyse(two_layers())
    scores = unit_scores(coupling, kprune.Magnitude())[coupling.groups[0].units]
    # Norms 5, 5, 0 of the columns, mean 10/3; norms 1, 3, 2 of the rows, mean 2.
    np.testing.assert_allclose(scores, [(1.5 + 0.5) / 2, (1.5 + 1.5) / 2, 0.5])


def test_scores_do_not_depend_on_a_members_scale():
    model = two_layers()
    coupling = analyse(model)
    before = unit_scores(coupling, kprune.Magnitude())
    layer = model.get_layer("b")
    layer.kernel.assign(layer.kernel * 1000)
    np.testing.assert_allclose(unit_scores(coupling, kprune.Magnitude()), before)


def test_the_lowest_go_and_ties_to_the_lower_index():
    coupling = analyse(two_layers())
    scores = np.array([1.0, 1.0, 2.0, 0.0, 0.0])
    removed = choose(
        coupling, coupling.groups, scores, 1 / 3, kprune.Uniform(), kprune.Channel()
    )
    assert list(np.flatnonzero(removed)) == [0]


@pytest.mark.parametrize(
    ("wanted", "multiple", "floor", "expected"),
    [
        (20, 1, 1, 20),
        (20, 8, 1, 24),  # Half-way goes up.
        (19, 8, 1, 16),
        (3, 8, 1, 8),
        (31, 8, 1, 32),
        (3, 1, 6, 6),
        (3, 8, 10, 16),
        (36, 16, 1, 36),  # All of them are as good as a multiple.
        (35, 16, 1, 36),
        (33, 16, 1, 32),
    ],
)
def test_sizes_are_the_nearest_that_are_allowed(wanted, multiple, floor, expected):
    model = keras.Sequential([L.Input((2,)), L.Dense(36, name="a"), L.Dense(2)])
    coupling = analyse(model)
    granularity = kprune.Channel(multiple=multiple, min_channels=floor)
    size = allowed_size(coupling, coupling.groups[0], wanted, granularity)
    assert size == expected


def test_multiples_count_channels_where_several_go_as_one():
    model = keras.Sequential(
        [
            L.Input((4, 4, 2)),
            L.Conv2D(32, 1, name="a"),
            L.GroupNormalization(8),
            L.Conv2D(2, 1),
        ]
    )
    coupling = analyse(model)
    # Units of 4 channels: a multiple of 8 channels is a multiple of 2 units.
    size = allowed_size(coupling, coupling.groups[0], 5, kprune.Channel(multiple=8))
    assert size == 6


@pytest.mark.parametrize("allocation", [kprune.Uniform(), kprune.Global()])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.99])
def test_no_group_is_emptied(allocation, sparsity):
    model = two_layers()
    coupling = analyse(model)
    scores = unit_scores(coupling, kprune.Magnitude())
    removed = choose(
        coupling, coupling.groups, scores, sparsity, allocation, kprune.Channel()
    )
    for group in coupling.groups:
        assert not removed[group.units].all()
