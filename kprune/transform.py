"""Models with masks from models without, and back.

Every function here but `hold_zeros` and `release`, whose purpose it is, leaves the
model that it is given as it was. This module changes when models are rebuilt in another
way.
"""

import dataclasses
import warnings
from typing import Any

import keras
import numpy as np

from kprune.config import check_fraction, get
from kprune.foreign import received
from kprune.granularity import Granularity
from kprune.layers import (
    Pruned,
    constrain,
    mask_constraints,
    mask_of,
    new_mask,
    pruned_layers,
    values,
)
from kprune.naming import nearest
from kprune.notices import Notices
from kprune.plan import Plan, Rule, Site, resolve
from kprune.prunable import candidates
from kprune.rebuild import Changes, copy_values, from_config, has_graph, rebuild
from kprune.report import PruningReport, SkippedWeight, WeightRecord
from kprune.shared import unclustered


def prune(
    model_or_layer: keras.layers.Layer,
    sparsity: float | None = None,
    *,
    schedule: Any = None,
    plan: Plan | None = None,
    **rule: Any,
) -> keras.layers.Layer:
    """Wraps what is prunable, so that the masks become part of the model.

    Use it where a saved model must carry its masks, or for control layer by layer; to
    prune a model as it is, `PruningCallback(sparsity=...)` is enough. The result is
    dense until it is trained with `PruningCallback()`, and must be compiled anew;
    training without it gets a `PruningWarning`.

    Args:
        model_or_layer: A built Sequential or Functional model, nested ones included,
            or a layer, built or not.
        sparsity: Fraction of zeros to reach over all wrapped weights together, in
            [0, 1), on the default schedule. `granularity=kprune.NofM(2, 4)` needs none.
        schedule: A `Schedule` or a function of the step, instead of `sparsity`.
        plan: A `Plan`, instead of all other arguments.
        **rule: Further arguments of `Rule`: `criterion`, `granularity`, `allocation`,
            `regrowth`, `only`, `skip`, `prune_depthwise`, `prune_frozen`, `skip_first`,
            `skip_last`.

    Returns:
        A new model with `Pruned` wrappers, which bear the names of the layers that
        they wrap; or for a layer a `Pruned` layer. Weights are copied.

    Raises:
        ValueError: If the model has no graph or is not built, nothing matches, or
            arguments contradict each other.
        TypeError: If an argument is of the wrong type.
    """
    if not isinstance(model_or_layer, keras.layers.Layer):
        raise TypeError(not_keras("prune", model_or_layer))
    plan = make_plan("prune", sparsity, schedule, plan, rule)
    if not isinstance(model_or_layer, keras.Model):
        return _prune_layer(model_or_layer, plan)
    model = model_or_layer
    check_has_graph("prune", model)
    resolution = resolve(plan, model)
    for idle in resolution.idle:
        Notices().warn(idle)
    sites = _sites_by_layer(model, resolution.sites)

    class Wrapped(Changes):
        def replacement(self, operation: Any, copy: Any) -> Any:
            if id(operation) not in sites:
                return copy
            return _wrap(copy, operation, sites[id(operation)])

    return rebuild(model, Wrapped())


