"""Budgets: what a smaller model may cost, and the search for channels that meet it.

This module changes when another cost is to be limited, or the search gets better.
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Self

import keras
import numpy as np

from kprune.config import Config
from kprune.coupling.groups import Coupling, Group
from kprune.coupling.scores import allowed_size, choose, step_of
from kprune.export.choosing import choose as choose_target
from kprune.export.choosing import known
from kprune.export.targets import Target
from kprune.granularity import Channel
from kprune.plan import Rule

# What each limit is measured on if the user names no target; `None`: counted, not run.
_LIMITS: dict[str, str | None] = {
    "params": None,
    "macs": None,
    "flash_bytes": "microcontroller",
    "arena_bytes": "microcontroller",
    "latency_ratio": "android",
}
_STEPS = 24
# Each one exports and runs a file, which takes seconds: few, and none to be nearer.
_MEASUREMENTS = 8
_NEAR = 0.98


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Budget(Config):
    """What a smaller model may cost at most; exactly one limit is given.

    Limits below 1 are relative to the model as it is, others absolute. Weights and
    multiply-accumulates are counted. Bytes and times are measured: the search exports
    the smaller model to int8, about ten times, and runs it on the target's runtime.

    Args:
        params: Number of weights.
        macs: Multiply-accumulates of one inference, in kernels and attention products.
        flash_bytes: Bytes of the int8 `.tflite` file.
        arena_bytes: The smallest arena, in bytes, that TensorFlow Lite Micro runs the
            int8 file in.
        latency_ratio: How many times as fast the int8 file must be as that of the model
            as it is, on this machine, above 1: 2.0 is half the time.
        target: `"android"` or `"microcontroller"`: what files are exported for and run
            on, and which multiple channel counts are rounded to (8 and 4), or for
            `params` and `macs` also an Ethos-U (16); unless
            `granularity=kprune.Channel(multiple=...)` says. By default
            `"microcontroller"` for `flash_bytes` and `arena_bytes`, `"android"` for
            `latency_ratio`, and for `params` and `macs` none, and any count.

    Raises:
        ValueError: If not exactly one limit is given, it is not positive, or `target`
            is unknown or has no such cost.
        TypeError: If the limit is not a number.

    Example:
        >>> Budget(macs=0.5).limits
        {'macs': 0.5}
    """

    params: float | None = None
    macs: float | None = None
    flash_bytes: float | None = None
    arena_bytes: float | None = None
    latency_ratio: float | None = None
    target: str | None = None

    def __post_init__(self) -> None:
        given = self.limits
        if len(given) != 1:
            raise ValueError(
                f"Budget: give exactly one of {', '.join(_LIMITS)}. "
                f"Received {given or 'none'}."
            )
        if isinstance(self.limit, bool) or not isinstance(self.limit, int | float):
            raise TypeError(
                f"Budget: `{self.name}` must be a number. Received {self.limit!r} of "
                f"type {type(self.limit).__name__}."
            )
        if not self.limit > 0:
            raise ValueError(
                f"Budget: `{self.name}` must be positive. Received {self.limit!r}."
            )
        if self.name == "latency_ratio" and self.limit <= 1:
            near = f" Did you mean {1 / self.limit:.3g}?" if self.limit < 1 else ""
            raise ValueError(
                "Budget: `latency_ratio` is how many times as fast the smaller model "
                "must be, such as 2.0 for half the time, and must be above 1. Received "
                f"{self.limit!r}.{near}"
            )
        device = self.device
        if device and device.npu is not None and _LIMITS[self.name] is not None:
            raise ValueError(
                f"Budget: `{self.name}` is measured on a runtime, and an "
                f"{device.name} is not here to be measured. Give macs=... or "
                f"params=... with target={device.name!r}, which rounds channels to "
                f"multiples of {device.channel_multiple}."
            )
        if self.name == "arena_bytes" and device and device.name != "microcontroller":
            raise ValueError(
                f"Budget: {device.runtime} has no arena; `arena_bytes` is for "
                "target='microcontroller'."
            )

    @classmethod
    def from_text(cls, text: str, target: str | None = None) -> Self:
        """Returns the budget that a text such as `"macs=0.5"` means.

        Raises:
            ValueError: If it is no name of a limit with a number; and as the budget.
        """
        name, equals, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise ValueError(
                "Budget: expected a name and a number, such as 'macs=0.5'. Received "
                f"{text!r}."
            )
        return cls(**{known("budget", name.strip(), _LIMITS): number}, target=target)

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are given, by name."""
        values = {name: getattr(self, name) for name in _LIMITS}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def name(self) -> str:
        """The name of the limit."""
        return next(iter(self.limits))

    @property
    def limit(self) -> float:
        """The limit's value."""
        return self.limits[self.name]

    @property
    def device(self) -> Target | None:
        """The target, the limit's own by default; `None` for none."""
        target = _LIMITS[self.name] if self.target is None else self.target
        return None if target is None else choose_target(target, "int8")[0]

    @property
    def multiple(self) -> int:
        """Multiple that channel counts are rounded to unless the user says."""
        return 1 if self.device is None else self.device.channel_multiple

    def allowed(self, before: float) -> float:
        """Returns the most that a model may cost which costs so much as it is.

        Args:
            before: The cost; of times the share of the time as it is, which is 1.
        """
        if self.name == "latency_ratio":
            return before / self.limit
        return self.limit * before if self.limit < 1 else self.limit

    def __str__(self) -> str:
        least = "least" if self.name == "latency_ratio" else "most"
        text = f"{self.limit:,}" if self.limit > 1 else f"{self.limit:g}"
        return f"{self.name} of at {least} {text}"


