"""Schedules: how sparse a weight is at each step of training.

A schedule is a pure function of the step, `optimizer.iterations`. It also says at which
steps the masks are made anew; between two updates they stay as they are. This module
changes when a new shape of schedule is wanted.
"""

import abc
import bisect
import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
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
        check_number("epochs", self.epochs, "Epochs")

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
        check_number("fraction", self.fraction, "FitFraction")
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


class Timed:
    """A setting that acts at steps between a begin and an end.

    Steps may be given as `Epochs` or `FitFraction`; they are resolved to plain steps
    when the fit's length is known, before anything is asked.
    """

    begin_step: Moment
    end_step: Moment
    frequency: int | None = None

    @property
    def is_resolved(self) -> bool:
        """Whether begin and end are plain steps."""
        return isinstance(self.begin_step, int) and isinstance(self.end_step, int)

    def resolve(self, fit: FitLength, earliest: int | None = None) -> Self:
        """Returns this setting in plain steps.

        Args:
            fit: The length of the fit that it is for.
            earliest: Moments given as `Epochs` or `FitFraction` are moved to this step
                where they lie before it, because it was not known then when they are.
        """
        resolved = copy.copy(self)
        for name in ("begin_step", "end_step"):
            if name in self.__dict__:
                step = plain_step(getattr(self, name), fit, earliest)
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


class Schedule(Timed, Config, abc.ABC):
    """Maps the step to a sparsity, and says when the masks are made anew.

    To add a schedule, write a frozen dataclass with `sparsity` and, as fields or
    properties, `begin_step`, `end_step` and `final_sparsity`, the sparsity at the end.
    """

    # None: not known before the schedule is in plain steps.
    final_sparsity: float | None

    @abc.abstractmethod
    def sparsity(self, step: int) -> float:
        """Returns the sparsity, in [0, 1), that belongs to `step`."""


