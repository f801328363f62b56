"""What criteria know beside the weights: gradients, inputs, flow.

All of it is found by running the model inside of `keras.StatelessScope`, so that
nothing of it changes: no weight, no moving average, no metric, no optimizer and no
random number that training would draw. This module changes when a criterion needs to
know something new.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kprune.criteria import Scorer
from kprune.layers import values
from kprune.prunable import candidates

L = keras.layers

# Samples that are taken of arrays for one batch; `fit` takes as many.
_BATCH = 32
# Share of the outputs below which what flows through the weights is rounding.
_NO_FLOW = 1e-6

_TAKES = (
    "a tuple (x, y), or a tf.data.Dataset or keras.utils.PyDataset of batches (x, y), "
    "as `fit` takes them"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """One batch of data.

    Args:
        x: The model's inputs.
        y: The targets, if there are any.
        sample_weight: Weights of the samples in the loss, if there are any.
    """

    x: Any
    y: Any = None
    sample_weight: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """Where criteria find what they need.

    Args:
        model: The model that the weights are of.
        batches: The data that there is.
    """

    model: keras.Model | None = None
    batches: tuple[Batch, ...] = ()

    def about(
        self, scorer: Scorer, variables: Sequence[keras.Variable]
    ) -> list[dict[str, Any]]:
        """Returns for each variable what the scorer takes beside it.

        Raises:
            TypeError: If it needs something that kprune does not know.
            ValueError: If it needs data and there is none, or what it needs cannot be
                found for a weight.
        """
        found: list[dict[str, Any]] = [{} for _ in variables]
        if not scorer.needs:
            return found
        check_data([scorer], bool(self.batches), type(scorer).__name__)
        for name in scorer.needs:
            if name == "axis":
                continue  # Known where channels are scored.
            if name not in (*_FINDERS, "start"):
                raise TypeError(
                    f"{scorer} needs {name!r}. A {scorer.role} may need "
                    f"{sorted({*_FINDERS, 'axis', 'start'})}."
                )
            if self.model is None:
                raise ValueError(f"{scorer} needs a model to find {name!r} in.")
            if name == "start":
                facts = _start(self.model, scorer, variables)
            else:
                facts = _FINDERS[name](self.model, self.batches, variables)
            for kwargs, value in zip(found, facts, strict=True):
                kwargs[name] = value
        return found


def check_data(scorers: Iterable[Scorer], given: bool, owner: str) -> None:
    """Raises ValueError if something needs data to score by and none is given."""
    for scorer in scorers:
        if scorer.needs_data and not given:
            raise ValueError(
                f"{owner}: the {scorer.role} {scorer} needs data, to find "
                f"{' and '.join(scorer.needs)}, and got none. Give it some, "
                f"data=(x_train, y_train): {_TAKES}. {scorer.without_data!r} needs "
                "none."
            )


def check_num_batches(num_batches: Any, owner: str) -> None:
    """Raises ValueError unless it is an integer of at least 1."""
    integer = isinstance(num_batches, int) and not isinstance(num_batches, bool)
    if not integer or num_batches < 1:
        raise ValueError(
            f"{owner}: `num_batches` must be an integer of at least 1. "
            f"Received {num_batches!r}."
        )


def read(data: Any, num_batches: int, owner: str) -> tuple[Batch, ...]:
    """Returns the first batches of data.

    Of arrays samples are taken at even distances over their whole length, since
    labelled data is often sorted by class, and spread over batches of 32.

    Args:
        data: What the user gave.
        num_batches: The most batches to take, at least 1.
        owner: Name of what the user called, for messages.

    Raises:
        ValueError: If `num_batches` is out of range, there is no sample, or arrays
            differ in length.
        TypeError: If `data` is none of what `fit` takes, or can be read only once.
    """
    check_num_batches(num_batches, owner)
    if isinstance(data, Iterator):
        raise TypeError(
            f"{owner}: `data` is an iterator ({type(data).__name__}), whose batches "
            f"would be lost for training. Give {_TAKES}."
        )
    if isinstance(data, tuple | Mapping) or _is_array(data):
        return _of_arrays(data, num_batches, owner)
    if isinstance(data, keras.utils.PyDataset):
        known = data.num_batches
        count = num_batches if known is None else min(num_batches, known)
        batches: Iterable[Any] = (data[index] for index in range(count))
    elif isinstance(data, Iterable) and not isinstance(data, str | bytes):
        batches = (batch for batch, _ in zip(data, range(num_batches), strict=False))
    else:
        raise TypeError(
            f"{owner}: `data` must be {_TAKES}. Received type {type(data).__name__}."
        )
    found = tuple(
        Batch(*keras.utils.unpack_x_y_sample_weight(batch)) for batch in batches
    )
    if not found:
        raise ValueError(f"{owner}: `data` is empty.")
    return found


def inputs_of(batches: Sequence[Batch]) -> Any:
    """Returns the inputs of all batches, put together."""
    return keras.tree.map_structure(
        lambda *parts: np.concatenate([np.asarray(part) for part in parts]),
        *(batch.x for batch in batches),
    )


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and hasattr(value, "shape")


def _of_arrays(data: Any, num_batches: int, owner: str) -> tuple[Batch, ...]:
    whole = data if isinstance(data, tuple) else (data,)
    if not 1 <= len(whole) <= 3:
        raise TypeError(
            f"{owner}: `data` as a tuple is (x,), (x, y) or (x, y, sample_weight). "
            f"Received {len(whole)} items."
        )
    lengths = {len(array) for array in keras.tree.flatten(whole) if array is not None}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"{owner}: arrays in `data` must have the same number of samples, at least "
            f"one. Received {sorted(lengths)}."
        )
    (length,) = lengths
    count = min(length, num_batches * _BATCH)
    rows = np.linspace(0, length - 1, count).round().astype(int)
    step = -(-count // _BATCH)
    return tuple(_batch(whole, rows[first::step]) for first in range(step))


def _batch(arrays: tuple[Any, ...], rows: np.ndarray) -> Batch:
    def taken(array: Any) -> Any:
        return None if array is None else np.asarray(array)[rows]

    return Batch(*keras.tree.map_structure(taken, arrays))


def _gradient(
    model: keras.Model, batches: Sequence[Batch], variables: Sequence[keras.Variable]
) -> list[np.ndarray]:
    return _mean_over_batches(model, batches, variables, lambda gradient: gradient)


def _squared_gradient(
    model: keras.Model, batches: Sequence[Batch], variables: Sequence[keras.Variable]
) -> list[np.ndarray]:
    return _mean_over_batches(model, batches, variables, np.square)


def _mean_over_batches(
    model: keras.Model,
    batches: Sequence[Batch],
    variables: Sequence[keras.Variable],
    function: Callable[[np.ndarray], np.ndarray],
) -> list[np.ndarray]:
    """Returns means of a function of the loss's gradients; NaN where not finite."""
    if not model.compiled:
        raise ValueError(
            f"{model.name!r} is not compiled, so that it has no loss to find gradients "
            "of. Call compile(optimizer, loss) first."
        )
    sums = [np.zeros(tuple(v.shape), np.float32) for v in variables]
    for batch in batches:
        for total, gradient in zip(
            sums, _gradients(model, batch, variables), strict=True
        ):
            total += function(gradient)
    for total in sums:
        total /= len(batches)
        total[~np.isfinite(total)] = np.nan
    return sums


