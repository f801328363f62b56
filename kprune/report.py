"""Facts that were measured, as data, and their rendering as text and JSON.

This module changes when kprune reports something new or shows it differently. It
measures nothing itself and imports nothing of kprune, so that every other module may
hand its facts over in these words.
"""

import dataclasses
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any


class Zeros:
    """What a record of something with `shape` and `zeros` has beside these."""

    shape: tuple[int, ...]
    zeros: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def sparsity(self) -> float:
        """Share of elements that are exactly zero, in [0, 1]."""
        return self.zeros / self.size if self.size else 0.0


@dataclasses.dataclass(frozen=True)
class WeightRecord(Zeros):
    """One pruned weight.

    Args:
        path: The variable's path in its model, e.g. `"conv2d/kernel"`.
        shape: The variable's shape.
        zeros: Number of elements that are exactly zero.
        asked: Share of elements, in [0, 1), that the mask holds at zero; `None` where
            nothing was asked for.
        counted_in: Where `zeros` were counted: `"Keras variable"`, or `"file"` for the
            tensor of an exported file.
    """

    path: str
    shape: tuple[int, ...]
    zeros: int
    asked: float | None = None
    counted_in: str = "Keras variable"


@dataclasses.dataclass(frozen=True)
class ChannelRecord:
    """One group of coupled channels.

    Args:
        name: The layer that makes them first, and what they are called there.
        size: Number of channels, or of what else goes as one, such as heads.
        pruned: Number of those that are held at zero.
        layers: The layers whose weights they are slices of.
    """

    name: str
    size: int
    pruned: int
    layers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SkippedWeight:
    """One weight that stays dense, and why.

    Args:
        path: The variable's path in its model.
        shape: The variable's shape.
        reason: Why it is not pruned, and what to do where that can be changed.
    """

    path: str
    shape: tuple[int, ...]
    reason: str


@dataclasses.dataclass(frozen=True)
class GuardRecord:
    """What a guard on a metric has seen and done.

    Args:
        monitor: The metric.
        tolerance: How much worse than the dense level was accepted, in its unit.
        dense_level: The dense model's value; `None` if none was seen.
        value: The last value; `None` if none was seen.
        within: Whether that is within the tolerance; `None` if that is not known.
        epochs_below: After how many epochs it was not, so that pruning waited.
        rolled_back_to: The step whose weights and masks were set back; `None` if none
            were.
        nothing_to_go_back_to: Whether it would have gone back, and no epoch before was
            within the tolerance.
        sparsity: Share of what may be pruned, in [0, 1), that masks hold.
    """

    monitor: str
    tolerance: float
    dense_level: float | None
    value: float | None
    within: bool | None
    epochs_below: int
    rolled_back_to: int | None
    nothing_to_go_back_to: bool
    sparsity: float

    def __str__(self) -> str:
        if self.value is None or self.dense_level is None:
            return f"The guard saw no {self.monitor}, and did nothing."
        done = "pruning was never held"
        if self.epochs_below:
            epochs = "epoch" if self.epochs_below == 1 else "epochs"
            done = (
                f"it was not after {self.epochs_below} {epochs}, and pruning was held"
            )
        if self.rolled_back_to is not None:
            done += f"; weights and masks of step {self.rolled_back_to} were set back"
        elif self.nothing_to_go_back_to:
            done += "; there was no epoch to go back to"
        return (
            f"The guard settled at sparsity {self.sparsity:.4f}, with {self.monitor} "
            f"{self.value:.4f} {'within' if self.within else 'NOT within'} "
            f"{self.tolerance:g} of the dense model's {self.dense_level:.4f}: {done}."
        )


@dataclasses.dataclass(frozen=True)
class EpochRecord:
    """What the logs had after one epoch.

    Args:
        epoch: Its number, counted from zero.
        step: `optimizer.iterations` at its end.
        logs: The metrics by name, and `sparsity`, as Keras's history has them.
    """

    epoch: int
    step: int
    logs: dict[str, float]


