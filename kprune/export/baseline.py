"""The same file without its zeros: what sizes and times are compared with.

This module changes when the comparison does.
"""

import numpy as np

from kprune.export import tflite

TOO_LARGE = (
    "this file, its zeros replaced by random values, since its float32 file would be "
    "larger than a .tflite file can be"
)
"""What stands in for the dense float32 file where there cannot be one."""


def without_zeros(data: bytes, seed: int = 0) -> bytes:
    """Returns the file with each zero weight replaced by a random one.

    The replacements are normal, as wide as the tensor's other values, so that gzip
    finds as little in them as in trained weights. Graph, shapes, types and scales stay,
    so what differs between the two files is the zeros and nothing else.

    Args:
        data: A `.tflite` file.
        seed: Seed of the replacements.
    """
    result = bytearray(data)
    generator = np.random.default_rng(seed)
    # Constants are views of `result`: writing into them patches the file.
    for tensor in tflite.parse(result).weights():
        zeros, array = tensor.zero_mask, tensor.array
        # Biases and normalisation parameters (rank 1) are zero for other reasons.
        if zeros is None or array is None or array.ndim < 2 or not zeros.any():
            continue
        if not array.flags.writeable:
            continue  # Values narrower than a byte are copies.
        array[zeros] = _replacements(array, zeros, generator)
    return bytes(result)


def _replacements(
    array: np.ndarray, zeros: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    rest = array[~zeros].astype(np.float64)
    width = rest.std() if rest.size > 1 and rest.std() else 1.0
    values = generator.normal(0.0, width, int(zeros.sum()))
    if array.dtype.kind == "f":
        return values.astype(array.dtype)
    limits = np.iinfo(array.dtype)
    rounded = np.rint(values)
    rounded[rounded == 0] = 1
    return np.clip(rounded, max(limits.min, -127), min(limits.max, 127)).astype(
        array.dtype
    )
