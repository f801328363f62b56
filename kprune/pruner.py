"""Groups of weights under one rule, and how their masks are made anew.

This is where the algebra (criterion, granularity, allocation) meets the variables; who
calls it and when is the training loop's affair. This module changes when the way from
scores to masks changes.
"""

import dataclasses
import warnings
from collections.abc import Iterable

import keras
import numpy as np

from kprune.layers import (
    MaskConstraint,
    constrain,
    mask_constraints,
    mask_of,
    new_mask,
    pruned_layers,
    values,
)
from kprune.plan import NO_RULE, Plan, Rule, Site, resolve
from kprune.prunable import candidates
from kprune.report import SkippedWeight, WeightRecord
from kprune.schedules import Schedule


class PruningWarning(UserWarning):
    """Pruning will not, or did not, do what was asked for."""


class HeldWeight:
    """A variable with a mask, and how many elements the mask prunes.

    Args:
        variable: The weight. Nothing is changed before `attach`.
    """

    def __init__(self, variable: keras.Variable) -> None:
        self.variable = variable
        self.size = int(np.prod(variable.shape))
        self.num_pruned = 0
        self.constraint: MaskConstraint

    def attach(self, average: keras.Variable | None) -> None:
        """Puts a mask on the variable, unless it has one, and applies it.

        Args:
            average: The optimizer's moving average of the variable, if it keeps one.
        """
        variable = self.variable
        self.constraint = mask_of(variable) or constrain(variable, new_mask(variable))
        self.constraint.averages = () if average is None else (average,)
        kept = int(np.count_nonzero(values(self.constraint.mask)))
        self.num_pruned = self.size - kept
        if self.num_pruned:
            self.apply()

    def set_mask(self, mask: np.ndarray) -> None:
        """Replaces the mask and applies it."""
        self.constraint.mask.assign(mask)
        self.num_pruned = self.size - int(np.count_nonzero(mask))
        self.apply()

    def apply(self) -> None:
        """Sets to zero what the mask prunes."""
        for variable in (self.variable, *self.constraint.averages):
            variable.assign(self.constraint.masked(variable))

    def num_zeros(self) -> int:
        """Returns how many elements are exactly zero, pruned or not."""
        return self.size - int(np.count_nonzero(values(self.variable)))

    def num_regrown(self) -> int:
        """Returns how many elements that the mask prunes are not zero."""
        mask = values(self.constraint.mask)
        return int(np.count_nonzero((values(self.variable) != 0) & ~mask))

    def record(self) -> WeightRecord:
        """Returns what was asked of the weight, and what it holds."""
        return WeightRecord(
            self.variable.path,
            tuple(self.variable.shape),
            self.num_zeros(),
            asked=self.num_pruned / self.size,
        )


@dataclasses.dataclass
class Group:
    """The weights under one rule, among which its allocation spreads the zeros.

    Args:
        weights: The weights.
        rule: How they are pruned; `None` where masks are only held.
        schedule: The rule's schedule, in plain steps once these are known.
        updated_at: The step, by the schedule, of the last update.
    """

    weights: list[HeldWeight]
    rule: Rule | None = None
    schedule: Schedule | None = None
    updated_at: int | None = None

    @property
    def size(self) -> int:
        """Number of elements of all weights together."""
        return sum(weight.size for weight in self.weights)

    @property
    def num_pruned(self) -> int:
        """Number of elements that the masks prune."""
        return sum(weight.num_pruned for weight in self.weights)

    def update(self, sparsity: float) -> bool:
        """Makes the masks anew from the weights as they are.

        What is pruned stays pruned, also where `sparsity` asks for less.

        Returns:
            False if the masks were left as they are because scores are NaN.
        """
        if self.rule is None:
            raise ValueError("A group without a rule holds its masks.")
        scores = [self.rule.criterion.score(values(w.variable)) for w in self.weights]
        for weight, score in zip(self.weights, scores, strict=True):
            if np.isnan(np.max(score)):
                warnings.warn(
                    f"{weight.variable.path} scores NaN, so that the masks stay as "
                    "they are. Lower the learning rate, or clip gradients.",
                    PruningWarning,
                    stacklevel=2,
                )
                return False
        held = [values(weight.constraint.mask) for weight in self.weights]
        masks = self._masks(self.rule, scores, sparsity)
        if _withdraw(masks, held):
            # Seldom: chance zeros, or a criterion that favours what is pruned.
            scores = [
                np.where(kept, score, -np.inf)
                for kept, score in zip(held, scores, strict=True)
            ]
            masks = self._masks(self.rule, scores, sparsity)
            _withdraw(masks, held)
        for weight, mask in zip(self.weights, masks, strict=True):
            weight.set_mask(mask)
        return True

    @staticmethod
    def _masks(
        rule: Rule, scores: list[np.ndarray], sparsity: float
    ) -> list[np.ndarray]:
        units = [rule.granularity.unit_scores(score) for score in scores]
        counts = rule.allocation.num_pruned(units, sparsity)
        return [
            rule.granularity.mask(score, count)
            for score, count in zip(scores, counts, strict=True)
        ]