@dataclasses.dataclass(frozen=True)
class PruningReport:
    """What pruning asked for and what the variables hold.

    Args:
        step: `optimizer.iterations` at the time of the report; `None` outside training.
        asked: Sparsity asked for at the schedule's end, over all that is pruned
            together, in [0, 1); `None` when masks are only held. Of channels it is the
            share of channels, of which the share of zero weights follows.
        weights: The pruned weights.
        skipped: The weights, and the groups of coupled channels, that stay dense, each
            with its reason.
        channels: The groups of coupled channels, where whole channels are pruned.
        history: Pairs of a step and the share of what may be pruned that masks hold
            from then on, one per update of the masks.
        epochs: The logs of each epoch of the fit.
        guard: What a guard has seen and done; `None` without one.
        notices: What the user was warned of, and how often that was due.
    """

    step: int | None
    asked: float | None
    weights: tuple[WeightRecord, ...]
    skipped: tuple[SkippedWeight, ...] = ()
    channels: tuple[ChannelRecord, ...] = ()
    history: tuple[tuple[int, float], ...] = ()
    epochs: tuple[EpochRecord, ...] = ()
    guard: GuardRecord | None = None
    notices: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def channel_sparsity(self) -> float | None:
        """Share of the channels that are held at zero; `None` if none are pruned."""
        size = sum(group.size for group in self.channels)
        return sum(group.pruned for group in self.channels) / size if size else None

    @property
    def sparsity(self) -> float:
        """Share of exact zeros over all pruned weights together, in [0, 1]."""
        size = sum(weight.size for weight in self.weights)
        return sum(weight.zeros for weight in self.weights) / size if size else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain Python values."""
        values = dataclasses.asdict(self)
        values["sparsity"] = self.sparsity
        values["channel_sparsity"] = self.channel_sparsity
        for row, weight in zip(values["weights"], self.weights, strict=True):
            row["sparsity"] = weight.sparsity
        return values

    def to_json(self) -> str:
        """Returns the report as JSON text."""
        # A loss that diverged is no JSON.
        return json.dumps(without_infinities(self.to_dict()), indent=2)

    def __str__(self) -> str:
        rows = [
            (
                weight.path,
                "x".join(map(str, weight.shape)),
                "-" if weight.asked is None else f"{weight.asked:.4f}",
                f"{weight.sparsity:.4f}",
            )
            for weight in self.weights
        ]
        asked = "held" if self.asked is None else f"{self.asked:.4f}"
        lines = []
        if self.channels:
            size = sum(group.size for group in self.channels)
            achieved = f"{self.channel_sparsity:.4f}"
            lines = [
                *table(
                    ("coupled channels", "number", "pruned"),
                    [
                        *(
                            (group.name, str(group.size), str(group.pruned))
                            for group in self.channels
                        ),
                        (f"all: {asked} asked", str(size), achieved),
                    ],
                ),
                "",
            ]
            asked = "-"  # Of single weights nothing was asked.
        rows.append(("all pruned weights", "", asked, f"{self.sparsity:.4f}"))
        lines += table(("pruned weight", "shape", "asked", "achieved"), rows)
        if self.skipped:
            lines += [
                "",
                *table(
                    ("left dense", "shape", "reason"),
                    [
                        (skip.path, "x".join(map(str, skip.shape)), skip.reason)
                        for skip in self.skipped
                    ],
                ),
            ]
        if self.history:
            (first, _), (last, _) = self.history[0], self.history[-1]
            lines += [
                "",
                f"masks were made {len(self.history)} times, from step {first} to "
                f"{last}; now at step {self.step}",
            ]
        if self.guard is not None:
            lines.append(str(self.guard))
        lines += [
            f"warned{f' {count} times' if count > 1 else ''}: {message}"
            for message, count in self.notices.items()
            if message != str(self.guard)
        ]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class ClusterRecord(Zeros):
    """One weight whose elements share values.

    Args:
        path: The variable's path in its model.
        shape: The variable's shape.
        values: How many values it has, zero counted in; with values per channel, the
            channel that has most.
        zeros: Number of elements that are exactly zero.
        asked: How many values it may have.
        per_channel: Whether each output channel has values of its own.
    """

    path: str
    shape: tuple[int, ...]
    values: int
    zeros: int
    asked: int
    per_channel: bool

    @property
    def index_bits(self) -> int:
        """Bits that say which of its values an element has."""
        return max(1, (self.values - 1).bit_length())


@dataclasses.dataclass(frozen=True)
class ClusteringReport:
    """How many values weights have, and how many zeros.

    Args:
        step: `optimizer.iterations` at the time of the report; `None` outside training.
        since: The step from which on values are shared; `None` if they are not yet, or
            outside training.
        weights: The weights that share values, or will.
        skipped: The weights that do not, each with its reason.
        notices: What the user was warned of, and how often that was due.
    """

    step: int | None
    since: int | None
    weights: tuple[ClusterRecord, ...]
    skipped: tuple[SkippedWeight, ...] = ()
    notices: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def clustered(self) -> bool:
        """Whether no weight has more values than it may have."""
        return all(weight.values <= weight.asked for weight in self.weights)

    @property
    def sparsity(self) -> float:
        """Share of exact zeros over all these weights together, in [0, 1]."""
        size = sum(weight.size for weight in self.weights)
        return sum(weight.zeros for weight in self.weights) / size if size else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain Python values."""
        values = dataclasses.asdict(self)
        values["clustered"], values["sparsity"] = self.clustered, self.sparsity
        for row, weight in zip(values["weights"], self.weights, strict=True):
            row["sparsity"], row["index_bits"] = weight.sparsity, weight.index_bits
        return values

    def to_json(self) -> str:
        """Returns the report as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        rows = [
            (
                weight.path,
                "x".join(map(str, weight.shape)),
                f"{weight.values}{' per channel' if weight.per_channel else ''}",
                f"{weight.index_bits}",
                f"{weight.sparsity:.4f}",
            )
            for weight in self.weights
        ]
        rows.append(("all of these", "", "", "", f"{self.sparsity:.4f}"))
        header = ("clustered weight", "shape", "values", "bits", "zeros")
        lines = table(header, rows)
        if not self.clustered:
            lines.append("Values are not shared yet.")
        if self.skipped:
            skipped = [
                (skip.path, "x".join(map(str, skip.shape)), skip.reason)
                for skip in self.skipped
            ]
            lines += ["", *table(("not clustered", "shape", "reason"), skipped)]
        lines += [
            f"warned{f' {count} times' if count > 1 else ''}: {message}"
            for message, count in self.notices.items()
        ]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class QuantizedLayer:
    """What becomes of one layer in a model that is trained to be quantised.

    Args:
        name: The layer's name in the model that was given.
        kind: Its class.
        form: How it is computed: `"int8"` and more, or `"float32"`.
        reason: Why it stays in float32; empty if it does not.
    """

    name: str
    kind: str
    form: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class QuantizationReport:
    """What becomes of each layer in a model that is trained to be quantised.

    Args:
        layers: The layers, in the order of their calls.
    """

    layers: tuple[QuantizedLayer, ...]

    @property
    def floats(self) -> tuple[QuantizedLayer, ...]:
        """The layers that stay in float32."""
        return tuple(layer for layer in self.layers if layer.reason)

    def to_json(self) -> str:
        """Returns the report as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    def __str__(self) -> str:
        rows = [
            (
                layer.name,
                layer.kind,
                f"{layer.form}{': ' if layer.reason else ''}{layer.reason}",
            )
            for layer in self.layers
        ]
        return "\n".join(table(("layer", "class", "computed in"), rows))


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Something that cannot be removed, and why.

    Args:
        name: What it is.
        size: Number of its channels; 0 for what has none.
        reason: Why it stays, and what to do where that can be changed.
    """

    name: str
    size: int
    reason: str


@dataclasses.dataclass(frozen=True)
class FitRecord:
    """One fit of several that a model went through.

    Args:
        name: What the fit was for.
        steps: How many the optimizer took.
        epochs: The logs of each epoch.
        sparsity: Pairs of a step and the share of zeros, in [0, 1], from then on: while
            masks are made, of what they are made for, and else of all kernels.
        refusals: What was to be pruned, removed or quantised and was not, and why.
        notices: What the user was warned of.
    """

    name: str
    steps: int
    epochs: tuple[EpochRecord, ...]
    sparsity: tuple[tuple[int, float], ...]
    refusals: tuple[Refusal, ...] = ()
    notices: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "FitRecord":
        """Returns the record that `dataclasses.asdict` described."""
        given = {
            "epochs": tuple(
                EpochRecord(item["epoch"], item["step"], floats(item["logs"]))
                for item in values["epochs"]
            ),
            "sparsity": tuple((step, share) for step, share in values["sparsity"]),
            "refusals": tuple(Refusal(**item) for item in values["refusals"]),
            "notices": tuple(values["notices"]),
        }
        return cls(**{**values, **given})

    def logs_with(self, history: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Returns the logs of all epochs by name, those of later ones added."""
        names = {name for epoch in self.epochs for name in epoch.logs} | set(history)
        return {
            name: [
                *(epoch.logs.get(name, math.nan) for epoch in self.epochs),
                *history.get(name, ()),
            ]
            for name in sorted(names)
        }

    def after(self, before: "FitRecord") -> "FitRecord":
        """Returns the record with what a fit that was stopped told before this one."""
        shares = {**dict(before.sparsity), **dict(self.sparsity)}
        return dataclasses.replace(
            self,
            sparsity=tuple(sorted(shares.items())),
            refusals=tuple(dict.fromkeys((*before.refusals, *self.refusals))),
            notices=tuple(dict.fromkeys((*before.notices, *self.notices))),
        )


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
        return _share_of_zeros(self.weights)

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
        return json.dumps(without_infinities(self.to_dict()), indent=2)

    def __str__(self) -> str:
        blocks = [
            self._summary(),
            self._size_lines(),
            self._encoding_lines(),
            self._npu_lines(),
            self._weight_lines(),
            _difference_lines("Keras", self.differences, self.compared_on),
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
            f"inputs   {_described(self.inputs)}",
            f"outputs  {_described(self.outputs)}",
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
                _times(weight.shape),
                _fraction(weight.asked),
                _fraction(weight.sparsity),
                weight.counted_in,
            )
            for weight in self.weights
        ]
        overall = ("all of these", "", _fraction(self.asked), _fraction(self.sparsity))
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


