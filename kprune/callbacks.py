"""Callbacks: pruning while `fit` trains.

This module changes when the training loop that masks are updated from changes.
"""

import warnings
from typing import Any

import keras

from kprune.channels import ChannelGroup
from kprune.evidence import Batch, Evidence, check_data, check_num_batches, read
from kprune.held import HeldWeight, PruningWarning
from kprune.layers import mask_of
from kprune.plan import Plan, check_final
from kprune.pruner import Group, find_groups
from kprune.report import PruningReport, SkippedWeight
from kprune.schedules import FitLength, Schedule
from kprune.transform import forget_traces, make_plan


class PruningCallback(keras.callbacks.Callback):
    """Prunes a model, of any kind and in place, while `fit` trains it.

    After the step at which the schedule has an update due, masks are made from the
    weights as they are; from then on they are held at exactly zero after every
    optimizer step, inside the compiled training step, so that a checkpoint written at
    any time is sparse and is an ordinary file. Masks stay on the model after the fit:
    a later `fit`, with or without this callback, keeps the zeros, until `kprune.strip`
    returns a model without masks.

    To resume an interrupted fit, load the saved model and call `fit` with a fresh
    callback of the same arguments, the same `epochs` and `initial_epoch`; masks come
    out the same as without interruption. Zeros are recognised by their value: weights
    that are exactly zero for another reason may take the place of pruned ones then.

    Without arguments it drives the wrappers made by `kprune.prune`, or, on a model
    without them, holds the masks that are there.

    Args:
        sparsity: Fraction of zeros, in [0, 1), to reach over all pruned weights
            together. The schedule is then a cubic ramp over the first half of the
            fit, whatever its length; the second half is fine-tuning. Where the
            data's length is not known before, the ramp begins after the first epoch.
        schedule: A `Schedule` or a function of the step, instead of `sparsity`. Its
            steps are `optimizer.iterations`, which go on from one fit to the next;
            `kprune.Epochs` and `kprune.FitFraction` count in the present fit.
        plan: A `Plan` of several rules, instead of all arguments but `data`.
        data: What criteria that need gradients or inputs find these on, such as
            `(x_train, y_train)`, a `tf.data.Dataset` or a `PyDataset`; others do not
            look at it. Its first batches are read when the fit begins and kept, 32
            samples each of arrays, which are taken at even distances. A data set that
            shuffles must not be the one that is trained on: each reading shuffles anew.
        num_batches: How many batches of it, at least 1.
        **rule: Further arguments of `Rule`: `criterion`, `granularity`, `allocation`,
            `only`, `skip`, `prune_depthwise`, `skip_first`, `skip_last`.

    Attributes:
        report: `PruningReport`: sparsity asked and achieved per weight, and which
            weights stay dense, and why. Available as soon as the first epoch begins.
        history: List of `(step, sparsity)`, one pair per update of the masks.

    Raises:
        ValueError: If arguments contradict each other or are out of range, or a
            criterion needs data and there is none; when the fit begins, if the plan
            matches nothing or cannot be placed in it.
        TypeError: If an argument is unknown or of the wrong type.
    """

    def __init__(
        self,
        sparsity: float | None = None,
        *,
        schedule: Any = None,
        plan: Plan | None = None,
        data: Any = None,
        num_batches: int = 8,
        **rule: Any,
    ) -> None:
        super().__init__()
        self._plan: Plan | None = None
        if sparsity is not None or schedule is not None or plan is not None or rule:
            self._plan = make_plan("PruningCallback", sparsity, schedule, plan, rule)
            criteria = [each.criterion for each in self._plan.rules]
            check_data(criteria, data is not None, "PruningCallback")
        check_num_batches(num_batches, "PruningCallback")
        self._data, self._num_batches = data, num_batches
        self.history: list[tuple[int, float]] = []
        self._length_known = True
        self._groups: list[Group | ChannelGroup] | None = None
        self._skipped: tuple[SkippedWeight, ...] = ()

    @property
    def report(self) -> PruningReport:
        """The state of the pruned weights now.

        Raises:
            RuntimeError: Before the first epoch of a fit.
        """
        if self._groups is None:
            raise RuntimeError("PruningCallback.report: no fit has begun yet.")
        asked = [(g.asked, g.size) for g in self._groups if g.schedule is not None]
        known = [(share, size) for share, size in asked if share is not None]
        total = sum(share * size for share, size in known)
        return PruningReport(
            step=int(self.model.optimizer.iterations),
            asked=total / sum(size for _, size in known) if known else None,
            weights=tuple(weight.record() for weight in self._weights()),
            skipped=self._skipped,
            channels=tuple(r for group in self._groups for r in group.records),
        )

    def on_train_begin(self, logs: Any = None) -> None:
        """Forgets an earlier fit; the work begins with the first epoch."""
        # Only then have all callbacks, such as BackupAndRestore, set the weights, and
        # only `on_epoch_begin` says where a resumed fit begins.
        self._groups = None
        self.history = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Before the first step: finds the weights and checks the schedule."""
        if self.model.optimizer is None:
            raise ValueError(
                f"PruningCallback: {self.model.name!r} has no optimizer. Call "
                "compile(optimizer=...) before fit."
            )
        if self._groups is None:
            self._initial_epoch = epoch
            self._first_batch = _batches_seen(self.model.optimizer)
            if self.model.built and self.model.weights:
                self._begin()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Updates the masks if an update fell into the steps since the last call."""
        if self._groups is None:
            # Keras builds a model that knows no input shape in its first step.
            self._begin()
        else:
            self._update()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds `sparsity` to the logs; places schedules that waited for the length."""
        if self._groups is None:
            return
        if not self._length_known:
            self._length_known = True
            batches = _batches_seen(self.model.optimizer) - self._first_batch
            step = int(self.model.optimizer.iterations)
            self._place(self._groups, batches, earliest=step)
        # On data of unknown length the step that finds its end counts, unseen by
        # `on_train_batch_end`.
        self._update()
        if logs is not None:
            logs["sparsity"] = self._sparsity()

    def on_train_end(self, logs: Any = None) -> None:
        """Masks what was written at the end of training, and says what is missing."""
        regrown = {}
        for weight in self._weights():
            if count := weight.num_regrown():
                regrown[weight.variable.path] = count
                weight.apply()
        optimizers = _optimizers(self.model.optimizer)
        if regrown and not any(optimizer.use_ema for optimizer in optimizers):
            _warn(
                "Weights that are pruned were not zero at the end of training: "
                f"{_listed(regrown)}. Another callback may have restored an earlier "
                "epoch, such as EarlyStopping(restore_best_weights=True). They were "
                "set to zero again, without fine-tuning."
            )
        for group in self._groups or ():
            schedule = group.schedule
            final = schedule.final_sparsity if schedule else None
            if schedule is None or final is None:
                continue
            if group.num_pruned < group.least_pruned(final):
                _warn(
                    f"The fit ended at sparsity {group.num_pruned / group.size:.4f} "
                    f"and step {int(self.model.optimizer.iterations)}; the schedule "
                    f"asks for {final:.4f} at step "
                    f"{schedule.end_step}. Go on with another fit."
                )

    def _begin(self) -> None:
        if keras.config.backend() != "tensorflow":
            raise ValueError(
                "PruningCallback trains on Keras's TensorFlow backend only. This is "
                f"the {keras.config.backend()} backend; set KERAS_BACKEND=tensorflow."
            )
        groups, skipped = find_groups(self.model, self._plan)
        self._look(groups)
        batches = self.params.get("steps")
        self._length_known = batches is not None
        if batches is None:
            self._check_unknown_length(groups)
        else:
            self._place(groups, batches)
        for group in groups:
            _check_free_zeros(group, int(self.model.optimizer.iterations))
            _check_surplus(group)
        # Up to here nothing was changed.
        self._groups, self._skipped = groups, skipped
        self._attach()
        self._update()

    def _look(self, groups: list[Group | ChannelGroup]) -> None:
        """Gives the groups what their criteria may look at."""
        criteria = [group.rule.criterion for group in groups if group.rule]
        check_data(criteria, self._data is not None, "PruningCallback")
        batches: tuple[Batch, ...] = ()
        if any(criterion.needs_data for criterion in criteria):
            batches = read(self._data, self._num_batches, "PruningCallback")
        for group in groups:
            group.look(Evidence(self.model, batches))

    def _check_unknown_length(self, groups: list[Group | ChannelGroup]) -> None:
        for group in groups:
            if group.schedule is None or group.schedule.is_resolved:
                continue
            if self._initial_epoch > 0 or self.params.get("epochs", 1) < 2:
                raise ValueError(
                    f"{group.schedule} counts in epochs or fractions of the fit, and "
                    "the number of batches in an epoch is not known. It is learned in "
                    "the first epoch of a fresh fit of several epochs only. Say "
                    "fit(steps_per_epoch=...), give the data set its length with "
                    "tf.data.experimental.assert_cardinality, or use a schedule in "
                    "steps."
                )

    def _place(
        self,
        groups: list[Group | ChannelGroup],
        batches: int,
        earliest: int | None = None,
    ) -> None:
        """Puts the groups' schedules in plain steps; warns if they do not fit."""
        epochs = self.params.get("epochs", 1)
        fit = FitLength(
            self._first_batch - self._initial_epoch * batches,
            batches,
            epochs,
            _optimizers(self.model.optimizer)[0].gradient_accumulation_steps or 1,
        )
        for group in groups:
            if group.schedule is not None:
                group.schedule = group.schedule.resolve(fit, earliest)
                if group.rule is not None:
                    check_final(group.rule.granularity, group.schedule)
                self._check_reach(group, group.schedule, fit.step_at(epochs))

    def _check_reach(
        self, group: Group | ChannelGroup, schedule: Schedule, last: int
    ) -> None:
        step = int(self.model.optimizer.iterations)
        begin, end, final = (
            schedule.begin_step,
            schedule.end_step,
            schedule.final_sparsity,
        )
        if end > last:
            update = schedule.last_update(last)
            reached = 0.0 if update is None else schedule.sparsity(update)
            _warn(
                f"This fit ends at step {last}, and the schedule runs from step {begin}"
                f" to {end}: the fit will reach sparsity {reached:.4f} of {final:.4f}. "
                "Train longer, end the schedule earlier, count it in "
                "kprune.FitFraction, or go on with another fit."
            )
        # What an uninterrupted fit would have reached before its last call of this.
        earlier = schedule.last_update(step - self.model.steps_per_execution)
        if earlier is None or begin == end:
            return
        expected = schedule.sparsity(earlier)
        zeros = group.num_zeros()
        if zeros < group.least_pruned(expected):
            _warn(
                f"The schedule runs from step {begin} to {end}, and the optimizer is "
                f"at step {step} already, from earlier training or `initial_epoch`: "
                f"the weights, {zeros / group.size:.4f} of them zero, are cut to "
                f"{expected:.4f} at once. To begin with this fit, count in "
                "kprune.Epochs or kprune.FitFraction without `initial_epoch`, or "
                "compile the model anew."
            )

    def _attach(self) -> None:
        optimizer = self.model.optimizer
        if any(inner.use_ema for inner in _optimizers(optimizer)):
            if not optimizer.built:
                # Keras would do so in the first step, after it has read the masks.
                optimizer.build(self.model.trainable_variables)
        averages = {
            id(variable): average
            for inner in _optimizers(optimizer)
            if inner.use_ema
            for variable, average in zip(
                inner._trainable_variables,
                inner._model_variables_moving_average,
                strict=True,
            )
        }
        for weight in self._weights():
            weight.attach(averages.get(id(weight.variable)))
        # A function that an earlier fit traced would go on without these masks.
        forget_traces(self.model)
        self.model.make_train_function()

    def _update(self) -> None:
        step = int(self.model.optimizer.iterations)
        for group in self._groups or ():
            if group.schedule is None or not group.schedule.is_resolved:
                continue
            update = group.schedule.last_update(step)
            if update is None or update == group.updated_at:
                continue
            group.updated_at = update
            if group.update(group.schedule.sparsity(update)):
                self.history.append((step, self._sparsity()))

    def _weights(self) -> list[HeldWeight]:
        groups = self._groups or ()
        # One that falls under rules for channels and for elements is in two groups.
        return [*dict.fromkeys(weight for group in groups for weight in group.weights)]

    def _sparsity(self) -> float:
        groups = self._groups or []
        return sum(g.num_pruned for g in groups) / sum(g.size for g in groups)


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
        _warn(
            f"The model has zeros that nothing holds ({_listed(zeros)}), more than the "
            f"schedule asks for now ({sparsity:.4f}): they may regrow. Call "
            "kprune.hold_zeros(model) before fit to keep them."
        )


