"""Plain values and plain text of what reports tell.

This module changes when text or JSON of all reports is to look different.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

_BARS = " ▁▂▃▄▅▆▇█"


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Returns the lines of a plain text table, columns aligned to the left."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = tuple("-" * width for width in widths)
    return [
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in (header, rule, *rows)
    ]


def bars(counts: Sequence[int]) -> str:
    """Returns counts as bars, one character each; a blank is none at all."""
    top = max([1, *counts])
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // top)] for count in counts)


def floats(values: Mapping[str, Any]) -> dict[str, float]:
    """Returns numbers by name, those by their names too that JSON lacks."""
    return {name: float(value) for name, value in values.items()}


def as_json(values: dict[str, Any]) -> str:
    """Returns a report's plain values as JSON text."""
    return json.dumps(without_infinities(values), indent=2)


def without_infinities(value: Any) -> Any:
    """Returns plain values with numbers that JSON lacks replaced by their names."""
    if isinstance(value, dict):
        return {key: without_infinities(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_infinities(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def times(shape: tuple[int, ...]) -> str:
    """Returns a shape as in `3x3x16`."""
    return "x".join(map(str, shape)) or "scalar"


def fraction(value: float | None) -> str:
    """Returns four digits behind the point; a dash for what is not known."""
    return "-" if value is None else f"{value:.4f}"


def described(tensors: tuple[tuple[str, tuple[int, ...], str], ...]) -> str:
    """Returns tensors, given by name, shape and data type, on one line."""
    return ", ".join(f"{name} {times(shape)} {dtype}" for name, shape, dtype in tensors)
