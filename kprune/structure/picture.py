"""Plans as pictures: widths before and after, and which layers' channels go together.

This module changes when plans are to be drawn in another way.
"""

import dataclasses
import io
import os
import textwrap
from pathlib import Path
from typing import Any

from kprune.export.files import picture_path, write_together
from kprune.structure.plan import LayerWidth, ShrinkPlan

_DPI = 130
_MOST = 150  # Rows that can still be looked at; above it only what changes is drawn.
_LONGEST, _LINE = 56, 140  # Characters of a name, and of a line.
_ROW = 0.2  # Inches, as all sizes here.
_HEAD, _FOOT, _WIDTH = 1.15, 0.5, 10.0
# Colours that readers with any colour vision tell apart (Okabe and Ito, 2008), without
# the yellow, which is too light on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_ALONE, _FIXED, _TEXT, _FAINT = "#3B4252", "#BDBDBD", "#222222", "#666666"
_LIGHT = 0.25


def draw(plan: ShrinkPlan, path: str | os.PathLike[str]) -> Path:
    """Draws a plan: each layer's channels before and after, and their coupling.

    Args:
        plan: The plan.
        path: The file to write, `.png` or `.svg`. It is written as a whole or not at
            all.

    Returns:
        The path.

    Raises:
        ValueError: If the path has another suffix or cannot be written.
        ImportError: If matplotlib is not installed.
    """
    path = picture_path("draw", path)
    write_together({path: render(plan, path.suffix[1:])})
    return path


