"""Regularizations in the loss of a model in training, and out of it again.

Keras adds to the loss what the `regularizer` of each variable returns. A penalty on
coupled channels looks at several variables, and one of them carries it. How strong it
is at which step is computed in the training step itself, from the optimizer's counter.
This module changes when penalties get into a training step in another way.
"""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from kprune.channels import ChannelGroup
from kprune.regularization import Regularization, risen
from kprune.schedules import FitLength
from kprune.steps import StepCounter
from kprune.transform import forget_traces

_NEVER = int(np.iinfo(np.int64).max)


class Penalty(keras.regularizers.Regularizer):
    """The penalty of one rule; a regularizer while it is put on.

    Args:
        group: The channels that the rule prunes.
        regularization: The rule's.
        steps: Counts the optimizer's steps.

    Attributes:
        seen: Whether a training step has asked for it.

    Raises:
        ValueError: If there are channels without a weight that it looks at.
    """

    def __init__(
        self, group: ChannelGroup, regularization: Regularization, steps: StepCounter
    ) -> None:
        self.regularization = regularization
        self.seen = self._told = False
        self._group, self._steps = group, steps
        units = np.concatenate([coupled.units for coupled in group.coupled])
        self._num_channels = len(units)
        self._slices = _slices(group, regularization, units)
        self._carrier = self._slices[0][0]
        self._inner: Any = None
        # Begin, end and stop; a variable, since the fit's length may be learned late.
        self._moments = keras.Variable(
            np.full(3, _NEVER), dtype="int64", trainable=False, name="penalty_moments"
        )

    def resolve(self, fit: FitLength, earliest: int | None) -> None:
        """Puts begin and end in plain steps."""
        self.regularization = self.regularization.resolve(fit, earliest)

    def start(self) -> None:
        """Makes it act if its steps are known; warns if it never will."""
        schedule, said = self._group.schedule, self.regularization
        if not said.is_resolved:
            return
        known = schedule is not None and schedule.is_resolved
        stop = schedule.end_step if schedule is not None and known else _NEVER
        self._moments.assign(np.asarray([said.begin_step, said.end_step, stop]))
        if said.begin_step >= stop and not self._told:
            self._told = True
            self.warn(
                f"{said} begins at step {said.begin_step}, and the masks are final at "
                f"step {stop}, where it ends: it never acts. Begin it earlier, or prune"
                " later, such as with schedule=kprune.ConstantSparsity(0.5, "
                "kprune.FitFraction(0.5))."
            )

    def warn(self, message: str) -> None:
        """Warns the user of what the penalty will not do."""
        self._group.notices.warn(message)

    def stop(self) -> None:
        """Makes it zero, also where a training step that was traced has it."""
        self._moments.assign(np.full(3, _NEVER))

    def put_on(self) -> None:
        """Lets the model's losses contain it."""
        self._inner, self._carrier.regularizer = self._carrier.regularizer, self

    def take_off(self) -> None:
        """Gives the variable the regularizer back that it had."""
        self._carrier.regularizer = self._inner

    def __call__(self, x: Any) -> Any:
        """Returns the penalty, and what the variable's own regularizer asks for."""
        self.seen = True
        step = keras.ops.cast(self._steps.optimizer.iterations, "int64")
        share = risen(step, *(self._moments[place] for place in range(3)))
        slices = [
            (_rows(variable, axis, places), channels)
            for variable, axis, places, channels in self._slices
        ]
        total = self.regularization.penalty(slices, self._num_channels)
        loss = keras.ops.cast(
            self.regularization.strength * share * total, keras.config.floatx()
        )
        return loss if self._inner is None else keras.ops.add(self._inner(x), loss)