class Cost(abc.ABC):
    """What a budget limits, as a function of what is removed.

    Attributes:
        measured: Whether each value takes seconds, so that few can be looked at.
    """

    measured: bool = False

    @property
    @abc.abstractmethod
    def before(self) -> float:
        """The cost of the model as it is, blocks included that are to go."""

    @abc.abstractmethod
    def after(self, removed: np.ndarray) -> float:
        """Returns the cost of the model without the removed units.

        Args:
            removed: Boolean per unit.
        """

    def told(self, value: float) -> str:
        """Returns a cost as the user knows it."""
        return f"{value:,.0f}"

    def notes(self, said: str) -> tuple[str, ...]:
        """Returns what the plan says of it, in sentences.

        Args:
            said: What was reached of what was allowed, as a phrase.
        """
        return ()


@dataclasses.dataclass(frozen=True)
class Met:
    """Channels without which a model meets a budget.

    Args:
        removed: Boolean per unit.
        asked: What was asked for, as a phrase.
        notes: What was measured, in sentences.
    """

    removed: np.ndarray
    asked: str
    notes: tuple[str, ...]


def meet(
    budget: Budget,
    coupling: Coupling,
    groups: Sequence[Group],
    scores: np.ndarray,
    rule: Rule,
    cost: Cost,
) -> Met:
    """Returns which units to remove so that a budget is met.

    One sparsity is searched by bisection, and spread over the groups as the rule says.
    If costs can be counted, groups then get channels back, the best of those that were
    removed first, as long as the budget holds.

    Raises:
        ValueError: If it cannot be met even with one channel, or one multiple, left in
            each group.
    """
    granularity: Any = rule.granularity
    allowed = budget.allowed(cost.before)
    removed = coupling.nothing()
    value = cost.after(removed)
    asked = str(budget)
    if value <= allowed:
        asked += ", which the model has already"
    else:

        def at(sparsity: float) -> np.ndarray:
            return choose(
                coupling, groups, scores, sparsity, rule.allocation, granularity
            )

        removed, value = _search(at, cost, allowed, removed)
        if value > allowed:
            raise ValueError(_unmet(budget, cost, allowed, value, coupling, groups))
        if not cost.measured:
            removed = _give_back(
                removed, coupling, groups, scores, granularity, cost.after, allowed
            )
    bound = "least" if budget.name == "latency_ratio" else "most"
    said = f"{budget.name} {cost.told(value)} of at {bound} {cost.told(allowed)}"
    return Met(removed, asked, cost.notes(said))


def _search(
    at: Callable[[float], np.ndarray], cost: Cost, allowed: float, over: np.ndarray
) -> tuple[np.ndarray, float]:
    """Returns what to remove for a cost just below what is allowed, and that cost.

    If the cost is never low enough, that is the most that can be removed.

    Args:
        at: From a sparsity to what is removed.
        cost: The cost.
        allowed: The most that it may be.
        over: Too little to remove.
    """
    low, high = 0.0, 1.0 - 1e-9
    best = at(high)
    value = cost.after(best)
    looked = 0
    for _ in range(_STEPS):
        near = cost.measured and (value >= _NEAR * allowed or looked == _MEASUREMENTS)
        if value > allowed or near:
            break
        middle = (low + high) / 2
        removed = at(middle)
        if np.array_equal(removed, best):
            high = middle
        elif np.array_equal(removed, over):
            low = middle
        else:
            found = cost.after(removed)
            looked += 1
            if found <= allowed:
                high, best, value = middle, removed, found
            else:
                low, over = middle, removed
    return best, value


def _give_back(
    removed: np.ndarray,
    coupling: Coupling,
    groups: Sequence[Group],
    scores: np.ndarray,
    granularity: Channel,
    cost: Callable[[np.ndarray], float],
    allowed: float,
) -> np.ndarray:
    """Keeps more channels, the best of those removed first, while the budget holds."""
    open_groups = list(groups)
    while open_groups:
        offers = []
        for group in open_groups:
            gone = group.units[removed[group.units]]
            left = group.size - gone.size
            wanted = left + step_of(coupling, group, granularity)
            more = allowed_size(coupling, group, wanted, granularity) - left
            if more > 0:
                best = gone[np.argsort(-scores[gone], kind="stable")[:more]]
                offers.append((float(scores[best].mean()), group, best))
        open_groups = []
        # Groups whose next channels do not fit now will not fit later.
        for _, group, best in sorted(offers, key=lambda offer: -offer[0]):
            removed[best] = False
            if cost(removed) <= allowed:
                open_groups.append(group)
            else:
                removed[best] = True
    return removed


def _unmet(
    budget: Budget,
    cost: Cost,
    allowed: float,
    least: float,
    coupling: Coupling,
    groups: Sequence[Group],
) -> str:
    if budget.name == "latency_ratio":
        far = f"{cost.told(least)} is reached"
    else:
        far = (
            f"it allows {cost.told(allowed)} of {cost.told(cost.before)}, and "
            f"{cost.told(least)} ({least / cost.before:.3f}) are left"
        )
    fixed = [
        f"  {group.name} ({group.size}): {group.reason}" for group in coupling.fixed
    ]
    if len(fixed) > 10:
        fixed[10:] = [f"  ... and {len(fixed) - 10} more"]
    ways = "\nWhat stands in the way:\n" + "\n".join(fixed) if fixed else ""
    return (
        f"Budget({budget.name}={budget.limit:g}) of {coupling.model.name!r} cannot be "
        f"met by removing channels: {far} with the fewest channels that its "
        f"{len(groups)} groups may have. Lower `min_channels` or `multiple`, allow "
        "more groups, remove residual blocks with blocks=..., or relax the "
        f"budget.{ways}"
    )
