"""Which weights of a model share values, and a copy of it in which they do.

This module changes when weights to cluster are chosen in another way.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kprune.clustering import Clustering
from kprune.foreign import received
from kprune.layers import values
from kprune.notices import Notices
from kprune.plan import Plan, Rule, Site, resolve
from kprune.prunable import candidates
from kprune.rebuild import Changes
from kprune.report import ClusteringReport, SkippedWeight
from kprune.shared import record, why_not
from kprune.transform import plain_copy


def cluster(
    model: keras.Model,
    num_clusters: int = 16,
    *,
    per_channel: bool = False,
    init: str = "linear",
    only: Any = None,
    skip: Any = None,
) -> keras.Model:
    """Returns a model in which the elements of each weight share a few values.

    A file of it becomes smaller where it is compressed: zipped as a download, or with
    `kprune.export(..., encode=True)` by look-up tables that TensorFlow Lite Micro
    decodes. Zero is one of the values, and zeros stay zeros. Accuracy goes down;
    `kprune.ClusteringCallback` trains with shared values and keeps more of it.

    Biases, normalisations and depthwise kernels are left alone, the latter unless
    `only` chooses them.

    Args:
        model: A built model of any kind. It is not changed.
        num_clusters: How many values a weight has at most, zero counted in, at least 2.
            A zero is held free for weights that have none. Powers of two make full use
            of an index: 16 values take 4 bits.
        per_channel: Whether each output channel has values of its own; by default a
            weight has them together.
        init: Where clusters begin: `"linear"` or `"density"`, see
            `kprune.clustering.Clustering`.
        only: What to cluster, if not everything that may be, as for `kprune.Rule`.
        skip: What not to cluster, in the same terms. Goes before `only`.

    Returns:
        A new model without wrappers and masks, compiled as the given one is. Its
        attribute `clustering_report` is a `ClusteringReport`.

    Raises:
        ValueError: If no weight has more values than `num_clusters` already, an
            argument is out of its range, a name is unknown, or the model is not built
            or cannot be copied.
        TypeError: If an argument is of the wrong type.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"cluster: expected a Keras 3 model. {received(model)}")
    settings = settings_of("cluster", num_clusters, per_channel, init)
    found = find("cluster", model, settings, only, skip)
    shared, records, skipped = {}, [], list(found.skipped)
    for site in found.sites:
        array = np.array(values(site.variable))
        reason = why_not(array)
        if reason is None and settings.is_clustered(array, site.axes):
            number = settings.num_values(array, site.axes)
            reason = f"has {number} values already"
        if reason is not None:
            skipped.append(SkippedWeight(site.path, array.shape, reason))
            continue
        shared[id(site.variable)] = settings.assign(array, site.axes)[1]
        new = shared[id(site.variable)]
        records.append(record(site.variable, new, site.axes, settings))
    if not records:
        raise ValueError(nothing("cluster", model, skipped))
    copy = plain_copy(model, _Shared(shared))
    copy.clustering_report = ClusteringReport(
        None, None, tuple(records), tuple(skipped)
    )
    return copy


class _Shared(Changes):
    """The values of some variables, by their id."""

    def __init__(self, shared: Mapping[int, np.ndarray]) -> None:
        self.shared = shared

    def value(self, variable: keras.Variable) -> Any:
        """Returns the shared values of a variable's copy."""
        return self.shared.get(id(variable), variable)


def settings_of(
    owner: str, num_clusters: Any, per_channel: Any, init: Any
) -> Clustering:
    """Returns the settings that arguments describe.

    Raises:
        ValueError: If a value is out of its range.
        TypeError: If a value is of another type.
    """
    try:
        return Clustering(num_clusters, per_channel, init)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{owner}: {error}") from None


@dataclasses.dataclass(frozen=True)
class Found:
    """The weights of a model that may share values, and those that may not."""

    sites: tuple[Site, ...]
    skipped: tuple[SkippedWeight, ...]


def find(
    owner: str, model: keras.Model, settings: Clustering, only: Any, skip: Any
) -> Found:
    """Finds the weights to cluster; nothing is changed.

    Args:
        owner: Who is speaking in error messages.
        model: A built model.
        settings: How many values they may have.
        only: As for `kprune.Rule`.
        skip: As for `kprune.Rule`.

    Raises:
        ValueError: If there are none, or a name is unknown.
    """
    # What may be sparse may share values, frozen or not: that costs no training.
    nothing_yet: Any = 0.0
    rule = Rule(
        nothing_yet, only=only, skip=skip, prune_depthwise=True, prune_frozen=True
    )
    resolution = resolve(Plan((rule,)), model)
    for idle in resolution.idle:
        Notices().warn(idle)
    depthwise = {id(c.variable) for c in candidates(model) if c.is_depthwise}
    sites, skipped = [], list(resolution.skipped)
    for site in resolution.sites:
        shape = tuple(site.variable.shape)
        reason = settings.why_not(shape, site.axes)
        if only is None and id(site.variable) in depthwise:
            reason = "depthwise kernel: small, and sensitive; only= chooses it"
        if reason is None:
            sites.append(site)
        else:
            skipped.append(SkippedWeight(site.path, shape, reason))
    if not sites:
        raise ValueError(nothing(owner, model, skipped))
    return Found(tuple(sites), tuple(skipped))


def nothing(owner: str, model: keras.Model, skipped: Sequence[SkippedWeight]) -> str:
    """Says that there is nothing to cluster, and why."""
    lines = [f"  {s.path} {s.shape}: {s.reason}" for s in skipped[:20]]
    if len(skipped) > 20:
        lines.append(f"  ... and {len(skipped) - 20} more")
    return (
        f"{owner}: no weight of {model.name!r} can be clustered. Its weights, and why "
        "not:\n" + "\n".join(lines)
    )
