"""Models of mixed precision, as the float32 models that devices run.

This module changes when Keras describes precision in configurations differently.
"""

from typing import Any

import keras

from kprune.rebuild import settle


def in_float32(model: keras.Model) -> keras.Model:
    """Returns the model, or a float32 copy if it computes in lower precision.

    Training in mixed precision leaves float32 weights behind float16 arithmetic, which
    TFLite's kernels do not have. The copy has the same weights.

    Raises:
        ValueError: If such a model cannot be rebuilt from its configuration.
    """
    low = low_precision_layers(model)
    if not low:
        return model
    try:
        return _copy(model, {layer.dtype_policy.name for layer in low}, "float32")
    except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ValueError(
            f"Layer {low[0].name!r} computes in {low[0].compute_dtype}, which TFLite "
            "cannot, and the model cannot be rebuilt in float32 from its "
            f"configuration ({reason}). Make the same model under the policy 'float32' "
            "and copy the weights with set_weights."
        ) from error


def in_float64(model: keras.Model) -> keras.Model | None:
    """Returns a float64 copy of a model, for telling rounding from mistakes.

    `None` if it cannot be rebuilt from its configuration.
    """
    policies = {layer.dtype_policy.name for layer in model._flatten_layers()}
    try:
        return _copy(model, policies, "float64")
    except (TypeError, ValueError, NotImplementedError, AttributeError):
        return None


def low_precision_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers that compute in less than float32."""
    layers = model._flatten_layers()
    return [x for x in layers if x.compute_dtype in ("float16", "bfloat16")]


def _copy(model: keras.Model, policies: set[str], policy: str) -> keras.Model:
    """Returns a copy whose policies of these names are replaced by another one."""
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    config["config"] = _replaced(config["config"], policies, policy)
    copy = keras.saving.deserialize_keras_object(config)
    if not copy.built:
        copy.build_from_config(model.get_build_config())
    for old, new in zip(model.variables, copy.variables, strict=True):
        new.assign(keras.ops.cast(old, new.dtype))
    settle(copy)
    return copy


def _replaced(config: Any, policies: set[str], policy: str) -> Any:
    """Returns a configuration with the policies of these names replaced."""
    if isinstance(config, dict):
        is_policy = config.get("class_name") == "DTypePolicy"
        if is_policy and config["config"].get("name") in policies:
            return {**config, "config": {**config["config"], "name": policy}}
        return {
            key: _replaced(value, policies, policy) for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_replaced(value, policies, policy) for value in config)
    # A layer may be called like a policy; what is no text cannot be.
    return policy if isinstance(config, str) and config in policies else config
