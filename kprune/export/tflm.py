"""Running a `.tflite` file in TensorFlow Lite Micro, the microcontroller's runtime.

This module changes when what we want to know from that runtime does.
"""

import dataclasses
import importlib.util
import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kprune.export import tflite
from kprune.export.ends import Ends, without_batch
from kprune.export.files import temporary_folder
from kprune.export.samples import Samples
from kprune.export.targets import Target

RUN_SECONDS = 10.0
_TIME_SECONDS = 2.0
# Loading, one run per arena size tried, and slow machines.
_TIMEOUT_SECONDS = 300.0

# Others can be given to it, and hardly any of its operators takes them.
_INPUT_TYPES = ("float32", "int8", "int16", "int32", "uint32", "bool")

_CURES = {
    "GELU": "use ReLU or HardSwish instead",
    "SELECT": "keras.layers.Embedding makes it: look the vectors up before the model",
    "TILE": "UpSampling2D makes it with interpolation='nearest': use 'bilinear'",
    "CONV_3D": "use 2-D convolutions",
    "REDUCE_PROD": "a dimension that is not fixed makes it: fix the input's shape",
    "POW": "multiply instead of raising to a power",
}


@dataclasses.dataclass(frozen=True)
class Example:
    """One sample as a file takes it, and what it makes of it, bit for bit.

    Args:
        inputs: The inputs as they are stored, in the file's order.
        outputs: The outputs as they are stored, in the file's order.
    """

    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class MicroRun:
    """What TensorFlow Lite Micro computed and needed.

    Args:
        outputs: Each output's real values, in the order of the session's outputs.
        example: The first sample.
        arena_bytes: The smallest arena that worked, in bytes.
        arena_head: Bytes of it for activations.
        arena_tail: Bytes of it for the runtime's own structures.
        times: CPU seconds of each timed run, of the baseline, if there is one, and of
            the file; empty if nothing was timed.
    """

    outputs: list[np.ndarray]
    example: Example
    arena_bytes: int
    arena_head: int
    arena_tail: int
    times: tuple[list[float], ...]


def check_installed(wanted: str = "target='microcontroller'") -> None:
    """Raises a `ValueError` with the cure if tflite-micro is not installed."""
    if importlib.util.find_spec("tflite_micro") is None:
        raise ValueError(
            f"{wanted} needs TensorFlow Lite Micro, and its package is not installed. "
            "Install it: pip install 'kprune[micro]'"
        )


