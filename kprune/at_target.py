"""Callbacks that pick epochs, made to see those at the target sparsity only.

This module changes when a callback is told of epochs in another way.
"""

from typing import Any

import keras

from kprune.callbacks import PruningCallback
from kprune.foreign import check_trained
from kprune.notices import Notices


class AtTarget(keras.callbacks.Callback):
    """Lets another callback see only epochs that are as sparse as they shall be.

    Give `EarlyStopping` or `ModelCheckpoint(save_best_only=True)` this way, beside the
    pruning callback and in any order: the best epoch is then chosen among those that
    were trained at the target sparsity from their begin, and patience counts from
    there. It is called as ever, but for the ends of earlier epochs and their batches.
    Where an `AccuracyGuard` went back, the target is where it settled.

    Args:
        callback: The callback, of any kind.
        pruning: The `PruningCallback` of the same fit.

    Raises:
        TypeError: If one of them is of another type.

    Example:
        >>> pruning = PruningCallback(sparsity=0.9)
        >>> best = keras.callbacks.ModelCheckpoint("best.keras", save_best_only=True)
        >>> callbacks = [pruning, AtTarget(best, pruning)]
    """

    def __init__(
        self, callback: keras.callbacks.Callback, pruning: PruningCallback
    ) -> None:
        super().__init__()
        if not isinstance(callback, keras.callbacks.Callback):
            raise TypeError(
                "AtTarget: `callback` must be a keras.callbacks.Callback. Received "
                f"{callback!r} of type {type(callback).__name__}."
            )
        if not isinstance(pruning, PruningCallback):
            raise TypeError(
                "AtTarget: `pruning` must be the fit's PruningCallback. Received "
                f"{pruning!r} of type {type(pruning).__name__}."
            )
        self._callback, self._pruning = callback, pruning
        self._seen = 0

    def set_params(self, params: Any) -> None:
        """Hands over the fit's parameters."""
        super().set_params(params)
        self._callback.set_params(params)

    def set_model(self, model: Any) -> None:
        """Hands over the model.

        Raises:
            TypeError: If it is none of Keras 3.
        """
        check_trained("AtTarget", model)
        super().set_model(model)
        self._callback.set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Begins."""
        self._seen = 0
        self._callback.on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Tells of each epoch's begin."""
        self._callback.on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Tells of each batch's begin."""
        self._callback.on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tells of a batch's end in epochs at the target."""
        if self._pruning.at_target:
            self._callback.on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Tells of an epoch's end if it was at the target."""
        if self._pruning.at_target:
            self._seen += 1
            self._callback.on_epoch_end(epoch, logs)

    def on_test_begin(self, logs: Any = None) -> None:
        """Tells of validation."""
        self._callback.on_test_begin(logs)

    def on_test_end(self, logs: Any = None) -> None:
        """Tells of validation."""
        self._callback.on_test_end(logs)

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Tells of validation."""
        self._callback.on_test_batch_begin(batch, logs)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tells of validation."""
        self._callback.on_test_batch_end(batch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        """Ends; warns if no epoch was at the target."""
        self._callback.on_train_end(logs)
        if not self._seen:
            Notices().warn(
                f"No epoch of the fit was trained at the target sparsity from its "
                f"begin, so that {type(self._callback).__name__} has judged none, and "
                "neither stopped the fit nor kept a model. Train longer, or end the "
                "schedule earlier."
            )
