"""Coupled channels under one rule, and how their masks are made anew.

What `groups.Group` is for single weights. This module changes when the way from scores
to masks of channels changes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np

from kprune.coupling.groups import Coupling
from kprune.coupling.groups import Group as Coupled
from kprune.coupling.scores import choose, facts_of, unit_scores
from kprune.coupling.sites import groups_under
from kprune.evidence import Evidence
from kprune.held import HeldWeight
from kprune.layers import mask_of, values
from kprune.notices import Notices
from kprune.plan import Rule
from kprune.prunable import Candidate
from kprune.report import ChannelRecord, Refusal
from kprune.schedules import Schedule


@dataclasses.dataclass
class ChannelGroup:
    """The groups of coupled channels under one rule, which share its sparsity.

    Args:
        coupling: The analysed model.
        coupled: The groups of channels that the rule prunes.
        weights: The weights that they are slices of, and that train.
        rule: How they are pruned.
        removed: Boolean per unit: whether its channels are held at zero.
        schedule: The rule's schedule, in plain steps once these are known.
        updated_at: The step, by the schedule, of the last update, and `None`.
        evidence: Where the rule's criterion finds what it needs beside the weights.
        scores: Those that were found last.
        notices: Where it says what is amiss.
    """

    coupling: Coupling
    coupled: list[Coupled]
    weights: list[HeldWeight]
    rule: Rule
    removed: np.ndarray
    schedule: Schedule | None = None
    updated_at: tuple[int, int | None] | None = None
    evidence: Evidence = Evidence()
    scores: np.ndarray | None = None
    notices: Notices = dataclasses.field(default_factory=Notices)

    # What is zero altogether has no gradient: channels do not grow back.
    regrowth: ClassVar[None] = None

    @property
    def size(self) -> int:
        """Number of units of all groups together."""
        return sum(group.size for group in self.coupled)

    @property
    def num_pruned(self) -> int:
        """Number of units that are held at zero."""
        return int(np.count_nonzero(self.removed))

    @property
    def records(self) -> tuple[ChannelRecord, ...]:
        """Per group of coupled channels, how many are held at zero."""
        slots = self.coupling.slots
        return tuple(
            ChannelRecord(
                group.name,
                group.size,
                int(np.count_nonzero(self.removed[group.units])),
                tuple(dict.fromkeys(slots[i].layer.path for i in group.slots)),
            )
            for group in self.coupled
        )

    @property
    def asked(self) -> float | None:
        """Sparsity that is asked for at the schedule's end; `None` if not known yet."""
        final = (self.schedule or self.rule.schedule).final_sparsity
        if final is None:
            return None
        sizes = [group.size for group in self.coupled]
        facts = [facts_of(self.coupling, group) for group in self.coupled]
        asked = self.rule.allocation.asked(sizes, final, facts, final)
        return self.num_pruned / self.size if asked is None else asked

    def surplus(self) -> tuple[float, float] | None:
        """Returns the shares that are held and asked for, if more is held."""
        asked = self.asked
        if asked is None or self.num_pruned == 0:
            return None
        # Multiples and floors make it another number than the sparsity itself says.
        most = max(self.least_pruned(asked), asked * self.size)
        held = self.num_pruned
        return (held / self.size, asked) if held > most + 0.01 * self.size else None

    def num_zeros(self) -> int:
        """Returns how many units are zero, held or not."""
        zero = self.coupling.zero_units()
        return sum(int(np.count_nonzero(zero[group.units])) for group in self.coupled)

    def least_pruned(self, sparsity: float) -> int:
        """Returns how many units are pruned at least once a sparsity is reached."""
        # Multiples and floors make it another number than the sparsity itself says.
        if self.scores is None:
            self.scores = self._scores()
        return int(np.count_nonzero(self._choice(self.scores, sparsity)))

    def share_of_zeros(self, sparsity: float) -> float:
        """Returns the share of zero elements that a sparsity brings at most."""
        # A kernel loses slices along its input and along its output axis.
        return 1 - (1 - sparsity) ** 2

    def look(self, evidence: Evidence) -> None:
        """Takes what the criterion may look at, and tries it: what is amiss shows now.

        Raises:
            ValueError: If something that the criterion needs cannot be found.
            TypeError: If it needs something that is unknown.
        """
        self.evidence = evidence
        self.scores = self._scores()

    def begin(self, sparsity: float) -> bool:
        """Makes the first masks; returns as `update`."""
        return self.update(sparsity)

    def update(self, sparsity: float) -> bool:
        """Makes the masks anew from the weights as they are.

        What is pruned stays pruned, also where `sparsity` asks for less.

        Returns:
            False if the masks were left as they are because scores are NaN.
        """
        now = self.num_pruned / self.size
        targets = self.rule.criterion.targets(now, sparsity)
        return all(self._update_once(target) for target in targets)

    def _update_once(self, sparsity: float) -> bool:
        scores = self._scores()
        for group in self.coupled:
            if np.isnan(scores[group.units]).any():
                self.notices.warn(
                    f"{group.name} score NaN, so that the masks stay as they are. "
                    "Lower the learning rate, or clip gradients."
                )
                return False
        self.scores = scores
        self.removed |= self._choice(scores, sparsity)
        masks = self.coupling.masks(self.removed)
        for weight in self.weights:
            keep = masks.get(id(weight.variable))
            if keep is not None:
                # Single elements that were held before stay so.
                weight.set_mask(values(weight.constraint.mask) & keep)
        self.zero_statistics(masks)
        return True

    def adopt(self) -> None:
        """Takes over the channels that masks of an earlier fit prune altogether.

        Wrappers have masks of kernels only; what goes with these is zero then.
        """
        held = self.coupling.zero_units(_held)
        for group in self.coupled:
            slices = [self.coupling.slots[i].variable for i in group.slots]
            if all(mask_of(variable) is None for variable in slices):
                continue  # Nothing but chance says that zeros were pruned.
            dead = held[group.units]
            if not dead.all():
                self.removed[group.units[dead]] = True

    def _scores(self) -> np.ndarray:
        return unit_scores(
            self.coupling, self.rule.criterion, self.coupled, self.evidence
        )

    def _choice(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        granularity: Any = self.rule.granularity
        return choose(
            self.coupling,
            self.coupled,
            np.where(self.removed, -np.inf, scores),
            sparsity,
            self.rule.allocation,
            granularity,
            (self.schedule or self.rule.schedule).final_sparsity,
        )

    def zero_statistics(self, masks: dict[int, np.ndarray] | None = None) -> None:
        """Zeroes what no optimizer holds: moving means that would shift a channel."""
        masks = self.coupling.masks(self.removed) if masks is None else masks
        train = {id(weight.variable) for weight in self.weights}
        for variable in self.coupling.model.non_trainable_variables:
            keep = masks.get(id(variable))
            if keep is not None and id(variable) not in train:
                variable.assign(np.where(keep, values(variable), 0))


def channel_group(
    coupling: Coupling, rule: Rule, matches: Callable[[Candidate], bool]
) -> tuple[ChannelGroup, list[Refusal]]:
    """Returns the channels that a rule prunes, and why others stay.

    Nothing is changed before the weights are attached.

    Args:
        coupling: The analysed model.
        rule: A rule for channels.
        matches: Whether the rule speaks of a weight.

    Raises:
        ValueError: If no channel can be pruned.
    """
    coupled, refusals = groups_under(coupling, rule, matches, trainable_only=True)
    if not coupled:
        lines = "\n".join(f"  {r.name} ({r.size}): {r.reason}" for r in refusals[:20])
        raise ValueError(
            f"No channel of {coupling.model.name!r} can be pruned. Its channels, and "
            f"why each stays:\n{lines}"
        )
    rule.allocation.check([facts_of(coupling, group) for group in coupled])
    everything = coupling.nothing()
    for group in coupled:
        everything[group.units] = True
    touched = coupling.masks(everything)
    weights = [
        HeldWeight(variable)
        for variable in coupling.model.trainable_variables
        if id(variable) in touched
    ]
    pruned = ChannelGroup(
        coupling, coupled, weights, rule, coupling.nothing(), rule.schedule
    )
    pruned.adopt()
    return pruned, refusals


def _held(variable: keras.Variable) -> np.ndarray:
    """Returns what a variable's mask keeps; what is not zero if it has none."""
    constraint = mask_of(variable)
    if constraint is None:
        return (values(variable) != 0) & variable.trainable
    return values(constraint.mask)
