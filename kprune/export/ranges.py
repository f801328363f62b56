"""Ranges that calibration could not observe.

This module changes when the converter stores such ranges in another way.
"""

import numpy as np

from kprune.export import tflite
from kprune.export.origin import told

# Where all values were zero, TensorFlow 2.21.0 makes an int8 range 2e-6 wide, and an
# int16 one 2.4e-38.
_WIDTH = 3e-6


def check_observed(data: bytes, count: int) -> None:
    """Refuses a file with ranges of values that were never other than zero.

    It computes rightly on what it was calibrated on, and clips everything else to zero.
    What is zero whatever the input is, since its weights are, is no mistake.

    Args:
        data: A file with integer activations, as the converter wrote it.
        count: The number of samples that it was calibrated on.

    Raises:
        ValueError: If there are such ranges; names the inputs and layers.
    """
    graph = tflite.parse(data).subgraphs[0]
    empty = {tensor.index for tensor in graph.tensors if _is_empty(tensor)}
    if not empty:
        return
    found = ["an input of the model" for index in graph.inputs if index in empty]
    for position, operator in enumerate(graph.operators):
        if empty.isdisjoint(operator.outputs):
            continue
        read = [graph.tensors[index] for index in operator.inputs if index >= 0]
        varying = {tensor.index for tensor in read if tensor.values is None}
        weights = [t for t in read if t.values is not None and len(t.shape) > 1]
        follows = bool(varying) and varying <= empty
        if follows or any(np.all(weight.zero_mask) for weight in weights):
            continue
        is_input = operator.name == "QUANTIZE" and varying <= set(graph.inputs)
        found.append("an input of the model" if is_input else told(graph, position))
    if found:
        raise ValueError(
            f"`representative_data`: on all {count} samples these were nothing but "
            f"zero, so that their ranges are not known: "
            f"{', '.join(dict.fromkeys(found))}. On a device other values would be "
            "clipped to zero. Pass samples on which they are not zero, or remove the "
            "layers if they never are (kprune.shrink), or keep them and the layers "
            "that read them in float32 (float_layers=[...])."
        )


def _is_empty(tensor: tflite.Tensor) -> bool:
    if tensor.values is not None or tensor.type not in ("INT8", "INT16"):
        return False
    levels = 255 if tensor.type == "INT8" else 65535
    return bool(tensor.scale.size) and float(tensor.scale[0]) * levels < _WIDTH
