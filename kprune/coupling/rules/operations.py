"""`keras.ops` that work element by element, along axes, or on space.

What becomes of a channel of zeros is found out by running the operation on zeros, with
its own settings. This module changes when an operation of these kinds is added.
"""

from collections.abc import Collection, Sequence
from typing import Any

import keras
import numpy as np

from kprune.coupling.layout import Layout
from kprune.coupling.registry import Call
from kprune.coupling.rules.axes import (
    as_layout,
    axes_of,
    is_array,
    keep,
    like,
    rule,
    settled,
)
from kprune.coupling.rules.merging import elementwise

_UNARY = (
    "Abs Absolute Angle Arcsinh Arctan Cast Cbrt Ceil Celu "
    "Clip Conj Conjugate ConvertToTensor Copy Cos Cosh Deg2rad Elu Erf Erfc Exp Exp2 "
    "Expm1 Fabs Floor Gelu HardShrink HardSigmoid HardSilu HardTanh I0 Imag Isfinite "
    "Isinf Isnan Isneginf Isposinf LeakyRelu LogSigmoid LogicalNot NanToNum Negative "
    "OnesLike Rad2deg Real Relu Relu6 Round SaturateCast Selu Sigmoid Sign Signbit "
    "Silu Sin Sinc Sinh SoftShrink Softplus Softsign SparsePlus SparseSigmoid Square "
    "Squareplus StopGradient Tanh TanhShrink Threshold Trunc ZerosLike"
)
# Not defined for every number: what holds at zero need not hold elsewhere.
_PARTIAL = (
    "Arccos Arccosh Arcsin Arctanh Erfinv Log Log10 Log1p Log2 Reciprocal Rsqrt Sqrt "
    "Tan"
)
_BINARY = (
    "Add Arctan2 Divide DivideNoNan Equal FloorDivide "
    "Fmax Fmin Fmod FullLike Greater GreaterEqual Heaviside Hypot Less LessEqual "
    "Logaddexp Logaddexp2 LogicalAnd LogicalOr LogicalXor Maximum Minimum Mod Multiply "
    "NotEqual Subtract TrueDivide Where"
)
# To these, zeros along the axis that they sum over add nothing.
_SUMS = "Any CountNonzero Nansum Sum"
_REDUCTIONS = (
    "All Amax Amin Argmax Argmin Logsumexp Max Mean Median Min Moments Nanmax Nanmean "
    "Nanmedian Nanmin Nanprod Nanstd Nanvar Prod Ptp Std Var"
)
_ALONG = (
    "Argsort Cumprod Cumsum LogSoftmax Nancumprod Nancumsum Roll Softmax Sort Sparsemax"
)
# Without adaptive pooling: Keras 3.15 says that its output has one axis too many.
_SPATIAL = "AveragePool MaxPool Resize"
# What stands for values that are not known. None is zero or an integer twice another.
_PROBES = (-1.5, 0.5, 2.0)


@rule(_UNARY)
def unary(call: Call) -> Any:
    """Works on each element by itself."""
    settings = vars(call.operation).items()
    if any(is_array(value) for key, value in settings if not key.startswith("_")):
        return call.barrier("has a setting per element")
    return _refusal(call) or call.output(like=call.input)


@rule(_PARTIAL)
def partial(call: Call) -> Any:
    """Works on each element by itself, if it is within the function's domain."""
    refusal = _refusal(call)
    if refusal:
        return refusal
    _demand_zero(call)
    return call.output(like=call.input)


@rule(_BINARY)
def binary(call: Call) -> Any:
    """Works on the same element of each operand: their channels go together."""
    operands = [_not_spread(call, operand) for operand in _operands(call)]
    if type(call.operation).__name__ == "Add":
        operands = _not_taken_for_bias(call, operands)
    labelled = [i for i, layout in enumerate(operands) if layout.blocks]
    refusal = _refusal(call, labelled)
    if refusal:
        return refusal
    absorbing = []
    for index in labelled:
        found = _outcomes(call, [index])
        if found is None or not np.isfinite(found).all():
            return call.barrier("does not give a number if its operand is zero")
        if not found.any():
            absorbing.append(index)
    return elementwise(call, operands, absorbing)


@rule("Power")
def power(call: Call) -> Any:
    """Works on the same element of both, and needs a base that is not negative."""
    _demand_zero(call)
    return binary(call)