def _withdraw(masks: list[np.ndarray], held: list[np.ndarray]) -> bool:
    """Takes from new masks, in place, what old ones prune; returns if that was any."""
    before = [np.count_nonzero(mask) for mask in masks]
    for mask, old in zip(masks, held, strict=True):
        np.logical_and(mask, old, out=mask)
    return before != [np.count_nonzero(mask) for mask in masks]


def find_groups(
    model: keras.Model, plan: Plan | None
) -> tuple[list[Group], tuple[SkippedWeight, ...]]:
    """Finds the weights to prune or hold in a model, without changing anything.

    Args:
        model: A built model.
        plan: What to prune; `None` for what the model's `Pruned` wrappers say, or else
            the masks that its variables have.

    Returns:
        The groups, and the weights that stay dense.

    Raises:
        ValueError: If there is nothing to prune or to hold, or both a plan and
            wrappers.
    """
    wrappers = list(pruned_layers(model))
    if plan is not None:
        if wrappers:
            raise ValueError(
                f"{model.name!r} has Pruned wrappers (such as {wrappers[0].name!r}), "
                "which bring their own rules. Use PruningCallback() without arguments, "
                "or kprune.strip the model first."
            )
        resolution = resolve(plan, model)
        return _by_rule(resolution.sites), resolution.skipped
    if wrappers:
        groups = _by_rule(
            Site(variable, (wrapper,), wrapper.rule)
            for wrapper in wrappers
            for variable in wrapper.layer.weights
            if mask_of(variable) and variable.trainable
        )
    else:
        held = [HeldWeight(v) for v in model.weights if mask_of(v)]
        groups = [Group(held)] if held else []
    if not groups:
        raise ValueError(
            f"PruningCallback() without arguments holds masks, and {model.name!r} has "
            "none that is not frozen. Say how far to prune, "
            "PruningCallback(sparsity=0.8); for a pruned model that was loaded from a "
            "file, call kprune.hold_zeros(model) first."
        )
    seen = {id(w.variable) for group in groups for w in group.weights}
    seen |= {id(constraint.mask) for constraint in mask_constraints(model).values()}
    skipped = tuple(
        SkippedWeight(
            candidate.variable.path,
            tuple(candidate.variable.shape),
            candidate.why_dense() or NO_RULE,
        )
        for candidate in candidates(model)
        if id(candidate.variable) not in seen
    )
    return groups, skipped


def _by_rule(sites: Iterable[Site]) -> list[Group]:
    groups: list[Group] = []
    for site in sites:
        group = next((g for g in groups if g.rule == site.rule), None)
        if group is None:
            group = Group([], site.rule, site.rule.schedule)
            groups.append(group)
        group.weights.append(HeldWeight(site.variable))
    return groups
