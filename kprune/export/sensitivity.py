"""`kprune.quantization_sensitivity`: which layers lose most when they are quantised.

This module changes when another effect of quantising a layer is measured.
"""

import itertools
import math
from typing import Any

import keras
import numpy as np

from kprune.export import keeping, mixed, options, ranges, tflite
from kprune.export.choosing import Device, choose
from kprune.export.compare import compare
from kprune.export.convert import check_backend, convert
from kprune.export.ends import of_file
from kprune.export.interface import Interface
from kprune.export.litert import Session
from kprune.export.precision import in_float32
from kprune.export.samples import Samples, interface_and_samples
from kprune.export.targets import NEEDS_DATA
from kprune.export.trained import refuse_trained
from kprune.export.unrolling import without_loops
from kprune.report import LayerSensitivity, SensitivityReport

# Layers are worth keeping if they halve the error, and are not more than half of all.
_GAIN = 0.5


def quantization_sensitivity(
    model: keras.Model,
    representative_data: Any,
    quantization: str = "int8",
    target: Device = "android",
    *,
    num_samples: int = 100,
) -> SensitivityReport:
    """Measures what each layer's quantisation costs, and which layers to spare it.

    The model is converted once to float32 and once quantised. Both files run on the
    data in LiteRT, and the values that each layer makes are compared. Then each layer
    in turn is quantised while all others compute in float32, which shows what it costs
    at the outputs. (Not the other way round: of two layers with values between them
    that quantise badly, to spare one is no use.) At last the worst ones compute in
    float32 while the others are quantised, one more each time, until the error is
    halved.

        >>> report = kprune.quantization_sensitivity(model, x_train)  # doctest: +SKIP
        >>> kprune.export(
        ...     model, "model.tflite", "android", "int8", x_train,
        ...     float_layers=report.worst(2),
        ... )  # doctest: +SKIP

    TensorFlow's `QuantizationDebugger` compares activations too, for int8 only, and
    each layer's from the same inputs; its guide then tries layers in float32 by hand:
    https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_debugger

    Args:
        model: A built Keras model. It is left as it was.
        representative_data: Inputs as the device will see them, in any form that
            `kprune.export` takes. They calibrate ranges, and outputs are compared on
            them.
        quantization: `"int8"`, `"int16x8"`, `"dynamic"` or `"int4"`.
        target: What the file would be for, as `kprune.export` takes it: where inputs
            and outputs are integers, a float32 last layer gains less.
        num_samples: The most samples to use, at least 1. They are run once for every
            layer, and for every layer that is kept.

    Returns:
        What was measured, the worst layer first. `print` it.

    Raises:
        TypeError: If the model or data is of the wrong type.
        ValueError: If an argument is unknown or does not fit, or the model cannot be
            converted.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(options.not_a_model("model", model))
    chosen, quantization = choose(target, quantization)
    if quantization not in mixed.QUANTIZATIONS:
        raise ValueError(
            f"`quantization` must be one of {mixed.QUANTIZATIONS}, with which layers "
            f"compute in something else than float32. Received: {quantization!r}."
        )
    if representative_data is None:
        raise ValueError(
            "`representative_data` is needed: some hundred inputs as the device will "
            "see them, for instance x_train[:200]. Received: None."
        )
    options.check_data(quantization, representative_data)
    options.check_numbers(num_samples, None)
    refuse_trained("quantization_sensitivity", model)
    check_backend()
    computing = in_float32(model)
    computing, _ = without_loops(computing, quantization, chosen)
    interface, samples = interface_and_samples(
        computing, representative_data, num_samples
    )
    plain = convert(interface, computing, "none", None, False)
    data = convert(interface, computing, quantization, samples, chosen.integer_io)
    if quantization in NEEDS_DATA:
        ranges.check_observed(data, samples.count)
    origin = keeping.of_operators(plain, interface, computing)
    layers: dict[str, list[int]] = {}
    for position in mixed.quantized(data, plain):
        layers.setdefault(origin[position].name, []).append(position)
    layers.pop("", None)
    trial = _Trial(interface, samples, data, plain)
    found = _measure(trial, layers)
    return SensitivityReport(
        model=model.name,
        quantization=quantization,
        target=chosen.name,
        samples=samples.count,
        error=trial.error(()),
        layers=found,
        worth_keeping=_worth_keeping(trial.error(()), found),
    )


class _Trial:
    """The output's error of files in which some operators compute in float32."""

    def __init__(
        self, interface: Interface, samples: Samples, data: bytes, plain: bytes
    ) -> None:
        self._interface, self._samples = interface, samples
        self.data, self.plain = data, plain
        self._right = self._run(plain).run(samples)
        for name, values in zip(interface.output_names, self._right, strict=True):
            if not np.isfinite(values).all():
                raise ValueError(
                    f"Output {name!r} of the model itself, not quantised, has values "
                    "that are NaN or infinite, so that there is nothing to compare "
                    "with. Check the model's weights."
                )
        self._known: dict[tuple[int, ...], float] = {}

    def _run(self, data: bytes, inspected: bool = False) -> Session:
        return Session(data, of_file(data, self._interface), inspected)

    def error(self, kept: tuple[int, ...]) -> float:
        """Returns the largest relative difference of an output, some operators kept."""
        if kept not in self._known:
            session = self._run(mixed.with_float(self.data, self.plain, kept))
            received = session.run(self._samples)
            names = self._interface.output_names
            found = compare(names, "LiteRT", self._right, received, session.steps)
            self._known[kept] = max(item.relative for item in found)
        return self._known[kept]

    def activations(self) -> dict[int, float]:
        """Returns how far off what an operator makes is, by its position in `plain`.

        It is the root of the mean square of the difference, over that of the values.
        """
        files = [tflite.parse(data).subgraphs[0] for data in (self.data, self.plain)]
        sessions = [self._run(data, True) for data in (self.data, self.plain)]
        pairs = {
            there: (
                files[0].tensors[files[0].operators[here].outputs[0]],
                files[1].tensors[files[1].operators[there].outputs[0]],
            )
            for there, here in mixed.quantized(self.data, self.plain).items()
        }
        squares = {position: np.zeros(2) for position in pairs}
        for row in self._samples.rows():
            for session in sessions:
                session.set_inputs(row)
                session.invoke()
            for position, (ours, theirs) in pairs.items():
                right = sessions[1].value(theirs).astype(np.float64)
                error = sessions[0].value(ours) - right
                squares[position] += np.square(error).sum(), np.square(right).sum()
        return {position: _relative(*sums) for position, sums in squares.items()}


