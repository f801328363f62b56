"""Allocations: how one sparsity for a model becomes one per weight.

This module changes when a new way of spreading zeros over the weights is wanted.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from kprune.config import Config, check_fraction
from kprune.naming import matches, unknown
from kprune.ranking import nth_lowest


@dataclasses.dataclass(frozen=True)
class Facts:
    """What an allocation may know of a weight besides its scores.

    Args:
        names: What patterns are matched against: its path, and its layers' names.
        shape: Its shape, (outputs, *window, inputs); empty for coupled channels.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...] = ()


class Allocation(Config, abc.ABC):
    """Decides how many units each weight gives up.

    To add an allocation, write a frozen dataclass with `num_pruned`.

    Attributes:
        sets_targets: Whether weights end at other sparsities than the schedule's, by
            rank or not; `False` where rank alone decides, or all are treated alike.
        needs_shapes: Whether it can be asked of kernels only, not of channels.
    """

    sets_targets: ClassVar[bool] = False
    needs_shapes: ClassVar[bool] = False

    @abc.abstractmethod
    def num_pruned(
        self,
        unit_scores: Sequence[np.ndarray],
        sparsity: float,
        facts: Sequence[Facts] = (),
        final: float | None = None,
    ) -> list[int]:
        """Returns the number of units to prune in each weight.

        Args:
            unit_scores: Per weight the scores of its units, flat, larger = keep.
            sparsity: Fraction of all units together that is to be pruned, in [0, 1).
            facts: What else is known of each weight; allocations that need it say so.
            final: The sparsity that the schedule ends at; `sparsity` by default.

        Returns:
            One number per weight. At least one unit of each weight is left.
        """

    def check(self, facts: Sequence[Facts]) -> None:
        """Raises ValueError if it speaks of a weight that is not there."""

    def asked(
        self,
        sizes: Sequence[int],
        sparsity: float,
        facts: Sequence[Facts] = (),
        final: float | None = None,
    ) -> float | None:
        """Returns the share of all units that `num_pruned` prunes, but for rounding.

        `None` where that depends on the scores. The arguments are those of
        `num_pruned`, with the numbers of units in the place of their scores.
        """
        return sparsity


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Uniform(Allocation):
    """Gives every weight the same sparsity.

    Example:
        >>> Uniform().num_pruned([np.arange(10.0), np.arange(4.0)], sparsity=0.5)
        [5, 2]
    """

    def num_pruned(
        self,
        unit_scores: Sequence[np.ndarray],
        sparsity: float,
        facts: Sequence[Facts] = (),
        final: float | None = None,
    ) -> list[int]:
        """Returns `round(sparsity * units)` for each weight."""
        return [_rounded(sparsity, scores.size) for scores in unit_scores]


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
        _check_density(self)

    def num_pruned(
        self,
        unit_scores: Sequence[np.ndarray],
        sparsity: float,
        facts: Sequence[Facts] = (),
        final: float | None = None,
    ) -> list[int]:
        """Returns the numbers of units below the common threshold."""
        sizes = [scores.size for scores in unit_scores]
        total, limits = self.budget(sizes, sparsity)
        return _split(unit_scores, limits, total)

    def budget(self, sizes: Sequence[int], sparsity: float) -> tuple[int, list[int]]:
        """Returns how many units are pruned, and how many of each weight at most.

        Args:
            sizes: Per weight the number of its units.
            sparsity: As for `num_pruned`.
        """
        # A floor above the density asked for would make the total unreachable.
        limits = _limits(sizes, min(self.min_density, 1 - sparsity))
        return min(round(sparsity * sum(sizes)), sum(limits)), limits


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
        min_density: As for `Global`.

    Example:
        >>> small, large = np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 30.0])
        >>> Lamp().num_pruned([small, large], sparsity=0.5)
        [2, 1]
    """

    max_sample: int = 2**18
    min_density: float = 0.0

    def __post_init__(self) -> None:
        _check_density(self)
        if self.max_sample < 1:
            raise ValueError(
                f"Lamp: `max_sample` must be positive. Received {self.max_sample!r}."
            )

    def num_pruned(
        self,
        unit_scores: Sequence[np.ndarray],
        sparsity: float,
        facts: Sequence[Facts] = (),
        final: float | None = None,
    ) -> list[int]:
        """Returns the numbers of units below the common threshold."""
        sizes = [scores.size for scores in unit_scores]
        limits = _limits(sizes, min(self.min_density, 1 - sparsity))
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


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Erk(Allocation):
    """Leaves more of small kernels than of large ones, by their shape alone.

    The density of a kernel is, up to a factor that is the same for all,

        (inputs + outputs + height + width) / (inputs * outputs * height * width)

    and (inputs + outputs) / (inputs * outputs) of a dense one. Kernels that would come
    out above 1 stay dense, and the others take over what these do not give. Scores play
    no part: it is meant for sparse training from the first step.

    Source: Evci et al., "Rigging the lottery: making all tickets winners", 2020,
    https://arxiv.org/abs/1911.11134, section 3 (1), Erdős-Rényi-Kernel.

    Example:
        >>> facts = [Facts(("a",), (10, 100)), Facts(("b",), (100, 100))]
        >>> Erk().num_pruned([np.zeros(1000), np.zeros(10_000)], 0.9, facts)
        [610, 9290]
    """

    sets_targets: ClassVar[bool] = True
    needs_shapes: ClassVar[bool] = True

    def num_pruned(
        self,
        unit_scores: Sequence[np.ndarray],
        sparsity: float,
        facts: Sequence[Facts] = (),
        final: float | None = None,
    ) -> list[int]:
        """Returns `round((1 - density) * units)` for each weight."""
        sizes = [scores.size for scores in unit_scores]
        _check_facts(self, facts, sizes)
        ratios = np.array([sum(f.shape) / math.prod(f.shape) for f in facts])
        densities = np.ones(len(sizes))
        units, kept = np.array(sizes), (1 - sparsity) * sum(sizes)
        open_ = np.ones(len(sizes), bool)
        while open_.any():
            factor = (kept - units[~open_].sum()) / (ratios * units)[open_].sum()
            above = open_ & (factor * ratios > 1)
            if not above.any():
                densities[open_] = factor * ratios[open_]
                break
            open_ &= ~above
        return [
            _rounded(1 - density, size)
            for density, size in zip(densities, sizes, strict=True)
        ]


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Explicit(Allocation):
    """Gives each weight the sparsity that the user names.

    A mapping stands for it: `allocation={"conv*": 0.5, "head": 0.0}`. These are
    sparsities at the schedule's end; meanwhile they rise as the schedule does. A weight
    that no pattern matches has the schedule's own.

    Args:
        sparsities: From patterns to sparsities in [0, 1). A pattern such as `"conv*"`
            is matched against the weight's path and the names of its layers; of several
            that match, the first counts.

    Raises:
        ValueError: If a sparsity is out of its range; on resolving, if a pattern
            matches no weight.

    Example:
        >>> facts = [Facts(("conv/kernel", "conv")), Facts(("head/kernel", "head"))]
        >>> Explicit({"conv": 0.5}).num_pruned([np.ones(10)] * 2, 0.4, facts, final=0.8)
        [2, 4]
    """

    # A mapping, kept as pairs: settings can be hashed.
    sparsities: Any

    sets_targets: ClassVar[bool] = True

    def __post_init__(self) -> None:
        given = self.sparsities
        pairs = given.items() if isinstance(given, Mapping) else given
        pairs = tuple((name, sparsity) for name, sparsity in pairs)
        object.__setattr__(self, "sparsities", pairs)
        if not pairs:
            raise ValueError(
                "Explicit: say at least one sparsity, such as {'conv*': 0.5}."
            )
        for name, sparsity in pairs:
            if not isinstance(name, str):
                raise TypeError(
                    "Explicit: weights are named by patterns, such as {'conv*': 0.5}. "
                    f"Received {name!r} of type {type(name).__name__}."
                )
            check_fraction(name, sparsity, "Explicit")

    def num_pruned(
        self,
        unit_scores: Sequence[np.ndarray],
        sparsity: float,
        facts: Sequence[Facts] = (),
        final: float | None = None,
    ) -> list[int]:
        """Returns `round(its sparsity * units)` for each weight."""
        sizes = [scores.size for scores in unit_scores]
        _check_facts(self, facts, sizes)
        wanted = self._wanted(sparsity, facts, final)
        return [_rounded(s, size) for s, size in zip(wanted, sizes, strict=True)]

    def check(self, facts: Sequence[Facts]) -> None:
        """Raises ValueError if a pattern matches no weight."""
        names = [name for fact in facts for name in fact.names]
        for pattern, _ in self.sparsities:
            if not any(matches(name, pattern) for name in names):
                raise ValueError(
                    f"allocation, {dict(self.sparsities)}: {unknown(pattern, names)}"
                )

    def asked(
        self,
        sizes: Sequence[int],
        sparsity: float,
        facts: Sequence[Facts] = (),
        final: float | None = None,
    ) -> float | None:
        """Returns the mean of all weights' sparsities, by their sizes."""
        wanted = self._wanted(sparsity, facts, final)
        return sum(s * n for s, n in zip(wanted, sizes, strict=True)) / sum(sizes)

    def _wanted(
        self, sparsity: float, facts: Sequence[Facts], final: float | None
    ) -> list[float]:
        progress = min(1.0, sparsity / final) if final else 1.0
        return [
            sparsity if own is None else own * progress for own in map(self._of, facts)
        ]

    def _of(self, fact: Facts) -> float | None:
        return next(
            (
                sparsity
                for pattern, sparsity in self.sparsities
                if any(matches(name, pattern) for name in fact.names)
            ),
            None,
        )


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Threshold(Allocation):
    """Prunes what scores below a value, instead of a share of all.

    The schedule's sparsity is the most that may be pruned, over all weights together:
    of more units below the value, the lowest go.

    Args:
        value: In the criterion's own unit, for magnitude that of the weights; positive.
            Scores of channels have none: they are relative to those of their group.
        min_density: Fraction of each weight's units that is left at least, in [0, 1];
            one unit is always left.

    Raises:
        ValueError: If a value is out of its range.

    Example:
        >>> scores = [np.array([0.1, 0.2, 0.9]), np.array([0.3, 0.8, 0.7])]
        >>> Threshold(0.5).num_pruned(scores, sparsity=0.9)
        [2, 1]
    """

    value: float
    min_density: float = 0.0

    sets_targets: ClassVar[bool] = True

    def __post_init__(self) -> None:
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(
                f"Threshold: `value` must be a number. Received {value!r} of type "
                f"{type(value).__name__}."
            )
        if not 0 < value < math.inf:
            raise ValueError(
                f"Threshold: `value` must be positive and finite. Received {value!r}."
            )
        _check_density(self)

    def num_pruned(
        self,
        unit_scores: Sequence[np.ndarray],
        sparsity: float,
        facts: Sequence[Facts] = (),
        final: float | None = None,
    ) -> list[int]:
        """Returns the numbers of units below the value, or the lowest of them."""
        sizes = [scores.size for scores in unit_scores]
        limits = [
            min(limit, int(np.count_nonzero(scores < self.value)))
            for limit, scores in zip(
                _limits(sizes, self.min_density), unit_scores, strict=True
            )
        ]
        total = min(round(sparsity * sum(sizes)), sum(limits))
        return _split(unit_scores, limits, total)

    def asked(
        self,
        sizes: Sequence[int],
        sparsity: float,
        facts: Sequence[Facts] = (),
        final: float | None = None,
    ) -> float | None:
        """Returns `None`: the scores decide."""
        return None


