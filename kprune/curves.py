"""A fit as a picture: metrics and sparsity over the steps.

This module changes when a fit is to be drawn in another way.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kprune.charts import COLOURS, FAINT, write_chart
from kprune.naming import nearest
from kprune.report import PruningReport

_SIZE = (8.0, 5.2)  # Inches.
_SPARSITY = "#3B4252"
# What logs have beside metrics.
_OTHER = ("sparsity", "learning_rate", "lr")


def plot_fit(
    report: PruningReport,
    path: str | os.PathLike[str],
    metrics: str | Sequence[str] | None = None,
) -> Path:
    """Draws how sparsity rose in a fit, and what became of the metrics meanwhile.

    Both lie over the optimizer's steps: metrics where their epoch ended, sparsity from
    one update of the masks to the next. A guard's dense level is drawn with its
    tolerance, and where it went back.

    Args:
        report: The report of a fit, `callback.report`, or of a `Pruner` that was told
            of epochs.
        path: The file to write, `.png` or `.svg`. It is written as a whole or not at
            all.
        metrics: Names of metrics in the logs, at most six. By default the guard's, or
            else all but losses, or else these.

    Returns:
        The path.

    Raises:
        ValueError: If the report has no fit, a metric is unknown, or the path has
            another suffix or cannot be written.
        ImportError: If matplotlib is not installed.
    """
    if not report.history and not report.epochs:
        raise ValueError(
            "plot_fit: the report has no fit to draw. Use that of a PruningCallback or "
            "Pruner after training."
        )
    names = _chosen(report, metrics)

    def draw(figure: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        _draw_metrics(above, report, names)
        _draw_sparsity(below, report)
        figure.align_ylabels()
        below.set_xlabel("optimizer step")
        below.xaxis.set_major_locator(MaxNLocator(integer=True))

    return write_chart("plot_fit", path, _SIZE, _title(report), draw)


def _chosen(
    report: PruningReport, metrics: str | Sequence[str] | None
) -> tuple[str, ...]:
    """Returns the names of the metrics to draw."""
    logged = dict.fromkeys(name for epoch in report.epochs for name in epoch.logs)
    known = tuple(name for name in logged if name not in _OTHER)
    if metrics is None:
        losses = tuple(name for name in known if name.endswith("loss"))
        scores = tuple(name for name in known if name not in losses)
        guarded = report.guard.monitor if report.guard else None
        if guarded in known:
            other = guarded.removeprefix("val_")
            scores = tuple(name for name in known if name in (other, guarded))
        return (scores or losses)[: len(COLOURS)]
    names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    for name in names:
        if name not in known:
            near = nearest(name, known)
            raise ValueError(
                f"plot_fit: `metrics` names {name!r}, which is in no epoch's logs. "
                + (f"Did you mean {near!r}? " if near else "")
                + f"They have {', '.join(known) or 'none'}."
            )
    if len(names) > len(COLOURS):
        raise ValueError(
            f"plot_fit: `metrics` may name {len(COLOURS)} at most. "
            f"Received {len(names)}."
        )
    return names


def _title(report: PruningReport) -> str:
    reached = report.history[-1][1] if report.history else report.sparsity
    if report.asked is None:
        return f"Sparsity {reached:.4g}"
    return f"Sparsity {reached:.4g} of {report.asked:.4g} asked for"


def _draw_metrics(axes: Any, report: PruningReport, names: Sequence[str]) -> None:
    guard = report.guard
    if guard is not None and guard.dense_level is not None and guard.monitor in names:
        axes.axhspan(
            guard.dense_level - guard.tolerance,
            guard.dense_level + guard.tolerance,
            color=FAINT,
            alpha=0.15,
            linewidth=0,
            label=f"dense, with tolerance {guard.tolerance:g}",
        )
        axes.axhline(guard.dense_level, color=FAINT, linewidth=1, linestyle="--")
    for name, colour in zip(names, COLOURS, strict=False):
        points = [(e.step, e.logs[name]) for e in report.epochs if name in e.logs]
        steps, values = zip(*points, strict=True)
        axes.plot(
            steps,
            values,
            color=colour,
            linewidth=1.6,
            marker="o" if len(points) <= 60 else None,
            markersize=3.5,
            label=name,
        )
    axes.set_ylabel(names[0] if len(names) == 1 else "metrics, after epochs")
    if names:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=4,
            frameon=False,
            borderaxespad=0.2,
            handlelength=1.6,
        )


def _draw_sparsity(axes: Any, report: PruningReport) -> None:
    steps, shares = _line(report)
    axes.plot(steps, shares, drawstyle="steps-post", color=_SPARSITY, linewidth=1.6)
    axes.fill_between(
        steps, shares, step="post", color=_SPARSITY, alpha=0.12, linewidth=0
    )
    if report.asked is not None:
        axes.axhline(report.asked, color=FAINT, linewidth=1, linestyle=":")
        axes.annotate(
            "asked for",
            (0, report.asked),
            xytext=(3, 3),
            textcoords="offset points",
            xycoords=("axes fraction", "data"),
            color=FAINT,
            va="bottom",
        )
    guard = report.guard
    if guard is not None and guard.rolled_back_to is not None:
        pairs = zip(report.history, report.history[1:], strict=False)
        for step in [step for (_, high), (step, low) in pairs if low < high]:
            axes.axvline(step, color=COLOURS[1], linewidth=1.2, linestyle="--")
            axes.annotate(
                f"back to step {guard.rolled_back_to}",
                (step, 0.0),
                xytext=(-4, 4),
                textcoords="offset points",
                color=COLOURS[1],
                ha="right",
                va="bottom",
            )
    axes.set(ylim=(0, 1.08), ylabel="sparsity")


def _line(report: PruningReport) -> tuple[list[int], list[float]]:
    """Returns the steps from which on masks held these shares; the last one twice."""
    steps = [step for step, _ in report.history]
    shares = [share for _, share in report.history]
    ends = [epoch.step for epoch in report.epochs]
    begin = max(0, 2 * ends[0] - ends[1]) if len(ends) > 1 else 0
    if not steps:  # Masks that are only held.
        steps, shares = [begin], [report.sparsity]
    elif steps[0] > begin:
        steps, shares = [begin, *steps], [0.0, *shares]
    end = max([*steps, *ends, report.step or 0])
    return [*steps, end], [*shares, shares[-1]]
