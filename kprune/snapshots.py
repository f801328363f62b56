"""The state of a model in training, kept to go back to.

This module changes when something else belongs to that state.
"""

import keras
import numpy as np

from kprune.channels import ChannelGroup
from kprune.layers import values
from kprune.updates import MaskUpdates

# A clock goes on, whatever the weights do, and a learning rate goes with it.
_CLOCKS = ("iteration", "learning_rate")


class Snapshot:
    """A copy, in memory, of all that training has made of a model up to now.

    That is the model's weights, their masks, and the optimizer's state but for its
    count of steps and its learning rate: with Adam three times the weights' size.

    Args:
        model: The model.
        optimizer: The optimizer that trains it.
        updates: The masks on its weights.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        updates: MaskUpdates,
    ) -> None:
        self._updates = updates
        state = [v for v in optimizer.variables if v.name not in _CLOCKS]
        self._variables = [(v, _copy(v)) for v in (*model.weights, *state)]
        self._masks = [(w, _copy(w.constraint.mask)) for w in updates.weights()]
        self._removed = [
            (group, group.removed.copy())
            for group in updates.groups
            if isinstance(group, ChannelGroup)
        ]

    def restore(self) -> None:
        """Sets all of it back, masks included: what was pruned since grows back."""
        for variable, value in self._variables:
            variable.assign(value)
        for weight, mask in self._masks:
            weight.set_mask(mask)
        for group, removed in self._removed:
            group.removed = removed.copy()
        self._updates.note()


def _copy(variable: keras.Variable) -> np.ndarray:
    return np.array(values(variable))
