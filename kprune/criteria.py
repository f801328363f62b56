"""Criteria: which weights are worth keeping.

This module changes when a new way of scoring weights is wanted.
"""

import abc
import dataclasses

import keras
import numpy as np

from kprune.config import Config


class Criterion(Config, abc.ABC):
    """Gives each element of a weight a score; larger means keep.

    To add a criterion, write a frozen dataclass with one method, `score`. A weight of
    zero should not score above others, or else pruning has to be told each time which
    weights it has pruned already.
    """

    @abc.abstractmethod
    def score(self, weight: np.ndarray) -> np.ndarray:
        """Returns the scores of a weight's elements.

        Args:
            weight: The weight's values, floating point, of any shape. Must not be
                written to: it may be the variable's own memory.

        Returns:
            A new array of the same shape, float32 or float64.
        """


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Magnitude(Criterion):
    """Keeps the weights of largest absolute value.

    Source: Han et al., "Learning both weights and connections for efficient neural
    networks", 2015, https://arxiv.org/abs/1506.02626, section 3.

    Example:
        >>> Magnitude().score(np.array([0.5, -2.0, 0.0], "float32"))
        array([0.5, 2. , 0. ], dtype=float32)
    """

    def score(self, weight: np.ndarray) -> np.ndarray:
        """Returns |weight|."""
        if weight.dtype not in (np.float32, np.float64):
            weight = weight.astype(np.float32)
        return np.abs(weight)
