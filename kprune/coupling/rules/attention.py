"""Attention: heads, the dimensions inside of them, and products of activations.

This module changes when Keras gets another kind of attention.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kprune.coupling.layout import Block, Layout, volume
from kprune.coupling.registry import Call, Labels, coupling

L = keras.layers

_MASKS = ("query_mask", "value_mask", "key_mask", "attention_mask")


@coupling(L.MultiHeadAttention)
def multi_head_attention(call: Call) -> list[Layout]:
    """Projects to heads, lets each attend by itself, and sums what they say.

    A head that is zero in all four kernels adds nothing. Dimensions of queries and keys
    are summed over in their product, which is divided by the root of their number.
    """
    layer = call.operation
    if not _as_written(layer, L.MultiHeadAttention):
        return call.barrier("overrides how attention is computed")
    query, value, key, masks = _inputs(call)
    heads = call.fresh(layer.num_heads)
    inner = call.fresh(layer.key_dim)
    values = call.fresh(layer.value_dim)
    _masks(call, masks, heads)
    _project(call, layer.query_dense, query, heads, inner, "query/key dimensions")
    _project(call, layer.key_dense, key, heads, inner)
    if layer._use_gate:
        _project(call, layer._gate_dense, query, heads, values)
    _project(call, layer.value_dense, value, heads, values, "value dimensions")
    _scaled(call, layer.query_dense, inner)
    _products(call, query, value, layer.attention_axes, heads, inner, values)
    call.resize("num_heads", heads)
    call.resize("key_dim", inner)
    call.resize("value_dim", values)
    made = _output_of_heads(call, query, heads, values)
    return _outputs(call, made, heads)


@coupling(L.GroupQueryAttention)
def grouped_query_attention(call: Call) -> list[Layout]:
    """Lets several heads of queries share one of keys and values: they go together."""
    layer = call.operation
    if not _as_written(layer, L.GroupQueryAttention):
        return call.barrier("overrides how attention is computed")
    query, value, key, masks = _inputs(call)
    shared = call.fresh(layer.num_key_value_heads)
    heads = np.repeat(shared, layer.num_repeats)
    # The configuration has one number for queries, keys and values.
    inner = call.fresh(layer.head_dim)
    _masks(call, masks, heads)
    _project(call, layer._query_dense, query, heads, inner, "head dimensions")
    _project(call, layer._key_dense, key, shared, inner)
    if layer.use_gate:
        _project(call, layer._gate_dense, query, heads, inner)
    _project(call, layer._value_dense, value, shared, inner)
    _scaled(call, layer._query_dense, inner)
    _products(call, query, value, [1], heads, inner, inner)
    call.resize("num_query_heads", heads)
    call.resize("num_key_value_heads", shared)
    call.resize("head_dim", inner)
    # Its output has the queries' size, and Keras wants values of that size, too.
    reason = f"{call.name} gets it beside a tensor of fixed size"
    made = call.tie(call.labels(query, -1), call.labels(value, -1), reason)
    dense = layer._output_dense
    call.weight(dense.kernel, reads={0: heads, 1: inner}, makes={2: made})
    call.weight(dense.bias, makes={0: made}, scored=False)
    _count(call, query, {0: heads, 1: inner, 2: made}, dense.kernel.shape)
    return _outputs(call, made, heads)


@coupling(L.Attention, L.AdditiveAttention)
def attention(call: Call) -> list[Layout]:
    """Compares queries with keys by a sum over features, and averages values."""
    layer = call.operation
    given = _arguments(call)
    # Unlike heads, these come as one list, and so do masks.
    tensors = [
        call.mixes(x, range(len(x.shape) - 1), "attends along this axis")
        for x in given["inputs"]
    ]
    for mask in _layouts(given.get("mask")):
        call.mixes(mask, range(len(mask.shape)), "takes it as a mask")
    query, value = tensors[:2]
    key = tensors[2] if len(tensors) > 2 else value
    reason = f"{call.name} compares it with a tensor of fixed size"
    summed = call.tie(call.labels(query, -1), call.labels(key, -1), reason)
    sizes = [*query.shape[1:-1], key.shape[-2]]
    scale = getattr(layer, "scale", None)
    if scale is not None and len(scale.shape) == 1:
        # AdditiveAttention: what its scale ignores may be anything.
        call.weight(scale, reads={0: summed})
    elif summed is not None:
        call.builder.demand(summed, f"{call.name} sums it with that of other features")
    place = len(sizes)
    call.product([*sizes, query.shape[-1]], {place: summed})
    values = call.labels(value, -1)
    call.product([*sizes, value.shape[-1]], {place: values})
    return [call.output({-1: values}), *map(Layout, call.shapes[1:])]


def _arguments(call: Call) -> Mapping[str, Any]:
    """Returns what a layer is called with, by the names of its `call`."""
    signature = inspect.signature(call.operation.call)
    return signature.bind(*call.args, **call.kwargs).arguments


def _layouts(value: Any) -> list[Layout]:
    return [item for item in keras.tree.flatten(value) if isinstance(item, Layout)]


def _as_written(layer: keras.layers.Layer, cls: Any) -> bool:
    """Returns whether a layer attends as its Keras class does."""
    return type(layer)._compute_attention is cls._compute_attention


def _inputs(call: Call) -> tuple[Layout, Layout, Layout, list[Layout]]:
    """Returns query, value and key, of which only features may go, and masks."""
    given = _arguments(call)
    names = ("query", "value", "key")
    query, value, key = (
        call.mixes(x, range(len(x.shape) - 1), "attends along this axis")
        for x in (given.get(name) or given["value"] for name in names)
    )
    masks = [mask for name in _MASKS for mask in _layouts(given.get(name))]
    return query, value, key, masks


def _masks(call: Call, masks: Sequence[Layout], heads: np.ndarray) -> None:
    for mask in masks:
        call.mixes(mask, range(len(mask.shape)), "takes it as a mask")
        if len(mask.shape) > 3 and mask.shape[1] != 1:
            call.pin(heads, f"{call.name} has a mask for each head")


def _project(
    call: Call,
    dense: Any,
    x: Layout,
    heads: np.ndarray,
    inner: np.ndarray,
    kind: str = "",
) -> None:
    """Says what of a projection to heads belongs to which head and dimension."""
    read = call.labels(x, -1)
    call.weight(dense.kernel, reads={0: read}, makes={1: heads}, kind="heads")
    call.weight(dense.kernel, makes={2: inner}, kind=kind)
    call.weight(dense.bias, makes={0: heads, 1: inner}, scored=False)
    _count(call, x, {0: read, 1: heads, 2: inner}, dense.kernel.shape)


def _count(
    call: Call, x: Layout, labels: Mapping[int, Labels], shape: Sequence[int | None]
) -> None:
    """Counts a kernel that is used at each position of a tensor."""
    call.product([*shape, volume(x.shape[1:-1])], dict(labels))


def _scaled(call: Call, dense: Any, inner: np.ndarray) -> None:
    """Divides by the root of the old number of dimensions, as the masked model does."""
    call.builder.demand(inner, f"{call.name} sums products of queries and keys over it")
    for variable in (dense.kernel, dense.bias):
        if variable is not None:
            call.rescale(variable, inner, 0.5)


def _products(
    call: Call,
    query: Layout,
    value: Layout,
    axes: Sequence[int],
    heads: np.ndarray,
    inner: np.ndarray,
    values: np.ndarray,
) -> None:
    """Counts queries by keys, and scores by values."""
    positions = [*query.shape[1:-1], *(value.shape[axis] for axis in axes)]
    place = len(positions)
    for dimensions in (inner, values):
        call.product(
            [*positions, len(heads), len(dimensions)],
            {place: heads, place + 1: dimensions},
        )


def _output_of_heads(
    call: Call, query: Layout, heads: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """Returns the labels of the last axis of what the heads are summed to."""
    layer = call.operation
    dense, asked = layer.output_dense, layer._output_shape
    last = len(dense.kernel.shape) - 1
    made = call.fresh(dense.kernel.shape[-1])
    call.weight(
        dense.kernel, reads={0: heads, 1: values}, makes={last: made}, kind="units"
    )
    call.weight(dense.bias, makes={-1: made}, scored=False)
    _count(call, query, {0: heads, 1: values, last: made}, dense.kernel.shape)

    def output_shape(alive: np.ndarray) -> tuple[int, ...] | None:
        left = int(np.count_nonzero(alive[made]))
        if asked is None and query.size(-1, alive) == left:
            return None  # As many as the queries have features, as before.
        return (*(asked or (left,))[:-1], left)

    call.resize("output_shape", output_shape)
    return made


def _outputs(call: Call, made: Labels, heads: np.ndarray) -> list[Layout]:
    """Returns the layouts of the output, and of scores where they are returned."""
    outputs = [call.output({-1: made})]
    for shape in call.shapes[1:]:
        call.builder.spoil(heads, f"{call.name} returns scores, which sum to 1")
        outputs.append(Layout(shape, (Block((1,), heads),)))
    return outputs