def _check_surplus(group: Group | ChannelGroup) -> None:
    """Warns if masks hold more than the schedule asks for at its end."""
    surplus = group.surplus()
    if surplus is not None:
        held, asked = surplus
        _warn(
            f"Masks hold {held:.4f} of {group.weights[0].variable.path!r} and what is "
            f"pruned with it at zero already, more than the {asked:.4f} that this fit "
            "asks for. What is pruned stays pruned. To begin anew, call "
            "kprune.release(model) first, which lets zeros grow back."
        )


def _optimizers(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """Returns the optimizers that do the work, inside of wrapping ones."""
    if hasattr(optimizer, "inner_optimizer"):  # LossScaleOptimizer
        return _optimizers(optimizer.inner_optimizer)
    if hasattr(optimizer, "optimizers"):  # MultiOptimizer
        return [o for inner in optimizer.optimizers for o in _optimizers(inner)]
    return [optimizer]


def _batches_seen(optimizer: keras.optimizers.Optimizer) -> int:
    # `iterations` is rounded down to whole accumulations, so that epochs counted from
    # it would drift.
    return int(_optimizers(optimizer)[0]._iterations)


def _listed(counts: dict[str, int]) -> str:
    shown = [f"{path}: {count}" for path, count in counts.items() if count]
    more = [f"and {len(shown) - 5} more"] if len(shown) > 5 else []
    return ", ".join(shown[:5] + more)


def _warn(message: str) -> None:
    warnings.warn(message, PruningWarning, stacklevel=3)
