"""Running and timing a `.tflite` file in LiteRT, the runtime that Android apps ship.

This module changes when LiteRT's Python interface does.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kprune.export.ends import Ends, without_batch
from kprune.export.files import temporary_folder
from kprune.export.quiet import captured_output
from kprune.export.samples import Samples
from kprune.export.tflite import Tensor

# Loading and running once, of a large file on a slow machine.
_TRIAL_SECONDS = 300.0


def check_survived(argument: str, path: str | os.PathLike[str], data: bytes) -> None:
    """Refuses a file that LiteRT crashes on, after trying it in a process of its own.

    It checks that a file is a flatbuffer, and trusts what the flatbuffer says.

    Args:
        argument: What the caller calls it.
        path: Where it is from.
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
                f"`{argument}`, {str(path)!r}: LiteRT did not finish one run of it "
                f"within {_TRIAL_SECONDS:.0f} s."
            ) from error
    if code < 0:
        raise ValueError(
            f"`{argument}`, {str(path)!r}: LiteRT crashes on it with signal {-code} "
            f"({signal.strsignal(-code)}). It is damaged: write it again, or fetch it "
            "again if it was downloaded."
        )


class Session:
    """A loaded file.

    Args:
        data: The `.tflite` file.
        ends: Its inputs and outputs, in the order of the samples.
        inspected: Whether all tensors can be read after a run. It takes memory and
            time: XNNPACK, which does not keep them, stays out.

    Raises:
        ValueError: If LiteRT cannot load it.
    """

    def __init__(self, data: bytes, ends: Ends, inspected: bool = False) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        resolver = OpResolverType.AUTO
        if inspected:
            resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES

        failure: Exception | None = None
        with captured_output() as printed:
            try:
                self._interpreter = Interpreter(
                    model_content=data,
                    num_threads=1,
                    experimental_op_resolver_type=resolver,
                    experimental_preserve_all_tensors=inspected,
                )
                self._interpreter.allocate_tensors()
            except (RuntimeError, ValueError) as error:
                failure = error
        if failure is not None:
            raise ValueError(
                f"LiteRT cannot load the file: {failure}\n{printed.tail()}"
            ) from failure
        # Free dimensions have got a size now.
        shapes = {
            details["index"]: tuple(map(int, details["shape"]))
            for details in (
                *self._interpreter.get_input_details(),
                *self._interpreter.get_output_details(),
            )
        }
        self.ends = Ends(
            *(
                tuple(dataclasses.replace(end, shape=shapes[end.index]) for end in side)
                for side in (ends.inputs, ends.outputs)
            )
        )

    @property
    def steps(self) -> list[float | None]:
        """For each output the real value of one integer step; `None` for floats."""
        return [end.scale or None for end in self.ends.outputs]

    def set_inputs(self, row: Sequence[np.ndarray]) -> None:
        """Sets one sample, real values with a batch dimension of 1."""
        for end, values in zip(self.ends.inputs, row, strict=True):
            stored = end.quantize(values).reshape(end.shape)
            self._interpreter.set_tensor(end.index, stored)

    def invoke(self) -> None:
        """Runs the file once on the inputs that were set."""
        self._interpreter.invoke()

    def value(self, tensor: Tensor) -> np.ndarray:
        """Returns the real values of an inner tensor, if this is inspected."""
        found = self._interpreter.get_tensor(tensor.index)
        if not tensor.scale.size:
            return found
        return (found.astype(np.float32) - tensor.zero_point[0]) * tensor.scale[0]

    def run(self, samples: Samples) -> list[np.ndarray]:
        """Returns each output's real values for all samples.

        Raises:
            ValueError: If LiteRT fails while running.
        """
        collected: list[list[np.ndarray]] = [[] for _ in self.ends.outputs]
        try:
            for row in samples.rows():
                self.set_inputs(row)
                self.invoke()
                for values, end in zip(collected, self.ends.outputs, strict=True):
                    found = self._interpreter.get_tensor(end.index)
                    values.append(end.dequantize(found))
            return [without_batch(np.stack(values)) for values in collected]
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"LiteRT fails when it runs the file: {error}") from error


def times(
    sessions: Sequence[Session], row: Sequence[np.ndarray], seconds: float = 2.0
) -> list[list[float]]:
    """Times several files in turn, so that each meets the same state of the machine.

    Args:
        sessions: The loaded files, all with the same inputs.
        row: One sample.
        seconds: Wall time to spend, at most, for up to 101 rounds. 15 rounds are run
            whatever takes less than ten times this, and 5 in any case.

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
    while len(result[0]) < 5 or time.perf_counter() < (
        end if len(result[0]) >= 15 else limit
    ):
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
