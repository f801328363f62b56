"""Finding a Keras weight again among the tensors of a `.tflite` file.

This module changes when the converter stores weights in another layout.

The converter moves axes, folds batch normalisation into kernels and quantises, and it
names tensors by operations, not variables. What stays is each output channel's
direction: folding and quantising scale a channel as a whole. So a tensor is a weight's
image if its shape fits and every channel points the same way.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from kprune.export.tflite import Tensor

# Rounding to int8 turns a channel by a few degrees at most; other weights of the same
# shape are nearly at a right angle.
_MIN_COSINE = 0.95


def match(
    weights: Sequence[np.ndarray], tensors: Sequence[Tensor]
) -> list[Tensor | None]:
    """Returns for each weight the file's tensor that certainly is its image.

    Args:
        weights: Keras kernels in Keras's layout.
        tensors: The file's constant tensors.

    Returns:
        One entry per weight; `None` where no tensor fits. A weight that several layers
        share may have several images, of which this is one.
    """
    real: dict[int, np.ndarray] = {}
    found = []
    for weight in weights:
        best, best_cosine = None, _MIN_COSINE
        for layout in layouts(weight):
            for position, tensor in enumerate(tensors):
                if tensor.shape != layout.shape or tensor.array is None:
                    continue
                if position not in real:
                    real[position] = np.asarray(tensor.real)
                # A depthwise kernel's channels are its last axis.
                axis = -1 if layout.shape[0] == 1 and layout.ndim == 4 else 0
                cosine = _cosine(layout, real[position], axis)
                if cosine > best_cosine:
                    best, best_cosine = tensor, cosine
        found.append(best)
    return found


def layouts(weight: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the layouts in which the converter may store a Keras kernel.

    Args:
        weight: The kernel: (in, out), (length, in, out), (height, width, in, out),
            depthwise (height, width, in, multiplier), transposed (height, width, out,
            in), or any shape that a product of matrices flattens.
    """
    if weight.ndim == 2:
        yield weight.T
    elif weight.ndim == 3:
        yield weight.transpose(2, 0, 1)[:, None]  # Conv1D as CONV_2D of height 1
        yield weight.transpose(2, 0, 1)[:, :, None]  # ... or of width 1
        yield weight.reshape(1, 1, *weight.shape[:1], -1)  # DepthwiseConv1D
        yield weight.reshape(1, *weight.shape[:1], 1, -1)
        yield weight.reshape(weight.shape[0], -1).T  # EinsumDense (in, heads, out)
        yield weight.reshape(-1, weight.shape[-1]).T  # EinsumDense (heads, in, out)
    elif weight.ndim == 4:
        yield weight.transpose(3, 0, 1, 2)  # CONV_2D: (out, height, width, in)
        yield weight.reshape(1, *weight.shape[:2], -1)  # DEPTHWISE_CONV_2D
        yield weight.transpose(2, 0, 1, 3)  # TRANSPOSE_CONV
        if weight.shape[:2] == (1, 1):
            yield weight[0, 0].T  # A 1x1 convolution as FULLY_CONNECTED
    yield weight


def _cosine(first: np.ndarray, second: np.ndarray, axis: int) -> float:
    """Returns the mean over channels of the absolute cosine between two tensors.

    A channel that is zero in both agrees; one that is zero in one only does not.
    """
    a = np.moveaxis(first, axis, 0).reshape(first.shape[axis], -1).astype(np.float64)
    b = np.moveaxis(second, axis, 0).reshape(second.shape[axis], -1).astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    product = np.abs((a * b).sum(axis=1))
    cosines = np.divide(product, lengths, out=np.zeros_like(product), where=lengths > 0)
    return float(np.where(both_zero, 1.0, cosines).mean())
