"""What the classes of a model are called.

This module changes when labels may be given in another way.
"""

import collections
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_SHOWN = 5  # Of many duplicates.


@dataclasses.dataclass(frozen=True)
class Labels:
    """The names of the entries of one output.

    Args:
        output: The output's name.
        names: One for each entry, in their order.
    """

    output: str
    names: tuple[str, ...]


def read(labels: Any) -> tuple[str, ...]:
    """Returns the names that the user gave, after checking each.

    Args:
        labels: A list or tuple of names, or the path of a text file in UTF-8 with one
            name per line.

    Raises:
        TypeError: If it is something else, or a name is not a string.
        ValueError: If the file cannot be read; there is no name; one is empty, stands
            twice, or cannot be one line of text.
    """
    if isinstance(labels, (str, os.PathLike)):
        names: Sequence[Any] = _lines(Path(labels))
    elif isinstance(labels, (list, tuple)):
        names = labels
    else:
        raise TypeError(
            "`labels` must be a list of class names, or the path of a text file with "
            f"one per line. Received: type {type(labels).__name__}."
        )
    for index, name in enumerate(names):
        if not isinstance(name, str):
            raise TypeError(
                f"`labels` must be strings. Received: {name!r} of type "
                f"{type(name).__name__} at index {index} of {len(names)}."
            )
        if problem := _problem(name):
            raise ValueError(
                f"Each label must be one line of text. Received: {name!r}, which "
                f"{problem}, at index {index} of {len(names)}."
            )
    if not names:
        raise ValueError(
            "`labels` has 0 names. Give one for each entry of the output, or leave "
            "`labels` out."
        )
    counts = collections.Counter(names)
    twice = [f"{name!r} {count} times" for name, count in counts.items() if count > 1]
    if twice:
        more = f" and {len(twice) - _SHOWN} more" if len(twice) > _SHOWN else ""
        raise ValueError(
            f"`labels` must differ from one another. Received {len(names)} names, of "
            f"which {len(counts)} differ: {', '.join(twice[:_SHOWN])}{more}."
        )
    return tuple(str(name) for name in names)


def of_output(names: tuple[str, ...], output: str, shape: Sequence[int]) -> Labels:
    """Returns the labels of an output that has one entry for each.

    Args:
        names: The names.
        output: The name of the model's first output.
        shape: Its shape without the batch dimension.

    Raises:
        ValueError: If it is no vector, or of another length.
    """
    if len(shape) != 1:
        raise ValueError(
            "`labels` name the entries of a vector, but the model's first output, "
            f"{output!r}, has the shape {tuple(shape)} for each sample. Leave `labels` "
            "out, or end the model in one vector of scores."
        )
    if shape[0] != len(names):
        raise ValueError(
            f"`labels` has {len(names)} names, but the model's first output, "
            f"{output!r}, has {shape[0]} entries. Give one name for each entry, in "
            "their order."
        )
    return Labels(output, names)


def _lines(path: Path) -> list[str]:
    try:
        # Windows editors put a mark in front and other ends on lines.
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(
            f"Cannot read `labels`, {str(path)!r}: {error.strerror}."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`labels`, {str(path)!r}, is not text in UTF-8: {error}. Save it as UTF-8."
        ) from error
    return text.removesuffix("\n").split("\n") if text else []


def _problem(name: str) -> str | None:
    """Returns what keeps a name from being one line of text, or `None`."""
    if not name.strip():
        return "is empty"
    # Readers in several languages: what any of them takes for the end of a line.
    if len(name.splitlines()) > 1 or name.splitlines()[0] != name or "\0" in name:
        return "holds the end of a line"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "cannot be written in UTF-8"
    return None
