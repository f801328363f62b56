"""Granularities: the units of a weight that live or die together.

A granularity turns scores and a number of units into a mask. This module changes when
a new pattern of zeros is wanted.
"""

import abc
import dataclasses

import keras
import numpy as np

from kprune.allocation import Allocation, Lamp, Uniform
from kprune.config import Config
from kprune.ranking import nth_lowest


class Granularity(Config, abc.ABC):
    """Cuts a weight into units, and makes masks out of their scores.

    To add a granularity, write a frozen dataclass with `unit_scores` and `expand`.
    """

    @property
    def default_allocation(self) -> Allocation:
        """How sparsity is spread over the weights unless the user says."""
        return Lamp()

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


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Channel(Granularity):
    """Prunes whole channels: filters, units, heads, with all that is coupled to them.

    A channel is the slice of every weight that makes, scales or reads it, in all layers
    that residual connections, concatenations and the like tie together; a rule with
    this granularity therefore speaks of coupled groups, not of single weights. What is
    held at zero can be removed by `kprune.shrink`, with the outputs unchanged.

    Args:
        multiple: Each group is left with a multiple of so many channels, where it has
            that many. Runtimes compute blocks of them: 8 suits most, 16 Ethos-U, 4
            CMSIS-NN.
        min_channels: Channels that each group is left with at least.
        by_stage: Whether groups whose feature maps have the same size share the
            sparsity among themselves only.
        head_dimensions: Whether the dimensions inside of attention heads are pruned
            too, not only whole heads.

    Raises:
        ValueError: If `multiple` or `min_channels` is below 1.
    """

    multiple: int = 1
    min_channels: int = 1
    by_stage: bool = False
    head_dimensions: bool = False

    def __post_init__(self) -> None:
        for name in ("multiple", "min_channels"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"Channel: `{name}` must be an integer of at least 1. "
                    f"Received {value!r}."
                )

    @property
    def default_allocation(self) -> Allocation:
        """The same share of every group: channels of different layers compare badly."""
        return Uniform()

    def unit_scores(self, scores: np.ndarray) -> np.ndarray:
        """Returns the L2 norm per index of the last axis, where filters and units lie.

        For a weight by itself; coupled weights are scored by `kprune.coupling.scores`.
        """
        squares = np.square(scores, dtype=np.float64)
        return np.sqrt(squares.reshape(-1, scores.shape[-1]).sum(axis=0))

    def expand(self, unit_mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the mask with whole indices of the last axis."""
        return np.broadcast_to(unit_mask, shape).copy()


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