def default_frequency(begin: int, end: int) -> int:
    """Returns the steps between updates: 50 updates, at most 100 steps apart."""
    return min(100, max(1, (end - begin) // 50))


class Ramp(Schedule):
    """Raises the sparsity from one value at the begin to another at the end.

    To add a ramp, write a frozen dataclass with the four fields below, `frequency` as
    the last one, and `between`.
    """

    initial_sparsity: float
    final_sparsity: float
    begin_step: Moment
    end_step: Moment

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
        check_moments(self, owner)

    @abc.abstractmethod
    def between(self, left: float) -> float:
        """Returns the sparsity with a share of the ramp, `left` in (0, 1], to go."""

    def sparsity(self, step: int) -> float:
        """Returns the sparsity at `step`; 0 before `begin_step`."""
        if step < self.begin_step:
            return 0.0
        if step >= self.end_step:
            return self.final_sparsity
        return self.between((self.end_step - step) / (self.end_step - self.begin_step))


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class PolynomialDecay(Ramp):
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
        super().__post_init__()
        _check_power(self)

    def between(self, left: float) -> float:
        """Returns the sparsity with a share of the ramp, `left`, to go."""
        drop = self.initial_sparsity - self.final_sparsity
        return self.final_sparsity + drop * left**self.power


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class ConstantSparsity(Schedule):
    """Prunes in one shot and keeps that sparsity.

    Use it on a trained model whose accuracy survives the cut, or from the first step
    to train a network that is sparse throughout. There is one update only, at
    `begin_step`, unless a regrowth, such as `kprune.RigL()`, makes more of them.

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
        check_moment("begin_step", self.begin_step, "ConstantSparsity")

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


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class CosineRamp(Ramp):
    """Raises the sparsity along half a cosine: slowly, fast, and slowly again.

    With p = (step - begin_step) / (end_step - begin_step), limited to [0, 1]:

        sparsity = final + (initial - final) * (1 + cos(pi * p)) / 2

    Args:
        initial_sparsity: Sparsity from `begin_step` on, in [0, 1).
        final_sparsity: Sparsity from `end_step` on, in [0, 1), at least
            `initial_sparsity`.
        begin_step: Step of the first update; an `int`, `Epochs` or `FitFraction`.
        end_step: Step of the last update, not before `begin_step`.
        frequency: Steps between updates, as for `PolynomialDecay`.

    Raises:
        ValueError: If a value is out of its range, or the end lies before the begin.
        TypeError: If a value is of another type.

    Example:
        >>> schedule = CosineRamp(0.0, 0.8, begin_step=0, end_step=4)
        >>> [round(schedule.sparsity(step), 4) for step in range(5)]
        [0.0, 0.1172, 0.4, 0.6828, 0.8]
    """

    initial_sparsity: float
    final_sparsity: float
    begin_step: Moment
    end_step: Moment
    frequency: int | None = None

    def between(self, left: float) -> float:
        """Returns the sparsity with a share of the ramp, `left`, to go."""
        drop = self.initial_sparsity - self.final_sparsity
        return self.final_sparsity + drop * (1 + math.cos(math.pi * (1 - left))) / 2


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class ExponentialRamp(Ramp):
    """Prunes the same share of what is left at each update.

    With p = (step - begin_step) / (end_step - begin_step), limited to [0, 1]:

        1 - sparsity = (1 - initial) ** (1 - p) * (1 - final) ** p

    Source: Frankle and Carbin, "The lottery ticket hypothesis", 2019,
    https://arxiv.org/abs/1803.03635, section 1, iterative pruning: each of n rounds
    takes the same share of the surviving weights. Here every update is a round.

    Args:
        initial_sparsity: Sparsity from `begin_step` on, in [0, 1).
        final_sparsity: Sparsity from `end_step` on, in [0, 1), at least
            `initial_sparsity`.
        begin_step: Step of the first update; an `int`, `Epochs` or `FitFraction`.
        end_step: Step of the last update, not before `begin_step`.
        frequency: Steps between updates, as for `PolynomialDecay`.

    Raises:
        ValueError: If a value is out of its range, or the end lies before the begin.
        TypeError: If a value is of another type.

    Example:
        >>> schedule = ExponentialRamp(0.0, 0.75, begin_step=0, end_step=2)
        >>> [round(schedule.sparsity(step), 4) for step in range(3)]
        [0.0, 0.5, 0.75]
    """

    initial_sparsity: float
    final_sparsity: float
    begin_step: Moment
    end_step: Moment
    frequency: int | None = None

    def between(self, left: float) -> float:
        """Returns the sparsity with a share of the ramp, `left`, to go."""
        kept = (1 - self.initial_sparsity) ** left * (1 - self.final_sparsity) ** (
            1 - left
        )
        return 1 - kept


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class CyclicRamp(Ramp):
    """Prunes in rounds, with time to recover under a fixed mask after each.

    The sparsities at the ends of the rounds lie on a polynomial from `initial_sparsity`
    to `final_sparsity`, and each round is a polynomial by itself. The last round ends
    at `end_step`; what the fit has left after it is its recovery. Learning rates that
    restart warm go well with it: let them restart where rounds begin, at
    `begin_step + k * (end_step - begin_step) / (rounds - recovery)`.

    Args:
        initial_sparsity: Sparsity from `begin_step` on, in [0, 1).
        final_sparsity: Sparsity from `end_step` on, in [0, 1), at least
            `initial_sparsity`.
        begin_step: Step of the first update; an `int`, `Epochs` or `FitFraction`.
        end_step: Step of the last update, not before `begin_step`.
        rounds: Number of rounds, at least 1.
        recovery: Share of a round, in [0, 1), in which the sparsity does not rise.
        power: Exponent of the polynomials, positive.
        frequency: Steps between updates, as for `PolynomialDecay`.

    Raises:
        ValueError: If a value is out of its range, or the end lies before the begin.
        TypeError: If a value is of another type.

    Example:
        >>> schedule = CyclicRamp(0.0, 0.8, 0, 30, rounds=2, recovery=0.5, power=1)
        >>> [round(schedule.sparsity(step), 4) for step in (0, 5, 10, 20, 25, 30)]
        [0.0, 0.2, 0.4, 0.4, 0.6, 0.8]
    """

    initial_sparsity: float
    final_sparsity: float
    begin_step: Moment
    end_step: Moment
    rounds: int = 3
    recovery: float = 0.5
    power: float = 3.0
    frequency: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_power(self)
        check_fraction("recovery", self.recovery, "CyclicRamp")
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int):
            raise TypeError(
                f"CyclicRamp: `rounds` must be an int. Received {self.rounds!r} of "
                f"type {type(self.rounds).__name__}."
            )
        if self.rounds < 1:
            raise ValueError(
                f"CyclicRamp: `rounds` must be at least 1. Received {self.rounds}."
            )

    def between(self, left: float) -> float:
        """Returns the sparsity with a share of the ramp, `left`, to go."""
        place = (1 - left) * (self.rounds - self.recovery)
        done = min(int(place), self.rounds - 1)
        low, high = self._level(done), self._level(done + 1)
        of_round = min(1.0, (place - done) / (1 - self.recovery))
        return min(high, low + (high - low) * (1 - (1 - of_round) ** self.power))

    def _level(self, rounds_done: int) -> float:
        if rounds_done == self.rounds:
            return self.final_sparsity
        drop = self.initial_sparsity - self.final_sparsity
        return self.final_sparsity + drop * (1 - rounds_done / self.rounds) ** (
            self.power
        )


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class PiecewiseSparsity(Schedule):
    """Goes through sparsities at steps that you name.

    Between two of them the sparsity stays, or rises along a straight line.

    Args:
        steps: Steps in ascending order, each an `int`, `Epochs` or `FitFraction`.
        sparsities: The sparsity from each step on, in [0, 1), never falling: pruned
            weights stay pruned.
        linear: Whether it rises along a line from one step to the next.
        frequency: With `linear`, steps between updates, as for `PolynomialDecay`.
            Without, updates are due at `steps` only.

    Raises:
        ValueError: If a value is out of its range, or order is not kept.
        TypeError: If a value is of another type.

    Example:
        >>> schedule = PiecewiseSparsity((10, 20, 40), (0.5, 0.7, 0.8))
        >>> [schedule.sparsity(step) for step in (9, 10, 19, 20, 50)]
        [0.0, 0.5, 0.5, 0.7, 0.8]
    """

    steps: Sequence[Moment]
    sparsities: Sequence[float]
    linear: bool = False
    frequency: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "sparsities"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple) or not value:
                raise TypeError(
                    f"PiecewiseSparsity: `{name}` must be a sequence, such as "
                    f"steps=(0, 1000), sparsities=(0.5, 0.8). Received {value!r}."
                )
            object.__setattr__(self, name, tuple(value))
        if len(self.steps) != len(self.sparsities):
            raise ValueError(
                "PiecewiseSparsity: give one sparsity for each step. Received "
                f"{len(self.steps)} steps and {len(self.sparsities)} sparsities."
            )
        for moment in self.steps:
            check_moment("steps", moment, "PiecewiseSparsity")
        for sparsity in self.sparsities:
            check_fraction("sparsities", sparsity, "PiecewiseSparsity")
        if list(self.sparsities) != sorted(self.sparsities):
            raise ValueError(
                "PiecewiseSparsity: `sparsities` must not fall, because pruned weights "
                f"stay pruned. Received {self.sparsities}."
            )
        for earlier, later in zip(self.steps, self.steps[1:], strict=False):
            if _is_late(earlier, later):
                raise ValueError(
                    "PiecewiseSparsity: `steps` must be in ascending order. Received "
                    f"{later!r} after {earlier!r}."
                )
        check_frequency(self.frequency, "PiecewiseSparsity")

    @property
    def begin_step(self) -> Moment:
        """The first step."""
        return self.steps[0]

    @property
    def end_step(self) -> Moment:
        """The last step."""
        return self.steps[-1]

    @property
    def final_sparsity(self) -> float:  # type: ignore[override]
        """The last sparsity."""
        return self.sparsities[-1]

    @property
    def is_resolved(self) -> bool:
        """Whether all steps are plain ones."""
        return all(isinstance(step, int) for step in self.steps)

    def resolve(self, fit: FitLength, earliest: int | None = None) -> Self:
        """Returns this schedule in plain steps.

        Raises:
            ValueError: If the steps are not in ascending order then.
        """
        steps = tuple(plain_step(moment, fit, earliest) for moment in self.steps)
        if list(steps) != sorted(steps):
            raise ValueError(
                f"PiecewiseSparsity: in this fit the steps {self.steps} are {steps}, "
                "which is not in ascending order. Count all of them in the same way."
            )
        resolved = copy.copy(self)
        object.__setattr__(resolved, "steps", steps)
        return resolved

    def sparsity(self, step: int) -> float:
        """Returns the sparsity at `step`; 0 before the first one."""
        place = bisect.bisect_right(self.steps, step) - 1
        if place < 0:
            return 0.0
        low = self.sparsities[place]
        if not self.linear or place + 1 == len(self.steps):
            return low
        begin, end = self.steps[place : place + 2]
        high = self.sparsities[place + 1]
        return min(high, low + (high - low) * (step - begin) / (end - begin))

    def last_update(self, step: int) -> int | None:
        """Returns the last step up to `step` at which an update is due."""
        regular = super().last_update(step)
        if regular is None:
            return None
        named = self.steps[bisect.bisect_right(self.steps, step) - 1]
        return max(regular, named) if self.linear else named


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class SparsityFunction(Schedule):
    """Asks a function of yours for the sparsity at each update.

    A function given as `schedule=` becomes one. Where its sparsity falls, the masks
    stay: pruned weights stay pruned.

    Args:
        function: From the step, `optimizer.iterations`, to a sparsity in [0, 1). To
            save it with a model, decorate it with
            `@keras.saving.register_keras_serializable(...)`; a lambda cannot be saved.
        begin_step: Step of the first update; an `int`, `Epochs` or `FitFraction`.
        end_step: Step of the last update; by default the end of the fit.
        frequency: Steps between updates, as for `PolynomialDecay`.

    Raises:
        ValueError: If the end lies before the begin; when asked, if the function
            returns no sparsity; when saved, if it is not registered.
        TypeError: If a value is of another type.

    Example:
        >>> schedule = SparsityFunction(lambda step: 0.1 * (step // 10), 0, end_step=50)
        >>> schedule.sparsity(25), schedule.final_sparsity
        (0.2, 0.5)
    """

    function: Callable[[int], float]
    begin_step: Moment = 0
    end_step: Moment = dataclasses.field(default_factory=lambda: FitFraction(1.0))
    frequency: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.function, type) or not callable(self.function):
            raise TypeError(
                "SparsityFunction: `function` must be a function from a step to a "
                f"sparsity. Received {self.function!r}."
            )
        check_moments(self, "SparsityFunction")

    @property
    def final_sparsity(self) -> float | None:  # type: ignore[override]
        """The sparsity at the end; `None` until that is a plain step."""
        return self.sparsity(self.end_step) if self.is_resolved else None

    def sparsity(self, step: int) -> float:
        """Returns the function's value; 0 before `begin_step`."""
        if step < self.begin_step:
            return 0.0
        value = self.function(min(step, self.end_step))
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"The schedule's function {self._name} must return a number, the "
                f"fraction of zeros. For step {step} it returned {value!r}."
            ) from error
        check_fraction(f"sparsity({step})", number, f"function {self._name}")
        return number

    def get_config(self) -> dict[str, Any]:
        """Returns the fields as values that JSON can hold.

        Raises:
            ValueError: If the function is not registered with Keras.
        """
        function = self.function
        if not hasattr(function, "get_config"):
            name = keras.saving.get_registered_name(function)
            if keras.saving.get_registered_object(name) is not function:
                raise ValueError(
                    f"The schedule's function {self._name} cannot be saved. Give it a "
                    "name and decorate it with "
                    '@keras.saving.register_keras_serializable("my_package").'
                )
        return super().get_config()

    @property
    def _name(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


def check_number(name: str, value: Any, owner: str) -> None:
    """Raises unless `value` is a finite number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            f"{owner}: `{name}` must be a number. "
            f"Received {value!r} of type {type(value).__name__}."
        )
    if not value >= 0 or value == float("inf"):
        raise ValueError(
            f"{owner}: `{name}` must be finite and not negative. Received {value!r}."
        )


def check_moment(name: str, value: Any, owner: str) -> None:
    """Raises unless `value` is a step, `Epochs` or `FitFraction`."""
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


def check_moments(timed: Timed, owner: str) -> None:
    """Raises unless begin, end and frequency are ones that can be."""
    check_span(timed.begin_step, timed.end_step, owner)
    check_frequency(timed.frequency, owner)


def check_span(begin: Moment, end: Moment, owner: str) -> None:
    """Raises unless two moments are ones, and the end is not before the begin."""
    check_moment("begin_step", begin, owner)
    check_moment("end_step", end, owner)
    if _is_late(begin, end):
        raise ValueError(
            f"{owner}: the end must not lie before the begin. Received "
            f"begin_step={begin!r}, end_step={end!r}."
        )


def _is_late(begin: Moment, end: Moment) -> bool:
    """Returns whether the begin is known to lie after the end."""
    if type(begin) is not type(end):
        return False  # Only the fit's length tells.
    if isinstance(begin, int):
        return begin > end
    if isinstance(begin, Epochs):
        return begin.epochs > end.epochs
    return bool(begin.fraction > end.fraction)


def plain_step(moment: Moment, fit: FitLength, earliest: int | None = None) -> int:
    """Returns the step of a moment; see `Timed.resolve`."""
    if isinstance(moment, int):
        return moment
    step = moment.resolve(fit)
    return step if earliest is None else max(step, earliest)


def check_frequency(every: Any, owner: str) -> None:
    """Raises unless it is a number of steps, or `None`."""
    if every is None:
        return
    if isinstance(every, bool) or not isinstance(every, int):
        raise TypeError(
            f"{owner}: `frequency` must be an int, the steps between updates. "
            f"Received {every!r} of type {type(every).__name__}."
        )
    if every < 1:
        raise ValueError(f"{owner}: `frequency` must be at least 1. Received {every}.")


def _check_power(schedule: Any) -> None:
    owner = type(schedule).__name__
    check_number("power", schedule.power, owner)
    if schedule.power <= 0:
        raise ValueError(f"{owner}: `power` must be positive. Received 0.")
