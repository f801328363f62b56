"""What pruning asked for, and what models and fits hold.

This module changes when pruning reports something new or shows it differently.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from kprune.report.text import as_json, floats, table


class Zeros:
    """What a record of something with `shape` and `zeros` has beside these."""

    shape: tuple[int, ...]
    zeros: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def sparsity(self) -> float:
        """Share of elements that are exactly zero, in [0, 1]."""
        return self.zeros / self.size if self.size else 0.0


@dataclasses.dataclass(frozen=True)
class WeightRecord(Zeros):
    """One pruned weight.

    Args:
        path: The variable's path in its model, e.g. `"conv2d/kernel"`.
        shape: The variable's shape.
        zeros: Number of elements that are exactly zero.
        asked: Share of elements, in [0, 1), that the mask holds at zero; `None` where
            nothing was asked for.
        counted_in: Where `zeros` were counted: `"Keras variable"`, or `"file"` for the
            tensor of an exported file.
    """

    path: str
    shape: tuple[int, ...]
    zeros: int
    asked: float | None = None
    counted_in: str = "Keras variable"


@dataclasses.dataclass(frozen=True)
class ChannelRecord:
    """One group of coupled channels.

    Args:
        name: The layer that makes them first, and what they are called there.
        size: Number of channels, or of what else goes as one, such as heads.
        pruned: Number of those that are held at zero.
        layers: The layers whose weights they are slices of.
    """

    name: str
    size: int
    pruned: int
    layers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SkippedWeight:
    """One weight that stays dense, and why.

    Args:
        path: The variable's path in its model.
        shape: The variable's shape.
        reason: Why it is not pruned, and what to do where that can be changed.
    """

    path: str
    shape: tuple[int, ...]
    reason: str


@dataclasses.dataclass(frozen=True)
class GuardRecord:
    """What a guard on a metric has seen and done.

    Args:
        monitor: The metric.
        tolerance: How much worse than the dense level was accepted, in its unit.
        dense_level: The dense model's value; `None` if none was seen.
        value: The last value; `None` if none was seen.
        within: Whether that is within the tolerance; `None` if that is not known.
        epochs_below: After how many epochs it was not, so that pruning waited.
        rolled_back_to: The step whose weights and masks were set back; `None` if none
            were.
        nothing_to_go_back_to: Whether it would have gone back, and no epoch before was
            within the tolerance.
        sparsity: Share of what may be pruned, in [0, 1), that masks hold.
    """

    monitor: str
    tolerance: float
    dense_level: float | None
    value: float | None
    within: bool | None
    epochs_below: int
    rolled_back_to: int | None
    nothing_to_go_back_to: bool
    sparsity: float

    def __str__(self) -> str:
        if self.value is None or self.dense_level is None:
            return f"The guard saw no {self.monitor}, and did nothing."
        done = "pruning was never held"
        if self.epochs_below:
            epochs = "epoch" if self.epochs_below == 1 else "epochs"
            done = (
                f"it was not after {self.epochs_below} {epochs}, and pruning was held"
            )
        if self.rolled_back_to is not None:
            done += f"; weights and masks of step {self.rolled_back_to} were set back"
        elif self.nothing_to_go_back_to:
            done += "; there was no epoch to go back to"
        return (
            f"The guard settled at sparsity {self.sparsity:.4f}, with {self.monitor} "
            f"{self.value:.4f} {'within' if self.within else 'NOT within'} "
            f"{self.tolerance:g} of the dense model's {self.dense_level:.4f}: {done}."
        )


@dataclasses.dataclass(frozen=True)
class EpochRecord:
    """What the logs had after one epoch.

    Args:
        epoch: Its number, counted from zero.
        step: `optimizer.iterations` at its end.
        logs: The metrics by name, and `sparsity`, as Keras's history has them.
    """

    epoch: int
    step: int
    logs: dict[str, float]


@dataclasses.dataclass(frozen=True)
class PruningReport:
    """What pruning asked for and what the variables hold.

    Args:
        step: `optimizer.iterations` at the time of the report; `None` outside training.
        asked: Sparsity asked for at the schedule's end, over all that is pruned
            together, in [0, 1); `None` when masks are only held. Of channels it is the
            share of channels, of which the share of zero weights follows.
        weights: The pruned weights.
        skipped: The weights, and the groups of coupled channels, that stay dense, each
            with its reason.
        channels: The groups of coupled channels, where whole channels are pruned.
        history: Pairs of a step and the share of what may be pruned that masks hold
            from then on, one per update of the masks.
        epochs: The logs of each epoch of the fit.
        guard: What a guard has seen and done; `None` without one.
        notices: What the user was warned of, and how often that was due.
    """

    step: int | None
    asked: float | None
    weights: tuple[WeightRecord, ...]
    skipped: tuple[SkippedWeight, ...] = ()
    channels: tuple[ChannelRecord, ...] = ()
    history: tuple[tuple[int, float], ...] = ()
    epochs: tuple[EpochRecord, ...] = ()
    guard: GuardRecord | None = None
    notices: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def channel_sparsity(self) -> float | None:
        """Share of the channels that are held at zero; `None` if none are pruned."""
        size = sum(group.size for group in self.channels)
        return sum(group.pruned for group in self.channels) / size if size else None

    @property
    def sparsity(self) -> float:
        """Share of exact zeros over all pruned weights together, in [0, 1]."""
        return share_of_zeros(self.weights)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain Python values."""
        values = dataclasses.asdict(self)
        values["sparsity"] = self.sparsity
        values["channel_sparsity"] = self.channel_sparsity
        for row, weight in zip(values["weights"], self.weights, strict=True):
            row["sparsity"] = weight.sparsity
        return values

    def to_json(self) -> str:
        """Returns the report as JSON text."""
        # A loss that diverged is no JSON.
        return as_json(self.to_dict())

    def __str__(self) -> str:
        rows = [
            (
                weight.path,
                "x".join(map(str, weight.shape)),
                "-" if weight.asked is None else f"{weight.asked:.4f}",
                f"{weight.sparsity:.4f}",
            )
            for weight in self.weights
        ]
        asked = "held" if self.asked is None else f"{self.asked:.4f}"
        lines = []
        if self.channels:
            size = sum(group.size for group in self.channels)
            achieved = f"{self.channel_sparsity:.4f}"
            lines = [
                *table(
                    ("coupled channels", "number", "pruned"),
                    [
                        *(
                            (group.name, str(group.size), str(group.pruned))
                            for group in self.channels
                        ),
                        (f"all: {asked} asked", str(size), achieved),
                    ],
                ),
                "",
            ]
            asked = "-"  # Of single weights nothing was asked.
        rows.append(("all pruned weights", "", asked, f"{self.sparsity:.4f}"))
        lines += table(("pruned weight", "shape", "asked", "achieved"), rows)
        if self.skipped:
            lines += [
                "",
                *table(
                    ("left dense", "shape", "reason"),
                    [
                        (skip.path, "x".join(map(str, skip.shape)), skip.reason)
                        for skip in self.skipped
                    ],
                ),
            ]
        if self.history:
            (first, _), (last, _) = self.history[0], self.history[-1]
            lines += [
                "",
                f"masks were made {len(self.history)} times, from step {first} to "
                f"{last}; now at step {self.step}",
            ]
        if self.guard is not None:
            lines.append(str(self.guard))
        lines += [
            f"warned{f' {count} times' if count > 1 else ''}: {message}"
            for message, count in self.notices.items()
            if message != str(self.guard)
        ]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Something that cannot be removed, and why.

    Args:
        name: What it is.
        size: Number of its channels; 0 for what has none.
        reason: Why it stays, and what to do where that can be changed.
    """

    name: str
    size: int
    reason: str


@dataclasses.dataclass(frozen=True)
class FitRecord:
    """One fit of several that a model went through.

    Args:
        name: What the fit was for.
        steps: How many the optimizer took.
        epochs: The logs of each epoch.
        sparsity: Pairs of a step and the share of zeros, in [0, 1], from then on: while
            masks are made, of what they are made for, and else of all kernels.
        refusals: What was to be pruned, removed or quantised and was not, and why.
        notices: What the user was warned of.
    """

    name: str
    steps: int
    epochs: tuple[EpochRecord, ...]
    sparsity: tuple[tuple[int, float], ...]
    refusals: tuple[Refusal, ...] = ()
    notices: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "FitRecord":
        """Returns the record that `dataclasses.asdict` described."""
        given = {
            "epochs": tuple(
                EpochRecord(item["epoch"], item["step"], floats(item["logs"]))
                for item in values["epochs"]
            ),
            "sparsity": tuple((step, share) for step, share in values["sparsity"]),
            "refusals": tuple(Refusal(**item) for item in values["refusals"]),
            "notices": tuple(values["notices"]),
        }
        return cls(**{**values, **given})

    def logs_with(self, history: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Returns the logs of all epochs by name, those of later ones added."""
        names = {name for epoch in self.epochs for name in epoch.logs} | set(history)
        return {
            name: [
                *(epoch.logs.get(name, math.nan) for epoch in self.epochs),
                *history.get(name, ()),
            ]
            for name in sorted(names)
        }

    def after(self, before: "FitRecord") -> "FitRecord":
        """Returns the record with what a fit that was stopped told before this one."""
        shares = {**dict(before.sparsity), **dict(self.sparsity)}
        return dataclasses.replace(
            self,
            sparsity=tuple(sorted(shares.items())),
            refusals=tuple(dict.fromkeys((*before.refusals, *self.refusals))),
            notices=tuple(dict.fromkeys((*before.notices, *self.notices))),
        )


def share_of_zeros(weights: Sequence[Zeros]) -> float:
    """Returns the share of exact zeros over all these weights together, in [0, 1]."""
    size = sum(weight.size for weight in weights)
    return sum(weight.zeros for weight in weights) / size if size else 0.0
