"""Whose steps count, and how many there were.

This module changes when optimizers of Keras count, or wrap one another, in another way.
"""

from collections.abc import Sequence
from typing import Any

import keras

from kprune.layers import values
from kprune.schedules import FitLength


class StepCounter:
    """Counts the steps of the optimizer that trains a model.

    Args:
        owner: Who is speaking in error messages, such as `"PruningCallback"`.
        model: The model.
        given: The optimizer that the user names; `None` for the model's own.

    Attributes:
        optimizer: The one whose steps count.

    Raises:
        ValueError: If the model has none, or several and none is given.
        TypeError: If what is given is no optimizer.
    """

    def __init__(self, owner: str, model: keras.Model, given: Any) -> None:
        self._owner, self._model, self._given = owner, model, given
        self.optimizer = _find(owner, model, given)
        self._first_batch = self._batches_seen()

    @property
    def now(self) -> int:
        """The number of optimizer steps so far."""
        return _number(self.optimizer.iterations)

    @property
    def num_batches(self) -> int:
        """The number of batches that the optimizer has seen since this was made."""
        return self._batches_seen() - self._first_batch

    @property
    def optimizers(self) -> Sequence[Any]:
        """The optimizers that do the work, inside of wrapping ones."""
        return _inner(self.optimizer)

    @property
    def averaging(self) -> list[Any]:
        """The optimizers that may write averages to the model's weights."""
        outer = [self.optimizer, *_held_optimizers(self._model).values()]
        every = dict.fromkeys(inner for each in outer for inner in _inner(each))
        return [inner for inner in every if inner.use_ema]

    def averages(self) -> dict[int, keras.Variable]:
        """Returns the optimizers' moving averages by the id of their variable."""
        averaging = self.averaging
        if any(inner in self.optimizers for inner in averaging):
            if not self.optimizer.built:
                # Keras would do so in the first step, after it has read constraints.
                self.optimizer.build(self._model.trainable_variables)
        return {
            id(variable): average
            for inner in averaging
            if inner.built
            for variable, average in zip(
                inner._trainable_variables,
                inner._model_variables_moving_average,
                strict=True,
            )
        }

    def fit_length(
        self, initial_epoch: int, batches_per_epoch: int, epochs: int
    ) -> FitLength:
        """Returns where epochs lie if `initial_epoch` began with this counter."""
        return FitLength(
            self._first_batch - initial_epoch * batches_per_epoch,
            batches_per_epoch,
            epochs,
            self.optimizers[0].gradient_accumulation_steps or 1,
        )

    def check_optimizer(self) -> None:
        """Raises ValueError if the model was given another optimizer meanwhile."""
        first = self.optimizer
        present = getattr(self._model, "optimizer", first)
        if self._given is None and present not in (first, None):
            raise ValueError(
                f"{self._owner}: {self._model.name!r} was given another optimizer in "
                f"mid-training, {present.name!r} instead of {first.name!r}, which "
                "counts steps anew. Compile a model between two fits only; to change "
                "the learning rate, assign model.optimizer.learning_rate."
            )

    def _batches_seen(self) -> int:
        # `iterations` is rounded down to whole accumulations, so that epochs counted
        # from it would drift.
        return _number(self.optimizers[0]._iterations)


def check_backend(owner: str) -> None:
    """Raises ValueError if models do not train on TensorFlow."""
    if keras.config.backend() != "tensorflow":
        raise ValueError(
            f"{owner} trains on Keras's TensorFlow backend only. This is the "
            f"{keras.config.backend()} backend; set KERAS_BACKEND=tensorflow."
        )


def check_given(owner: str, given: Any) -> None:
    """Raises TypeError if what the user gave is neither `None` nor an optimizer."""
    if given is not None and not isinstance(given, keras.optimizers.Optimizer):
        raise TypeError(
            f"{owner}: `optimizer` must be a keras.optimizers.Optimizer. Received "
            f"{given!r} of type {type(given).__name__}."
        )


def _find(owner: str, model: keras.Model, given: Any) -> Any:
    """Returns the optimizer whose steps count.

    Raises:
        ValueError: If the model has none, or several and none is given.
        TypeError: If what is given is no optimizer.
    """
    check_given(owner, given)
    if given is not None:
        return given
    if getattr(model, "optimizer", None) is not None:
        return model.optimizer
    found = _held_optimizers(model)
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise ValueError(
            f"{owner}: {model.name!r} has several optimizers ({', '.join(found)}). Say "
            "which one trains the weights that are pruned, such as optimizer="
            f"model.{next(iter(found))}, and choose these weights with only=[...]."
        )
    raise ValueError(
        f"{owner}: {model.name!r} has no optimizer. Call compile(optimizer=...) before "
        "fit, or say optimizer=..."
    )


def _held_optimizers(model: keras.Model) -> dict[str, keras.optimizers.Optimizer]:
    """Returns the optimizers that a model holds as attributes."""
    return {
        name: value
        for name, value in vars(model).items()
        if isinstance(value, keras.optimizers.Optimizer)
    }


def _inner(optimizer: keras.optimizers.Optimizer) -> Sequence[Any]:
    """Returns the optimizers that do the work, inside of wrapping ones."""
    if hasattr(optimizer, "inner_optimizer"):  # LossScaleOptimizer
        return _inner(optimizer.inner_optimizer)
    if hasattr(optimizer, "optimizers"):  # MultiOptimizer
        return [o for inner in optimizer.optimizers for o in _inner(inner)]
    return [optimizer]


def _number(variable: Any) -> int:
    try:
        return int(variable)
    except TypeError:  # One per replica.
        return int(values(variable))
