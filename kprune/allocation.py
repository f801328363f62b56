"""Allocations: how one sparsity for a model becomes one per weight.

This module changes when a new way of spreading zeros over the weights is wanted.
"""

import abc
import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from kprune.config import Config
from kprune.ranking import nth_lowest


class Allocation(Config, abc.ABC):
    """Decides how many units each weight gives up.

    To add an allocation, write a frozen dataclass with `num_pruned`.
    """

    @abc.abstractmethod
    def num_pruned(
        self, unit_scores: Sequence[np.ndarray], sparsity: float
    ) -> list[int]:
        """Returns the number of units to prune in each weight.

        Args:
            unit_scores: Per weight the scores of its units, flat, larger = keep.
            sparsity: Fraction of all units together that is to be pruned, in [0, 1).

        Returns:
            One number per weight. At least one unit of each weight is left.
        """


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Uniform(Allocation):
    """Gives every weight the same sparsity.

    Example:
        >>> Uniform().num_pruned([np.arange(10.0), np.arange(4.0)], sparsity=0.5)
        [5, 2]
    """

    def num_pruned(
        self, unit_scores: Sequence[np.ndarray], sparsity: float
    ) -> list[int]:
        """Returns `round(sparsity * units)` for each weight."""
        return [
            min(round(sparsity * scores.size), max(scores.size - 1, 0))
            for scores in unit_scores
        ]


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Global(Allocation):
    """Ranks the units of all weights together, under one threshold.

    The total is `round(sparsity * units)`, exactly; of units with equal scores the
    earlier weight's, then the lower index, are pruned first.

    Args:
        min_density: Fraction of each weight's units that is left at least, in [0, 1];
            one unit is always left. What a weight may not give up, the others give.

    Example:
        >>> Global().num_pruned([np.array([1.0, 5.0]), np.array([2.0, 3.0])], 0.5)
        [1, 1]
    """

    min_density: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_density <= 1:
            raise ValueError(
                "Global: `min_density` must lie in [0, 1]. "
                f"Received {self.min_density!r}."
            )

    def num_pruned(
        self, unit_scores: Sequence[np.ndarray], sparsity: float
    ) -> list[int]:
        """Returns the numbers of units below the common threshold."""
        total = round(sparsity * sum(scores.size for scores in unit_scores))
        # A floor above the density asked for would make the total unreachable.
        density = min(self.min_density, 1 - sparsity)
        limits = [
            min(int((1 - density) * scores.size), max(scores.size - 1, 0))
            for scores in unit_scores
        ]
        return _split(unit_scores, limits, min(total, sum(limits)))


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Lamp(Allocation):
    """Ranks all units together by how much of their weight's energy they would take.

    With the scores of one weight in ascending order, a unit's rank is decided by

        score ** 2 / sum of score ** 2 over this unit and all above it

    which does not depend on the weight's scale, and is 1 for the best unit of each
    weight, so that none is emptied. The total is `round(sparsity * units)`, exactly.

    Source: Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", 2021,
    https://arxiv.org/abs/2010.07611, the LAMP score. Deviation: a weight of more than
    `max_sample` units is represented by as many drawn from it at fixed random places,
    which spares sorting it; how many units it gives up is then an estimate.

    Args:
        max_sample: Units that a weight is represented by at most, positive.

    Example:
        >>> small, large = np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 30.0])
        >>> Lamp().num_pruned([small, large], sparsity=0.5)
        [2, 1]
    """

    max_sample: int = 2**18

    def __post_init__(self) -> None:
        if self.max_sample < 1:
            raise ValueError(
                f"Lamp: `max_sample` must be positive. Received {self.max_sample!r}."
            )

    def num_pruned(
        self, unit_scores: Sequence[np.ndarray], sparsity: float
    ) -> list[int]:
        """Returns the numbers of units below the common threshold."""
        sizes = [scores.size for scores in unit_scores]
        limits = [max(size - 1, 0) for size in sizes]
        total = min(round(sparsity * sum(sizes)), sum(limits))
        if len(sizes) == 1:
            return [total]
        # Units without a score, among them all that are pruned already, go first: no
        # weight ever gets one of them back because of what another one does.
        scored = [int(np.count_nonzero(scores > 0)) for scores in unit_scores]
        counts = [
            min(size - num, limit)
            for size, num, limit in zip(sizes, scored, limits, strict=True)
        ]
        if sum(counts) >= total:
            return _take_in_order(counts, total)
        samples = [self._sample(scores) for scores in unit_scores]
        # How many units each unit of a sample stands for.
        shares = [
            num / sample.size if sample.size else 0.0
            for num, sample in zip(scored, samples, strict=True)
        ]
        owner = np.repeat(np.arange(len(samples)), [sample.size for sample in samples])
        scores = map(_lamp_scores, samples, shares)
        order = np.argsort(np.concatenate(list(scores)), kind="stable")
        represented = np.cumsum(np.asarray(shares)[owner[order]])
        # Half a unit of slack, against the rounding of the sum.
        num_taken = np.searchsorted(represented, total - sum(counts) + 0.5)
        taken = np.bincount(owner[order[:num_taken]], minlength=len(samples))
        wanted = [
            min(count + round(share * int(num)), limit)
            for count, share, num, limit in zip(
                counts, shares, taken, limits, strict=True
            )
        ]
        return _adjust(wanted, counts, limits, total)

    def _sample(self, scores: np.ndarray) -> np.ndarray:
        if scores.size > self.max_sample:
            places = np.random.default_rng(0).integers(
                scores.size, size=self.max_sample
            )
            scores = scores[places]
        return scores[scores > 0]


