"""Masks that are made anew while a model trains, whatever trains it.

The front-ends, `PruningCallback` in `fit` and `Pruner` in a loop of the user's own, say
when a step is over and how long training is; all else is here. This module changes when
what is checked and done at a step changes.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.channels import ChannelGroup
from kprune.distillation import student_of
from kprune.evidence import Batch, Evidence, check_data, check_num_batches, read
from kprune.groups import Group, find_groups
from kprune.held import HeldWeight
from kprune.layers import mask_of, scope_of, values
from kprune.notices import Notices
from kprune.penalties import Penalties
from kprune.plan import Plan, check_final
from kprune.regrowth import Regrowth
from kprune.report import EpochRecord, PruningReport
from kprune.schedules import FitLength, Schedule, Timed, default_frequency
from kprune.steps import StepCounter, check_backend
from kprune.transform import forget_traces, make_plan
from kprune.workers import check_agreement


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
        epochs: What the logs had after each epoch.
        groups: The weights or channels that are pruned together.
        notices: What there is to say to the user.
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
        check_backend(owner)
        self.history: list[tuple[int, float]] = []
        self.epochs: list[EpochRecord] = []
        self.notices = Notices()
        self._owner, self._model, self._steps = owner, model, steps
        # A teacher stays as it is.
        self._pruned = student_of(model)
        self._delay = 0
        self._held_at: int | None = None
        self.groups, self._skipped = find_groups(self._pruned, plan, self.notices)
        for group in self.groups:
            group.notices = self.notices
        self._look(data, num_batches)
        with scope_of(model):
            self.penalties = Penalties(self.groups, steps)

    @property
    def sparsity(self) -> float:
        """The share of units that masks prune, over all groups together."""
        groups = self.groups
        return sum(g.num_pruned for g in groups) / sum(g.size for g in groups)

    @property
    def waiting(self) -> list[Timed]:
        """What is not in plain steps yet: schedules, regrowths, regularizations."""
        timed = [each for g in self.groups for each in (g.schedule, g.regrowth) if each]
        waiting = [each for each in timed if not each.is_resolved]
        return [*waiting, *self.penalties.waiting]

    @property
    def end_step(self) -> int | None:
        """The step of the last update, if schedules are in plain steps already."""
        if self.waiting:
            return None
        ends = [g.schedule.end_step for g in self.groups if g.schedule is not None]
        return max(ends, default=0) + self._late

    @property
    def at_target(self) -> bool:
        """Whether all schedules have come to their end, and masks are as they ask."""
        return all(
            group.schedule is None
            or (
                group.schedule.is_resolved
                and group.updated_at is not None
                and group.updated_at[0] == group.schedule.end_step
                and not _unfinished(group)
            )
            for group in self.groups
        )

    def hold(self) -> None:
        """Stops the schedules' clock: masks stay as they are until `go_on`."""
        if self._held_at is None:
            self._held_at = self._steps.now

    def go_on(self) -> None:
        """Lets the schedules go on from where they stood when they were held."""
        if self._held_at is not None:
            self._delay += self._steps.now - self._held_at
            self._held_at = None

    @property
    def _late(self) -> int:
        """How many steps the schedules' clock is behind."""
        return self._steps.now - self._moment

    @property
    def _moment(self) -> int:
        """The step by the schedules' clock."""
        step = self._steps.now if self._held_at is None else self._held_at
        return step - self._delay

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
            history=tuple(self.history),
            epochs=tuple(self.epochs),
            notices=self.notices.counts,
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
            earliest: See `Timed.resolve`.
        """
        for group in self.groups:
            if group.schedule is not None:
                group.schedule = group.schedule.resolve(fit, earliest)
                if group.regrowth is not None:
                    group.regrowth = group.regrowth.resolve(fit, earliest)
                    self._check_exchanges(group.regrowth, fit.step_at(fit.epochs))
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
            _check_free_zeros(group, self._moment)
            _check_surplus(group)
        # Up to here nothing was changed.
        averages = self._steps.averages()
        with scope_of(self._model):
            for weight in self.weights():
                average = averages.get(id(weight.variable))
                weight.attach(average, self._steps.optimizers)
        self.penalties.start()
        # A function that was traced before would go on without these masks.
        forget_traces(self._model)
        forget_traces(self._pruned)
        self.update()

    def update(self) -> bool:
        """Makes masks anew where an update is due; returns whether any was made.

        Raises:
            ValueError: If the model was given another optimizer meanwhile, or workers
                made different masks.
        """
        self._steps.check_optimizer()
        # Reading it waits for the optimizer's counter.
        made, moment = False, self._moment
        for group in self.groups:
            if group.schedule is None or not group.schedule.is_resolved:
                continue
            update = group.schedule.last_update(moment)
            if update is None:
                continue
            before = group.updated_at
            group.updated_at = (update, _exchange(group, moment))
            if group.updated_at != before and _update(group, before):
                self.note()
                made = True
        if made:
            check_agreement(self._owner, self._model, self.weights())
        return made

    def note(self) -> None:
        """Adds the present sparsity to the history."""
        self.history.append((self._steps.now, self.sparsity))

    def note_epoch(self, logs: dict[str, Any], epoch: int | None = None) -> None:
        """Keeps the logs of an epoch that is over; by default the next one."""
        numbers = {name: float(logs[name]) for name in logs if np.ndim(logs[name]) == 0}
        epoch = len(self.epochs) if epoch is None else epoch
        self.epochs.append(EpochRecord(epoch, self._steps.now, numbers))

    def mask_again(self) -> dict[str, int]:
        """Zeroes what masks prune; returns how many weights were not, by path."""
        regrown = {}
        for weight in self.weights():
            if count := weight.num_regrown():
                regrown[weight.variable.path] = count
                weight.apply()
        return regrown

    def finish(self, at_end: Sequence[str] = ()) -> None:
        """Masks what was written since the last step, and says what is missing.

        Args:
            at_end: What there is to say beside that.
        """
        self.penalties.finish(self._model)
        said = []
        for group in self.groups:
            if isinstance(group, Group) and group.regrowth is not None:
                _adopt_restored(group)
        regrown = self.mask_again()
        if regrown and not self._steps.averaging:
            said.append(
                "Weights that are pruned were not zero at the end of training: "
                f"{listed(regrown)}. Another callback may have restored an earlier "
                "epoch, such as EarlyStopping(restore_best_weights=True). They were "
                "set to zero again, without fine-tuning."
            )
        said += [self._left(group) for group in self.groups if _unfinished(group)]
        dense = len(self._skipped)
        self.notices.sum_up(
            [*said, *at_end],
            f"{dense} weights stay dense, and `report` says why." if dense else "",
        )

    def _left(self, group: Group | ChannelGroup) -> str:
        """Says how far a schedule came that training left unfinished."""
        schedule: Any = group.schedule
        asked, end = f"{schedule.final_sparsity:.4f}", schedule.end_step
        said = (
            f"The fit ended at sparsity {group.num_pruned / group.size:.4f} and step "
            f"{self._steps.now}"
        )
        if self._held_at is not None:
            return f"{said}, held short of the {asked} that the schedule asks for."
        late = f", {self._late} steps after its time" if self._late else ""
        return (
            f"{said}; the schedule asks for {asked} at step {end + self._late}{late}. "
            "Go on with another fit."
        )

    def _look(self, data: Any, num_batches: int) -> None:
        """Gives the groups what their criteria may look at."""
        scorers = [s for group in self.groups if group.rule for s in group.rule.scorers]
        check_data(scorers, data is not None, self._owner)
        batches: tuple[Batch, ...] = ()
        if any(scorer.needs_data for scorer in scorers):
            batches = read(data, num_batches, self._owner)
        for group in self.groups:
            group.look(Evidence(self._pruned, batches))

    def _check_reach(
        self,
        group: Group | ChannelGroup,
        schedule: Schedule,
        last: int,
        stride: int,
    ) -> None:
        step = self._moment
        begin, end, final = (
            schedule.begin_step,
            schedule.end_step,
            schedule.final_sparsity,
        )
        if end > last:
            update = schedule.last_update(last)
            reached = 0.0 if update is None else schedule.sparsity(update)
            self.notices.warn(
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
            self.notices.warn(
                f"The schedule runs from step {begin} to {end}, and the optimizer is "
                f"at step {step} already, from earlier training or `initial_epoch`: "
                f"the weights, {zeros / group.size:.4f} of them zero, are cut to "
                f"{expected:.4f} at once. To begin with this fit, count in "
                "kprune.Epochs or kprune.FitFraction without `initial_epoch`, or "
                "compile the model anew."
            )

    def _check_exchanges(self, regrowth: Regrowth, last: int) -> None:
        """Warns if masks will hardly move, or still do when the fit ends."""
        begin, end, step = regrowth.begin_step, regrowth.end_step, self._moment
        if step >= end:
            return  # Resumed after the last exchange.
        first = begin + (regrowth.frequency or default_frequency(begin, end))
        if first >= end:
            self.notices.warn(
                f"{regrowth} exchanges no weight: it runs from step {begin} to {end}, "
                f"and the first exchange would be at step {first}. Train longer, or "
                "give it a smaller frequency."
            )
        elif end > last:
            self.notices.warn(
                f"This fit ends at step {last}, and {regrowth} exchanges weights up to "
                f"step {end}: the last ones have no time to be trained. "
                "Let it end earlier, count its end in kprune.FitFraction, or go on "
                "with another fit."
            )


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
    scorers = [scorer for rule in plan.rules for scorer in rule.scorers]
    check_data(scorers, data is not None, owner)
    return plan


def _exchange(group: Group | ChannelGroup, step: int) -> int | None:
    """Returns the step of a group's last exchange by regrowth; `None` before it."""
    regrowth = group.regrowth
    if regrowth is None or not regrowth.is_resolved:
        return None
    return regrowth.last_update(step)


