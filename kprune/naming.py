"""Names and patterns of names, and what was probably meant by a wrong one.

This module changes when names are matched in another way.
"""

import difflib
import fnmatch
from collections.abc import Iterable


def matches(name: str, pattern: str) -> bool:
    """Returns whether a pattern such as `"conv*"` matches a name, case and all."""
    return fnmatch.fnmatchcase(name, pattern)


def is_pattern(text: str) -> bool:
    """Returns whether a text has wildcards, and is no plain name."""
    return any(letter in text for letter in "*?[")


def unknown(text: str, names: Iterable[str]) -> str:
    """Returns a sentence that says what was probably meant by an unknown name."""
    near = nearest(text, names)
    hint = f" Did you mean {near!r}?" if near else ""
    return f"{text!r} matches nothing: no layer or weight here has that name.{hint}"


def nearest(text: str, names: Iterable[str]) -> str | None:
    """Returns the name that a text is most like, or `None`."""
    found = difflib.get_close_matches(text, sorted(set(names)), n=1)
    return found[0] if found else None