def strip(model: keras.layers.Layer) -> keras.layers.Layer:
    """Returns an ordinary model with the weights, zeros included, and no masks.

    Args:
        model: A model with `Pruned` wrappers, a model that was pruned in place by
            `PruningCallback` or `hold_zeros`, or a `Pruned` layer.

    Returns:
        A new model of the original layers and names, with the same outputs bit for bit.
        It is compiled as the given one is, with a fresh optimizer.

    Raises:
        ValueError: If the model cannot be rebuilt from its configuration, as is the
            case for many subclassed models; `kprune.release` frees these in place.
        TypeError: If `model` is not a Keras layer.
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(not_keras("strip", model))
    _warn_unmasked(model)
    if isinstance(model, Pruned):
        return copy_layer(model.layer)
    if not isinstance(model, keras.Model):
        return copy_layer(model)
    return plain_copy(model)


def plain_copy(model: keras.Model, changes: Changes | None = None) -> keras.Model:
    """Returns a model without masks, compiled as the given one is.

    Args:
        model: The model.
        changes: What is different in the copy; without a graph, only its values may be.

    Raises:
        ValueError: If it cannot be rebuilt from its configuration.
    """
    changes = changes or Changes()
    plain = (
        rebuild(model, changes)
        if has_graph(model)
        else _copy_subclassed(model, changes)
    )
    return compile_alike(model, plain)


def compile_alike(model: keras.Model, copy: keras.Model) -> keras.Model:
    """Compiles a copy as a model is, with a fresh optimizer, and returns it."""
    if model.compiled and model.optimizer is not None:
        try:
            copy.compile_from_config(model.get_compile_config())
        except (ValueError, TypeError) as error:
            warnings.warn(
                f"The copy of the model is not compiled: {error} Call compile() on it.",
                stacklevel=4,
            )
    return copy


def hold_zeros(model: keras.Model) -> PruningReport:
    """Holds what is zero now in a model's kernels through any later `fit`.

    Use it on a pruned model that was loaded from an ordinary file, before fine-tuning
    it. Masks are attached to the model's variables, in place; `kprune.strip` gives a
    model without them, `kprune.release` takes them off.

    Args:
        model: A built model of any kind. Kernels that are zero altogether are left
            alone: that is how they were initialised.

    Returns:
        The sparsity that is now held, per weight.

    Raises:
        ValueError: If no kernel has zeros, or the model is not built.
        TypeError: If `model` is not a Keras model.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(not_keras("hold_zeros", model))
    found, records, skipped = [], [], []
    for candidate in candidates(model):
        variable = candidate.variable
        shape = tuple(variable.shape)
        reason = candidate.why_dense(prune_depthwise=True)
        if reason is None:
            mask = values(variable) != 0
            zeros = mask.size - int(np.count_nonzero(mask))
            if zeros == 0:
                reason = "has no zeros"
            elif zeros == mask.size:
                reason = "is zero altogether, as it was initialised"
        if reason is None:
            found.append((variable, mask))
            asked = zeros / mask.size
            records.append(WeightRecord(variable.path, shape, zeros, asked))
        else:
            skipped.append(SkippedWeight(variable.path, shape, reason))
    if not found:
        raise ValueError(
            f"hold_zeros: no kernel of {model.name!r} has zeros to hold. To prune it, "
            "train it with kprune.PruningCallback(sparsity=...)."
        )
    for variable, mask in found:
        constraint = mask_of(variable) or constrain(variable, new_mask(variable))
        constraint.mask.assign(mask)
    forget_traces(model)
    return PruningReport(None, None, tuple(records), tuple(skipped))