def _gradients(
    model: keras.Model, batch: Batch, variables: Sequence[keras.Variable]
) -> Iterator[np.ndarray]:
    """Yields the gradients of the model's own loss, computed as in training.

    With dropout and with the batch's own statistics in batch normalisation, as all
    sources do; what that would change is lost with the scope.
    """
    import tensorflow as tf

    if batch.y is None and model.loss is not None:
        raise ValueError(
            f"`data` has no targets, and {model.name!r} is compiled with a loss that "
            f"needs them. Give {_TAKES}."
        )
    x = keras.tree.map_structure(keras.ops.convert_to_tensor, batch.x)
    tensors = [tf.convert_to_tensor(v.value) for v in variables]
    # Half precision would lose small gradients unscaled.
    scaled = getattr(model.optimizer, "scale_loss", lambda loss: loss)
    scale = float(scaled(keras.ops.ones(())))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(tensors)
        mapping = list(zip(variables, tensors, strict=True))
        with keras.StatelessScope(mapping, collect_losses=True):
            y = _call(model, x, training=True)
            loss = model.compute_loss(x, batch.y, y, batch.sample_weight, True)
            loss = loss * scale
    for tensor, gradient in zip(tensors, tape.gradient(loss, tensors), strict=True):
        if gradient is None:  # The loss does not depend on it.
            yield np.zeros(tuple(tensor.shape), np.float32)
        else:
            # Those of embeddings are sparse.
            dense = tf.cast(tf.convert_to_tensor(gradient), tf.float32)
            yield dense.numpy() / scale


def _call(model: keras.Model, x: Any, training: bool) -> Any:
    if model._call_has_training_arg:
        return model(x, training=training)
    return model(x)


