"""Keras layers that round as an int8 model does: of weights, and of activations.

This module changes when layers find what to round to, or when, in another way.

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", https://arxiv.org/abs/1712.05877, section 3; ranges
that are learned: Jain et al. 2020, "Trained Quantization Thresholds",
https://arxiv.org/abs/1903.08066, of which the gradient of the ends is taken, not their
being powers of two.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.quantization.kernels import (
    Kernel,
    convolve_as_image,
    is_one_dimensional,
    kernel_of,
)
from kprune.quantization.mode import DEPLOYED, OBSERVING, Mode
from kprune.quantization.rounding import (
    folding_of,
    passing,
    round_activations,
    round_channels,
    round_weight,
    scaling_of,
)
from kprune.rebuild import plain


class _Switched(keras.layers.Layer):
    """A layer that rounds from a step of training on.

    Both switches are read where a step is traced, so that they cost nothing in it; they
    are part of the configuration, and so of a saved model.

    Args:
        active: Whether it rounds.
        frozen: Whether what it learns beside gradients stays as it is: ranges, and the
            statistics of normalisation.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(
        self, *args: Any, active: bool = True, frozen: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.active, self.frozen = active, frozen

    @property
    def rounds(self) -> bool:
        """Whether it rounds in what is computed now."""
        return self.active if not Mode.now else Mode.now == DEPLOYED

    def get_config(self) -> dict[str, Any]:
        """Returns the configuration, with the switches as they are."""
        return {**super().get_config(), "active": self.active, "frozen": self.frozen}


@keras.saving.register_keras_serializable("kprune")
class FakeQuantize(_Switched):
    """Rounds activations to the 256 values of a range, which it finds in training.

    Several activations may have the range in common, as TFLite demands of the inputs
    and outputs of a concatenation: the layer is called on each, with its `index`.

    Args:
        num_tensors: How many activations share the range.
        ranges: `"moving_average"`, of the least and the greatest value in each batch;
            or `"learned"`, by the gradient of the loss.
        fixed: The ends of a range that is known, e.g. `(0.0, 255 / 256)`; nothing is
            observed then.
        momentum: The share of the old average that stays at each step, in [0, 1). The
            first steps are averaged evenly.
        nonnegative: Whether activations are never below zero, as after a ReLU, so that
            the lower end need not be looked for: that saves half of the time.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(
        self,
        num_tensors: int = 1,
        ranges: str = "moving_average",
        fixed: Sequence[float] | None = None,
        momentum: float = 0.99,
        nonnegative: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_tensors = num_tensors
        self.ranges = ranges
        self.fixed = None if fixed is None else (float(fixed[0]), float(fixed[1]))
        self.momentum = momentum
        self.nonnegative = nonnegative
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Makes the ends of the range, one pair per activation."""
        if self.fixed is None:
            if not self.nonnegative:
                self.minimum = self._end("minimum", self.ranges == "learned")
            self.maximum = self._end("maximum", self.ranges == "learned")
            self.observations = self._end("observations", False)
        self.built = True

    def _end(self, name: str, trainable: bool) -> keras.Variable:
        return self.add_weight(
            shape=(self.num_tensors,),
            dtype="float32",
            autocast=False,
            initializer="zeros",
            trainable=trainable,
            aggregation="mean",
            name=name,
        )

    def call(self, inputs: Any, index: int = 0, training: bool | None = None) -> Any:
        """Returns the rounded activations.

        Args:
            inputs: Activations of any shape.
            index: Which of those that share the range they are.
            training: Whether the range follows them.
        """
        x = keras.ops.cast(inputs, "float32")
        follows = training and not self.frozen and self.ranges != "learned"
        if self.fixed is None and (Mode.now == OBSERVING or (follows and not Mode.now)):
            self._observe(x, index)
        if not self.rounds:
            return keras.ops.cast(x, self.compute_dtype)
        rounded = round_activations(x, *self._ends())
        if self.fixed is None and not training and Mode.now != DEPLOYED:
            # Before anything was seen there is nothing to round to.
            seen = keras.ops.min(self.observations) > 0
            rounded = keras.ops.where(seen, rounded, x)
        return keras.ops.cast(rounded, self.compute_dtype)

    def _ends(self) -> tuple[Any, Any]:
        """Returns the ends of a range that has a width."""
        if self.fixed is not None:
            return self.fixed
        ops = keras.ops
        low, high = 0.0, ops.maximum(ops.max(self.maximum), 0.0)
        if not self.nonnegative:
            low = ops.minimum(ops.min(self.minimum), 0.0)
        return low, ops.where(high > low, high, 1.0)  # Dead units are all zero.

    def _observe(self, x: Any, index: int) -> None:
        ops, count = keras.ops, self.observations
        values = ops.stop_gradient(x)
        mine = (np.arange(self.num_tensors) == index).astype("float32")
        new = mine * (1.0 - ops.minimum(count / (count + 1.0), self.momentum))
        if not self.nonnegative:
            self.minimum.assign_add(new * (ops.min(values) - self.minimum))
        self.maximum.assign_add(new * (ops.max(values) - self.maximum))
        count.assign_add(mine)

    @property
    def range(self) -> tuple[float, float]:
        """The ends of the range as they are now; both 0 before anything was seen."""
        if self.fixed is not None:
            return self.fixed
        low = 0.0 if self.nonnegative else float(self.minimum.numpy().min())
        return min(low, 0.0), max(float(self.maximum.numpy().max()), 0.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the configuration; the range is a weight and not part of it."""
        return {
            **super().get_config(),
            "num_tensors": self.num_tensors,
            "ranges": self.ranges,
            "fixed": None if self.fixed is None else list(self.fixed),
            "momentum": self.momentum,
            "nonnegative": self.nonnegative,
        }

    def compute_output_spec(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns the shape and type of the inputs."""
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)


@keras.saving.register_keras_serializable("kprune")
class QuantizedWeights(_Switched, keras.layers.Wrapper):
    """Wraps a layer and rounds its weights to int8, symmetric and with exact zeros.

    A convolution has a range per output channel, any other weight one in all, as in
    TFLite. The layer's own variables stay in float32, and gradients pass the rounding
    as if it were not there. Where a batch normalisation follows, it belongs to the
    wrapper: it is folded into the weights before they are rounded, as the converter
    does.

    In training the normalisation works on the statistics of the batch, and on weights
    that are rounded in the steps that they will have once it is folded: for a range per
    channel these are the steps of the weights themselves. (The paper folds the batch's
    statistics, at the cost of a second convolution.)

    Args:
        layer: A layer without activation, or a `kprune.Pruned` wrapper of one.
        batch_norm: The normalisation of its last axis to be folded into it.
        **kwargs: Arguments of `keras.layers.Layer`. The name is the inner layer's
            unless another one is given.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        batch_norm: keras.layers.BatchNormalization | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("name", layer.name)
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(layer, **kwargs)
        self.batch_norm = batch_norm
        self.supports_masking = layer.supports_masking

    def build(self, input_shape: Any) -> None:
        """Builds the layer, and the normalisation on what it makes."""
        super().build(input_shape)
        if self.batch_norm is not None and not self.batch_norm.built:
            made = plain(self.layer).compute_output_shape(input_shape)
            self.batch_norm.build(made)
        self.built = True

    @property
    def kernel(self) -> Kernel:
        """The weight that is rounded."""
        return kernel_of(self.layer)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns what the layer makes with rounded weights, normalised."""
        norm = self.batch_norm
        if norm is None:
            return self._with(inputs, self._rounded())
        learns = training and norm.trainable and not self.frozen
        if learns and not Mode.now:
            return norm(self._with(inputs, self._rounded()), training=True)
        if self.rounds:
            return self._folded(inputs)
        return norm(self._with(inputs, None), training=False)

    def _rounded(self) -> Any:
        """Returns the weights as they are computed with, before normalisation."""
        kernel, weight = self.kernel, self._weight()
        if not self.rounds:
            return weight
        if self.batch_norm is None or kernel.per_channel:
            return passing(round_weight, weight, kernel)
        scale = kernel.along_outputs(folding_of(self.batch_norm).scale)

        def folded(weight: Any, kernel: Kernel) -> Any:
            rounded = round_weight(weight * scale, kernel)
            safe = keras.ops.where(scale == 0, 1.0, scale)
            return keras.ops.where(scale == 0, weight, rounded / safe)

        return passing(folded, weight, kernel)

    def _weight(self) -> Any:
        weight = keras.ops.cast(self.kernel.variable, "float32")
        if Mode.now == DEPLOYED and is_one_dimensional(self.layer):
            return weight[None]  # Before it is rounded: the converter wants it so.
        return weight

    def _folded(self, inputs: Any) -> Any:
        """Returns what the layer makes with the normalisation in its weights."""
        kernel, fold = self.kernel, folding_of(self.batch_norm)
        scale = kernel.along_outputs(fold.scale)
        weight = passing(round_weight, self._weight() * scale, kernel)
        if kernel.bias is not None:
            return self._with(inputs, weight, fold.offset + fold.scale * kernel.bias)
        made = self._with(inputs, weight)
        return made + keras.ops.cast(fold.offset, made.dtype)

    def _with(self, inputs: Any, weight: Any, bias: Any = None) -> Any:
        """Calls the layer with other values in the place of its weights."""
        if Mode.now == DEPLOYED and is_one_dimensional(self.layer):
            return convolve_as_image(plain(self.layer), inputs, weight, bias)
        kernel, values = self.kernel, []
        if weight is not None:
            values.append((kernel.variable, weight))
        if bias is not None:
            values.append((kernel.bias, bias))
        with keras.StatelessScope(state_mapping=values):
            return self.layer(inputs)

    def compute_output_spec(self, inputs: Any, **kwargs: Any) -> Any:
        """Returns the shape and type that the layer makes."""
        return self.layer.compute_output_spec(inputs)

    def get_config(self) -> dict[str, Any]:
        """Returns the configuration, with that of the normalisation."""
        norm = self.batch_norm
        saved = None if norm is None else keras.saving.serialize_keras_object(norm)
        return {**super().get_config(), "batch_norm": saved}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "QuantizedWeights":
        """Returns the wrapper that `get_config` described."""
        config = dict(config)
        for name in ("layer", "batch_norm"):
            if config[name] is not None:
                config[name] = keras.saving.deserialize_keras_object(
                    config[name], custom_objects=custom_objects
                )
        return cls(**config)


@keras.saving.register_keras_serializable("kprune")
class QuantizedScaling(keras.layers.Wrapper):
    """Wraps what multiplies each channel by a number and adds another one.

    TFLite has no such operator: on the device it is a depthwise convolution of one
    pixel, with a range per channel, so that the numbers keep their precision.

    Args:
        layer: A `BatchNormalization`, `Rescaling` or `Normalization` of the last axis.
        **kwargs: Arguments of `keras.layers.Layer`. The name is the inner layer's
            unless another one is given.
    """

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        kwargs.setdefault("name", layer.name)
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(layer, **kwargs)
        self.supports_masking = layer.supports_masking

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns what the layer makes; in another way on the device."""
        if Mode.now != DEPLOYED:
            if isinstance(self.layer, keras.layers.BatchNormalization):
                return self.layer(inputs, training=training)
            return self.layer(inputs)
        return self._convolved(inputs)

    def _convolved(self, inputs: Any) -> Any:
        ops, shape = keras.ops, inputs.shape
        fold = scaling_of(self.layer, shape[-1])
        pixels = ops.reshape(inputs, (-1, *_two(shape[1:-1]), shape[-1]))
        ends = ops.where(fold.scale == 0, 1.0, ops.abs(fold.scale))
        # In this shape, and in no other, the converter knows the axis of the ranges.
        kernel = round_channels(ops.reshape(fold.scale, (1, 1, 1, -1)), ends)
        kernel = ops.reshape(kernel, (1, 1, -1, 1))
        made = ops.depthwise_conv(pixels, kernel, padding="valid") + fold.offset
        return ops.reshape(made, (-1, *shape[1:]))

    def compute_output_spec(self, inputs: Any, **kwargs: Any) -> Any:
        """Returns the shape and type that the layer makes."""
        return self.layer.compute_output_spec(inputs)


def _two(window: Sequence[int]) -> tuple[int, int]:
    """Returns the sides of an image with as many pixels."""
    return math.prod(window[:1]), math.prod(window[1:])


def switches(model: keras.layers.Layer) -> list[_Switched]:
    """Returns the layers of a model that round, at any depth."""
    layers = model._flatten_layers(include_self=True, recursive=True)
    return [layer for layer in layers if isinstance(layer, _Switched)]


def retrace(model: keras.Model) -> None:
    """Lets a model's functions see that switches were set, also in mid-training."""
    model.test_function = model.predict_function = None
    if model.train_function is not None:
        model.make_train_function(force=True)
