"""The proof: masked and smaller model on the same inputs.

This module changes when two models are to be compared in another way.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kprune.export import precision
from kprune.export.interface import Input
from kprune.export.samples import collect, first_batch
from kprune.rebuild import graph_of, nodes_of, plain
from kprune.structure.plan import Equality

_SAMPLES = 4
_KEPT = 256  # Of data that can be read only once.
# Stand for sizes that a model leaves open, by the rank of an input without the batch.
_OPEN = {1: 8, 2: 16, 3: 64, 4: 16}


def probe(
    model: keras.Model, data: Any = None, samples: int = _SAMPLES
) -> tuple[Any, str]:
    """Returns a few inputs for a model, in its own structure, and what they are.

    Args:
        model: A built model with a graph.
        data: Inputs as `fit` takes them; random ones if `None`.
        samples: The most to take of `data`.
    """
    if data is not None:
        taken = _collected(model, data, samples)
        return _packed(model, taken), f"{len(taken[0])} samples of `data`"
    rng = np.random.default_rng(0)
    arrays = []
    words = _embedded(model)
    for tensor, item in zip(model.inputs, _inputs(model), strict=True):
        shape = (_SAMPLES, *item.shape)
        high = 2 if item.dtype == "bool" else _vocabulary(model)
        is_float = keras.backend.is_float_dtype(item.dtype) and id(tensor) not in words
        array: Any = (
            rng.standard_normal(shape) if is_float else rng.integers(0, high, shape)
        )
        arrays.append(array.astype(item.dtype))
    return _packed(model, arrays), f"{_SAMPLES} random inputs"


def kept(model: keras.Model, data: Any) -> Any:
    """Returns data that can be read several times: of an iterator its first samples.

    Args:
        model: The model that it is for.
        data: Inputs as `fit` takes them, or `None`.
    """
    if not isinstance(data, Iterator):
        return data
    arrays = _collected(model, data, _KEPT)
    return arrays[0] if len(arrays) == 1 else list(arrays)


def _collected(model: keras.Model, data: Any, samples: int) -> tuple[np.ndarray, ...]:
    example, data = first_batch(data)
    inputs = _inputs(model, keras.tree.flatten(example))
    try:
        return collect(data, inputs, samples).arrays
    except (TypeError, ValueError) as error:
        message = str(error).replace("`representative_data`", "`data`")
        raise type(error)(message) from error


def _inputs(model: keras.Model, example: Sequence[Any] = ()) -> list[Input]:
    """Returns a model's inputs; sizes that it leaves open are those of an example."""
    found = []
    for i, tensor in enumerate(model.inputs):
        shape = tuple(tensor.shape)[1:]
        known = np.shape(example[i])[1:] if i < len(example) else ()
        if len(known) != len(shape):
            known = (_OPEN.get(len(shape), 8),) * len(shape)
        sizes = tuple(
            int(other if size is None else size)
            for size, other in zip(shape, known, strict=True)
        )
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        found.append(Input(tensor.name, tensor.name, sizes, dtype))
    return found


def _packed(model: keras.Model, arrays: Sequence[np.ndarray]) -> Any:
    """Returns inputs in the structure that a model takes them in."""
    structure = getattr(model, "_inputs_struct", None)
    if structure is None or isinstance(model, keras.Sequential):
        return arrays[0]
    return keras.tree.pack_sequence_as(structure, list(arrays))


def _vocabulary(model: keras.Model) -> int:
    """Returns a number that every embedding of a model has as many rows as."""
    rows = [
        layer.input_dim
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.Embedding)
    ]
    return min(rows, default=2)


def _embedded(model: keras.Model) -> set[int]:
    """Returns the ids of the tensors that embeddings read, of whatever type."""
    return {
        id(tensor)
        for node in nodes_of(graph_of(model))
        if isinstance(plain(node.operation), keras.layers.Embedding)
        for tensor in node.input_tensors
    }


def outputs(model: keras.Model, inputs: Any) -> list[np.ndarray]:
    """Returns a model's outputs at inference, flat."""
    found = model(inputs, training=False)
    return [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(found)]


def masked_outputs(
    model: keras.Model, masks: Mapping[int, np.ndarray], inputs: Any
) -> list[np.ndarray]:
    """Returns the outputs that a model has with weights set to zero, unchanged itself.

    Args:
        model: The model.
        masks: By a variable's id what of it is kept; others are taken as they are.
        inputs: What to run it on.
    """

    def value(variable: keras.Variable) -> Any:
        keep = masks.get(id(variable))
        if keep is None:
            return variable.value
        zero = keras.ops.zeros((), dtype=variable.dtype)
        return keras.ops.where(keep, variable.value, zero)

    found, _ = model.stateless_call(
        [value(variable) for variable in model.trainable_variables],
        [value(variable) for variable in model.non_trainable_variables],
        inputs,
        training=False,
    )
    return [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(found)]


def in_float64(
    model: keras.Model,
    small: keras.Model,
    masks: Mapping[int, np.ndarray],
    inputs: Any,
    on: str,
) -> Equality | None:
    """Compares float64 copies, in which rounding cannot be taken for a mistake.

    Returns:
        The comparison, or `None` if the models cannot be copied.
    """
    large, little = precision.in_float64(model), precision.in_float64(small)
    if large is None or little is None:
        return None
    pairs = zip(model.variables, large.variables, strict=True)
    copied = {id(new): masks[id(old)] for old, new in pairs if id(old) in masks}
    inputs = keras.tree.map_structure(_widened, inputs)
    masked = masked_outputs(large, copied, inputs)
    return equality(masked, outputs(little, inputs), on, "float64")


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype("float64") if array.dtype.kind == "f" else array


def equality(
    masked: Sequence[np.ndarray],
    small: Sequence[np.ndarray],
    on: str,
    computed_in: str = "its own precision",
) -> Equality:
    """Compares two models' outputs.

    Args:
        masked: Those of the one.
        small: Those of the other.
        on: What the models were run on.
        computed_in: What they compute in.

    Returns:
        The largest difference, absolute and relative to the largest value of its
        output.
    """
    worst = relative = 0.0
    finite = True
    for first, second in zip(masked, small, strict=True):
        first, second = (np.asarray(x, np.float64) for x in (first, second))
        finite = finite and bool(np.isfinite(first).all() and np.isfinite(second).all())
        with np.errstate(invalid="ignore"):  # Infinities are told by `finite`.
            difference = float(np.max(np.abs(first - second), initial=0.0))
        largest = float(np.max(np.abs(first), initial=0.0))
        worst = max(worst, difference)
        if difference:
            relative = max(relative, difference / largest if largest else np.inf)
    return Equality(worst, relative, finite, on, computed_in)