def _input_norm(
    model: keras.Model, batches: Sequence[Batch], variables: Sequence[keras.Variable]
) -> list[np.ndarray]:
    """Returns per element of each weight the L2 norm of what it is multiplied with.

    A layer that is linear in its kernel sums inputs times kernel over all places, so
    that the derivative of the sum of its outputs by the kernel sums the inputs that
    each element meets: squares, where squares are put in.
    """
    import tensorflow as tf

    owners = [_owner(model, variable) for variable in variables]
    sums: dict[int, Any] = {}

    def recorded(layer: Any, variable: keras.Variable) -> Callable[..., Any]:
        original, product = layer.call, _linear(layer, variable)

        def call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if not tf.executing_eagerly():
                raise ValueError(
                    f"Wanda: {layer.path!r} is called in a loop over time, where its "
                    f"inputs cannot be seen. {_CURE}"
                )
            squares = tf.square(tf.cast(inputs, tf.float32))
            kernel = tf.zeros(tuple(variable.shape))
            with tf.GradientTape() as tape:
                tape.watch(kernel)
                total = tf.reduce_sum(product(squares, kernel))
            gradient = tape.gradient(total, kernel)
            sums[id(variable)] = sums.get(id(variable), 0.0) + gradient.numpy()
            return original(inputs, *args, **kwargs)

        return call

    hooks = [
        (layer, recorded(layer, variable))
        for layer, variable in zip(owners, variables, strict=True)
    ]
    try:
        for layer, call in hooks:
            vars(layer)["call"] = call
        with keras.StatelessScope():
            for batch in batches:
                x = keras.tree.map_structure(keras.ops.convert_to_tensor, batch.x)
                _call(model, x, training=False)
    finally:
        for layer, _ in hooks:
            vars(layer).pop("call", None)
    for layer, variable in zip(owners, variables, strict=True):
        if id(variable) not in sums:
            raise ValueError(
                f"{layer.path!r} was not called on `data`, so that nothing is known of "
                f"its inputs. {_CURE}"
            )
    return [np.sqrt(sums[id(variable)]) for variable in variables]


def _output_axes(
    model: keras.Model, batches: Sequence[Batch], variables: Sequence[keras.Variable]
) -> list[tuple[int, ...]]:
    axes = []
    for variable in variables:
        layer = _owner(model, variable)
        if isinstance(layer, L.EinsumDense):
            _, kernel, output = _letters(layer.equation)
            axes.append(tuple(i for i, c in enumerate(kernel) if c in output))
        else:
            axes.append((len(variable.shape) - 1,))
    return axes


_CURE = (
    "Leave the layer out (skip=...), or give it a rule with another criterion, such as "
    "'magnitude' or 'taylor'."
)


def _owner(model: keras.Model, variable: keras.Variable) -> Any:
    for candidate in candidates(model):
        if candidate.variable is variable and candidate.owners:
            return candidate.owners[-1]
    raise ValueError(
        f"{variable.path!r} belongs to no layer, so that nothing is known of its "
        f"inputs. {_CURE}"
    )


def _linear(layer: Any, variable: keras.Variable) -> Callable[[Any, Any], Any]:
    """Returns what a layer does with inputs and kernel, before bias and activation."""
    if variable is getattr(layer, "_kernel", getattr(layer, "kernel", None)):
        if isinstance(layer, L.Dense):
            return keras.ops.matmul
        if isinstance(layer, L.EinsumDense):
            return lambda x, kernel: keras.ops.einsum(layer.equation, x, kernel)
        if isinstance(layer, L.Conv1D | L.Conv2D | L.Conv3D):
            return lambda x, kernel: _convolved(layer, x, kernel)
    raise ValueError(
        "Norms of inputs are known for Dense, EinsumDense and Conv1D to 3D. "
        f"{variable.path!r} is of {layer.path!r}, a {type(layer).__name__}. {_CURE}"
    )


def _convolved(layer: Any, x: Any, kernel: Any) -> Any:
    padding = layer.padding
    if padding == "causal":
        before = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        time = 1 if layer.data_format == "channels_last" else 2
        x = keras.ops.pad(x, [(before if axis == time else 0, 0) for axis in range(3)])
        padding = "valid"
    return keras.ops.conv(
        x,
        kernel,
        strides=list(layer.strides),
        padding=padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
    )


def _letters(equation: str) -> list[str]:
    """Returns the axes of input, kernel and output in an einsum equation."""
    return re.split(",|->", re.sub(r"[^A-Za-z,>-]", "", equation))


