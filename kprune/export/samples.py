"""Representative data: from whatever the user has to one checked array per input.

This module changes when another form of data is to be accepted.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kprune.export.interface import Input, Interface, of_model

_RANDOM_SAMPLES = 32


@dataclasses.dataclass(frozen=True)
class Samples:
    """Inputs to calibrate and to verify with.

    Args:
        arrays: One array per model input, in the model's order; first axis: samples.
        random: Whether they are made up because the user gave none.
    """

    arrays: tuple[np.ndarray, ...]
    random: bool

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.arrays[0])

    def rows(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Yields the samples one by one, each input with a batch dimension of 1."""
        for index in range(self.count):
            yield tuple(array[index : index + 1] for array in self.arrays)


def interface_and_samples(
    model: keras.Model, data: Any, num_samples: int
) -> tuple[Interface, Samples]:
    """Returns a model's inputs and outputs, and samples for it.

    Args:
        model: A built model.
        data: What the user passed as `representative_data`; `None` for random samples.
        num_samples: The most samples to take, at least 1.
    """
    example = None
    if data is not None and not getattr(model, "inputs", None):
        example, data = first_batch(data)
    interface = of_model(model, example)
    if data is None:
        return interface, random_samples(interface.inputs)
    return interface, collect(data, interface.inputs, num_samples)


def first_batch(data: Any) -> tuple[Any, Any]:
    """Looks at the first batch of data without losing it.

    Args:
        data: What the user passed as `representative_data`, not `None`.

    Returns:
        The first batch's inputs (array, list or dict of arrays), and data that still
        begins with that batch (generators can be read only once).
    """
    if _is_array(data) or isinstance(data, Mapping):
        return data, data
    if isinstance(data, tuple) and all(map(_is_array, data)):
        return list(data), data
    iterator = _iterate(data)
    batch = next(iterator, None)
    if batch is None:
        raise ValueError("`representative_data` is empty. Pass at least one sample.")
    inputs = batch[0] if isinstance(batch, tuple) else batch
    return inputs, itertools.chain([batch], iterator)


def collect(data: Any, inputs: Sequence[Input], num_samples: int) -> Samples:
    """Returns up to `num_samples` checked samples.

    Arrays are sampled at even distances over their whole length, since labelled data
    is often sorted by class; of a data set or an iterable, the first ones are taken.

    Args:
        data: An array (one input), a tuple, list or dict of arrays (several inputs), a
            `tf.data.Dataset` or an iterable of batches of these, where a tuple `(x, y)`
            counts as Keras takes it.
        inputs: The model's inputs.
        num_samples: The most samples to take, at least 1.

    Raises:
        TypeError: If `data` is none of these.
        ValueError: If it is empty, or a shape, type or value does not fit an input.
    """
    if num_samples < 1:
        raise ValueError(f"`num_samples` must be at least 1. Received: {num_samples}.")
    whole = _as_arrays(data, inputs)
    if whole is not None:
        arrays = [_check(a, i) for a, i in zip(whole, inputs, strict=True)]
        _check_counts(arrays, inputs)
        count = len(arrays[0])
        rows = np.linspace(0, count - 1, min(num_samples, count)).round().astype(int)
        taken = [array[rows] for array in arrays]
    else:
        taken = _from_batches(_iterate(data), inputs, num_samples)
    return Samples(
        tuple(
            _check_values(array, item)
            for array, item in zip(taken, inputs, strict=True)
        ),
        random=False,
    )


def random_samples(inputs: Sequence[Input]) -> Samples:
    """Returns made-up samples, the same ones at every call.

    Floats are uniform in [0, 1); integers are 0 or 1, which any vocabulary holds.
    """
    generator = np.random.default_rng(0)
    arrays = []
    for item in inputs:
        shape = (_RANDOM_SAMPLES, *item.shape)
        if "float" in item.dtype:
            arrays.append(generator.random(shape).astype(item.dtype))
        else:
            arrays.append(generator.integers(0, 2, shape).astype(item.dtype))
    return Samples(tuple(arrays), random=True)


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and hasattr(value, "shape")


def _iterate(data: Any) -> Iterator[Any]:
    if callable(data) and not isinstance(data, Iterable):
        # The converter's own convention is a function that returns a generator.
        data = data()
    if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        raise TypeError(
            "`representative_data` must be an array, a tuple, list or dict of arrays, "
            "a tf.data.Dataset, or an iterable of batches. "
            f"Received: type {type(data).__name__}."
        )
    return iter(data)


