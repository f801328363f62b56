"""`quantize_aware`: a copy of a model that computes as its int8 file will.

This module changes when users are to say in another way what is to be rounded.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune import evidence
from kprune.foreign import received
from kprune.naming import unknown
from kprune.notices import Notices
from kprune.plan import matchers, means
from kprune.quantization.assembly import Builder, copy_weights
from kprune.quantization.calls import written_out
from kprune.quantization.fake_quantization import FakeQuantize, switches
from kprune.quantization.mode import observing
from kprune.quantization.places import SKIPPED, Places, fold_normalisations
from kprune.rebuild import graph_of, has_graph, plain
from kprune.report import QuantizationReport
from kprune.steps import check_backend
from kprune.transform import compile_alike

RANGES = ("moving_average", "learned")


def quantize_aware(
    model: keras.Model,
    *,
    data: Any = None,
    num_batches: int = 8,
    ranges: str = "moving_average",
    momentum: float = 0.99,
    skip: Any = None,
    strict: bool = False,
) -> keras.Model:
    """Returns a copy of a model that is trained to be an int8 file.

    Weights and activations are rounded in its graph to the values that they will have
    in the file: weights symmetric around an exact zero, convolutions with a range per
    output channel; activations to 256 values of a range that training finds. Batch
    normalisation is folded into the weights before they are rounded, as TFLite's
    converter does. Train the copy with `fit` as usual, a few epochs at a tenth of the
    learning rate, and give it to `kprune.export`, which needs no representative data
    for it. Its file computes what the copy does in inference, but for steps of
    rounding.

    Zeros stay zeros: masks of a pruned model come along, in place or in
    `kprune.Pruned` wrappers, and elements that are zero without a mask are held there.
    `PruningCallback` prunes the copy further, in the same fit; rounding can begin later
    in it, with `kprune.QuantizationCallback`. Remove channels (`kprune.shrink`) before.

    The copy is a functional model. Nested models are laid open in it, a layer's
    activation stands apart, separable convolutions are two. Layers with weights keep
    their names, and get a suffix where they make an output of the model, whose name
    stays.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3, with the
    deviation that `QuantizedWeights` has; scales as
    https://ai.google.dev/edge/litert/models/quantization_spec prescribes.

    Args:
        model: A built Sequential or Functional model, nested ones included. It is not
            changed.
        data: Inputs to find the first ranges on, before training: arrays, or a
            `tf.data.Dataset` or `keras.utils.PyDataset`, as `fit` takes them. Without
            it they begin with the first batches of training.
        num_batches: The most batches of the data to use, at least 1.
        ranges: How the ranges of activations are found: as the `"moving_average"` of
            the extremes in each batch, or `"learned"` along with the weights, which
            needs `data` to begin with.
        momentum: The share of the old average that stays at each step, in [0, 1).
        skip: What stays in float32: layers, layer classes, name patterns or functions
            from a layer to bool, or a list of these.
        strict: Whether a layer that has to stay in float32 is an error. What `skip`
            names is none.

    Returns:
        The copy, compiled as the given model is, with a fresh optimizer. Its attribute
        `quantization_report` says what becomes of each layer.

    Raises:
        ValueError: If the model has no graph or is not built, an argument is out of
            its range, a name is unknown, nothing can be quantised, `strict` finds
            layers that cannot, or activations are not finite on the data.
        TypeError: If an argument is of the wrong type.
    """
    _check(model, data, ranges, momentum)
    batches = None
    if data is not None:
        batches = evidence.read(data, num_batches, "quantize_aware")
    flow = written_out(model)
    kept = _kept_float(model, skip)
    fold_normalisations(flow, kept)
    places = Places(flow, kept)
    report = places.report()
    _check_report(model, report, strict)
    copy = Builder(places, ranges, momentum).model(model.name)
    copy_weights(flow)
    if batches is not None:
        calibrate(copy, batches)
    copy.quantization_report = report
    if report.floats:
        Notices().warn(_floats(model, report))
    return compile_alike(model, copy)


def _check(model: Any, data: Any, ranges: str, momentum: float) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(f"quantize_aware: expected a Keras 3 model. {received(model)}")
    check_backend("quantize_aware")
    if not has_graph(model):
        raise ValueError(
            f"quantize_aware: {model.name!r} is a subclassed model "
            f"({type(model).__name__}), whose call() only Python can follow. Build it "
            "with the functional API, or export it with representative data: "
            "kprune.export(model, path, quantization='int8', representative_data=x)."
        )
    if not model.built or graph_of(model) is None:
        raise ValueError(
            f"quantize_aware: {model.name!r} is not built: it has no weights yet. Give "
            "it a keras.Input, or call it on data, first."
        )
    if any(switches(model)):
        raise ValueError(
            f"quantize_aware: {model.name!r} is quantised already. Train it as it is."
        )
    if ranges not in RANGES:
        raise ValueError(
            f"quantize_aware: `ranges` must be one of {RANGES}. Received {ranges!r}."
        )
    if ranges == "learned" and data is None:
        raise ValueError(
            "quantize_aware: ranges='learned' needs data to begin with: "
            "data=x_train[:256]."
        )
    if not isinstance(momentum, (int, float)) or not 0 <= momentum < 1:
        raise ValueError(
            f"quantize_aware: `momentum` must be in [0, 1). Received {momentum!r}."
        )


def _kept_float(model: keras.Model, skip: Any) -> set[str]:
    """Returns the names of the layers that `skip` means."""
    layers = [layer for layer in model._flatten_layers() if layer is not model]
    names = [name for layer in layers for name in _called(layer)]
    found: set[str] = set()
    for matcher in matchers("quantize_aware: `skip`", skip):
        hits = [e for e in layers if means(matcher, (e, plain(e)), _called(e))]
        if not hits:
            if isinstance(matcher, str):
                raise ValueError(f"quantize_aware: skip: {unknown(matcher, names)}")
            raise ValueError(f"quantize_aware: skip: {matcher!r} matches no layer.")
        for layer in hits:
            found.update(part.name for part in layer._flatten_layers())
    return found


def _called(layer: keras.layers.Layer) -> tuple[str, ...]:
    return (layer.name, layer.path) if layer.path else (layer.name,)


def calibrate(model: keras.Model, batches: Sequence[evidence.Batch]) -> None:
    """Takes the ranges of a quantised model's activations.

    Args:
        model: A model that `quantize_aware` made.
        batches: Inputs.

    Raises:
        ValueError: If activations are not finite.
    """
    with observing():
        for batch in batches:
            model(batch.x, training=False)
    check_ranges("quantize_aware", model)


def check_ranges(owner: str, model: keras.Model) -> None:
    """Raises a `ValueError` if a range was never observed, or is not finite."""
    for layer in switches(model):
        if not isinstance(layer, FakeQuantize) or layer.fixed is not None:
            continue
        if not np.isfinite(layer.range).all():
            raise ValueError(
                f"{owner}: activations at {layer.name!r} are NaN or infinite. Check "
                "the data for such values, and the model's weights."
            )
        if not layer.observations.numpy().all():
            raise ValueError(
                f"{owner}: the range of the activations at {layer.name!r} was never "
                "observed. Train the model with fit(), or give data to "
                "kprune.quantize_aware(model, data=x)."
            )


def _check_report(model: keras.Model, report: QuantizationReport, strict: bool) -> None:
    if not any(layer.reason == "" for layer in report.layers):
        raise ValueError(
            f"quantize_aware: no layer of {model.name!r} can be quantised.\n{report}"
        )
    unasked = [layer for layer in report.floats if layer.reason != SKIPPED]
    if strict and unasked:
        lines = "\n".join(f"  {layer.name}: {layer.reason}" for layer in unasked)
        raise ValueError(
            f"quantize_aware: strict=True, and layers of {model.name!r} cannot be "
            f"quantised:\n{lines}\nReplace them, name them in `skip`, or leave out "
            "`strict`."
        )


def _floats(model: keras.Model, report: QuantizationReport) -> str:
    lines = ", ".join(f"{layer.name!r} ({layer.reason})" for layer in report.floats)
    return (
        f"Layers of {model.name!r} stay in float32: {lines}. Microcontrollers and NPUs "
        "may refuse the file, and others convert to float and back there. strict=True "
        "makes it an error; print(model.quantization_report) shows all layers."
    )