def release(model: keras.Model) -> None:
    """Takes the masks off a model's variables, in place; zeros may then regrow.

    Shared values are no longer held, either, see `kprune.ClusteringCallback`.

    Raises:
        ValueError: If the model has no masks, or `Pruned` wrappers that own them.
        TypeError: If `model` is not a Keras model.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(not_keras("release", model))
    if next(pruned_layers(model), None) is not None:
        raise ValueError(
            f"release: {model.name!r} has Pruned wrappers, whose masks are part of the "
            "model. Use kprune.strip(model), which returns a model without them."
        )
    shared = [variable for variable in model.weights if unclustered(variable)]
    held = [v for v in model.weights if mask_of(v) is not None]
    if not held and not shared:
        raise ValueError(
            f"release: no weight of {model.name!r} is held by a mask or a cluster."
        )
    for variable in held:
        variable.constraint = mask_of(variable).inner  # type: ignore[union-attr]
    forget_traces(model)


def is_pruned(model: keras.layers.Layer) -> bool:
    """Returns whether a model holds masks, in wrappers or on its variables."""
    return bool(mask_constraints(model))


def forget_traces(model: keras.Model) -> None:
    """Makes the next `fit` trace the training step anew, with the masks as they are."""
    model.train_function = None


def make_plan(
    owner: str,
    sparsity: float | None,
    schedule: Any,
    plan: Plan | None,
    rule: dict[str, Any],
) -> Plan:
    """Returns the plan that the arguments of `prune` or `PruningCallback` describe.

    Raises:
        ValueError: If they contradict each other, or none says how far to prune.
        TypeError: If one is unknown or of the wrong type.
    """
    known = {field.name for field in dataclasses.fields(Rule)} | {"sparsity", "plan"}
    unknown = sorted(set(rule) - known)
    if "data" in unknown:
        raise TypeError(
            f"{owner}: data for the criterion is given to the callback that updates "
            "masks: kprune.PruningCallback(data=...)."
        )
    if unknown:
        near = nearest(unknown[0], known)
        hint = f" Did you mean {near!r}?" if near else ""
        raise TypeError(
            f"{owner}: unknown argument {unknown[0]!r}.{hint} Known are "
            f"{', '.join(sorted(known))}."
        )
    if plan is not None:
        if not isinstance(plan, Plan):
            raise TypeError(
                f"{owner}: `plan` must be a kprune.Plan. Received {plan!r} of type "
                f"{type(plan).__name__}."
            )
        if sparsity is not None or schedule is not None or rule:
            raise ValueError(
                f"{owner}: `plan` says everything; give no other argument beside it."
            )
        return plan
    granularity = get(Granularity, rule.get("granularity", "element"))
    if sparsity is None and schedule is None:
        sparsity = granularity.fixed_sparsity
    if (sparsity is None) == (schedule is None):
        raise ValueError(
            f"{owner}: give either `sparsity`, for the default schedule, or "
            f"`schedule`. Received sparsity={sparsity!r}, schedule={schedule!r}."
        )
    if sparsity is not None:
        check_fraction("sparsity", sparsity, owner)
        schedule = sparsity  # A rule knows what schedule suits it.
    return Plan((Rule(schedule, **rule),))


def _prune_layer(layer: keras.layers.Layer, plan: Plan) -> Pruned:
    if isinstance(layer, Pruned):
        raise ValueError(f"prune: layer {layer.name!r} is pruned already.")
    if layer.built:
        pruned = _wrap(copy_layer(layer), layer, list(resolve(plan, layer).sites))
        pruned.build()
        return pruned
    if len(plan.rules) > 1:
        raise ValueError("prune: a layer that is not built takes a single rule.")
    return Pruned(copy_layer(layer), plan.rules[0])


def _wrap(
    copy: keras.layers.Layer, layer: keras.layers.Layer, sites: list[Site]
) -> Pruned:
    """Wraps the copy of a layer, for the weights of the layer that are sites."""
    rule = sites[0].rule
    if any(site.rule != rule for site in sites):
        raise ValueError(
            f"prune: layer {layer.name!r} falls under several rules of the plan, and a "
            "wrapper takes one. Use kprune.PruningCallback(plan=...)."
        )
    rule = dataclasses.replace(
        rule, only=None, skip=None, skip_first=False, skip_last=False
    )
    every = resolve(Plan((rule,)), layer, whole=False).sites
    # Names of inner layers may be numbered anew in a copy: none where none is needed.
    some = len(sites) < len(every)
    return Pruned(copy, rule, [site.name_in(layer) for site in sites] if some else None)


def _sites_by_layer(
    model: keras.Model, sites: tuple[Site, ...]
) -> dict[int, list[Site]]:
    found: dict[int, list[Site]] = {}
    for site in sites:
        if any(isinstance(layer, Pruned) for layer in site.owners):
            raise ValueError(
                f"prune: {site.path!r} is in a Pruned wrapper already. Prune the "
                "stripped model, or train this one with kprune.PruningCallback()."
            )
        # The layer that stands in a graph: what holds it are models with a graph.
        layer = next((o for o in site.owners if not has_graph(o)), None)
        if layer is None:
            raise ValueError(
                f"prune: {site.path!r} belongs to no layer of the model's graph. Use "
                "kprune.PruningCallback(...), which needs no wrappers."
            )
        found.setdefault(id(layer), []).append(site)
    return found


def copy_layer(
    layer: keras.layers.Layer, changes: Changes | None = None
) -> keras.layers.Layer:
    """Returns a layer of the same configuration, with the same values if built."""
    copy = from_config(layer)
    if layer.built:
        if not copy.built:
            copy.build_from_config(layer.get_build_config() or {})
        copy_values(layer, copy, (changes or Changes()).value)
    return copy


def _copy_subclassed(model: keras.Model, changes: Changes) -> keras.Model:
    if next(pruned_layers(model), None) is not None:
        raise ValueError(
            f"strip: the subclassed model {model.name!r} makes its Pruned layers "
            "itself, so that a copy would have them too."
        )
    return copy_layer(model, changes)


def check_has_graph(owner: str, model: keras.Model) -> None:
    """Raises ValueError if a model has no graph of layers."""
    if not has_graph(model):
        raise ValueError(
            f"{owner}: {model.name!r} is a subclassed model ({type(model).__name__}), "
            "without a graph of layers to wrap. Train it with "
            "kprune.PruningCallback(sparsity=...), which prunes it in place."
        )


def _warn_unmasked(model: keras.layers.Layer) -> None:
    for variable in model.weights:
        constraint = mask_of(variable)
        if constraint is None:
            continue
        regrown = int(
            np.count_nonzero((values(variable) != 0) & ~values(constraint.mask))
        )
        if regrown:
            warnings.warn(
                f"{variable.path}: {regrown} weights that its mask prunes are not "
                "zero. Something wrote to the variable after the last training step, "
                "such as restored weights of an earlier epoch. They are taken as they "
                "are.",
                stacklevel=3,
            )


def not_keras(owner: str, value: Any) -> str:
    """Returns the message for what is neither a model nor a layer of Keras 3."""
    return f"{owner}: expected a Keras 3 model or layer. {received(value)}"