class Penalties:
    """All penalties of a model; most have none, and then nothing here does anything.

    Args:
        groups: What is pruned.
        steps: Counts the optimizer's steps.
    """

    def __init__(self, groups: Iterable[Any], steps: StepCounter) -> None:
        made = [
            Penalty(group, group.rule.regularization, steps)
            for group in groups
            if group.rule is not None and group.rule.regularization is not None
        ]
        # A sum with zero rounds as the loss does, and its graph need not.
        self._each = [each for each in made if each.regularization.strength > 0]
        self._on = self._checked = False

    @property
    def waiting(self) -> list[Regularization]:
        """The regularizations that are not in plain steps yet."""
        said = [penalty.regularization for penalty in self._each]
        return [each for each in said if not each.is_resolved]

    def resolve(self, fit: FitLength, earliest: int | None) -> None:
        """Puts begins and ends in plain steps."""
        for penalty in self._each:
            penalty.resolve(fit, earliest)

    def start(self) -> None:
        """Makes those act whose steps are known; warns of those that never will."""
        for penalty in self._each:
            penalty.start()

    def put_on(self) -> None:
        """Lets the model's losses contain them; call it before the step is traced."""
        if not self._on:
            for penalty in self._each:
                penalty.put_on()
            self._on = True

    def take_off(self) -> None:
        """Gives the variables the regularizers back that they had."""
        if self._on:
            for penalty in reversed(self._each):
                penalty.take_off()
            self._on = False

    def announce(self, model: keras.Model) -> None:
        """Lets the next call of the model's training function have them, and no other.

        They come off with the end of each step, so that evaluation is without them and
        a fit that fails leaves nothing behind, unless it fails between this call and
        the step: the next fit's first step has them then.
        """
        if not self._each:
            return
        function = model.train_function
        while isinstance(function, _Penalised) and function.penalties is not self:
            function = function.function
        if not isinstance(function, _Penalised):
            function = model.train_function = _Penalised(model, self)
        function.announced = True

    def finish(self, model: keras.Model) -> None:
        """Ends them for good."""
        self.take_off()
        for penalty in self._each:
            penalty.stop()
        if self._each:
            forget_traces(model)

    def check(self) -> None:
        """Warns, once, of those that a training step did not ask for."""
        unseen = [penalty for penalty in self._each if not penalty.seen]
        if unseen and not self._checked:
            unseen[0].warn(
                f"The training step does not have {unseen[0].regularization} in its "
                "loss: it was "
                "traced before, or does not add model.losses. In a step of your own "
                "write loss += sum(model.losses), and make the Pruner before it is "
                "called for the first time."
            )
        self._checked = True


class _Penalised:
    """A model's training function that has penalties in the steps of one fit."""

    def __init__(self, model: keras.Model, penalties: Penalties) -> None:
        self.penalties, self.announced = penalties, False
        self.function = model.train_function
        self._model = model

    def __call__(self, iterator: Any) -> Any:
        if not self.announced:
            # Another fit, after one that failed.
            forget_traces(self._model)
            self._model.make_train_function()
            return self._model.train_function(iterator)
        self.announced = False
        self.penalties.put_on()
        try:
            logs = self.function(iterator)
        finally:
            self.penalties.take_off()
        self.penalties.check()
        return logs


def _slices(
    group: ChannelGroup, regularization: Regularization, units: np.ndarray
) -> list[tuple[keras.Variable, int, np.ndarray, np.ndarray]]:
    """Returns the weights that a penalty looks at.

    Returns:
        Of each weight and axis the indices along it that the channels have, and the
        channels' numbers, in the order of `units`.
    """
    coupling = group.coupling
    number = np.full(coupling.num_units, -1)
    number[units] = np.arange(len(units))
    found, covered = [], np.zeros(len(units), bool)
    for index in dict.fromkeys(i for coupled in group.coupled for i in coupled.slots):
        slot = coupling.slots[index]
        if not (slot.scored and slot.variable.trainable):
            continue
        if not regularization.counts(slot.layer):
            continue
        channels = number[coupling.units(slot)]
        places = np.flatnonzero(channels >= 0)
        covered[channels[places]] = True
        found.append((slot.variable, slot.axis, places, channels[places]))
    bare = [c.name for c in group.coupled if not covered[number[c.units]].all()]
    if bare:
        raise ValueError(
            f"{regularization} looks at none of the weights of {', '.join(bare)}; "
            "BatchNormL1 needs a batch normalisation with scale=True. Leave these "
            "layers out (skip=...), or use regularization='group_lasso'."
        )
    return found


def _rows(variable: keras.Variable, axis: int, places: np.ndarray) -> Any:
    """Returns slices of a weight along an axis as the rows of a matrix, float32."""
    ops = keras.ops
    value = ops.convert_to_tensor(variable, dtype="float32")
    value = ops.moveaxis(value, axis, 0)
    rows = ops.reshape(value, (value.shape[0], -1))
    return rows if len(places) == value.shape[0] else ops.take(rows, places, axis=0)
