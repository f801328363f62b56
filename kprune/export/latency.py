"""From lists of times to one comparison.

This module changes when another statistic is reported.
"""

from collections.abc import Sequence

import numpy as np

from kprune.report import Latency, Timing

DENSE = "dense float32"
FILLED = "this file with its zeros filled"
PLAIN = "the same file, not encoded"
"""What files are timed against."""

LITERT = "LiteRT, 1 thread"
MICRO = "TensorFlow Lite Micro, reference kernels"
"""What they are timed in."""


def summarise(
    runtime: str, baseline: str, baseline_times: Sequence[float], times: Sequence[float]
) -> Latency:
    """Returns the comparison of two files that were timed in turns.

    The ratio is taken within each round and its median over the rounds, so that a slow
    spell of the machine hits both sides of a ratio.

    Args:
        runtime: The runtime's name.
        baseline: What the file is compared with.
        baseline_times: Seconds per run of the baseline, one per round.
        times: Seconds per run of the file, one per round.
    """
    before, after = np.asarray(baseline_times), np.asarray(times)
    # A clock tick too coarse for a tiny model reads zero.
    low, ratio, high = np.quantile(before / np.maximum(after, 1e-9), (0.25, 0.5, 0.75))
    return Latency(
        runtime=runtime,
        baseline=baseline,
        baseline_ms=float(np.median(before)) * 1e3,
        file_ms=float(np.median(after)) * 1e3,
        ratio=float(ratio),
        low=float(low),
        high=float(high),
        rounds=len(after),
    )


def spread(times: Sequence[float]) -> Timing:
    """Returns what one run of a file takes.

    Args:
        times: Seconds per run, one per round.
    """
    low, middle, high = np.quantile(np.asarray(times), (0.25, 0.5, 0.75)) * 1e3
    return Timing(float(middle), float(low), float(high), len(times))
