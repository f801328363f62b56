"""Runs one `.tflite` file in TensorFlow Lite Micro, in a process of its own.

This module changes when tflite-micro's Python interface does. It is started as a
script by `kprune.export.tflm` and must not import kprune or TensorFlow: it has to start
within a moment, and may crash or hang without harm, as the runtime does on some files.

Usage: tflm_worker.py FOLDER, with these files in it:
    model.tflite: the file; baseline.tflite: optionally another one to time against it.
    inputs.npz: "arr_0", "arr_1", ...: the inputs in the file's order, shapes and data
    types, samples along a first axis; baseline_inputs.npz: one sample for the baseline.
    settings.json: how long to run samples and how long to time, in seconds, and how
    many bytes outside of the arena decoded weights of the model may take.
It writes outputs.npz ("arr_0", "arr_1", ...) and result.json there. Errors and the
runtime's own words go to standard error, and the exit code is 1.
"""

import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

_ALIGNMENT = 16


def main(folder: Path) -> None:
    """Runs the model on the inputs, measures its arena and times it."""
    settings = json.loads((folder / "settings.json").read_text())
    alternate = settings["alternate_bytes"]
    model = (folder / "model.tflite").read_bytes()
    inputs = _arrays(folder / "inputs.npz")
    # Twenty times the file's size holds the activations of any model that would fit a
    # microcontroller; the runtime's own default of ten is short for tiny files.
    roomy = max(20 * len(model), 4 << 20)
    interpreter = _load(model, roomy, alternate)
    outputs: list[list[np.ndarray]] = []
    end = time.perf_counter() + settings["run"]
    for row in zip(*inputs, strict=True):
        outputs.append(_run(interpreter, row))
        if time.perf_counter() > end:
            break
    columns = [np.stack(found) for found in zip(*outputs, strict=True)]
    np.savez(folder / "outputs.npz", *columns)
    arena = _printed_arena(interpreter)
    first = next(zip(*inputs, strict=True))
    needed = _smallest(model, first, arena["total"], alternate)
    result = {"arena": arena, "arena_needed": needed}
    if settings["time"]:
        timed = [(interpreter, first)]
        baseline = folder / "baseline.tflite"
        if baseline.exists():
            content = baseline.read_bytes()
            other = _load(content, max(20 * len(content), roomy), 0)
            row = next(zip(*_arrays(folder / "baseline_inputs.npz"), strict=True))
            timed.insert(0, (other, row))
        result["times"] = _time(timed, settings["time"])
    (folder / "result.json").write_text(json.dumps(result))


def _arrays(path: Path) -> list[np.ndarray]:
    with np.load(path) as stored:
        return [stored[f"arr_{index}"] for index in range(len(stored.files))]


def _load(model: bytes, arena: int, alternate: int) -> Any:
    from tflite_micro.python.tflite_micro import runtime

    return runtime.Interpreter.from_bytes(
        model, arena_size=arena, alt_decompression_memory_size=alternate
    )


def _run(interpreter: Any, row: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    # Inputs share memory with activations: every run needs them set again.
    for index, values in enumerate(row):
        interpreter.set_input(values, index)
    interpreter.invoke()
    found: list[np.ndarray] = []
    while True:
        try:
            found.append(interpreter.get_output(len(found)))
        except IndexError:
            return found


def _printed_arena(interpreter: Any) -> dict[str, int]:
    """Returns the arena's bytes, which the runtime only prints, to C's stderr."""
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            interpreter.print_allocations()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        file.seek(0)
        text = file.read().decode("utf-8", "replace")
    found = re.findall(r"Arena allocation (total|head|tail) (\d+) bytes", text)
    return {part: int(size) for part, size in found}


def _smallest(
    model: bytes, row: tuple[np.ndarray, ...], total: int, alternate: int
) -> int:
    """Returns the smallest arena that works, a multiple of 16 bytes.

    Planning needs a little memory on top of what stays in use. Sizes below `total`
    cannot work, and are not tried.
    """

    def works(size: int) -> bool:
        # In a forked process, since too small an arena may crash the runtime. (The
        # package exists for Linux only, so that there always is a fork.)
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            try:
                _run(_load(model, size, alternate), row)
            except RuntimeError:
                os._exit(1)
            os._exit(0)
        return os.waitpid(child, 0)[1] == 0

    low = -(-total // _ALIGNMENT) * _ALIGNMENT
    if works(low):
        return low
    high = low
    step = _ALIGNMENT
    while not works(high):
        low, high, step = high, high + step, step * 2
    while high - low > _ALIGNMENT:
        middle = (low + high) // 2 // _ALIGNMENT * _ALIGNMENT
        low, high = (low, middle) if works(middle) else (middle, high)
    return high


def _time(
    timed: list[tuple[Any, tuple[np.ndarray, ...]]], seconds: float
) -> list[list[float]]:
    """Returns the CPU seconds of runs that take turns, for each interpreter."""
    result: list[list[float]] = [[] for _ in timed]
    end = time.perf_counter() + seconds
    while len(result[0]) < 5 or (time.perf_counter() < end and len(result[0]) < 101):
        for (interpreter, row), found in zip(timed, result, strict=True):
            start = time.process_time()
            _run(interpreter, row)
            found.append(time.process_time() - start)
    return result


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except (RuntimeError, ValueError, IndexError) as failure:
        print(failure, file=sys.stderr)
        sys.exit(1)
