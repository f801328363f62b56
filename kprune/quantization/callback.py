"""A callback: rounding begins while `fit` trains, and ranges come to rest.

This module changes when rounding in `fit` begins or ends in another way.
"""

from typing import Any

import keras

from kprune.clustering import sharing_of
from kprune.foreign import check_trained
from kprune.layers import values
from kprune.moments import Moments
from kprune.notices import Notices
from kprune.quantization.fake_quantization import retrace, switches
from kprune.schedules import FitFraction, Moment, check_moment
from kprune.shared import clusters_of
from kprune.steps import StepCounter, check_given

_OWNER = "QuantizationCallback"
_HALF = FitFraction(0.5)


class QuantizationCallback(keras.callbacks.Callback):
    """Lets a model of `kprune.quantize_aware` round from a step of the fit on.

    Before that step it computes in float32, and ranges follow the activations already:
    in one fit `PruningCallback` prunes the model first, and rounding begins once it has
    come to its target. Without this callback such a model rounds from the first step
    on.

    An interrupted fit is resumed with a fresh callback of the same arguments, the same
    `epochs` and `initial_epoch`: the model knows whether it rounds.

    Args:
        begin_step: After which step it rounds: `optimizer.iterations`, or
            `kprune.Epochs` or `kprune.FitFraction` of the fit. By default after half,
            where `PruningCallback` comes to its target.
        freeze_step: After which step ranges of activations, and statistics of batch
            normalisation, stay as they are, so that training sees just what the file
            will compute; in the same terms, not before `begin_step`. By default never.
        optimizer: The one whose steps count, in a model with several. By default the
            model's own.

    Raises:
        ValueError: If an argument is out of its range; when the fit begins, if the
            model does not come from `kprune.quantize_aware`, or the moments cannot be
            placed in it.
        TypeError: If an argument is of the wrong type.
    """

    def __init__(
        self,
        begin_step: Moment = _HALF,
        freeze_step: Moment | None = None,
        *,
        optimizer: keras.optimizers.Optimizer | None = None,
    ) -> None:
        super().__init__()
        check_moment("begin_step", begin_step, _OWNER)
        self._wanted = {"begin_step": begin_step}
        if freeze_step is not None:
            check_moment("freeze_step", freeze_step, _OWNER)
            self._wanted["freeze_step"] = freeze_step
        check_given(_OWNER, optimizer)
        self._given_optimizer = optimizer
        self._moments: Moments | None = None

    def set_model(self, model: Any) -> None:
        """Takes the model that is to be trained.

        Raises:
            TypeError: If it is none of Keras 3.
        """
        check_trained("QuantizationCallback", model)
        super().set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Forgets an earlier fit, and finds what rounds."""
        self._moments = None
        self._layers = switches(self.model)
        if not self._layers:
            raise ValueError(
                f"{_OWNER}: nothing in {self.model.name!r} rounds. Train what "
                "kprune.quantize_aware(model) returns."
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Before the first step: finds when it is to begin."""
        if self._moments is not None:
            return
        self._notices = Notices()
        steps = StepCounter(_OWNER, self.model, self._given_optimizer)
        self._moments = Moments(_OWNER, self._wanted, steps, epoch, self.params)
        self._check()
        self._sharing = [
            (variable, sharing)
            for variable in self.model.trainable_variables
            if (sharing := sharing_of(values(variable))) is not None
        ]
        self._settled = False
        self._switch("active", self._moments.is_due("begin_step"))
        self._switch("frozen", self._moments.is_due("freeze_step"))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Switches once the time has come."""
        self._check_sharing()
        self._update()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Learns the length of an epoch."""
        if self._moments is not None and self._moments.learn():
            self._check()
            self._update()

    def on_train_end(self, logs: Any = None) -> None:
        """Repeats what was said."""
        if self._moments is not None:
            self._notices.sum_up([])

    def _check(self) -> None:
        """Warns of what the fit does not reach; refuses the wrong order."""
        at, last = self._moments.at, self._moments.last  # type: ignore[union-attr]
        begin, freeze = at.get("begin_step"), at.get("freeze_step")
        if begin is not None and freeze is not None and freeze < begin:
            raise ValueError(
                f"{_OWNER}: ranges would be frozen after step {freeze}, before "
                f"rounding begins after step {begin}. Give a later freeze_step, such "
                "as kprune.FitFraction(0.9)."
            )
        for name, step in at.items():
            if last is not None and step > last:
                what = "nothing is rounded" if name == "begin_step" else "nothing rests"
                self._notices.warn(
                    f"This fit ends at step {last}, and {name} is step {step}: {what} "
                    f"in it. Train longer, or give an earlier {name}."
                )

    def _check_sharing(self) -> None:
        """After the first step: warns if what was clustered is not any more.

        By then a `ClusteringCallback` has what it holds, wherever it stands.
        """
        lost = [item for item in self._sharing if clusters_of(item[0]) is None]
        self._sharing = []
        if lost:
            said = ", ".join(f"{v.path} ({c.num_clusters})" for v, c in lost)
            settings = [f"num_clusters={max(c.num_clusters for _, c in lost)}"]
            if any(clustering.per_channel for _, clustering in lost):
                settings.append("per_channel=True")
            self._notices.warn(
                "Elements of these weights shared a few values, and training moves "
                f"them apart: {said}. To keep them, add kprune.ClusteringCallback("
                f"{', '.join(settings)}, begin_step=0) to the callbacks."
            )

    def _update(self) -> None:
        if self._settled or self._moments is None:
            return
        due = {name: self._moments.is_due(name) for name in self._wanted}
        if due["begin_step"]:
            self._switch("active", True)
        if due.get("freeze_step"):
            self._switch("frozen", True)
        self._settled = all(due.values())

    def _switch(self, name: str, value: bool) -> None:
        changed = [layer for layer in self._layers if getattr(layer, name) != value]
        for layer in changed:
            setattr(layer, name, value)
        if changed:
            retrace(self.model)
