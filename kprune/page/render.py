"""Pages made of facts: what goes where, in words and numbers.

This module changes when a page is to show something else; how it looks is said in the
templates beside it.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kprune.export.sections import SECTIONS
from kprune.page import charts
from kprune.page.facts import FileFacts, LayerFacts, Overview, WeightFacts
from kprune.report import FitRecord

_HISTOGRAMS = 12  # Of the largest weights: more cannot be looked at.
_HIST_WIDTH, _HIST_HEIGHT = 160, 60


def render(template: str, data: dict[str, Any], **facts: Any) -> str:
    """Returns a page.

    Args:
        template: Name of the template, a file beside this module.
        data: What the page holds as JSON, in its element `kprune`.
        facts: What the template shows; all of it is escaped.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # No name can end the element.
    text = json.dumps(data).replace("<", "\\u003c")
    return environment.get_template(template).render(data=text, **facts)


def overview_page(overview: Overview) -> str:
    """Returns the page of an overview."""
    metric = _metric(overview)
    named: dict[str, list[FileFacts]] = {}
    for file in overview.files:
        named.setdefault(file.target, []).append(file)
    whole = max((file.size.raw for file in overview.files), default=1)
    return render(
        "overview.html",
        overview.to_dict(),
        overview=overview,
        headlines={
            target: _headline(files, metric)
            for target, files in named.items()
            if len(files) > 1
        },
        metric=metric,
        value=_value,
        first={target: files[0] for target, files in named.items()},
        several_targets=len(named) > 1,
        layers=_drawn(overview.layers),
        charts=_charts(overview, metric),
        bars=[(file, _parts(file, whole)) for file in overview.files if file.sections],
        sections=[
            name
            for name in SECTIONS
            if any(name in file.sections for file in overview.files)
        ],
        histograms=_histograms(overview.layers),
        histograms_left_out=max(0, len(overview.layers) - _HISTOGRAMS),
        refusals=_refusals(overview.fits),
        notices=[(fit.name, text) for fit in overview.fits for text in fit.notices],
        machines=overview.machines,
    )


def _metric(overview: Overview) -> str | None:
    """Returns the metric to show: the first that is no loss."""
    names = [name for file in overview.files for name in file.metrics]
    if not names:
        names = [n for fit in overview.fits for e in fit.epochs for n in e.logs]
    known = [n for n in names if n not in ("sparsity", "learning_rate")]
    return next((n for n in known if not n.endswith("loss")), next(iter(known), None))


def _value(metric: str | None, value: float | None) -> str:
    """Returns a metric's value in words; accuracies are shares."""
    if metric is None or value is None:
        return "-"
    return f"{value:.2%}" if "acc" in metric else f"{value:.4f}"


def _headline(files: Sequence[FileFacts], metric: str | None) -> list[Any]:
    """Returns name, before, after and what that means, of the first and the last."""
    first, last = files[0], files[-1]
    found = [
        ("bytes", *_pair(first.size.raw, last.size.raw)),
        ("gzip bytes", *_pair(first.size.gzip, last.size.gzip)),
    ]
    if metric is not None and metric in first.metrics and metric in last.metrics:
        before, after = first.metrics[metric], last.metrics[metric]
        change = f"{after - before:+.4f}"
        if "acc" in metric:
            change = f"{100 * (after - before):+.2f} points"
        found.append((metric, _value(metric, before), _value(metric, after), change))
    if first.sparsity is not None and last.sparsity is not None:
        zeros = f"{first.sparsity:.1%}", f"{last.sparsity:.1%}"
        found.append(("zeros", *zeros, "of all weights"))
    if first.arena is not None and last.arena is not None:
        found.append(("working memory, bytes", *_pair(first.arena, last.arena)))
    for item in (item for item in last.latency if item.baseline == first.name):
        pair = f"{item.baseline_ms:.3g} ms", f"{item.file_ms:.3g} ms"
        words = f"{item.ratio:.2f} times as fast"
        found.append((f"time, {item.runtime.partition(',')[0]}", *pair, words))
    return found


def _pair(before: int, after: int) -> tuple[str, str, str]:
    if after > before:
        return f"{before:,}", f"{after:,}", f"{after / max(1, before):.1f} times larger"
    return f"{before:,}", f"{after:,}", f"{before / max(1, after):.1f} times smaller"


