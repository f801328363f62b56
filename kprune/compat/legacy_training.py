"""What a model of Keras 2 was compiled with, in Keras 3.

This module changes when more of it can be carried over.
"""

from collections.abc import Iterator, Mapping, Sequence
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
        loss_weights = _mapped(training.get("loss_weights"), lambda weight: weight)
    except (TypeError, ValueError, KeyError) as error:
        notices.warn(
            f"The model is not compiled, since Keras 3 cannot do so as the file says: "
            f"{str(error).splitlines()[0]} Call compile() on it."
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
    model.compile(optimizer=optimizer, loss=loss, loss_weights=loss_weights, **metrics)
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
    kept = list(_kept(optimizer, variables, _is_old(training["optimizer"])))
    values = state[-len(kept) :]
    shapes = [tuple(variable.shape) for variable in kept]
    if shapes != [value.shape for value in values]:
        notices.warn(
            f"The optimizer {optimizer.name!r} goes on at step {steps}, but what it "
            "has gathered of earlier gradients is not carried over: it begins that "
            f"anew. The file keeps {len(state)} arrays for it, and Keras 3 needs "
            f"{1 + len(kept)} in another form. If it is a SavedModel or '.keras' file "
            "with an optimizer of tf_keras.optimizers.legacy, the '.h5' file has more. "
            f"{CURE}"
        )
        return
    for variable, value in zip(kept, values, strict=True):
        variable.assign(value)


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
    if isinstance(config, str):
        made = keras.optimizers.get(config)
    else:
        config = _inner(config)
        settings = dict(config["config"])
        for name in _WITHOUT_MEANING:
            settings.pop(name, None)
        decay = settings.pop("decay", None)  # Of optimizers before Keras 2.11.
        rate = settings.get("learning_rate")
        if isinstance(rate, Mapping):
            settings["learning_rate"] = keras.optimizers.schedules.deserialize(
                {"class_name": rate["class_name"], "config": rate["config"]}
            )
        name = config["class_name"].split(">")[-1]
        if decay and name != "Nadam":  # It means another thing by this word.
            settings["learning_rate"] = keras.optimizers.schedules.InverseTimeDecay(
                rate, 1, decay
            )
        made = keras.optimizers.get({"class_name": name, "config": settings})
    policies = {layer.dtype_policy.name for layer in model._flatten_layers()}
    # Keras 2 does so for all models with such layers.
    if "mixed_float16" in policies:
        return keras.optimizers.LossScaleOptimizer(made)
    return made


def _loss(config: Any) -> Any:
    if not isinstance(config, Mapping):
        return config
    if not isinstance(config.get("config"), Mapping):  # A function.
        return keras.losses.get(config["config"])
    settings = {k: v for k, v in config["config"].items() if k != "fn"}
    if settings.get("reduction") == "auto":
        settings["reduction"] = "sum_over_batch_size"
    return keras.losses.deserialize({**config, "config": settings})


def _metric(config: Any) -> Any:
    if not isinstance(config, Mapping):
        return config
    if not isinstance(config.get("config"), Mapping):
        return keras.metrics.get(config["config"])
    settings = dict(config["config"])
    function = settings.pop("fn", None)
    if config["class_name"] == "MeanMetricWrapper":
        function = keras.metrics.get(function)
        return keras.metrics.MeanMetricWrapper(function, name=settings["name"])
    return keras.metrics.deserialize({**config, "config": settings})


def _unnested(metrics: Any) -> Any:
    """Returns the metrics of a single output as a plain list."""
    if isinstance(metrics, list) and len(metrics) == 1 and isinstance(metrics[0], list):
        return metrics[0]
    return metrics


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
