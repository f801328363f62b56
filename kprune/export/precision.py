"""Models of mixed precision, as the float32 models that devices run.

This module changes when Keras describes precision in configurations differently.
"""

from typing import Any

import keras


def in_float32(model: keras.Model) -> keras.Model:
    """Returns the model, or a float32 copy if it computes in lower precision.

    Training in mixed precision leaves float32 weights behind float16 arithmetic, which
    TFLite's kernels do not have. The copy has the same weights.

    Raises:
        ValueError: If such a model cannot be rebuilt from its configuration.
    """
    layers = model._flatten_layers()
    low = [layer for layer in layers if _is_low(layer.compute_dtype)]
    if not low:
        return model
    policies = {layer.dtype_policy.name for layer in low}
    try:
        config = keras.saving.serialize_keras_object(model)
        config.pop("compile_config", None)
        config["config"] = _replaced(config["config"], policies)
        copy = keras.saving.deserialize_keras_object(config)
        if not copy.built:
            copy.build_from_config(model.get_build_config())
        for old, new in zip(model.variables, copy.variables, strict=True):
            new.assign(keras.ops.cast(old, new.dtype))
    except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ValueError(
            f"Layer {low[0].name!r} computes in {low[0].compute_dtype}, which TFLite "
            "cannot, and the model cannot be rebuilt in float32 from its "
            f"configuration ({reason}). Make the same model under the policy 'float32' "
            "and copy the weights with set_weights."
        ) from error
    return copy


def _is_low(dtype: Any) -> bool:
    return dtype in ("float16", "bfloat16")


def _replaced(config: Any, policies: set[str]) -> Any:
    """Returns a configuration with the policies of these names made float32."""
    if isinstance(config, dict):
        policy = config.get("class_name") == "DTypePolicy"
        if policy and config["config"].get("name") in policies:
            return {**config, "config": {**config["config"], "name": "float32"}}
        return {key: _replaced(value, policies) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_replaced(value, policies) for value in config)
    return "float32" if config in policies else config
