"""A variable whose zeros are held while its model trains.

This module changes when a mask is put on a variable, or watched, in another way.
"""

from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np

from kprune import slots
from kprune.allocation import Facts
from kprune.axes import Axes
from kprune.layers import MaskConstraint, constrain, mask_of, new_mask, values
from kprune.plan import Site, facts
from kprune.report import WeightRecord


class HeldWeight:
    """A variable with a mask, and how many elements the mask prunes.

    Args:
        variable: The weight. Nothing is changed before `attach`.
        axes: What its axes are, where that is known.
        facts: What an allocation may know of it.
    """

    def __init__(
        self,
        variable: keras.Variable,
        axes: Axes | None = None,
        facts: Facts | None = None,
    ) -> None:
        self.variable = variable
        self.axes = axes
        self.facts = facts or Facts((variable.path,), tuple(variable.shape))
        self.size = int(np.prod(variable.shape))
        self.num_pruned = 0
        # Whether rules of several groups hold it.
        self.shared = False
        self.constraint: MaskConstraint

    @classmethod
    def of(cls, site: Site) -> Self:
        """Returns the weight of a site."""
        return cls(site.variable, site.axes, facts(site))

    @property
    def shape(self) -> tuple[int, ...]:
        """The variable's shape."""
        return tuple(self.variable.shape)

    def attach(
        self, average: keras.Variable | None, optimizers: Sequence[Any] = ()
    ) -> None:
        """Puts a mask on the variable, unless it has one, and applies it.

        Args:
            average: The optimizer's moving average of the variable, if it keeps one.
            optimizers: Those that train it.
        """
        variable = self.variable
        self._optimizers = optimizers
        self.constraint = mask_of(variable) or constrain(variable, new_mask(variable))
        self.constraint.averages = () if average is None else (average,)
        kept = int(np.count_nonzero(values(self.constraint.mask)))
        self.num_pruned = self.size - kept
        if self.num_pruned:
            self.apply()

    def set_mask(self, mask: np.ndarray) -> None:
        """Replaces the mask and applies it."""
        self.constraint.mask.assign(mask)
        self.num_pruned = self.size - int(np.count_nonzero(mask))
        self.apply()

    def move_mask(self, mask: np.ndarray) -> None:
        """Replaces the mask by one that keeps what it pruned; that begins anew."""
        grown = mask & ~values(self.constraint.mask)
        self.set_mask(mask)
        slots.reset(self._optimizers, self.variable, grown)

    def adopt_zeros(self) -> None:
        """Prunes what is zero, and nothing else."""
        self.set_mask(values(self.variable) != 0)

    def apply(self) -> None:
        """Sets to zero what the mask prunes."""
        for variable in (self.variable, *self.constraint.averages):
            variable.assign(self.constraint.masked(variable))

    def num_zeros(self) -> int:
        """Returns how many elements are exactly zero, pruned or not."""
        return self.size - int(np.count_nonzero(values(self.variable)))

    def num_regrown(self) -> int:
        """Returns how many elements that the mask prunes are not zero."""
        mask = values(self.constraint.mask)
        return int(np.count_nonzero((values(self.variable) != 0) & ~mask))

    def record(self) -> WeightRecord:
        """Returns what was asked of the weight, and what it holds."""
        return WeightRecord(
            self.variable.path,
            tuple(self.variable.shape),
            self.num_zeros(),
            asked=self.num_pruned / self.size,
        )
