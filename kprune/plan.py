"""Rules and plans: which weights are pruned, how far, and by what.

A plan is resolved on a model once, to sites; nothing is changed by resolving. This
module changes when users may say something new about what to prune.
"""

import dataclasses
import fnmatch
from collections.abc import Callable
from typing import Any, TypeAlias

import keras

from kprune.allocation import Allocation, Lamp
from kprune.config import Config, check_fraction, get
from kprune.criteria import Criterion, Magnitude
from kprune.granularity import Channel, Element, Granularity
from kprune.prunable import Candidate, candidates
from kprune.report import SkippedWeight
from kprune.schedules import FitFraction, PolynomialDecay, Schedule

Matcher: TypeAlias = "str | type | keras.layers.Layer | Callable[..., bool]"

NO_RULE = "no rule of the plan matches it (`only`, `skip`)"


def default_schedule(sparsity: float) -> PolynomialDecay:
    """Returns the cubic ramp to `sparsity` that is fitted to the length of the fit.

    It begins with the fit and ends halfway, which leaves the second half for
    fine-tuning under a fixed mask; benchmarks/README.md has what was measured.
    """
    return PolynomialDecay(0.0, sparsity, FitFraction(0.0), FitFraction(0.5))


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Rule(Config):
    """Says how the weights that it matches are pruned.

    Args:
        schedule: A `Schedule`, or a sparsity in [0, 1) for the default schedule, a
            cubic ramp fitted to the length of the fit.
        criterion: A `Criterion` or its name: what makes a weight worth keeping.
        granularity: A `Granularity` or its name: the unit that is pruned.
        allocation: An `Allocation` or its name: how the schedule's sparsity, which is
            meant for all matched weights together, is spread over them. By default
            what suits the granularity, LAMP for elements and uniform for channels; and
            instead of LAMP what suits the criterion, see docs/criteria.md.
        only: What to prune, if not everything that may be: a layer, a layer class, a
            name pattern such as `"block_*"` (matched against the layer's name, its
            path and the weight's path), a function from a layer to bool, or a
            sequence of these.
        skip: What not to prune, in the same terms. Goes before `only`.
        prune_depthwise: Whether depthwise kernels are pruned too.

    Raises:
        ValueError: If a value is out of its range or a name is unknown.
        TypeError: If a value is of another type.
    """

    # The types are those that the fields have once names are resolved.
    schedule: Schedule
    criterion: Criterion = Magnitude()
    granularity: Granularity = Element()
    # None: what suits the granularity.
    allocation: Allocation = None  # type: ignore[assignment]
    only: tuple[Matcher, ...] | None = None
    skip: tuple[Matcher, ...] | None = None
    prune_depthwise: bool = False

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        if isinstance(self.schedule, int | float):
            check_fraction("sparsity", self.schedule, "Rule")
            put("schedule", default_schedule(self.schedule))
        if not isinstance(self.schedule, Schedule):
            raise TypeError(
                "Rule: `schedule` must be a Schedule, such as "
                "kprune.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=2000), or a "
                f"sparsity in [0, 1). Received {self.schedule!r} of type "
                f"{type(self.schedule).__name__}."
            )
        put("criterion", get(Criterion, self.criterion))
        put("granularity", get(Granularity, self.granularity))
        if self.criterion.channels_only and not isinstance(self.granularity, Channel):
            raise ValueError(
                f"Rule: the criterion {self.criterion} compares whole channels. Use it "
                "with granularity='channel', or another criterion, such as "
                f"'magnitude'. Received granularity={self.granularity!r}."
            )
        allocation = self.granularity.default_allocation
        if self.allocation is not None:
            allocation = get(Allocation, self.allocation)
        elif isinstance(allocation, Lamp) and self.criterion.allocation is not None:
            allocation = self.criterion.allocation
        put("allocation", allocation)
        put("only", _matchers("only", self.only))
        put("skip", _matchers("skip", self.skip))

    def matches(self, candidate: Candidate) -> bool:
        """Returns whether the rule speaks of that weight."""
        if any(_match(matcher, candidate) for matcher in self.skip or ()):
            return False
        return self.only is None or any(_match(m, candidate) for m in self.only)

    def get_config(self) -> dict[str, Any]:
        """Returns the fields as values that JSON can hold.

        Raises:
            ValueError: If `only` or `skip` hold something else than name patterns.
        """
        for name in ("only", "skip"):
            for matcher in getattr(self, name) or ():
                if not isinstance(matcher, str):
                    raise ValueError(
                        f"A rule is saved with name patterns only. Received {name}="
                        f"{matcher!r}. Use a pattern such as 'dense*'."
                    )
        return super().get_config()


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Plan(Config):
    """Ordered rules; of those that match a weight the first one counts.

    Args:
        rules: The rules. A weight that none of them matches stays dense.

    Raises:
        TypeError: If an element is not a `Rule`.
        ValueError: If there is none.
    """

    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        rules = (self.rules,) if isinstance(self.rules, Rule) else tuple(self.rules)
        object.__setattr__(self, "rules", rules)
        if not rules:
            raise ValueError("A Plan needs at least one Rule. Received none.")
        for rule in rules:
            if not isinstance(rule, Rule):
                raise TypeError(
                    f"Plan: `rules` must be Rule objects. Received {rule!r} of type "
                    f"{type(rule).__name__}."
                )