def _update(group: Group | ChannelGroup, before: tuple[int, int | None] | None) -> bool:
    """Makes a group's masks anew; returns whether any was made.

    Args:
        group: The group, with the steps that are due in `updated_at`.
        before: Those of the update before; `None` if this is the first.
    """
    if group.schedule is None or group.updated_at is None:
        return False
    step, exchange = group.updated_at
    sparsity = group.schedule.sparsity(step)
    if before is None:
        return group.begin(sparsity)
    if isinstance(group, Group) and exchange is not None and exchange != before[1]:
        return group.exchange(sparsity, exchange)
    return group.update(sparsity)


def listed(counts: dict[str, int]) -> str:
    """Returns the first few of some counts by path."""
    shown = [f"{path}: {count}" for path, count in counts.items() if count]
    more = [f"and {len(shown) - 5} more"] if len(shown) > 5 else []
    return ", ".join(shown[:5] + more)


def _unfinished(group: Group | ChannelGroup) -> bool:
    """Returns whether masks prune less than a schedule asks for at its end."""
    final = group.schedule.final_sparsity if group.schedule else None
    return final is not None and group.num_pruned < group.least_pruned(final)


def _adopt_restored(group: Group) -> None:
    """Takes over the masks of an earlier epoch, whose weights were restored.

    Where masks move, those of now would cut what was kept then.
    """
    regrown = any(weight.num_regrown() for weight in group.weights)
    if regrown and group.num_zeros() >= group.num_pruned:
        group.adopt_zeros()


