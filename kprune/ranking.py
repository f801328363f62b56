"""Finding the n-th lowest score quickly, also where many scores are equal.

This module changes when a faster way is found; it decides nothing.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

# Below this number of scores a copy costs nothing worth saving.
_LARGE = 2**20
_SAMPLE = 2**15
_CHUNK = 2**17  # Fits into a core's own cache.


def nth_lowest(scores: np.ndarray | Sequence[np.ndarray], n: int) -> np.floating:
    """Returns the n-th lowest of flat scores, counted from 1.

    This is `np.partition(scores, n - 1)[n - 1]`, without its two costs (measured with
    NumPy 2.4): a copy of all scores, and thirty times the time where many of them are
    equal, as they are in a weight that is pruned already. A sample tells between which
    two values the result must lie; only what lies between them is copied and ranked.

    Args:
        scores: Flat array without NaN, or several, which are ranked together.
        n: From 1 to the number of scores.
    """
    parts = [scores] if isinstance(scores, np.ndarray) else list(scores)
    parts = [part for part in parts if part.size]
    lowest = min(part.min() for part in parts)
    low, high = lowest, np.inf
    if sum(part.size for part in parts) > _LARGE:
        low, high = _bounds(parts, n, lowest)
    num_low, between = 0, []
    for part in parts:
        for start in range(0, part.size, _CHUNK):
            chunk = part[start : start + _CHUNK]
            above = chunk > low
            num_low += chunk.size - int(np.count_nonzero(above))
            between.append(np.compress(above & (chunk <= high), chunk))
    candidates, n_above = np.concatenate(between), n - num_low
    if n_above <= 0 and low == lowest:
        return lowest
    if not 0 < n_above <= candidates.size:  # The sample misled, which is very rare.
        candidates, n_above = np.concatenate(parts), n
    return np.partition(candidates, n_above - 1)[n_above - 1]


def _bounds(
    parts: Sequence[np.ndarray], n: int, lowest: np.floating
) -> tuple[Any, Any]:
    """Returns values around the n-th lowest, more than five deviations apart."""
    ends = np.cumsum([part.size for part in parts])
    places = np.sort(np.random.default_rng(0).integers(ends[-1], size=_SAMPLE))
    cuts = np.searchsorted(places, ends)
    sample = np.sort(
        np.concatenate(
            [
                part[places[first:last] - (end - part.size)]
                for part, end, first, last in zip(
                    parts, ends, [0, *cuts[:-1]], cuts, strict=True
                )
            ]
        )
    )
    place, margin = n / ends[-1] * _SAMPLE, 2.6 * math.sqrt(_SAMPLE)
    first, last = int(place - margin), int(place + margin)
    return (
        sample[first] if first >= 0 else lowest,
        sample[last] if last < _SAMPLE else np.inf,
    )
