"""What a model of Keras 2 was compiled with, in Keras 3.

This module changes when more of it can be carried over.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kprune.compat.legacy_files import CURE
from kprune.compat.legacy_models import PREFIX
from kprune.notices import Notices

# What optimizers keep for each trained variable, in the order of Keras 2: group after
# group, and in a group variable after variable. What settings leave out is empty.
_SLOTS: dict[str, Sequence[Sequence[str]]] = {
    "Adadelta": [["_accumulated_grads", "_accumulated_delta_vars"]],
    "Adafactor": [["_r", "_c", "_v"]],
    "Adagrad": [["_accumulators"]],
    "Adam": [["_momentums", "_velocities"], ["_velocity_hats"]],
    "AdamW": [["_momentums", "_velocities"], ["_velocity_hats"]],
    "Adamax": [["_m", "_u"]],
    "Ftrl": [["_accumulators", "_linears"]],
    "Lion": [["_momentums"]],
    "Nadam": [["_momentums", "_velocities"]],
    "RMSprop": [["_velocities"], ["_momentums"], ["_average_gradients"]],
    "SGD": [["momentums"]],
}
# Names whose meaning depends on the shape of an output.
_BY_OUTPUT = ("acc", "accuracy", "ce", "crossentropy")
# Settings that Keras 3 has no place for, and that change no step.
_WITHOUT_MEANING = ("is_legacy_optimizer", "jit_compile")


def compile_as(
    model: keras.Model, training: Mapping[str, Any], notices: Notices
) -> bool:
    """Compiles a model as its file says; returns whether that was possible.

    Args:
        model: The model.
        training: See `LegacyFile.training`.
        notices: Where it is said what could not be carried over.
    """
    try:
        optimizer = _optimizer(training["optimizer"], model)
        loss = _mapped(training.get("loss"), _loss)
        if isinstance(loss, dict):  # Keras 3 wants to hear of outputs without one.
            loss = {name: loss.get(name) for name in model.output_names}
        loss_weights = _mapped(training.get("loss_weights"), lambda weight: weight)
    except (TypeError, ValueError, KeyError) as error:
        notices.warn(
            f"The model is not compiled, since Keras 3 cannot do so as the file says: "
            f"{str(error).splitlines()[0]} Call compile() on it, or load it with "
            "custom_objects={name: what Keras 3 has for it}."
        )
        return False
    metrics = {}
    for name in ("metrics", "weighted_metrics"):
        try:
            metrics[name] = _mapped(_unnested(training.get(name)), _metric)
        except (TypeError, ValueError, KeyError) as error:
            notices.warn(
                f"The model is compiled without its {name}, which Keras 3 cannot make: "
                f"{str(error).splitlines()[0]}"
            )
    model.compile(
        optimizer=optimizer,
        loss=loss,
        loss_weights=loss_weights,
        auto_scale_loss=False,  # The optimizer does, where the file's did.
        **metrics,
    )
    return True


def restore_optimizer(
    model: keras.Model,
    training: Mapping[str, Any],
    variables: Sequence[keras.Variable],
    state: Sequence[np.ndarray],
    notices: Notices,
) -> None:
    """Gives an optimizer its steps, and what it keeps of them where that is known.

    Args:
        model: The compiled model.
        training: See `LegacyFile.training`.
        variables: What is trained, in the order of Keras 2.
        state: What the file has: the number of steps first.
        notices: Where it is said what could not be carried over.
    """
    optimizer: Any = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    model.optimizer.build(model.trainable_variables)
    steps = int(state[0]) if state else 0
    optimizer.iterations.assign(steps)
    if isinstance(optimizer, keras.optimizers.SGD) and not optimizer.momentum:
        return  # Kept by Keras 2 all the same.
    if state and not steps:
        return
    old = _is_old(training["optimizer"])
    kept = list(_kept(optimizer, variables, old))
    values = state[-len(kept) :]
    shapes = [tuple(variable.shape) for variable in kept]
    if shapes != [value.shape for value in values]:
        notices.warn(
            f"What the optimizer {optimizer.name!r} has gathered of earlier gradients "
            f"is not carried over: it begins that anew. The file keeps {len(state)} "
            f"arrays for it, and Keras 3 needs {1 + len(kept)} of its own shapes. Of "
            "optimizers from tf_keras.optimizers.legacy only '.h5' files have them. "
            f"{CURE}"
        )
        return
    for variable, value in zip(kept, values, strict=True):
        variable.assign(value)
    if isinstance(optimizer, keras.optimizers.Nadam):
        # Keras 2 does not save this product, which follows from the steps.
        factors = 1 - 0.5 * 0.96 ** np.arange(1, steps + 1)
        optimizer._u_product.assign(np.prod(optimizer.beta_1 * factors))
        if old:
            notices.warn(
                "Nadam of tf_keras.optimizers.legacy lets its momentum grow slower "
                "than that of Keras 3, which makes other steps from here on."
            )


def _kept(
    optimizer: Any, variables: Sequence[keras.Variable], old: bool
) -> Iterator[keras.Variable]:
    """Yields what an optimizer keeps, in the order of Keras 2.

    Args:
        optimizer: The optimizer.
        variables: What is trained, in the order of Keras 2.
        old: Whether it is as before Keras 2.11, with slot after slot.
    """
    name = type(optimizer).__name__
    groups = _SLOTS.get(name, ())
    if old and name != "Ftrl":
        groups = [[slot] for group in groups for slot in group]
    for group in (["_model_variables_moving_average"], *groups):
        for variable in variables:
            index = optimizer._get_variable_index(variable)
            for slot in group:
                # Of vectors Adafactor has no rows and columns, only a placeholder.
                placeholder = slot in ("_r", "_c") and len(variable.shape) < 2
                if getattr(optimizer, slot, None) and not placeholder:
                    yield getattr(optimizer, slot)[index]


def _is_old(config: Any) -> bool:
    """Returns whether an optimizer is as before Keras 2.11."""
    if isinstance(config, str):
        return False
    return bool(_inner(config)["config"].get("is_legacy_optimizer", True))


def _inner(config: Any) -> Any:
    """Returns what does the work, inside of what scales the loss."""
    return config["config"].get("inner_optimizer", config)


def _optimizer(config: Any, model: keras.Model) -> Any:
    if config is None:
        raise ValueError("it has no optimizer.")
    scaling: Mapping[str, Any] = {}
    if isinstance(config, str):
        made = keras.optimizers.get(config)
    else:
        if "inner_optimizer" in config["config"]:
            scaling = config["config"]
        config = _inner(config)
        settings = dict(config["config"])
        for name in _WITHOUT_MEANING:
            settings.pop(name, None)
        decay = settings.pop("decay", None)  # Of optimizers before Keras 2.11.
        rate = settings.get("learning_rate")
        if isinstance(rate, Mapping):
            described = {k: v for k, v in rate["config"].items() if v is not None}
            settings["learning_rate"] = keras.optimizers.schedules.deserialize(
                {"class_name": rate["class_name"], "config": described}
            )
        name = config["class_name"].split(">")[-1]
        if decay and name != "Nadam":  # It means another thing by this word.
            settings["learning_rate"] = keras.optimizers.schedules.InverseTimeDecay(
                settings["learning_rate"], 1, decay
            )
        made = keras.optimizers.get({"class_name": name, "config": settings})
    return _scaled(made, scaling, model)


def _scaled(optimizer: Any, scaling: Mapping[str, Any], model: keras.Model) -> Any:
    """Returns an optimizer that scales the loss, if Keras 2's does.

    Args:
        optimizer: The optimizer.
        scaling: The settings of what scales the loss; without any, Keras 2 does so in
            models with layers of half precision.
        model: The model.
    """
    policies = {layer.dtype_policy.name for layer in model._flatten_layers()}
    if not scaling and "mixed_float16" not in policies:
        return optimizer
    if scaling.get("dynamic", True):
        names = ("initial_scale", "dynamic_growth_steps")
        known = {name: scaling[name] for name in names if name in scaling}
        return keras.optimizers.LossScaleOptimizer(optimizer, **known)
    optimizer.loss_scale_factor = scaling["initial_scale"]
    return optimizer


def _loss(config: Any) -> Any:
    if not isinstance(config, Mapping):
        return _by_name(config, keras.losses.get)
    if not isinstance(config.get("config"), Mapping):  # A function.
        return _by_name(config["config"], keras.losses.get)
    settings = {k: v for k, v in config["config"].items() if k != "fn"}
    if settings.get("reduction") == "auto":
        settings["reduction"] = "sum_over_batch_size"
    own = _own(config["class_name"])
    if own is not None:
        return own.from_config(settings)
    return keras.losses.deserialize({**config, "config": settings})


def _metric(config: Any) -> Any:
    if config in _BY_OUTPUT:
        return config
    if not isinstance(config, Mapping):
        return _by_name(config, keras.metrics.get)
    if not isinstance(config.get("config"), Mapping):
        return _by_name(config["config"], keras.metrics.get)
    settings = dict(config["config"])
    function = settings.pop("fn", None)
    own = _own(config["class_name"])
    if own is not None:
        return own.from_config(settings)
    if config["class_name"] != "MeanMetricWrapper":
        return keras.metrics.deserialize({**config, "config": settings})
    name = function["config"] if isinstance(function, Mapping) else function
    found = _own(name) or keras.metrics.get(name)
    settings.pop("dtype", None)
    if isinstance(found, keras.metrics.Metric):  # Of a function's name, too.
        return type(found)(**settings)
    return keras.metrics.MeanMetricWrapper(found, **settings)


def _by_name(name: str, get: Callable[[str], Any]) -> Any:
    """Returns what a name stands for: of Keras the name itself, once it is known."""
    own = _own(name)
    if isinstance(own, type):
        raise ValueError(
            f"the file has the name of the class {name} and not its settings, which "
            "a '.keras' file has."
        )
    if own is None and get(name) is None:
        raise ValueError(f"{name!r} is unknown.")
    return own or name


def _own(name: str) -> Any:
    """Returns the user's class or function of a name; `None` if there is none."""
    if "lambda" in name:
        raise ValueError("a lambda function has no name to find its code by.")
    find = keras.saving.get_registered_object
    return find(name.split(">")[-1]) or find(name)


def _unnested(metrics: Any) -> Any:
    """Returns metrics in lists without gaps, those of a single output as one."""
    if not isinstance(metrics, list):
        return metrics
    if len(metrics) == 1 and isinstance(metrics[0], list):
        return metrics[0]
    return [
        [metric for metric in each if metric is not None]
        if isinstance(each, list)
        else each
        for each in metrics
    ]


def _mapped(described: Any, made: Any) -> Any:
    """Returns what is described for a model, or for each output by number or name."""
    if isinstance(described, list | tuple):
        return [_mapped(each, made) for each in described]
    if isinstance(described, Mapping) and "class_name" not in described:
        # Outputs are named after layers, whose wrappers have other names.
        return {
            name.removeprefix(PREFIX): _mapped(each, made)
            for name, each in described.items()
        }
    return None if described is None else made(described)