def _check_free_zeros(group: Group | ChannelGroup, step: int) -> None:
    """Warns if there are zeros that neither a mask nor the schedule will hold."""
    schedule = group.schedule
    if schedule is None:
        return
    update = schedule.last_update(step) if schedule.is_resolved else None
    sparsity = 0.0
    if update is not None:
        # Channels that were taken over are held whatever the schedule says.
        sparsity = max(schedule.sparsity(update), group.num_pruned / group.size)
    zeros = {
        weight.variable.path: weight.num_zeros()
        for weight in group.weights
        # One that is zero altogether was initialised so.
        if not _is_held(weight) and weight.num_zeros() < weight.size
    }
    # Single zeros turn up by chance; a hundredth of all weights does not.
    size = sum(weight.size for weight in group.weights)
    if sum(zeros.values()) > (group.share_of_zeros(sparsity) + 0.01) * size:
        group.notices.warn(
            f"The model has zeros that nothing holds ({listed(zeros)}), more than the "
            f"schedule asks for now ({sparsity:.4f}): they may regrow. Call "
            "kprune.hold_zeros(model) before fit to keep them."
        )


def _is_held(weight: HeldWeight) -> bool:
    """Returns whether a mask prunes anything of a weight already."""
    constraint = mask_of(weight.variable)
    return constraint is not None and not values(constraint.mask).all()


def _check_surplus(group: Group | ChannelGroup) -> None:
    """Warns if masks hold more than the schedule asks for at its end."""
    surplus = group.surplus()
    if surplus is not None:
        held, asked = surplus
        group.notices.warn(
            f"Masks hold {held:.4f} of {group.weights[0].variable.path!r} and what is "
            f"pruned with it at zero already, more than the {asked:.4f} that this fit "
            "asks for. What is pruned stays pruned. To begin anew, call "
            "kprune.release(model) first, which lets zeros grow back."
        )
