"""What a model takes and returns, in one flat and named form.

This module changes when Keras describes the inputs and outputs of models differently.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class Input:
    """One input of a model.

    Args:
        name: Its name, unique in the model, made of letters, digits and underscores.
        key: The name under which the user's dict may hold it.
        shape: Its shape without the batch dimension.
        dtype: Its data type, e.g. `"float32"`.
    """

    name: str
    key: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of elements of one sample."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Interface:
    """How to call a model with a flat list of tensors.

    Args:
        inputs: The inputs in the model's order.
        output_names: Unique names of the flattened outputs.
        call: Takes one tensor per input, returns the flattened outputs for inference.
    """

    inputs: tuple[Input, ...]
    output_names: tuple[str, ...]
    call: Callable[[Sequence[Any]], list[Any]]


def of_model(model: keras.Model, example: Any = None) -> Interface:
    """Returns the interface of a built model.

    Args:
        model: A Sequential or Functional model, or a subclassed one.
        example: One batch of inputs (array, list, tuple or dict of arrays). Used for
            subclassed models only, which do not know their inputs' shapes themselves.

    Raises:
        ValueError: If the model is not built, its inputs are unknown or no numbers, or
            a dimension other than the batch is not fixed.
    """
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} is not built: it has no weights yet. Call it on "
            "data, fit it, or give it a keras.Input first."
        )
    tensors = getattr(model, "inputs", None)
    if tensors:
        # A Functional model takes its inputs in the structure it was made with; a
        # Sequential one takes a tensor.
        structure = getattr(model, "_inputs_struct", tensors[0])
        keys = [tensor.name for tensor in tensors]
        shapes = [tuple(tensor.shape) for tensor in tensors]
        dtypes = [keras.backend.standardize_dtype(tensor.dtype) for tensor in tensors]
    elif example is not None:
        structure = example
        keys = _keys(example)
        leaves = keras.tree.flatten(example)
        shapes = [tuple(leaf.shape) for leaf in leaves]
        # Keras casts floating point inputs to the model's compute type anyway.
        dtypes = [_dtype(leaf) for leaf in leaves]
    else:
        raise ValueError(
            f"The input shapes of the subclassed model {model.name!r} are unknown. "
            "Pass `representative_data`: a few samples show them."
        )
    for key, shape, dtype in zip(keys, shapes, dtypes, strict=True):
        if not _is_number(dtype):
            cure = "Give it real and imaginary parts as inputs of their own."
            if dtype == "string":
                cure = (
                    "Export the model without what looks words up (TextVectorization, "
                    "StringLookup): do that before the model, and give it their "
                    "indices, keras.Input(..., dtype='int32')."
                )
            raise ValueError(
                f"Input {key!r} of model {model.name!r} has the data type {dtype}; on "
                f"a device it must be real numbers. {cure}"
            )
        if None in shape[1:]:
            raise ValueError(
                f"Input {key!r} of model {model.name!r} has the shape {shape}; on a "
                "device every dimension but the batch must be fixed. Rebuild the model "
                "with a fixed keras.Input shape and copy the weights with set_weights."
            )
    # Keras numbers unnamed inputs by a counter of the process; the file's names should
    # not depend on what else ran before.
    names = unique_names(re.sub(r"^keras_tensor(_\d+)?$", "input", key) for key in keys)
    inputs = tuple(
        Input(name, key, shape[1:], dtype)
        for name, key, shape, dtype in zip(names, keys, shapes, dtypes, strict=True)
    )

    def call(flat: Sequence[Any]) -> list[Any]:
        packed = keras.tree.pack_sequence_as(structure, list(flat))
        return keras.tree.flatten(model(packed, training=False))

    return Interface(inputs, _output_names(model, inputs, call), call)


def _output_names(
    model: keras.Model, inputs: Sequence[Input], call: Callable[[Sequence[Any]], list]
) -> tuple[str, ...]:
    outputs = getattr(model, "outputs", None)
    if outputs:
        return unique_names(getattr(model, "output_names", None) or ["output"])
    import tensorflow as tf

    specs = [tf.TensorSpec((1, *item.shape), item.dtype) for item in inputs]
    found = tf.function(lambda *flat: call(flat), autograph=False)
    count = len(found.get_concrete_function(*specs).outputs)
    return unique_names(["output"] * count)


def _dtype(leaf: Any) -> str:
    """Returns the name of an array's data type as Keras has it."""
    name = getattr(leaf.dtype, "name", str(leaf.dtype))
    if name == "object" or name.startswith(("str", "bytes")):
        return "string"
    return "float32" if "float" in name else name


def _is_number(dtype: str) -> bool:
    return dtype == "bool" or any(kind in dtype for kind in ("float", "int"))


def _keys(example: Any) -> list[str]:
    """Returns a name for each leaf: its dict key where it has one."""
    if isinstance(example, dict):
        # keras.tree flattens dicts in the order of their sorted keys.
        return sorted(example)
    count = len(keras.tree.flatten(example))
    return ["input" if count == 1 else f"input_{i}" for i in range(count)]


def unique_names(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names with odd characters replaced and repetitions numbered."""
    result: list[str] = []
    for name in names:
        base = re.sub(r"\W", "_", name, flags=re.ASCII) or "tensor"
        candidate, number = base, 1
        while candidate in result:
            candidate, number = f"{base}_{number}", number + 1
        result.append(candidate)
    return tuple(result)
