"""The optimizer's memory of single elements of a weight.

This module changes when optimizers of Keras keep it in another way.
"""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from kprune.layers import values


def reset(optimizers: Iterable[Any], variable: keras.Variable, at: np.ndarray) -> None:
    """Sets slots, such as momentum and moving averages, back for some elements.

    They become what they are for a new weight: zero, or the accumulators' initial value
    of Adagrad and Ftrl. Slots that are not of the weight's shape, such as the means
    over rows and columns of Adafactor, are left alone.

    Args:
        optimizers: Those that may train the variable, none of them a wrapping one.
        variable: The weight.
        at: Boolean of the weight's shape, True where slots are reset.
    """
    for optimizer in optimizers:
        for name, slot in _slots(optimizer, variable):
            initial = 0.0
            if name == "_accumulators":
                initial = getattr(optimizer, "initial_accumulator_value", 0.0)
            slot.assign(np.where(at, initial, values(slot)))


def _slots(
    optimizer: Any, variable: keras.Variable
) -> Iterable[tuple[str, keras.Variable]]:
    """Yields the name of each list of slots, and the variable's own in it."""
    trained = optimizer._trainable_variables if optimizer.built else []
    index = next((i for i, v in enumerate(trained) if v is variable), None)
    if index is None:
        return
    for name, slots in vars(optimizer).items():
        if not isinstance(slots, list) or slots is trained or len(slots) <= index:
            continue
        slot = slots[index]
        if isinstance(slot, keras.Variable) and slot.shape == variable.shape:
            if slot is not variable:
                yield name, slot