@dataclasses.dataclass(frozen=True)
class LayerSensitivity:
    """What quantising one layer costs.

    Args:
        layer: The layer; inside of others after their names, such as `"block/conv"`.
        operators: Its operators in the file.
        activation_error: How far off what it makes is in the quantised file, in which
            all layers before it are quantised too: the root of the mean square of the
            difference, over that of the float32 values. The largest of its operators.
        error_alone: The output's relative difference (L2 norm) from float32 with this
            layer quantised, and no other.
        error_left: The same with all layers quantised but this one and those that are
            listed before it; `None` where that was not measured.
    """

    layer: str
    operators: tuple[str, ...]
    activation_error: float
    error_alone: float
    error_left: float | None

    @property
    def sqnr(self) -> float:
        """Signal to quantisation noise of what it makes, in decibels."""
        error = self.activation_error
        return -20 * math.log10(error) if error else math.inf


@dataclasses.dataclass(frozen=True)
class SensitivityReport:
    """What quantising a model costs, layer by layer.

    Args:
        model: The model's name.
        quantization: How its layers are quantised.
        target: Name of the target.
        samples: Number of samples that it was calibrated on, and measured on.
        error: The output's relative difference (L2 norm) from float32 with all layers
            quantised; of several outputs the largest.
        layers: The layers, first the one that costs most alone.
        worth_keeping: The fewest of the first layers that, in float32, halve the error;
            none if that takes more than half of the layers.
    """

    model: str
    quantization: str
    target: str
    samples: int
    error: float
    layers: tuple[LayerSensitivity, ...]
    worth_keeping: tuple[str, ...]

    def worst(self, count: int = 1) -> tuple[str, ...]:
        """Returns the names of the worst layers, as `float_layers` takes them.

        Args:
            count: How many, at least 0.
        """
        if count < 0:
            raise ValueError(f"`count` must be at least 0. Received: {count}.")
        return tuple(item.layer for item in self.layers[:count])

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain Python values."""
        values = dataclasses.asdict(self)
        for row, item in zip(values["layers"], self.layers, strict=True):
            row["sqnr"] = item.sqnr
        return values

    def to_json(self) -> str:
        """Returns the report as JSON text."""
        return json.dumps(without_infinities(self.to_dict()), indent=2)

    def __str__(self) -> str:
        rows = [
            (
                item.layer,
                ", ".join(dict.fromkeys(item.operators)),
                f"{item.activation_error:.3g}",
                f"{item.sqnr:.1f} dB",
                f"{item.error_alone:.3g}",
                "-" if item.error_left is None else f"{item.error_left:.3g}",
            )
            for item in self.layers
        ]
        header = (
            "layer",
            "operators",
            "makes values off by",
            "SQNR",
            "output, it alone quantised",
            "all but it and above",
        )
        lines = [
            f"{self.model} in {self.quantization} for {self.target}: the output is off "
            f"by {self.error:.3g} of its size, on {self.samples} samples",
            "",
            *table(header, rows),
            "",
        ]
        if not self.layers:
            lines = [lines[0], "Nothing is quantised: all layers compute in float32."]
        elif self.worth_keeping:
            kept = ", ".join(map(repr, self.worth_keeping))
            lines.append(f"Worth keeping: float_layers=[{kept}] halves the error.")
        else:
            lines.append(
                "No layers stand out: half of them in float32 do not halve the error."
            )
        return "\n".join(lines)


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
        return json.dumps(without_infinities(self.to_dict()), indent=2)

    def __str__(self) -> str:
        blocks = [
            [
                f"{self.file.path}: {self.runtime} ({self.reason})",
                f"inputs   {_described(self.inputs)}",
                f"outputs  {_described(self.outputs)}",
                f"run on   {self.ran_on}",
            ],
            self._file_lines(),
            self._ratio_lines(),
            _difference_lines("the baseline", self.differences, self.ran_on),
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


def _described(tensors: tuple[tuple[str, tuple[int, ...], str], ...]) -> str:
    return ", ".join(
        f"{name} {_times(shape)} {dtype}" for name, shape, dtype in tensors
    )


def _difference_lines(
    what: str, differences: tuple[OutputDifference, ...], compared_on: str
) -> list[str]:
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


def _share_of_zeros(weights: tuple[WeightRecord, ...]) -> float:
    size = sum(weight.size for weight in weights)
    return sum(weight.zeros for weight in weights) / size if size else 0.0


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def floats(values: Mapping[str, Any]) -> dict[str, float]:
    """Returns numbers by name, those by their names too that JSON lacks."""
    return {name: float(value) for name, value in values.items()}


def without_infinities(value: Any) -> Any:
    """Returns plain values with numbers that JSON lacks replaced by their names."""
    if isinstance(value, dict):
        return {key: without_infinities(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_infinities(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Returns the lines of a plain text table, columns aligned to the left."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = tuple("-" * width for width in widths)
    return [
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in (header, rule, *rows)
    ]
