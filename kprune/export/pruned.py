"""The weights of a model, and what pruning asked of them.

This module changes when kprune marks pruned models in another way.

A pruned model needs no stripping before it is converted: its masks act through
constraints in the training step, so its inference graph holds the weights and nothing
of kprune. That also exports models which `kprune.strip` cannot rebuild.
"""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from kprune.export import matching
from kprune.export.tflite import TFLiteFile
from kprune.layers import mask_of
from kprune.quantization.fake_quantization import FakeQuantize, switches
from kprune.report import WeightRecord


@dataclasses.dataclass(frozen=True)
class Weight:
    """One kernel of a Keras model.

    Args:
        path: The variable's path.
        value: Its values.
        asked: Share of elements that its mask holds at zero; `None` without a mask.
    """

    path: str
    value: np.ndarray
    asked: float | None


def weights_of(model: keras.Model) -> list[Weight]:
    """Returns the kernels of a model: of rank 2 and more, or masked.

    Biases of rank 2, which recurrent and attention layers have, are no kernels.
    """
    found = []
    for variable in model.weights:
        if variable.dtype == "bool":
            continue  # The masks of wrappers.
        constraint = mask_of(variable)
        kernel = len(variable.shape) >= 2 and variable.name != "bias"
        if constraint is None and not kernel:
            continue
        asked = None
        if constraint is not None:
            mask = constraint.mask.numpy()
            asked = float(np.mean(~mask)) if mask.size else 0.0
        value = variable.numpy()
        found.append(Weight(variable.path, value, asked))
    return found


def parameters(model: keras.Model) -> tuple[int, int]:
    """Returns how many parameters a model has, and how many are not zero.

    Masks, the state of random generators and ranges of quantisation are no parameters.
    """
    total = nonzero = 0
    ranges = {
        id(variable)
        for layer in switches(model)
        if isinstance(layer, FakeQuantize)
        for variable in layer.variables
    }
    for variable in model.weights:
        if "float" in variable.dtype and id(variable) not in ranges:
            value = variable.numpy()
            total += value.size
            nonzero += int(np.count_nonzero(value))
    return total, nonzero


def records(
    weights: Sequence[Weight], file: TFLiteFile
) -> tuple[tuple[WeightRecord, ...], list[str]]:
    """Counts zeros in the file where a weight is found there, in Keras otherwise.

    Returns:
        The records, and sentences on zeros that were lost on the way.
    """
    images = matching.match([weight.value for weight in weights], list(file.weights()))
    result, notes = [], []
    for weight, image in zip(weights, images, strict=True):
        zeros, place = int((weight.value == 0).sum()), "Keras variable"
        if image is not None and (mask := image.zero_mask) is not None:
            kept, place = int(mask.sum()), "file"
            if kept < zeros:
                notes.append(
                    f"{weight.path!r} has {zeros - kept} fewer zeros in the file than "
                    "in Keras: an operation before it was folded into it."
                )
            zeros = kept
        result.append(
            WeightRecord(weight.path, weight.value.shape, zeros, weight.asked, place)
        )
    return tuple(result), notes


def names(weights: Sequence[Weight], file: TFLiteFile) -> dict[int, str]:
    """Returns the paths of weights by the index of their tensor in the main graph."""
    tensors = [t for t in file.subgraphs[0].tensors if t.values is not None]
    images = matching.match([weight.value for weight in weights], tensors)
    return {
        image.index: weight.path
        for weight, image in zip(weights, images, strict=True)
        if image is not None
    }