@rule(_SUMS)
def sums(call: Call) -> Any:
    """Adds up, where zeros add nothing."""
    return _reduced(call, sums=True)


@rule(_REDUCTIONS)
def reductions(call: Call) -> Any:
    """Reduces axes; over channels also zeros would count."""
    return _reduced(call, sums=False)


@rule("Norm")
def norm(call: Call) -> Any:
    """Sums powers of absolute values, or takes the largest of them."""
    order = call.operation.ord
    return _reduced(call, sums=order in (None, "fro", "nuc", 1, 2, np.inf))


@rule(_ALONG)
def along(call: Call) -> Any:
    """Mixes what is along its axis."""
    axis = call.operation.axis
    if axis is None:
        return call.barrier("works on all elements as one row")
    x = keep(call, call.input, axes_of(call.input, axis), "mixes this axis")
    return _refusal(call) or call.output(like=x)


@rule("Normalize")
def normalize(call: Call) -> Any:
    """Divides by a norm, to which zeros add nothing."""
    x = call.input
    for axis in axes_of(x, call.operation.axis):
        labels = call.labels(x, axis)
        if labels is not None:
            call.builder.demand(labels, f"{call.name} sums their powers")
    return _refusal(call) or call.output(like=x)


@rule("Tril Triu")
def triangle(call: Call) -> Any:
    """Keeps elements by their place in the last two axes."""
    return call.output(
        like=keep(call, call.input, [-2, -1], "chooses elements by their place")
    )


@rule("Glu")
def gated(call: Call) -> Any:
    """Multiplies one half by the other's sigmoid: their channels go together."""
    axis = call.input.axis(call.operation.axis)
    labels = call.labels(call.input, axis)
    if labels is None:
        return call.output(like=call.input)
    first, second = labels.reshape(2, -1)
    call.builder.tie(first, second)
    return call.output({axis: first}, like=like(call.input, call.shapes[0], [axis]))


@rule(_SPATIAL)
def spatial(call: Call) -> Any:
    """Works along space, on each channel by itself."""
    operation, x = call.operation, call.input
    if type(operation).__name__ == "Resize" and len(x.shape) != 4:
        return call.barrier("takes its first axis for rows, not for the batch")
    x = _only_channels(call, x)
    fill = getattr(operation, "fill_value", 0.0)
    if fill:
        call.builder.spoil(x.labels, f"{call.name} fills up with {fill:.3g}")
    return call.output(like=Layout(call.shapes[0], x.blocks))


@rule("DepthToSpace")
def depth_to_space(call: Call) -> Any:
    """Spreads runs of channels over space: the same place of each run goes together."""
    x = _only_channels(call, call.input)
    axis = _channel_axis(call, x)
    labels = call.labels(x, axis)
    if labels is None:
        return call.output()
    runs = labels.reshape(call.operation.block_size**2, -1)
    call.builder.tie(runs[:1], runs)
    return call.output({axis: runs[0]})


@rule("SpaceToDepth")
def space_to_depth(call: Call) -> Any:
    """Puts neighbours side by side as runs of channels."""
    x = _only_channels(call, call.input)
    axis = _channel_axis(call, x)
    labels = call.labels(x, axis)
    if labels is None:
        return call.output()
    return call.output({axis: np.tile(labels, call.operation.block_size**2)})


def _reduced(call: Call, sums: bool) -> Any:
    operation, x = call.operation, call.input
    axes = axes_of(x, getattr(operation, "axes", getattr(operation, "axis", None)))
    for axis in axes:
        block = x.block(axis)
        if sums and block is not None and len(block.axes) == 1:
            call.builder.demand(block.labels, f"{call.name} sums over them")
            x = like(x, x.shape, [axis])
        else:
            x = keep(call, x, [axis], "takes one value of all along this axis")
    refusal = _refusal(call, labels=x.labels)
    if refusal:
        return refusal
    if not getattr(operation, "keepdims", False):
        x = settled(call, x.without(axes))
    found = [Layout(shape, x.blocks) for shape in call.shapes]
    return found if len(found) > 1 else found[0]


def _operands(call: Call) -> list[Layout]:
    """Returns the layouts of tensors and of constant arrays among the arguments."""
    arguments = [*call.args, *call.kwargs.values()]
    return [
        as_layout(item)
        for item in arguments
        if isinstance(item, Layout) or is_array(item)
    ]


