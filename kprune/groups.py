"""Groups of weights under one rule, and how their masks are made anew.

This is where the algebra (criterion, granularity, allocation) meets the variables; who
calls it and when is the training loop's affair. This module changes when the way from
scores to masks changes.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np

from kprune.allocation import Facts
from kprune.channels import ChannelGroup, channel_group
from kprune.coupling.graph import analyse, check_graph
from kprune.criteria import Scorer
from kprune.evidence import Evidence
from kprune.granularity import Channel, Granularity, keep_highest
from kprune.held import HeldWeight
from kprune.layers import mask_constraints, mask_of, pruned_layers, values
from kprune.notices import Notices
from kprune.plan import NO_RULE, Plan, Rule, Site, resolve
from kprune.prunable import Candidate, candidates
from kprune.regrowth import Regrowth
from kprune.report import ChannelRecord, SkippedWeight
from kprune.schedules import Schedule


@dataclasses.dataclass
class Group:
    """The weights under one rule, among which its allocation spreads the zeros.

    Args:
        weights: The weights.
        rule: How they are pruned; `None` where masks are only held.
        schedule: The rule's schedule, in plain steps once these are known.
        updated_at: The steps, by schedule and regrowth, of the last update.
        evidence: Where what gives scores finds what it needs beside the weights.
        regrowth: The rule's regrowth, in plain steps once these are known.
        notices: Where it says what is amiss.
    """

    weights: list[HeldWeight]
    rule: Rule | None = None
    schedule: Schedule | None = None
    updated_at: tuple[int, int | None] | None = None
    evidence: Evidence = Evidence()
    regrowth: Regrowth | None = None
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
        """Takes what scores may look at, and tries it: what is amiss shows now.

        Raises:
            ValueError: If something that the rule needs cannot be found.
            TypeError: If it needs something that is unknown.
        """
        self.evidence = evidence
        variables = [weight.variable for weight in self.weights]
        for scorer in self.rule.scorers if self.rule else ():
            evidence.about(scorer, variables)

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

    def begin(self, sparsity: float) -> bool:
        """Makes the first masks, or takes over those of an earlier fit.

        Where regrowth has moved masks, it is not the criterion that says what they
        were, but they themselves, or in a model from a file its zeros.

        Returns:
            As `update`.
        """
        if self.regrowth is not None:
            least = self.least_pruned(sparsity)
            if self.num_pruned >= least:
                return True
            if self.num_zeros() >= least:
                self.adopt_zeros()
                return True
        return self.update(sparsity)

    def adopt_zeros(self) -> None:
        """Prunes what is zero, and nothing else."""
        for weight in self.weights:
            weight.adopt_zeros()

    def exchange(self, sparsity: float, step: int) -> bool:
        """Lets a share of the pruned take the place of kept ones.

        Args:
            sparsity: The schedule's sparsity.
            step: The step of the exchange, by the regrowth.

        Returns:
            As `update`.
        """
        rule, regrowth = self._needed_rule(), self.regrowth
        if regrowth is None:
            raise ValueError("A group without regrowth has nothing to exchange.")
        scores = self._found(rule.criterion, rule.criterion.score)
        growth = self._found(regrowth, functools.partial(regrowth.growth, step=step))
        if scores is None or growth is None:
            return False
        held = [values(weight.constraint.mask) for weight in self.weights]
        for score, mask in zip(scores, held, strict=True):
            np.putmask(score, ~mask, 0)
        granularity, rate = rule.granularity, regrowth.rate(step)
        cut = [
            tuple(_arranged(granularity, weight, array) for array in arrays)
            for weight, *arrays in zip(self.weights, held, scores, growth, strict=True)
        ]
        units = [granularity.unit_scores(score) for _, score, _ in cut]
        counts = self._counts(rule, units, sparsity)
        for weight, (mask, score, grow), count in zip(
            self.weights, cut, counts, strict=True
        ):
            mask = granularity.exchange(mask, score, grow, count, rate)
            weight.move_mask(_restored(granularity, weight, mask))
        return True

    def _update_once(self, rule: Rule, sparsity: float) -> bool:
        scores = self._found(rule.criterion, rule.criterion.score)
        if scores is None:
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

    def _found(
        self, scorer: Scorer, score: Callable[..., np.ndarray]
    ) -> list[np.ndarray] | None:
        """Returns what is scored per weight; `None`, with a warning, if it is NaN."""
        variables = [weight.variable for weight in self.weights]
        known = self.evidence.about(scorer, variables)
        scores = [
            score(values(variable), **beside)
            for variable, beside in zip(variables, known, strict=True)
        ]
        for variable, found in zip(variables, scores, strict=True):
            if np.isnan(np.max(found)):
                self.notices.warn(
                    f"{variable.path} scores NaN, so that the masks stay as "
                    "they are. Lower the learning rate, or clip gradients."
                )
                return None
        return scores

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
        counts = self._counts(rule, units, sparsity)
        masks = []
        for weight, score, of_units, count in zip(
            self.weights, cut, units, counts, strict=True
        ):
            mask = granularity.expand(keep_highest(of_units, count), score)
            masks.append(_restored(granularity, weight, mask))
        return masks

    def _counts(
        self, rule: Rule, units: list[np.ndarray], sparsity: float
    ) -> list[int]:
        """Returns how many units each weight gives up."""
        share = rule.granularity.share(sparsity)
        if share == 1:
            return [of_units.size for of_units in units]
        return rule.allocation.num_pruned(units, share, self._facts, self._share)

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


def _restored(
    granularity: Granularity, weight: HeldWeight, mask: np.ndarray
) -> np.ndarray:
    """Returns a mask as the weight is, from one as its granularity wants it."""
    if granularity.arranged and weight.axes is not None:
        return weight.axes.restored(mask, weight.shape)
    return mask


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
    refused: list[SkippedWeight] = []
    if wrappers:
        known = {id(item.variable): item for item in candidates(model)}
        sites = [
            Site.of(known[id(variable)], wrapper.rule)
            for wrapper in wrappers
            for variable in wrapper.layer.weights
            if mask_of(variable) and (variable.trainable or wrapper.rule.prune_frozen)
        ]
        groups = [*_by_rule(s for s in sites if not _for_channels(s.rule))]
        channels = list(dict.fromkeys(s.rule for s in sites if _for_channels(s.rule)))
        matches = [_any_of([s for s in sites if s.rule == rule]) for rule in channels]
        refused = _add_channels(groups, model, channels, matches, notices)
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
    skipped = [
        SkippedWeight(
            candidate.variable.path,
            tuple(candidate.variable.shape),
            candidate.why_dense() or NO_RULE,
        )
        for candidate in candidates(model)
        if id(candidate.variable) not in seen
    ]
    return groups, (*_without_slices(skipped, groups), *refused)


def _by_plan(
    plan: Plan, model: keras.Model, notices: Notices
) -> tuple[list[Group | ChannelGroup], tuple[SkippedWeight, ...]]:
    resolution = resolve(plan, model)
    for idle in resolution.idle:
        notices.warn(idle)
    single = [s for s in resolution.sites if not _for_channels(s.rule)]
    groups: list[Group | ChannelGroup] = [*_by_rule(single)]
    channels = list(filter(_for_channels, plan.rules))
    matches = [_first_match(plan, rule) for rule in channels]
    refused = _add_channels(groups, model, channels, matches, notices)
    return groups, (*_without_slices(resolution.skipped, groups), *refused)


def _add_channels(
    groups: list[Group | ChannelGroup],
    model: keras.Model,
    rules: Sequence[Rule],
    matches: Sequence[Callable[[Candidate], bool]],
    notices: Notices,
) -> list[SkippedWeight]:
    """Adds the groups under rules for channels; returns what these leave alone."""
    if not rules:
        return []
    check_graph("Pruning with granularity 'channel'", model)
    coupling = analyse(model)
    refused = []
    for rule, is_matched in zip(rules, matches, strict=True):
        group, refusals = channel_group(coupling, rule, is_matched)
        _share_weights(groups, group, notices)
        groups.append(group)
        refused += [SkippedWeight(r.name, (r.size,), r.reason) for r in refusals]
    return refused


def _without_slices(
    skipped: Iterable[SkippedWeight], groups: Iterable[Group | ChannelGroup]
) -> list[SkippedWeight]:
    """Leaves out what goes with channels, statistics that nothing holds among it."""
    paths = {
        group.coupling.slots[i].variable.path
        for group in groups
        if isinstance(group, ChannelGroup)
        for coupled in group.coupled
        for i in coupled.slots
    }
    return [skip for skip in skipped if skip.path not in paths]


def _any_of(sites: Iterable[Site]) -> Callable[[Candidate], bool]:
    """Returns whether a weight is that of one of some sites."""
    ids = {id(site.variable) for site in sites}
    return lambda candidate: id(candidate.variable) in ids


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
            rule = site.rule
            group = Group([], rule, rule.schedule, regrowth=rule.regrowth)
            groups.append(group)
        group.weights.append(HeldWeight.of(site))
    return groups
