"""Converts SavedModels to `.tflite` files, one after the other, in its own process.

This module changes when TensorFlow's converter does. It is started as a script by
`kprune.export.converter` and must not import kprune: it may crash or hang without harm,
as the converter does on some models.

It reads lines of JSON from standard input, each the path of a folder with these files:
    saved_model: a folder, the traced model.
    samples.npz: "arr_0", "arr_1", ...: one array per input, to calibrate on.
    settings.json: "quantization"; whether the model has been "trained" for it, so that
        its ranges are in its graph; the data types of "inputs" by name; "integer_io";
        "sparse", whether weights are stored without their zeros.
It writes model.tflite there, or error.txt; and printed.txt, what TensorFlow printed.
Its answers on standard output are lines of JSON: {"step": what it begins to do}, and in
the end {"done": whether there is a file}. It ends with its standard input.
"""

import contextlib
import fcntl
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Converts until standard input ends."""
    # What is printed anywhere in this process must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers)

    import tensorflow  # noqa: F401  It takes seconds, which no job should wait for.

    os.chdir("/")  # No folder of the user's is kept busy.
    for line in iter(sys.stdin.readline, ""):
        folder = Path(json.loads(line))
        with _printing_to(folder / "printed.txt"), _ending_with_parent():
            tempfile.tempdir = str(folder)  # Whoever asked removes what is left there.
            try:
                _convert(folder, lambda step: answer(step=step))
                done = True
            except Exception as error:  # It raises errors of any type.
                text = str(error) or type(error).__name__
                (folder / "error.txt").write_text(text, "utf-8", "replace")
                done = False
        answer(done=done)


@contextlib.contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """Sends what Python and C++ print to a file."""
    saved = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
    with path.open("wb") as file:
        for descriptor, _ in saved:
            os.dup2(file.fileno(), descriptor)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, copy in saved:
            os.dup2(copy, descriptor)
            os.close(copy)


@contextlib.contextmanager
def _ending_with_parent() -> Iterator[None]:
    """Ends this process, wherever it is, when standard input is closed.

    Nobody reads standard input during a conversion, and in one that hangs no Python
    code runs. The system sends SIGIO, which ends a process. (Not on macOS: there it
    ends after the conversion.)
    """
    flags = fcntl.fcntl(0, fcntl.F_GETFL)
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        yield
    finally:
        fcntl.fcntl(0, fcntl.F_SETFL, flags)


def _convert(folder: Path, tell: Callable[[str], None]) -> None:
    import tensorflow as tf

    settings = json.loads((folder / "settings.json").read_text())
    tell("reading the traced model")
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved_model"))
    quantization = settings["quantization"]
    if quantization != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    ops = tf.lite.OpsSet
    integer = {
        "int8": (ops.TFLITE_BUILTINS_INT8, tf.int8),
        "int16x8": (
            ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
            tf.int16,
        ),
    }
    if quantization in integer:
        operators, io_type = integer[quantization]
        if not settings["trained"]:
            samples = _samples(folder / "samples.npz", settings["inputs"])
            converter.representative_dataset = lambda: _rows(samples, tell)
            # Second choice for operators without an integer kernel, instead of a
            # failure; the report names them.
            converter.target_spec.supported_ops = [operators, ops.TFLITE_BUILTINS]
        if settings["integer_io"]:
            converter.inference_input_type = io_type
            converter.inference_output_type = io_type
    if settings["sparse"]:
        converter.optimizations = [
            *converter.optimizations,
            tf.lite.Optimize.EXPERIMENTAL_SPARSITY,
        ]
    tell("converting the traced model")
    (folder / "model.tflite").write_bytes(converter.convert())


def _samples(path: Path, dtypes: Mapping[str, str]) -> dict[str, np.ndarray]:
    import tensorflow as tf

    with np.load(path) as stored:
        # NumPy does not store the name of bfloat16.
        return {
            name: stored[f"arr_{index}"].view(tf.as_dtype(dtype).as_numpy_dtype)
            for index, (name, dtype) in enumerate(dtypes.items())
        }


def _rows(
    samples: Mapping[str, np.ndarray], tell: Callable[[str], None]
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the samples one by one, each input with a batch dimension of 1."""
    count = len(next(iter(samples.values())))
    for index in range(count):
        tell(f"calibrating on sample {index + 1} of {count}")
        yield {name: array[index : index + 1] for name, array in samples.items()}
    tell("quantizing the calibrated model")


if __name__ == "__main__":
    main()
