"""Files for LiteRT whose weights are stored without their zeros.

This module changes when LiteRT reads another sparse form, or more types of it.

The converter stores a weight sparsely if three in ten of its elements are zero, and
LiteRT unpacks it when it loads the file; but for dense layers whose zeros come in
blocks of four inputs, which LiteRT has a kernel for that skips them, on every CPU. Only
float32 and float16 files are stored so: of integer ones LiteRT 2.3 refuses some, and
others are larger than dense, or slower (measured).
"""

import dataclasses
import math
from collections.abc import Callable

from kprune.export import tflite
from kprune.export.tflite import Tensor, TFLiteFile
from kprune.export.xnnpack import Outcome, Verdict, judge

QUANTIZATIONS = ("none", "float16")
"""Those whose files can be stored sparsely."""

_LEAST = 0.3  # The converter's threshold.
BLOCK = 4
"""Inputs in a block that the kernel for dense layers skips."""
LEAST_IN_BLOCKS = 0.7
"""The share of zero blocks from which on that kernel is faster than a dense one."""


@dataclasses.dataclass(frozen=True)
class Sparse:
    """A file that may be stored sparsely.

    Args:
        verdict: What XNNPACK does with its zeros.
        content: The file stored so; `None` if it stays dense.
        worth: Whether some weight has enough zeros for it.
        in_blocks: How many dense layers of it skip zeros in blocks.
    """

    verdict: Verdict
    content: bytes | None
    worth: bool
    in_blocks: int = 0


def store(plain: bytes, encode: bool | None, convert: Callable[[], bytes]) -> Sparse:
    """Returns a file without its zeros, if that is smaller and computes rightly.

    Args:
        plain: The densely stored file.
        encode: Whether the user wants it; `None` for where zeros are skipped.
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
    wanted = verdict.outcome is Outcome.SKIPS or any(map(_is_in_blocks, file.weights()))
    if encode or (wanted and verdict.outcome is not Outcome.WRONG):
        content = convert()
        # What the converter stores cannot change the verdict; if ever it does, the
        # file is not for phones.
        found = tflite.parse(content)
        in_blocks = _skipping_blocks(found)
        same = judge(found).outcome is verdict.outcome
        # Scattered zeros fill blocks by chance; the converter stores few of them so.
        useful = encode or in_blocks or verdict.outcome is Outcome.SKIPS
        if same and useful and len(content) < len(plain):
            return Sparse(verdict, content, worth, in_blocks)
    return Sparse(verdict, None, worth)


def _worth(tensor: Tensor) -> bool:
    zeros = tensor.zero_mask
    return zeros is not None and zeros.ndim in (2, 4) and float(zeros.mean()) >= _LEAST


def _is_in_blocks(tensor: Tensor) -> bool:
    """Returns whether a dense layer's zeros pay in blocks of inputs."""
    zeros = tensor.zero_mask
    if zeros is None or zeros.ndim != 2 or zeros.shape[1] % BLOCK:
        return False
    blocks = zeros.reshape(zeros.shape[0], -1, BLOCK).all(axis=2)
    return float(blocks.mean()) >= LEAST_IN_BLOCKS


def _skipping_blocks(file: TFLiteFile) -> int:
    """Returns how many dense layers read weights that nothing unpacks."""
    graph = file.subgraphs[0]
    return sum(
        operator.name == "FULLY_CONNECTED" and graph.tensors[operator.inputs[1]].sparse
        for operator in graph.operators
    )


def block_bytes(shape: tuple[int, ...], kept: int, width: int) -> int:
    """Returns what the converter stores of a dense layer's weight in blocks, about.

    Args:
        shape: The weight's shape in the file, (outputs, inputs).
        kept: How many elements are in blocks that are not zero.
        width: Bytes of one.
    """
    blocks = -(-kept // BLOCK)
    places = blocks * _index_bytes(shape[1] // BLOCK)
    return kept * width + places + (shape[0] + 1) * _index_bytes(blocks)


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
