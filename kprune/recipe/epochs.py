"""The state of a stage between two epochs: kept while it trains, to go on from.

This module changes when something else belongs to that state.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kprune.page import fits
from kprune.report import FitRecord


class EpochKeeper(keras.callbacks.Callback):
    """Keeps a model and its optimizer after each epoch, for a fit that is stopped.

    The fit that goes on is given `callbacks` and `initial_epoch` as `fit` has them, and
    ends with the same weights: the random numbers of an epoch depend on the seed and
    the epoch alone. Keras writes the state of no generator to its files.

    `keras.callbacks.BackupAndRestore` keeps weights and count of epochs in two files,
    and when it is stopped between them, or within one, cannot go on rightly.

    Args:
        made: The file of the whole stage, such as `2_prune.keras`. What is kept lies
            beside it, as `2_prune_epoch_3.keras`.
        seed: Of the stage.
    """

    tell: Callable[[Mapping[str, Sequence[Any]]], FitRecord]
    """Returns what the fit has to tell, of the logs of its epochs by name."""

    def __init__(self, made: Path, seed: int) -> None:
        super().__init__()
        self._made, self._seed = made, seed
        self._logs: dict[str, list[Any]] = {}
        file, _ = self.kept()
        self.before = None if file is None else fits.read(file)
        """What the fit had to tell that was stopped, `None` if there was none."""

    def kept(self) -> tuple[Path | None, int]:
        """Returns the newest file, and how many epochs are done in it."""
        done = {int(path.stem.rpartition("_")[2]): path for path in self._files()}
        return (done[max(done)], max(done)) if done else (None, 0)

    def clear(self) -> None:
        """Removes what is kept, once the stage is done."""
        for path in self._files():
            _remove(path)

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """Sets all random numbers, as if each epoch were a run of its own."""
        drawn = np.random.default_rng((self._seed, epoch))
        keras.utils.set_random_seed(int(drawn.integers(2**31)))
        for variable in self.model.variables:
            if variable.name == "seed_generator_state":
                variable.assign(drawn.integers(2**31, size=2))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Writes a file, whole or not at all, in the place of the one before."""
        before, _ = self.kept()
        file = self._made.with_name(f"{self._made.stem}_epoch_{epoch + 1}.keras")
        for name, value in (logs or {}).items():
            self._logs.setdefault(name, []).append(value)
        fits.write(self.tell(self._logs), file)
        partial = file.with_name(f"partial_{file.name}")
        self.model.save(partial)
        os.replace(partial, file)
        if before is not None:
            _remove(before)

    def _files(self) -> list[Path]:
        return [*self._made.parent.glob(f"{self._made.stem}_epoch_*.keras")]


def _remove(file: Path) -> None:
    file.unlink()
    fits.beside(file).unlink(missing_ok=True)
