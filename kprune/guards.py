"""A guard on accuracy: pruning waits, or goes back, while a metric is too low.

This module changes when a guard decides in another way, or acts otherwise.
"""

import dataclasses
import math
from typing import Any

import keras

from kprune.config import Config
from kprune.layers import mask_of, values
from kprune.naming import nearest
from kprune.report import GuardRecord
from kprune.snapshots import Snapshot
from kprune.steps import StepCounter
from kprune.updates import MaskUpdates

NOT_KEPT = "what an AccuracyGuard has seen and held back is in no checkpoint."
_HIGHER = ("acc", "auc", "precision", "recall", "f1", "iou", "r2")
_LOWER = ("loss", "error", "mse", "mae", "rmse", "mape", "perplexity")


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class AccuracyGuard(Config):
    """Makes pruning wait while a metric is too far below what the dense model has.

    After each epoch with a value of the metric, once something is pruned: if it is
    worse than the dense level by more than `tolerance`, masks stay as they are, and
    the schedule's clock stands still. Once it is back within the tolerance the schedule
    goes on from where it stood, so that its end comes later by the time that was spent
    waiting. With `roll_back_after`, waiting has an end: the weights, masks and
    optimizer state of the last epoch within the tolerance are set back, and masks stay
    so until the end of the fit. Either way the fit ends with where it settled, in
    `report.guard`, and with a `PruningWarning` if that is not what was asked for.

    Args:
        monitor: The metric, by its name in the logs, such as `"val_accuracy"`.
        tolerance: How much worse than the dense level is accepted, in the metric's own
            unit, at least 0: 0.01 of an accuracy is one percentage point.
        dense_level: The metric of the dense model. By default the best value after
            epochs in which nothing was pruned yet; the schedule has to begin after one.
        roll_back_after: After so many epochs in a row that are too low, at least 1, it
            goes back; 1 does not wait at all. `None` waits as long as it takes. It
            keeps a copy of weights and optimizer state in memory.
        mode: `"max"` if higher is better, `"min"` if lower is, `"auto"` to tell by the
            metric's name.

    Raises:
        ValueError: If a value is out of its range, or the name of the metric does not
            tell what is better.
        TypeError: If a value is of another type.

    Example:
        >>> guard = AccuracyGuard("val_accuracy", tolerance=0.01)
        >>> guard.is_within(0.935, level=0.94), guard.is_within(0.925, level=0.94)
        (True, False)
    """

    monitor: str = "val_accuracy"
    tolerance: float = 0.01
    dense_level: float | None = None
    roll_back_after: int | None = None
    mode: str = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.monitor, str):
            raise TypeError(
                "AccuracyGuard: `monitor` must be the name of a metric, such as "
                f"'val_accuracy'. Received {self.monitor!r}."
            )
        _check_number("tolerance", self.tolerance)
        if self.tolerance < 0:
            raise ValueError(
                "AccuracyGuard: `tolerance` must not be negative. "
                f"Received {self.tolerance!r}."
            )
        if self.dense_level is not None:
            _check_number("dense_level", self.dense_level)
        after = self.roll_back_after
        if after is not None and (
            isinstance(after, bool) or not isinstance(after, int) or after < 1
        ):
            raise ValueError(
                "AccuracyGuard: `roll_back_after` must be None or a number of epochs, "
                f"at least 1. Received {after!r}."
            )
        if self.mode not in ("auto", "min", "max"):
            raise ValueError(
                "AccuracyGuard: `mode` must be 'max', 'min' or 'auto'. "
                f"Received {self.mode!r}."
            )
        if self.mode == "auto":
            object.__setattr__(self, "mode", mode_of("AccuracyGuard", self.monitor))

    def better(self, value: float, other: float | None) -> float:
        """Returns the better one of two values; `other` may be missing."""
        if other is None:
            return value
        return max(value, other) if self.mode == "max" else min(value, other)

    def is_within(self, value: float, level: float) -> bool:
        """Returns whether a value is worse than a level by the tolerance at most."""
        short = level - value if self.mode == "max" else value - level
        # Not `short > tolerance`: NaN is not within. 1e-9: 0.94 - 0.93 is not 0.01.
        return short <= self.tolerance + 1e-9

    def decide(self, value: float, level: float, epochs_below: int) -> str:
        """Returns what is to be done after an epoch.

        Args:
            value: The metric after it.
            level: The dense level.
            epochs_below: How many epochs in a row were too low just before it.

        Returns:
            `"go on"`, `"hold"` or `"roll back"`.
        """
        if self.is_within(value, level):
            return "go on"
        after = self.roll_back_after
        return "hold" if after is None or epochs_below + 1 < after else "roll back"