def _check_density(allocation: Any) -> None:
    density = allocation.min_density
    if not 0 <= density <= 1:
        raise ValueError(
            f"{type(allocation).__name__}: `min_density` must lie in [0, 1]. "
            f"Received {density!r}."
        )


def _check_facts(
    allocation: Allocation, facts: Sequence[Facts], sizes: Sequence[int]
) -> None:
    if len(facts) != len(sizes):
        raise ValueError(
            f"{type(allocation).__name__} needs to know each weight: `facts` must be "
            f"{len(sizes)} of kprune.allocation.Facts. Received {len(facts)}."
        )


def _rounded(sparsity: float, size: int) -> int:
    return min(round(sparsity * size), max(size - 1, 0))


def _limits(sizes: Iterable[int], density: float) -> list[int]:
    """Returns how many units weights may give up so that a density is left."""
    return [min(int((1 - density) * size), max(size - 1, 0)) for size in sizes]


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


def split_by_rank(
    limits: Sequence[int],
    total: int,
    lowest: Callable[[list[int], int], Sequence[int]],
) -> list[int]:
    """Splits `total` over weights by common rank, none above its limit.

    Args:
        limits: How many units each weight may give up.
        total: How many are wanted, at most the sum of `limits`.
        lowest: Returns, for indices of weights and a number, how many of that number
            of lowest units of these weights together each of them has.
    """
    counts = [0] * len(limits)
    free = list(range(len(limits)))
    while True:
        open_total = total - sum(counts[i] for i in range(len(counts)) if i not in free)
        for i, count in zip(free, lowest(free, open_total), strict=True):
            counts[i] = count
        over = [i for i in free if counts[i] > limits[i]]
        if not over:
            return counts
        for i in over:
            counts[i] = limits[i]
            free.remove(i)


def with_ties(below: Sequence[int], ties: Iterable[int], total: int) -> list[int]:
    """Fills numbers of units below a threshold up to a total, earlier weights first.

    Args:
        below: Per weight how many units lie below the threshold.
        ties: Per weight how many have its score; not asked for further than needed.
        total: How many units are wanted.
    """
    counts = list(below)
    missing, more = total - sum(below), iter(ties)
    for i in range(len(counts)):
        if missing == 0:
            break
        taken = min(missing, next(more))
        counts[i] += taken
        missing -= taken
    return counts


def _split(
    unit_scores: Sequence[np.ndarray], limits: Sequence[int], total: int
) -> list[int]:
    return split_by_rank(
        limits, total, lambda free, n: _lowest([unit_scores[i] for i in free], n)
    )


def _lowest(unit_scores: Sequence[np.ndarray], total: int) -> list[int]:
    if total == 0:
        return [0] * len(unit_scores)
    if len(unit_scores) == 1:
        return [total]
    threshold = nth_lowest(unit_scores, total)
    return with_ties(
        [int(np.count_nonzero(scores < threshold)) for scores in unit_scores],
        (int(np.count_nonzero(scores == threshold)) for scores in unit_scores),
        total,
    )
