"""Groups of weights under one rule, and how their masks are made anew.

This is where the algebra (criterion, granularity, allocation) meets the variables; who
calls it and when is the training loop's affair. This module changes when the way from
scores to masks changes.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable

import keras
import numpy as np

from kprune.allocation import Facts
from kprune.channels import ChannelGroup, channel_group
from kprune.coupling.graph import analyse, check_graph
from kprune.evidence import Evidence
from kprune.granularity import Channel, Granularity, keep_highest
from kprune.held import HeldWeight
from kprune.layers import mask_constraints, mask_of, pruned_layers, values
from kprune.notices import Notices
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
        notices: Where it says what is amiss.
    """

    weights: list[HeldWeight]
    rule: Rule | None = None
    schedule: Schedule | None = None
    updated_at: int | None = None
    evidence: Evidence = Evidence()
    notices: Notices = dataclasses.field(default_factory=Notices)

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

    @property
    def asked(self) -> float | None:
        """Sparsity that is asked for at the schedule's end; `None` if not known yet."""
        final = self._final
        if self.rule is None or final is None:
            return None
        sizes = [weight.size for weight in self.weights]
        asked = self.rule.allocation.asked(sizes, final, self._facts, final)
        # Where a threshold decides, what lies below it is what was asked for.
        return self.num_pruned / self.size if asked is None else asked

    def surplus(self) -> tuple[float, float] | None:
        """Returns the shares that are held and asked for, if more is held.

        Called before weights are attached: what an earlier fit left.
        """
        final = self._final
        if self.rule is None or final is None or any(w.shared for w in self.weights):
            return None
        masks = [mask_of(weight.variable) for weight in self.weights]
        held = sum(int(np.sum(~values(m.mask))) for m in masks if m is not None)
        asked = self.share_of_zeros(final)
        # Units at the edges of weights are not of the same size as others.
        more = held > (asked + 0.01) * self.size
        return (held / self.size, asked) if more else None

    def num_zeros(self) -> int:
        """Returns how many elements are exactly zero."""
        return sum(weight.num_zeros() for weight in self.weights)

    def least_pruned(self, sparsity: float) -> int:
        """Returns how many elements are pruned at least once a sparsity is reached."""
        rule = self._needed_rule()
        sizes: Counter[int] = Counter()
        counts = []
        for weight in self.weights:
            units = rule.granularity.unit_sizes(_shape(rule.granularity, weight))
            sizes.update(units)
            counts.append(sum(units.values()))
        share = rule.granularity.share(sparsity)
        num_pruned = sum(counts)
        if share < 1:
            asked = rule.allocation.asked(counts, share, self._facts, self._share)
            # Weights that are left at least one unit may miss that one.
            num_pruned = round((asked or 0.0) * num_pruned) - len(self.weights)
        least = 0
        # At the edges of a weight units may be smaller; these may be the ones.
        for size, number in sorted(sizes.items()):
            taken = max(0, min(number, num_pruned))
            least, num_pruned = least + taken * size, num_pruned - taken
        return least

    def share_of_zeros(self, sparsity: float) -> float:
        """Returns the share of zero elements that a sparsity brings."""
        rule = self._needed_rule()
        sizes = [weight.size for weight in self.weights]
        asked = rule.allocation.asked(sizes, sparsity, self._facts, self._final)
        return sparsity if asked is None else asked

    def look(self, evidence: Evidence) -> None:
        """Takes what the criterion may look at, and tries it: what is amiss shows now.

        Raises:
            ValueError: If something that the criterion needs cannot be found.
            TypeError: If it needs something that is unknown.
        """
        self.evidence = evidence
        if self.rule is not None:
            variables = [weight.variable for weight in self.weights]
            evidence.about(self.rule.criterion, variables)

    def update(self, sparsity: float) -> bool:
        """Makes the masks anew from the weights as they are.

        What is pruned stays pruned, also where `sparsity` asks for less.

        Returns:
            False if the masks were left as they are because scores are NaN.
        """
        rule = self._needed_rule()
        now = self.num_pruned / self.size
        targets = rule.criterion.targets(now, sparsity)
        return all(self._update_once(rule, target) for target in targets)

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
                self.notices.warn(
                    f"{weight.variable.path} scores NaN, so that the masks stay as "
                    "they are. Lower the learning rate, or clip gradients."
                )
                return False
        held = [values(weight.constraint.mask) for weight in self.weights]
        masks = self._masks(rule, scores, sparsity)
        if _withdraw(masks, held):
            # Seldom: chance zeros, or a criterion that favours what is pruned.
            masks = self._masks(rule, scores, sparsity, held)
            _withdraw(masks, held)
        del scores  # Applying masks needs memory, too.
        for weight, mask in zip(self.weights, masks, strict=True):
            weight.set_mask(mask)
        return True

    def _masks(
        self,
        rule: Rule,
        scores: list[np.ndarray],
        sparsity: float,
        held: list[np.ndarray] | None = None,
    ) -> list[np.ndarray]:
        """Returns the masks that scores ask for.

        Args:
            rule: The group's rule.
            scores: One array per weight; written to where `held` is given.
            sparsity: The schedule's sparsity.
            held: Masks whose pruned elements, and units that have given up theirs, go
                before all others.
        """
        granularity = rule.granularity
        cut = [
            _arranged(granularity, weight, score)
            for weight, score in zip(self.weights, scores, strict=True)
        ]
        kept = [
            _arranged(granularity, weight, mask)
            for weight, mask in zip(self.weights, held or (), strict=held is not None)
        ]
        for score, mask in zip(cut, kept, strict=False):
            np.putmask(score, ~mask, 0)
        units = [granularity.unit_scores(score) for score in cut]
        for score, of_units, mask in zip(cut, units, kept, strict=False):
            np.putmask(of_units, granularity.unit_scores(mask) == 0, -np.inf)
            np.putmask(score, ~mask, -np.inf)
        share = granularity.share(sparsity)
        counts = [of_units.size for of_units in units]
        if share < 1:
            counts = rule.allocation.num_pruned(units, share, self._facts, self._share)
        masks = []
        for weight, score, of_units, count in zip(
            self.weights, cut, units, counts, strict=True
        ):
            mask = granularity.expand(keep_highest(of_units, count), score)
            if granularity.arranged and weight.axes is not None:
                mask = weight.axes.restored(mask, weight.shape)
            masks.append(mask)
        return masks

    @property
    def _facts(self) -> list[Facts]:
        return [weight.facts for weight in self.weights]

    @property
    def _final(self) -> float | None:
        """The sparsity at the schedule's end, if that is known."""
        schedule = self.schedule or (self.rule and self.rule.schedule)
        return schedule.final_sparsity if schedule else None

    @property
    def _share(self) -> float | None:
        """The share of units at the schedule's end, if that is known."""
        final = self._final
        return None if final is None else self._needed_rule().granularity.share(final)

    def _needed_rule(self) -> Rule:
        if self.rule is None:
            raise ValueError("A group without a rule holds its masks.")
        return self.rule


