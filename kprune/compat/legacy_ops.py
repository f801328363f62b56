"""TensorFlow functions that Keras 2 wrote into graphs, as operations of Keras 3.

Keras 2 turns a call such as `tf.nn.relu(x)` or `x + 1` into a layer of class
`TFOpLambda`, which names the function. This module changes when another function is to
be understood.
"""

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

# TensorFlow's argument names, since a file has them. What else a file may say, such as
# the `name` of an operation, is refused by Python, with the name of the argument.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "math.abs": lambda x: ops.abs(x),
    "math.add": lambda x, y: ops.add(x, y),
    "math.argmax": lambda input, axis=None: ops.argmax(input, axis=axis),
    "math.divide": lambda x, y: ops.divide(x, y),
    "math.exp": lambda x: ops.exp(x),
    "math.log": lambda x: ops.log(x),
    "math.maximum": lambda x, y: ops.maximum(x, y),
    "math.minimum": lambda x, y: ops.minimum(x, y),
    "math.multiply": lambda x, y: ops.multiply(x, y),
    "math.negative": lambda x: ops.negative(x),
    "math.pow": lambda x, y: ops.power(x, y),
    "math.rsqrt": lambda x: ops.rsqrt(x),
    "math.sigmoid": lambda x: ops.sigmoid(x),
    "math.softplus": lambda features: ops.softplus(features),
    "math.sqrt": lambda x: ops.sqrt(x),
    "math.square": lambda x: ops.square(x),
    "math.subtract": lambda x, y: ops.subtract(x, y),
    "math.tanh": lambda x: ops.tanh(x),
    "math.truediv": lambda x, y: ops.divide(x, y),
    "nn.elu": lambda features: ops.elu(features),
    "nn.gelu": lambda features, approximate=False: ops.gelu(features, approximate),
    "nn.leaky_relu": lambda features, alpha=0.2: ops.leaky_relu(features, alpha),
    "nn.relu": lambda features: ops.relu(features),
    "nn.relu6": lambda features: ops.relu6(features),
    "nn.selu": lambda features: ops.selu(features),
    "nn.silu": lambda features: ops.silu(features),
    "nn.softmax": lambda logits, axis=-1: ops.softmax(logits, axis=axis),
    "clip_by_value": lambda t, clip_value_min, clip_value_max: ops.clip(
        t, clip_value_min, clip_value_max
    ),
    "cast": lambda x, dtype: ops.cast(x, dtype),
    "concat": lambda values, axis: ops.concatenate(values, axis=axis),
    "expand_dims": lambda input, axis: ops.expand_dims(input, axis),
    "identity": lambda input: input,
    "reshape": lambda tensor, shape: ops.reshape(tensor, shape),
    "squeeze": lambda input, axis=None, squeeze_dims=None: ops.squeeze(
        input, squeeze_dims if axis is None else axis
    ),
    "stack": lambda values, axis=0: ops.stack(values, axis=axis),
    # Conjugation leaves real numbers as they are.
    "transpose": lambda a, perm=None, conjugate=False: ops.transpose(a, perm),
    "linalg.matmul": lambda a, b: ops.matmul(a, b),
}
for _name, _reduce in {
    "max": ops.max,
    "mean": ops.mean,
    "min": ops.min,
    "prod": ops.prod,
    "sum": ops.sum,
}.items():
    _FUNCTIONS[f"math.reduce_{_name}"] = (
        lambda input_tensor, axis=None, keepdims=False, _reduce=_reduce: _reduce(
            input_tensor, axis=axis, keepdims=keepdims
        )
    )
# The same functions under other names, as TensorFlow has them.
for _other, _known in {
    "__operators__.add": "math.add",
    "compat.v1.squeeze": "squeeze",
    "compat.v1.transpose": "transpose",
    "math.add_v2": "math.add",
    "math.sub": "math.subtract",
    "nn.sigmoid": "math.sigmoid",
    "nn.softplus": "math.softplus",
    "nn.swish": "nn.silu",
    "nn.tanh": "math.tanh",
}.items():
    _FUNCTIONS[_other] = _FUNCTIONS[_known]


def _getitem(x: Any, slice_spec: Any) -> Any:
    """Returns a part of a tensor."""
    return x[tuple(_index(part) for part in slice_spec)]


def _index(part: Any) -> Any:
    if isinstance(part, dict):
        return slice(part["start"], part["stop"], part["step"])
    return part


_FUNCTIONS["__operators__.getitem"] = _getitem


def operation(name: str, function: str) -> Callable[..., Any]:
    """Returns what computes a TensorFlow function on tensors of Keras 3.

    Args:
        name: The layer's name.
        function: The function as Keras 2 names it, such as `"math.add"`.

    Raises:
        ValueError: If there is no counterpart.
    """
    known = _FUNCTIONS.get(function)
    if known is None:
        raise ValueError(
            f"{name!r} calls the TensorFlow function tf.{function}, and kprune knows "
            "no operation of Keras 3 for it. In the old environment put the call into "
            "a layer of your own, MyLayer, and load the new file with "
            "custom_objects={'MyLayer': its Keras 3 counterpart}."
        )

    # The names that Keras gives to operations may be those of layers in the file.
    first = name.replace(".", "_")
    names = (f"{first}_call_{i}" if i else first for i in itertools.count())

    def call(*args: Any, name: str | None = None, **kwargs: Any) -> Any:
        args = tuple(_constant(value) for value in args)
        kwargs = {
            key: _constant(value) if key in _OPERANDS else value
            for key, value in kwargs.items()
        }
        result = known(*args, **kwargs)
        made = result._keras_history.operation
        if not isinstance(made, keras.layers.Layer):
            made.name = next(names)
        return result

    return call


# Arguments that hold tensors; others, such as shapes, are lists all the same.
_OPERANDS = ("x", "y", "a", "b")


def _constant(value: Any) -> Any:
    """Returns an array for a constant, which a file has as a list of numbers."""
    if not isinstance(value, list) or any(hasattr(v, "shape") for v in value):
        return value
    array = np.asarray(value)
    return array.astype("float32") if array.dtype.kind == "f" else array
