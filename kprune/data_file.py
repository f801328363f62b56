"""Data that a command line names: arrays in files, or a function of the user's.

This module changes when users may say in another way where their data are.
"""

import dataclasses
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import keras
import numpy as np

_HELD_OUT = 0.1
_FORMS = (
    "a '.npz' file with the arrays x and y, and x_val and y_val to measure on; or "
    "'module:function', whose function returns a pair to train and to measure on, each "
    "a batched tf.data.Dataset or (x, y)"
)


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What to train and to measure on, as `fit` takes it.

    Args:
        train: What to train on.
        validation: What to measure on.
        note: What was decided without being asked; empty for nothing.
    """

    train: Any
    validation: Any
    note: str = ""


def read_training_data(source: str) -> TrainingData:
    """Returns what to train and to measure on.

    Without `x_val` and `y_val` in a file a tenth of its samples, drawn by lot but
    always the same ones, is kept from training to measure on.

    Args:
        source: The path of a `.npz` file with `x` and `y`, or `"module:function"`. The
            module is looked for in the working folder first.

    Raises:
        ValueError: If there is no such file or function, or it holds or returns
            something else. Where the function fails, the message is its traceback,
            without the calls that led to it.
    """
    if source.endswith(".npz"):
        return _of_arrays(source, read_arrays(Path(source)))
    module, colon, name = source.partition(":")
    if not colon or not module or not name:
        raise ValueError(f"The data must be {_FORMS}. Received: {source!r}.")
    return _of_pair(source, _called(source, _function(source, module, name)))


def read_function(source: str) -> Callable[..., Any]:
    """Returns the function that `"module:function"` names.

    The module is looked for in the working folder first.

    Raises:
        ValueError: If there is none, or its module fails, with the traceback.
    """
    module, _, name = source.partition(":")
    if not module or not name:
        raise ValueError(
            f"A function is named as 'module:function'. Received: {source!r}."
        )
    return _function(source, module, name)


def read_inputs(path: Path) -> Any:
    """Returns the array of a `.npy` file, or the arrays of a `.npz` file by name.

    Raises:
        ValueError: If it is missing, of another format or damaged.
    """
    if path.suffix not in (".npy", ".npz"):
        raise ValueError(
            f"--data must be a '.npy' or '.npz' file. Received: {str(path)!r}. Write "
            "one with numpy.save or numpy.savez."
        )
    arrays = read_arrays(path)
    # One array can belong to one input only, whatever it is called.
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a `.npz` file by name, or that of a `.npy` file.

    Raises:
        ValueError: If it is missing or damaged.
    """
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {path.stem: found}
        with found:
            return {name: found[name] for name in found.files}
    except FileNotFoundError:
        raise ValueError(f"There is no file {str(path)!r} (--data).") from None
    except Exception as error:  # Of as many types as there are ways to be damaged.
        raise ValueError(
            f"NumPy cannot read {str(path)!r} (--data): {error} Write it anew with "
            "numpy.save or numpy.savez, without Python objects in it."
        ) from error


def check_inputs(model: keras.Model, data: TrainingData) -> None:
    """Refuses data whose inputs have another shape than the model's.

    Models with several inputs are left to Keras, which knows how to match them.

    Raises:
        ValueError: If they do not fit.
    """
    inputs = getattr(model, "inputs", None) or []
    if len(inputs) != 1:
        return
    expected = tuple(inputs[0].shape)
    named = {"to train on": data.train, "to measure on": data.validation}
    for name, part in named.items():
        shapes = [tuple(x.shape) for x in keras.tree.flatten(_first(part))]
        if len(shapes) == 1 and _fits(shapes[0], expected):
            continue
        found = " and ".join(map(str, shapes))
        hint = ""
        if shapes and _fits((None, *shapes[0]), expected):
            hint = " It has no axis of samples: batch it."
        raise ValueError(
            f"The data {name} do not fit the model {model.name!r}. Received inputs of "
            f"shape {found}, expected {expected}.{hint}"
        )


