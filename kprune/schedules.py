"""Schedules: how sparse a weight is at each step of training.

A schedule is a pure function of the step, `optimizer.iterations`. It also says at which
steps the masks are made anew; between two updates they stay as they are. This module
changes when a new shape of schedule is wanted.
"""

import abc
import copy
import dataclasses
from typing import Any, Self

import keras

from kprune.config import Config, check_fraction


@dataclasses.dataclass(frozen=True)
class FitLength:
    """Where the epochs of one `fit` lie on the axis of optimizer steps.

    Args:
        first_batch: Number of batches that the optimizer had seen at the fit's epoch
            zero; zero for a fresh optimizer.
        batches_per_epoch: Batches in one epoch.
        epochs: The `epochs` argument of `fit`, the number of its last epoch.
        gradient_accumulation_steps: Batches that make one optimizer step.
    """

    first_batch: int
    batches_per_epoch: int
    epochs: int
    gradient_accumulation_steps: int = 1

    def step_at(self, epoch: float) -> int:
        """Returns the optimizer step at which `epoch` (counted from zero) begins."""
        batches = self.first_batch + int(epoch * self.batches_per_epoch)
        return batches // self.gradient_accumulation_steps


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Epochs(Config):
    """A moment counted in epochs of the fit, as its progress bar counts them.

    `Epochs(2)` is the moment after two whole epochs. Use it wherever a schedule takes
    a step: `PolynomialDecay(0.0, 0.9, begin_step=Epochs(2), end_step=Epochs(8))`.

    Args:
        epochs: Number of epochs since the fit's epoch zero, not negative; fractions
            are allowed. A fit that resumes with `initial_epoch=` goes on counting.
    """

    epochs: float

    def __post_init__(self) -> None:
        _check_number("epochs", self.epochs, "Epochs")

    def resolve(self, fit: FitLength) -> int:
        """Returns the optimizer step of this moment."""
        return fit.step_at(self.epochs)


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class FitFraction(Config):
    """A moment given as a fraction of the whole fit.

    Args:
        fraction: 0 is the begin of the fit's epoch zero, 1 is the end of its last
            epoch. A fit that resumes with `initial_epoch=` keeps the same moments.
    """

    fraction: float

    def __post_init__(self) -> None:
        _check_number("fraction", self.fraction, "FitFraction")
        if self.fraction > 1:
            raise ValueError(
                "FitFraction: `fraction` must lie in [0, 1]. "
                f"Received {self.fraction!r}."
            )

    def resolve(self, fit: FitLength) -> int:
        """Returns the optimizer step of this moment."""
        return fit.step_at(self.fraction * fit.epochs)


# An int, `Epochs` or `FitFraction`; an int once the schedule is resolved, and only then
# is it asked anything. Type checkers cannot know when that is.
Moment = Any


class Schedule(Config, abc.ABC):
    """Maps the step to a sparsity, and says when the masks are made anew.

    To add a schedule, write a frozen dataclass with `sparsity` and, as fields or
    properties, `begin_step`, `end_step` and `final_sparsity`, the sparsity at the end.
    Steps may be given as `Epochs` or `FitFraction`; such a schedule is resolved to
    plain steps when the fit's length is known, before it is asked anything.
    """

    begin_step: Moment
    end_step: Moment
    final_sparsity: float
    frequency: int | None = None

    @abc.abstractmethod
    def sparsity(self, step: int) -> float:
        """Returns the sparsity, in [0, 1), that belongs to `step`."""

    @property
    def is_resolved(self) -> bool:
        """Whether begin and end are plain steps."""
        return isinstance(self.begin_step, int) and isinstance(self.end_step, int)

    def resolve(self, fit: FitLength, earliest: int | None = None) -> Self:
        """Returns this schedule in plain steps.

        Args:
            fit: The length of the fit that the schedule is for.
            earliest: Moments given as `Epochs` or `FitFraction` are moved to this step
                where they lie before it, because it was not known then when they are.
        """
        resolved = copy.copy(self)
        for name in ("begin_step", "end_step"):
            moment = getattr(self, name)
            if isinstance(moment, Epochs | FitFraction) and name in self.__dict__:
                step = moment.resolve(fit)
                if earliest is not None:
                    step = max(step, earliest)
                # Past the checks of user input: before a fresh optimizer's first step
                # there are none, and yet epochs that `initial_epoch` skips.
                object.__setattr__(resolved, name, step)
        return resolved

    def last_update(self, step: int) -> int | None:
        """Returns the last step up to `step` at which an update is due.

        Updates are due at the begin, every `frequency` steps after it, and at the end.

        Args:
            step: Value of `optimizer.iterations`.

        Returns:
            The step of that update, or `None` before the begin.

        Raises:
            ValueError: If begin or end are not plain steps yet.
        """
        if not self.is_resolved:
            raise ValueError(
                f"{self} counts in epochs or fractions of a fit. Call "
                "`schedule.resolve(FitLength(...))` first; PruningCallback does so."
            )
        begin, end = self.begin_step, self.end_step
        if step < begin:
            return None
        if step >= end:
            return end
        every = self.frequency or default_frequency(begin, end)
        return begin + (step - begin) // every * every

    def due(self, previous: int, step: int) -> bool:
        """Returns whether an update falls into the steps after `previous` up to `step`.

        Asking for an interval and not for one step is what makes schedules safe with
        `steps_per_execution`, where callbacks see only every n-th step.
        """
        return self.last_update(previous) != self.last_update(step)


