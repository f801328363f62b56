"""Which values the elements of a weight share, zero among them.

This module changes when values are chosen in another way.
"""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from kprune.axes import Axes

INITS = ("linear", "density")
_MOST_ROUNDS = 1000
_MOST_SHARED = 64  # Fewer than int8 has, on which any weight may have been rounded.


@dataclasses.dataclass(frozen=True)
class Clustering:
    """How many values the elements of a weight may have, and how these are found.

    Source: Han, Mao and Dally, "Deep compression", 2016,
    https://arxiv.org/abs/1510.00149, section 3: k-means of a weight's elements. Zero is
    always one of the values, and zeros stay zeros: the other values are the means of
    clusters of what is not zero. In one dimension clusters are intervals, so that the
    steps of Lloyd's algorithm need sorted values and their running sums only.

    Args:
        num_clusters: Values of a weight, zero among them, at least 2; powers of two
            make full use of the bits of an index.
        per_channel: Whether each output channel has values of its own.
        init: Where the means begin: `"linear"`, at even distances between the least and
            the largest element, which the source found best, since it keeps the rare
            large ones; or `"density"`, with as many elements near each.

    Raises:
        ValueError: If a value is out of its range.
        TypeError: If a value is of another type.
    """

    num_clusters: int = 16
    per_channel: bool = False
    init: str = "linear"

    def __post_init__(self) -> None:
        number = self.num_clusters
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(
                "`num_clusters` must be an int, the values of a weight, zero among "
                f"them. Received {number!r} of type {type(number).__name__}."
            )
        if number < 2:
            raise ValueError(
                "`num_clusters` must be at least 2, zero and another value; 16 fit in "
                f"an index of 4 bits. Received {number}."
            )
        if not isinstance(self.per_channel, bool):
            raise TypeError(
                "`per_channel` must be True or False. Received "
                f"{self.per_channel!r} of type {type(self.per_channel).__name__}."
            )
        if self.init not in INITS:
            raise ValueError(f"`init` must be one of {INITS}. Received {self.init!r}.")

    def rows(self, array: np.ndarray, axes: Axes | None) -> np.ndarray:
        """Returns what shares values, a row each: a channel, or all of the weight."""
        if not self.per_channel:
            return array.reshape(1, -1)
        if axes is None:
            raise ValueError("per_channel=True needs to know the weight's axes.")
        arranged = axes.arranged(array)
        return arranged.reshape(len(arranged), -1)

    def num_codes(self, shape: tuple[int, ...], axes: Axes | None) -> int:
        """Returns how many codes there are for a weight of that shape, with 0."""
        channels = axes.shape(shape)[0] if self.per_channel and axes else 1
        return 1 + channels * (self.num_clusters - 1)

    def assign(
        self, array: np.ndarray, axes: Axes | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns which cluster each element of a weight is in, and the mean of that.

        A weight that has no more values than it may have keeps them.

        Args:
            array: The weight, of finite values.
            axes: What its axes are, for values per channel.

        Returns:
            The codes, int32: 0 for zeros, and from 1 on for clusters. And the shared
            values, of the weight's type. Both have the weight's shape.
        """
        rows = self.rows(array, axes).astype(np.float64)
        codes, shared = np.zeros(rows.shape, np.int32), np.zeros_like(rows)
        for place, row in enumerate(rows):
            kept = row != 0
            if not kept.any():
                continue
            means = centroids(row[kept], self.num_clusters - 1, self.init)
            nearest = np.searchsorted(_borders(means), row[kept])
            codes[place, kept] = 1 + place * (self.num_clusters - 1) + nearest
            shared[place, kept] = means[nearest]
        return (
            self._restored(codes, array.shape, axes),
            self._restored(shared, array.shape, axes).astype(array.dtype),
        )

    def num_values(self, array: np.ndarray, axes: Axes | None = None) -> int:
        """Returns how many values a weight has, of several rows the one with most."""
        return _most_values(self.rows(array, axes))

    def is_clustered(self, array: np.ndarray, axes: Axes | None = None) -> bool:
        """Returns whether a weight has no more values than it may have.

        One whose elements are all the same was initialised so, and is not.
        """
        rows = self.rows(array, axes)
        with_zero = np.concatenate([rows, np.zeros_like(rows[:, :1])], axis=1)
        differ = _most_values(array.reshape(1, -1)) > 1
        return differ and _most_values(with_zero) <= self.num_clusters

    def why_not(self, shape: tuple[int, ...], axes: Axes | None) -> str | None:
        """Returns why weights of that shape cannot be clustered, or `None`."""
        if self.per_channel and axes is None:
            return (
                "its channels are not known: say its axes with "
                "kprune.register_prunable, or leave per_channel out"
            )
        elements = math.prod(axes.shape(shape)[1:] if self.per_channel else shape)  # type: ignore[union-attr]
        if elements < self.num_clusters:
            what = "a channel of it has" if self.per_channel else "it has"
            return f"{what} {elements} elements, fewer than {self.num_clusters} values"
        return None

    def _restored(
        self, rows: np.ndarray, shape: tuple[int, ...], axes: Axes | None
    ) -> np.ndarray:
        if not self.per_channel or axes is None:
            return rows.reshape(shape)
        return axes.restored(rows, shape)


def sharing_of(array: np.ndarray) -> Clustering | None:
    """Returns as what the values of a weight look clustered, if they do.

    What was trained freely has hardly two elements that are equal. Elements share
    values if there are at least two values other than zero, and four elements for each;
    over the whole weight, or over each of its last axis, which is where channels with
    values of their own are found in most layers.
    """
    if array.ndim < 2:
        return None
    whole = _most_shared([array.ravel()])
    each = _most_shared(np.moveaxis(array, -1, 0))
    if each and (not whole or each < whole):
        return Clustering(1 + each, per_channel=True)
    return Clustering(1 + whole) if whole else None


def _most_shared(rows: Iterable[np.ndarray]) -> int | None:
    """Returns how many values the row with most shares; `None` if one shares none."""
    most = 0
    for row in rows:
        kept = row[row != 0]
        # Enough to tell most weights, without sorting all of their elements.
        if len(np.unique(kept[: 4 * _MOST_SHARED])) > _MOST_SHARED:
            return None
        found = len(np.unique(kept))
        if found > _MOST_SHARED or 4 * found > len(kept):
            return None
        most = max(most, found)
    return most if most > 1 else None


def centroids(elements: np.ndarray, number: int, init: str) -> np.ndarray:
    """Returns the means of clusters of elements, in ascending order, in float64.

    Args:
        elements: At least one, of finite values.
        number: The most clusters, at least 1. There may be fewer: one that no element
            is nearest to is left out.
        init: As for `Clustering`.
    """
    ordered = np.sort(elements.astype(np.float64))
    distinct = ordered[np.r_[True, ordered[1:] != ordered[:-1]]]
    if len(distinct) <= number:
        return distinct
    # Around their middle, for the sake of the running sums' precision.
    middle = ordered.mean()
    sums = np.r_[0.0, np.cumsum(ordered - middle)]
    if init == "linear":
        means = np.linspace(ordered[0], ordered[-1], number)
    else:
        places = (np.arange(number) + 0.5) / number * len(ordered)
        means = ordered[places.astype(int)]
    edges = np.zeros(number + 1, int)
    for _ in range(_MOST_ROUNDS):
        before = edges
        inner = np.searchsorted(ordered, _borders(means), side="right")
        edges = np.r_[0, inner, len(ordered)]
        if np.array_equal(edges, before):
            break
        counts = np.diff(edges)
        inside = middle + np.diff(sums[edges]) / np.maximum(counts, 1)
        means = _filled(np.where(counts > 0, inside, means), ordered, edges)
    return means[np.diff(edges) > 0]


def _filled(means: np.ndarray, ordered: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Returns means of which those of empty clusters lie elsewhere.

    Between the negative and the positive elements of a pruned weight there are none. As
    in scikit-learn, the elements farthest from their mean take the place of such means;
    of an interval these are its ends.
    """
    empty = np.diff(edges) == 0
    if not empty.any():
        return means
    kept = means[~empty]
    ends = np.r_[ordered[edges[:-1][~empty]], ordered[edges[1:][~empty] - 1]]
    far = np.abs(ends - np.r_[kept, kept])
    farthest = np.argsort(-far, kind="stable")[: empty.sum()]
    farthest = farthest[far[farthest] > 0]
    spare = means[empty][len(farthest) :]
    return np.sort(np.r_[kept, ends[farthest], spare])


def _borders(means: np.ndarray) -> np.ndarray:
    """Returns up to where elements are nearest to each mean but the last."""
    return (means[1:] + means[:-1]) / 2


def _most_values(rows: np.ndarray) -> int:
    """Returns how many values the row with most of them has."""
    ordered = np.sort(rows, axis=1)
    return 1 + int((ordered[:, 1:] != ordered[:, :-1]).sum(axis=1).max(initial=0))
