"""Masks that are made anew while a model trains, whatever trains it.

The front-ends, `PruningCallback` in `fit` and `Pruner` in a loop of the user's own, say
when a step is over and how long training is; all else is here. This module changes when
what is checked and done at a step changes.
"""

import contextlib
import warnings
from typing import Any

import keras

from kprune.channels import ChannelGroup
from kprune.evidence import Batch, Evidence, check_data, check_num_batches, read
from kprune.groups import Group, find_groups
from kprune.held import HeldWeight, PruningWarning
from kprune.layers import mask_of
from kprune.penalties import Penalties
from kprune.plan import Plan, check_final
from kprune.regularization import Regularization
from kprune.report import PruningReport
from kprune.schedules import FitLength, Schedule
from kprune.steps import StepCounter
from kprune.transform import forget_traces, make_plan


class MaskUpdates:
    """The pruned weights of a model in training, and the updates of their masks.

    Nothing of the model is changed before `attach`.

    Args:
        owner: Who is speaking in error messages, such as `"PruningCallback"`.
        model: A built model.
        plan: What to prune; `None` for what the model's wrappers or masks say.
        steps: Counts the optimizer's steps.
        data: What criteria may look at; `None` if there is none.
        num_batches: How many batches of it.

    Attributes:
        history: List of `(step, sparsity)`, one pair per update of the masks.
        groups: The weights or channels that are pruned together.
        penalties: What their regularizations add to the loss.

    Raises:
        ValueError: If there is nothing to prune, or a criterion lacks what it needs.
        TypeError: If something is of the wrong type.
    """

    def __init__(
        self,
        owner: str,
        model: keras.Model,
        plan: Plan | None,
        steps: StepCounter,
        data: Any,
        num_batches: int,
    ) -> None:
        if keras.config.backend() != "tensorflow":
            raise ValueError(
                f"{owner} trains on Keras's TensorFlow backend only. This is the "
                f"{keras.config.backend()} backend; set KERAS_BACKEND=tensorflow."
            )
        self.history: list[tuple[int, float]] = []
        self._owner, self._model, self._steps = owner, model, steps
        self.groups, self._skipped = find_groups(model, plan)
        self._look(data, num_batches)
        with _scope(model):
            self.penalties = Penalties(self.groups, steps)

    @property
    def sparsity(self) -> float:
        """The share of units that masks prune, over all groups together."""
        groups = self.groups
        return sum(g.num_pruned for g in groups) / sum(g.size for g in groups)

    @property
    def waiting(self) -> list[Schedule | Regularization]:
        """The schedules and regularizations that are not in plain steps yet."""
        schedules = [g.schedule for g in self.groups if g.schedule is not None]
        waiting = [schedule for schedule in schedules if not schedule.is_resolved]
        return [*waiting, *self.penalties.waiting]

    def report(self) -> PruningReport:
        """Returns the state of the pruned weights now."""
        asked = [(g.asked, g.size) for g in self.groups if g.schedule is not None]
        known = [(share, size) for share, size in asked if share is not None]
        total = sum(share * size for share, size in known)
        return PruningReport(
            step=self._steps.now,
            asked=total / sum(size for _, size in known) if known else None,
            weights=tuple(weight.record() for weight in self.weights()),
            skipped=self._skipped,
            channels=tuple(r for group in self.groups for r in group.records),
        )

    def weights(self) -> list[HeldWeight]:
        """Returns the weights that masks are, or will be, on."""
        # One that falls under rules for channels and for elements is in two groups.
        return [*dict.fromkeys(w for group in self.groups for w in group.weights)]

    def place(
        self, fit: FitLength, stride: int = 1, earliest: int | None = None
    ) -> None:
        """Puts the schedules in plain steps; warns if they do not fit.

        Args:
            fit: Where the epochs of training lie.
            stride: Steps between two calls of `update`.
            earliest: See `Schedule.resolve`.
        """
        for group in self.groups:
            if group.schedule is not None:
                group.schedule = group.schedule.resolve(fit, earliest)
                if group.rule is not None:
                    check_final(group.rule.granularity, group.schedule)
                self._check_reach(
                    group, group.schedule, fit.step_at(fit.epochs), stride
                )
        self.penalties.resolve(fit, earliest)
        self.penalties.start()

    def attach(self) -> None:
        """Puts the masks on the weights, and makes those that are due now."""
        for group in self.groups:
            _check_free_zeros(group, self._steps.now)
            _check_surplus(group)
        # Up to here nothing was changed.
        averages = self._averages()
        with _scope(self._model):
            for weight in self.weights():
                weight.attach(averages.get(id(weight.variable)))
        self.penalties.start()
        # A function that was traced before would go on without these masks.
        forget_traces(self._model)
        self.update()

    def update(self) -> bool:
        """Makes masks anew where an update is due; returns whether any was made.

        Raises:
            ValueError: If the model was given another optimizer meanwhile.
        """
        self._steps.check_optimizer()
        step, made = self._steps.now, False
        for group in self.groups:
            if group.schedule is None or not group.schedule.is_resolved:
                continue
            update = group.schedule.last_update(step)
            if update is None or update == group.updated_at:
                continue
            group.updated_at = update
            if group.update(group.schedule.sparsity(update)):
                self.history.append((step, self.sparsity))
                made = True
        return made

    def mask_again(self) -> dict[str, int]:
        """Zeroes what masks prune; returns how many weights were not, by path."""
        regrown = {}
        for weight in self.weights():
            if count := weight.num_regrown():
                regrown[weight.variable.path] = count
                weight.apply()
        return regrown

    def finish(self) -> None:
        """Masks what was written since the last step, and says what is missing."""
        self.penalties.finish(self._model)
        regrown = self.mask_again()
        if regrown and not self._steps.averaging:
            warn(
                "Weights that are pruned were not zero at the end of training: "
                f"{listed(regrown)}. Another callback may have restored an earlier "
                "epoch, such as EarlyStopping(restore_best_weights=True). They were "
                "set to zero again, without fine-tuning."
            )
        self._check_end()

    def _check_end(self) -> None:
        """Warns of schedules that training left unfinished."""
        for group in self.groups:
            schedule = group.schedule
            final = schedule.final_sparsity if schedule else None
            if schedule is None or final is None:
                continue
            if group.num_pruned < group.least_pruned(final):
                warn(
                    f"The fit ended at sparsity {group.num_pruned / group.size:.4f} "
                    f"and step {self._steps.now}; the schedule "
                    f"asks for {final:.4f} at step "
                    f"{schedule.end_step}. Go on with another fit."
                )

    def _look(self, data: Any, num_batches: int) -> None:
        """Gives the groups what their criteria may look at."""
        criteria = [group.rule.criterion for group in self.groups if group.rule]
        check_data(criteria, data is not None, self._owner)
        batches: tuple[Batch, ...] = ()
        if any(criterion.needs_data for criterion in criteria):
            batches = read(data, num_batches, self._owner)
        for group in self.groups:
            group.look(Evidence(self._model, batches))

    def _check_reach(
        self,
        group: Group | ChannelGroup,
        schedule: Schedule,
        last: int,
        stride: int,
    ) -> None:
        step = self._steps.now
        begin, end, final = (
            schedule.begin_step,
            schedule.end_step,
            schedule.final_sparsity,
        )
        if end > last:
            update = schedule.last_update(last)
            reached = 0.0 if update is None else schedule.sparsity(update)
            warn(
                f"This fit ends at step {last}, and the schedule runs from step {begin}"
                f" to {end}: the fit will reach sparsity {reached:.4f} of {final:.4f}. "
                "Train longer, end the schedule earlier, count it in "
                "kprune.FitFraction, or go on with another fit."
            )
        # What an uninterrupted fit would have reached before its last call of this.
        earlier = schedule.last_update(step - stride)
        if earlier is None or begin == end:
            return
        expected = schedule.sparsity(earlier)
        zeros = group.num_zeros()
        if zeros < group.least_pruned(expected):
            warn(
                f"The schedule runs from step {begin} to {end}, and the optimizer is "
                f"at step {step} already, from earlier training or `initial_epoch`: "
                f"the weights, {zeros / group.size:.4f} of them zero, are cut to "
                f"{expected:.4f} at once. To begin with this fit, count in "
                "kprune.Epochs or kprune.FitFraction without `initial_epoch`, or "
                "compile the model anew."
            )

    def _averages(self) -> dict[int, keras.Variable]:
        """Returns the optimizers' moving averages by the id of their variable."""
        averaging = self._steps.averaging
        if any(inner in self._steps.optimizers for inner in averaging):
            if not self._steps.optimizer.built:
                # Keras would do so in the first step, after it has read the masks.
                self._steps.optimizer.build(self._model.trainable_variables)
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


