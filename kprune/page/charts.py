"""Charts as numbers: where lines, ticks and bars of a picture lie.

This module changes when a chart is to be laid out in another way; how it looks is said
in the templates. Sizes are in units of the picture, which is as wide as a phone.
"""

import dataclasses
import math
from collections.abc import Sequence

Point = tuple[float, float]

WIDTH, HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 34, 30
_LETTER = 6.2  # About the width of one.


@dataclasses.dataclass(frozen=True)
class Line:
    """What is drawn in one colour.

    Args:
        name: What it is, for the legend.
        points: Its points, x rising.
        joined: Whether they are joined, or `"steps"`: each value holds until the next.
    """

    name: str
    points: tuple[Point, ...]
    joined: bool | str = True


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart, laid out.

    Args:
        title: What it shows.
        lines: Name, path and points of each line; the path is empty for points alone.
        x_ticks: Places and texts along the bottom.
        y_ticks: Places and texts along the left.
        marks: Places and texts of what happened when, where the text begins, and in
            which of two rows.
    """

    title: str
    lines: tuple[tuple[str, str, tuple[Point, ...]], ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    marks: tuple[tuple[float, str, float, int], ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


def chart(
    title: str,
    lines: Sequence[Line],
    end: float,
    marks: Sequence[tuple[float, str]] = (),
    within: tuple[float, float] | None = None,
) -> Chart | None:
    """Lays out lines over steps.

    Args:
        title: What the chart shows.
        lines: The lines; points that are not finite are left out.
        end: The last step, above 0; x begins at 0.
        marks: Steps at which something began, and what.
        within: The values at the bottom and the top; by default what the points need.

    Returns:
        The chart, or `None` if there is no point to draw.
    """
    kept = [
        dataclasses.replace(
            line, points=tuple(p for p in line.points if math.isfinite(p[1]))
        )
        for line in lines
    ]
    values = [y for line in kept for _, y in line.points]
    if not values or end <= 0:
        return None
    ticks = nice_ticks(*(within or (min(values), max(values))))
    low, high = ticks[0], ticks[-1]

    def x_of(step: float) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * step / end, 1)

    def y_of(value: float) -> float:
        share = (value - low) / (high - low)
        return round(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * share, 1)

    drawn = []
    for line in kept:
        points = tuple((x_of(x), y_of(y)) for x, y in line.points)
        drawn.append((line.name, _path(points, line.joined), points))
    return Chart(
        title,
        tuple(drawn),
        tuple((x_of(x), f"{x:,.0f}") for x in nice_ticks(0, end, 4) if x <= end),
        tuple((y_of(y), f"{y:.4g}") for y in ticks),
        _placed([(x_of(x), text) for x, text in marks]),
    )


def _placed(
    marks: Sequence[tuple[float, str]],
) -> tuple[tuple[float, str, float, int], ...]:
    """Returns marks with places for their texts, in the picture and side by side."""
    placed, ends = [], [0.0, 0.0]
    for x, text in marks:
        long = _LETTER * len(text)
        begin = round(min(x + 3, WIDTH - long), 1)
        row = 0 if ends[0] <= begin else 1
        ends[row] = begin + long
        placed.append((x, text, begin, row))
    return tuple(placed)


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Returns round numbers at equal distances that reach from `low` to `high`.

    Args:
        low: The least value.
        high: The largest.
        about: About how many distances there are to be.
    """
    if low == high:
        low, high = low - 0.5 * abs(low or 1), high + 0.5 * abs(high or 1)
    rough = (high - low) / about
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def outline(counts: Sequence[int], top: int, width: float, height: float) -> str:
    """Returns the path around the bars of a histogram.

    Args:
        counts: What each bin holds.
        top: The count that is as high as the picture, above 0.
        width: The picture's.
        height: The picture's.
    """
    each = width / len(counts)
    path = [f"M0 {height:g}"]
    for place, count in enumerate(counts):
        y = height * (1 - count / top)
        path.append(f"V{y:.1f}H{(place + 1) * each:.1f}")
    return "".join([*path, f"V{height:g}Z"])


def _path(points: Sequence[Point], joined: bool | str) -> str:
    if not points or not joined:
        return ""
    (x, y), *rest = points
    path = [f"M{x} {y}"]
    for x, y in rest:
        path.append(f"H{x}V{y}" if joined == "steps" else f"L{x} {y}")
    return "".join(path)