def _as_arrays(data: Any, inputs: Sequence[Input]) -> list[Any] | None:
    """Returns one array per input if `data` is that, `None` if it must be iterated."""
    if _is_array(data):
        data = [data]
    elif isinstance(data, Mapping):
        return _from_mapping(data, inputs)
    elif not (
        isinstance(data, (tuple, list))
        and len(data) == len(inputs)
        and all(map(_is_array, data))
    ):
        return None
    if len(data) != len(inputs):
        raise ValueError(
            f"`representative_data` holds {len(data)} array, but the model has "
            f"{len(inputs)} inputs: {_describe(inputs)}. Pass a dict or a tuple with "
            "one array for each."
        )
    return list(data)


def _from_mapping(data: Mapping[str, Any], inputs: Sequence[Input]) -> list[Any]:
    expected = [item.key for item in inputs]
    if set(data) != set(expected):
        raise ValueError(
            "`representative_data` must have one entry for each input. "
            f"Received the keys {sorted(data)}, expected {sorted(expected)}."
        )
    return [data[key] for key in expected]


def _from_batches(
    batches: Iterator[Any], inputs: Sequence[Input], num_samples: int
) -> list[np.ndarray]:
    collected: list[list[np.ndarray]] = []
    count = 0
    for batch in batches:
        arrays = _batch_arrays(batch, inputs)
        _check_counts(arrays, inputs)
        collected.append(arrays)
        count += len(arrays[0])
        if count >= num_samples:
            break
    if not collected:
        raise ValueError("`representative_data` is empty. Pass at least one sample.")
    return [
        np.concatenate(parts)[:num_samples] for parts in zip(*collected, strict=True)
    ]


def _batch_arrays(batch: Any, inputs: Sequence[Input]) -> list[np.ndarray]:
    found = _as_arrays(batch, inputs)
    if found is None and isinstance(batch, tuple) and batch:
        found = _as_arrays(batch[0], inputs)  # (x, y) or (x, y, sample_weight)
    if found is None:
        raise TypeError(
            "Each batch of `representative_data` must hold one array for each input: "
            f"{_describe(inputs)}. Received: {_kind(batch)}."
        )
    arrays = []
    for array, item in zip(found, inputs, strict=True):
        if tuple(array.shape) == item.shape:  # A data set that was not batched.
            array = np.asarray(array)[None]
        arrays.append(_check(array, item))
    return arrays


def _check(array: Any, item: Input) -> np.ndarray:
    """Returns the array after checking its shape against the input's."""
    if not _is_array(array):
        raise TypeError(
            f"`representative_data` for input {item.key!r} must be an array. "
            f"Received: {_kind(array)}. Use np.asarray."
        )
    values = np.asarray(array)
    if values.ndim == 0 or values.shape[1:] != item.shape:
        raise ValueError(
            f"`representative_data` does not fit input {item.key!r}. Received an array "
            f"of shape {values.shape}, expected (samples, "
            f"{', '.join(map(str, item.shape))})."
        )
    return values


def _check_counts(arrays: Sequence[np.ndarray], inputs: Sequence[Input]) -> None:
    counts = {item.key: len(array) for item, array in zip(inputs, arrays, strict=True)}
    if len(set(counts.values())) > 1:
        raise ValueError(
            "`representative_data` must have as many samples for every input. "
            f"Received: {counts}."
        )
    if not arrays[0].shape[0]:
        raise ValueError("`representative_data` is empty. Pass at least one sample.")


def _check_values(array: np.ndarray, item: Input) -> np.ndarray:
    """Returns the array in the input's data type after checking that it fits."""
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise ValueError(
            f"`representative_data` for input {item.key!r} has the data type "
            f"{array.dtype}; expected numbers ({item.dtype})."
        )
    values = array.astype(np.float64) if array.dtype.kind not in "iub" else array
    if not np.isfinite(values).all():
        raise ValueError(
            f"`representative_data` for input {item.key!r} has "
            f"{int((~np.isfinite(values)).sum())} values that are NaN or infinite. "
            "Clean them, or the calibrated ranges are meaningless."
        )
    cast = array.astype(item.dtype)
    if "float" not in item.dtype and not np.array_equal(cast, values):
        raise ValueError(
            f"`representative_data` for input {item.key!r} has values that are not "
            f"{item.dtype}. Received: {array.dtype} values such as "
            f"{values[cast != values].flat[0]}."
        )
    return cast


def _describe(inputs: Sequence[Input]) -> str:
    return ", ".join(f"{item.key!r} {item.shape}" for item in inputs)


def _kind(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {len(value)}"
    return f"type {type(value).__name__}"
