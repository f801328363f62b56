"""What is said of values that are nothing of Keras 3, and most of all of Keras 2's.

This module changes when users take yet another library's models for Keras's.
"""

from typing import Any

import keras


def is_keras_2(value: Any) -> bool:
    """Returns whether a value, or a class, is of tf_keras."""
    return _is_of("tf_keras", value)


def received(value: Any) -> str:
    """Returns what was received instead of something of Keras 3, and the cure."""
    kind = type(value)
    said = f"Received {value!r} of type {kind.__module__}.{kind.__qualname__}."
    if is_keras_2(value):
        said += (
            " It belongs to Keras 2 (tf_keras), and kprune prunes models of Keras 3: "
            "build it with `keras`, version 3, instead of `tf_keras`; a model that is "
            "trained already, kprune.compat.tfmot.load reads from its file. Where "
            "TF_USE_LEGACY_KERAS=1 is set, as importing tfmot does, `tf.keras` is "
            "Keras 2, too."
        )
    elif _is_of("tensorflow_model_optimization", value):
        said += (
            " It belongs to tfmot, for models of Keras 2 (tf_keras). "
            "kprune.compat.tfmot has one of the same name, for Keras 3."
        )
    return said


def _is_of(package: str, value: Any) -> bool:
    kind = value if isinstance(value, type) else type(value)
    return any(cls.__module__.split(".")[0] == package for cls in kind.__mro__)


def check_trained(owner: str, model: Any) -> None:
    """Raises TypeError if a callback is given a model of another Keras than its own."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"{owner} goes with the `fit` of a Keras 3 model. {received(model)}"
        )
