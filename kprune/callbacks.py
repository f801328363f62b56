"""Callbacks: pruning while `fit` trains.

This module changes when the training loop that masks are updated from changes.
"""

import dataclasses
from typing import Any

import keras

from kprune.distillation import student_of
from kprune.foreign import check_trained
from kprune.guards import NOT_KEPT, AccuracyGuard, Guarding, check_guard
from kprune.judges import callbacks_of_fit, traps
from kprune.layers import drive
from kprune.plan import Plan
from kprune.report import PruningReport
from kprune.schedules import FitLength
from kprune.steps import StepCounter, check_given
from kprune.updates import MaskUpdates, checked_plan


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
            With `regrowth` it is that sparsity from the first step on.
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
        optimizer: The one whose steps count, in a model with several, such as a GAN:
            the one that trains the pruned weights. By default the model's own.
        guard: An `AccuracyGuard`, which makes pruning wait, or go back, while a metric
            is too far below the dense model's.
        **rule: Further arguments of `Rule`: `criterion`, `granularity`, `allocation`,
            `regrowth`, `regularization`, `only`, `skip`, `prune_depthwise`,
            `prune_frozen`, `skip_first`, `skip_last`.

    Attributes:
        report: `PruningReport`: sparsity asked and achieved per weight, which weights
            stay dense, and why, and how the fit went. Available as soon as the first
            epoch begins; after the fit it stays as it was at its end.
        history: List of `(step, sparsity)`, one pair per update of the masks.
        at_target: Whether the present epoch was begun with all the sparsity asked for.

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
        optimizer: keras.optimizers.Optimizer | None = None,
        guard: AccuracyGuard | None = None,
        **rule: Any,
    ) -> None:
        super().__init__()
        self._plan = checked_plan(
            self._name, sparsity, schedule, plan, rule, data, num_batches
        )
        self._data, self._num_batches = data, num_batches
        check_given(self._name, optimizer)
        self._given_optimizer = optimizer
        check_guard("PruningCallback", guard)
        self._guard = guard
        self._guarding: Guarding | None = None
        self._final_report: PruningReport | None = None
        self.at_target = False
        self._length_known = True
        self._updates: MaskUpdates | None = None

    @property
    def report(self) -> PruningReport:
        """The state of the pruned weights now, or at the end of the fit if it is over.

        Raises:
            RuntimeError: Before the first epoch of a fit.
        """
        if self._updates is None:
            raise RuntimeError(f"{self._name}.report: no fit has begun yet.")
        return self._final_report or dataclasses.replace(
            self._updates.report(),
            guard=self._guarding.record() if self._guarding else None,
        )

    @property
    def history(self) -> list[tuple[int, float]]:
        """List of `(step, sparsity)`, one pair per update of the masks."""
        return [] if self._updates is None else self._updates.history

    def set_model(self, model: Any) -> None:
        """Takes the model that is to be trained.

        Raises:
            TypeError: If it is none of Keras 3.
        """
        check_trained(self._name, model)
        super().set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Forgets an earlier fit; the work begins with the first epoch."""
        # Only then have all callbacks, such as BackupAndRestore, set the weights, and
        # only `on_epoch_begin` says where a resumed fit begins.
        self._updates = self._guarding = self._final_report = None
        self.at_target = False
        drive(student_of(self.model))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Before the first step: finds the weights and checks the schedule."""
        if self._updates is None:
            self._steps = StepCounter(self._name, self.model, self._given_optimizer)
            self._initial_epoch = epoch
            if self.model.built and self.model.weights:
                self._begin()
        if self._updates is not None:
            self.at_target = self._updates.at_target or self._is_settled

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Lets the loss of this step have the penalties of regularizations."""
        if self._updates is not None:
            self._updates.penalties.announce(self.model)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Updates the masks if an update fell into the steps since the last call."""
        if self._updates is None:
            # Keras builds a model that knows no input shape in its first step.
            self._begin()
        else:
            self._update(self._updates)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds `sparsity` to the logs; places schedules that waited for the length."""
        if self._updates is None:
            return
        if not self._length_known:
            self._length_known = True
            self._place(self._updates, self._steps.num_batches, self._steps.now)
        elif epoch == self._initial_epoch:
            self._check_pace(self._updates)
        logs = {} if logs is None else logs
        if self._guarding is not None:
            self._guarding.judge(logs)
        # On data of unknown length the step that finds its end counts, unseen by
        # `on_train_batch_end`.
        self._update(self._updates)
        logs["sparsity"] = self._updates.sparsity
        self._updates.note_epoch(logs, epoch)

    def on_train_end(self, logs: Any = None) -> None:
        """Masks what was written at the end of training, and says what is missing."""
        if self._updates is not None:
            self._updates.finish(self._guarding.at_end() if self._guarding else [])
            self._final_report = self.report

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _update(self, updates: MaskUpdates) -> None:
        """Makes the masks that are due after a step."""
        updates.update()

    def _begin(self) -> None:
        updates = MaskUpdates(
            self._name,
            self.model,
            self._plan,
            self._steps,
            self._data,
            self._num_batches,
        )
        if self._guard is not None:
            self._guarding = Guarding(self._guard, self.model, self._steps, updates)
            self._check_resumed()
        batches = self.params.get("steps")
        self._length_known = batches is not None
        fit = None
        if batches is None:
            self._check_unknown_length(updates)
        else:
            fit = self._place(updates, batches)
            if self._guarding is not None:
                self._guarding.check_begin(fit.step_at(1))
        self._check_judges(updates, fit)
        updates.attach()
        self._updates = updates
        self.model.make_train_function()

    def _check_unknown_length(self, updates: MaskUpdates) -> None:
        for schedule in updates.waiting:
            if self._initial_epoch > 0 or self.params.get("epochs", 1) < 2:
                raise ValueError(
                    f"{schedule} counts in epochs or fractions of the fit, and "
                    "the number of batches in an epoch is not known. It is learned in "
                    "the first epoch of a fresh fit of several epochs only. Say "
                    "fit(steps_per_epoch=...), give the data set its length with "
                    "tf.data.experimental.assert_cardinality, or use a schedule in "
                    "steps."
                )

    def _place(
        self, updates: MaskUpdates, batches: int, earliest: int | None = None
    ) -> FitLength:
        """Puts the schedules in plain steps, in a fit of so many batches per epoch."""
        epochs = self.params.get("epochs", 1)
        fit = self._steps.fit_length(self._initial_epoch, batches, epochs)
        updates.place(fit, self.model.steps_per_execution, earliest)
        return fit

    @property
    def _is_settled(self) -> bool:
        return self._guarding is not None and self._guarding.settled

    def _check_resumed(self) -> None:
        if self._initial_epoch > 0:
            raise ValueError(
                f"PruningCallback: the fit goes on with epoch {self._initial_epoch}, "
                f"and {NOT_KEPT} Begin a fit of its own, without `initial_epoch` and "
                "BackupAndRestore: say guard=AccuracyGuard(dense_level=...) and a "
                "schedule from the present sparsity on, such as PolynomialDecay(0.6, "
                "0.9, kprune.Epochs(0), kprune.FitFraction(0.5))."
            )

    def _check_judges(self, updates: MaskUpdates, fit: FitLength | None) -> None:
        """Warns of callbacks that pick epochs from before the target sparsity."""
        end = updates.end_step
        if end is not None and end <= self._steps.now:
            return
        target = None
        if end is not None and fit is not None and self._guard is None:
            epochs = range(fit.epochs)
            target = next((n for n in epochs if fit.step_at(n) >= end), None)
        if said := traps(callbacks_of_fit(), target):
            updates.notices.warn(said)

    def _check_pace(self, updates: MaskUpdates) -> None:
        """Warns if the optimizer does not make one step per batch."""
        batches, made = self.params["steps"], self._steps.num_batches
        name = self._steps.optimizer.name
        # A loss scale leaves steps out, and an early stop may have.
        if 0 < made <= 1.5 * batches:
            return
        updates.notices.warn(
            f"The optimizer {name!r} made {made} steps in an epoch of "
            f"{batches} batches. Schedules count its steps, and epochs and fractions "
            "of the fit by one step per batch. "
            + (
                "Say which optimizer trains the pruned weights, "
                "PruningCallback(optimizer=...)."
                if made == 0
                else "Give the schedule in steps of this optimizer."
            )
        )
