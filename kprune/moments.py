"""When in a fit something is due that was asked for in epochs or fractions of it.

This module changes when the length of a fit becomes known in another way.
"""

from collections.abc import Mapping
from typing import Any

from kprune.schedules import FitLength, Moment, plain_step
from kprune.steps import StepCounter


class Moments:
    """The steps at which a callback's moments lie in a fit.

    Args:
        owner: Who is speaking in error messages.
        wanted: The moments by the name of the argument that they were given as.
        steps: Counts the fit's steps; made when its first epoch began.
        initial_epoch: The number of that epoch.
        params: The callback's `params`.

    Attributes:
        at: The steps by name, as soon as they are known.
        last: The fit's last step, likewise.

    Raises:
        ValueError: If the length of an epoch is not known, is needed, and cannot be
            learned from the first one.
    """

    def __init__(
        self,
        owner: str,
        wanted: Mapping[str, Moment],
        steps: StepCounter,
        initial_epoch: int,
        params: Mapping[str, Any],
    ) -> None:
        self._wanted, self._steps = wanted, steps
        self._initial_epoch, self._epochs = initial_epoch, params.get("epochs", 1)
        self.at: dict[str, int] = {}
        self.last: int | None = None
        batches = params.get("steps")
        if batches is not None:
            self._place(self._length(batches), None)
            return
        self.at = {name: at for name, at in wanted.items() if isinstance(at, int)}
        for name, moment in wanted.items():
            if name not in self.at and (initial_epoch > 0 or self._epochs < 2):
                raise ValueError(
                    f"{owner}: {name}={moment} counts in epochs or fractions of the "
                    "fit, and the number of batches in an epoch is not known. It is "
                    "learned in the first epoch of a fresh fit of several epochs only. "
                    "Say fit(steps_per_epoch=...), give the data set its length with "
                    "tf.data.experimental.assert_cardinality, or give "
                    f"{name} as a step."
                )

    def learn(self) -> bool:
        """At the end of an epoch: whether the moments have become known by it."""
        if self.last is not None:
            return False
        self._place(self._length(self._steps.num_batches), self._steps.now)
        return True

    def is_due(self, name: str) -> bool:
        """Returns whether a moment has come."""
        return name in self.at and self._steps.now >= self.at[name]

    def _length(self, batches: int) -> FitLength:
        return self._steps.fit_length(self._initial_epoch, batches, self._epochs)

    def _place(self, fit: FitLength, earliest: int | None) -> None:
        for name, moment in self._wanted.items():
            self.at.setdefault(name, plain_step(moment, fit, earliest))
        self.last = fit.step_at(fit.epochs)
