"""`Pruner`: pruning in a training loop of the user's own.

This module changes when such loops do; pruning in `fit` is `kprune.callbacks`.
"""

import dataclasses
from typing import Any

import keras

from kprune.distillation import student_of
from kprune.foreign import received
from kprune.guards import NOT_KEPT, AccuracyGuard, Guarding, check_guard
from kprune.layers import drive
from kprune.plan import Plan
from kprune.report import PruningReport
from kprune.steps import StepCounter
from kprune.updates import MaskUpdates, checked_plan, listed

# Calls of `step` without a step of the optimizer after which something is wrong: a
# dynamic loss scale leaves out the first dozen.
_PATIENCE = 100


class Pruner:
    """Prunes a model in place, in a training loop of your own.

    Make it before the training step is compiled or called for the first time, and call
    `step` after each optimizer step:

        pruner = kprune.Pruner(model, plan, optimizer)
        for x, y in batches:
            train_step(x, y)  # or model.train_on_batch(x, y)
            pruner.step()

    It does what `PruningCallback` does in `fit`: weights are held at exactly zero by
    the optimizer itself, also inside of a `tf.function`. A training step that does not
    do so, because it was traced before or does not use a Keras optimizer, is noticed;
    you are warned, and each `step` masks the weights instead.

    A `regularization` is in `model.losses` from here to `finish`, which takes it out
    again, also after a loop that failed: a step of your own writes
    `loss += sum(model.losses)`, as for any regularizer of Keras.

    With several optimizers, as in a GAN, make one for each model, with its optimizer.

    Args:
        model: A built model.
        plan: A `Plan`, instead of `sparsity`, `schedule` and all of `rule`. Without
            any, masks that are there are held, or `Pruned` wrappers driven.
        optimizer: The one that trains the model; its `iterations` are the steps. By
            default the one that the model was compiled with.
        sparsity: Fraction of zeros, in [0, 1), to reach over all pruned weights
            together, by a cubic ramp over the first half of training.
        schedule: A `Schedule` or a function of the step, instead of `sparsity`.
        steps_per_epoch: Batches in one epoch, at least 1; schedules that count in
            `kprune.Epochs` or `kprune.FitFraction`, such as that of `sparsity`, need
            it.
        epochs: How many epochs training takes, at least 1.
        initial_epoch: The epoch that training goes on with, after it was resumed.
        data: As for `PruningCallback`: for criteria that look at it.
        num_batches: How many batches of it, at least 1.
        guard: As for `PruningCallback`; it looks at what is given to `end_epoch`.
        **rule: Further arguments of `Rule`, as for `PruningCallback`.

    Raises:
        ValueError: If the model is not built or has no optimizer, the plan matches
            nothing, a schedule needs the length of training, or arguments contradict
            each other.
        TypeError: If an argument is unknown or of the wrong type.

    Example:
        >>> import numpy as np, kprune
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model.compile("sgd", "mse")
        >>> schedule = kprune.ConstantSparsity(0.75, begin_step=1)
        >>> pruner = kprune.Pruner(model, schedule=schedule)
        >>> for _ in range(2):
        ...     loss = model.train_on_batch(np.ones((2, 8)), np.ones((2, 4)))
        ...     changed = pruner.step()
        >>> pruner.sparsity
        0.75
    """

    def __init__(
        self,
        model: keras.Model,
        plan: Plan | None = None,
        optimizer: keras.optimizers.Optimizer | None = None,
        *,
        sparsity: float | None = None,
        schedule: Any = None,
        steps_per_epoch: int | None = None,
        epochs: int = 1,
        initial_epoch: int = 0,
        data: Any = None,
        num_batches: int = 8,
        guard: AccuracyGuard | None = None,
        **rule: Any,
    ) -> None:
        if not isinstance(model, keras.Model):
            raise TypeError(
                f"Pruner: `model` must be a Keras 3 model. {received(model)}"
            )
        plan = checked_plan("Pruner", sparsity, schedule, plan, rule, data, num_batches)
        _check_count("epochs", epochs, 1)
        _check_count("initial_epoch", initial_epoch, 0)
        check_guard("Pruner", guard)
        if guard is not None and initial_epoch > 0:
            raise ValueError(
                f"Pruner: {NOT_KEPT} Leave `initial_epoch` out, and say guard="
                "AccuracyGuard(dense_level=...) and a schedule from the present "
                "sparsity on."
            )
        if steps_per_epoch is not None:
            _check_count("steps_per_epoch", steps_per_epoch, 1)
        if not (model.built and model.weights):
            raise ValueError(
                f"Pruner: {model.name!r} has no weights yet. Build it first: call "
                "model.build(input_shape), or call it on a batch of data."
            )
        steps = StepCounter("Pruner", model, optimizer)
        drive(student_of(model))
        updates = MaskUpdates("Pruner", model, plan, steps, data, num_batches)
        if steps_per_epoch is not None:
            updates.place(steps.fit_length(initial_epoch, steps_per_epoch, epochs))
        elif updates.waiting:
            raise ValueError(
                f"Pruner: {updates.waiting[0]} counts in epochs or fractions of "
                "training, whose length is not known. Say steps_per_epoch=... and "
                "epochs=..., or give a schedule in steps, such as "
                "kprune.PolynomialDecay(0.0, 0.9, begin_step=0, end_step=5000)."
            )
        self._guarding = None
        if guard is not None:
            self._guarding = Guarding(guard, model, steps, updates)
            # Before the first step: how long an epoch takes may not be known.
            self._guarding.check_begin(steps.now)
        updates.attach()
        updates.penalties.put_on()
        self._updates, self._steps = updates, steps
        self._seen = steps.num_batches
        self._calls_since = 0
        # Whether what holds the masks is yet to be seen at work.
        self._unproven = bool(updates.history)
        self._holds_itself = False

    @property
    def report(self) -> PruningReport:
        """Sparsity asked and achieved per weight, and what stays dense, and why."""
        return dataclasses.replace(
            self._updates.report(),
            guard=self._guarding.record() if self._guarding else None,
        )

    @property
    def history(self) -> list[tuple[int, float]]:
        """List of `(step, sparsity)`, one pair per update of the masks."""
        return self._updates.history

    @property
    def sparsity(self) -> float:
        """The share of units that masks prune, over all rules together."""
        return self._updates.sparsity

    def step(self) -> bool:
        """Makes masks anew if that is due; call it after each optimizer step.

        Returns:
            Whether masks were made.

        Raises:
            ValueError: If the model was compiled with another optimizer meanwhile.
        """
        moved = self._moved()
        if moved:
            self._updates.penalties.check()
        if moved and self._unproven:
            self._unproven = False
            self._prove()
        elif self._holds_itself:
            self._updates.mask_again()
        # Criteria look at the loss without them, as in `fit`.
        self._updates.penalties.take_off()
        made = self._updates.update()
        self._updates.penalties.put_on()
        self._unproven |= made
        return made

    def end_epoch(self, logs: dict[str, Any]) -> None:
        """Keeps the metrics of an epoch for the report; a guard judges them.

        Args:
            logs: The metrics by name, such as those of `model.evaluate(x, y,
                return_dict=True)`.

        Raises:
            ValueError: If the guard's metric is not among them.
        """
        if self._guarding is not None:
            self._guarding.judge(logs)
        self._updates.note_epoch({**logs, "sparsity": self.sparsity})

    def finish(self) -> PruningReport:
        """Ends training: masks what is left, warns of unfinished schedules.

        Returns:
            The report of the pruned weights.
        """
        if self._moved() and self._unproven:
            self._prove()
        self._updates.finish(self._guarding.at_end() if self._guarding else [])
        return self.report

    def _moved(self) -> bool:
        """Returns whether the optimizer made a step; warns if it never does."""
        seen = self._steps.num_batches
        self._calls_since = 0 if seen != self._seen else self._calls_since + 1
        if self._calls_since == _PATIENCE:
            self._updates.notices.warn(
                f"Pruner.step was called {_PATIENCE} times, and the optimizer "
                f"{self._steps.optimizer.name!r} is at step {self._steps.now} still: "
                "masks are made by its steps. Give Pruner the optimizer that trains "
                "the model, optimizer=..."
            )
        moved, self._seen = seen != self._seen, seen
        return moved

    def _prove(self) -> None:
        """Looks whether the training step holds zeros; masks them if not."""
        regrown = self._updates.mask_again()
        if regrown and not self._holds_itself:
            self._holds_itself = True
            self._updates.notices.warn(
                "The training step does not hold what is pruned at zero "
                f"({listed(regrown)}): it was traced before the Pruner was made, or "
                "does not call apply of a Keras optimizer. Pruner.step masks these "
                "weights from now on, which costs time in each step. Make the Pruner "
                "before the training step is called for the first time."
            )


def _check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(
            f"Pruner: `{name}` must be an integer of at least {least}. "
            f"Received {value!r}."
        )