def _drawn(layers: Sequence[LayerFacts]) -> list[dict[str, Any]]:
    """Returns each layer's widths in percent of the widest, and what is said of it."""
    states = [s for layer in layers for s in (layer.before, layer.after) if s]
    widest = max((state.channels for state in states), default=1)

    def share(state: WeightFacts | None) -> float:
        return 0.0 if state is None else round(100 * state.channels / widest, 2)

    result = []
    for layer in layers:
        after = layer.after
        kept = 0.0 if after is None else share(after) * (1 - after.sparsity)
        result.append(
            {
                "name": layer.name,
                "kind": layer.kind,
                "before": share(layer.before),
                "after": share(after),
                "kept": round(kept, 2),
                "channels": _change(layer, "channels"),
                "weights": _change(layer, "size"),
                "zeros": "gone" if after is None else f"{after.sparsity:.1%}",
            }
        )
    return result


def _change(layer: LayerFacts, name: str) -> str:
    values = [getattr(s, name) for s in (layer.before, layer.after) if s is not None]
    return " → ".join(f"{value:,}" for value in dict.fromkeys(values))


def _charts(overview: Overview, metric: str | None) -> list[charts.Chart]:
    """Returns the metric and the sparsity over the steps of all fits."""
    begins = [0, *itertools.accumulate(fit.steps for fit in overview.fits)]
    ends = {f.name: step for f, step in zip(overview.fits, begins[1:], strict=True)}
    end = begins.pop()
    trained, zeros = [], []
    for begin, fit in zip(begins, overview.fits, strict=True):
        trained += [
            (begin + e.step, e.logs[metric])
            for e in fit.epochs
            if metric is not None and metric in e.logs
        ]
        zeros += [(begin + step, share) for step, share in fit.sparsity]
    if zeros:
        start = [(0, 0.0)] if zeros[0][0] > 0 else []
        zeros = [*start, *zeros, (end, zeros[-1][1])]
    lines = [charts.Line(f"{metric}, training", tuple(trained))]
    for target in dict.fromkeys(file.target for file in overview.files):
        points = tuple(
            (ends[file.name], file.metrics[str(metric)])
            for file in overview.files
            if file.target == target and file.name in ends and metric in file.metrics
        )
        if points:
            lines.append(charts.Line(f"{target} file, validation", points, False))
    marks = [
        (begin, fit.name)
        for begin, fit in zip(begins, overview.fits, strict=True)
        if fit.steps
    ]
    found = [
        charts.chart(str(metric), lines, end, marks),
        charts.chart(
            "share of zeros",
            [charts.Line("zeros", tuple(zeros), "steps")],
            end,
            marks,
            (0, 1),
        ),
    ]
    return [item for item in found if item is not None]


def _parts(file: FileFacts, whole: int) -> list[tuple[str, float]]:
    """Returns the sections of a file, in percent of the largest file's bytes."""
    return [
        (name, round(100 * file.sections[name].raw / whole, 3))
        for name in SECTIONS
        if name in file.sections
    ]


def _histograms(layers: Sequence[LayerFacts]) -> list[dict[str, Any]]:
    def size(layer: LayerFacts) -> int:
        return max(state.size for state in (layer.before, layer.after) if state)

    largest = sorted(layers, key=size, reverse=True)[:_HISTOGRAMS]
    result = []
    for layer in [layer for layer in layers if layer in largest]:
        states = {"before": layer.before, "after": layer.after}
        counts = [c for state in states.values() if state for c in state.histogram]
        top = max([1, *counts])
        result.append(
            {
                "layer": layer,
                "paths": {
                    name: charts.outline(
                        state.histogram, top, _HIST_WIDTH, _HIST_HEIGHT
                    )
                    for name, state in states.items()
                    if state
                },
                "zero": round(_HIST_WIDTH * -layer.low / (layer.high - layer.low), 1),
            }
        )
    return result


def _refusals(fits: Sequence[FitRecord]) -> list[tuple[str, str, list[str]]]:
    """Returns stage, reason and what it is said of, each reason once per stage."""
    found: dict[tuple[str, str], list[str]] = {}
    for fit in fits:
        for item in fit.refusals:
            found.setdefault((fit.name, item.reason), []).append(item.name)
    return [(stage, reason, names) for (stage, reason), names in found.items()]
