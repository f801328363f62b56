"""What an exported file is.

This module changes when exports report something new or show it differently.
"""

import dataclasses
from typing import Any

from kprune.report.measured import (
    Arena,
    Encoding,
    FileSize,
    Latency,
    Npu,
    OutputDifference,
    difference_lines,
)
from kprune.report.pruning import WeightRecord, share_of_zeros
from kprune.report.text import as_json, described, fraction, table, times


@dataclasses.dataclass(frozen=True)
class Report:
    """What an exported file is, measured on the file itself.

    Args:
        path: The `.tflite` file.
        files: Everything that was written, that file first.
        target: Name of the target.
        runtime: The runtime that the file is for.
        quantization: How it is quantised.
        inputs: For each input its name, shape with the batch, and data type.
        outputs: The same for each output.
        size: The file's bytes.
        dense_size: Bytes of the dense float32 file.
        dense_from: What that dense file is.
        weights: The kernels: zeros in the file where they were found again, and asked.
        parameters: Number of weights of the Keras model.
        nonzero_parameters: Those that are not zero.
        macs: Multiply-accumulates of one inference.
        nonzero_macs: Those whose weight in the file is not zero.
        uncounted: Operators whose arithmetic is not in `macs`.
        operators: How often each operator occurs.
        differences: How far the outputs are from Keras's.
        compared_on: What they were compared on.
        latency: Times beside the dense files'.
        arena: Memory in TensorFlow Lite Micro; `None` for other targets.
        encoding: What encoded weights bring; `None` if none are.
        npu: What an NPU's compiler estimates; `None` for other targets.
        labels: Names of the entries of the first output; none if none were given.
        float_layers: The layers that stay in float32 because the user wants it.
        notes: What else is to be known, in sentences.
    """

    path: str
    files: tuple[str, ...]
    target: str
    runtime: str
    quantization: str
    inputs: tuple[tuple[str, tuple[int, ...], str], ...]
    outputs: tuple[tuple[str, tuple[int, ...], str], ...]
    size: FileSize
    dense_size: FileSize
    dense_from: str
    weights: tuple[WeightRecord, ...]
    parameters: int
    nonzero_parameters: int
    macs: int
    nonzero_macs: int
    uncounted: tuple[str, ...]
    operators: dict[str, int]
    differences: tuple[OutputDifference, ...]
    compared_on: str
    latency: tuple[Latency, ...] = ()
    arena: Arena | None = None
    encoding: Encoding | None = None
    npu: Npu | None = None
    labels: tuple[str, ...] = ()
    float_layers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sparsity(self) -> float:
        """Share of exact zeros over all listed weights together, in [0, 1]."""
        return share_of_zeros(self.weights)

    @property
    def asked(self) -> float | None:
        """Share of zeros asked for over the weights that have masks, or `None`."""
        masked = [weight for weight in self.weights if weight.asked is not None]
        size = sum(weight.size for weight in masked)
        if not size:
            return None
        return sum((weight.asked or 0.0) * weight.size for weight in masked) / size

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain Python values."""
        values = dataclasses.asdict(self)
        values |= {"sparsity": self.sparsity, "asked": self.asked}
        for row, weight in zip(values["weights"], self.weights, strict=True):
            row["sparsity"] = weight.sparsity
        for row, item in zip(values["differences"], self.differences, strict=True):
            row["max_steps"] = item.max_steps
        return values

    def to_json(self) -> str:
        """Returns the report as JSON text."""
        # Infinity is no JSON; a relative difference to an output of zeros is infinite.
        return as_json(self.to_dict())

    def __str__(self) -> str:
        blocks = [
            self._summary(),
            self._size_lines(),
            self._encoding_lines(),
            self._npu_lines(),
            self._weight_lines(),
            difference_lines("Keras", self.differences, self.compared_on),
            self._latency_lines(),
            self._graph_lines(),
            [f"note: {note}" for note in self.notes],
        ]
        return "\n\n".join("\n".join(lines) for lines in blocks if lines)

    def _summary(self) -> list[str]:
        but = f", in float32: {', '.join(self.float_layers)}"
        return [
            f"{self.path}: target {self.target} ({self.runtime}), "
            f"quantization {self.quantization}{but if self.float_layers else ''}",
            f"files    {', '.join(self.files)}",
            f"inputs   {described(self.inputs)}",
            f"outputs  {described(self.outputs)}",
        ]

    def _size_lines(self) -> list[str]:
        def row(name: str, size: FileSize) -> tuple[str, ...]:
            return (
                name,
                f"{size.raw:,}",
                f"{self.dense_size.raw / size.raw:.2f}x",
                f"{size.gzip:,}",
                f"{self.dense_size.gzip / size.gzip:.2f}x",
            )

        rows = [row("dense float32", self.dense_size), row("this file", self.size)]
        header = ("file", "bytes", "smaller", "gzip bytes", "smaller")
        return [*table(header, rows), f"dense float32: {self.dense_from}"]

    def _encoding_lines(self) -> list[str]:
        found = self.encoding
        if found is None or self.arena is None:
            return []
        files = [
            ("not encoded", found.plain_size.raw, found.plain_arena.bytes, 0),
            ("this file", self.size.raw, self.arena.bytes, 0),
            (
                "this file, decoding elsewhere",
                self.size.raw,
                found.arena_elsewhere.bytes,
                found.other_bytes,
            ),
        ]
        weights = [
            (
                weight.name,
                weight.method,
                f"{weight.raw_bytes:,}",
                f"{weight.bytes:,}",
                f"{weight.entropy_bytes:,}",
            )
            for weight in found.weights
        ]
        return [
            "weights are decoded while the model runs; outputs are those of the file "
            f"before, bit for bit, on {found.samples} inputs",
            *table(
                ("file", "bytes", "arena bytes", "other memory"),
                [(name, *(f"{n:,}" for n in numbers)) for name, *numbers in files],
            ),
            "",
            *table(
                ("weight", "stored by", "bytes before", "bytes", "entropy, bytes"),
                weights,
            ),
        ]

    def _npu_lines(self) -> list[str]:
        if self.npu is None:
            return []
        before, after = self.npu.filled, self.npu.file
        numbers = [
            ("cycles", before.cycles, after.cycles),
            ("cycles that compute", before.npu_cycles, after.npu_cycles),
            ("microseconds", 1e3 * before.milliseconds, 1e3 * after.milliseconds),
            ("MACs", before.macs, after.macs),
            ("bytes of the compiled file", before.file_bytes, after.file_bytes),
            (
                "bytes of encoded weights",
                before.encoded_weight_bytes,
                after.encoded_weight_bytes,
            ),
            ("bytes over the buses", before.traffic_bytes, after.traffic_bytes),
        ]
        for name in sorted({*before.memory_bytes, *after.memory_bytes}):
            pair = (before.memory_bytes.get(name, 0), after.memory_bytes.get(name, 0))
            numbers.append((f"bytes of {name.replace('_', ' ')}", *pair))
        rows = [
            (name, f"{a:,.0f}", f"{b:,.0f}", f"{b / a:.3f}" if a else "-")
            for name, a, b in numbers
        ]
        return [
            f"estimated by Vela for {self.npu.accelerator} in {self.npu.system}; "
            f"compiled: {self.npu.compiled}",
            *table(("", "zeros filled", "this file", "ratio"), rows),
        ]

    def _weight_lines(self) -> list[str]:
        rows = [
            (
                weight.path,
                times(weight.shape),
                fraction(weight.asked),
                fraction(weight.sparsity),
                weight.counted_in,
            )
            for weight in self.weights
        ]
        overall = ("all of these", "", fraction(self.asked), fraction(self.sparsity))
        header = ("weight", "shape", "asked", "zeros", "counted in")
        return table(header, [*rows, (*overall, "")])

    def _latency_lines(self) -> list[str]:
        rows = [
            (
                item.runtime,
                item.baseline,
                f"{item.baseline_ms:.4g} ms",
                f"{item.file_ms:.4g} ms",
                f"{item.ratio:.2f}x",
                f"{item.low:.2f}-{item.high:.2f}",
                str(item.rounds),
            )
            for item in self.latency
        ]
        header = (
            "time on this machine",
            "compared with",
            "its time",
            "this file",
            "speed",
            "quartiles",
            "rounds",
        )
        return table(header, rows) if rows else []

    def _graph_lines(self) -> list[str]:
        lines = [
            f"parameters  {self.parameters:,}, not zero {self.nonzero_parameters:,}",
            f"MACs        {self.macs:,}, with weights that are not zero "
            f"{self.nonzero_macs:,}",
        ]
        if self.uncounted:
            lines.append(f"  not counted: {', '.join(self.uncounted)}")
        counts = ", ".join(f"{name} {count}" for name, count in self.operators.items())
        lines.append(f"operators   {counts}")
        if self.arena is not None:
            lines.append(
                f"arena       {self.arena.bytes:,} bytes, the smallest that worked "
                f"(activations {self.arena.head:,}, structures {self.arena.tail:,})"
            )
        return lines
