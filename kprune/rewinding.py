"""Lottery tickets: prune, set back what is left to an early step, train again.

The masks are `PruningCallback`'s; what is added is the early state, and when training
goes back to it. This module changes when something else is to be set back.
"""

import dataclasses
import os
import pathlib
from typing import Any

import keras
import numpy as np

from kprune.callbacks import PruningCallback
from kprune.channels import ChannelGroup
from kprune.config import check_fraction
from kprune.layers import values
from kprune.plan import Plan
from kprune.schedules import (
    Epochs,
    FitFraction,
    FitLength,
    Moment,
    PiecewiseSparsity,
    check_moment,
    plain_step,
)
from kprune.updates import MaskUpdates

_ONE_EPOCH = Epochs(1)


class RewindCallback(PruningCallback):
    """Prunes in rounds, each time training what is left from an early step on.

    The fit's epochs are split in `rounds` + 1 parts of the same length. After each part
    but the last, as the next one begins, the same share of what is left is pruned, so
    that all rounds together reach `sparsity`; then all that survives is set back to
    what it was at `rewind_to`, in the first part:

    - all weights of the model: kernels, biases, scales, and statistics of batch
      normalisations; what masks prune stays zero;
    - the optimizer's own variables, such as momentum and moving averages.

    These go on: `optimizer.iterations`, and with it a learning rate that depends on it;
    a dynamic loss scale; random numbers; the order of data; and other callbacks, so
    that `EarlyStopping` has to be patient. To have the learning rate begin anew with
    each part, as the sources do, give a `keras.callbacks.LearningRateScheduler` of
    `epoch % part`. Adam corrects its bias by iterations, so that its first steps after
    an early moment are up to three times as long as at first.

    An epoch's logs, validation and checkpoints are those of the part before: they show
    what each ticket is worth at the end of its training.

    Source: Frankle and Carbin, "The lottery ticket hypothesis", 2019,
    https://arxiv.org/abs/1803.03635, iterative pruning with resetting, `rewind_to=0`;
    Frankle et al., "Linear mode connectivity and the lottery ticket hypothesis", 2020,
    https://arxiv.org/abs/1912.05671, from an early step. Deviations: each part has as
    many epochs as the first, where the sources train up to the same step; the
    optimizer's variables are those of the early step; `allocation` is LAMP by default,
    theirs is "global". Renda et al., "Comparing rewinding and fine-tuning", 2020,
    https://arxiv.org/abs/2003.02389, set back the learning rate alone: that is
    `PruningCallback` with a `PiecewiseSparsity` and a `LearningRateScheduler`.

    To resume an interrupted fit, say `rewind_file`: the early state is written there
    and read again. See `PruningCallback` for the rest.

    Args:
        sparsity: Fraction of zeros to reach after the last round, in (0, 1).
        rounds: How often it prunes and sets back, at least 1.
        rewind_to: The moment in the first part that survivors are set back to: a step,
            `Epochs` or `FitFraction`; `Epochs(0)` for the begin of the fit. Where
            several steps are made in one execution, the first end of one from there on.
        rewind_file: Where to write the early state, an .npz file as large as weights
            and optimizer; by default it is kept in memory only.
        data: As for `PruningCallback`.
        num_batches: As for `PruningCallback`.
        optimizer: As for `PruningCallback`; the one whose variables are set back.
        **rule: Further arguments of `Rule`, but for `schedule`.

    Raises:
        ValueError: If a value is out of its range; when the fit begins, if its epochs
            cannot be split, `rewind_to` is not in the first part, or the early state is
            not known.
        TypeError: If an argument is unknown or of the wrong type.
    """

    def __init__(
        self,
        sparsity: float = 0.9,
        rounds: int = 4,
        rewind_to: Moment = _ONE_EPOCH,
        *,
        rewind_file: str | os.PathLike[str] | None = None,
        data: Any = None,
        num_batches: int = 8,
        optimizer: keras.optimizers.Optimizer | None = None,
        **rule: Any,
    ) -> None:
        _check(sparsity, rounds, rewind_to, rule)
        self._sparsities = sparsities(sparsity, rounds)
        # In this form rules are checked; the fit's length says which steps it means.
        moments = tuple(FitFraction(r / (rounds + 1)) for r in range(1, rounds + 1))
        super().__init__(
            schedule=PiecewiseSparsity(moments, self._sparsities),
            data=data,
            num_batches=num_batches,
            optimizer=optimizer,
            **rule,
        )
        self._rewind_to = rewind_to
        self._file = None if rewind_file is None else pathlib.Path(rewind_file)
        self._early: list[np.ndarray] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Forgets an earlier fit."""
        super().on_train_begin(logs)
        self._early = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Prunes and sets back where a part begins.

        Raises:
            ValueError: If the fit cannot be split, or the early state is not known.
        """
        if self._updates is None:
            self._check_model()
        super().on_epoch_begin(epoch, logs)
        updates: Any = self._updates
        updates.update()
        if 0 < epoch <= self._part * len(self._sparsities) and epoch % self._part == 0:
            self._set_back(updates)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Keeps the state of the early step."""
        super().on_train_batch_end(batch, logs)
        if self._waiting and self._steps.now >= self._early_step:
            self._keep_early()

    def _update(self, updates: MaskUpdates) -> None:
        """Does nothing: masks are made where a part begins, see `on_epoch_begin`."""

    def _begin(self) -> None:
        epochs, batches = self.params.get("epochs", 1), self.params.get("steps")
        parts = len(self._sparsities) + 1
        if epochs % parts:
            fewer = epochs // parts * parts
            raise ValueError(
                f"RewindCallback: rounds={parts - 1} splits the epochs of the fit in "
                f"{parts} equal parts. Received epochs={epochs}; say epochs="
                f"{fewer or parts} or {fewer + parts}."
            )
        if batches is None:
            raise ValueError(
                "RewindCallback has to know how many batches an epoch has. Say "
                "fit(steps_per_epoch=...), or give the data set its length with "
                "tf.data.experimental.assert_cardinality."
            )
        self._part = epochs // parts
        fit = self._steps.fit_length(self._initial_epoch, batches, epochs)
        ends = [fit.step_at(self._part * r) for r in range(1, parts)]
        self._early_step = self._placed(fit.step_at(0), ends[0], fit)
        self._find_early(self._initial_epoch)
        # A loss scale leaves steps out: due a little before, and asked between epochs.
        slack = (fit.step_at(1) - fit.step_at(0)) // 2
        due = PiecewiseSparsity([max(0, s - slack) for s in ends], self._sparsities)
        given: Any = self._plan
        self._plan = Plan((dataclasses.replace(given.rules[0], schedule=due),))
        super()._begin()

    def _place(
        self, updates: MaskUpdates, batches: int, earliest: int | None = None
    ) -> FitLength:
        epochs = self.params["epochs"]
        fit = self._steps.fit_length(self._initial_epoch, batches, epochs)
        # Masks are made once an epoch.
        updates.place(fit, fit.step_at(1) - fit.step_at(0), earliest)
        return fit

    def _placed(self, first: int, end: int, fit: Any) -> int:
        """Returns the step to go back to.

        Raises:
            ValueError: If it is not in the fit's first part, from `first` to `end`.
        """
        step = plain_step(self._rewind_to, fit)
        stride = self.model.steps_per_execution
        if not first <= step <= end - stride:
            raise ValueError(
                f"RewindCallback: rewind_to={self._rewind_to!r} is step {step}. It has "
                f"to lie in the first part of the fit, of {self._part} epochs, between "
                f"step {first} and {end - stride}. Choose an earlier moment, such as "
                "kprune.Epochs(0), fewer rounds or more epochs."
            )
        return step

    def _check_model(self) -> None:
        if not (self.model.built and self.model.weights):
            raise ValueError(
                f"RewindCallback: {self.model.name!r} has no weights yet that could be "
                "set back to. Build it first: add an Input, call "
                "model.build(input_shape), or call it on a batch of data."
            )

    def _find_early(self, epoch: int) -> None:
        """Keeps the early state, or reads it, if its step is over.

        Raises:
            ValueError: If it is not known and will be needed.
        """
        now, step = self._steps.now, self._early_step
        self._waiting = now < step
        if now == step:
            self._keep_early()
        elif now > step and epoch <= self._part * len(self._sparsities):
            self._early = self._read_early(epoch)

    def _keep_early(self) -> None:
        self._waiting = False
        self._early = [np.array(values(variable)) for variable in self._state()]
        if self._file is not None:
            _write(self._file, self._early, self._early_step)

    def _read_early(self, epoch: int) -> list[np.ndarray]:
        if self._file is None or not self._file.exists():
            missing = "and no rewind_file is given"
            if self._file is not None:
                missing = f"and {str(self._file)!r} does not exist"
            raise ValueError(
                f"RewindCallback: the fit goes on with epoch {epoch}, at step "
                f"{self._steps.now}, after step {self._early_step}, whose state "
                f"survivors are set back to, {missing}. Say the same "
                "rewind_file='early.npz' before and after an interruption, or begin "
                "anew, without initial_epoch."
            )
        arrays, step = _read(self._file)
        shapes = [tuple(variable.shape) for variable in self._state()]
        if step != self._early_step or [a.shape for a in arrays] != shapes:
            raise ValueError(
                f"RewindCallback: {str(self._file)!r} holds {len(arrays)} arrays of "
                f"step {step}, and not the {len(shapes)} variables of this model and "
                f"its optimizer at step {self._early_step}: another fit wrote it."
            )
        return arrays

    def _set_back(self, updates: MaskUpdates) -> None:
        early: Any = self._early
        for variable, value in zip(self._state(), early, strict=True):
            variable.assign(value)
        updates.mask_again()
        for group in updates.groups:
            if isinstance(group, ChannelGroup):
                group.zero_statistics()

    def _state(self) -> list[keras.Variable]:
        """Returns the variables that are set back."""
        if not self._steps.optimizer.built:
            self._steps.optimizer.build(self.model.trainable_variables)
        counters = {
            id(variable)
            for inner in self._steps.optimizers
            for variable in (inner._iterations, inner._learning_rate)
        }
        slots = [v for inner in self._steps.optimizers for v in inner.variables]
        return [*self.model.weights, *(v for v in slots if id(v) not in counters)]


def sparsities(final: float, rounds: int) -> tuple[float, ...]:
    """Returns the sparsity after each round, of which each keeps the same share.

    Example:
        >>> [round(sparsity, 3) for sparsity in sparsities(0.875, 3)]
        [0.5, 0.75, 0.875]
    """
    kept = (1 - final) ** (1 / rounds)
    return (*(1 - kept**r for r in range(1, rounds)), final)


def _check(sparsity: Any, rounds: Any, rewind_to: Any, rule: dict[str, Any]) -> None:
    check_fraction("sparsity", sparsity, "RewindCallback")
    if sparsity == 0:
        raise ValueError("RewindCallback: `sparsity` must not be 0: nothing is pruned.")
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ValueError(
            "RewindCallback: `rounds` must be an integer of at least 1. "
            f"Received {rounds!r}."
        )
    check_moment("rewind_to", rewind_to, "RewindCallback")
    for name in ("schedule", "plan"):
        if name in rule:
            raise TypeError(
                f"RewindCallback: `{name}` is not an argument: the schedule follows "
                "from sparsity and rounds. Give what else a rule says as arguments, "
                "such as criterion='magnitude'."
            )

    if rule.get("regrowth") is not None:
        raise ValueError(
            "RewindCallback: what is left is set back to its early weights, and what "
            f"grows back has none. Received regrowth={rule['regrowth']!r}; leave it "
            "out, or use PruningCallback."
        )


def _write(path: pathlib.Path, arrays: list[np.ndarray], step: int) -> None:
    """Writes arrays to a file that is there as a whole or not at all."""
    # NumPy's files know no bfloat16; float32 holds it exactly.
    plain = [a if a.dtype.isbuiltin == 1 else a.astype(np.float32) for a in arrays]
    numbered: Any = {f"{place}": array for place, array in enumerate(plain)}
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            np.savez(file, step=step, **numbered)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _read(path: pathlib.Path) -> tuple[list[np.ndarray], int]:
    with np.load(path) as file:
        arrays = [file[f"{place}"] for place in range(len(file.files) - 1)]
        return arrays, int(file["step"])
