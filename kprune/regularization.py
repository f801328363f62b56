"""Regularizations: what training pays for channels that could be spared.

A penalty in the loss makes weights ready to be pruned before masks take them. Here is
what is paid; `kprune.penalties` puts it into the training step. This module changes
when another kind of penalty is wanted.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, Self, TypeAlias

import keras
import numpy as np

from kprune.config import Config
from kprune.schedules import (
    FitFraction,
    FitLength,
    Moment,
    Timed,
    check_number,
    check_span,
)

# Of each weight that channels are slices of: its values, float32 of shape (slices,
# elements of each), and the number of the channel that each slice belongs to.
Slices: TypeAlias = "Sequence[tuple[Any, np.ndarray]]"


class Regularization(Timed, Config, abc.ABC):
    """A penalty on coupled channels, `granularity="channel"`, while masks are made.

    The strength rises from 0 along a line, since a trained model is thrown off less by
    a penalty that grows (Wang et al., "Neural pruning via growing regularization",
    2021, https://arxiv.org/abs/2012.09243, whose steps are made of one line here). It
    is 0 again as soon as the masks reach the end of their schedule: what is left is
    fine-tuned without a penalty, as the sources of both penalties do. Held channels
    pay nothing.

    To add one, write a frozen dataclass with the three fields and `penalty`.
    """

    strength: float
    begin_step: Moment
    end_step: Moment

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_number("strength", self.strength, owner)
        check_span(self.begin_step, self.end_step, owner)

    @abc.abstractmethod
    def penalty(self, slices: Slices, num_channels: int) -> Any:
        """Returns the penalty at strength 1, a scalar that can be differentiated.

        Its gradient must be finite where channels are zero.

        Args:
            slices: The values; written with `keras.ops` only.
            num_channels: How many channels there are.
        """

    def counts(self, layer: keras.layers.Layer) -> bool:
        """Returns whether the scored weights of a layer are in the penalty."""
        return True

    def resolve(self, fit: FitLength, earliest: int | None = None) -> Self:
        """Returns this regularization in plain steps; see `Timed.resolve`.

        Raises:
            ValueError: If the end lies before the begin then.
        """
        resolved = super().resolve(fit, earliest)
        begin, end = resolved.begin_step, resolved.end_step
        if end < begin:
            raise ValueError(
                f"{self}: in this fit it begins at step {begin} and ends at step {end}."
                " Count both in the same way."
            )
        return resolved


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class BatchNormL1(Regularization):
    """Penalises the scales of batch normalisations: strength * sum of |gamma|.

    A channel whose gamma is near zero is a constant, and costs little to prune;
    `criterion="batch_norm_scale"` finds these.

    Source: Liu et al., "Learning efficient convolutional networks through network
    slimming", 2017, https://arxiv.org/abs/1708.06519, equation 1 with g = |.|, by
    subgradients: 0 at gamma = 0. Deviations: only channels that the rule prunes pay,
    and the strength rises along a line (the source has it constant: `end_step` equal
    to `begin_step`).

    Args:
        strength: Factor of the penalty once it has risen, not negative; the source has
            1e-4 for VGG, 1e-5 for ResNet and DenseNet. Under SGD without momentum a
            step moves gamma by at most strength times the learning rate to zero.
        begin_step: Step from which it rises; an `int`, `Epochs` or `FitFraction`.
        end_step: Step at which it is `strength`, not before `begin_step`.

    Raises:
        ValueError: If a value is out of its range, or the end lies before the begin;
            when training begins, if channels have no batch normalisation with a scale.
        TypeError: If a value is of another type.

    Example:
        >>> gammas = [(keras.ops.array([[0.5], [-2.0]]), np.array([0, 1]))]
        >>> float(BatchNormL1().penalty(gammas, num_channels=2))
        2.5
    """

    strength: float = 1e-4
    begin_step: Moment = FitFraction(0.0)
    end_step: Moment = FitFraction(0.25)

    def penalty(self, slices: Slices, num_channels: int) -> Any:
        """Returns the sum of absolute values."""
        return sum(keras.ops.sum(keras.ops.abs(values)) for values, _ in slices)

    def counts(self, layer: keras.layers.Layer) -> bool:
        """Returns whether the layer is a batch normalisation."""
        return isinstance(layer, keras.layers.BatchNormalization)


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class GroupLasso(Regularization):
    """Penalises the norms of coupled channels, so that whole ones go to zero.

        strength * sum over channels of sqrt(n) * sqrt(sum of w ** 2)

    over the n weights w of a channel: its slices of all kernels that make it, read it
    or scale it, and of the scales of normalisations, the same that criteria score.

    Source: Wen et al., "Learning structured sparsity in deep neural networks", 2016,
    https://arxiv.org/abs/1608.03665, equation 2, on the coupled groups of Fang et al.,
    "DepGraph: Towards any structural pruning", 2023, https://arxiv.org/abs/2301.12900;
    sqrt(n) as Yuan and Lin, "Model selection and estimation in regression with grouped
    variables", 2006, https://doi.org/10.1111/j.1467-9868.2005.00532.x, have it, so that
    large channels do not get off lightly. Deviations: one norm for all slices of a
    channel, where Wen et al. have one for filters and one for what reads them; no
    biases; no larger factors for weaker channels, as DepGraph has them. A weight
    between two channels counts in both; one in two slices of the same channel, in
    recurrent kernels, twice. The gradient of a channel that is zero is zero.

    Args:
        strength: Factor of the penalty once it has risen, not negative.
        begin_step: Step from which it rises; an `int`, `Epochs` or `FitFraction`.
        end_step: Step at which it is `strength`, not before `begin_step`.

    Raises:
        ValueError: If a value is out of its range, or the end lies before the begin.
        TypeError: If a value is of another type.

    Example:
        >>> kernel = [(keras.ops.array([[3.0, 4.0], [0.0, 0.0]]), np.array([0, 1]))]
        >>> round(float(GroupLasso().penalty(kernel, num_channels=2)), 4)  # 5 sqrt(2)
        7.0711
    """

    strength: float = 1e-4
    begin_step: Moment = FitFraction(0.0)
    end_step: Moment = FitFraction(0.25)

    def penalty(self, slices: Slices, num_channels: int) -> Any:
        """Returns the sum of norms, each times the root of its number of weights."""
        ops = keras.ops
        energies = ops.concatenate([ops.sum(ops.square(v), axis=1) for v, _ in slices])
        channels = np.concatenate([numbers for _, numbers in slices])
        sizes = np.concatenate([np.full(len(n), v.shape[1]) for v, n in slices])
        energy = ops.segment_sum(energies, channels, num_channels)
        # The root's own gradient at zero is infinite, and NaN times zero.
        alive = energy > 0
        norms = ops.where(alive, ops.sqrt(ops.where(alive, energy, 1.0)), 0.0)
        roots = np.sqrt(np.bincount(channels, sizes, num_channels))
        return ops.sum(norms * roots.astype("float32"))


def risen(step: Any, begin: Any, end: Any, stop: Any) -> Any:
    """Returns the share of its strength that a penalty has at a step, float32.

    Args:
        step: Optimizer steps so far; an integer or an integer tensor, as all others.
        begin: Where it begins to rise from 0.
        end: Where it has reached 1.
        stop: Where it is 0 again.

    Example:
        >>> [float(risen(step, 2, 6, 8)) for step in (2, 3, 6, 7, 8)]
        [0.0, 0.25, 1.0, 1.0, 0.0]
    """
    ops = keras.ops
    # Whole numbers up to here: float32 counts to 2 ** 24 only.
    run, length = step - begin, ops.maximum(end - begin, 1)
    share = ops.cast(run, "float32") / ops.cast(length, "float32")
    share = ops.where(step >= end, 1.0, share)
    return ops.where(ops.logical_and(step >= begin, step < stop), share, 0.0)
