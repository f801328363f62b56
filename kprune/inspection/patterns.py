"""Recognising how zeros are arranged in a weight.

This module changes when another arrangement is to be recognised. Every function is pure
and looks at one boolean array, `zeros`, that is True where a weight is zero and has the
layout of the runtimes: output channels first, input channels last.
"""

import itertools

import numpy as np

# Rounding to int8 makes about one weight in a hundred zero by itself, and some channels
# more; below this share nobody pruned on purpose.
_DENSE_BELOW = 0.05
# XNNPACK's own rule for choosing a block kernel is that nine tenths of the weights in
# live blocks are not zero; the same tolerance serves groups of N:M.
_TOLERANCE = 0.9
_MIN_GROUPS = 8
_SIZES = (1, 2, 4, 8, 16)


def describe(zeros: np.ndarray) -> str:
    """Returns the pattern in words.

    Args:
        zeros: True where the weight is zero; (outputs, ..., inputs).

    Returns:
        `"dense"`, `"all zero"`, or what was found, joined by `" + "`: `"8 of 32 output
        channels"`, `"8 of 32 input channels"`, then for the rest `"2:4 along inputs"`,
        `"blocks of 4 inputs"`, `"blocks of 4 outputs"`, `"blocks of 4 outputs x 4
        inputs"`, `"whole kernels"` or `"unstructured"`.
    """
    if not zeros.size or zeros.mean() < _DENSE_BELOW:
        return "dense"
    if zeros.all():
        return "all zero"
    if zeros.ndim < 2:
        return "unstructured"
    outputs, inputs = zero_channels(zeros, 0), zero_channels(zeros, -1)
    parts = [
        f"{int(dead.sum())} of {dead.size} {name} channels"
        for dead, name in ((outputs, "output"), (inputs, "input"))
        if dead.any()
    ]
    live = zeros[~outputs]
    if live[..., ~inputs].mean() < _DENSE_BELOW:
        return " + ".join(parts)
    for m in (4, 8, 16, 32):
        n = n_of_m(live, m)
        if n is not None:
            return " + ".join([*parts, f"{n}:{m} along inputs"])
    return " + ".join([*parts, _blocks(zeros, live)])


def _blocks(zeros: np.ndarray, live: np.ndarray) -> str:
    """Returns the largest blocks in words; `live` is without zero output channels."""
    found: tuple[int, str] = (1, "unstructured")
    for outputs, inputs in itertools.product(_SIZES, _SIZES):
        size = outputs * inputs
        # Outputs that lack would shift the places of those behind them.
        if size > found[0] and in_blocks(
            live if outputs == 1 else zeros, (outputs, inputs)
        ):
            sides = [(outputs, "outputs"), (inputs, "inputs")]
            said = [f"{length} {name}" for length, name in sides if length > 1]
            found = size, f"blocks of {' x '.join(said)}"
    if found[0] == 1 and in_kernels(zeros):
        return "whole kernels"
    return found[1]


def zero_channels(zeros: np.ndarray, axis: int) -> np.ndarray:
    """Returns for each slice along `axis` whether it is zero altogether."""
    channels = np.moveaxis(zeros, axis, 0)
    return np.asarray(channels.reshape(len(channels), -1).all(axis=1))


def n_of_m(zeros: np.ndarray, m: int) -> int | None:
    """Returns the `n` of an N:M pattern along the last axis.

    In every group of `m` consecutive weights at most `n` are not zero, and in nine
    groups of ten exactly `n`: that sets it apart from scattered zeros, which have all
    counts.

    Args:
        zeros: True where the weight is zero.
        m: Length of a group.

    Returns:
        `n`, 1 <= n < m; `None` if there is no such pattern, or fewer than eight groups.
    """
    if zeros.shape[-1] % m or zeros.size < _MIN_GROUPS * m:
        return None
    kept = m - zeros.reshape(-1, m).sum(axis=1)
    n = int(kept.max())
    if not 1 <= n < m or (kept == n).mean() < _TOLERANCE:
        return None
    return n


def in_blocks(zeros: np.ndarray, sizes: tuple[int, int]) -> bool:
    """Returns whether zeros come in aligned blocks of outputs x inputs.

    That is so if there are blocks of nothing but zeros, and nine tenths of the weights
    in the other blocks are not zero.

    Args:
        zeros: True where the weight is zero.
        sizes: Lengths of a block along outputs and along inputs.
    """
    outputs, inputs = sizes
    lengths = zeros.shape[0], zeros.shape[-1]
    if lengths[0] % outputs or lengths[1] % inputs:
        return False
    blocks = zeros.reshape(
        lengths[0] // outputs, outputs, -1, lengths[1] // inputs, inputs
    )
    return _in_units(np.moveaxis(blocks, 1, -2).reshape(-1, outputs * inputs))


def in_kernels(zeros: np.ndarray) -> bool:
    """Returns whether windows are zero as a whole, or hardly zero at all."""
    if zeros.ndim < 3 or zeros[0, ..., 0].size == 1:
        return False
    windows = np.moveaxis(zeros, -1, 1)
    return _in_units(windows.reshape(windows.shape[0] * windows.shape[1], -1))


def _in_units(units: np.ndarray) -> bool:
    dead = units.all(axis=1)
    if len(units) < _MIN_GROUPS or not dead.any() or dead.all():
        return False
    return bool((~units[~dead]).mean() >= _TOLERANCE)
