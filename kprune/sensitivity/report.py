"""How much a metric loses where one weight alone is pruned.

This module changes when another fact of such a trial is to be told.
"""

import dataclasses
import glob
import math
import os
from pathlib import Path
from typing import Any

from kprune.charts import COLOURS, FAINT, write_chart
from kprune.report import SkippedWeight
from kprune.report.text import as_json, table

_SIZE = (8.0, 4.4)  # Inches.


@dataclasses.dataclass(frozen=True)
class PrunedAlone:
    """A model in which one weight is pruned.

    Args:
        sparsity: Share of its units that was asked for, in [0, 1).
        reached: Share that was pruned. Not the same where units are large: blocks, or
            a few channels, of which one is always left.
        value: The metric.
        lost: How much worse that is than without pruning; negative if it is better,
            infinite if it is NaN.
    """

    sparsity: float
    reached: float
    value: float
    lost: float


@dataclasses.dataclass(frozen=True)
class WeightSensitivity:
    """What pruning one weight, or one group of coupled channels, costs.

    Args:
        name: The layer's name, the weight's path where that is not the only one of its
            kind, or the channels' name; as `allocation=` takes it.
        units: How many elements it has, or channels.
        points: What was measured, the smallest sparsity first.
    """

    name: str
    units: int
    points: tuple[PrunedAlone, ...]

    @property
    def mean_lost(self) -> float:
        """What it loses in the mean over the sparsities."""
        return sum(point.lost for point in self.points) / len(self.points)

    def within(self, lost: float) -> float:
        """Returns the highest sparsity up to which no more than that is lost.

        One that was measured; 0 if the first one loses more.
        """
        sparsity = 0.0
        for point in self.points:
            if point.lost > lost:
                break
            sparsity = point.sparsity
        return sparsity


@dataclasses.dataclass(frozen=True)
class PruningSensitivityReport:
    """What pruning costs, weight by weight: `print` it.

    Args:
        model: The model's name.
        metric: Name of what was measured.
        mode: `"max"` if higher is better, `"min"` if lower is.
        baseline: The metric of the model as it was given.
        criterion: What weights were ranked by.
        granularity: What was pruned as a unit.
        weights: The weights, first what loses most in the mean over the sparsities.
        skipped: The weights that were not tried, and why.
    """

    model: str
    metric: str
    mode: str
    baseline: float
    criterion: str
    granularity: str
    weights: tuple[WeightSensitivity, ...]
    skipped: tuple[SkippedWeight, ...] = ()

    def allocation(self, lost: float) -> dict[str, float]:
        """Returns for each weight the highest sparsity that costs no more than that.

        It is what `allocation=` of `PruningCallback`, `prune` and `Rule` takes, with
        the same granularity, criterion, `only` and `skip`:

            callback = kprune.PruningCallback(0.8, allocation=report.allocation(0.01))

        Each is a sparsity that was measured with no other weight pruned, and without
        training. Pruned together they lose more, which training has to make up for.

        Args:
            lost: What each alone may lose, in the metric's own unit; at least 0.

        Raises:
            ValueError: If it is negative or no number.
        """
        if not lost >= 0:
            raise ValueError(
                f"`lost` must be at least 0, in the unit of {self.metric!r}. Received "
                f"{lost!r}."
            )
        found: dict[str, float] = {}
        for weight in self.weights:
            # Layers in different models may have one name: what both can spare.
            name, sparsity = glob.escape(weight.name), weight.within(lost)
            found[name] = min(sparsity, found.get(name, sparsity))
        return found

    def worst(self, count: int = 1) -> tuple[str, ...]:
        """Returns the names of what is most sensitive; `skip=` takes those of weights.

        Args:
            count: How many, at least 0.
        """
        if count < 0:
            raise ValueError(f"`count` must be at least 0. Received: {count}.")
        return tuple(weight.name for weight in self.weights[:count])

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain Python values."""
        values = dataclasses.asdict(self)
        for item, weight in zip(values["weights"], self.weights, strict=True):
            item["mean_lost"] = weight.mean_lost
        return values

    def to_json(self, lost: float | None = None) -> str:
        """Returns the report as JSON text.

        Args:
            lost: Adds what `allocation` says of it, as `"allocation"`.

        Raises:
            ValueError: If it is negative.
        """
        values = self.to_dict()
        if lost is not None:
            values["allocation"] = self.allocation(lost)
        return as_json(values)

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draws the metric over the sparsity, a line for each weight.

        The six most sensitive have colours.

        Args:
            path: The file to write, `.png` or `.svg`, whole or not at all.

        Returns:
            The path.

        Raises:
            ValueError: If the path has another suffix or cannot be written.
            ImportError: If matplotlib is not installed.
        """
        title = f"{self.model}: {self.metric}, one weight pruned at a time"
        return write_chart("plot", path, _SIZE, title, self._draw)

    def _draw(self, figure: Any) -> None:
        axes = figure.subplots()
        axes.axhline(
            self.baseline, color=FAINT, linewidth=1, linestyle="--", label="not pruned"
        )
        coloured = self.weights[: len(COLOURS)]
        others = self.weights[len(COLOURS) :]
        for weight, colour in zip(coloured, COLOURS, strict=False):
            _draw_line(axes, weight, color=colour, label=weight.name, zorder=3)
        for weight in others:
            label = f"{len(others)} others" if weight is others[0] else None
            _draw_line(axes, weight, color="#BBBBBB", label=label)
        axes.set(xlabel="sparsity of that weight", ylabel=self.metric)
        figure.legend(loc="outside right upper", frameon=False)

    def __str__(self) -> str:
        sparsities = [point.sparsity for point in self.weights[0].points]
        header = ("weight", "units", *(f"{s:g} zero" for s in sparsities), "lost")
        rows = [
            (
                weight.name,
                f"{weight.units:,}",
                *(f"{point.value:.4f}" for point in weight.points),
                f"{weight.mean_lost:.4f}",
            )
            for weight in self.weights
        ]
        lines = [
            f"{self.model}: {self.metric} {self.baseline:.4f}; with one weight pruned "
            f"at a time, and not trained ({_class(self.granularity)}, "
            f"{_class(self.criterion)})",
            "",
            *table(header, rows),
            "",
            f"Most sensitive: {', '.join(self.worst(3))}.",
        ]
        if self.skipped:
            lines.append("Not tried:")
        for reason in dict.fromkeys(skip.reason for skip in self.skipped):
            paths = [skip.path for skip in self.skipped if skip.reason == reason]
            shown = ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")
            lines.append(f"  {len(paths)} ({shown}): {reason}")
        return "\n".join(lines)


def _class(setting: str) -> str:
    return setting.partition("(")[0].lower()


def _draw_line(axes: Any, weight: WeightSensitivity, **look: Any) -> None:
    finite = [point for point in weight.points if math.isfinite(point.value)]
    axes.plot(
        [point.sparsity for point in finite],
        [point.value for point in finite],
        linewidth=1.6,
        marker="o",
        markersize=3.5,
        **look,
    )
