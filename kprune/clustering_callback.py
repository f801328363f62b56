"""A callback: weights come to share values while `fit` trains.

This module changes when clustering in `fit` begins, or looks after its weights, in
another way.
"""

from typing import Any

import keras

from kprune.foreign import check_trained
from kprune.layers import scope_of
from kprune.moments import Moments
from kprune.notices import Notices
from kprune.report import ClusteringReport
from kprune.schedules import FitFraction, Moment, check_moment
from kprune.shared import SharedWeight
from kprune.sharing import find, settings_of
from kprune.steps import StepCounter, check_backend, check_given
from kprune.transform import forget_traces

_LAST_QUARTER = FitFraction(0.75)


class ClusteringCallback(keras.callbacks.Callback):
    """Lets the elements of each weight share a few values, while `fit` trains a model.

    After the step `begin_step` the values of each weight are found by k-means, and each
    element takes the nearest one. From then on elements of a cluster keep one value,
    which is trained: after every optimizer step, inside the compiled training step,
    they are set to their mean. Which element is in which cluster does not change any
    more. Zero is one of the values, and what is zero then stays zero. A checkpoint
    written at any later time is an ordinary file whose weights have that few values.

    With pruning in the same fit give `PruningCallback` first, and let clustering begin
    once pruning is over, as both do by default: what is zero then is one of the values,
    and masks hold it.

    A model whose weights have that few values already is recognised by them: they are
    held from the fit's first step on, whatever `begin_step` says. That is how a
    clustered model is trained further after loading, and how an interrupted fit is
    resumed: load the saved model and call `fit` with a fresh callback of the same
    arguments, the same `epochs` and `initial_epoch`. Two clusters that have come to the
    very same value are one from there on. Clusters stay on the model after the fit,
    like masks, until `kprune.release` takes them off or `kprune.strip` returns a model
    without.

    Source: Han, Mao and Dally, "Deep compression", 2016,
    https://arxiv.org/abs/1510.00149, section 3; `kprune.clustering.Clustering` and
    `kprune.shared.ClusterConstraint` have the deviations.

    Args:
        num_clusters: As for `kprune.cluster`.
        begin_step: After which step values are shared: `optimizer.iterations`, or
            `kprune.Epochs` or `kprune.FitFraction` of the fit. By default after three
            quarters, a quarter after `PruningCallback` has come to its target.
        per_channel: As for `kprune.cluster`.
        init: As for `kprune.cluster`.
        only: As for `kprune.cluster`.
        skip: As for `kprune.cluster`.
        optimizer: The one whose steps count, in a model with several. By default the
            model's own.

    Attributes:
        report: `ClusteringReport`: how many values and zeros each weight has, and which
            weights are not clustered, and why. Available as soon as the first epoch
            begins; after the fit it stays as it was at its end.

    Raises:
        ValueError: If an argument is out of its range; when the fit begins, if no
            weight can be clustered, or the begin cannot be placed in it.
        TypeError: If an argument is of the wrong type.
    """

    def __init__(
        self,
        num_clusters: int = 16,
        begin_step: Moment = _LAST_QUARTER,
        *,
        per_channel: bool = False,
        init: str = "linear",
        only: Any = None,
        skip: Any = None,
        optimizer: keras.optimizers.Optimizer | None = None,
    ) -> None:
        super().__init__()
        self._settings = settings_of(
            "ClusteringCallback", num_clusters, per_channel, init
        )
        check_moment("begin_step", begin_step, "ClusteringCallback")
        check_given("ClusteringCallback", optimizer)
        self._begin_step, self._given_optimizer = begin_step, optimizer
        self._only, self._skip = only, skip
        self._weights: list[SharedWeight] | None = None
        self._final_report: ClusteringReport | None = None

    @property
    def report(self) -> ClusteringReport:
        """The state of the weights now, or at the end of the fit if it is over.

        Raises:
            RuntimeError: Before the first epoch of a fit.
        """
        if self._weights is None:
            raise RuntimeError("ClusteringCallback.report: no fit has begun yet.")
        return self._final_report or ClusteringReport(
            self._steps.now,
            self._since,
            tuple(weight.record() for weight in self._weights),
            self._skipped,
            self._notices.counts,
        )

    def set_model(self, model: Any) -> None:
        """Takes the model that is to be trained.

        Raises:
            TypeError: If it is none of Keras 3.
        """
        check_trained("ClusteringCallback", model)
        super().set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Forgets an earlier fit; the work begins with the first epoch."""
        self._weights = self._final_report = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Before the first step: finds the weights."""
        if self._weights is None:
            self._initial_epoch = epoch
            self._steps = StepCounter(
                "ClusteringCallback", self.model, self._given_optimizer
            )
            if self.model.built and self.model.weights:
                self._begin()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Lets values be shared once their time has come."""
        if self._weights is None:
            # Keras builds a model that knows no input shape in its first step.
            self._begin()
        self._update()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Learns the length of an epoch, and clusters again what was set back."""
        if self._weights is None:
            return
        if self._moments.learn():
            self._check_reached()
        self._update()
        for said in self._share_again():
            self._notices.warn(said)

    def on_train_end(self, logs: Any = None) -> None:
        """Clusters again what was written at the end of training."""
        if self._weights is None:
            return
        self._notices.sum_up([*self._share_again(), *self._newly_pruned()])
        self._final_report = self.report

    def _begin(self) -> None:
        check_backend("ClusteringCallback")
        self._notices = Notices()
        self._since: int | None = None
        found = find(
            "ClusteringCallback", self.model, self._settings, self._only, self._skip
        )
        wanted = {"begin_step": self._begin_step}
        self._moments = Moments(
            "ClusteringCallback", wanted, self._steps, self._initial_epoch, self.params
        )
        self._check_reached()
        weights = [SharedWeight(site, self._settings) for site in found.sites]
        # Up to here nothing was changed.
        averages = self._steps.averages()
        with scope_of(self.model):
            for weight in weights:
                weight.attach(averages.get(id(weight.variable)))
        self._weights, self._skipped = weights, found.skipped
        # A function that was traced before would go on without these constraints.
        forget_traces(self.model)
        self.model.make_train_function()
        self._share([weight for weight in weights if weight.is_clustered])
        self._update()

    def _check_reached(self) -> None:
        """Warns if the fit ends before values are shared."""
        last, begin = self._moments.last, self._moments.at.get("begin_step", 0)
        if last is not None and begin > last:
            self._notices.warn(
                f"This fit ends at step {last}, and clustering begins after step "
                f"{begin}: values will not be shared. Train longer, or give "
                "an earlier begin_step, such as kprune.FitFraction(0.75)."
            )

    def _update(self) -> None:
        """Lets values be shared if it is time, and they are not yet."""
        waiting = [w for w in self._weights or [] if not w.active]
        known = "begin_step" in self._moments.at
        if self._since is None and known:
            if self._moments.is_due("begin_step") or not waiting:
                self._since = self._steps.now
                self._share(waiting)

    def _share(self, weights: list[SharedWeight]) -> None:
        for weight in weights:
            if reason := weight.why_not_now():
                self._notices.warn(
                    f"{weight.variable.path} is not clustered at step "
                    f"{self._steps.now}: {reason}."
                )
            else:
                weight.share()

    def _share_again(self) -> list[str]:
        """Clusters weights that something else has written to; says which."""
        written = [
            weight
            for weight in self._weights or []
            if weight.active
            and not weight.is_clustered
            and weight.why_not_now() is None
        ]
        if not written:
            return []
        self._share(written)
        return [
            "Weights had more values than they may have after they were clustered: "
            f"{', '.join(w.variable.path for w in written)}. Another callback may have "
            "restored an earlier epoch, such as EarlyStopping("
            "restore_best_weights=True). They were clustered again, without "
            "fine-tuning."
        ]

    def _newly_pruned(self) -> list[str]:
        """Says whether weights were pruned after they were clustered."""
        number = sum(weight.num_pruned_since() for weight in self._weights or [])
        if not number:
            return []
        return [
            f"{number} weights were pruned after values were shared at step "
            f"{self._since}: of a cluster all have the same magnitude, and those of "
            "lowest index went first. Let clustering begin after the end of pruning."
        ]
