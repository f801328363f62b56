"""What all charts have in common: their look, and how they become files.

This module changes when charts are to look different, or be written in another way.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kprune.export.files import picture_path, write_together

DPI = 130
# Colours that readers with any colour vision tell apart (Okabe and Ito, 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
TEXT, FAINT = "#222222", "#666666"
_SETTINGS: dict[Any, Any] = {
    "font.size": 9,
    "text.color": TEXT,
    "text.parse_math": False,  # Names are names.
    "axes.edgecolor": FAINT,
    "axes.labelcolor": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "kprune",
}


def write_chart(
    owner: str,
    path: str | os.PathLike[str],
    size: tuple[float, float],
    title: str,
    draw: Callable[[Any], None],
) -> Path:
    """Writes a chart, whole or not at all, and returns its path.

    Args:
        owner: Who draws, for messages.
        path: The file, `.png` or `.svg`; in the latter, text is text.
        size: Width and height in inches.
        title: Its title.
        draw: Draws on a figure of matplotlib, given to it.

    Raises:
        ValueError: If the path has another suffix or cannot be written.
        ImportError: If matplotlib is not installed.
    """
    path = picture_path(owner, path)
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"{owner}: drawing needs matplotlib, which the extra `report` brings: "
            "pip install matplotlib"
        ) from error
    kind = path.suffix[1:]
    with rc_context(_SETTINGS):
        figure = Figure(figsize=size, facecolor="white", layout="constrained")
        figure.suptitle(title, x=0.02, ha="left", fontsize=11, weight="bold")
        draw(figure)
        file = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(file, format=kind, dpi=DPI, metadata=metadata)
    write_together({path: file.getvalue()})
    return path
