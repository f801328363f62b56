"""tfmot's schedules, and the schedules of kprune's that they stand for.

This module changes when tfmot's schedules do.
"""

import abc
import dataclasses
import numbers
import operator
from typing import Any, Self

import keras

from kprune.config import check_fraction
from kprune.foreign import received
from kprune.schedules import ConstantSparsity as OneShot
from kprune.schedules import PolynomialDecay as Ramp
from kprune.schedules import Schedule, check_frequency, check_span

_PACKAGE = "kprune.compat"


class PruningSchedule(abc.ABC):
    """Says at which steps masks are made anew, and how sparse they are then.

    Derive from it for a schedule of your own, with `__call__` and `get_config`. A step
    is what the optimizer has counted, `optimizer.iterations`; masks are those of step n
    after n steps, and those of step 0 before the first. A schedule that has an
    `end_step` of at least 0 has an update due there, whatever its frequency.
    """

    @abc.abstractmethod
    def __call__(self, step: Any) -> tuple[Any, Any]:
        """Returns whether masks are made anew at `step`, and the sparsity then.

        Args:
            step: An integer of at least 0, or a scalar tensor of them.

        Returns:
            A boolean and a float in [0, 1), as Python values or as tensors.
        """

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Returns `{"class_name": ..., "config": arguments of the constructor}`."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Returns the schedule of a configuration.

        Args:
            config: What `get_config` returned, or only the arguments in it.

        Raises:
            TypeError: If it is no configuration, or not of this class.
        """
        return cls(**_arguments(config))

    def __eq__(self, other: Any) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash(type(self))

    def _should_prune_in_step(
        self, step: Any, begin_step: int, end_step: int, frequency: int
    ) -> Any:
        """Returns whether `step` is a multiple of `frequency` after the begin.

        Args:
            step: The step.
            begin_step: The first step that may be.
            end_step: The last one; -1 if there is none.
            frequency: Steps from one to the next.
        """
        step = keras.ops.cast(step, "int64")
        in_range = keras.ops.logical_and(
            step >= begin_step, keras.ops.logical_or(step <= end_step, end_step < 0)
        )
        turn = keras.ops.equal((step - begin_step) % frequency, 0)
        return keras.ops.logical_and(in_range, turn)


@keras.saving.register_keras_serializable(_PACKAGE)
class ConstantSparsity(PruningSchedule):
    """The same sparsity from the begin on.

    kprune makes masks once, at `begin_step`, and holds them: where pruned weights stay
    zero, making them anew with the same sparsity would change nothing.

    Args:
        target_sparsity: Sparsity, in [0, 1).
        begin_step: The first step with masks, at least 0.
        end_step: The last step at which tfmot would make them anew, at least
            `begin_step`; -1 if there is none.
        frequency: Steps, at least 1, after which tfmot would do so.

    Raises:
        ValueError: If a value is out of its range.
        TypeError: If a value is of another type.
    """

    def __init__(
        self,
        target_sparsity: float,
        begin_step: int,
        end_step: int = -1,
        frequency: int = 100,
    ) -> None:
        owner = type(self).__name__
        self.target_sparsity = _number("target_sparsity", target_sparsity, owner)
        check_fraction("target_sparsity", self.target_sparsity, owner)
        self.begin_step = _integer("begin_step", begin_step, owner)
        self.end_step = _integer("end_step", end_step, owner)
        self.frequency = _integer("frequency", frequency, owner)
        has_end = self.end_step != -1
        check_span(
            self.begin_step, self.end_step if has_end else self.begin_step, owner
        )
        check_frequency(self.frequency, owner)

    def __call__(self, step: Any) -> tuple[Any, Any]:
        """Returns whether masks are made anew at `step`, and the target sparsity."""
        return (
            self._should_prune_in_step(
                step, self.begin_step, self.end_step, self.frequency
            ),
            keras.ops.convert_to_tensor(self.target_sparsity, "float32"),
        )

    def get_config(self) -> dict[str, Any]:
        """Returns `{"class_name": ..., "config": arguments of the constructor}`."""
        names = ("target_sparsity", "begin_step", "end_step", "frequency")
        return _config(self, names)


@keras.saving.register_keras_serializable(_PACKAGE)
class PolynomialDecay(PruningSchedule):
    """A sparsity that rises along a polynomial, see `kprune.PolynomialDecay`.

    Args:
        initial_sparsity: Sparsity at `begin_step`, in [0, 1).
        final_sparsity: Sparsity from `end_step` on, in [0, 1), at least
            `initial_sparsity`: what is pruned stays pruned.
        begin_step: Step of the first update, at least 0.
        end_step: Step of the last update, at least `begin_step`.
        power: Exponent of the polynomial, positive.
        frequency: Steps between updates, at least 1. There is one at `end_step`, too.

    Raises:
        ValueError: If a value is out of its range.
        TypeError: If a value is of another type.
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        power: float = 3,
        frequency: int = 100,
    ) -> None:
        owner = type(self).__name__
        self.initial_sparsity = _number("initial_sparsity", initial_sparsity, owner)
        self.final_sparsity = _number("final_sparsity", final_sparsity, owner)
        self.begin_step = _integer("begin_step", begin_step, owner)
        self.end_step = _integer("end_step", end_step, owner)
        self.power = _number("power", power, owner)
        self.frequency = _integer("frequency", frequency, owner)
        if self.end_step == -1:
            raise ValueError(
                f"{owner}: `end_step` must be a step, at which the sparsity is reached."
                " Received -1."
            )
        _ramp(self)  # Raises where a value cannot be.

    def __call__(self, step: Any) -> tuple[Any, Any]:
        """Returns whether masks are made anew at `step`, and the sparsity then."""
        due = self._should_prune_in_step(
            step, self.begin_step, self.end_step, self.frequency
        )
        step = keras.ops.cast(step, "int64")
        done = keras.ops.cast(step - self.begin_step, "float32")
        length = max(1, self.end_step - self.begin_step)
        left = 1 - keras.ops.clip(done / length, 0.0, 1.0)
        if self.begin_step == self.end_step:
            left = keras.ops.cast(step < self.end_step, "float32")
        drop = self.initial_sparsity - self.final_sparsity
        return (
            keras.ops.logical_or(due, keras.ops.equal(step, self.end_step)),
            self.final_sparsity + drop * keras.ops.power(left, self.power),
        )

    def get_config(self) -> dict[str, Any]:
        """Returns `{"class_name": ..., "config": arguments of the constructor}`."""
        names = ("initial_sparsity", "final_sparsity", "begin_step", "end_step")
        return _config(self, (*names, "power", "frequency"))


