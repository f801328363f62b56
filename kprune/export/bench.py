"""`kprune.bench`: times a `.tflite` file that exists, alone or beside another.

This module changes when something else is to be told of a file that is timed.
"""

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from kprune.export import tflite, vela
from kprune.export.choosing import known
from kprune.export.compare import LIMITS, compare
from kprune.export.encoding import DECODE
from kprune.export.ends import End, Ends, described, of_file
from kprune.export.files import read_tflite
from kprune.export.flash import arena_of
from kprune.export.interface import Input
from kprune.export.latency import LITERT, MICRO, spread, summarise
from kprune.export.litert import Session, check_survived, times
from kprune.export.samples import Samples, collect, random_samples
from kprune.export.tflm import MicroRun, check_installed, check_seconds
from kprune.export.tflm import run as run_in_tflm
from kprune.foreign import received
from kprune.report import Arena, BenchReport, FileSize, OutputDifference, TimedFile

RUNTIMES = {"litert": LITERT, "tflm": MICRO}


def bench(
    file: str | os.PathLike[str],
    baseline: str | os.PathLike[str] | None = None,
    representative_data: Any = None,
    *,
    runtime: str | None = None,
    num_samples: int = 32,
    seconds: float = 2.0,
) -> BenchReport:
    """Times a `.tflite` file on this machine, in the runtime that devices have.

    With a baseline the two files take turns, run after run, and the ratio of their
    times is taken within each round: a slow spell of the machine hits both. Times are
    CPU time of one thread. They are this machine's, not a device's; ratios carry over
    better than milliseconds.

    Args:
        file: The `.tflite` file, by whatever tool it was written.
        baseline: Another one, with the same inputs and outputs, to compare it with.
        representative_data: Inputs: an array; a tuple, list or dict of arrays for
            several inputs; a `tf.data.Dataset` or an iterable of batches. Real values,
            which are quantised as the file asks for. By default random ones, over the
            range that a quantised input can store, or else in [0, 1).
        runtime: `"litert"`, or `"tflm"` for TensorFlow Lite Micro with its reference
            kernels. By default LiteRT, unless a file has weights that only TensorFlow
            Lite Micro can decode.
        num_samples: The most samples to compare outputs on, at least 1.
        seconds: The most seconds to spend on times.

    Returns:
        What was measured. `print` it.

    Raises:
        TypeError: If a path, the data or the seconds are of the wrong type.
        ValueError: If an argument is unknown or out of range, a file cannot be read or
            run, or the baseline or the data do not fit it.
    """
    check_seconds("seconds", seconds)
    first = _load("file", file)
    other = None if baseline is None else _load("baseline", baseline)
    chosen, reason = _choose(runtime, [first] if other is None else [other, first])
    if other is not None:
        other = _aligned(other, first)
    files = [first] if other is None else [other, first]
    samples = _samples(files, representative_data, num_samples)
    run = _in_tflm if chosen == "tflm" else _in_litert
    measured = run(files, samples, seconds)
    timed = [
        TimedFile(item.path, FileSize.of(item.data), spread(found.times), found.arena)
        for item, found in zip(files, measured, strict=True)
    ]
    differences: tuple[OutputDifference, ...] = ()
    latency = None
    if other is not None:
        before, after = measured
        latency = summarise(RUNTIMES[chosen], other.path, before.times, after.times)
        count = min(len(found.outputs[0]) for found in measured)
        expected, received = (
            [array[:count] for array in found.outputs] for found in measured
        )
        differences = compare(
            [end.name for end in first.ends.outputs],
            RUNTIMES[chosen],
            expected,
            received,
            [end.scale or None for end in first.ends.outputs],
        )
    kind = "random inputs" if samples.random else "samples of representative_data"
    return BenchReport(
        runtime=RUNTIMES[chosen],
        reason=reason,
        file=timed[-1],
        baseline=None if other is None else timed[0],
        latency=latency,
        inputs=described(first.ends.inputs),
        outputs=described(first.ends.outputs),
        differences=differences,
        ran_on=f"{samples.count} {kind}",
        notes=_notes(chosen, first, other, measured[-1], differences),
    )


@dataclasses.dataclass(frozen=True)
class _File:
    """A file that was read.

    Args:
        argument: What the caller calls it.
        path: Where it is.
        data: Its bytes.
        ends: Its inputs and outputs, in the order of the samples.
        content: What is in it.
    """

    argument: str
    path: str
    data: bytes
    ends: Ends
    content: tflite.TFLiteFile

    @property
    def named(self) -> str:
        """How messages name it."""
        return f"`{self.argument}`, {self.path!r}"


@dataclasses.dataclass(frozen=True)
class _Measured:
    """CPU seconds per run of each round, outputs for each sample, and memory."""

    times: list[float]
    outputs: list[np.ndarray]
    arena: Arena | None = None


def _load(argument: str, path: Any) -> _File:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"`{argument}` must be the path of a '.tflite' file. {received(path)}"
        )
    data = read_tflite(argument, path)
    content = tflite.parse(data)
    where = f"`{argument}`, {str(path)!r}"
    if vela.OPERATOR in content.operator_counts():
        raise ValueError(
            f"{where}: it is compiled for an Ethos-U, and there is none here to time "
            "it on. kprune.export(model, ..., target='ethos-u55-128') reports what "
            "Vela estimates for it; time the file that it was compiled from."
        )
    try:
        ends = of_file(data)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if not ends.inputs or not ends.outputs:
        raise ValueError(f"{where}: it has no inputs or no outputs, so nothing to run.")
    for end in ends.inputs:
        if -1 in end.shape:
            raise ValueError(
                f"{where}: its input {end.name!r} has the shape {end.shape}, where -1 "
                "is free, and times depend on it. Convert the model with a fixed shape."
            )
    return _File(argument, str(path), data, ends, content)