def check_seconds(argument: str, seconds: float) -> None:
    """Raises an error if `seconds` is no time to spend.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not positive and finite.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(
            f"`{argument}` must be a number of seconds. Received: {seconds!r} of type "
            f"{type(seconds).__name__}."
        )
    if not 0 < seconds < math.inf:
        raise ValueError(
            f"`{argument}` must be a positive number of seconds, such as 2.0. "
            f"Received: {seconds!r}."
        )


def check_operators(data: bytes, target: Target) -> None:
    """Refuses a file with operators that the target's runtime lacks.

    Raises:
        ValueError: Names each operator, the layer it is from, and a cure where known.
    """
    if target.operators is None:
        return
    lacking: dict[str, str] = {}
    for graph in tflite.parse(data).subgraphs:
        for operator in graph.operators:
            if operator.name not in target.operators and operator.outputs:
                made = graph.tensors[operator.outputs[0]].name.split(";")[0]
                # The converter renames the tensors that a model returns.
                output = re.match(r"(Stateful)?PartitionedCall", made)
                what = "an output of the model" if output else repr(made)
                lacking.setdefault(operator.name, what)
    if lacking:
        listed = "; ".join(
            f"{name} (computes {made}"
            + (f"; {_CURES[name]})" if name in _CURES else ")")
            for name, made in lacking.items()
        )
        raise ValueError(
            f"{target.runtime} has no operator for: {listed}. Nothing was written. "
            f"The operators it has: {target.operators_source}"
        )


def run(
    data: bytes,
    ends: Ends,
    samples: Samples,
    baseline: bytes | None = None,
    alternate_bytes: int = 0,
    *,
    baseline_ends: Ends | None = None,
    run_seconds: float = RUN_SECONDS,
    time_seconds: float | None = None,
) -> MicroRun:
    """Runs a file in TensorFlow Lite Micro, in a process of its own.

    Args:
        data: The `.tflite` file.
        ends: Its inputs and outputs, in the order of the samples; of an encoded file
            those of the one that was encoded will do.
        samples: Inputs; as many are run as fit into `run_seconds`, at least one.
        baseline: Another file with the same inputs to time against; `None` for none.
        alternate_bytes: Memory outside of the arena that decoded weights may take.
        baseline_ends: The baseline's inputs, if it stores them otherwise.
        run_seconds: The most seconds to run samples for.
        time_seconds: Seconds to time for; by default two if there is a baseline, and
            none otherwise.

    Raises:
        ValueError: If the runtime fails, crashes or hangs; with its own words.
    """
    graph = tflite.parse(data).subgraphs[0]
    if time_seconds is None:
        time_seconds = 0.0 if baseline is None else _TIME_SECONDS
    with temporary_folder() as folder:
        (folder / "model.tflite").write_bytes(data)
        stored = _stored(graph, ends, samples.arrays)
        np.savez(folder / "inputs.npz", *stored)
        if baseline is not None:
            (folder / "baseline.tflite").write_bytes(baseline)
            other = tflite.parse(baseline).subgraphs[0]
            one = [array[:1] for array in samples.arrays]
            beside = _stored(other, baseline_ends or ends, one)
            np.savez(folder / "baseline_inputs.npz", *beside)
        settings = {
            "run": run_seconds,
            "time": time_seconds,
            "alternate_bytes": alternate_bytes,
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        timeout = _TIMEOUT_SECONDS + run_seconds + time_seconds
        _start_worker(folder, timeout, _odd_inputs(ends))
        result = json.loads((folder / "result.json").read_text())
        with np.load(folder / "outputs.npz") as file:
            found = [file[f"arr_{index}"] for index in range(len(file.files))]
    outputs = [
        without_batch(end.dequantize(found[graph.outputs.index(end.index)]))
        for end in ends.outputs
    ]
    first = [
        values[: graph.tensors[index].shape[0]]
        for index, values in zip(graph.outputs, found, strict=True)
    ]
    example = Example(tuple(values[:1] for values in stored), tuple(first))
    return MicroRun(
        outputs,
        example,
        result["arena_needed"],
        result["arena"]["head"],
        result["arena"]["tail"],
        tuple(result.get("times", ())),
    )


def _stored(
    graph: tflite.Subgraph, ends: Ends, arrays: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Returns each input as the file stores it, in the file's order of inputs."""
    ordered = sorted(
        zip(ends.inputs, arrays, strict=True),
        key=lambda pair: graph.inputs.index(pair[0].index),
    )
    return [
        end.quantize(values).reshape(len(values), *end.shape) for end, values in ordered
    ]


def _odd_inputs(ends: Ends) -> str:
    """Returns a sentence on inputs that the runtime hardly does anything with."""
    odd = [
        f"{end.name!r} is {end.dtype.name}"
        for end in ends.inputs
        if end.dtype.name not in _INPUT_TYPES
    ]
    if not odd:
        return ""
    return (
        f"Input {', '.join(odd)}, which few of its operators take: give the model a "
        "keras.Input(..., dtype='float32') or 'int32'. "
    )


def _start_worker(folder: Path, timeout: float, hint: str) -> None:
    worker = Path(__file__).with_name("tflm_worker.py")
    # -P keeps this folder's module names out of the worker's import path.
    command: Sequence[str] = (sys.executable, "-P", str(worker), str(folder))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            "TensorFlow Lite Micro did not finish one run of the file within "
            f"{timeout:.0f} s; the model is far too large for it, or it hangs in a "
            "loop (recurrent layers: use unroll=True)."
        ) from error
    if done.returncode == 0:
        return
    words = "\n  ".join(
        line.strip() for line in done.stderr.splitlines()[-12:] if line.strip()
    )
    if done.returncode < 0:
        words = f"(it crashed with signal {-done.returncode})\n  {words}"
    missing = re.findall(r"Didn't find op for builtin opcode '(\w+)'", done.stderr)
    failing = re.findall(r"Node (\w+) \(number \d+\w*\) failed", done.stderr)
    blamed = ", ".join(dict.fromkeys(missing + failing))
    raise ValueError(
        "TensorFlow Lite Micro cannot run the file"
        + (f": it fails on the operator {blamed}" if blamed else "")
        + f". {hint}Replace the layer that makes the operator, or "
        f"try another quantisation. The runtime's own words:\n  {words}"
    )
