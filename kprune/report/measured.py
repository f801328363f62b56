"""What was measured on a file: bytes, differences, times and memory.

This module changes when something else is measured on files.
"""

import dataclasses
import gzip

from kprune.report.text import table


@dataclasses.dataclass(frozen=True)
class FileSize:
    """Bytes of a file.

    Args:
        raw: As it lies on the disk or in flash.
        gzip: Compressed with gzip at level 9, as a download is.
    """

    raw: int
    gzip: int

    @classmethod
    def of(cls, data: bytes) -> "FileSize":
        """Returns the size of a file with these bytes."""
        return cls(len(data), len(gzip.compress(data, 9, mtime=0)))


@dataclasses.dataclass(frozen=True)
class OutputDifference:
    """How far one output of a file is from Keras's, over all samples compared.

    Args:
        output: The output's name.
        runtime: The runtime that ran the file.
        samples: Number of samples compared.
        max_abs: The largest absolute difference, in the output's own unit.
        mean_abs: The mean absolute difference.
        relative: L2 norm of the difference over the L2 norm of Keras's output.
        step: The output's value of one integer step; `None` if it is a float.
        same_top: Share of samples, in [0, 1], with the same largest entry; `None`
            unless the output is one vector of two or more entries per sample.
        finite: Whether the file's output has neither NaN nor infinity.
    """

    output: str
    runtime: str
    samples: int
    max_abs: float
    mean_abs: float
    relative: float
    step: float | None
    same_top: float | None
    finite: bool = True

    @property
    def max_steps(self) -> float | None:
        """The largest difference in integer steps of the output."""
        return None if self.step is None else self.max_abs / self.step


@dataclasses.dataclass(frozen=True)
class Timing:
    """Time of one run of a file, over rounds.

    Args:
        milliseconds: Median CPU milliseconds per run, one thread.
        low: Lower quartile of them.
        high: Upper quartile.
        rounds: Number of rounds.
    """

    milliseconds: float
    low: float
    high: float
    rounds: int


@dataclasses.dataclass(frozen=True)
class Latency:
    """Time of one run of a file beside a baseline's, from rounds that took turns.

    Args:
        runtime: The runtime, and what it ran on.
        baseline: What the file is compared with.
        baseline_ms: Median CPU milliseconds per run of the baseline, one thread.
        file_ms: The same of the file.
        ratio: Median over the rounds of baseline time / file time: 2 is twice as fast.
        low: Lower quartile of that ratio.
        high: Upper quartile.
        rounds: Number of rounds.
    """

    runtime: str
    baseline: str
    baseline_ms: float
    file_ms: float
    ratio: float
    low: float
    high: float
    rounds: int


@dataclasses.dataclass(frozen=True)
class Arena:
    """Working memory that TensorFlow Lite Micro needs for a file.

    Args:
        bytes: The smallest arena that worked, found by trying; a multiple of 16.
        head: Bytes of it for activations, as the runtime prints them.
        tail: Bytes of it for the runtime's own structures.
    """

    bytes: int
    head: int
    tail: int


@dataclasses.dataclass(frozen=True)
class EncodedWeight:
    """One weight of a file, and the smallest way in which a runtime can decode it.

    Args:
        name: Which tensor of the file it is.
        shape: Its shape.
        method: `"as it is"`, `"pruning"` or `"look-up table"`.
        raw_bytes: What it takes as it is.
        bytes: What it takes that way, its header and tables included.
        entropy_bytes: The zeroth-order entropy of its elements: no code for single
            elements could be smaller.
    """

    name: str
    shape: tuple[int, ...]
    method: str
    raw_bytes: int
    bytes: int
    entropy_bytes: int


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What encoded weights save in flash, and cost in memory.

    Args:
        weights: The weights that can be encoded, and how they are.
        plain_size: The file before its weights were encoded.
        plain_arena: The arena that it needs.
        other_bytes: Memory outside of the arena, in bytes, that is enough to hold the
            decoded weights.
        arena_elsewhere: The arena that the encoded file needs if they are there.
        samples: On how many inputs outputs were compared, bit for bit, with those of
            the file before.
    """

    weights: tuple[EncodedWeight, ...]
    plain_size: FileSize
    plain_arena: Arena
    other_bytes: int
    arena_elsewhere: Arena
    samples: int


@dataclasses.dataclass(frozen=True)
class NpuEstimate:
    """What a compiler for an NPU estimates of one inference.

    Args:
        cycles: Cycles of the whole.
        npu_cycles: Those in which the NPU computes; the others wait for memory.
        milliseconds: The time, at the clock of the system that was assumed.
        file_bytes: Bytes of the compiled file, which is what the device stores.
        memory_bytes: Bytes used of each memory that is, by its name.
        traffic_bytes: Bytes that go over all memories' buses.
        macs: Multiply-accumulates that are computed.
        weight_bytes: Bytes of the weights before the compiler encodes them.
        encoded_weight_bytes: Bytes after.
        on_cpu: Operators that the NPU does not run, with how often they occur.
    """

    cycles: int
    npu_cycles: int
    milliseconds: float
    file_bytes: int
    memory_bytes: dict[str, int]
    traffic_bytes: int
    macs: int
    weight_bytes: int
    encoded_weight_bytes: int
    on_cpu: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Npu:
    """A file on an NPU, by its compiler's estimate, beside the same file without zeros.

    Args:
        accelerator: The NPU.
        system: The system and the use of its memories that the compiler assumed.
        compiled: The compiled file's path.
        file: The estimate.
        filled: That of the same file with random values in place of its zeros.
    """

    accelerator: str
    system: str
    compiled: str
    file: NpuEstimate
    filled: NpuEstimate


def difference_lines(
    what: str, differences: tuple[OutputDifference, ...], compared_on: str
) -> list[str]:
    """Returns the lines that show how far outputs are from what they should be."""
    if not differences:
        return []
    rows = [
        (
            item.output,
            item.runtime,
            str(item.samples),
            f"{item.max_abs:.3g}",
            "-" if item.max_steps is None else f"{item.max_steps:.2f}",
            f"{item.mean_abs:.3g}",
            f"{item.relative:.3g}",
            "-" if item.same_top is None else f"{item.same_top:.4f}",
        )
        for item in differences
    ]
    header = (
        "output",
        "run in",
        "samples",
        "largest",
        "in steps",
        "mean",
        "relative",
        "same top class",
    )
    return [f"difference from {what}, on {compared_on}", *table(header, rows)]
