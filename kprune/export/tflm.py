"""Running a `.tflite` file in TensorFlow Lite Micro, the microcontroller's runtime.

This module changes when what we want to know from that runtime does.
"""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kprune.export import tflite
from kprune.export.files import temporary_folder
from kprune.export.litert import Session, dequantize, quantize
from kprune.export.samples import Samples
from kprune.export.targets import Target

_RUN_SECONDS = 10.0
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
class MicroRun:
    """What TensorFlow Lite Micro computed and needed.

    Args:
        outputs: Each output's real values, in the order of the session's outputs.
        arena_bytes: The smallest arena that worked, in bytes.
        arena_head: Bytes of it for activations.
        arena_tail: Bytes of it for the runtime's own structures.
        times: CPU seconds of each timed run of the baseline and of the file; empty if
            no baseline was given.
    """

    outputs: list[np.ndarray]
    arena_bytes: int
    arena_head: int
    arena_tail: int
    times: tuple[list[float], ...]


def check_installed(target: str = "microcontroller") -> None:
    """Raises a `ValueError` with the cure if tflite-micro is not installed."""
    if importlib.util.find_spec("tflite_micro") is None:
        raise ValueError(
            f"target={target!r} runs the file in TensorFlow Lite Micro, whose "
            "package is not installed. Install it: pip install 'kprune[micro]'"
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
    session: Session,
    samples: Samples,
    baseline: bytes | None,
    alternate_bytes: int = 0,
) -> MicroRun:
    """Runs a file in TensorFlow Lite Micro, in a process of its own.

    Args:
        data: The `.tflite` file.
        session: The same file in LiteRT, which knows its inputs and outputs; of an
            encoded file the one that was encoded.
        samples: Inputs; as many are run as fit into ten seconds, at least one.
        baseline: Another file with the same inputs to time against; `None` for none.
        alternate_bytes: Memory outside of the arena that decoded weights may take.

    Raises:
        ValueError: If the runtime fails, crashes or hangs; with its own words.
    """
    graph = tflite.parse(data).subgraphs[0]
    ordered = sorted(
        zip(session.inputs, samples.arrays, strict=True),
        key=lambda pair: graph.inputs.index(pair[0]["index"]),
    )
    with temporary_folder() as folder:
        (folder / "model.tflite").write_bytes(data)
        if baseline is not None:
            (folder / "baseline.tflite").write_bytes(baseline)
        stored = [quantize(values, details) for details, values in ordered]
        np.savez(folder / "inputs.npz", *stored)
        settings = {
            "run": _RUN_SECONDS,
            "time": _TIME_SECONDS,
            "alternate_bytes": alternate_bytes,
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        _start_worker(folder, _odd_inputs(session))
        result = json.loads((folder / "result.json").read_text())
        with np.load(folder / "outputs.npz") as file:
            found = [file[f"arr_{index}"] for index in range(len(file.files))]
    outputs = [
        dequantize(found[graph.outputs.index(details["index"])], details)
        for details in session.outputs
    ]
    return MicroRun(
        outputs,
        result["arena_needed"],
        result["arena"]["head"],
        result["arena"]["tail"],
        tuple(result.get("times", ())),
    )


def _odd_inputs(session: Session) -> str:
    """Returns a sentence on inputs that the runtime hardly does anything with."""
    odd = [
        f"{item.name!r} is {item.dtype}"
        for item in session.interface.inputs
        if item.dtype not in _INPUT_TYPES
    ]
    if not odd:
        return ""
    return (
        f"Input {', '.join(odd)}, which few of its operators take: give the model a "
        "keras.Input(..., dtype='float32') or 'int32'. "
    )


def _start_worker(folder: Path, hint: str) -> None:
    worker = Path(__file__).with_name("tflm_worker.py")
    # -P keeps this folder's module names out of the worker's import path.
    command: Sequence[str] = (sys.executable, "-P", str(worker), str(folder))
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            "TensorFlow Lite Micro did not finish one run of the converted file within "
            f"{_TIMEOUT_SECONDS:.0f} s; the model is far too large for it, or it hangs "
            "in a loop (recurrent layers: use unroll=True). Nothing was written."
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
        "TensorFlow Lite Micro cannot run the converted file"
        + (f": it fails on the operator {blamed}" if blamed else "")
        + f". Nothing was written. {hint}Replace the layer that makes the operator, or "
        f"try another quantisation. The runtime's own words:\n  {words}"
    )
