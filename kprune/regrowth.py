"""Regrowth: which pruned weights take the place of kept ones while a model trains.

This module changes when a new way of choosing what grows back is wanted.
"""

import abc
import dataclasses
import math
from typing import Any, ClassVar

import keras
import numpy as np

from kprune.config import Config, check_seed
from kprune.criteria import Scorer
from kprune.schedules import FitFraction, Moment, Timed, check_moments


class Regrowth(Scorer, Timed, Config, abc.ABC):
    """Exchanges a share of the kept weights, so that the masks move: dynamic sparsity.

    At each of its updates every weight gives up the kept elements of lowest score, by
    the rule's criterion, and as many pruned ones of highest `growth` take their place.
    The share that is exchanged falls along half a cosine, with p = (step - begin_step)
    / (end_step - begin_step):

        rate = fraction * (1 + cos(pi * p)) / 2

    What grows begins at zero, with the optimizer's slots as for a new weight. The
    number of kept weights is the schedule's affair alone; where it falls, pruning and
    regrowth take turns, as in Liu et al., "Sparse training via boosting pruning
    plasticity with neuroregeneration" (GraNet), 2021, https://arxiv.org/abs/2106.10404.

    To add a regrowth, write a frozen dataclass with the four fields below and `growth`;
    name in `needs` what it looks at beside the weight, as a `Criterion` does.

    Args:
        fraction: Share of each weight's kept units that is exchanged at the begin, in
            (0, 1).
        begin_step: From when on units are exchanged; an `int`, `Epochs` or
            `FitFraction`.
        end_step: From when on masks stay as they are, later than the begin.
        frequency: Steps between exchanges, at least 1. By default 50 exchanges are
            spread from begin to end, at most 100 steps apart.
    """

    fraction: float
    begin_step: Moment
    end_step: Moment
    frequency: int | None

    role: ClassVar[str] = "regrowth"
    without_data: ClassVar[str] = "set"

    def __post_init__(self) -> None:
        owner = type(self).__name__
        number = isinstance(self.fraction, int | float)
        if not number or isinstance(self.fraction, bool) or not 0 < self.fraction < 1:
            raise ValueError(
                f"{owner}: `fraction` is the share of kept weights that is exchanged, "
                f"a number in (0, 1). Received {self.fraction!r}."
            )
        check_moments(self, owner)

    # What follows the step is each regrowth's own affair: see `needs`.
    @abc.abstractmethod
    def growth(
        self, weight: np.ndarray, step: int, *args: Any, **kwargs: Any
    ) -> np.ndarray:
        """Returns how much each element of a weight deserves to grow.

        Args:
            weight: The weight's values, of any shape, not to be written to.
            step: The step of the exchange.
            *args: None.
            **kwargs: What `needs` names, for this weight.

        Returns:
            A new array of the same shape, not negative; what is kept is not looked at.
        """

    def rate(self, step: int) -> float:
        """Returns the share of kept units that is exchanged at a step."""
        if not self.begin_step <= step < self.end_step:
            return 0.0
        done = (step - self.begin_step) / (self.end_step - self.begin_step)
        return self.fraction * (1 + math.cos(math.pi * done)) / 2


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class RigL(Regrowth):
    """Grows the weights whose gradient is largest: those that the loss asks for.

    Source: Evci et al., "Rigging the lottery: making all tickets winners", 2020,
    https://arxiv.org/abs/1911.11134, section 3 and algorithm 1, with its fraction 0.3
    and its end after three quarters of training. Deviations: the gradient is that of
    the callback's `data`, `num_batches` of it, not that of the batch in training; steps
    of the optimizer go on at exchanges; the first masks are made by the rule's
    criterion, not by lot (`criterion="random"` would also drop by lot); and exchanges
    are more frequent in fits that are short.

    Args:
        fraction: See `Regrowth`, as for all others.
        begin_step: See `Regrowth`.
        end_step: See `Regrowth`.
        frequency: See `Regrowth`.

    Raises:
        ValueError: If a value is out of its range, or the end lies before the begin.
        TypeError: If a value is of another type.

    Example:
        >>> regrowth = RigL(begin_step=0, end_step=100)
        >>> [round(regrowth.rate(step), 4) for step in (0, 50, 99, 100)]
        [0.3, 0.15, 0.0001, 0.0]
    """

    fraction: float = 0.3
    begin_step: Moment = FitFraction(0.0)
    end_step: Moment = FitFraction(0.75)
    frequency: int | None = None

    needs: ClassVar[tuple[str, ...]] = ("gradient",)

    def growth(self, weight: np.ndarray, step: int, gradient: np.ndarray) -> np.ndarray:
        """Returns |gradient|."""
        return np.abs(gradient)


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class SET(Regrowth):
    """Grows weights that are drawn by lot.

    Source: Mocanu et al., "Scalable training of artificial neural networks with
    adaptive sparse connectivity inspired by network science", 2018,
    https://arxiv.org/abs/1707.04780, algorithm 1. Deviations: what grows begins at
    zero, not at random; the share falls along a cosine, as in RigL, and exchanges end
    before training does; they come by steps, not after each epoch; and weights above
    and below zero are ranked together, by the rule's criterion.

    Args:
        fraction: See `Regrowth`, as for all others but the last.
        begin_step: See `Regrowth`.
        end_step: See `Regrowth`.
        frequency: See `Regrowth`.
        seed: Of the random numbers, an integer of at least 0. The lots depend on it,
            on the step and on the weight's place alone.

    Raises:
        ValueError: If a value is out of its range, or the end lies before the begin.
        TypeError: If a value is of another type.
    """

    fraction: float = 0.3
    begin_step: Moment = FitFraction(0.0)
    end_step: Moment = FitFraction(0.75)
    frequency: int | None = None
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("place",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed("SET", self.seed)

    def growth(self, weight: np.ndarray, step: int, place: int = 0) -> np.ndarray:
        """Returns a number in [0, 1) for each element."""
        return np.random.default_rng((self.seed, step, place)).random(weight.shape)
