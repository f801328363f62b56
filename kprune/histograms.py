"""Masks by one ranking of weights that lie on several machines, without gathering them.

Workers add up histograms of their scores. Two of them, of 65,536 bins each, say what
the n-th lowest score of all is, to the last bit: the first counts the upper 16 bits of
float32 scores, the second the lower 16 bits of those in the one bin where the n-th lies
(four, for float64). Which of the scores that tie with it go is found in the same way,
by their places. This module changes when what workers tell each other changes; how many
each weight gives up is decided in `allocation.py`.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kprune.allocation import Global, split_by_rank, with_ties
from kprune.config import check_fraction

# What scores are ranked as: the 16-bit formats are float32 without its last bits.
_RANKED_AS: dict[str, type[np.floating]] = {
    "float16": np.float32,
    "bfloat16": np.float32,
    "float32": np.float32,
    "float64": np.float64,
}
_BITS = 16  # Of a key per histogram.
_BINS = 2**_BITS
# Scores that are worked on at once. Fewer would make adding up the bins cost more than
# counting; with more, keys as int64 leave a core's own cache.
_CHUNK = 2**18

AllReduce = Callable[[np.ndarray], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Shard:
    """A part of a weight that one worker has, with the scores of its elements.

    Args:
        weight: The weight's name.
        scores: Of the shard's shape, larger = keep; float16, bfloat16, float32 or
            float64, without NaN. For each pass a shard that is not contiguous is
            copied, one at a time.
        index: The slices that cut the shard out of the weight, one per axis: blocks of
            rows, of columns, any. `None` for the whole weight.
        mask: The shard's mask so far, True = keep. What it prunes stays pruned. `None`
            if there is none yet.
        replica_id: Of several workers that have the same part of a weight, 0 on one of
            them and not 0 on the others: all get the mask, and one is counted.

    Raises:
        TypeError: If scores, slices or mask are not of these types.
        ValueError: If they do not fit together.
    """

    weight: str
    scores: np.ndarray
    index: tuple[slice, ...] | None = None
    mask: np.ndarray | None = None
    replica_id: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.weight, str):
            raise TypeError(
                "Shard: `weight` is the weight's name, such as its path. Received "
                f"{self.weight!r} of type {type(self.weight).__name__}."
            )
        owner = f"Shard of {self.weight!r}"
        dtype = str(getattr(self.scores, "dtype", None))
        if not isinstance(self.scores, np.ndarray) or _name(self) not in _RANKED_AS:
            raise TypeError(
                f"{owner}: `scores` must be a NumPy array of one of "
                f"{list(_RANKED_AS)}, which histograms rank exactly. Received "
                f"{type(self.scores).__name__} of {dtype}. Convert it with np.asarray, "
                "and to float32 or float64."
            )
        if self.index is not None:
            slices = isinstance(self.index, tuple)
            if not slices or not all(isinstance(s, slice) for s in self.index):
                raise TypeError(
                    f"{owner}: `index` must be a tuple of slices, such as "
                    f"(slice(0, 512), slice(None)). Received {self.index!r}."
                )
            if len(self.index) != self.scores.ndim:
                raise ValueError(
                    f"{owner}: `index` must have a slice for each axis of `scores`, "
                    f"{self.scores.ndim}. Received {self.index!r}."
                )
        if self.mask is not None:
            shape = np.shape(self.mask)
            dtype = str(getattr(self.mask, "dtype", None))
            if shape != self.scores.shape or dtype != "bool":
                raise ValueError(
                    f"{owner}: `mask` must be a boolean array of the scores' shape, "
                    f"{self.scores.shape}. Received {dtype} of shape {shape}."
                )


def sharded_masks(
    shards: Iterable[Shard],
    shapes: Mapping[str, Sequence[int]],
    sparsity: float,
    all_reduce: AllReduce,
    allocation: Global | None = None,
) -> list[np.ndarray]:
    """Returns the masks that one machine would make of all weights together.

    Every worker calls this at the same time, with the shards that it has. The masks are
    those of `PruningCallback(sparsity, allocation="global")` with the same scores, bit
    for bit: the number of zeros is `round(sparsity * elements)`; of equal scores those
    of the earlier weight go first, and within a weight those of the lower index in C
    order of the whole weight, along whichever axes it is cut. 0.0 and -0.0 are equal.

    How often `all_reduce` is called, and with what shapes, depends on what was summed
    alone, so that it is the same on all workers. Usually these are 5 calls, or 6 to 8
    where equal scores have to be told apart, of 512 KiB at most each but for 16 bytes
    per weight. A weight that gives up all that it may, because of `min_density` or
    of the one unit that is always left, costs two or three of 512 KiB more, and those
    that are found at once another round for all.

    Args:
        shards: Of this worker, in any order; none is fine. All workers together have
            each element once, replicas aside.
        shapes: The shapes of all weights by name, in the model's order, the same on
            all workers.
        sparsity: Fraction of all elements that is to be pruned, in [0, 1).
        all_reduce: Given an int64 array of rank 1, returns the sum of those of all
            workers, int64 and of the same shape. It may sum in place, and has to
            return the array then.
        allocation: A `Global`, for its floor per weight; `Global()` by default.

    Returns:
        One boolean array per shard, of its shape, True = keep.

    Raises:
        TypeError: If `allocation` is another than `Global`, or `all_reduce` does not
            return int64.
        ValueError: On all workers, if scores are NaN (leave the masks as they are), if
            shards overlap or leave gaps, or if workers were given different settings.
            On one worker, if a shard is no part of a weight.

    Example:
        >>> kernel = np.array([[0.4, -0.1], [0.3, 0.2]])
        >>> shard = Shard("kernel", np.abs(kernel))
        >>> sharded_masks([shard], {"kernel": (2, 2)}, 0.5, all_reduce=lambda x: x)
        [array([[ True, False],
               [ True, False]])]
    """
    check_fraction("sparsity", sparsity, "sharded_masks")
    allocation = _checked(allocation)
    names = list(shapes)
    places = [_place(shard, names, shapes) for shard in shards]
    counted = [place for place in places if place.shard.replica_id == 0]
    sizes = [math.prod(shapes[name]) for name in names]
    settings = [(name, *map(int, shapes[name])) for name in names]
    said = repr((settings, float(sparsity), allocation))
    dtype = _agreed(counted, said, all_reduce)
    _check_complete(counted, shapes, all_reduce)
    workers = _Workers(counted, sizes, dtype, all_reduce)
    cuts: dict[int, _Cut] = {}

    def lowest(weights: list[int], n: int) -> list[int]:
        found, counts = workers.lowest(weights, n)
        cuts.update(zip(weights, found, strict=True))
        return counts

    total, limits = allocation.budget(sizes, sparsity)
    counts = split_by_rank(limits, total, lowest)
    for weight, count in enumerate(counts):
        if cuts[weight].count != count:  # It stands at its limit.
            lowest([weight], count)
    cuts = {weight: workers.placed(weight, cut) for weight, cut in cuts.items()}
    return [_mask(place, cuts[place.weight], dtype) for place in places]


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
    """A shard, and where in its weight it lies.

    Args:
        shard: The shard.
        weight: The weight's place among all.
        axes: For each axis the index of the first element in the whole weight, and
            how far the next one lies, in elements of the flat weight.
    """

    shard: Shard
    weight: int
    axes: tuple[tuple[int, int], ...]

    def chunks(self, dtype: type[np.floating]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields flat parts with their starts; what is pruned already scores -inf."""
        scores, mask = self.shard.scores.reshape(-1), self.shard.mask
        kept = None if mask is None else mask.reshape(-1)
        for start in range(0, scores.size, _CHUNK):
            chunk = scores[start : start + _CHUNK].astype(dtype, copy=False)
            if kept is not None:
                chunk = np.where(kept[start : start + _CHUNK], chunk, dtype(-np.inf))
            yield start, chunk

    def in_weight(self, flat: np.ndarray) -> np.ndarray:
        """Returns the flat indices in the whole weight of those in the shard."""
        found = np.zeros_like(flat)
        along = np.unravel_index(flat, self.shard.scores.shape)
        for (start, step), index in zip(self.axes, along, strict=True):
            found += start + step * index
        return found


