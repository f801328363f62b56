"""Groups of weights under one rule, and how their masks are made anew.

This is where the algebra (criterion, granularity, allocation) meets the variables; who
calls it and when is the training loop's affair. This module changes when the way from
scores to masks changes.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from kprune.channels import ChannelGroup, channel_group
from kprune.coupling.graph import analyse, check_graph
from kprune.evidence import Evidence
from kprune.granularity import Channel
from kprune.held import HeldWeight, PruningWarning
from kprune.layers import mask_constraints, mask_of, pruned_layers, values
from kprune.plan import NO_RULE, Plan, Rule, Site, resolve
from kprune.prunable import Candidate, candidates
from kprune.report import ChannelRecord, SkippedWeight
from kprune.schedules import Schedule


@dataclasses.dataclass
class Group:
    """The weights under one rule, among which its allocation spreads the zeros.

    Args:
        weights: The weights.
        rule: How they are pruned; `None` where masks are only held.
        schedule: The rule's schedule, in plain steps once these are known.
        updated_at: The step, by the schedule, of the last update.
        evidence: Where the rule's criterion finds what it needs beside the weights.
    """

    weights: list[HeldWeight]
    rule: Rule | None = None
    schedule: Schedule | None = None
    updated_at: int | None = None
    evidence: Evidence = Evidence()

    @property
    def size(self) -> int:
        """Number of elements of all weights together."""
        return sum(weight.size for weight in self.weights)

    @property
    def num_pruned(self) -> int:
        """Number of elements that the masks prune."""
        return sum(weight.num_pruned for weight in self.weights)

    @property
    def records(self) -> tuple[ChannelRecord, ...]:
        """What coupled channels it prunes: none, but single elements."""
        return ()

    def num_zeros(self) -> int:
        """Returns how many elements are exactly zero."""
        return sum(weight.num_zeros() for weight in self.weights)

    def least_pruned(self, sparsity: float) -> int:
        """Returns how many elements are pruned at least once a sparsity is reached."""
        # Weights that are left at least one element may miss that one.
        return round(sparsity * self.size) - len(self.weights)

    def share_of_zeros(self, sparsity: float) -> float:
        """Returns the share of zero elements that a sparsity brings."""
        return sparsity

    def update(self, sparsity: float) -> bool:
        """Makes the masks anew from the weights as they are.

        What is pruned stays pruned, also where `sparsity` asks for less.

        Returns:
            False if the masks were left as they are because scores are NaN.
        """
        if self.rule is None:
            raise ValueError("A group without a rule holds its masks.")
        now = self.num_pruned / self.size
        targets = self.rule.criterion.targets(now, sparsity)
        return all(self._update_once(self.rule, target) for target in targets)

    def _update_once(self, rule: Rule, sparsity: float) -> bool:
        variables = [weight.variable for weight in self.weights]
        known = self.evidence.about(rule.criterion, variables)
        scores = [
            rule.criterion.score(values(variable), **beside)
            for variable, beside in zip(variables, known, strict=True)
        ]
        del known  # As large as the weights.
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
        masks = self._masks(rule, scores, sparsity)
        if _withdraw(masks, held):
            # Seldom: chance zeros, or a criterion that favours what is pruned.
            scores = [
                np.where(kept, score, -np.inf)
                for kept, score in zip(held, scores, strict=True)
            ]
            masks = self._masks(rule, scores, sparsity)
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
) -> tuple[list[Group | ChannelGroup], tuple[SkippedWeight, ...]]:
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
        return _by_plan(plan, model)
    groups: list[Group | ChannelGroup]
    if wrappers:
        groups = [
            *_by_rule(
                Site(variable, (wrapper,), wrapper.rule)
                for wrapper in wrappers
                for variable in wrapper.layer.weights
                if mask_of(variable) and variable.trainable
            )
        ]
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


def _by_plan(
    plan: Plan, model: keras.Model
) -> tuple[list[Group | ChannelGroup], tuple[SkippedWeight, ...]]:
    resolution = resolve(plan, model)
    single = [s for s in resolution.sites if not _for_channels(s.rule)]
    groups: list[Group | ChannelGroup] = [*_by_rule(single)]
    skipped = list(resolution.skipped)
    if any(map(_for_channels, plan.rules)):
        check_graph("Pruning with granularity 'channel'", model)
        coupling = analyse(model)
        for rule in filter(_for_channels, plan.rules):
            group, refusals = channel_group(coupling, rule, _first_match(plan, rule))
            groups.append(group)
            # Statistics of channels are not held, but go with them.
            slices = {coupling.slots[i] for c in group.coupled for i in c.slots}
            paths = {slot.variable.path for slot in slices}
            skipped = [skip for skip in skipped if skip.path not in paths]
            skipped += [SkippedWeight(r.name, (r.size,), r.reason) for r in refusals]
    _check_apart(groups)
    return groups, tuple(skipped)


def _for_channels(rule: Rule) -> bool:
    return isinstance(rule.granularity, Channel)


def _first_match(plan: Plan, rule: Rule) -> Callable[[Candidate], bool]:
    """Returns whether a rule is the first of its plan to match a weight."""
    earlier = plan.rules[: plan.rules.index(rule)]
    return lambda candidate: (
        rule.matches(candidate)
        and not any(other.matches(candidate) for other in earlier)
    )


def _check_apart(groups: list[Group | ChannelGroup]) -> None:
    seen: dict[int, Any] = {}
    for group in groups:
        for weight in group.weights:
            other = seen.setdefault(id(weight.variable), group)
            if other is not group:
                raise ValueError(
                    f"{weight.variable.path!r} falls under two rules: its channels are "
                    "coupled with those of another layer under "
                    "granularity='channel', which takes slices of it. Prune channels "
                    "in one fit, kprune.shrink the model, and then prune what is left "
                    "by elements in the next fit."
                )


def _by_rule(sites: Iterable[Site]) -> list[Group]:
    groups: list[Group] = []
    for site in sites:
        group = next((g for g in groups if g.rule == site.rule), None)
        if group is None:
            group = Group([], site.rule, site.rule.schedule)
            groups.append(group)
        group.weights.append(HeldWeight(site.variable))
    return groups
