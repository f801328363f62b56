"""The stages of a recipe: a model in, a model to be trained out.

This module changes when a stage is added, or one of them may be told something new.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from kprune.allocation import Allocation
from kprune.callbacks import PruningCallback
from kprune.config import Config, check_fraction, get
from kprune.criteria import Criterion
from kprune.plan import Plan, Rule, resolve
from kprune.quantization import aware, quantize_aware
from kprune.structure import Budget, plan_shrink, shrink


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Config, abc.ABC):
    """One stretch of training, in one `fit` with an optimizer of its own.

    The optimizer is of the class and the settings that the model was compiled with; its
    learning rate rises over half an epoch to its peak and falls to zero along a cosine.

    Args:
        epochs: How many, at least 1.
        learning_rate: The peak, above 0. By default the one that the model was compiled
            with, and a tenth of it for `QuantizeAware`.

    Raises:
        ValueError: If a value is out of its range, or values contradict each other.
        TypeError: If a value is of another type.
    """

    epochs: int
    learning_rate: float | None = None

    least_epochs = 1
    rate_share = 1.0

    def __post_init__(self) -> None:
        owner, least = type(self).__name__, self.least_epochs
        if type(self.epochs) is not int or self.epochs < least:
            raise ValueError(
                f"{owner}: `epochs` must be a whole number of at least {least}. "
                f"Received {self.epochs!r}."
            )
        if self.learning_rate is not None:
            _check_positive(owner, "learning_rate", self.learning_rate, "0.001")

    def begin(self, model: keras.Model, data: Any, inputs: Any) -> keras.Model:
        """Returns the model that this stage trains, the given one or a copy.

        Args:
            model: What the stage before left.
            data: What `fit` is to be given, `(x, y)` or a data set.
            inputs: Some of its inputs.
        """
        return model

    def callbacks(self, data: Any) -> list[keras.callbacks.Callback]:
        """Returns what is to watch over the fit."""
        return []

    @abc.abstractmethod
    def check(self, model: keras.Model) -> None:
        """Raises what `begin` or the fit would raise on a model, as far as is known."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Taught(Stage):
    """A stage in which a teacher may help: the model after `Train`.

    Args:
        distill: Whether it does, see `kprune.distill`. The teacher is the model that
            `Train` has left, or the given one where a recipe has no `Train`.
        alpha: The weight of what it says, in (0, 1].
        temperature: What logits are divided by, above 0.
    """

    distill: bool = True
    alpha: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = type(self).__name__
        if not isinstance(self.distill, bool):
            raise TypeError(
                f"{owner}: `distill` must be true or false. Received {self.distill!r}."
            )
        _check_positive(owner, "temperature", self.temperature, "2.0")
        _check_positive(owner, "alpha", self.alpha, "0.5")
        if self.alpha > 1:
            raise ValueError(
                f"{owner}: `alpha` is the teacher's share of the loss and must lie in "
                f"(0, 1]. Received {self.alpha!r}."
            )


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Train(Stage):
    """Trains the model as it is: the first stage of a recipe, or none."""

    def check(self, model: keras.Model) -> None:
        """Any model can be trained."""


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Shrink(Taught):
    """Removes channels with `kprune.shrink`, and trains what is left.

    Without `sparsity`, `budget` or `blocks` channels go that are zero, as a `Prune` of
    channels leaves them; `epochs` may be 0 then, and always.

    Args:
        sparsity: Share of the channels of each coupled group, in [0, 1).
        budget: What the smaller model may cost, instead.
        blocks: How many residual blocks go as a whole, or the names of those.
        criterion: What makes a channel worth keeping; by default magnitude.
        allocation: How `sparsity` is spread; by default uniformly.
        only: Name patterns of the layers that may lose channels.
        skip: Name patterns of those that may not.
    """

    sparsity: float | None = None
    budget: Budget | None = None
    blocks: int | tuple[str, ...] | None = None
    criterion: Criterion | None = None
    allocation: Allocation | None = None
    only: tuple[str, ...] | None = None
    skip: tuple[str, ...] | None = None

    least_epochs = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sparsity is not None:
            check_fraction("sparsity", self.sparsity, "Shrink")
            if self.budget is not None:
                raise ValueError("Shrink: give `sparsity` or `budget`, not both.")
        if self.budget is not None and not isinstance(self.budget, Budget):
            raise TypeError(
                "Shrink: `budget` must be a kprune.Budget, such as Budget(macs=0.5). "
                f"Received {self.budget!r} of type {type(self.budget).__name__}."
            )
        for name, base in (("criterion", Criterion), ("allocation", Allocation)):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, get(base, value))
        for name in ("only", "skip"):
            _put_names("Shrink", self, name)
        if self.blocks is not None and not isinstance(self.blocks, int):
            _put_names("Shrink", self, "blocks")
        chosen = (self.criterion, self.allocation)
        if self.sparsity is None and self.budget is None and any(chosen):
            raise ValueError(
                "Shrink: `criterion` and `allocation` say how channels are chosen; say "
                "how many, too: `sparsity` or `budget`."
            )

    def begin(self, model: keras.Model, data: Any, inputs: Any) -> keras.Model:
        """Returns the smaller model."""
        asked = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(Shrink)
            if field.name not in _TRAINING
        }
        needs = self.criterion is not None and self.criterion.needs_data
        given = {name: value for name, value in asked.items() if value is not None}
        return shrink(model, data=data if needs else inputs, **given)

    def check(self, model: keras.Model) -> None:
        """Raises where names are unknown or no channel can go."""
        if self.budget is None:
            counted = self.sparsity is not None
        else:  # Others take several exports to measure.
            counted = self.budget.name in ("params", "macs")
        if counted:
            rule = {n: v for n in ("only", "skip") if (v := getattr(self, n))}
            plan_shrink(model, self.sparsity, budget=self.budget, **rule)


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Prune(Taught):
    """Makes weights or channels zero with `kprune.PruningCallback` while it trains.

    Args:
        sparsity: Fraction of zeros, in [0, 1), in the callback's default way.
        plan: A `Plan`, a `Rule` or several, instead, for all else that can be said:
            schedule, criterion, granularity, allocation, regrowth, which layers.
    """

    sparsity: float | None = None
    plan: Plan | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.sparsity is None) == (self.plan is None):
            raise ValueError(
                "Prune: give `sparsity` or `plan`, and not both. Received "
                f"{self.sparsity!r} and {self.plan!r}."
            )
        if self.sparsity is not None:
            check_fraction("sparsity", self.sparsity, "Prune")
        elif not isinstance(self.plan, Plan):
            plan: Any = self.plan
            if not isinstance(plan, Rule | list | tuple):
                raise TypeError(
                    "Prune: `plan` must be a kprune.Plan, or a Rule or several. "
                    f"Received {plan!r} of type {type(plan).__name__}."
                )
            object.__setattr__(self, "plan", Plan(plan))  # type: ignore[arg-type]

    @property
    def rules(self) -> Plan:
        """What is pruned, and how."""
        return self.plan or Plan((Rule(self.sparsity),))  # type: ignore[arg-type]

    def callbacks(self, data: Any) -> list[keras.callbacks.Callback]:
        """Returns the callback that prunes."""
        plan = self.rules
        needs = any(scorer.needs_data for rule in plan.rules for scorer in rule.scorers)
        return [PruningCallback(plan=plan, data=data if needs else None)]

    def check(self, model: keras.Model) -> None:
        """Raises where a rule matches nothing, or a weight cannot be cut so."""
        resolve(self.rules, model)


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class QuantizeAware(Taught):
    """Trains for int8 with `kprune.quantize_aware`: the last stage, or none.

    Args:
        ranges: How the ranges of activations are found.
        skip: Name patterns of layers that stay in float32.
    """

    ranges: str = "moving_average"
    skip: tuple[str, ...] | None = None

    rate_share = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ranges not in aware.RANGES:
            raise ValueError(
                f"QuantizeAware: `ranges` must be one of {aware.RANGES}. Received "
                f"{self.ranges!r}."
            )
        _put_names("QuantizeAware", self, "skip")

    def begin(self, model: keras.Model, data: Any, inputs: Any) -> keras.Model:
        """Returns the copy that rounds."""
        return quantize_aware(model, data=inputs, ranges=self.ranges, skip=self.skip)

    def check(self, model: keras.Model) -> None:
        """Raises where nothing can be quantised."""
        quantize_aware(model, skip=self.skip)


_TRAINING = {field.name for field in dataclasses.fields(Taught)}


def _check_positive(owner: str, name: str, value: Any, example: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < float("inf"):
        raise ValueError(
            f"{owner}: `{name}` must be a number above 0, such as {example}. Received "
            f"{value!r}."
        )


def _put_names(owner: str, stage: Stage, name: str) -> None:
    """Makes a tuple of one name pattern or several."""
    value = getattr(stage, name)
    if value is None:
        return
    names: Sequence[Any] = (value,) if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(
        isinstance(item, str) for item in names
    ):
        raise TypeError(
            f"{owner}: `{name}` takes names of layers in a recipe, or patterns such as "
            f"'block_*'. Received {value!r}."
        )
    object.__setattr__(stage, name, tuple(names))
