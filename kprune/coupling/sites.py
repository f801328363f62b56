"""Which groups of coupled channels a rule speaks of.

This module changes when rules choose channels in another way.
"""

from collections.abc import Callable

from kprune.coupling.builder import MAKES
from kprune.coupling.groups import Coupling, Group
from kprune.plan import Rule
from kprune.prunable import Candidate, candidates
from kprune.report import Refusal


def groups_under(
    coupling: Coupling,
    rule: Rule,
    matches: Callable[[Candidate], bool] | None = None,
    trainable_only: bool = False,
) -> tuple[list[Group], list[Refusal]]:
    """Returns the groups that a rule prunes, and why others stay.

    A group falls under the rule if the rule matches each kernel that makes its
    channels; which layers only read them does not matter.

    Args:
        coupling: The analysed model.
        rule: A rule for channels.
        matches: Whether the rule speaks of a weight; what it says itself by default.
        trainable_only: Whether groups with frozen weights stay.
    """
    known = {id(item.variable): item for item in candidates(coupling.model)}
    found, refusals = (
        [],
        [Refusal(group.name, group.size, group.reason) for group in coupling.fixed],
    )
    for group in coupling.groups:
        reason = _why_not(
            coupling, group, rule, matches or rule.matches, known, trainable_only
        )
        if reason:
            refusals.append(Refusal(group.name, group.size, reason))
        else:
            found.append(group)
    return found, refusals


def _why_not(
    coupling: Coupling,
    group: Group,
    rule: Rule,
    matches: Callable[[Candidate], bool],
    known: dict[int, Candidate],
    trainable_only: bool,
) -> str:
    if group.size == 1:
        return "a single channel, and a group keeps its last one"
    if "dimensions" in group.kind and group.kind != "dimensions":
        if not rule.granularity.head_dimensions:  # type: ignore[attr-defined]
            return (
                "dimensions of attention heads; whole heads go before, or say "
                "granularity=kprune.Channel(head_dimensions=True)"
            )
    members = [coupling.slots[index] for index in group.slots]
    for slot in members:
        candidate = known.get(id(slot.variable))
        if trainable_only and candidate is not None:
            statistics = not slot.scored and not slot.variable.trainable
            if not slot.variable.trainable and not statistics:
                return f"{slot.variable.path!r} is frozen: its layer is not trainable"
        if slot.kind and slot.role == MAKES and candidate is not None:
            if not matches(candidate):
                return (
                    f"made by {slot.variable.path!r}, which `only`, `skip` or an "
                    "earlier rule leave alone"
                )
    return ""
