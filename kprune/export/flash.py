"""Encoded weights on TensorFlow Lite Micro: run, compared bit for bit, and weighed.

This module changes when something else about an encoded file is to be measured.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from kprune.export.encoding import RAW, alternate_bytes, encode, survey
from kprune.export.ends import Ends
from kprune.export.samples import Samples
from kprune.export.tflm import MicroRun, run
from kprune.report import Arena, Encoding, FileSize


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A file that was encoded, and how it ran.

    Args:
        content: The encoded file.
        run: Its run with decoded weights in the arena.
        elsewhere: Its run with them in other memory.
        facts: What the report says.
    """

    content: bytes
    run: MicroRun
    elsewhere: MicroRun
    facts: Encoding


def encode_and_prove(
    plain: bytes,
    plain_size: FileSize,
    plain_run: MicroRun,
    ends: Ends,
    samples: Samples,
    names: Mapping[int, str],
    limit: int | None,
    benchmark: bool,
    run_seconds: float,
) -> Encoded | None:
    """Returns a file's encoded form, which computes the same bit for bit.

    Args:
        plain: The file.
        plain_size: Its bytes.
        plain_run: What it computed in TensorFlow Lite Micro.
        ends: Its inputs and outputs, in the order of the samples.
        samples: The inputs that it ran on.
        names: What tensors are called, by their index in the main graph.
        limit: The most bytes of a weight that is to be encoded.
        benchmark: Whether to time it against the file.
        run_seconds: The most seconds to run samples for, in each of two runs.

    Returns:
        `None` if encoding would not make the file smaller.

    Raises:
        ValueError: If the runtime cannot run it or computes something else. Nothing
            was written then.
    """
    content = encode(plain, limit)
    other = alternate_bytes(content)
    if not other:
        return None
    baseline = plain if benchmark else None
    inside = run(content, ends, samples, baseline, run_seconds=run_seconds)
    elsewhere = run(content, ends, samples, baseline, other, run_seconds=run_seconds)
    compared = [_compared(plain_run, found) for found in (inside, elsewhere)]
    facts = Encoding(
        weights=survey(plain, names, limit),
        plain_size=plain_size,
        plain_arena=arena_of(plain_run),
        other_bytes=other,
        arena_elsewhere=arena_of(elsewhere),
        samples=min(compared),
    )
    return Encoded(content, inside, elsewhere, facts)


def gain(plain: bytes) -> tuple[int, int]:
    """Returns how many bytes encoding weights would save, and take of memory, about."""
    chosen = [item for item in survey(plain) if item.method != RAW]
    saved = sum(item.raw_bytes - item.bytes for item in chosen)
    return saved, max((item.raw_bytes for item in chosen), default=0)


def arena_of(found: MicroRun) -> Arena:
    """Returns the memory that a run needed."""
    return Arena(found.arena_bytes, found.arena_head, found.arena_tail)


def _compared(plain: MicroRun, encoded: MicroRun) -> int:
    """Returns on how many samples outputs are equal, which is on all that both ran."""
    counts = []
    for first, second in zip(plain.outputs, encoded.outputs, strict=True):
        count = min(len(first), len(second))
        counts.append(count)
        if first[:count].tobytes() != np.ascontiguousarray(second[:count]).tobytes():
            raise ValueError(
                "TensorFlow Lite Micro computes something else with encoded weights "
                "than without, so that nothing was written. Export with encode=False, "
                "and please report the model to kprune."
            )
    return min(counts)