def _synaptic_flow(
    model: keras.Model, batches: Sequence[Batch], variables: Sequence[keras.Variable]
) -> list[np.ndarray]:
    """Returns derivatives of the sum of outputs, for |weights| and inputs of ones."""
    import tensorflow as tf

    mapping = {
        id(v): (v, tf.abs(tf.convert_to_tensor(v.value)))
        for v in [*model.weights, *variables]
        if keras.backend.is_float_dtype(v.dtype)
    }
    tensors = [mapping[id(v)][1] for v in variables]
    ends = [layer for layer in _ends(model) if layer.activation in _SATURATING]
    before = [layer.activation for layer in ends]
    try:
        for layer in ends:
            layer.activation = keras.activations.linear
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tensors)
            with keras.StatelessScope(list(mapping.values())):
                outputs = keras.tree.flatten(_call(model, _ones(model, batches), False))
                total = sum(tf.reduce_sum(tf.cast(y, tf.float32)) for y in outputs)
    finally:
        for layer, activation in zip(ends, before, strict=True):
            layer.activation = activation
    flow = []
    for tensor, gradient in zip(tensors, tape.gradient(total, tensors), strict=True):
        missing = gradient is None
        dense = tf.zeros_like(tensor) if missing else tf.convert_to_tensor(gradient)
        flow.append(tf.cast(dense, tf.float32).numpy())
    _check_flow(model, float(total), variables, flow)
    return flow


_SATURATING = (keras.activations.softmax, keras.activations.sigmoid)


def _check_flow(
    model: keras.Model,
    total: float,
    variables: Sequence[keras.Variable],
    flow: Sequence[np.ndarray],
) -> None:
    carried = [
        float(np.abs(np.multiply(values(v), f, dtype=np.float64)).sum())
        for v, f in zip(variables, flow, strict=True)
    ]
    if not np.isfinite([total, *carried]).all():
        raise ValueError(
            f"SynFlow: the outputs of {model.name!r}, computed with the absolute "
            "values of its weights, overflow. Use criterion='snip' or 'magnitude', or "
            "a smaller initialisation."
        )
    if max(carried) <= _NO_FLOW * abs(total):
        raise ValueError(
            f"SynFlow: nothing flows through {model.name!r}: its outputs do not depend "
            "on its weights, as is the case behind a softmax, tanh or other "
            "saturating operation. Let the model end in logits, with "
            "from_logits=True in the loss, or use criterion='snip' or 'magnitude'."
        )


def _ends(layer: Any) -> Iterator[Any]:
    """Yields the layers with an activation that make a model's outputs."""
    if hasattr(layer, "layer"):  # A wrapper.
        yield from _ends(layer.layer)
    elif isinstance(layer, keras.Model):
        for output in getattr(layer, "outputs", None) or ():
            yield from _ends(output._keras_history.operation)
    elif hasattr(layer, "activation"):
        yield layer


def _ones(model: keras.Model, batches: Sequence[Batch]) -> Any:
    """Returns a single sample of ones."""
    if batches:
        example = batches[0].x
    elif getattr(model, "inputs", None):
        example = getattr(model, "_inputs_struct", model.inputs)
        if isinstance(model, keras.Sequential):
            example = model.inputs[0]
    else:
        shape = (model.get_build_config() or {}).get("input_shape")
        example = None if shape is None else keras.KerasTensor(shape)
    known = keras.tree.flatten(example)
    if not known or any(x is None or None in tuple(x.shape)[1:] for x in known):
        raise ValueError(
            f"SynFlow: {model.name!r} leaves sizes of its inputs open. Give "
            "data=(x, y): only its shape is used."
        )
    for x in known:
        if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype)):
            raise ValueError(
                f"SynFlow puts ones into the model, and {model.name!r} takes {x.dtype} "
                "inputs, such as words by number. Use criterion='snip', 'taylor' or "
                "'magnitude'."
            )
    return keras.tree.map_structure(
        lambda x: keras.ops.ones((1, *tuple(x.shape)[1:]), dtype=x.dtype), example
    )


def _start(
    model: keras.Model, scorer: Scorer, variables: Sequence[keras.Variable]
) -> list[np.ndarray]:
    """Returns the weights as a file has them; in the model nothing changes."""
    # Keras would load their state, too, which a scope cannot take.
    optimizers = [
        value
        for value in vars(model).values()
        if isinstance(value, keras.optimizers.Optimizer)
    ]
    with keras.StatelessScope() as scope:
        try:
            model.load_weights(scorer.since, objects_to_skip=optimizers)
        except (OSError, ValueError) as error:
            said = str(error).splitlines()[0]
            raise ValueError(
                f"{scorer}: `since` is not a file of the weights of {model.name!r}. "
                "Write one before the fit, model.save_weights('begin.weights.h5'), and "
                f"leave it as it is when the fit is resumed. {said}"
            ) from error
    return [
        keras.ops.convert_to_numpy(
            keras.ops.cast(scope.get_current_value(variable), "float32")
        )
        for variable in variables
    ]


def _place(
    model: keras.Model, batches: Sequence[Batch], variables: Sequence[keras.Variable]
) -> list[int]:
    return list(range(len(variables)))


_FINDERS: dict[str, Callable[..., list[Any]]] = {
    "gradient": _gradient,
    "squared_gradient": _squared_gradient,
    "input_norm": _input_norm,
    "output_axes": _output_axes,
    "synaptic_flow": _synaptic_flow,
    "place": _place,
}