@keras.saving.register_keras_serializable(_PACKAGE)
@dataclasses.dataclass(frozen=True)
class Called(Schedule):
    """Asks a `PruningSchedule` of the user's own, step by step.

    Where it has an `end_step` of at least 0, the last update is due there; or else
    there is no end.

    Args:
        schedule: The schedule.
    """

    schedule: PruningSchedule

    @property
    def begin_step(self) -> int:
        """0: only the schedule itself knows when it begins."""
        return 0

    @property
    def end_step(self) -> int:
        """The schedule's `end_step`; 0 if it has none."""
        return max(0, self._end)

    @property
    def final_sparsity(self) -> float | None:  # type: ignore[override]
        """The sparsity at the end; `None` if there is none."""
        return None if self._end < 0 else self.sparsity(self._end)

    @property
    def _end(self) -> int:
        end = getattr(self.schedule, "end_step", None)
        return -1 if end is None else int(end)

    def sparsity(self, step: int) -> float:
        """Returns the schedule's sparsity at `step`."""
        sparsity = float(self._asked(step)[1])
        check_fraction(f"sparsity({step})", sparsity, type(self.schedule).__name__)
        return sparsity

    def last_update(self, step: int) -> int | None:
        """Returns the last step up to `step` at which an update is due."""
        if 0 <= self._end <= step:
            return self._end
        seen, found = self.__dict__.get("_seen", (-1, None))
        if step < seen:
            seen, found = -1, None
        due = (s for s in range(step, seen, -1) if bool(self._asked(s)[0]))
        found = next(due, found)
        # A memory, and no part of its value: a fit asks at each of its steps.
        self.__dict__["_seen"] = (step, found)
        return found

    def get_config(self) -> dict[str, Any]:
        """Returns the fields as values that JSON can hold."""
        config = super().get_config()
        schedule = config["schedule"]
        # Keras gives `from_config` what lies here, and tfmot's take arguments only.
        config["schedule"] = {**schedule, "config": _arguments(schedule["config"])}
        return config

    def _asked(self, step: int) -> tuple[Any, Any]:
        answer = self.schedule(keras.ops.convert_to_tensor(step, "int64"))
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise TypeError(
                f"{type(self.schedule).__name__}: a PruningSchedule returns "
                "(should_prune, sparsity), such as (True, 0.5). For step "
                f"{step} it returned {answer!r}."
            )
        return answer[0], answer[1]


def to_kprune(schedule: Any) -> Schedule:
    """Returns the schedule of kprune's that does what one of tfmot's says.

    Raises:
        TypeError: If it is no schedule.
        ValueError: If the sparsity falls, or the power is not positive.
    """
    if isinstance(schedule, Schedule):
        return schedule
    # Classes that are derived from them may say anything.
    if type(schedule) is ConstantSparsity:
        return OneShot(schedule.target_sparsity, schedule.begin_step)
    if type(schedule) is PolynomialDecay:
        return _ramp(schedule)
    if isinstance(schedule, PruningSchedule):
        return Called(schedule)
    raise TypeError(
        "prune_low_magnitude: `pruning_schedule` must be a PruningSchedule, such as "
        f"kprune.compat.tfmot.ConstantSparsity(0.5, begin_step=0). {received(schedule)}"
    )


def _ramp(schedule: PolynomialDecay) -> Ramp:
    return Ramp(
        schedule.initial_sparsity,
        schedule.final_sparsity,
        schedule.begin_step,
        schedule.end_step,
        schedule.power,
        schedule.frequency,
    )


def _config(schedule: PruningSchedule, names: tuple[str, ...]) -> dict[str, Any]:
    config = {name: getattr(schedule, name) for name in names}
    return {"class_name": type(schedule).__name__, "config": config}


def _arguments(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments in a configuration.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(config, dict):
        raise TypeError(
            "from_config: expected what `get_config()` returns, or the arguments in "
            f"it. {received(config)}"
        )
    return config["config"] if set(config) == {"class_name", "config"} else config


def _integer(name: str, value: Any, owner: str) -> int:
    """Returns a whole number; NumPy's are taken, too."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f"{owner}: `{name}` must be an integer. Received {value!r} of type "
            f"{type(value).__name__}; for a number of steps say int(...)."
        ) from None


def _number(name: str, value: Any, owner: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"{owner}: `{name}` must be a number. Received {value!r} of type "
            f"{type(value).__name__}."
        )
    return value if isinstance(value, int) else float(value)
