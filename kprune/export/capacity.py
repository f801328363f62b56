"""Whether a model fits into a `.tflite` file at all, told before it is converted.

This module changes when the format's limit does, or what the converter stores.
"""

import math
from collections.abc import Iterable

import keras

from kprune.export.targets import NEEDS_DATA

MOST_BYTES = 2**31 - 1
"""The most bytes of a file: a flatbuffer's offsets are 32-bit integers with a sign.

Source: https://flatbuffers.dev/internals/
"""

# Bytes of a weight in the largest file on the way: what is calibrated is a float32 one,
# and so is what gets int4 weights.
_BYTES = {
    "none": 4,
    "float16": 2,
    "dynamic": 1,
    "int4": 4,
    **dict.fromkeys(NEEDS_DATA, 4),
}


def fits(model: keras.Model, quantization: str) -> bool:
    """Returns whether a model's weights fit into a file of a quantisation."""
    return _parameters(model) * _BYTES[quantization] <= MOST_BYTES


def check_fits(
    model: keras.Model, quantization: str, possible: Iterable[str], argument: str
) -> None:
    """Refuses a model whose file would be larger than any can be.

    Args:
        model: The model.
        quantization: A key of `targets.QUANTIZATIONS`.
        possible: The quantisations that the target can run.
        argument: What the user calls the model, for the message.

    Raises:
        ValueError: Says by how much it is too large, and what would fit.
    """
    if fits(model, quantization):
        return
    count = _parameters(model)
    others = [name for name in possible if fits(model, name)]
    cure = f"quantization={others[0]!r} would fit, and so would fewer" if others else ""
    raise ValueError(
        f"`{argument}` has {count:,} parameters, which take "
        f"{count * _BYTES[quantization]:,} bytes for quantization={quantization!r}"
        + (" (it is calibrated in float32)" if quantization in NEEDS_DATA else "")
        + f"; a .tflite file holds at most {MOST_BYTES:,}. Nothing was written. "
        + (cure or "Use fewer")
        + " channels (kprune.shrink), or export the model in parts."
    )


def _parameters(model: keras.Model) -> int:
    """Returns the number of weights, without masks and states of random generators."""
    return sum(math.prod(v.shape) for v in model.weights if "float" in v.dtype)
