"""The proof that a model of Keras 3 computes what its file of Keras 2 does.

This module changes when the two are to be compared in another way.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kprune.compat import tfmot_worker
from kprune.compat.legacy_files import LegacyFile, SavedModel
from kprune.notices import Notices
from kprune.structure.proof import equality, outputs, probe

_SECONDS = 600
# The largest difference, relative to the largest value of an output, that is taken for
# rounding: in float32 5e-7 is the most that was measured, in half precision one digit
# is 1e-3 already.
_TOLERANCE, _HALF = 1e-4, 1e-2


def prove(
    file: LegacyFile, model: keras.Model, wrapped: bool, needed: bool, notices: Notices
) -> None:
    """Compares a model with what it was made from, on random inputs.

    Args:
        file: What it was made from.
        model: The model.
        wrapped: Whether the file has wrappers of tfmot.
        needed: Whether it is an error if that cannot be done, and not a warning.
        notices: Where that is said.

    Raises:
        ValueError: If outputs differ by more than rounding; or with `needed`, if they
            could not be compared.
    """
    inputs, on = probe(model)
    arrays = [np.asarray(x) for x in keras.tree.flatten(inputs)]
    expected, reason = _by_tf_keras(file.path, arrays, wrapped)
    if not expected and isinstance(file, SavedModel):
        expected, reason = _by_itself(file, inputs)
    if not expected:
        words = (
            f"The outputs of {str(file.path)!r} were not compared with those of the "
            f"Keras 3 model made from it: {reason}."
        )
        if needed:
            raise ValueError(f"{words} Say prove=False to load it all the same.")
        notices.warn(words)
        return
    found = outputs(model, inputs)
    policies = {layer.dtype_policy.compute_dtype for layer in model._flatten_layers()}
    tolerance = _TOLERANCE if policies <= {"float32", "float64"} else _HALF
    shown = {name: equality(values, found, on) for name, values in expected.items()}
    if shown["as_is"].relative <= tolerance:
        return
    if "stripped" in shown and shown["stripped"].relative <= tolerance:
        notices.warn(
            f"{str(file.path)!r} computes something else with tfmot's wrappers than "
            "after strip_pruning, since they do not pass on which time steps are "
            "padding (mask_zero, Masking). The Keras 3 model computes what the "
            "stripped one does."
        )
        return
    raise ValueError(
        f"The Keras 3 model made from {str(file.path)!r} computes something else than "
        f"tf_keras on {on}: they differ by {shown['as_is'].relative:.2g} of the "
        "largest output. Please report it with the file; load(path, prove=False) "
        "returns the model for you to find out where."
    )


def _by_tf_keras(
    path: Path, arrays: Sequence[np.ndarray], wrapped: bool
) -> tuple[dict[str, list[np.ndarray]], str]:
    """Returns what tf_keras computes, or why that is not known."""
    needed = ["tf_keras", *(["tensorflow_model_optimization"] if wrapped else [])]
    for name in needed:
        if importlib.util.find_spec(name) is None:
            return {}, f"{name} is not installed, pip install 'kprune[tfmot]' does so"
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        np.savez(given, *arrays)
        command = [sys.executable, "-P", tfmot_worker.__file__, path, given, made]
        environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1"}
        try:
            result = subprocess.run(
                [str(word) for word in command],
                env=environment,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return {}, f"tf_keras took longer than {_SECONDS} seconds"
        if result.returncode or not made.exists():
            words = re.findall(r"^[\w.]*(?:Error|Exception): .*", result.stderr, re.M)
            reason = words[-1] if words else f"exit code {result.returncode}"
            return {}, f"tf_keras cannot run the file ({reason})"
        with np.load(made) as file:
            found: dict[str, list[np.ndarray]] = {}
            for key in file.files:  # In the order of writing.
                found.setdefault(key.rpartition("_")[0], []).append(file[key])
            return found, ""


def _by_itself(
    file: SavedModel, inputs: Any
) -> tuple[dict[str, list[np.ndarray]], str]:
    """Returns what a SavedModel computes, or why that is not known."""
    import tensorflow as tf

    try:
        tensors = keras.tree.map_structure(tf.convert_to_tensor, inputs)
        found = file.loaded()(tensors, False, None)
    except (TypeError, ValueError, tf.errors.OpError) as error:
        words = str(error).splitlines()[0]
        return {}, f"TensorFlow cannot call the SavedModel ({words})"
    return {"as_is": [np.asarray(value) for value in tf.nest.flatten(found)]}, ""