def _arranged(
    granularity: Granularity, weight: HeldWeight, array: np.ndarray
) -> np.ndarray:
    """Returns an array of a weight's shape as its granularity wants it, as a view."""
    if granularity.arranged and weight.axes is not None:
        return weight.axes.arranged(array)
    return array


def _shape(granularity: Granularity, weight: HeldWeight) -> tuple[int, ...]:
    if granularity.arranged and weight.axes is not None:
        return weight.axes.shape(weight.shape)
    return weight.shape


def _withdraw(masks: list[np.ndarray], held: list[np.ndarray]) -> bool:
    """Takes from new masks, in place, what old ones prune; returns if that was any."""
    before = [np.count_nonzero(mask) for mask in masks]
    for mask, old in zip(masks, held, strict=True):
        np.logical_and(mask, old, out=mask)
    return before != [np.count_nonzero(mask) for mask in masks]


def find_groups(
    model: keras.Model, plan: Plan | None, notices: Notices
) -> tuple[list[Group | ChannelGroup], tuple[SkippedWeight, ...]]:
    """Finds the weights to prune or hold in a model, without changing anything.

    Args:
        model: A built model.
        plan: What to prune; `None` for what the model's `Pruned` wrappers say, or else
            the masks that its variables have.
        notices: Where groups say what is amiss.

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
        return _by_plan(plan, model, notices)
    groups: list[Group | ChannelGroup]
    if wrappers:
        known = {id(item.variable): item for item in candidates(model)}
        groups = [
            *_by_rule(
                Site.of(known[id(variable)], wrapper.rule)
                for wrapper in wrappers
                for variable in wrapper.layer.weights
                if mask_of(variable)
                and (variable.trainable or wrapper.rule.prune_frozen)
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
    plan: Plan, model: keras.Model, notices: Notices
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
            _share_weights(groups, group, notices)
            groups.append(group)
            # Statistics of channels are not held, but go with them.
            slices = {coupling.slots[i] for c in group.coupled for i in c.slots}
            paths = {slot.variable.path for slot in slices}
            skipped = [skip for skip in skipped if skip.path not in paths]
            skipped += [SkippedWeight(r.name, (r.size,), r.reason) for r in refusals]
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


def _share_weights(
    groups: Iterable[Group | ChannelGroup], channels: ChannelGroup, notices: Notices
) -> None:
    """Lets rules for channels and for single weights hold one mask where they meet.

    A channel takes slices of what reads it, and that may fall under another rule.
    """
    mine = {id(weight.variable): weight for weight in channels.weights}
    for group in groups:
        for weight in group.weights:
            other = mine.get(id(weight.variable))
            if other is None:
                continue
            weight.shared = True
            channels.weights[channels.weights.index(other)] = weight
            rule = group.rule
            if rule and rule.granularity.arranged:
                notices.warn(
                    f"{weight.variable.path!r} is pruned by {rule.granularity}, and "
                    "slices of it by channels that it reads or makes. The masks hold "
                    "both; but kprune.shrink, which takes these channels out, moves "
                    "what lies behind them, so that blocks and groups of N:M are not "
                    "where they were. Prune channels in one fit, shrink the model, and "
                    "then prune what is left in the next fit."
                )


def _by_rule(sites: Iterable[Site]) -> list[Group]:
    groups: list[Group] = []
    for site in sites:
        group = next((g for g in groups if g.rule == site.rule), None)
        if group is None:
            group = Group([], site.rule, site.rule.schedule)
            groups.append(group)
        group.weights.append(HeldWeight.of(site))
    return groups
