"""Files for LiteRT whose weights are stored without their zeros.

This module changes when LiteRT reads another sparse form, or more types of it.

The converter stores a weight sparsely if three in ten of its elements are zero, and
LiteRT unpacks it when it loads the file. Only float32 and float16 files are stored so:
of integer ones LiteRT 2.3 refuses some, and others are larger than dense (measured).
"""

import dataclasses
import math
from collections.abc import Callable

from kprune.export import tflite
from kprune.export.tflite import Tensor
from kprune.export.xnnpack import Outcome, Verdict, judge

QUANTIZATIONS = ("none", "float16")
"""Those whose files can be stored sparsely."""

_LEAST = 0.3  # The converter's threshold.


@dataclasses.dataclass(frozen=True)
class Sparse:
    """A file that may be stored sparsely.

    Args:
        verdict: What XNNPACK does with its zeros.
        content: The file stored so; `None` if it stays dense.
        worth: Whether some weight has enough zeros for it.
    """

    verdict: Verdict
    content: bytes | None
    worth: bool


def store(plain: bytes, encode: bool | None, convert: Callable[[], bytes]) -> Sparse:
    """Returns a file without its zeros, if that is smaller and computes rightly.

    Args:
        plain: The densely stored file.
        encode: Whether the user wants it; `None` for where XNNPACK skips zeros.
        convert: Returns the sparsely stored file.

    Raises:
        ValueError: If the user wants it and XNNPACK would compute wrongly.
    """
    file = tflite.parse(plain)
    verdict = judge(file)
    worth = any(map(_worth, file.weights()))
    if not worth or encode is False:
        return Sparse(verdict, None, worth)
    if verdict.outcome is Outcome.WRONG and encode:
        raise ValueError(
            "encode=True: XNNPACK would compute wrongly on phones, or not load the "
            f"file, if its weights were stored sparsely: {verdict.mistakes[0]}. "
            "Nothing was written. Let the part with 1x1 convolutions end in "
            "GlobalAveragePooling2D, or leave `encode` out: stored densely the file is "
            "right."
        )
    if verdict.outcome is Outcome.SKIPS or encode:
        content = convert()
        # What the converter stores cannot change the verdict; if ever it does, the
        # file is not for phones.
        same = judge(tflite.parse(content)).outcome is verdict.outcome
        if same and len(content) < len(plain):
            return Sparse(verdict, content, worth)
    return Sparse(verdict, None, worth)


def _worth(tensor: Tensor) -> bool:
    zeros = tensor.zero_mask
    return zeros is not None and zeros.ndim in (2, 4) and float(zeros.mean()) >= _LEAST


def sparse_bytes(shape: tuple[int, ...], kept: int, width: int) -> int:
    """Returns what the converter stores of a weight with zeros, about.

    The last dimension is compressed: for each row where its elements begin, and for
    each element its place in the row.

    Args:
        shape: The weight's shape in the file.
        kept: How many elements are not zero.
        width: Bytes of one.
    """
    rows = math.prod(shape[:-1])
    return kept * (width + _index_bytes(shape[-1])) + (rows + 1) * _index_bytes(kept)


def _index_bytes(largest: int) -> int:
    return 1 if largest < 2**8 else 2 if largest < 2**16 else 4