class Guarding:
    """A guard at work in one training.

    Args:
        guard: What it goes by.
        model: The model.
        steps: Counts the steps of its optimizer.
        updates: The masks that it watches over.

    Attributes:
        settled: Whether it has gone back, and masks stay as they are for good.
    """

    def __init__(
        self,
        guard: AccuracyGuard,
        model: keras.Model,
        steps: StepCounter,
        updates: MaskUpdates,
    ) -> None:
        self.settled = False
        self._guard, self._model = guard, model
        self._steps, self._updates = steps, updates
        self._level = guard.dense_level
        self._value: float | None = None
        self._below = self._num_below = 0
        self._good: tuple[int, Snapshot] | None = None
        self._back_at: int | None = None
        self._stuck = False

    def check_begin(self, first_end: int) -> None:
        """Makes sure that the dense level will be known.

        Args:
            first_end: The step at which the first epoch ends.

        Raises:
            ValueError: If it is not given, and something is pruned before that step.
        """
        if self._level is None and any(
            _prunes_before(group, first_end) for group in self._updates.groups
        ):
            raise ValueError(self._no_level())

    def judge(self, logs: dict[str, Any]) -> None:
        """Looks at the logs of an epoch: lets pruning go on, holds it, or goes back.

        Raises:
            ValueError: If the metric is not among them, or the dense level is not known
                once something is pruned.
        """
        value = self._value_in(logs)
        if value is None:
            return
        self._value = value
        dense = self._updates.sparsity == 0
        if dense and self._guard.dense_level is None:
            self._level = self._guard.better(value, self._level)
        if self._level is None:
            raise ValueError(self._no_level())
        decision = self._guard.decide(value, self._level, self._below)
        if decision == "go on":
            self._let_go_on()
        elif not dense:
            self._wait(decision)

    def record(self) -> GuardRecord:
        """Returns what it has seen and done."""
        value, level = self._value, self._level
        return GuardRecord(
            monitor=self._guard.monitor,
            tolerance=self._guard.tolerance,
            dense_level=level,
            value=value,
            within=None
            if value is None or level is None
            else self._guard.is_within(value, level),
            epochs_below=self._num_below,
            rolled_back_to=self._back_at,
            nothing_to_go_back_to=self._stuck,
            sparsity=self._updates.sparsity,
        )

    def at_end(self) -> list[str]:
        """Says what it did, if the training did not come out as asked for."""
        found = self.record()
        return [str(found)] if found.within is not True or self._kept_back() else []

    def _kept_back(self) -> bool:
        return self._num_below > 0 and not self._updates.at_target

    def _let_go_on(self) -> None:
        self._below, self._stuck = 0, False
        if not self.settled:
            self._updates.go_on()
            if self._guard.roll_back_after is not None:
                optimizer = self._steps.optimizer
                snapshot = Snapshot(self._model, optimizer, self._updates)
                self._good = self._steps.now, snapshot

    def _wait(self, decision: str) -> None:
        self._below += 1
        self._num_below += 1
        self._updates.hold()
        if decision == "roll back" and not self.settled:
            self._stuck = self._good is None
            if self._good is not None:
                self._back_at, snapshot = self._good
                snapshot.restore()
                self._good, self.settled = None, True

    def _value_in(self, logs: dict[str, Any]) -> float | None:
        monitor = self._guard.monitor
        if monitor in logs:
            return float(logs[monitor])
        names = [name for name in logs if name != "sparsity"]
        if monitor.startswith("val_") and not any(n.startswith("val_") for n in names):
            if self._value is None:
                self._updates.notices.warn(
                    f"AccuracyGuard looks at {monitor!r}, and after the first epoch "
                    f"there is only {', '.join(names)}. Without "
                    "fit(validation_data=...) it does nothing."
                )
            return None
        near = nearest(monitor, names)
        raise ValueError(
            f"AccuracyGuard: there is no {monitor!r} in the logs of the epoch. "
            + (f"Did you mean {near!r}? " if near else "")
            + f"They have {', '.join(names)}. Say monitor=..., or "
            "compile(metrics=[...])."
        )

    def _no_level(self) -> str:
        monitor = self._guard.monitor.removeprefix("val_")
        return (
            "AccuracyGuard: the level of the dense model is not known, because weights "
            "are pruned before there is a first value. Give it, such as dense_level="
            f"model.evaluate(x_val, y_val, return_dict=True)[{monitor!r}], or begin "
            "later, such as with PolynomialDecay(0.0, 0.9, kprune.Epochs(1), "
            "kprune.FitFraction(0.5))."
        )


def check_guard(owner: str, guard: Any) -> None:
    """Raises TypeError if what the user gave is neither `None` nor a guard."""
    if guard is not None and not isinstance(guard, AccuracyGuard):
        raise TypeError(
            f"{owner}: `guard` must be a kprune.AccuracyGuard. Received {guard!r} of "
            f"type {type(guard).__name__}."
        )


def _prunes_before(group: Any, step: int) -> bool:
    """Returns whether a group has zeros held at a step, or now."""
    masks = [mask_of(weight.variable) for weight in group.weights]
    if any(mask is not None and not values(mask.mask).all() for mask in masks):
        return True
    schedule = group.schedule
    if schedule is None or not schedule.is_resolved:
        return False
    update = schedule.last_update(step)
    return update is not None and schedule.sparsity(update) > 0


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            f"AccuracyGuard: `{name}` must be a number. Received {value!r} of type "
            f"{type(value).__name__}."
        )
    if not math.isfinite(value):
        raise ValueError(f"AccuracyGuard: `{name}` must be finite. Received {value!r}.")


def mode_of(owner: str, monitor: str) -> str:
    """Returns `"max"` if higher values of a metric are better, `"min"` if lower are.

    Raises:
        ValueError: If its name does not tell.
    """
    name = monitor.lower()
    if any(word in name for word in _LOWER):
        return "min"
    if any(word in name for word in _HIGHER):
        return "max"
    raise ValueError(
        f"{owner}: the name {monitor!r} does not tell whether higher or lower is "
        "better. Say mode='max' or mode='min'."
    )