def render(plan: ShrinkPlan, kind: str) -> bytes:
    """Returns the picture of a plan.

    Args:
        plan: The plan.
        kind: `"png"` or `"svg"`; in the latter, text is text and can be searched.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Drawing a plan needs matplotlib, which the extra `report` brings: "
            "pip install matplotlib"
        ) from error
    rows = _rows(plan)
    height = _HEAD + _ROW * max(3, len(rows.shown)) + _FOOT
    settings: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
        "font.size": 8,
        "text.color": _TEXT,
        "text.parse_math": False,  # Names are names.
        "svg.fonttype": "none",
        "svg.hashsalt": "kprune",
    }
    with rc_context(settings):
        figure = Figure(figsize=(_WIDTH, height), facecolor="white")
        _head(figure, plan, height)
        _body(figure, rows, height)
        file = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(file, format=kind, dpi=_DPI, metadata=metadata)
    return file.getvalue()


@dataclasses.dataclass(frozen=True)
class _Rows:
    """What is drawn, in the graph's order.

    Args:
        shown: The layers that are drawn.
        left_out: What is not drawn, as a sentence; empty if everything is.
        colours: Colours by the names of groups that more than one layer makes.
    """

    shown: tuple[LayerWidth, ...]
    left_out: str
    colours: dict[str, str]


def _rows(plan: ShrinkPlan) -> _Rows:
    shown, said = plan.widths, []
    if len(shown) > _MOST:
        changed = tuple(row for row in shown if row.before != row.after)
        if changed:
            said.append(f"{len(shown) - len(changed)} unchanged")
            shown = changed
    if len(shown) > _MOST:
        order = sorted(shown, key=lambda row: row.after - row.before)
        most = {id(row) for row in order[:_MOST]}
        said.append(f"{len(shown) - _MOST} with the smallest losses")
        shown = tuple(row for row in shown if id(row) in most)
    names = [row.group for row in shown if row.group]
    coupled = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    colours = {
        name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(coupled)
    }
    left_out = ""
    if said:
        left_out = (
            f"{len(shown)} of {len(plan.widths)} layers are drawn, without "
            f"{' and '.join(said)}."
        )
    return _Rows(shown, left_out, colours)


def _head(figure: Any, plan: ShrinkPlan, height: float) -> None:
    """Writes the title, and draws what the whole model costs."""
    figure.text(
        0.15 / _WIDTH,
        1 - 0.12 / height,
        f"{_fitting(plan.model, 60)}: MACs {_change(plan.macs, plan.macs_after)}",
        size=12,
        weight="bold",
        va="top",
    )
    said = plan.asked
    if plan.blocks:
        said += f"; blocks: {', '.join(plan.blocks)}"
    said = textwrap.shorten(said, _LINE, placeholder=" ...")
    figure.text(0.15 / _WIDTH, 1 - 0.4 / height, said, va="top", color=_FAINT)
    for place, (name, before, after) in enumerate(
        (
            ("parameters", plan.parameters, plan.parameters_after),
            ("MACs", plan.macs, plan.macs_after),
        )
    ):
        axes = figure.add_axes(
            (
                (0.15 + place * _WIDTH / 2) / _WIDTH,
                1 - 0.98 / height,
                0.46,
                0.16 / height,
            )
        )
        axes.barh([0], [before], height=0.9, color=_ALONE, alpha=_LIGHT)
        axes.barh([0], [after], height=0.9, color=_ALONE)
        axes.set(xlim=(0, max(before, 1)), ylim=(-0.5, 0.5))
        axes.set_axis_off()
        axes.text(0, 0.6, f"{name}  {_change(before, after)}", va="bottom")


def _body(figure: Any, rows: _Rows, height: float) -> None:
    """Draws one bar per layer, its name, and arcs between those that are coupled."""
    count = max(1, len(rows.shown))
    bottom, tall = _FOOT / height, 1 - (_HEAD + _FOOT) / height
    longest = max((len(_name(row)) for row in rows.shown), default=0)
    arcs_end = 0.105 if rows.colours else 0.01
    names_end = arcs_end + 0.01 + longest * 0.0064
    arcs = figure.add_axes((0.015, bottom, 0.085, tall))
    bars = figure.add_axes((names_end, bottom, 0.905 - names_end, tall))
    widest = max((row.before for row in rows.shown), default=1)
    bars.set(xlim=(0, widest), ylim=(count - 0.5, -0.5))
    arcs.set(xlim=(1, 0), ylim=(count - 0.5, -0.5))
    for axes in (arcs, bars):
        axes.set_axis_off()
    for place, row in enumerate(rows.shown):
        colour = rows.colours.get(row.group, _ALONE if row.group else _FIXED)
        if row.after:
            bars.barh(place, row.before, height=0.72, color=colour, alpha=_LIGHT)
            bars.barh(place, row.after, height=0.72, color=colour)
        else:
            frame = {"edgecolor": _FAINT, "linestyle": ":", "linewidth": 0.9}
            bars.barh(place, row.before, height=0.72, color="white", **frame)
        bars.annotate(
            _label(row),
            (row.before, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            annotation_clip=False,
            color=_FAINT if row.before == row.after else _TEXT,
        )
        bars.annotate(
            _name(row),
            (0, place),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            annotation_clip=False,
            color=_FAINT if row.before == row.after else _TEXT,
        )
    _arcs(arcs, rows)
    _foot(figure, rows, height)


def _arcs(axes: Any, rows: _Rows) -> None:
    """Joins each layer with the next one of the same group."""
    from matplotlib.patches import Arc

    reach = max(1, len(rows.shown) - 1)
    for name, colour in rows.colours.items():
        places = [i for i, row in enumerate(rows.shown) if row.group == name]
        axes.plot(
            [0] * len(places), places, "o", color=colour, markersize=4, clip_on=False
        )
        for first, second in zip(places, places[1:], strict=False):
            far = second - first
            axes.add_patch(
                Arc(
                    (0, (first + second) / 2),
                    2 * (0.25 + 0.7 * min(1.0, far / min(reach, 12))),
                    far,
                    theta1=-90,
                    theta2=90,
                    color=colour,
                    linewidth=1.4,
                    clip_on=False,
                )
            )


def _foot(figure: Any, rows: _Rows, height: float) -> None:
    said = ["channels before (light) and after (strong)"]
    if rows.colours:
        said.append("arcs and colours: channels that go together")
    if any(not row.group and row.after for row in rows.shown):
        said.append("grey: cannot lose any")
    if any(not row.after for row in rows.shown):
        said.append("dotted: goes with its block")
    text = "; ".join(said)
    if rows.left_out:
        text += f"\n{rows.left_out}"
    figure.text(0.15 / _WIDTH, 0.12 / height, text, va="bottom", color=_FAINT)


def _name(row: LayerWidth) -> str:
    name = row.layer
    if row.kind not in ("filters", "units"):
        name += f" ({row.kind})"
    return _fitting(name, _LONGEST)


def _fitting(name: str, most: int) -> str:
    """Returns the end of a name, which tells layers apart best."""
    return name if len(name) <= most else f"...{name[3 - most :]}"


def _label(row: LayerWidth) -> str:
    if row.before == row.after:
        return f"{row.before}"
    return f"{row.before} -> {row.after or 'gone'}"


def _change(before: int, after: int) -> str:
    share = f" ({after / before:.2f})" if before else ""
    return f"{_short(before)} -> {_short(after)}{share}"


def _short(number: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