def _choose(runtime: str | None, files: list[_File]) -> tuple[str, str]:
    """Returns the runtime, and why that one."""
    if runtime is not None:
        runtime = known("runtime", runtime, RUNTIMES)
    encoded = [item for item in files if DECODE in item.content.operator_counts()]
    if encoded and runtime == "litert":
        raise ValueError(
            f"{encoded[0].named}: only TensorFlow Lite Micro can decode its weights "
            f"(operator {DECODE.removeprefix('CUSTOM:')}). Use runtime='tflm'."
        )
    chosen = runtime or ("tflm" if encoded else "litert")
    if chosen == "tflm":
        check_installed("runtime='tflm'" if runtime else f"{encoded[0].named},")
        for item in files:
            _check_not_sparse(item)
    if runtime:
        return chosen, "as asked for"
    if encoded:
        return chosen, "because it alone decodes weights of a file here"
    return chosen, "by default; runtime 'tflm' is for microcontrollers"


def _check_not_sparse(item: _File) -> None:
    for graph in item.content.subgraphs:
        for tensor in graph.tensors:
            if tensor.sparse:
                raise ValueError(
                    f"{item.named}: its tensor {tensor.name!r} is stored sparsely, "
                    "which TensorFlow Lite Micro misreads without a word. Use "
                    "runtime='litert', or convert the model without sparse tensors."
                )


def _aligned(baseline: _File, first: _File) -> _File:
    """Returns the baseline with inputs and outputs in the order of the file's."""
    sides = []
    for kind, theirs, ours in (
        ("inputs", baseline.ends.inputs, first.ends.inputs),
        ("outputs", baseline.ends.outputs, first.ends.outputs),
    ):
        by_name = {end.name: end for end in theirs}
        if set(by_name) == {end.name for end in ours}:
            theirs = tuple(by_name[end.name] for end in ours)
        if [end.sample_shape for end in theirs] != [end.sample_shape for end in ours]:
            raise ValueError(
                f"{baseline.named}, has other {kind} than the file. Received: "
                f"{_shapes(theirs)}. Expected: {_shapes(ours)}. Name a file of a model "
                "for the same task."
            )
        sides.append(theirs)
    return dataclasses.replace(baseline, ends=Ends(*sides))


def _shapes(ends: Iterable[End]) -> str:
    return ", ".join(f"{end.name} {end.shape}" for end in ends)


def _samples(files: list[_File], data: Any, num_samples: int) -> Samples:
    ends = files[-1].ends.inputs
    inputs = [
        Input(
            end.name,
            end.name,
            end.sample_shape,
            "float32" if end.scale else end.dtype.name,
        )
        for end in ends
    ]
    if data is not None:
        return collect(data, inputs, num_samples)
    if num_samples < 1:
        raise ValueError(f"`num_samples` must be at least 1. Received: {num_samples}.")
    arrays = []
    for index, array in enumerate(random_samples(inputs).arrays):
        # A float file gets what the quantised one beside it can store.
        stored = [item.ends.inputs[index] for item in files[::-1]]
        for end in filter(lambda end: end.scale, stored):
            limits = np.iinfo(end.dtype)
            low, high = end.dequantize(np.array([limits.min, limits.max]))
            array = (low + (high - low) * array).astype(array.dtype)
            break
        arrays.append(array[:num_samples])
    return Samples(tuple(arrays), random=True)


def _in_litert(files: list[_File], samples: Samples, seconds: float) -> list[_Measured]:
    sessions = []
    for item in files:
        check_survived(item.argument, item.path, item.data)
        try:
            sessions.append(Session(item.data, item.ends))
        except ValueError as error:
            raise ValueError(f"{item.named}: {error}") from error
    outputs = [session.run(samples) for session in sessions]
    found = times(sessions, next(samples.rows()), seconds)
    return [_Measured(*both) for both in zip(found, outputs, strict=True)]


def _in_tflm(files: list[_File], samples: Samples, seconds: float) -> list[_Measured]:
    first, others = files[-1], files[:-1]
    runs: list[MicroRun] = []
    for item in files:
        beside = others[0] if item is first and others else None
        try:
            runs.append(
                run_in_tflm(
                    item.data,
                    item.ends,
                    samples,
                    None if beside is None else beside.data,
                    baseline_ends=None if beside is None else beside.ends,
                    time_seconds=seconds if item is first else 0.0,
                )
            )
        except ValueError as error:
            raise ValueError(f"{item.named}: {error}") from error
    return [
        _Measured(found, run.outputs, arena_of(run))
        for found, run in zip(runs[-1].times, runs, strict=True)
    ]


def _notes(
    runtime: str,
    first: _File,
    other: _File | None,
    measured: _Measured,
    differences: tuple[OutputDifference, ...],
) -> tuple[str, ...]:
    notes = []
    if not all(np.isfinite(array).all() for array in measured.outputs):
        notes.append("The file computes values that are NaN or infinite.")
    if other is None:
        notes.append(
            "Milliseconds move with the machine's load and clock. A ratio does less: "
            "give a baseline, and the two files take turns."
        )
    elif first.data == other.data:
        notes.append("Both files hold the same bytes: the spread is the machine's.")
    for item in differences:
        if item.finite and item.relative > max(LIMITS.values()):
            notes.append(
                f"Output {item.output!r} differs by {item.relative:.2g} of its size, "
                "more than quantisation explains: the baseline computes something "
                "else, or the inputs are none that it was made for."
            )
    notes.append(
        "These are times of this machine"
        + (", with kernels that are not optimised" if runtime == "tflm" else "")
        + ", not of a device. `kprune bench FILE --device android` and `--device "
        "board` say how to time the file there."
    )
    return tuple(notes)
