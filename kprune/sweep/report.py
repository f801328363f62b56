"""What a sweep found: its trials, and those that no other one beats.

This module changes when another fact of a trial is to be told or drawn.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from kprune.charts import COLOURS, write_chart
from kprune.report.text import as_json, table

COSTS = {
    "bytes": "bytes of the file",
    "gzip_bytes": "bytes of the file, compressed",
    "arena_bytes": "bytes of working memory",
    "macs": "multiplications",
    "nonzero_macs": "multiplications that are not by zero",
    "milliseconds": "CPU milliseconds per run",
}
"""What a file costs by name, and what that is."""

# Of the axes: points that are closer share a label.
_NEAR = 0.07

State = Literal["complete", "failed", "pruned", "again"]


@dataclasses.dataclass(frozen=True)
class SweepTrial:
    """One recipe of a sweep.

    Args:
        number: Its number in the study.
        state: `"complete"`; `"failed"`; `"pruned"` where the space gave it up; or
            `"again"` where its process was killed and another trial takes its place.
        params: What was chosen for it.
        measures: Metrics of the last stage's file on the validation data, and its
            costs, see `COSTS`; `None` for one that does not exist for the target.
        reason: Why it did not complete; empty if it did.
        folder: Where its files are, in the sweep's folder.
    """

    number: int
    state: State
    params: dict[str, Any]
    measures: dict[str, float | None]
    reason: str
    folder: str


@dataclasses.dataclass(frozen=True)
class SweepReport:
    """What became of all trials of a sweep: `print` it.

    Args:
        objectives: What was searched for, `"max"` or `"min"` by name.
        trials: All trials, in their order.
        front: The numbers of the trials that no other one beats in all objectives.
    """

    objectives: dict[str, str]
    trials: tuple[SweepTrial, ...]
    front: tuple[int, ...]

    @property
    def best(self) -> tuple[SweepTrial, ...]:
        """The Pareto front: the best by the first objective comes first."""
        name, mode = next(iter(self.objectives.items()))
        sign = -1 if mode == "max" else 1
        found = [trial for trial in self.trials if trial.number in self.front]
        return tuple(sorted(found, key=lambda t: sign * (t.measures[name] or 0)))

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain Python values."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Returns the report as JSON text."""
        return as_json(self.to_dict())

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draws a metric against each cost that was measured, a point for each trial.

        The metric is the first objective that is one, or else the first that there is.
        Points of the Pareto front have their trials' numbers.

        Args:
            path: The file to write, `.png` or `.svg`, whole or not at all.

        Returns:
            The path.

        Raises:
            ValueError: If no trial is complete, or the path has another suffix or
                cannot be written.
            ImportError: If matplotlib is not installed.
        """
        complete = [trial for trial in self.trials if trial.state == "complete"]
        if not complete:
            raise ValueError("plot: no trial is complete, so that there are no points.")
        names = [*self.objectives, *complete[0].measures]
        metric = next(name for name in names if name not in COSTS)
        costs = [
            name
            for name in COSTS
            if any(trial.measures.get(name) is not None for trial in complete)
        ]
        columns = min(3, len(costs))
        rows = -(-len(costs) // columns)

        def draw(figure: Any) -> None:
            grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
            for place, axes in enumerate(grid.flat):
                if place < len(costs):
                    self._draw(axes, metric, costs[place], complete)
                else:
                    axes.set_visible(False)
            for line in grid:
                line[0].set_ylabel(metric)
            handles, labels = grid[0][0].get_legend_handles_labels()
            figure.legend(
                handles, labels, loc="outside lower left", ncols=2, frameon=False
            )

        size = (3.2 * columns + 0.8, 3.0 * rows + 0.9)
        return write_chart("plot", path, size, f"{len(complete)} recipes", draw)

    def _draw(
        self, axes: Any, metric: str, cost: str, trials: list[SweepTrial]
    ) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        among = ", ".join(self.objectives)
        sets = (
            ([t for t in trials if t.number not in self.front], "#BBBBBB", "beaten"),
            (
                [t for t in trials if t.number in self.front],
                COLOURS[0],
                f"Pareto front of {among}",
            ),
        )
        for chosen, colour, label in sets:
            known = [t for t in chosen if t.measures.get(cost) is not None]
            points = [(t.measures[cost], t.measures[metric]) for t in known]
            axes.scatter(
                [x for x, _ in points],
                [y for _, y in points],
                color=colour,
                label=label,
                s=28,
                zorder=3,
            )
        # The last are those of the front, above and left of which nothing can be.
        for place, numbers in _labels(points, [str(t.number) for t in known]):
            axes.annotate(
                numbers,
                place,
                xytext=(-3, 2),
                textcoords="offset points",
                ha="right",
                va="bottom",
                color=colour,
                fontsize=7,
            )
        axes.margins(x=0.12)
        axes.set_xlabel(COSTS[cost])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.6g}"))

    def __str__(self) -> str:
        complete = [trial for trial in self.trials if trial.state == "complete"]
        others = [trial for trial in self.trials if trial.state != "complete"]
        among = " and ".join(self.objectives)
        lines = [
            f"{len(complete)} recipes; * marks those that none beats in {among}",
            "",
        ]
        if complete:
            names = dict.fromkeys(
                name
                for trial in complete
                for name, value in trial.measures.items()
                if value is not None
            )
            params = dict.fromkeys(name for t in complete for name in t.params)
            name, mode = next(iter(self.objectives.items()))
            sign = -1 if mode == "max" else 1
            rows = [
                (
                    f"{trial.number}{'*' if trial.number in self.front else ''}",
                    *(_shown(trial.params.get(name)) for name in params),
                    *(_shown(trial.measures.get(name)) for name in names),
                )
                for trial in sorted(complete, key=lambda t: sign * t.measures[name])  # type: ignore[operator]
            ]
            lines += table(("trial", *params, *names), rows)
        for trial in others:
            lines.append(f"trial {trial.number}, {trial.state}: {trial.reason}")
        return "\n".join(lines)


def _labels(
    points: Sequence[tuple[Any, Any]], names: Sequence[str]
) -> list[tuple[tuple[Any, Any], str]]:
    """Returns where to write the names of points, those of close ones together."""
    ordered = sorted(zip(points, names, strict=True))
    spans = [max(axis) - min(axis) or 1.0 for axis in zip(*points, strict=True)]
    labels: list[tuple[tuple[Any, Any], str]] = []
    last = None
    for point, name in ordered:
        near = last is not None and all(
            abs(one - other) < _NEAR * span
            for one, other, span in zip(point, last, spans, strict=True)
        )
        if near:
            (x, y), names_there = labels[-1]
            labels[-1] = (x, max(y, point[1])), f"{names_there}, {name}"
        else:
            labels.append((point, name))
        last = point
    return labels


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4f}"
    return f"{int(value):,}" if isinstance(value, float | int) else str(value)
