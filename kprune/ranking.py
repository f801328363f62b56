"""Finding the n-th lowest score quickly, also where many scores are equal.

This module changes when a faster way is found; it decides nothing.
"""

import math
from typing import Any

import numpy as np

# Below this number of scores a copy costs nothing worth saving.
_LARGE = 2**20
_SAMPLE = 2**15
_CHUNK = 2**17  # Fits into a core's own cache.


def nth_lowest(scores: np.ndarray, n: int) -> np.floating:
    """Returns the n-th lowest of flat scores, counted from 1.

    This is `np.partition(scores, n - 1)[n - 1]`, without its two costs (measured with
    NumPy 2.4): a copy of all scores, and thirty times the time where many of them are
    equal, as they are in a weight that is pruned already. A sample tells between which
    two values the result must lie; only what lies between them is copied and ranked.

    Args:
        scores: Flat array without NaN.
        n: From 1 to the number of scores.
    """
    lowest = scores.min()
    low, high = lowest, np.inf
    if scores.size > _LARGE:
        low, high = _bounds(scores, n, lowest)
    num_low, between = 0, []
    for start in range(0, scores.size, _CHUNK):
        chunk = scores[start : start + _CHUNK]
        above = chunk > low
        num_low += chunk.size - int(np.count_nonzero(above))
        between.append(np.compress(above & (chunk <= high), chunk))
    candidates, n_above = np.concatenate(between), n - num_low
    if n_above <= 0 and low == lowest:
        return lowest
    if not 0 < n_above <= candidates.size:  # The sample misled, which is very rare.
        candidates, n_above = scores, n
    return np.partition(candidates, n_above - 1)[n_above - 1]


def _bounds(scores: np.ndarray, n: int, lowest: np.floating) -> tuple[Any, Any]:
    """Returns values around the n-th lowest, more than five deviations apart."""
    places = np.random.default_rng(0).integers(scores.size, size=_SAMPLE)
    sample = np.sort(scores[places])
    place, margin = n / scores.size * _SAMPLE, 2.6 * math.sqrt(_SAMPLE)
    first, last = int(place - margin), int(place + margin)
    return (
        sample[first] if first >= 0 else lowest,
        sample[last] if last < _SAMPLE else np.inf,
    )
