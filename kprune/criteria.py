"""Criteria: which weights are worth keeping.

Some look at more than the weight: they declare it in `needs`, and `kprune.evidence`
finds it for them when masks are updated. This module changes when a new way of scoring
weights is wanted.
"""

import abc
import dataclasses
import os
from typing import Any, ClassVar

import keras
import numpy as np

from kprune.allocation import Allocation, Global, Uniform
from kprune.config import Config, check_seed

# What `needs` may name and only data can tell.
FROM_DATA = frozenset({"gradient", "squared_gradient", "input_norm"})


class Scorer:
    """What gives scores to weights, and says what it looks at for that.

    Attributes:
        needs: What it looks at beside the weight, see `Criterion`.
        since: The file in which `start` is found, where it needs that.
        role: What it is, for messages.
        without_data: The name of one that needs no data, for messages.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    since: str | None = None
    role: ClassVar[str] = "criterion"
    without_data: ClassVar[str] = "magnitude"

    @property
    def needs_data(self) -> bool:
        """Whether it cannot do without data."""
        return not FROM_DATA.isdisjoint(self.needs)


class Criterion(Scorer, Config, abc.ABC):
    """Gives each element of a weight a score; larger means keep.

    To add a criterion, write a frozen dataclass with one method, `score`. Scores should
    not be negative, and 0 for a weight of zero: or else pruning has to be told each
    time which weights it has pruned already, and does not know it in a model from a
    file.

    A criterion that looks at more than the weight names it in `needs`, and `score`
    takes it as an argument of that name:

        class Sensitivity(Criterion):
            needs = ("gradient",)

            def score(self, weight, gradient):
                return np.abs(gradient) * (weight != 0)

    From the data come

    - `gradient`: gradient of the loss by the weight, mean over batches,
    - `squared_gradient`: its square, mean over batches,
    - `input_norm`: L2 norm over the data of what each element multiplies;

    from the model

    - `output_axes`: axes of the weight that tell outputs apart, ascending,
    - `synaptic_flow`: gradient of SynFlow's objective, see `SynFlow`,
    - `place`: the weight's place among those that the rule prunes, from 0,
    - `axis`: axis of the weight that channels lie along; for channels only;

    and from the file `since` of the criterion

    - `start`: the weight as the file has it.

    Attributes:
        needs: What `score` takes beside the weight.
        allocation: How sparsity is spread over weights unless the user says, where LAMP
            would be otherwise: it weighs squares of magnitudes, and other scores have
            no such meaning. `None` for LAMP.
        channels_only: Whether it makes sense with granularity="channel" only.
        order: Order, 1 or 2, of the norm that makes one score of those of a channel's
            elements.
    """

    allocation: ClassVar[Allocation | None] = None
    channels_only: ClassVar[bool] = False
    order: int = 2

    # What follows the weight is each criterion's own affair: see `needs`.
    @abc.abstractmethod
    def score(self, weight: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
        """Returns the scores of a weight's elements.

        Args:
            weight: The weight's values, floating point, of any shape. Must not be
                written to: it may be the variable's own memory.
            *args: None.
            **kwargs: What `needs` names, for this weight. Not to be written to either.

        Returns:
            A new array of the same shape, float32 or float64. NaN says that there is
            no telling; masks stay as they are then.
        """

    def counts(self, layer: keras.layers.Layer, rank: int, role: str) -> bool:
        """Returns whether a weight has a say in which channels go.

        Args:
            layer: The layer that it is of.
            rank: Its number of axes, such as 1 for the scale of a normalisation.
            role: What it does with the channels: `"makes"`, `"reads"` or `"scales"`.
        """
        return True

    def targets(self, now: float, sparsity: float) -> list[float]:
        """Returns the sparsities to go through on the way from one to another.

        After each of them scores are computed anew.

        Args:
            now: The sparsity that there is.
            sparsity: The sparsity that is wanted, the last one of the result.
        """
        return [sparsity]


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Magnitude(Criterion):
    """Keeps the weights of largest absolute value.

    Source: Han et al., "Learning both weights and connections for efficient neural
    networks", 2015, https://arxiv.org/abs/1506.02626, section 3. For channels: Li et
    al., "Pruning filters for efficient ConvNets", 2017,
    https://arxiv.org/abs/1608.08710, with order 1.

    Args:
        order: The norm that channels are compared by: 1, the sum of absolute values, or
            2, the root of the sum of squares. For single elements both are the same.

    Raises:
        ValueError: If `order` is neither 1 nor 2.

    Example:
        >>> Magnitude().score(np.array([0.5, -2.0, 0.0], "float32"))
        array([0.5, 2. , 0. ], dtype=float32)
    """

    order: int = 2

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or self.order not in (1, 2):
            raise ValueError(
                f"Magnitude: `order` must be 1 or 2. Received {self.order!r}."
            )

    def score(self, weight: np.ndarray) -> np.ndarray:
        """Returns |weight|."""
        return np.abs(_floats(weight))


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Random(Criterion):
    """Keeps weights that are drawn by lot: the baseline that others have to beat.

    The lot of each element depends on the seed, the weight's place and shape alone, so
    that masks grow while sparsity does, and a resumed fit makes the same ones.

    Args:
        seed: Of the random numbers, an integer of at least 0.

    Raises:
        ValueError: If `seed` is no such number.

    Example:
        >>> scores = Random(seed=1).score(np.array([0.5, -2.0, 0.0]), place=0)
        >>> bool(scores[0] > 0), bool(scores[1] > 0), float(scores[2])
        (True, True, 0.0)
    """

    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ("place",)
    allocation: ClassVar[Allocation | None] = Uniform()

    def __post_init__(self) -> None:
        check_seed("Random", self.seed)

    def score(self, weight: np.ndarray, place: int = 0) -> np.ndarray:
        """Returns a number in (0, 1] for each element that is not zero."""
        lots = np.random.default_rng((self.seed, place)).random(weight.shape)
        return np.where(weight != 0, 1 - lots, 0)


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Taylor(Criterion):
    """Keeps the weights whose removal changes the loss most, to first order.

        |w| * sqrt(mean over batches of g ** 2)

    with g the gradient of the model's loss; on one batch that is |w * g|.

    Source: Molchanov et al., "Importance estimation for neural network pruning", 2019,
    https://arxiv.org/abs/1906.10771, equation 8: (w * g) ** 2, averaged over batches.
    Deviations: the root of it, which ranks alike; the batches are those given, not
    those trained on since the last update.
    """

    needs: ClassVar[tuple[str, ...]] = ("squared_gradient",)
    allocation: ClassVar[Allocation | None] = Global()

    def score(self, weight: np.ndarray, squared_gradient: np.ndarray) -> np.ndarray:
        """Returns |weight| * sqrt(squared_gradient)."""
        return np.abs(_floats(weight)) * np.sqrt(squared_gradient)


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Movement(Criterion):
    """Keeps the weights that training moves away from zero.

        exp(asinh(movement)), and 0 where w is 0

    which keeps the order of movements and makes all scores positive.

    With `since` it is all movement since training began, at which the weight was w0:

        movement = (w ** 2 - w0 ** 2) / 2

    what w times its change adds up to over all steps, each with w midway; the file has
    w0. No gradients are computed and no data is needed. Without `since` it is that of
    the moment, -w * g with g the gradient of the model's loss, which from scratch says
    little of where a weight is going.

    Source: Sanh et al., "Movement pruning: adaptive sparsity by fine-tuning", 2020,
    https://arxiv.org/abs/2005.07683, equation 4, the hard form: the sum of -w * g over
    training steps. Deviations: what is pruned stays pruned, while the source lets
    weights come back. With `since` the steps are those that the optimizer made, in the
    place of -g; without it there is no sum, and g is the mean over the batches given.
    As in the source each weight keeps its best share (`allocation="uniform"`), unless
    one says otherwise.

    Args:
        since: A `.weights.h5` file that the same model, with its wrappers if it has
            some, wrote by `save_weights` before the first step. It is read at each
            update, and has to be the same one when a fit is resumed.

    Raises:
        TypeError: If `since` is no path.
        ValueError: If it is not that of such a file.

    Example:
        >>> weight = np.array([0.5, -2.0, 0.0], "float32")
        >>> start = np.array([0.6, 1.0, 0.3], "float32")
        >>> scores = Movement("begin.weights.h5").score(weight, start=start)
        >>> np.sinh(np.log(scores[:2])).round(3)
        array([-0.055,  1.5  ])
    """

    since: str | None = None

    allocation: ClassVar[Allocation | None] = Uniform()

    def __post_init__(self) -> None:
        if self.since is None:
            return
        if not isinstance(self.since, str | os.PathLike):
            raise TypeError(
                "Movement: `since` must be the path of a file with weights, such as "
                f"'begin.weights.h5'. Received {self.since!r}."
            )
        object.__setattr__(self, "since", os.fspath(self.since))
        if not str(self.since).endswith(".weights.h5"):
            raise ValueError(
                "Movement: `since` must be a file that model.save_weights wrote, whose "
                f"name ends in '.weights.h5'. Received {self.since!r}."
            )

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """The weight as it was, or else its gradient."""
        return ("gradient",) if self.since is None else ("start",)

    def score(self, weight: np.ndarray, **beside: np.ndarray) -> np.ndarray:
        """Returns exp(asinh(movement)) for each element that is not zero."""
        # float64: movements are small numbers, and what they become lies around 1.
        now = weight.astype(np.float64)
        if self.since is None:
            movement = -now * beside["gradient"]
        else:
            movement = (now**2 - beside["start"].astype(np.float64) ** 2) / 2
        return np.where(weight != 0, np.exp(np.arcsinh(movement)), 0)


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Wanda(Criterion):
    """Keeps, of each output, the weights that are large and have large inputs.

        |w| * L2 norm of the input over the data, ranked among those of one output

    The score is the rank, from 1 / n for the least of n inputs to 1, and 0 where w is
    0, so that outputs lose the same number each. Of equal ones the lower index goes
    first.

    Source: Sun et al., "A simple and effective pruning approach for large language
    models", 2023, https://arxiv.org/abs/2306.11695, equation 1 and algorithm 1; there
    for dense layers. Deviations: for a convolution, inputs are the places of its
    window, as in the matrix product that it is; each weight is pruned with the inputs
    that the model has at that time, not layer after layer with those of pruned ones.

    For Dense, EinsumDense and convolutions that are neither depthwise nor transposed.
    Channels are judged by the weights that read them.
    """

    needs: ClassVar[tuple[str, ...]] = ("input_norm", "output_axes")
    allocation: ClassVar[Allocation | None] = Uniform()

    def score(
        self,
        weight: np.ndarray,
        input_norm: np.ndarray,
        output_axes: tuple[int, ...] = (-1,),
    ) -> np.ndarray:
        """Returns ranks within each output, in (0, 1]; 0 where the weight is zero."""
        saliency = np.abs(_floats(weight)) * input_norm
        ends = tuple(range(-len(output_axes), 0))
        last = np.moveaxis(saliency, output_axes, ends)
        flat = last.reshape(-1, int(np.prod(last.shape[last.ndim - len(ends) :])))
        order = np.argsort(flat, axis=0, kind="stable")
        ranks = np.empty(flat.shape, np.float32)
        num_inputs = len(flat)
        places = np.arange(1, num_inputs + 1, dtype=np.float32) / num_inputs
        np.put_along_axis(ranks, order, places[:, None], axis=0)
        # NaN, which ranks last, is to be seen.
        ranks[np.isnan(flat)] = np.nan
        scores = np.moveaxis(ranks.reshape(last.shape), ends, output_axes)
        return np.where(weight != 0, scores, np.float32(0))

    def counts(self, layer: keras.layers.Layer, rank: int, role: str) -> bool:
        """Returns whether the weight reads the channels."""
        # Among those that make them, each channel has the same ranks.
        return role == "reads"


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class BatchNormScale(Criterion):
    """Keeps the channels that their batch normalisation scales up most, by |gamma|.

    Source: Liu et al., "Learning efficient convolutional networks through network
    slimming", 2017, https://arxiv.org/abs/1708.06519, section 3. Deviations: scores are
    relative to the average of the coupled group, and the same share of each group goes
    unless `allocation="global"`; the L1 penalty on gamma that the source trains with is
    a setting of its own, `regularization="batch_norm_l1"`.

    For granularity="channel". Channels without a batch normalisation that has a scale
    are refused.
    """

    channels_only: ClassVar[bool] = True

    def score(self, weight: np.ndarray) -> np.ndarray:
        """Returns |weight|."""
        return np.abs(_floats(weight))

    def counts(self, layer: keras.layers.Layer, rank: int, role: str) -> bool:
        """Returns whether the weight is of a batch normalisation."""
        return isinstance(layer, keras.layers.BatchNormalization)


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class GeometricMedian(Criterion):
    """Keeps the filters that others cannot stand for (FPGM).

        D_j = sum over k of ||filter_j - filter_k||

    is smallest for filters near the geometric median of all. Each element of filter j
    scores D_j / sqrt(its number of elements), so that their L2 norm is D_j.

    Source: He et al., "Filter pruning via geometric median for deep neural networks
    acceleration", 2019, https://arxiv.org/abs/1811.00250, equation 6. Deviations:
    filters that are zero, as pruned ones are, score 0 and are no neighbours; the
    scores of weights whose channels are coupled are averaged.

    For granularity="channel"; units and heads count as filters.

    Example:
        >>> filters = np.array([[0.0, 3.0, 3.0], [1.0, 5.0, 1.0]])
        >>> scores = GeometricMedian().score(filters, axis=1)
        >>> np.linalg.norm(scores, axis=0).round(4)  # 5 + 3, 5 + 4, 3 + 4
        array([8., 9., 7.])
    """

    needs: ClassVar[tuple[str, ...]] = ("axis",)
    channels_only: ClassVar[bool] = True

    def score(self, weight: np.ndarray, axis: int = -1) -> np.ndarray:
        """Returns D_j / sqrt(elements of a filter), the same for all of filter j."""
        filters = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
        filters = filters.astype(np.float64)
        live = filters.any(axis=1)
        squares = np.square(filters).sum(axis=1)
        products = filters @ filters.T
        # Rounding may make the smallest negative.
        between = squares[:, None] + squares[None] - 2 * products
        distances = np.sqrt(np.maximum(between, 0)) * live
        np.fill_diagonal(distances, 0)
        sums = np.where(live, distances.sum(axis=1), 0)
        shape = [1] * weight.ndim
        shape[axis] = len(sums)
        scores = (sums / np.sqrt(filters.shape[1])).reshape(shape)
        return np.broadcast_to(scores, weight.shape).copy()

    def counts(self, layer: keras.layers.Layer, rank: int, role: str) -> bool:
        """Returns whether the weight is a kernel that makes the channels."""
        return role == "makes" and rank > 1


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Snip(Criterion):
    """Keeps the connections that the loss is most sensitive to, before training.

        |w * g|

    with g the gradient of the model's loss, averaged over the batches. Meant for one
    update at the start, and a ranking of all weights together, which is its default:

        PruningCallback(schedule=ConstantSparsity(0.9, 0), criterion="snip", data=...)

    Source: Lee et al., "SNIP: single-shot network pruning based on connection
    sensitivity", 2019, https://arxiv.org/abs/1810.02340, equations 5 and 6. Deviation:
    not divided by the sum over all weights, one number which changes no mask.
    """

    needs: ClassVar[tuple[str, ...]] = ("gradient",)
    allocation: ClassVar[Allocation | None] = Global()

    def score(self, weight: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Returns |weight * gradient|."""
        return np.abs(_floats(weight) * gradient)


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class SynFlow(Criterion):
    """Keeps the connections that carry most of the flow from inputs to outputs.

        w * dR/dw,  R = sum of the outputs

    with the absolute values of all weights in the place of the weights, and ones as
    the input: no data. Scores are computed anew after each of many small steps, without
    which whole layers would go. Meant for one update at the start, and a ranking of all
    weights together, which is its default:

        PruningCallback(schedule=ConstantSparsity(0.9, 0), criterion="synflow")

    Source: Tanaka et al., "Pruning neural networks without any data by iteratively
    conserving synaptic flow", 2020, https://arxiv.org/abs/2006.05467, equation 3 and
    algorithm 1. As in the authors' code biases and the weights of normalisations are
    taken as absolute values, too, and the model computes as at inference. Deviations:
    softmax and sigmoid of the outputs are left out, which would let nothing flow;
    `kprune.shrink` computes scores once.

    Args:
        rounds: Steps of an update, each of which divides what is left by the same
            factor, at least 1. 100 in the source.

    Raises:
        ValueError: If `rounds` is no such number.
    """

    rounds: int = 100

    needs: ClassVar[tuple[str, ...]] = ("synaptic_flow",)
    allocation: ClassVar[Allocation | None] = Global()

    def __post_init__(self) -> None:
        integer = isinstance(self.rounds, int) and not isinstance(self.rounds, bool)
        if not integer or self.rounds < 1:
            raise ValueError(
                "SynFlow: `rounds` must be an integer of at least 1. "
                f"Received {self.rounds!r}."
            )

    def score(self, weight: np.ndarray, synaptic_flow: np.ndarray) -> np.ndarray:
        """Returns |weight| * synaptic_flow."""
        return np.abs(_floats(weight)) * np.abs(synaptic_flow)

    def targets(self, now: float, sparsity: float) -> list[float]:
        """Returns sparsities whose densities fall by the same factor each.

        Example:
            >>> SynFlow(rounds=2).targets(0.0, 0.75)
            [0.5, 0.75]
        """
        if sparsity <= now:
            return [sparsity]
        factor = (1 - sparsity) / (1 - now)
        between = range(1, self.rounds)
        return [
            *(1 - (1 - now) * factor ** (k / self.rounds) for k in between),
            sparsity,
        ]


def _floats(weight: np.ndarray) -> np.ndarray:
    if weight.dtype not in (np.float32, np.float64):
        return weight.astype(np.float32)
    return weight