def _lamp_scores(scores: np.ndarray, share: float) -> np.ndarray:
    """Returns LAMP scores, ascending, of units that stand for `share` units each."""
    energy = np.square(np.sort(scores), dtype=np.float64)
    return energy / (share * np.cumsum(energy[::-1])[::-1])


def _take_in_order(counts: Sequence[int], total: int) -> list[int]:
    taken: list[int] = []
    for count in counts:
        taken.append(min(count, total - sum(taken)))
    return taken


def _adjust(
    wanted: Sequence[int], low: Sequence[int], high: Sequence[int], total: int
) -> list[int]:
    """Moves numbers within their bounds, the largest first, until they sum to total."""
    counts = list(wanted)
    for i in sorted(range(len(counts)), key=lambda i: -high[i]):
        missing = total - sum(counts)
        counts[i] = max(low[i], min(high[i], counts[i] + missing))
    return counts


def _split(
    unit_scores: Sequence[np.ndarray], limits: Sequence[int], total: int
) -> list[int]:
    """Splits `total` over weights by common rank, none above its limit."""
    counts = [0] * len(unit_scores)
    free = list(range(len(unit_scores)))
    while True:
        open_total = total - sum(counts[i] for i in range(len(counts)) if i not in free)
        for i, count in zip(
            free,
            _below_threshold([unit_scores[i] for i in free], open_total),
            strict=True,
        ):
            counts[i] = count
        over = [i for i in free if counts[i] > limits[i]]
        if not over:
            return counts
        for i in over:
            counts[i] = limits[i]
            free.remove(i)


def _below_threshold(unit_scores: Sequence[np.ndarray], total: int) -> list[int]:
    if total == 0:
        return [0] * len(unit_scores)
    if len(unit_scores) == 1:
        return [total]
    scores = np.concatenate(unit_scores)
    threshold = nth_lowest(scores, total)
    counts = [int(np.count_nonzero(scores < threshold)) for scores in unit_scores]
    ties = total - sum(counts)
    for i, scores in enumerate(unit_scores):
        if ties == 0:
            break
        taken = min(ties, int(np.count_nonzero(scores == threshold)))
        counts[i] += taken
        ties -= taken
    return counts
