"""TensorFlow functions that Keras 2 wrote into graphs, as operations of Keras 3.

Keras 2 turns a call such as `tf.nn.relu(x)` or `x + 1` into a layer of class
`TFOpLambda`, which names the function. This module changes when another function is to
be understood.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops


class _Shape:
    """The shape of a tensor, whose sizes may be used one by one."""

    def __init__(self, sizes: Any) -> None:
        self.sizes = tuple(sizes)

    def __getitem__(self, index: Any) -> Any:
        found = self.sizes[index[0]]
        return _Shape(found) if isinstance(found, tuple) else found


def _getitem(x: Any, slice_spec: Any) -> Any:
    """Returns a part of a tensor, or of a shape."""
    if not isinstance(slice_spec, list | tuple):
        slice_spec = (slice_spec,)
    return x[tuple(_index(part) for part in slice_spec)]


def _index(part: Any) -> Any:
    if isinstance(part, dict):
        return slice(part["start"], part["stop"], part["step"])
    return part


def _reshape(tensor: Any, shape: Any) -> Any:
    sizes = shape.sizes if isinstance(shape, _Shape) else shape
    return ops.reshape(tensor, [-1 if size is None else size for size in sizes])


def _pad(
    tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: Any = 0
) -> Any:
    mode = mode.lower()
    constant = {"constant_values": constant_values} if mode == "constant" else {}
    return ops.pad(tensor, paddings, mode=mode, **constant)


def _split(value: Any, num_or_size_splits: Any, axis: int = 0) -> Any:
    sizes = num_or_size_splits
    if isinstance(sizes, int):
        return ops.split(value, sizes, axis=axis)
    if -1 in sizes:
        raise ValueError("tf.split leaves the size of a part open.")
    return ops.split(value, np.cumsum(sizes)[:-1].tolist(), axis=axis)


def _argmax(input: Any, axis: Any = None, output_type: str = "int64") -> Any:
    return ops.cast(ops.argmax(input, axis=0 if axis is None else axis), output_type)


def _gather(
    params: Any,
    indices: Any,
    axis: int | None = None,
    batch_dims: int = 0,
    validate_indices: Any = None,
) -> Any:
    if batch_dims:
        raise ValueError(f"tf.gather has batch_dims={batch_dims}.")
    return ops.take(params, indices, axis=axis or 0)


def _matmul(
    a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False
) -> Any:
    a = ops.swapaxes(a, -1, -2) if transpose_a else a
    return ops.matmul(a, ops.swapaxes(b, -1, -2) if transpose_b else b)


def _l2_normalize(x: Any, axis: Any = None, epsilon: float = 1e-12) -> Any:
    total = ops.sum(ops.square(x), axis=axis, keepdims=True)
    return ops.multiply(x, ops.rsqrt(ops.maximum(total, epsilon)))


def _pool(kind: Callable[..., Any]) -> Callable[..., Any]:
    def pool(
        input: Any, ksize: Any, strides: Any, padding: str, data_format: str = "NHWC"
    ) -> Any:
        _last(data_format)
        return kind(input, ksize, strides, padding.lower(), "channels_last")

    return pool


def _bias_add(value: Any, bias: Any, data_format: str | None = None) -> Any:
    _last(data_format)
    return ops.add(value, np.asarray(bias, "float32"))


def _depth_to_space(input: Any, block_size: int, data_format: str = "NHWC") -> Any:
    _last(data_format)
    _, rows, columns, depth = input.shape
    depth //= block_size**2
    x = ops.reshape(input, (-1, rows, columns, block_size, block_size, depth))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, rows * block_size, columns * block_size, depth))


def _space_to_depth(input: Any, block_size: int, data_format: str = "NHWC") -> Any:
    _last(data_format)
    _, rows, columns, depth = input.shape
    rows, columns = rows // block_size, columns // block_size
    x = ops.reshape(input, (-1, rows, block_size, columns, block_size, depth))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, rows, columns, depth * block_size**2))


def _last(data_format: str | None) -> None:
    if data_format not in (None, "NHWC"):
        raise ValueError(f"kprune has it for channels last, not for {data_format}.")


# TensorFlow's argument names, since a file has them. What else a file may say is
# refused by Python, with the name of the argument.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "__operators__.getitem": _getitem,
    "broadcast_to": lambda input, shape: ops.broadcast_to(input, shape),
    "cast": lambda x, dtype: ops.cast(x, dtype),
    "clip_by_value": lambda t, clip_value_min, clip_value_max: ops.clip(
        t, clip_value_min, clip_value_max
    ),
    "concat": lambda values, axis: ops.concatenate(values, axis=axis),
    "expand_dims": lambda input, axis: ops.expand_dims(input, axis),
    "gather": _gather,
    "identity": lambda input: input,
    "image.flip_left_right": lambda image: ops.flip(image, axis=-2),
    "image.flip_up_down": lambda image: ops.flip(image, axis=-3),
    "image.resize": lambda images, size, method="bilinear", antialias=False: (
        ops.image.resize(images, size, interpolation=method, antialias=antialias)
    ),
    "image.rgb_to_grayscale": lambda images: ops.image.rgb_to_grayscale(images),
    "linalg.matmul": _matmul,
    "math.add_n": lambda inputs: ops.sum(ops.stack(inputs), axis=0),
    "math.argmax": _argmax,
    "math.atan2": lambda y, x: ops.arctan2(y, x),
    "math.cumsum": lambda x, axis=0: ops.cumsum(x, axis=axis),
    "math.l2_normalize": _l2_normalize,
    "math.softplus": lambda features: ops.softplus(features),
    "math.squared_difference": lambda x, y: ops.square(ops.subtract(x, y)),
    "math.top_k": lambda input, k=1, sorted=True: ops.top_k(input, k, sorted),
    "nn.avg_pool2d": _pool(ops.average_pool),
    "nn.bias_add": _bias_add,
    "nn.depth_to_space": _depth_to_space,
    "nn.elu": lambda features: ops.elu(features),
    "nn.gelu": lambda features, approximate=False: ops.gelu(features, approximate),
    "nn.leaky_relu": lambda features, alpha=0.2: ops.leaky_relu(features, alpha),
    "nn.log_softmax": lambda logits, axis=-1: ops.log_softmax(logits, axis=axis),
    "nn.max_pool2d": _pool(ops.max_pool),
    "nn.relu": lambda features: ops.relu(features),
    "nn.relu6": lambda features: ops.relu6(features),
    "nn.selu": lambda features: ops.selu(features),
    "nn.silu": lambda features: ops.silu(features),
    "nn.softmax": lambda logits, axis=-1: ops.softmax(logits, axis=axis),
    "nn.softsign": lambda features: ops.softsign(features),
    "nn.space_to_depth": _space_to_depth,
    "norm": lambda tensor, ord="euclidean", axis=None, keepdims=None: ops.norm(
        tensor, None if ord == "euclidean" else ord, axis, bool(keepdims)
    ),
    "one_hot": lambda indices, depth, axis=-1: ops.one_hot(indices, depth, axis=axis),
    "ones_like": lambda input: ops.ones_like(input),
    "pad": _pad,
    "repeat": lambda input, repeats, axis=None: ops.repeat(input, repeats, axis=axis),
    "reshape": _reshape,
    "reverse": lambda tensor, axis: ops.flip(tensor, axis=axis),
    "roll": lambda input, shift, axis: ops.roll(input, shift, axis=axis),
    "shape": lambda input, out_type="int32": _Shape(input.shape),
    "sort": lambda values, axis=-1: ops.sort(values, axis=axis),
    "split": _split,
    "squeeze": lambda input, axis=None, squeeze_dims=None: ops.squeeze(
        input, squeeze_dims if axis is None else axis
    ),
    "stack": lambda values, axis=0: ops.stack(values, axis=axis),
    "stop_gradient": lambda input: ops.stop_gradient(input),
    "tensordot": lambda a, b, axes: ops.tensordot(a, b, axes),
    "tile": lambda input, multiples: ops.tile(input, multiples),
    # Conjugation leaves real numbers as they are.
    "transpose": lambda a, perm=None, conjugate=False: ops.transpose(a, perm),
    "unstack": lambda value, num=None, axis=0: ops.unstack(value, num, axis),
    "where": lambda condition, x, y: ops.where(condition, x, y),
    "zeros_like": lambda input: ops.zeros_like(input),
}
for _name, _of_one in {
    "abs": ops.abs,
    "acos": ops.arccos,
    "asin": ops.arcsin,
    "atan": ops.arctan,
    "ceil": ops.ceil,
    "cos": ops.cos,
    "cosh": ops.cosh,
    "erf": ops.erf,
    "exp": ops.exp,
    "expm1": ops.expm1,
    "floor": ops.floor,
    "is_nan": ops.isnan,
    "log": ops.log,
    "log1p": ops.log1p,
    "log_sigmoid": ops.log_sigmoid,
    "logical_not": ops.logical_not,
    "negative": ops.negative,
    "reciprocal": ops.reciprocal,
    "round": ops.round,
    "rsqrt": ops.rsqrt,
    "sigmoid": ops.sigmoid,
    "sign": ops.sign,
    "sin": ops.sin,
    "sinh": ops.sinh,
    "sqrt": ops.sqrt,
    "square": ops.square,
    "tan": ops.tan,
    "tanh": ops.tanh,
}.items():
    _FUNCTIONS[f"math.{_name}"] = lambda x, _of_one=_of_one: _of_one(x)
for _name, _of_two in {
    "add": ops.add,
    "divide": ops.divide,
    "divide_no_nan": ops.divide_no_nan,
    "equal": ops.equal,
    "floordiv": ops.floor_divide,
    "floormod": ops.mod,
    "greater": ops.greater,
    "greater_equal": ops.greater_equal,
    "less": ops.less,
    "less_equal": ops.less_equal,
    "logical_and": ops.logical_and,
    "logical_or": ops.logical_or,
    "maximum": ops.maximum,
    "minimum": ops.minimum,
    "multiply": ops.multiply,
    "not_equal": ops.not_equal,
    "pow": ops.power,
    "subtract": ops.subtract,
}.items():
    _FUNCTIONS[f"math.{_name}"] = lambda x, y, _of_two=_of_two: _of_two(x, y)
for _name, _reduce in {
    "all": ops.all,
    "any": ops.any,
    "logsumexp": ops.logsumexp,
    "max": ops.max,
    "mean": ops.mean,
    "min": ops.min,
    "prod": ops.prod,
    "std": ops.std,
    "sum": ops.sum,
    "variance": ops.var,
}.items():
    _FUNCTIONS[f"math.reduce_{_name}"] = (
        lambda input_tensor, axis=None, keepdims=False, _reduce=_reduce: _reduce(
            input_tensor, axis=axis, keepdims=keepdims
        )
    )
# The same functions under other names, as TensorFlow has them.
for _other, _known in {
    "__operators__.add": "math.add",
    "compat.v1.floor_div": "math.floordiv",
    "compat.v1.gather": "gather",
    "compat.v1.norm": "norm",
    "compat.v1.pad": "pad",
    "compat.v1.shape": "shape",
    "compat.v1.squeeze": "squeeze",
    "compat.v1.transpose": "transpose",
    "math.add_v2": "math.add",
    "math.sub": "math.subtract",
    "math.truediv": "math.divide",
    "nn.sigmoid": "math.sigmoid",
    "nn.softplus": "math.softplus",
    "nn.swish": "nn.silu",
    "nn.tanh": "math.tanh",
}.items():
    _FUNCTIONS[_other] = _FUNCTIONS[_known]


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
    first = name.replace(".", "_").replace("/", "_")
    names = (f"{first}_call_{i}" if i else first for i in itertools.count())

    def call(*args: Any, name: str | None = None, **kwargs: Any) -> Any:
        args = tuple(_constant(value) for value in args)
        kwargs = {
            key: _constant(value) if key in _OPERANDS else value
            for key, value in kwargs.items()
        }
        result = known(*args, **kwargs)
        given = {id(tensor) for tensor in keras.tree.flatten((args, kwargs))}
        for made in _made(keras.tree.flatten(result), given):
            made.name = next(names)
        return result

    return call


def _made(tensors: Any, given: set[int]) -> Iterator[Any]:
    """Yields the operations that made tensors of given ones, each once."""
    for tensor in tensors:
        if keras.backend.is_keras_tensor(tensor) and id(tensor) not in given:
            given.add(id(tensor))
            made, index, _ = tensor._keras_history
            node = made._inbound_nodes[index]
            given |= {id(other) for other in node.output_tensors}
            yield made
            yield from _made(node.input_tensors, given)


# Arguments that hold tensors; others, such as shapes, are lists all the same.
_OPERANDS = ("x", "y", "a", "b")


def _constant(value: Any) -> Any:
    """Returns an array for a constant, which a file has as a list of numbers."""
    if not isinstance(value, list) or any(hasattr(v, "shape") for v in value):
        return value
    array = np.asarray(value)
    return array.astype("float32") if array.dtype.kind == "f" else array
