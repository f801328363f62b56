"""The algebra of clustering: which values elements share."""

import numpy as np
import pytest

from kprune.axes import Axes
from kprune.clustering import INITS, Clustering, centroids, sharing_of


def pruned_normal(size, seed=0):
    array = np.random.default_rng(seed).normal(size=size).astype("float32")
    array[np.abs(array) < 1] = 0
    return array


def test_clusters_by_hand():
    array = np.array([[-3.0, 0, 1], [1.5, 0, 5]], "float32")
    codes, shared = Clustering(4).assign(array)
    np.testing.assert_array_equal(codes, [[1, 0, 2], [2, 0, 3]])
    np.testing.assert_array_equal(shared, [[-3, 0, 1.25], [1.25, 0, 5]])
    assert shared.dtype == np.float32 and codes.dtype == np.int32


def test_clusters_per_channel_by_hand():
    # Two outputs, one per column; each has two values beside zero.
    array = np.array([[1, 10], [1, 0], [2, 20], [4, 21]], "float32")
    settings, axes = Clustering(3, per_channel=True), Axes("io")
    codes, shared = settings.assign(array, axes)
    third = np.float32(4 / 3)
    np.testing.assert_array_equal(codes, [[1, 3], [1, 0], [1, 4], [2, 4]])
    np.testing.assert_array_equal(
        shared, np.array([[third, 10], [third, 0], [third, 20.5], [4, 20.5]], "float32")
    )
    assert settings.num_values(shared, axes) == 3
    assert Clustering(3).num_values(shared) == 5
    assert settings.is_clustered(shared, axes)
    assert not settings.is_clustered(array, axes)
    assert settings.num_codes(array.shape, axes) == 5


@pytest.mark.parametrize("letters", ["ssio", "ssoi", "sioo"])
def test_channels_lie_where_the_axes_say(letters):
    array, axes = pruned_normal((3, 4, 5, 6)), Axes(letters)
    settings = Clustering(4, per_channel=True)
    codes, shared = settings.assign(array, axes)
    arranged = axes.arranged(shared)
    for row, of_codes in zip(arranged, axes.arranged(codes), strict=True):
        assert len(np.unique(row)) <= 4
        assert len(np.unique(of_codes)) <= 4
    assert len(np.unique(codes[codes > 0])) > 4
    np.testing.assert_array_equal(shared == 0, array == 0)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("number", [2, 4, 16, 64])
def test_zeros_stay_and_values_are_few(number, init):
    array = pruned_normal((50, 40))
    codes, shared = Clustering(number, init=init).assign(array)
    assert len(np.unique(shared)) == number
    np.testing.assert_array_equal(shared == 0, array == 0)
    np.testing.assert_array_equal(codes == 0, array == 0)
    for code in range(1, number):
        inside = codes == code
        assert len(np.unique(shared[inside])) == 1
        assert shared[inside][0] == pytest.approx(array[inside].mean(), rel=1e-5)


def test_a_value_is_kept_free_for_zeros_to_come():
    array = np.arange(1, 101, dtype="float32")
    assert len(np.unique(Clustering(4).assign(array)[1])) == 3


@pytest.mark.parametrize("init", INITS)
def test_k_means_ends_where_that_of_scikit_learn_does(init):
    from sklearn.cluster import KMeans

    elements = np.random.default_rng(1).gamma(2, size=2000)
    begin = {
        "linear": np.linspace(elements.min(), elements.max(), 6),
        "density": np.sort(elements)[((np.arange(6) + 0.5) / 6 * 2000).astype(int)],
    }[init]
    theirs = KMeans(6, init=begin[:, None], n_init=1, tol=0, max_iter=1000)
    theirs.fit(elements[:, None])
    np.testing.assert_allclose(
        centroids(elements, 6, init), np.sort(theirs.cluster_centers_[:, 0]), rtol=1e-6
    )


def test_no_cluster_lies_in_the_gap_that_pruning_leaves():
    elements = np.r_[np.linspace(-10, -9, 50), np.linspace(9, 10, 50)]
    means = centroids(elements, 8, "linear")
    assert len(means) == 8 and np.abs(means).min() > 9


def test_what_has_few_values_keeps_them():
    array = np.array([0, 0.1, 0.1, -0.3, 7], "float32")
    np.testing.assert_array_equal(Clustering(4).assign(array)[1], array)
    again = Clustering(16).assign(pruned_normal(1000))[1]
    np.testing.assert_array_equal(Clustering(16).assign(again)[1], again)


def test_the_same_weight_gives_the_same_clusters():
    first, second = (Clustering().assign(pruned_normal(5000)) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_what_is_clustered_already():
    assert Clustering(4).is_clustered(np.array([0, 1, 2, 3, 3.0]))
    assert not Clustering(4).is_clustered(np.array([1, 2, 3, 4.0, 4]))  # And zero.
    assert not Clustering(4).is_clustered(np.ones(9))
    assert not Clustering(4).is_clustered(np.zeros(9))


@pytest.mark.parametrize(
    ("error", "said", "arguments"),
    [
        (ValueError, "at least 2", dict(num_clusters=1)),
        (TypeError, "must be an int", dict(num_clusters=16.0)),
        (TypeError, "must be an int", dict(num_clusters=True)),
        (TypeError, "True or False", dict(per_channel=1)),
        (ValueError, "one of .'linear', 'density'.", dict(init="kmeans++")),
    ],
)
def test_bad_settings(error, said, arguments):
    with pytest.raises(error, match=said):
        Clustering(**arguments)


RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.tile([[0, 1], [2, 0]], (8, 8)), Clustering(3)),
        (np.tile([[0, 1], [2, 3], [3, 2], [1, 0]], (4, 1)), Clustering(4)),
        (np.tile([[1, 3], [2, 4]], (8, 1)), Clustering(3, per_channel=True)),
        (np.tile(np.arange(1, 65), (4, 4)), Clustering(65)),
        (np.tile(np.arange(1, 66), (4, 4)), None),  # One too many.
        (np.tile(np.arange(1, 17), (3, 1)), None),  # Three elements of each.
        (RANDOM.normal(size=(64, 64)), None),
        (RANDOM.normal(size=(64, 64)) * (RANDOM.random((64, 64)) > 0.99), None),
        (np.ones((8, 8)), None),
        (np.eye(8), None),
        (np.zeros((8, 8)), None),
        (np.tile([1.0, 2.0], 50), None),  # A vector.
    ],
)
def test_shared_values_are_told_from_free_ones(array, expected):
    assert sharing_of(array.astype(np.float32)) == expected