def _fits(shape: tuple[int | None, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        a is None or b is None or a == b
        for a, b in zip(shape[1:], expected[1:], strict=True)
    )


def _first(part: Any) -> Any:
    """Returns the inputs, or what stands for them and has their shape."""
    if isinstance(part, tuple):
        return part[0]
    element = getattr(part, "element_spec", None)
    if element is None:
        element = part[0]
    return element[0] if isinstance(element, tuple) else element


def _of_arrays(source: str, arrays: Mapping[str, np.ndarray]) -> TrainingData:
    names = set(arrays)
    if names != {"x", "y"} and names != {"x", "y", "x_val", "y_val"}:
        raise ValueError(
            f"{source!r} must have the arrays x and y, or x, y, x_val and y_val. "
            f"Received {', '.join(sorted(names)) or 'none'}. Write it with "
            "numpy.savez('data.npz', x=..., y=..., x_val=..., y_val=...); for several "
            "inputs, use a function, --data module:function."
        )
    x, y = arrays["x"], arrays["y"]
    if "x_val" in names:
        return TrainingData((x, y), (arrays["x_val"], arrays["y_val"]))
    if not x.ndim or not y.ndim or len(x) != len(y) or len(x) < 2:
        raise ValueError(
            f"{source!r}: x and y must have the same number of samples, at least two. "
            f"Received shapes {x.shape} and {y.shape}."
        )
    count = max(1, round(_HELD_OUT * len(x)))
    order = np.random.default_rng(0).permutation(len(x))
    held, kept = np.sort(order[:count]), np.sort(order[count:])
    return TrainingData(
        (x[kept], y[kept]),
        (x[held], y[held]),
        f"There is no x_val and y_val in {source!r}: {count} of its {len(x)} samples, "
        "drawn by lot, are kept from training to measure on.",
    )


def _of_pair(source: str, pair: Any) -> TrainingData:
    if isinstance(pair, tuple | list) and len(pair) == 2:
        parts = [tuple(part) if isinstance(part, list) else part for part in pair]
        if all(_is_data(part) for part in parts):
            return TrainingData(parts[0], parts[1])
    kinds = type(pair).__name__
    if isinstance(pair, tuple | list):
        kinds += f" of {', '.join(type(part).__name__ for part in pair) or 'nothing'}"
    raise ValueError(
        f"{source!r} must return a pair, what to train and what to measure on, each a "
        f"batched tf.data.Dataset or (x, y). Received a {kinds}."
    )


def _is_data(part: Any) -> bool:
    if isinstance(part, tuple):
        return len(part) in (2, 3)
    return hasattr(part, "element_spec") or isinstance(part, keras.utils.PyDataset)


def _function(source: str, module: str, name: str) -> Callable[..., Any]:
    here = os.getcwd()
    if here not in sys.path:  # And it stays: functions import while data are read.
        sys.path.insert(0, here)
    try:
        found = _called(source, lambda: importlib.import_module(module))
    except ValueError as error:
        cause = error.__cause__
        missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
        if missing is None or not f"{module}.".startswith(f"{missing}."):
            raise
        near = module.removesuffix(".py")
        hint = f" Did you mean '{near}:{name}'?" if near != module else ""
        raise ValueError(
            f"There is no module {missing!r} for {source!r}, in {here!r} or among "
            f"what is installed.{hint}"
        ) from cause
    function = getattr(found, name, None)
    if not callable(function):
        names = [key for key, value in vars(found).items() if callable(value)]
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f" Did you mean '{module}:{close[0]}'?" if close else ""
        raise ValueError(f"There is no function {name!r} in {module!r}.{hint}")
    return function


def _called(source: str, function: Callable[[], Any]) -> Any:
    """Returns what a function of the user's returns; its errors with its traceback."""
    try:
        return function()
    except Exception as error:
        trace = traceback.TracebackException(
            type(error), error, _from_theirs(error.__traceback__)
        )
        raise ValueError(
            f"{source!r} failed:\n\n{''.join(trace.format()).rstrip()}"
        ) from error


def _from_theirs(trace: TracebackType | None) -> TracebackType | None:
    """Returns a traceback without the calls before the user's own code."""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file not in (__file__, importlib.__file__) and not file.startswith(
            "<frozen importlib"
        ):
            return trace
        trace = trace.tb_next
    return None
