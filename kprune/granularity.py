"""Granularities: the units of a weight that live or die together.

A granularity turns scores and a number of units into a mask. This module changes when
a new pattern of zeros is wanted.
"""

import abc
import dataclasses

import keras
import numpy as np

from kprune.config import Config
from kprune.ranking import nth_lowest


class Granularity(Config, abc.ABC):
    """Cuts a weight into units, and makes masks out of their scores.

    To add a granularity, write a frozen dataclass with `unit_scores` and `expand`.
    """

    @abc.abstractmethod
    def unit_scores(self, scores: np.ndarray) -> np.ndarray:
        """Returns one score per unit, as a flat array.

        Args:
            scores: One score per element, of the weight's shape.
        """

    @abc.abstractmethod
    def expand(self, unit_mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the mask of a weight from the mask of its units.

        Args:
            unit_mask: Flat boolean array, in the order of `unit_scores`.
            shape: The weight's shape.
        """

    def mask(self, scores: np.ndarray, num_pruned: int) -> np.ndarray:
        """Returns the mask that prunes the `num_pruned` units of lowest score.

        Args:
            scores: One score per element, of the weight's shape, without NaN.
            num_pruned: Number of units to prune, from 0 to the number of units.

        Returns:
            Boolean array of the weight's shape, True = keep. Of units with equal
            scores those of lower index are pruned first.

        Example:
            >>> Element().mask(np.array([[3.0, 1.0], [1.0, 2.0]]), num_pruned=1)
            array([[ True, False],
                   [ True,  True]])
        """
        unit_mask = _keep_highest(self.unit_scores(scores), num_pruned)
        return self.expand(unit_mask, scores.shape)


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Element(Granularity):
    """Prunes single elements, wherever they stand: unstructured sparsity."""

    def unit_scores(self, scores: np.ndarray) -> np.ndarray:
        """Returns the scores as they are, flat."""
        return scores.reshape(-1)

    def expand(self, unit_mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the mask in the weight's shape."""
        return unit_mask.reshape(shape)


def _keep_highest(scores: np.ndarray, num_pruned: int) -> np.ndarray:
    if not 0 <= num_pruned <= scores.size:
        raise ValueError(
            f"`num_pruned` must lie between 0 and the number of units, {scores.size}. "
            f"Received {num_pruned}."
        )
    if num_pruned == 0:
        return np.ones(scores.size, bool)
    threshold = nth_lowest(scores, num_pruned)
    keep = scores > threshold
    # Units that tie with the threshold: the last ones stay, for an exact count.
    num_ties_kept = scores.size - num_pruned - int(np.count_nonzero(keep))
    if num_ties_kept:
        keep[np.flatnonzero(scores == threshold)[-num_ties_kept:]] = True
    return keep
