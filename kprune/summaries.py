"""Pruning in TensorBoard: sparsity, and how masks lie over outputs.

This module changes when something else is to be seen there.
"""

import os
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kprune.callbacks import PruningCallback
from kprune.foreign import check_trained
from kprune.layers import mask_constraints, values
from kprune.prunable import candidates

_BUCKETS = 30


class PruningSummaries(keras.callbacks.Callback):
    """Writes how sparse a model is, while `fit` prunes it, for TensorBoard.

    The files lie in the folder `pruning` of `log_dir`, beside those that
    `keras.callbacks.TensorBoard(log_dir)` writes, and count in optimizer steps.
    `pruning_sparsity/total` has a value per update of the masks, the share of what may
    be pruned, as `sparsity` in the logs; `pruning_sparsity/<weight>` one per epoch, the
    share of the weight's elements that are zero. Writing needs TensorFlow only; the
    package `tensorboard` shows it.

    Args:
        pruning: The `PruningCallback` of the same fit, which stands before this one.
        log_dir: The folder of the logs.
        histograms: Whether to write, per epoch and weight, `pruning_density/<weight>`:
            how many outputs (filters, units) keep which share of their weights.

    Raises:
        TypeError: If `pruning` is no `PruningCallback`.
    """

    def __init__(
        self,
        pruning: PruningCallback,
        log_dir: str | os.PathLike[str],
        histograms: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(pruning, PruningCallback):
            raise TypeError(
                "PruningSummaries: `pruning` must be the fit's PruningCallback. "
                f"Received {pruning!r} of type {type(pruning).__name__}."
            )
        self._pruning = pruning
        self._folder = os.path.join(os.fspath(log_dir), "pruning")
        self._histograms = histograms
        self._writer: Any = None
        self._written = 0

    def set_model(self, model: Any) -> None:
        """Takes the model that is to be trained.

        Raises:
            TypeError: If it is none of Keras 3.
        """
        check_trained("PruningSummaries", model)
        super().set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Opens a file."""
        import tensorflow as tf

        self._writer = tf.summary.create_file_writer(self._folder)
        self._written = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes what has changed since the last epoch."""
        report = self._pruning.report
        with self._writer.as_default():
            for step, sparsity in report.history[self._written :]:
                write_scalar("pruning_sparsity/total", sparsity, step)
            self._written = len(report.history)
            for weight in report.weights:
                write_scalar(
                    f"pruning_sparsity/{weight.path}", weight.sparsity, report.step
                )
            if self._histograms:
                for path, density in _densities(self.model):
                    _histogram(f"pruning_density/{path}", density, report.step)
        self._writer.flush()

    def on_train_end(self, logs: Any = None) -> None:
        """Closes the file."""
        self._writer.close()


def _densities(model: keras.Model) -> Iterator[tuple[str, np.ndarray]]:
    """Yields, per weight with a mask, the share that each of its outputs keeps."""
    axes = {c.variable.path: c.axes for c in candidates(model)}
    for path, constraint in mask_constraints(model).items():
        mask, known = values(constraint.mask), axes.get(path)
        # Keras's own layers make their outputs along the last axis.
        mask = np.moveaxis(mask, -1, 0) if known is None else known.arranged(mask)
        yield path, mask.reshape(len(mask), -1).mean(1)


# What `tf.summary.scalar` and `histogram` write, which need the package `tensorboard`.
# The formats are those of its plugins:
# https://github.com/tensorflow/tensorboard/blob/master/tensorboard/plugins/scalar/metadata.py
# https://github.com/tensorflow/tensorboard/blob/master/tensorboard/plugins/histogram/metadata.py


def write_scalar(tag: str, value: float, step: int | None) -> None:
    """Writes one number, for the dashboard of scalars."""
    _write(tag, np.float32(value), step, "scalars", 1)


def _histogram(tag: str, shares: np.ndarray, step: int | None) -> None:
    """Writes rows of left edge, right edge and count, over [0, 1]."""
    counts, edges = np.histogram(shares, _BUCKETS, (0.0, 1.0))
    rows = np.stack([edges[:-1], edges[1:], counts.astype(np.float64)], axis=1)
    _write(tag, rows, step, "histograms", 2)


def _write(tag: str, value: Any, step: int | None, plugin: str, kind: int) -> None:
    import tensorflow as tf

    metadata = tf.compat.v1.SummaryMetadata
    tf.summary.write(
        tag,
        value,
        step=step,
        metadata=metadata(
            plugin_data=metadata.PluginData(plugin_name=plugin), data_class=kind
        ),
    )
