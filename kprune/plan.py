"""Rules and plans: which weights are pruned, how far, and by what.

A plan is resolved on a model once, to sites; nothing is changed by resolving. This
module changes when users may say something new about what to prune.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import keras

from kprune.allocation import Allocation, Erk, Explicit, Facts, Lamp, Threshold
from kprune.axes import Axes
from kprune.config import Config, check_fraction, get
from kprune.criteria import Criterion, Magnitude, Scorer
from kprune.foreign import is_keras_2, received
from kprune.granularity import Channel, Element, Granularity
from kprune.naming import is_pattern, matches, unknown
from kprune.prunable import Candidate, candidates
from kprune.regrowth import Regrowth
from kprune.regularization import Regularization
from kprune.report import SkippedWeight
from kprune.schedules import (
    ConstantSparsity,
    FitFraction,
    PolynomialDecay,
    Schedule,
    SparsityFunction,
)

Matcher: TypeAlias = "str | type | keras.layers.Layer | Callable[..., bool]"

NO_RULE = "no rule of the plan matches it (`only`, `skip`, `skip_first`, `skip_last`)"


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
        schedule: A `Schedule`; a function from the step to a sparsity; or a sparsity
            in [0, 1) for the default schedule, a cubic ramp fitted to the length of the
            fit, or with `regrowth` for that sparsity from the first step on. May be
            left out where the granularity leaves no choice, as `NofM` does.
        criterion: A `Criterion` or its name: what makes a weight worth keeping.
        granularity: A `Granularity` or its name: the unit that is pruned.
        allocation: An `Allocation` or its name: how the schedule's sparsity, which is
            meant for all matched weights together, is spread over them; or a mapping
            from name patterns to sparsities, such as `{"conv*": 0.5}`, see `Explicit`.
            By default what suits the granularity: LAMP for elements and blocks, uniform
            for N:M and channels; and instead of LAMP what suits the criterion, see
            docs/criteria.md. With `regrowth` ERK, as its papers have it.
        regrowth: A `Regrowth` or its name, `"rigl"` or `"set"`: what pruned weights
            take the place of kept ones in the course of training; `None` if what is
            pruned stays pruned. Not with channels.
        regularization: A `Regularization` or its name, with granularity="channel": a
            penalty that makes channels ready to go before masks take them.
        only: What to prune, if not everything that may be: a layer, a layer class, a
            name pattern such as `"block_*"` (matched against the layer's name, its
            path and the weight's path), a function from a layer to bool, or a
            sequence of these.
        skip: What not to prune, in the same terms. Goes before `only`. Of both, what
            means nothing of a model is told: names as errors, the rest as warnings.
        prune_depthwise: Whether depthwise kernels are pruned too.
        prune_frozen: Whether kernels of layers with `trainable=False` are, which no
            training makes up for; not with channels.
        skip_first: Whether the model's first layer with a kernel is left alone, in the
            order of `model.layers`. It is small, and everything rests on it.
        skip_last: Whether the last one is.

    Raises:
        ValueError: If a value is out of its range, a name is unknown, or values
            contradict each other.
        TypeError: If a value is of another type.
    """

    # The types are those that the fields have once names are resolved.
    schedule: Schedule = None  # type: ignore[assignment]
    criterion: Criterion = Magnitude()
    granularity: Granularity = Element()
    # None: what suits the granularity.
    allocation: Allocation = None  # type: ignore[assignment]
    regrowth: Regrowth | None = None
    regularization: Regularization | None = None
    only: tuple[Matcher, ...] | None = None
    skip: tuple[Matcher, ...] | None = None
    prune_depthwise: bool = False
    prune_frozen: bool = False
    skip_first: bool = False
    skip_last: bool = False

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("granularity", get(Granularity, self.granularity))
        if self.schedule is None and self.granularity.fixed_sparsity is not None:
            put("schedule", self.granularity.fixed_sparsity)
        if isinstance(self.schedule, int | float):
            check_fraction("sparsity", self.schedule, "Rule")
            constant = ConstantSparsity(self.schedule)
            ramp = default_schedule(self.schedule)
            put("schedule", ramp if self.regrowth is None else constant)
        elif callable(self.schedule) and not isinstance(self.schedule, type):
            put("schedule", SparsityFunction(self.schedule))
        if not isinstance(self.schedule, Schedule):
            raise TypeError(
                "Rule: `schedule` must be a Schedule, such as "
                "kprune.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=2000), a "
                "function from the step to a sparsity, or a sparsity in [0, 1). "
                f"Received {self.schedule!r} of type {type(self.schedule).__name__}."
            )
        put("criterion", get(Criterion, self.criterion))
        if self.criterion.channels_only and not isinstance(self.granularity, Channel):
            raise ValueError(
                f"Rule: the criterion {self.criterion} compares whole channels. Use it "
                "with granularity='channel', or another criterion, such as "
                f"'magnitude'. Received granularity={self.granularity!r}."
            )
        put(
            "allocation",
            _allocation(
                self.allocation, self.granularity, self.criterion, self.regrowth
            ),
        )
        if self.regrowth is not None:
            put("regrowth", get(Regrowth, self.regrowth))
            _check_regrowth(self)
        put("regularization", _regularization(self.regularization, self.granularity))
        if self.prune_frozen and isinstance(self.granularity, Channel):
            raise ValueError(
                "Rule: prune_frozen=True is for single weights: a channel goes through "
                "several layers, which all have to be trained. Unfreeze them, "
                "layer.trainable = True, or leave granularity='channel' out."
            )
        for name in ("only", "skip"):
            if getattr(self, name) is not None:
                put(name, matchers(f"Rule: `{name}`", getattr(self, name)))
        check_final(self.granularity, self.schedule)

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        """What gives scores to the weights that the rule matches."""
        both = (self.criterion, self.regrowth)
        return tuple(scorer for scorer in both if scorer is not None)

    def matches(self, candidate: Candidate) -> bool:
        """Returns whether the rule speaks of that weight."""
        if any(_match(matcher, candidate) for matcher in self.skip or ()):
            return False
        if self.skip_first and candidate.is_first:
            return False
        if self.skip_last and candidate.is_last:
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
        axes: What its axes are; `None` if that is not known.
        names: What patterns are matched against.
    """

    variable: keras.Variable
    owners: tuple[keras.layers.Layer, ...]
    rule: Rule
    axes: Axes | None
    names: tuple[str, ...]

    @classmethod
    def of(cls, candidate: Candidate, rule: Rule) -> "Site":
        """Returns the site of a weight under a rule."""
        c = candidate
        return cls(c.variable, c.owners, rule, c.axes, c.names)

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
    """What a plan means on a model.

    Args:
        sites: The weights that are pruned.
        skipped: Those that stay dense.
        idle: What of `only` and `skip` means nothing of the model, in words.
    """

    sites: tuple[Site, ...]
    skipped: tuple[SkippedWeight, ...]
    idle: tuple[str, ...] = ()


def resolve(plan: Plan, model: keras.layers.Layer, whole: bool = True) -> Resolution:
    """Finds the weights that a plan prunes in a built model or layer.

    Args:
        plan: The plan.
        model: The model or layer.
        whole: Whether it is all that the plan speaks of, and not a part of it: names
            that are not there are mistakes then.

    Raises:
        ValueError: If the model has no variables yet, a rule matches nothing, a name is
            unknown, a weight cannot be cut as its rule says or falls under two rules,
            or no weight may be pruned at all.
    """
    if not model.weights:
        raise ValueError(
            f"{model.name!r} has no weights yet. Build it first: add an Input, call "
            "model.build(input_shape), or call it on a batch of data."
        )
    sites: list[Site] = []
    skipped: list[SkippedWeight] = []
    matched: set[int] = set()
    uncut: list[str] = []
    found = candidates(model)
    if whole:
        _check_names(plan, model, found)
    for candidate in found:
        index = _first_rule(plan, candidate)
        if index is None:
            reason: str | None = candidate.why_dense(prune_depthwise=True) or NO_RULE
        else:
            rule = plan.rules[index]
            reason = candidate.why_dense(rule.prune_depthwise, rule.prune_frozen)
            try:
                reason = reason or why_uncut(rule.granularity, candidate)
            except ValueError as error:
                uncut.append(f"  {candidate.variable.path}: {error}")
        if reason is None and index is not None:
            matched.add(index)
            sites.append(Site.of(candidate, rule))
        else:
            shape = tuple(candidate.variable.shape)
            skipped.append(SkippedWeight(candidate.variable.path, shape, str(reason)))
    if uncut:
        raise ValueError(
            f"Weights of {model.name!r} that cannot be cut as the plan says:\n"
            + "\n".join(uncut)
        )
    for i, rule in enumerate(plan.rules):
        if i not in matched:
            raise ValueError(_matches_nothing(i, rule, plan, model, skipped))
        if whole and not isinstance(rule.granularity, Channel):
            rule.allocation.check([facts(s) for s in sites if s.rule is rule])
    idle = _idle(plan, model, found) if whole else ()
    return Resolution(tuple(sites), tuple(skipped), tuple(idle))


def facts(site: Site) -> Facts:
    """Returns what an allocation may know of a site."""
    shape = tuple(site.variable.shape)
    return Facts(site.names, site.axes.shape(shape) if site.axes else shape)


def check_final(granularity: Granularity, schedule: Schedule) -> None:
    """Raises ValueError if a schedule ends where a granularity cannot."""
    fixed, final = granularity.fixed_sparsity, schedule.final_sparsity
    if fixed is None or final is None or math.isclose(final, fixed, abs_tol=1e-6):
        return
    raise ValueError(
        f"{granularity} makes {fixed:.6g} of the weights zero, neither more nor less, "
        f"and the schedule ends at sparsity {final:g}. Let it end at {fixed:.6g}, or "
        "leave `sparsity` out; for another sparsity choose other n and m."
    )


def _check_regrowth(rule: Rule) -> None:
    """Raises ValueError if nothing can grow back under a rule."""
    if isinstance(rule.granularity, Channel):
        raise ValueError(
            f"Rule: {rule.regrowth} does not go with granularity='channel': a channel "
            "whose weights are all zero, those that make it and those that read it, "
            "has no gradient and stays zero. Use another granularity, or leave "
            "`regrowth` out."
        )
    if isinstance(rule.allocation, Threshold):
        raise ValueError(
            f"Rule: {rule.regrowth} does not go with {rule.allocation}: what grows "
            "begins at zero, below any threshold. Use allocation='erk' or 'uniform'."
        )


def _allocation(
    given: Any, granularity: Granularity, criterion: Criterion, regrowth: Any
) -> Allocation:
    if given is None:
        default = granularity.default_allocation
        if isinstance(default, Lamp) and regrowth is not None:
            return Erk()
        if isinstance(default, Lamp) and criterion.allocation is not None:
            return criterion.allocation
        return default
    if isinstance(given, Mapping) and "class_name" not in given:
        given = Explicit(given)
    allocation = get(Allocation, given)
    if allocation.sets_targets and granularity.fixed_sparsity is not None:
        raise ValueError(
            f"{granularity} takes the same share of every weight, and {allocation} "
            "does not. Leave `allocation` out, and choose weights with `only` and "
            "`skip`."
        )
    if allocation.needs_shapes and isinstance(granularity, Channel):
        raise ValueError(
            f"{allocation} goes by the shape of single kernels, and "
            "granularity='channel' couples several. Use allocation='uniform', 'global' "
            "or 'lamp'."
        )
    return allocation


def _regularization(given: Any, granularity: Granularity) -> Regularization | None:
    if given is None:
        return None
    regularization = get(Regularization, given)
    if not isinstance(granularity, Channel):
        raise ValueError(
            f"Rule: {regularization} is a penalty on whole channels. Use it with "
            "granularity='channel'; for single weights give layers the regularizers of "
            "Keras, such as kernel_regularizer=keras.regularizers.L1(1e-5). Received "
            f"granularity={granularity!r}."
        )
    return regularization


def _first_rule(plan: Plan, candidate: Candidate) -> int | None:
    """Returns the first rule that matches a weight.

    Raises:
        ValueError: If layers that share the weight fall under several.
    """
    matching = [i for i, rule in enumerate(plan.rules) if rule.matches(candidate)]

    def first(one: Candidate) -> int | None:
        return next((i for i in matching if plan.rules[i].matches(one)), None)

    if candidate.also:
        chains = (candidate.owners, *candidate.also)
        alone = {
            found: chain[-1].name if chain else "the model"
            for chain in reversed(chains)
            if (found := first(dataclasses.replace(candidate, owners=chain, also=())))
            is not None
        }
        if len(alone) > 1:
            said = ", ".join(
                f"rule {i} by {name!r}" for i, name in sorted(alone.items())
            )
            raise ValueError(
                f"{candidate.variable.path!r} is shared by several layers, and falls "
                f"under two rules: {said}. Name all of its layers in one rule, or "
                "leave it out of the others with `skip`."
            )
    return first(candidate)


def why_uncut(granularity: Granularity, candidate: Candidate) -> str | None:
    """Returns why a granularity leaves a weight dense, or `None`.

    Raises:
        ValueError: If the weight cannot be cut; what to do about it.
    """
    shape = tuple(candidate.variable.shape)
    if not granularity.arranged:
        return granularity.why_dense(shape)
    if candidate.axes is None:
        layer = candidate.owners[-1] if candidate.owners else candidate.variable
        name, weight = type(layer).__name__, candidate.variable.name
        raise ValueError(
            f"{granularity} needs to know its axes. Say them with "
            f"kprune.register_prunable({name}, {{{weight!r}: 'io'}}), a letter per "
            "axis: 'o' for outputs, 's' for the window, 'i' for inputs."
        )
    return granularity.why_dense(candidate.axes.shape(shape))


def _check_names(
    plan: Plan, model: keras.layers.Layer, found: Sequence[Candidate]
) -> None:
    """Raises ValueError for a plain name in `only` or `skip` that nothing bears."""
    names = [name for candidate in found for name in candidate.names]
    for layer in model._flatten_layers():
        names += [layer.name, layer.path or layer.name]
    for which, matcher in _said(plan):
        if not isinstance(matcher, str) or is_pattern(matcher):
            continue
        if matcher not in names:
            raise ValueError(f"{which}: {unknown(matcher, names)}")


def _said(plan: Plan) -> Iterator[tuple[str, Matcher]]:
    """Yields what the rules say in `only` and `skip`, and where they say it."""
    for i, rule in enumerate(plan.rules):
        which = f"Rule {i} of the plan, " if len(plan.rules) > 1 else ""
        for argument in ("only", "skip"):
            for matcher in getattr(rule, argument) or ():
                yield f"{which}{argument}", matcher


def _idle(
    plan: Plan, model: keras.layers.Layer, found: Sequence[Candidate]
) -> Iterator[str]:
    """Yields what is said in `only` and `skip` and means nothing of the model."""
    layers = list(model._flatten_layers())
    for which, matcher in _said(plan):
        if any(_match(matcher, candidate) for candidate in found):
            continue
        # A function may ask for what layers with weights alone have.
        is_function = not isinstance(matcher, str | type | keras.layers.Layer)
        if not is_function and any(
            means(matcher, (layer,), (layer.name, layer.path or layer.name))
            for layer in layers
        ):
            continue
        yield (
            f"{which}: {matcher!r} means no layer of {model.name!r}, and nothing comes "
            "of it. Is it a slip, or a layer of another model? Then name the layer as "
            "model.summary() does; else leave it out."
        )


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


def matchers(said: str, value: Any) -> tuple[Matcher, ...]:
    """Returns what a user names layers with, one thing or several, as a tuple.

    Args:
        said: What takes it, for messages, such as "Rule: `only`".
        value: Layers, layer classes, name patterns or functions; `None` for none.

    Raises:
        TypeError: If it is something else.
    """
    if value is None:
        return ()
    found = tuple(value) if isinstance(value, list | tuple | set) else (value,)
    for matcher in found:
        known = isinstance(matcher, str | keras.layers.Layer) or callable(matcher)
        if not known or is_keras_2(matcher):
            raise TypeError(
                f"{said} takes layers, layer classes, name patterns or functions from "
                f"a layer to bool. {received(matcher)}"
            )
    return found


def means(
    matcher: Matcher, layers: Iterable[keras.layers.Layer], names: Iterable[str]
) -> bool:
    """Returns whether a matcher means one of some layers, or what bears some names."""
    if isinstance(matcher, str):
        return any(matches(name, matcher) for name in names)
    if isinstance(matcher, keras.layers.Layer):
        return any(layer is matcher for layer in layers)
    if isinstance(matcher, type):
        return any(isinstance(layer, matcher) for layer in layers)
    return any(matcher(layer) for layer in layers)


def _match(matcher: Matcher, candidate: Candidate) -> bool:
    owners = [layer for chain in (candidate.owners, *candidate.also) for layer in chain]
    return means(matcher, owners, candidate.names)
