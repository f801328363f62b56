"""What is said of a value that is no model of Keras 3, and most of all of Keras 2's.

This module changes when users take yet another library's models for Keras's.
"""

from typing import Any

import keras


def received(value: Any) -> str:
    """Returns what was received instead of a Keras 3 model, and the cure if known."""
    kind = type(value)
    said = f"Received {value!r} of type {kind.__module__}.{kind.__qualname__}."
    if any(cls.__module__.split(".")[0] == "tf_keras" for cls in kind.__mro__):
        said += (
            " It belongs to Keras 2 (tf_keras), and kprune prunes models of Keras 3: "
            "build it with `keras`, version 3, instead of `tf_keras`. Where "
            "TF_USE_LEGACY_KERAS=1 is set, `tf.keras` is Keras 2, too."
        )
    return said


def check_trained(owner: str, model: Any) -> None:
    """Raises TypeError if a callback is given a model of another Keras than its own."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"{owner} goes with the `fit` of a Keras 3 model. {received(model)}"
        )
