"""Granularities: the units of a weight that live or die together.

A granularity turns scores and a number of units into a mask. This module changes when
a new pattern of zeros is wanted.
"""

import abc
import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import keras
import numpy as np

from kprune.allocation import Allocation, Lamp, Uniform
from kprune.config import Config
from kprune.ranking import nth_lowest

# Elements that are worked on at once, so that they stay in a core's own cache.
_CHUNK = 2**20


class Granularity(Config, abc.ABC):
    """Cuts a weight into units, and makes masks out of their scores.

    To add a granularity, write a frozen dataclass with `unit_scores` and `expand`, and
    with what else of the methods below is not as it is for single elements.

    Attributes:
        arranged: Whether weights are handed over as runtimes store them, (outputs,
            *window, inputs), and not as Keras does.
        fixed_sparsity: The only sparsity that a schedule may end at; `None` for any.
    """

    arranged: ClassVar[bool] = False
    fixed_sparsity: float | None = None

    @property
    def default_allocation(self) -> Allocation:
        """How sparsity is spread over the weights unless the user says."""
        return Lamp()

    def share(self, sparsity: float) -> float:
        """Returns the share of units, in [0, 1], that makes up a sparsity."""
        return sparsity

    def why_dense(self, shape: tuple[int, ...]) -> str | None:
        """Returns why a weight of that shape has no units, or `None` if it has some.

        Raises:
            ValueError: If it cannot be cut as the user wants it; what to do about it.
        """
        return None

    def unit_sizes(self, shape: tuple[int, ...]) -> Mapping[int, int]:
        """Returns how many elements units give up: a number of units for each."""
        return {1: math.prod(shape)}

    @abc.abstractmethod
    def unit_scores(self, scores: np.ndarray) -> np.ndarray:
        """Returns one score per unit, as a flat array.

        It is 0 for what has nothing but zeros to give up, if no score is below 0.

        Args:
            scores: One score per element, of the weight's shape.
        """

    @abc.abstractmethod
    def expand(self, unit_mask: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Returns the mask of a weight from the mask of its units.

        Args:
            unit_mask: Flat boolean array, in the order of `unit_scores`.
            scores: One score per element, of the weight's shape.
        """

    def mask(self, scores: np.ndarray, num_pruned: int) -> np.ndarray:
        """Returns the mask that prunes the `num_pruned` units of lowest score.

        Args:
            scores: One score per element, of the weight's shape, without NaN.
            num_pruned: Number of units to prune, from 0 to the number of units.

        Returns:
            Boolean array of the weight's shape, True = keep. Of units with equal
            scores those of lower index are pruned first.

        Example:
            >>> Element().mask(np.array([[3.0, 1.0], [1.0, 2.0]]), num_pruned=1)
            array([[ True, False],
                   [ True,  True]])
        """
        return self.expand(keep_highest(self.unit_scores(scores), num_pruned), scores)

    def exchange(
        self,
        mask: np.ndarray,
        scores: np.ndarray,
        growth: np.ndarray,
        num_pruned: int,
        rate: float,
    ) -> np.ndarray:
        """Returns a mask in which other units are kept than before.

        Of the units that are kept, at most as many as shall be, a share gives up its
        place, those of lowest score; the free places go to the units of highest growth
        that are not kept, among them those that gave up theirs.

        Args:
            mask: The mask so far.
            scores: One score per element, not negative.
            growth: How much each element deserves to grow, not negative.
            num_pruned: Number of units to prune, from 0 to the number of units.
            rate: The share of kept units that gives up its place, in [0, 1).

        Example:
            >>> Element().exchange(
            ...     mask=np.array([True, True, False, False]),
            ...     scores=np.array([1.0, 2.0, 0.0, 0.0]),
            ...     growth=np.array([0.0, 0.0, 3.0, 4.0]),
            ...     num_pruned=2,
            ...     rate=0.5,
            ... )
            array([False,  True, False,  True])
        """
        kept = self.unit_scores(mask) != 0
        num_kept = min(int(np.count_nonzero(kept)), kept.size - num_pruned)
        num_stay = num_kept - int(rate * num_kept)
        of_units = np.where(kept, self.unit_scores(scores), -np.inf)
        stay = keep_highest(of_units, kept.size - num_stay)
        grow = np.where(stay, np.inf, self.unit_scores(growth))
        return self.expand(keep_highest(grow, num_pruned), growth)


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Element(Granularity):
    """Prunes single elements, wherever they stand: unstructured sparsity."""

    def unit_scores(self, scores: np.ndarray) -> np.ndarray:
        """Returns the scores as they are, flat."""
        return scores.reshape(-1)

    def expand(self, unit_mask: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Returns the mask in the weight's shape."""
        return unit_mask.reshape(scores.shape)


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Block(Granularity):
    """Prunes rectangular blocks, as runtimes store the weight.

    Blocks are counted from the weight's first element in the layout of the runtimes,
    (outputs, *window, inputs), so that `Block((1, 4))` is four consecutive inputs of
    one output, and `Block((4, 1))` one input of four consecutive outputs. Where a block
    does not divide an axis, the rest at its end is a block of its own, smaller and
    scored by its own elements; sparsity counts blocks, so that the share of zeros may
    differ a little.

    Args:
        shape: Sizes along (outputs, inputs), for weights of any rank and then of one
            place of the window; or along (outputs, *window, inputs), for weights of
            that rank. `None` is the whole axis.
        pooling: What the elements' scores make of the block: `"mean"`, `"max"`, or
            `"l2"`, the root of their mean square.

    Raises:
        ValueError: If a size is below 1 or the pooling unknown; on resolving, if a
            block is larger than a weight or of another rank.

    Example:
        >>> Block((1, 2)).mask(np.array([[9.0, 1.0, 4.0], [2.0, 2.0, 8.0]]), 2)
        array([[ True,  True, False],
               [False, False,  True]])
    """

    shape: tuple[int | None, ...]
    pooling: str = "mean"

    arranged: ClassVar[bool] = True

    def __post_init__(self) -> None:
        shape = self.shape
        if not isinstance(shape, tuple | list) or len(shape) < 2:
            raise ValueError(
                "Block: `shape` must have at least two sizes, (outputs, inputs), such "
                f"as (1, 4). Received {shape!r}."
            )
        for size in shape:
            integer = isinstance(size, int) and not isinstance(size, bool)
            if size is not None and (not integer or size < 1):
                raise ValueError(
                    "Block: sizes must be integers of at least 1, or None for a whole "
                    f"axis. Received {size!r} in shape={tuple(shape)}."
                )
        object.__setattr__(self, "shape", tuple(shape))
        if self.pooling not in _POOLINGS:
            raise ValueError(
                f"Block: `pooling` must be one of {sorted(_POOLINGS)}. Received "
                f"{self.pooling!r}."
            )
        if all(size == 1 for size in shape):
            raise ValueError("Block: blocks of one element are kprune.Element().")

    def why_dense(self, shape: tuple[int, ...]) -> str | None:
        """Returns `None`: there is at least one block.

        Raises:
            ValueError: If a block is larger than the weight, or of another rank.
        """
        self._sizes(shape)
        return None

    def unit_sizes(self, shape: tuple[int, ...]) -> Mapping[int, int]:
        """Returns the sizes of the blocks, and how many there are of each."""
        per_axis = []
        for length, size in zip(shape, self._sizes(shape), strict=True):
            whole, rest = divmod(length, size)
            per_axis.append([(size, whole), (rest, 1)] if rest else [(size, whole)])
        found: Counter[int] = Counter()
        for kinds in itertools.product(*per_axis):
            sizes, counts = zip(*kinds, strict=True)
            found[math.prod(sizes)] += math.prod(counts)
        return found

    def unit_scores(self, scores: np.ndarray) -> np.ndarray:
        """Returns the pooled score of each block."""
        return _pooled(scores, self._sizes(scores.shape), self.pooling).reshape(-1)

    def expand(self, unit_mask: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Returns the mask with whole blocks."""
        sizes = self._sizes(scores.shape)
        return _spread(unit_mask, sizes, scores)

    def _sizes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        asked = self.shape
        if len(asked) == 2:
            asked = (asked[0], *(1 for _ in shape[1:-1]), asked[1])
        if len(asked) != len(shape):
            raise ValueError(
                f"a block of {self._said()} has {len(asked)} sizes, and the weight is "
                f"of shape {shape} as runtimes store it. Give (outputs, inputs), or "
                "choose weights of that rank with `only` or `skip`."
            )
        sizes = tuple(n if s is None else s for s, n in zip(asked, shape, strict=True))
        if any(size > length for size, length in zip(sizes, shape, strict=True)):
            raise ValueError(
                f"a block of {self._said()} is larger than the weight, which is of "
                f"shape {shape} as runtimes store it: (outputs, *window, inputs). "
                "Choose smaller blocks, or leave the weight out with `skip`."
            )
        return sizes

    def _said(self) -> str:
        return "x".join("all" if size is None else str(size) for size in self.shape)


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Kernel(Granularity):
    """Prunes whole kernels: the window from one input channel to one output channel.

    On weights without a window, such as a dense one, these are single elements.
    Sparsity counts kernels, so that the share of zeros differs a little where windows
    of several sizes are pruned together.

    Args:
        pooling: As for `Block`.

    Raises:
        ValueError: If the pooling is unknown.
    """

    pooling: str = "l2"

    arranged: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.pooling not in _POOLINGS:
            raise ValueError(
                f"Kernel: `pooling` must be one of {sorted(_POOLINGS)}. Received "
                f"{self.pooling!r}."
            )

    def unit_sizes(self, shape: tuple[int, ...]) -> Mapping[int, int]:
        """Returns the size of the window, and how many kernels there are."""
        return {math.prod(shape[1:-1]): shape[0] * shape[-1]}

    def unit_scores(self, scores: np.ndarray) -> np.ndarray:
        """Returns the pooled score of each kernel."""
        return _pooled(scores, self._sizes(scores.shape), self.pooling).reshape(-1)

    def expand(self, unit_mask: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Returns the mask with whole kernels."""
        return _spread(unit_mask, self._sizes(scores.shape), scores)

    @staticmethod
    def _sizes(shape: tuple[int, ...]) -> tuple[int, ...]:
        return 1, *shape[1:-1], 1


_REMAINDERS = ("refuse", "dense", "pad")


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class NofM(Granularity):
    """Keeps at most `n` of each `m` consecutive weights along the inputs.

    `NofM(2, 4)` is what hardware calls 2:4, half of the weights; `NofM(1, 4)` leaves a
    quarter. Groups run along the input axis, in Keras axis -2 of dense kernels and
    convolutions. A schedule that rises does not thin out all groups little by little:
    it makes a growing share of the groups N:M, those first that give up the least
    score, until at its end all of them are.

    Source: Mishra et al., "Accelerating sparse deep neural networks", 2021,
    https://arxiv.org/abs/2104.08378, for the pattern. The rise by groups is our own.

    Args:
        n: Weights that are kept of a group, at least 1 and below `m`.
        m: Length of a group, at most 64.
        remainder: What happens where `m` does not divide the number of inputs:
            `"refuse"` raises an error; `"dense"` leaves the rest at the axis' end as it
            is; `"pad"` takes it for a group that is filled up with zeros, so that at
            most `n` of it are kept.

    Raises:
        ValueError: If a value is out of its range; on resolving, if `m` does not divide
            the inputs of a weight and `remainder` is `"refuse"`.

    Example:
        >>> NofM(2, 4).mask(np.array([[1.0, 4.0, 3.0, 2.0], [1.0, 1.0, 1.0, 1.0]]), 2)
        array([[False,  True,  True, False],
               [False, False,  True,  True]])
    """

    n: int
    m: int
    remainder: str = "refuse"

    arranged: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, value in (("n", self.n), ("m", self.m)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(
                    f"NofM: `{name}` must be an integer. Received {value!r} of type "
                    f"{type(value).__name__}."
                )
        if not 1 <= self.n < self.m <= 64:
            raise ValueError(
                "NofM keeps `n` of each `m` weights, with 1 <= n < m <= 64. Received "
                f"n={self.n}, m={self.m}. 2:4 is NofM(2, 4)."
            )
        if self.remainder not in _REMAINDERS:
            raise ValueError(
                f"NofM: `remainder` must be one of {list(_REMAINDERS)}. Received "
                f"{self.remainder!r}."
            )

    @property
    def fixed_sparsity(self) -> float:  # type: ignore[override]
        """The sparsity once all groups are N:M, 1 - n / m."""
        return 1 - self.n / self.m

    @property
    def default_allocation(self) -> Allocation:
        """The same share of every weight's groups, which in the end is all of them."""
        return Uniform()

    def share(self, sparsity: float) -> float:
        """Returns the share of groups that are N:M at a sparsity."""
        share = sparsity / self.fixed_sparsity
        return 1.0 if share > 1 - 1e-5 else share  # 1 - 1/3 is rounded in many ways.

    def why_dense(self, shape: tuple[int, ...]) -> str | None:
        """Returns that there are too few inputs for a group, or `None`.

        Raises:
            ValueError: If `m` does not divide the inputs and that is to be refused.
        """
        inputs = shape[-1]
        if inputs % self.m and self.remainder == "refuse":
            raise ValueError(
                f"{self.n}:{self.m} needs a multiple of {self.m} along the input axis, "
                f"and it has {inputs}. Leave the weight out with `skip` or "
                "`skip_first`, or say "
                f'NofM({self.n}, {self.m}, remainder="dense") to leave the rest dense, '
                'remainder="pad" to keep at most n of it.'
            )
        if not self.unit_sizes(shape):
            return f"{inputs} inputs are too few for a group of {self.n}:{self.m}"
        return None

    def unit_sizes(self, shape: tuple[int, ...]) -> Mapping[int, int]:
        """Returns how many weights groups give up, and how many groups do."""
        lines = math.prod(shape[:-1])
        return {
            num_pruned: lines * num_groups
            for num_groups, _, num_pruned in self._parts(shape[-1])
        }

    def unit_scores(self, scores: np.ndarray) -> np.ndarray:
        """Returns for each group the sum of the scores that it would give up."""
        return np.concatenate(
            [
                _lowest_sum(groups, num_pruned).reshape(-1)
                for groups, num_pruned in self._cut(scores)
            ]
            or [np.zeros(0, scores.dtype)]
        )

    def expand(self, unit_mask: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Returns the mask in which pruned groups are N:M and others are whole."""
        mask = np.ones_like(scores, dtype=bool)
        start = 0
        for (groups, num_pruned), (target, _) in zip(
            self._cut(scores), self._cut(mask), strict=True
        ):
            num_units = math.prod(groups.shape[:-1])
            whole = unit_mask[start : start + num_units].reshape(groups.shape[:-1])
            _prune_lowest(groups, num_pruned, whole, out=target)
            start += num_units
        return mask

    def exchange(
        self,
        mask: np.ndarray,
        scores: np.ndarray,
        growth: np.ndarray,
        num_pruned: int,
        rate: float,
    ) -> np.ndarray:
        """Returns a mask in which groups that are N:M keep other weights than before.

        Groups do not change places; in each of them what is kept does. See
        `Granularity.exchange`.
        """
        scores = np.where(mask, scores, -np.inf)
        of_units = np.where(
            self.unit_scores(mask) == 0,
            -np.inf,
            self.unit_scores(np.where(mask, scores, 0)),
        )
        whole = keep_highest(of_units, num_pruned)
        kept = self.expand(whole, scores)
        num_kept = int(np.count_nonzero(kept))
        lowest = np.where(kept, scores, -np.inf).reshape(-1)
        num_stay = num_kept - int(rate * num_kept)
        stay = keep_highest(lowest, kept.size - num_stay).reshape(kept.shape)
        return self.expand(whole, np.where(stay, np.inf, growth))

    def _parts(self, inputs: int) -> list[tuple[int, int, int]]:
        """Returns number and length of groups, and how many weights each gives up."""
        whole, rest = divmod(inputs, self.m)
        parts = [(whole, self.m, self.m - self.n)] if whole else []
        if self.remainder == "pad" and rest > self.n:
            parts.append((1, rest, rest - self.n))
        return parts

    def _cut(self, array: np.ndarray) -> list[tuple[np.ndarray, int]]:
        """Returns views of (..., groups, length), and how many of each group go."""
        found, start = [], 0
        for num_groups, length, num_pruned in self._parts(array.shape[-1]):
            part = array[..., start : start + num_groups * length]
            found.append(
                (part.reshape(*array.shape[:-1], num_groups, length), num_pruned)
            )
            start += num_groups * length
        return found


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Channel(Granularity):
    """Prunes whole channels: filters, units, heads, with all that is coupled to them.

    A channel is the slice of every weight that makes, scales or reads it, in all layers
    that residual connections, concatenations and the like tie together; a rule with
    this granularity therefore speaks of coupled groups, not of single weights. What is
    held at zero can be removed by `kprune.shrink`, with the outputs unchanged.

    Args:
        multiple: Each group is left with a multiple of so many channels, where it has
            that many. Runtimes compute blocks of them: 8 suits most, 16 Ethos-U, 4
            CMSIS-NN.
        min_channels: Channels that each group is left with at least.
        by_stage: Whether groups whose feature maps have the same size share the
            sparsity among themselves only.
        head_dimensions: Whether the dimensions inside of attention heads are pruned
            too, not only whole heads.

    Raises:
        ValueError: If `multiple` or `min_channels` is below 1.
    """

    multiple: int = 1
    min_channels: int = 1
    by_stage: bool = False
    head_dimensions: bool = False

    def __post_init__(self) -> None:
        for name in ("multiple", "min_channels"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"Channel: `{name}` must be an integer of at least 1. "
                    f"Received {value!r}."
                )

    @property
    def default_allocation(self) -> Allocation:
        """The same share of every group: channels of different layers compare badly."""
        return Uniform()

    def unit_scores(self, scores: np.ndarray) -> np.ndarray:
        """Returns the L2 norm per index of the last axis, where filters and units lie.

        For a weight by itself; coupled weights are scored by `kprune.coupling.scores`.
        """
        squares = np.square(scores, dtype=np.float64)
        return np.sqrt(squares.reshape(-1, scores.shape[-1]).sum(axis=0))

    def expand(self, unit_mask: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Returns the mask with whole indices of the last axis."""
        return np.broadcast_to(unit_mask, scores.shape).copy()


def keep_highest(scores: np.ndarray, num_pruned: int) -> np.ndarray:
    """Returns where flat scores are not among the `num_pruned` lowest.

    Raises:
        ValueError: If `num_pruned` is no number from 0 to that of the scores.
    """
    if not 0 <= num_pruned <= scores.size:
        raise ValueError(
            f"`num_pruned` must lie between 0 and the number of units, {scores.size}. "
            f"Received {num_pruned}."
        )
    if num_pruned == 0:
        return np.ones(scores.size, bool)
    threshold = nth_lowest(scores, num_pruned)
    keep = scores > threshold
    # Units that tie with the threshold: the last ones stay, for an exact count.
    num_ties_kept = scores.size - num_pruned - int(np.count_nonzero(keep))
    if num_ties_kept:
        keep[np.flatnonzero(scores == threshold)[-num_ties_kept:]] = True
    return keep


_POOLINGS = ("mean", "max", "l2")


def _pooled(scores: np.ndarray, sizes: tuple[int, ...], pooling: str) -> np.ndarray:
    """Returns one value per block, each axis in turn; smaller blocks at the end."""
    if pooling == "l2":
        scores = np.square(scores)
    reduce: Any = np.max if pooling == "max" else np.sum
    pooled = scores
    for axis, size in enumerate(sizes):
        if size == 1:
            continue
        whole, rest = divmod(pooled.shape[axis], size)
        shape = pooled.shape
        head, last = np.split(pooled, [whole * size], axis)
        head = head.reshape(*shape[:axis], whole, size, *shape[axis + 1 :])
        parts = [reduce(head, axis=axis + 1)]
        if rest:
            parts.append(reduce(last, axis=axis, keepdims=True))
        pooled = parts[0] if len(parts) == 1 else np.concatenate(parts, axis)
    if pooling == "max":
        return pooled
    for axis, size in enumerate(sizes):
        if size == 1:
            continue
        lengths = np.full(pooled.shape[axis], size, pooled.dtype)
        lengths[-1] = scores.shape[axis] - size * (pooled.shape[axis] - 1)
        others = [1] * pooled.ndim
        others[axis] = -1
        pooled = pooled / lengths.reshape(others)
    return np.sqrt(pooled) if pooling == "l2" else pooled


def _spread(
    unit_mask: np.ndarray, sizes: tuple[int, ...], scores: np.ndarray
) -> np.ndarray:
    """Returns the mask of all elements from that of the blocks they are in."""
    numbers = [-(-n // size) for n, size in zip(scores.shape, sizes, strict=True)]
    whole = [n * size for n, size in zip(numbers, sizes, strict=True)]
    # In the order in memory that the scores have: a view in that of the runtimes.
    units = np.empty_like(scores, dtype=bool, shape=numbers)
    units[...] = unit_mask.reshape(numbers)
    mask = np.empty_like(scores, dtype=bool, shape=whole)
    split = [length for pair in zip(numbers, sizes, strict=True) for length in pair]
    mask.reshape(split)[...] = np.expand_dims(units, [*range(1, 2 * len(sizes), 2)])
    return mask[tuple(slice(n) for n in scores.shape)]


def _lowest_sum(groups: np.ndarray, count: int) -> np.ndarray:
    """Returns the sum of the `count` lowest of each group along the last axis."""
    sums = np.empty_like(groups[..., 0])
    for chunk in _chunks(groups):
        part = groups[chunk]
        columns = [part[..., j].copy(order="K") for j in range(part.shape[-1])]
        for i in range(count):
            # What sinks to column i is the lowest of all from there on.
            for j in range(len(columns) - 1, i, -1):
                lower = np.minimum(columns[j - 1], columns[j])
                np.maximum(columns[j - 1], columns[j], out=columns[j])
                columns[j - 1] = lower
        sums[chunk] = sum(columns[1:count], columns[0])
    return sums


def _prune_lowest(
    groups: np.ndarray, count: int, whole: np.ndarray, out: np.ndarray
) -> None:
    """Writes where elements are kept: all but the `count` lowest of each group.

    Args:
        groups: Scores, groups along the last axis.
        count: Elements that each group gives up; of equal scores the first ones.
        whole: Groups that give up none.
        out: Boolean, of the shape of `groups`.
    """
    for chunk in _chunks(groups):
        part, kept, target = groups[chunk], whole[chunk], out[chunk]
        columns = [part[..., j].copy(order="K") for j in range(part.shape[-1])]
        # As if each were above all that follow it; every pair then says.
        ranks = [
            np.full_like(columns[0], len(columns) - 1 - i, dtype=np.int8)
            for i in range(len(columns))
        ]
        for j in range(1, len(columns)):
            for i in range(j):
                before = (columns[i] <= columns[j]).view(np.int8)
                ranks[j] += before
                ranks[i] -= before
        for j, rank in enumerate(ranks):
            target[..., j] = (rank >= count) | kept


def _chunks(groups: np.ndarray) -> list[slice]:
    step = max(1, _CHUNK * groups.shape[0] // max(1, groups.size))
    return [slice(i, i + step) for i in range(0, groups.shape[0], step)]
