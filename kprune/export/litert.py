"""Running and timing a `.tflite` file in LiteRT, the runtime that Android apps ship.

This module changes when LiteRT's Python interface does.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kprune.export import tflite
from kprune.export.files import temporary_folder
from kprune.export.interface import Interface
from kprune.export.quiet import captured_output
from kprune.export.samples import Samples

# Loading and running once, of a large file on a slow machine.
_TRIAL_SECONDS = 300.0


def check_survived(data: bytes) -> None:
    """Refuses a file that LiteRT crashes on, after trying it in a process of its own.

    It checks that a file is a flatbuffer, and trusts what the flatbuffer says.

    Args:
        data: A `.tflite` file from elsewhere.

    Raises:
        ValueError: If LiteRT crashes or hangs; a file that it only refuses is none of
            that.
    """
    with temporary_folder() as folder:
        (folder / "model.tflite").write_bytes(data)
        worker = Path(__file__).with_name("litert_worker.py")
        # -P keeps this folder's module names out of the worker's import path.
        command = [sys.executable, "-P", str(worker), str(folder / "model.tflite")]
        try:
            code = subprocess.run(
                command, capture_output=True, timeout=_TRIAL_SECONDS
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise ValueError(
                f"LiteRT did not finish one run of it within {_TRIAL_SECONDS:.0f} s."
            ) from error
    if code < 0:
        raise ValueError(
            f"LiteRT crashes on it with signal {-code} ({signal.strsignal(-code)}). It "
            "is damaged: write it again, or fetch it again if it was downloaded."
        )


def quantize(values: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """Returns real values as an input or output tensor stores them.

    Args:
        values: Real values.
        details: The tensor's `"dtype"`, `"quantization"` (scale, zero point; a scale
            of 0 means none).
    """
    scale, zero = details["quantization"]
    if not scale:
        return values.astype(details["dtype"])
    limits = np.iinfo(details["dtype"])
    steps = np.rint(values / scale) + zero
    return np.clip(steps, limits.min, limits.max).astype(details["dtype"])


def dequantize(values: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """Returns the real values of what a tensor stores; the inverse of `quantize`."""
    scale, zero = details["quantization"]
    if not scale:
        return values
    return (values.astype(np.float32) - zero) * np.float32(scale)


class Session:
    """A loaded file whose inputs and outputs go by the interface's names.

    Args:
        data: The `.tflite` file.
        interface: The model's inputs and outputs.

    Raises:
        ValueError: If LiteRT cannot load it.
    """

    def __init__(self, data: bytes, interface: Interface) -> None:
        from ai_edge_litert.interpreter import Interpreter

        failure: Exception | None = None
        with captured_output() as printed:
            try:
                self._interpreter = Interpreter(model_content=data, num_threads=1)
                self._interpreter.allocate_tensors()
            except (RuntimeError, ValueError) as error:
                failure = error
        if failure is not None:
            raise ValueError(
                f"LiteRT cannot load the converted file: {failure}\n{printed.tail()}"
            ) from failure
        self.interface = interface
        signature = tflite.parse(data).signatures[0]
        inputs = {d["index"]: d for d in self._interpreter.get_input_details()}
        outputs = {d["index"]: d for d in self._interpreter.get_output_details()}
        self.inputs = [inputs[signature.inputs[item.name]] for item in interface.inputs]
        self.outputs = [
            outputs[signature.outputs[name]] for name in interface.output_names
        ]

    @property
    def steps(self) -> list[float | None]:
        """For each output the real value of one integer step; `None` for floats."""
        return [details["quantization"][0] or None for details in self.outputs]

    def set_inputs(self, row: Sequence[np.ndarray]) -> None:
        """Sets one sample, real values with a batch dimension of 1."""
        for details, values in zip(self.inputs, row, strict=True):
            self._interpreter.set_tensor(details["index"], quantize(values, details))

    def invoke(self) -> None:
        """Runs the file once on the inputs that were set."""
        self._interpreter.invoke()

    def run(self, samples: Samples) -> list[np.ndarray]:
        """Returns each output's real values for all samples.

        Raises:
            ValueError: If LiteRT fails while running.
        """
        collected: list[list[np.ndarray]] = [[] for _ in self.outputs]
        try:
            for row in samples.rows():
                self.set_inputs(row)
                self.invoke()
                for values, details in zip(collected, self.outputs, strict=True):
                    found = self._interpreter.get_tensor(details["index"])
                    values.append(dequantize(found, details))
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"LiteRT fails when it runs the converted file: {error}"
            ) from error
        return [np.concatenate(values) for values in collected]


def times(
    sessions: Sequence[Session], row: Sequence[np.ndarray], seconds: float = 2.0
) -> list[list[float]]:
    """Times several files in turn, so that each meets the same state of the machine.

    Args:
        sessions: The loaded files, all with the same inputs.
        row: One sample.
        seconds: Wall time to spend, at most. 15 rounds are run whatever it takes less
            than ten times this.

    Returns:
        For each file the CPU seconds per run of each round. CPU time of the one thread
        that LiteRT uses is steadier than wall time on a busy machine.
    """
    for session in sessions:
        session.set_inputs(row)
    repeats = [max(1, round(0.005 / max(_warm_up(s), 1e-7))) for s in sessions]
    result: list[list[float]] = [[] for _ in sessions]
    end = time.perf_counter() + seconds
    limit = end + 9 * seconds
    while time.perf_counter() < (end if len(result[0]) >= 15 else limit):
        for session, count, found in zip(sessions, repeats, result, strict=True):
            start = time.process_time()
            for _ in range(count):
                session.invoke()
            found.append((time.process_time() - start) / count)
        if len(result[0]) >= 101:
            break
    return result


def _warm_up(session: Session) -> float:
    """Returns the wall seconds of the third run; the first ones pack weights."""
    elapsed = 0.0
    for _ in range(3):
        start = time.perf_counter()
        session.invoke()
        elapsed = time.perf_counter() - start
    return elapsed
