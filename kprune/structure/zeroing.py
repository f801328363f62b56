"""Making a tensor of a graph zero by setting weights to zero.

What an operation does with zeros is tried on it, so that layers of all classes can be
asked. This module changes when tensors are to be made zero in another way.
"""

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kprune.rebuild import plain

_OPEN = 16  # Stands for sizes that a model leaves open.


def zeroing(
    made_by: Mapping[int, Any], tensor: Any, kept: Collection[int]
) -> tuple[dict[int, np.ndarray], str]:
    """Returns which weights to set to zero so that a tensor is zero whatever comes in.

    The last layer with weights is asked first, then what comes before it.

    Args:
        made_by: By a tensor's id the node that makes it.
        tensor: A tensor of the graph.
        kept: Ids of the variables that must keep their values.

    Returns:
        By a variable's id a boolean array that broadcasts to the variable's shape, all
        False; and why there is no way, empty if there is one.
    """
    node = made_by.get(id(tensor))
    if node is None:
        return {}, "it is an input"
    weights = _weights(node)
    for variable in weights:
        if id(variable) in kept:
            return {}, f"{variable.path!r} is used elsewhere, too"
    own = {id(v): np.zeros((1,) * len(v.shape), bool) for v in weights}
    if own and _is_zero(node, tensor, []):
        return own, ""
    inputs = list({id(x): x for x in node.input_tensors}.values())
    reason = ""
    for zero in [[x] for x in inputs] + ([inputs] if len(inputs) > 1 else []):
        if _is_zero(node, tensor, zero):
            found = dict(own)
            for other in zero:
                more, why = zeroing(made_by, other, kept)
                if why:
                    reason = reason or why
                    break
                found |= more
            else:
                return found, ""
    name = node.operation.name
    return (
        {},
        reason or f"{type(plain(node.operation)).__name__} {name!r} of zero is not",
    )


def run(
    node: Any, zero: Sequence[Any], without: Sequence[keras.Variable] = ()
) -> tuple[dict[int, np.ndarray], list[np.ndarray]]:
    """Runs the operation of a node on random numbers; its weights do not change.

    Args:
        node: The node.
        zero: Those of its inputs that are zero instead.
        without: Its weights that are taken as zero.

    Returns:
        The inputs by the id of the node's tensors, and the outputs; none if it fails.
    """
    rng = np.random.default_rng(0)
    zeros = {id(x) for x in zero}
    values = {id(x): _values(x, rng, id(x) in zeros) for x in node.input_tensors}
    tensors = {key: keras.ops.convert_to_tensor(x) for key, x in values.items()}
    args, kwargs = node.arguments.fill_in(tensors)
    state = [(v, keras.ops.zeros(v.shape, v.dtype)) for v in without]
    try:
        with keras.StatelessScope(state_mapping=state):
            outputs = call(plain(node.operation), args, kwargs)
    except Exception:  # Whatever an operation raises on such inputs.
        return values, []
    return values, [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(outputs)]


def call(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Returns what an operation of a graph gives at inference."""
    if isinstance(operation, keras.layers.Layer):
        if "training" in inspect.signature(operation.call).parameters:
            kwargs = {**kwargs, "training": False}
    return operation(*args, **kwargs)


def _weights(node: Any) -> list[keras.Variable]:
    return [
        variable
        for variable in getattr(plain(node.operation), "weights", ())
        if keras.backend.is_float_dtype(variable.dtype)
    ]


def _is_zero(node: Any, tensor: Any, zero: Sequence[Any]) -> bool:
    """Returns whether an output is zero if the node's weights are, and some inputs."""
    _, outputs = run(node, zero, _weights(node))
    place = [id(x) for x in node.outputs].index(id(tensor))
    return bool(outputs) and not np.any(outputs[place])


def _values(tensor: Any, rng: np.random.Generator, zero: bool) -> np.ndarray:
    shape = [size or _OPEN for size in tensor.shape]
    if tensor.shape and tensor.shape[0] is None:
        shape[0] = 1
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if zero or not keras.backend.is_float_dtype(dtype):
        return np.zeros(shape, dtype)
    return rng.standard_normal(shape).astype(dtype)