def checked_plan(
    owner: str,
    sparsity: float | None,
    schedule: Any,
    plan: Plan | None,
    rule: dict[str, Any],
    data: Any,
    num_batches: int,
) -> Plan | None:
    """Returns the plan that arguments describe; `None` if none of them says anything.

    Raises:
        ValueError: If they contradict each other, or a criterion lacks data.
        TypeError: If one is unknown or of the wrong type.
    """
    check_num_batches(num_batches, owner)
    if sparsity is None and schedule is None and plan is None and not rule:
        return None
    plan = make_plan(owner, sparsity, schedule, plan, rule)
    check_data([r.criterion for r in plan.rules], data is not None, owner)
    return plan


def listed(counts: dict[str, int]) -> str:
    """Returns the first few of some counts by path."""
    shown = [f"{path}: {count}" for path, count in counts.items() if count]
    more = [f"and {len(shown) - 5} more"] if len(shown) > 5 else []
    return ", ".join(shown[:5] + more)


def warn(message: str) -> None:
    """Warns the user of what pruning will not, or did not, do."""
    warnings.warn(message, PruningWarning, stacklevel=3)


def _scope(model: keras.Model) -> Any:
    """Returns the scope in which a model's variables are made, one per replica."""
    strategy = getattr(model, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def _check_free_zeros(group: Group | ChannelGroup, step: int) -> None:
    """Warns if there are zeros that neither a mask nor the schedule will hold."""
    schedule = group.schedule
    if schedule is None:
        return
    update = schedule.last_update(step) if schedule.is_resolved else None
    sparsity = 0.0 if update is None else schedule.sparsity(update)
    zeros = {
        weight.variable.path: weight.num_zeros()
        for weight in group.weights
        # One that is zero altogether was initialised so.
        if mask_of(weight.variable) is None and weight.num_zeros() < weight.size
    }
    # Single zeros turn up by chance; a hundredth of all weights does not.
    size = sum(weight.size for weight in group.weights)
    if sum(zeros.values()) > (group.share_of_zeros(sparsity) + 0.01) * size:
        warn(
            f"The model has zeros that nothing holds ({listed(zeros)}), more than the "
            f"schedule asks for now ({sparsity:.4f}): they may regrow. Call "
            "kprune.hold_zeros(model) before fit to keep them."
        )


def _check_surplus(group: Group | ChannelGroup) -> None:
    """Warns if masks hold more than the schedule asks for at its end."""
    surplus = group.surplus()
    if surplus is not None:
        held, asked = surplus
        warn(
            f"Masks hold {held:.4f} of {group.weights[0].variable.path!r} and what is "
            f"pruned with it at zero already, more than the {asked:.4f} that this fit "
            "asks for. What is pruned stays pruned. To begin anew, call "
            "kprune.release(model) first, which lets zeros grow back."
        )