@dataclasses.dataclass(frozen=True)
class Site:
    """One weight that a plan prunes.

    Args:
        variable: The weight.
        owners: The layers that hold it, the outermost first.
        rule: The rule that it falls under.
    """

    variable: keras.Variable
    owners: tuple[keras.layers.Layer, ...]
    rule: Rule

    @property
    def path(self) -> str:
        """The variable's path, its name in reports."""
        return self.variable.path

    def name_in(self, layer: keras.layers.Layer) -> str:
        """Returns the weight's name inside of a layer that holds it."""
        ids = [id(owner) for owner in self.owners]
        # The root of a resolution is not among the owners.
        inner = self.owners[ids.index(id(layer)) + 1 if id(layer) in ids else 0 :]
        return "/".join([*(owner.name for owner in inner), self.variable.name])


@dataclasses.dataclass(frozen=True)
class Resolution:
    """What a plan means on a model: the sites, and the weights that stay dense."""

    sites: tuple[Site, ...]
    skipped: tuple[SkippedWeight, ...]


def resolve(plan: Plan, model: keras.layers.Layer) -> Resolution:
    """Finds the weights that a plan prunes in a built model or layer.

    Raises:
        ValueError: If the model has no variables yet, a rule matches nothing, or no
            weight may be pruned at all.
    """
    if not model.weights:
        raise ValueError(
            f"{model.name!r} has no weights yet. Build it first: add an Input, call "
            "model.build(input_shape), or call it on a batch of data."
        )
    sites: list[Site] = []
    skipped: list[SkippedWeight] = []
    matched: set[int] = set()
    for candidate in candidates(model):
        index = next(
            (i for i, rule in enumerate(plan.rules) if rule.matches(candidate)), None
        )
        if index is None:
            reason: str | None = candidate.reason or NO_RULE
        else:
            reason = candidate.why_dense(plan.rules[index].prune_depthwise)
        if reason is None and index is not None:
            matched.add(index)
            sites.append(Site(candidate.variable, candidate.owners, plan.rules[index]))
        else:
            shape = tuple(candidate.variable.shape)
            skipped.append(SkippedWeight(candidate.variable.path, shape, str(reason)))
    for i, rule in enumerate(plan.rules):
        if i not in matched:
            raise ValueError(_matches_nothing(i, rule, plan, model, skipped))
    return Resolution(tuple(sites), tuple(skipped))


def _matches_nothing(
    i: int,
    rule: Rule,
    plan: Plan,
    model: keras.layers.Layer,
    skipped: list[SkippedWeight],
) -> str:
    which = f"Rule {i} of the plan" if len(plan.rules) > 1 else "The plan"
    said = ", ".join(
        f"{name}={getattr(rule, name)!r}"
        for name in ("only", "skip")
        if getattr(rule, name)
    )
    lines = [f"  {s.path} {s.shape}: {s.reason}" for s in skipped[:20]]
    if len(skipped) > 20:
        lines.append(f"  ... and {len(skipped) - 20} more")
    return (
        f"{which}{f' ({said})' if said else ''} matches nothing that can be pruned in "
        f"{model.name!r}. Its weights, and why each stays dense:\n" + "\n".join(lines)
    )


def _matchers(name: str, value: Any) -> tuple[Matcher, ...] | None:
    if value is None:
        return None
    matchers = tuple(value) if isinstance(value, list | tuple | set) else (value,)
    for matcher in matchers:
        if not (isinstance(matcher, str | keras.layers.Layer) or callable(matcher)):
            raise TypeError(
                f"Rule: `{name}` takes layers, layer classes, name patterns or "
                f"functions from a layer to bool. Received {matcher!r} of type "
                f"{type(matcher).__name__}."
            )
    return matchers


def _match(matcher: Matcher, candidate: Candidate) -> bool:
    if isinstance(matcher, str):
        names = [candidate.variable.path]
        for layer in candidate.owners:
            names += [layer.name, layer.path]
        return any(fnmatch.fnmatchcase(name, matcher) for name in names)
    if isinstance(matcher, keras.layers.Layer):
        return any(layer is matcher for layer in candidate.owners)
    if isinstance(matcher, type):
        return any(isinstance(layer, matcher) for layer in candidate.owners)
    return any(matcher(layer) for layer in candidate.owners)