def default_frequency(begin: int, end: int) -> int:
    """Returns the steps between updates: 50 updates, at most 100 steps apart."""
    return min(100, max(1, (end - begin) // 50))


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class PolynomialDecay(Schedule):
    """Raises the sparsity along a polynomial: fast at first, slowly near the end.

    With p = (step - begin_step) / (end_step - begin_step), limited to [0, 1]:

        sparsity = final + (initial - final) * (1 - p) ** power

    Source: Zhu and Gupta, "To prune, or not to prune", 2017,
    https://arxiv.org/abs/1710.01878, equation 1, with power 3. Deviations: the power
    is free, and the last update falls on `end_step` whatever the frequency.

    Args:
        initial_sparsity: Sparsity from `begin_step` on, in [0, 1).
        final_sparsity: Sparsity from `end_step` on, in [0, 1), at least
            `initial_sparsity`: pruned weights are not released again.
        begin_step: Step of the first update; an `int`, `Epochs` or `FitFraction`.
        end_step: Step of the last update, not before `begin_step`.
        power: Exponent of the polynomial, positive; 1 is a straight line.
        frequency: Steps between updates, at least 1. By default 50 updates are spread
            over the ramp, at most 100 steps apart.

    Raises:
        ValueError: If a value is out of its range, or the end lies before the begin.
        TypeError: If a value is of another type.

    Example:
        >>> schedule = PolynomialDecay(0.2, 0.8, begin_step=100, end_step=110)
        >>> [round(schedule.sparsity(step), 4) for step in (99, 100, 102, 105, 110)]
        [0.0, 0.2, 0.4928, 0.725, 0.8]
    """

    initial_sparsity: float
    final_sparsity: float
    begin_step: Moment
    end_step: Moment
    power: float = 3.0
    frequency: int | None = None

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_fraction("initial_sparsity", self.initial_sparsity, owner)
        check_fraction("final_sparsity", self.final_sparsity, owner)
        if self.final_sparsity < self.initial_sparsity:
            raise ValueError(
                f"{owner}: `final_sparsity` must not be below `initial_sparsity`, "
                "because pruned weights stay pruned. Received initial_sparsity="
                f"{self.initial_sparsity!r}, final_sparsity={self.final_sparsity!r}."
            )
        _check_moments(self, owner)
        _check_number("power", self.power, owner)
        if self.power <= 0:
            raise ValueError(f"{owner}: `power` must be positive. Received 0.")

    def sparsity(self, step: int) -> float:
        """Returns the sparsity at `step`; 0 before `begin_step`."""
        if step < self.begin_step:
            return 0.0
        if step >= self.end_step:
            return self.final_sparsity
        left = (self.end_step - step) / (self.end_step - self.begin_step)
        drop = self.initial_sparsity - self.final_sparsity
        return self.final_sparsity + drop * left**self.power


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class ConstantSparsity(Schedule):
    """Prunes in one shot and keeps that sparsity.

    Use it on a trained model whose accuracy survives the cut, or from the first step
    to train a network that is sparse throughout. Pruned weights stay pruned, so there
    is one update only, at `begin_step`.

    Args:
        target_sparsity: Sparsity from `begin_step` on, in [0, 1).
        begin_step: Step of the update; an `int`, `Epochs` or `FitFraction`.

    Raises:
        ValueError: If a value is out of its range.
        TypeError: If a value is of another type.

    Example:
        >>> schedule = ConstantSparsity(0.5, begin_step=10)
        >>> schedule.sparsity(9), schedule.sparsity(10), schedule.sparsity(10_000)
        (0.0, 0.5, 0.5)
    """

    target_sparsity: float
    begin_step: Moment = 0

    def __post_init__(self) -> None:
        check_fraction("target_sparsity", self.target_sparsity, "ConstantSparsity")
        _check_moment("begin_step", self.begin_step, "ConstantSparsity")

    @property
    def end_step(self) -> Moment:
        """The step of the only update."""
        return self.begin_step

    @property
    def final_sparsity(self) -> float:  # type: ignore[override]
        """The target sparsity."""
        return self.target_sparsity

    def sparsity(self, step: int) -> float:
        """Returns the target sparsity from `begin_step` on, 0 before it."""
        return self.target_sparsity if step >= self.begin_step else 0.0


def _check_number(name: str, value: Any, owner: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            f"{owner}: `{name}` must be a number. "
            f"Received {value!r} of type {type(value).__name__}."
        )
    if not value >= 0 or value == float("inf"):
        raise ValueError(
            f"{owner}: `{name}` must be finite and not negative. Received {value!r}."
        )


def _check_moment(name: str, value: Any, owner: str) -> None:
    if isinstance(value, Epochs | FitFraction):
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"{owner}: `{name}` must be a step (an int), kprune.Epochs(...) or "
            f"kprune.FitFraction(...). Received {value!r} of type "
            f"{type(value).__name__}."
        )
    if value < 0:
        raise ValueError(f"{owner}: `{name}` must not be negative. Received {value}.")


def _check_moments(schedule: Schedule, owner: str) -> None:
    begin, end, every = schedule.begin_step, schedule.end_step, schedule.frequency
    _check_moment("begin_step", begin, owner)
    _check_moment("end_step", end, owner)
    if type(begin) is type(end):
        if isinstance(begin, int):
            late = begin > end
        elif isinstance(begin, Epochs):
            late = begin.epochs > end.epochs
        else:
            late = begin.fraction > end.fraction
        if late:
            raise ValueError(
                f"{owner}: the end must not lie before the begin. Received "
                f"begin_step={begin!r}, end_step={end!r}."
            )
    if every is not None:
        if isinstance(every, bool) or not isinstance(every, int):
            raise TypeError(
                f"{owner}: `frequency` must be an int, the steps between updates. "
                f"Received {every!r} of type {type(every).__name__}."
            )
        if every < 1:
            raise ValueError(
                f"{owner}: `frequency` must be at least 1. Received {every}."
            )