def _relative(error: float, size: float) -> float:
    """Returns the root of a sum of squares over another one."""
    if not error:
        return 0.0
    return math.sqrt(error / size) if size else math.inf


def _measure(
    trial: _Trial, layers: dict[str, list[int]]
) -> tuple[LayerSensitivity, ...]:
    activations = trial.activations()
    operators = tflite.parse(trial.plain).subgraphs[0].operators
    all_places = sorted(itertools.chain.from_iterable(layers.values()))
    alone = {
        layer: trial.error(tuple(place for place in all_places if place not in places))
        for layer, places in layers.items()
    }
    together = trial.error(())
    enough = _GAIN * together
    kept: list[int] = []
    result: list[LayerSensitivity] = []
    for layer in sorted(layers, key=lambda layer: -alone[layer]):
        kept += layers[layer]
        tried = together > enough and 2 * (len(result) + 1) <= len(layers)
        together = trial.error(tuple(sorted(kept))) if tried else together
        result.append(
            LayerSensitivity(
                layer=layer,
                operators=tuple(operators[place].name for place in layers[layer]),
                activation_error=max(activations[place] for place in layers[layer]),
                error_alone=alone[layer],
                error_left=together if tried else None,
            )
        )
    return tuple(result)


def _worth_keeping(
    error: float, layers: tuple[LayerSensitivity, ...]
) -> tuple[str, ...]:
    """Returns the fewest of the first layers that halve the error, if measured."""
    for count, layer in enumerate(layers, 1):
        if layer.error_left is None:
            break
        if layer.error_left <= _GAIN * error:
            return tuple(item.layer for item in layers[:count])
    return ()