@dataclasses.dataclass(frozen=True)
class _Cut:
    """Where a weight is cut: what goes are its lowest scores.

    Args:
        score: All below it go; of those equal to it, the ones of lower index.
        below: How many those below are.
        taken: How many of the equal ones go.
        ties: How many there are.
        last: The flat index of the last of them that goes; `None` if all or none do.
    """

    score: float
    below: int
    taken: int
    ties: int
    last: int | None = None

    @property
    def count(self) -> int:
        """How many elements go."""
        return self.below + self.taken


@dataclasses.dataclass(frozen=True, eq=False)
class _Workers:
    """What all workers know together, asked for by sums.

    Args:
        places: The shards of this worker that count.
        sizes: Per weight its number of elements.
        dtype: What scores are ranked as.
        all_reduce: As for `sharded_masks`.
    """

    places: Sequence[_Place]
    sizes: Sequence[int]
    dtype: type[np.floating]
    all_reduce: AllReduce

    def lowest(self, weights: list[int], n: int) -> tuple[list[_Cut], list[int]]:
        """Returns where the n lowest of some weights together end, and their numbers.

        That is one score for all these weights; ties go from the earlier ones first.
        """
        if n == 0:
            nothing = _Cut(-np.inf, 0, 0, 0)
            return [nothing] * len(weights), [0] * len(weights)
        at = {weight: i for i, weight in enumerate(weights)}
        places = [place for place in self.places if place.weight in at]
        bits = 8 * np.dtype(self.dtype).itemsize
        key = self._nth(
            n,
            sum(self.sizes[weight] for weight in weights),
            range(bits - _BITS, -1, -_BITS),
            lambda shift, above: _histogram(places, self.dtype, shift, above),
        )
        score = _score(key - 2 ** (bits - 1), self.dtype)
        compared = np.zeros((2, len(weights)), np.int64)
        for place in places:
            for _, chunk in place.chunks(self.dtype):
                compared[0, at[place.weight]] += np.count_nonzero(chunk < score)
                compared[1, at[place.weight]] += np.count_nonzero(chunk == score)
        summed = _summed(self.all_reduce, compared.reshape(-1))
        below, ties = summed.reshape(2, -1).tolist()
        counts = with_ties(below, ties, n)
        cuts = [
            _Cut(float(score), num, count - num, equal)
            for num, count, equal in zip(below, counts, ties, strict=True)
        ]
        return cuts, counts

    def placed(self, weight: int, cut: _Cut) -> _Cut:
        """Returns the cut of a weight with the index of its last tie."""
        if cut.taken in (0, cut.ties):
            return cut
        places = [place for place in self.places if place.weight == weight]
        largest = self.sizes[weight] - 1
        num_digits = -(-largest.bit_length() // _BITS)
        last = self._nth(
            cut.taken,
            cut.ties,
            range(_BITS * (num_digits - 1), -1, -_BITS),
            lambda shift, above: _tie_histogram(
                places, self.dtype, cut.score, largest, shift, above
            ),
        )
        return dataclasses.replace(cut, last=last)

    def _nth(
        self,
        n: int,
        size: int,
        shifts: Iterable[int],
        histogram: Callable[[int, int | None], np.ndarray],
    ) -> int:
        """Returns the n-th lowest of unsigned keys.

        Args:
            n: From 1 to `size`.
            size: The number of keys on all workers.
            shifts: How many bits lie below each digit of a key, the highest first.
            histogram: Given a shift, and the key's digits above it or `None`, returns
                how often this worker has each digit in keys of these digits above.
        """
        key, above = 0, None
        for shift in shifts:
            counts = _summed(self.all_reduce, histogram(shift, above))
            ends = np.cumsum(counts)
            if ends[-1] != size:
                raise ValueError(
                    f"sharded_masks: workers together counted {ends[-1]} scores where "
                    f"{size} are. `all_reduce` must return the sum over all workers, "
                    "and scores must not change during the call."
                )
            digit = int(np.searchsorted(ends, n))
            size = int(counts[digit])
            n -= int(ends[digit]) - size
            key = above = key << _BITS | digit
        return key


def _name(shard: Shard) -> str:
    # Whatever its byte order is.
    return shard.scores.dtype.name


def _checked(allocation: Global | None) -> Global:
    if allocation is None:
        return Global()
    if not isinstance(allocation, Global):
        raise TypeError(
            "sharded_masks: `allocation` must be a kprune.Global: others do not go by "
            "one score for all weights, which is what histograms find. Received "
            f"{allocation!r}. Scores that are comparable between weights, such as "
            "|w| over the weight's standard deviation, do what they do to some degree."
        )
    return allocation


def _place(
    shard: Shard, names: Sequence[str], shapes: Mapping[str, Sequence[int]]
) -> _Place:
    if shard.weight not in shapes:
        raise ValueError(
            f"sharded_masks: there is a shard of {shard.weight!r}, which `shapes` does "
            f"not name. It has {list(names)}."
        )
    shape, scores = tuple(shapes[shard.weight]), shard.scores
    index = shard.index or (slice(None),) * len(shape)
    fits = len(index) == len(shape) == scores.ndim
    ranges = [range(*s.indices(n)) for s, n in zip(index, shape, strict=False)]
    if not fits or tuple(map(len, ranges)) != scores.shape:
        cut = f"cut by {shard.index}" if shard.index else "not cut"
        raise ValueError(
            f"sharded_masks: a shard of {shard.weight!r} has scores of shape "
            f"{scores.shape}. The weight is of shape {shape}, {cut}. Give `index`, the "
            "slices that cut the shard out of the weight."
        )
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    axes = tuple(
        (along.start * stride, along.step * stride)
        for along, stride in zip(ranges, strides, strict=True)
    )
    return _Place(shard, names.index(shard.weight), axes)


def _agreed(
    places: Sequence[_Place], settings: str, all_reduce: AllReduce
) -> type[np.floating]:
    """Returns what all workers rank as, after a look whether they mean the same.

    Raises:
        ValueError: If their settings differ.
    """
    # All numbers are the same if and only if their variance is 0. 20 bits, so that the
    # squares of two billion workers can be added up.
    digest = zlib.crc32(settings.encode()) % 2**20
    wide = sum(_RANKED_AS[_name(place.shard)] is np.float64 for place in places)
    said = np.array([1, digest, digest**2, wide], np.int64)
    num_workers, total, squares, num_wide = _summed(all_reduce, said).tolist()
    if num_workers * squares != total**2:
        raise ValueError(
            "sharded_masks: workers were called with different `shapes` (names, order "
            "or sizes), `sparsity` or `allocation`. Give all of them the same."
        )
    return np.float64 if num_wide else np.float32


def _check_complete(
    places: Sequence[_Place],
    shapes: Mapping[str, Sequence[int]],
    all_reduce: AllReduce,
) -> None:
    """Raises ValueError on all workers if scores are NaN, missing or there twice."""
    said, here = np.zeros((2, len(shapes)), np.int64), ""
    for place in places:
        said[0, place.weight] += place.shard.scores.size
        flat = place.shard.scores.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            nan = np.isnan(flat[start : start + _CHUNK])
            said[1, place.weight] += np.count_nonzero(nan)
            if not here and nan.any():
                first = place.in_weight(start + np.flatnonzero(nan)[:1])
                axes = np.unravel_index(first, tuple(shapes[place.shard.weight]))
                where = tuple(int(index[0]) for index in axes)
                here = (
                    f" On this worker the first is at {where} of "
                    f"{place.shard.weight!r}."
                )
    summed = _summed(all_reduce, said.reshape(-1)).reshape(2, -1)
    for (name, shape), size, num_nan in zip(
        shapes.items(), *summed.tolist(), strict=True
    ):
        if size != math.prod(shape):
            raise ValueError(
                f"sharded_masks: the shards of {name!r} have {size} elements, and it "
                f"has {math.prod(shape)}. Each must be in one shard; of replicas, all "
                "but one need a `replica_id` that is not 0."
            )
        if num_nan:
            raise ValueError(
                f"sharded_masks: {num_nan} scores of {name!r} are NaN, so that there "
                "is no ranking; the masks should stay as they are. Lower the learning "
                f"rate, or clip gradients.{here}"
            )


def _summed(all_reduce: AllReduce, counts: np.ndarray) -> np.ndarray:
    reply = np.asarray(all_reduce(counts))
    if reply.dtype != np.int64 or reply.shape != counts.shape:
        raise TypeError(
            "sharded_masks: `all_reduce` must return an int64 array of the shape that "
            f"it is given, {counts.shape}: other types cannot count every score. "
            f"Received {reply.dtype} of shape {reply.shape}. If it sums in place, "
            "return the array; JAX has int64 with jax_enable_x64 only."
        )
    return reply


def _histogram(
    places: Sequence[_Place], dtype: type[np.floating], shift: int, above: int | None
) -> np.ndarray:
    """Returns how often scores have each digit, as `_Workers._nth` wants it."""
    counts = np.zeros(_BINS, np.int64)
    if above is not None:
        middle = 2 ** (8 * np.dtype(dtype).itemsize - 1)
        # Up to infinity: keys beyond it are NaN's.
        end = int(_keys(np.array([np.inf], dtype))[0])
        first = (above << (shift + _BITS)) - middle
        last = first + (1 << (shift + _BITS)) - 1
        low, high = _score(max(first, -end), dtype), _score(min(last, end), dtype)
    for place in places:
        for _, chunk in place.chunks(dtype):
            if above is None:
                # Half of all digits belong to keys below 0.
                digits = (_keys(chunk) >> shift) + _BINS // 2
            else:
                among = np.compress((chunk >= low) & (chunk <= high), chunk)
                digits = (_keys(among) >> shift) & (_BINS - 1)
            if digits.size:
                counts += np.bincount(digits, minlength=_BINS)
    return counts


def _tie_histogram(
    places: Sequence[_Place],
    dtype: type[np.floating],
    score: float,
    largest: int,
    shift: int,
    above: int | None,
) -> np.ndarray:
    """Returns how often indices of scores that tie have each digit."""
    counts = np.zeros((largest >> shift) + 1 if above is None else _BINS, np.int64)
    for place in places:
        for start, chunk in place.chunks(dtype):
            indices = place.in_weight(start + np.flatnonzero(chunk == score))
            if above is not None:
                indices = indices[indices >> (shift + _BITS) == above]
            if indices.size:
                digits = (indices >> shift) & (_BINS - 1)
                counts += np.bincount(digits, minlength=counts.size)
    return counts


def _mask(place: _Place, cut: _Cut, dtype: type[np.floating]) -> np.ndarray:
    mask = np.ones(place.shard.scores.size, bool)
    if cut.count:
        for start, chunk in place.chunks(dtype):
            keep = np.greater(chunk, cut.score, out=mask[start : start + chunk.size])
            if cut.taken < cut.ties:
                ties = np.flatnonzero(chunk == cut.score)
                if cut.last is not None:
                    ties = ties[place.in_weight(start + ties) > cut.last]
                keep[ties] = True
    shaped = mask.reshape(place.shard.scores.shape)
    return shaped if place.shard.mask is None else shaped & place.shard.mask


def _keys(scores: np.ndarray) -> np.ndarray:
    """Returns signed integers in the order of floats, with one for both zeros.

    Those of positive floats are their bits, those of negative ones the bits of the
    absolute value with the sign of an integer.
    """
    bits: Any = scores.view(np.int32 if scores.dtype == np.float32 else np.int64)
    sign = bits >> (8 * bits.itemsize - 1)  # 0 or -1.
    return (bits ^ (sign & np.iinfo(bits.dtype).max)) - sign


def _score(key: int, dtype: type[np.floating]) -> np.floating:
    """Returns the float of a key."""
    bits = np.array([abs(key)], f"u{np.dtype(dtype).itemsize}").view(dtype)[0]
    return -bits if key < 0 else bits