def _not_spread(call: Call, operand: Layout) -> Layout:
    """Returns the layout with axes fixed along which a single channel is spread."""
    shape = call.shapes[0]
    shift = len(shape) - len(operand.shape)
    spread = [
        axis
        for axis, size in enumerate(operand.shape)
        if size == 1 and shape[axis + shift] != 1
    ]
    return keep(call, operand, spread, "spreads this single channel over many")


def _not_taken_for_bias(call: Call, operands: list[Layout]) -> list[Layout]:
    """Returns the layouts with axes fixed that Keras could confuse with another one.

    Keras 3.15 adds a constant with a single axis of more than one index as a bias:
    along the last axis if that has the same size, wherever the constant's axis is.
    Channels must not get down to that size.
    """
    sizes = [size for size in operands[-1].shape if size != 1]
    if len(operands) < 2 or operands[-1].blocks or len(sizes) != 1:
        return operands
    why = f"may come to be as many as the {sizes[0]} values it adds along another axis"
    return [keep(call, operands[0], [1, -1], why), operands[1]]


def _refusal(
    call: Call, zero: Sequence[int] = (0,), labels: np.ndarray | None = None
) -> list[Layout] | None:
    """Says what becomes of zeros; returns outputs of fixed sizes if that is unknown.

    Args:
        call: The call.
        zero: Which operands have channels.
        labels: What passes through it; all labels of the operands by default.
    """
    operands = _operands(call)
    found = _outcomes(call, zero)
    if found is None:
        return call.barrier("could not be run on zeros")
    if not np.isfinite(found).all():
        return call.barrier("does not give a number for zero")
    # With operands that are not known, elementwise() says it axis by axis.
    if found.any() and len(zero) == len(operands):
        if labels is None:
            labels = np.concatenate([layout.labels for layout in operands])
        worst = float(found[found != 0][0])
        call.builder.spoil(labels, f"{call.name} makes {worst:.3g} of zero")
    return None


def _demand_zero(call: Call) -> None:
    for layout in call.inputs:
        why = f"{call.name} is not defined for every number"
        call.builder.demand(layout.labels, why)


def _outcomes(call: Call, zero: Collection[int]) -> np.ndarray | None:
    """Returns values that the operation gives; `None` if it cannot be run.

    Args:
        call: The call. Sizes above 2 are taken as 2.
        zero: Which operands are zero. Others are taken to be several numbers.
    """
    num_unknown = len(_operands(call)) - len(zero)
    found = []
    for probe in _PROBES if num_unknown else (0.0,):
        result = _run(call, zero, probe)
        if result is None:
            return None
        found.append(result)
    if num_unknown:
        # What is NaN only where the unknown is zero is so before pruning, too.
        result = _run(call, zero, 0.0)
        if result is None:
            return None
        found.append(np.where(np.isfinite(result), result, 0.0))
    return np.concatenate(found)


def _run(call: Call, zero: Collection[int], probe: float) -> np.ndarray | None:
    place = -1

    def stand_in(item: Any) -> Any:
        nonlocal place
        if not isinstance(item, Layout) and not is_array(item):
            return item
        place += 1
        shape = [min(size or 2, 2) for size in as_layout(item).shape]
        return keras.ops.full(shape, 0.0 if place in zero else probe)

    args = [stand_in(item) for item in call.args]
    kwargs = {key: stand_in(item) for key, item in call.kwargs.items()}
    try:
        results = keras.tree.flatten(call.operation.call(*args, **kwargs))
    except Exception:  # Whatever backends raise about types and shapes.
        return None
    return np.concatenate([_flat(result) for result in results])


def _flat(result: Any) -> np.ndarray:
    array = keras.ops.convert_to_numpy(result).reshape(-1)
    return (np.abs(array) if np.iscomplexobj(array) else array).astype(float)


def _channel_axis(call: Call, x: Layout) -> int:
    form = getattr(call.operation, "data_format", None)
    form = form or keras.config.image_data_format()
    return 1 if form == "channels_first" else len(x.shape) - 1


def _only_channels(call: Call, x: Layout) -> Layout:
    axis = _channel_axis(call, x)
    others: Sequence[int] = [i for i in range(len(x.shape)) if i != axis]
    return keep(call, x, others, "works along this axis")
