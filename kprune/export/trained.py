"""Models that were trained to be int8: they know their ranges themselves.

This module changes when `kprune.quantize_aware` makes models in another way.
"""

import contextlib

import keras

from kprune.quantization.aware import check_ranges
from kprune.quantization.fake_quantization import switches
from kprune.quantization.mode import deployed, unrounded

INT8 = "int8"


def is_trained(model: keras.Model) -> bool:
    """Returns whether a model was made by `kprune.quantize_aware`."""
    return bool(switches(model))


def check_trained(model: keras.Model, quantization: str | None) -> str | None:
    """Returns the quantisation of a model's file: of a trained one always int8.

    Raises:
        ValueError: If another one is asked for, rounding has not begun in training, or
            a range was never observed.
    """
    layers = switches(model)
    if not layers:
        return quantization
    if quantization not in (None, INT8):
        raise ValueError(
            f"Model {model.name!r} is trained for quantization='int8' "
            f"(kprune.quantize_aware). Received {quantization!r}. Export the model "
            "that it was made of instead."
        )
    waiting = [layer.name for layer in layers if not layer.active]
    if waiting:
        raise ValueError(
            f"Model {model.name!r} does not round yet (at {waiting[0]!r} and "
            f"{len(waiting) - 1} more layers): QuantizationCallback would have begun "
            "at a later step. Train it further, or give it an earlier `begin_step`."
        )
    check_ranges("export", model)
    return INT8


def refuse_trained(argument: str, model: keras.Model) -> None:
    """Raises a `ValueError` for a trained model, whose ranges are settled."""
    if is_trained(model):
        raise ValueError(
            f"{argument} is for models that are quantised after training, and "
            f"{model.name!r} is trained for int8. Give the model that it was made of, "
            "or say what is to stay in float32 before training: "
            "kprune.quantize_aware(model, skip=...)."
        )


def traced_for(quantization: str) -> contextlib.AbstractContextManager[None]:
    """While a trained model is traced, it computes what the converter is to see."""
    return deployed() if quantization == INT8 else unrounded()
