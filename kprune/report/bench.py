"""How fast files are, side by side.

This module changes when timing reports something new or shows it differently.
"""

import dataclasses
from typing import Any

from kprune.report.measured import (
    Arena,
    FileSize,
    Latency,
    OutputDifference,
    Timing,
    difference_lines,
)
from kprune.report.text import as_json, described, table


@dataclasses.dataclass(frozen=True)
class TimedFile:
    """A `.tflite` file that was timed.

    Args:
        path: The file.
        size: Its bytes.
        timing: What one run takes.
        arena: Memory in TensorFlow Lite Micro; `None` for LiteRT.
    """

    path: str
    size: FileSize
    timing: Timing
    arena: Arena | None = None


@dataclasses.dataclass(frozen=True)
class BenchReport:
    """What `kprune.bench` measured.

    Args:
        runtime: The runtime that the files ran in.
        reason: Why that one.
        file: The file.
        baseline: What it is compared with; `None` if with nothing.
        latency: The times of both, and their ratio, taken within rounds.
        inputs: For each input of the file its name, shape with the batch, and type.
        outputs: The same for each output.
        differences: How far the file's outputs are from the baseline's.
        ran_on: What the inputs were.
        notes: What else is to be known, in sentences.
    """

    runtime: str
    reason: str
    file: TimedFile
    baseline: TimedFile | None
    latency: Latency | None
    inputs: tuple[tuple[str, tuple[int, ...], str], ...]
    outputs: tuple[tuple[str, tuple[int, ...], str], ...]
    differences: tuple[OutputDifference, ...]
    ran_on: str
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain Python values."""
        values = dataclasses.asdict(self)
        for row, item in zip(values["differences"], self.differences, strict=True):
            row["max_steps"] = item.max_steps
        return values

    def to_json(self) -> str:
        """Returns the report as JSON text."""
        return as_json(self.to_dict())

    def __str__(self) -> str:
        blocks = [
            [
                f"{self.file.path}: {self.runtime} ({self.reason})",
                f"inputs   {described(self.inputs)}",
                f"outputs  {described(self.outputs)}",
                f"run on   {self.ran_on}",
            ],
            self._file_lines(),
            self._ratio_lines(),
            difference_lines("the baseline", self.differences, self.ran_on),
            [f"note: {note}" for note in self.notes],
        ]
        return "\n\n".join("\n".join(lines) for lines in blocks if lines)

    def _file_lines(self) -> list[str]:
        def row(name: str, item: TimedFile) -> tuple[str, ...]:
            timing = item.timing
            return (
                name,
                f"{timing.milliseconds:.4g} ms",
                f"{timing.low:.4g}-{timing.high:.4g}",
                str(timing.rounds),
                f"{item.size.raw:,}",
                f"{item.size.gzip:,}",
                "-" if item.arena is None else f"{item.arena.bytes:,}",
            )

        rows = [row("this file", self.file)]
        if self.baseline is not None:
            rows.insert(0, row(self.baseline.path, self.baseline))
        header = (
            "CPU time of a run, on this machine",
            "median",
            "quartiles",
            "rounds",
            "bytes",
            "gzip bytes",
            "arena bytes",
        )
        return table(header, rows)

    def _ratio_lines(self) -> list[str]:
        found = self.latency
        if found is None:
            return []
        return [
            f"speed    {found.ratio:.3f}x that of the baseline (quartiles "
            f"{found.low:.3f}-{found.high:.3f}, {found.rounds} rounds in turns)"
        ]
