"""What clustering asked for, and what weights hold.

This module changes when clustering reports something new or shows it differently.
"""

import dataclasses
from typing import Any

from kprune.report.pruning import SkippedWeight, Zeros, share_of_zeros
from kprune.report.text import as_json, table


@dataclasses.dataclass(frozen=True)
class ClusterRecord(Zeros):
    """One weight whose elements share values.

    Args:
        path: The variable's path in its model.
        shape: The variable's shape.
        values: How many values it has, zero counted in; with values per channel, the
            channel that has most.
        zeros: Number of elements that are exactly zero.
        asked: How many values it may have.
        per_channel: Whether each output channel has values of its own.
    """

    path: str
    shape: tuple[int, ...]
    values: int
    zeros: int
    asked: int
    per_channel: bool

    @property
    def index_bits(self) -> int:
        """Bits that say which of its values an element has."""
        return max(1, (self.values - 1).bit_length())


@dataclasses.dataclass(frozen=True)
class ClusteringReport:
    """How many values weights have, and how many zeros.

    Args:
        step: `optimizer.iterations` at the time of the report; `None` outside training.
        since: The step from which on values are shared; `None` if they are not yet, or
            outside training.
        weights: The weights that share values, or will.
        skipped: The weights that do not, each with its reason.
        notices: What the user was warned of, and how often that was due.
    """

    step: int | None
    since: int | None
    weights: tuple[ClusterRecord, ...]
    skipped: tuple[SkippedWeight, ...] = ()
    notices: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def clustered(self) -> bool:
        """Whether no weight has more values than it may have."""
        return all(weight.values <= weight.asked for weight in self.weights)

    @property
    def sparsity(self) -> float:
        """Share of exact zeros over all these weights together, in [0, 1]."""
        return share_of_zeros(self.weights)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain Python values."""
        values = dataclasses.asdict(self)
        values["clustered"], values["sparsity"] = self.clustered, self.sparsity
        for row, weight in zip(values["weights"], self.weights, strict=True):
            row["sparsity"], row["index_bits"] = weight.sparsity, weight.index_bits
        return values

    def to_json(self) -> str:
        """Returns the report as JSON text."""
        return as_json(self.to_dict())

    def __str__(self) -> str:
        rows = [
            (
                weight.path,
                "x".join(map(str, weight.shape)),
                f"{weight.values}{' per channel' if weight.per_channel else ''}",
                f"{weight.index_bits}",
                f"{weight.sparsity:.4f}",
            )
            for weight in self.weights
        ]
        rows.append(("all of these", "", "", "", f"{self.sparsity:.4f}"))
        header = ("clustered weight", "shape", "values", "bits", "zeros")
        lines = table(header, rows)
        if not self.clustered:
            lines.append("Values are not shared yet.")
        if self.skipped:
            skipped = [
                (skip.path, "x".join(map(str, skip.shape)), skip.reason)
                for skip in self.skipped
            ]
            lines += ["", *table(("not clustered", "shape", "reason"), skipped)]
        lines += [
            f"warned{f' {count} times' if count > 1 else ''}: {message}"
            for message, count in self.notices.items()
        ]
        return "\n".join(lines)
