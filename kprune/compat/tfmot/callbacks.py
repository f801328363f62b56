"""tfmot's callbacks, in `fit` and in loops of the user's own.

This module changes when tfmot's callbacks do.
"""

import importlib.util
import os
from typing import Any

import keras
import numpy as np

from kprune.callbacks import PruningCallback
from kprune.foreign import check_trained
from kprune.layers import mask_constraints, pruned_layers, values
from kprune.notices import Notices
from kprune.pruner import Pruner
from kprune.summaries import write_scalar


class UpdatePruningStep(PruningCallback):
    """Makes the masks of a model in wrappers; does nothing with others.

    In `fit` it is one of the callbacks, at any place among them. In a loop of your own:

        model.optimizer = optimizer
        pruning = UpdatePruningStep()
        pruning.set_model(model)
        pruning.on_train_begin()
        for epoch in range(epochs):
            for x, y in batches:
                pruning.on_train_batch_begin(batch=-1)
                ...  # optimizer.apply_gradients(...)
            pruning.on_epoch_end(batch=-1)

    It is a `kprune.PruningCallback`, with its `report` and `history`; in such a loop
    these are those of a `kprune.Pruner`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pruner: Pruner | None = None
        self._has_work = True

    @property
    def report(self) -> Any:
        """The state of the pruned weights, see `kprune.PruningCallback`."""
        return self._pruner.report if self._pruner else super().report

    @property
    def history(self) -> list[tuple[int, float]]:
        """List of `(step, sparsity)`, one pair per update of the masks."""
        return self._pruner.history if self._pruner else super().history

    def set_model(self, model: Any) -> None:
        """Takes the model that is to be trained.

        Raises:
            TypeError: If it is none of Keras 3.
        """
        super().set_model(model)
        _mend_optimizer(model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Finds the wrappers; in a loop of the user's own makes the first masks."""
        super().on_train_begin(logs)
        self._has_work = next(pruned_layers(self.model), None) is not None
        # `fit` says how long it is.
        is_own_loop = self._has_work and not self.params
        self._pruner = Pruner(self.model) if is_own_loop else None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """As `kprune.PruningCallback`."""
        if self._has_work and self._pruner is None:
            super().on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """As `kprune.PruningCallback`; in a loop of the user's own ends the last step.

        Args:
            batch: Anything.
            logs: Anything.
        """
        if self._pruner is not None:
            self._pruner.step()
        else:
            super().on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """As `kprune.PruningCallback`."""
        if self._has_work and self._pruner is None:
            super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """As `kprune.PruningCallback`; in a loop of the user's own ends the last step.

        Args:
            batch: The epoch, as tfmot names it.
            logs: The metrics.
        """
        if self._pruner is not None:
            self._pruner.step()
        else:
            super().on_epoch_end(batch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        """As `kprune.PruningCallback`."""
        if self._pruner is not None:
            self._pruner.finish()
        else:
            super().on_train_end(logs)


class PruningSummaries(keras.callbacks.TensorBoard):
    """Writes how sparse weights are, beside what `TensorBoard` writes.

    In the folder `metrics` of `log_dir`, at the begin of each epoch and at the end of
    training, by optimizer steps: `<weight>/sparsity`, the share that is masked, and
    `<weight>/threshold`, the lowest magnitude that is kept.

    Args:
        log_dir: The folder of the logs.
        update_freq: As for `keras.callbacks.TensorBoard`, and for what it writes only.
        **kwargs: Further arguments of `keras.callbacks.TensorBoard`.

    Raises:
        ValueError: If `log_dir` is no name of a folder, or `update_freq` nothing that
            Keras has.
        ImportError: If the package `tensorboard` is missing.
    """

    def __init__(
        self, log_dir: Any, update_freq: str | int = "epoch", **kwargs: Any
    ) -> None:
        if not isinstance(log_dir, str | os.PathLike) or not os.fspath(log_dir):
            raise ValueError(
                "PruningSummaries: `log_dir` must be the name of a folder. Received "
                f"{log_dir!r}."
            )
        steps = isinstance(update_freq, int) and update_freq >= 1
        if not steps and update_freq not in ("epoch", "batch"):
            raise ValueError(
                "PruningSummaries: `update_freq` must be 'epoch', 'batch' or a number "
                f"of batches of at least 1. Received {update_freq!r}."
            )
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                "PruningSummaries writes what keras.callbacks.TensorBoard does, which "
                "needs a package that TensorFlow does not bring along any more: pip "
                "install tensorboard. kprune.PruningSummaries does without."
            )
        super().__init__(log_dir=log_dir, update_freq=update_freq, **kwargs)
        self._pruning_writer: Any = None

    def set_model(self, model: Any) -> None:
        """Takes the model that is to be trained.

        Raises:
            TypeError: If it is none of Keras 3.
        """
        check_trained(type(self).__name__, model)
        super().set_model(model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Writes the state of the masks."""
        super().on_epoch_begin(epoch, logs)
        self._write_masks()

    def on_train_end(self, logs: Any = None) -> None:
        """Writes the state of the masks, and closes the files."""
        self._write_masks()
        super().on_train_end(logs)
        if self._pruning_writer is not None:
            self._pruning_writer.close()
            self._pruning_writer = None

    def _write_masks(self) -> None:
        import tensorflow as tf

        if self._pruning_writer is None:
            folder = os.path.join(self.log_dir, "metrics")
            self._pruning_writer = tf.summary.create_file_writer(folder)
        weights = {variable.path: variable for variable in self.model.weights}
        step = int(self.model.optimizer.iterations)
        with self._pruning_writer.as_default():
            for path, constraint in mask_constraints(self.model).items():
                mask = values(constraint.mask)
                kept = np.abs(values(weights[path]))[mask]
                write_scalar(f"{path}/sparsity", 1 - mask.mean(), step)
                write_scalar(f"{path}/threshold", kept.min(initial=np.inf), step)
        self._pruning_writer.flush()


def _mend_optimizer(model: keras.Model) -> None:
    """Lets a model out of a `.h5` file, tfmot's way of checkpointing, be trained on.

    Keras 3 gives its optimizer the steps that were made and none of the variables, and
    fails in the first step.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built or optimizer._trainable_variables:
        return
    optimizer.built = False
    optimizer.build(model.trainable_variables)
    Notices().warn(
        "Keras 3 reads nothing of an optimizer from a '.h5' file but its steps. "
        f"Training goes on at step {int(optimizer.iterations)}; what "
        f"{optimizer.name!r} had gathered of earlier gradients begins anew. Save "
        "checkpoints as '.keras'."
    )
