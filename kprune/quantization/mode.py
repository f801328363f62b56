"""What is computed of a model that rounds, beside training and inference.

This module changes when a model is to be traced in yet another way.
"""

import contextlib
from collections.abc import Iterator


class Mode:
    """What is computed beside training and inference, while a block runs."""

    now = ""


DEPLOYED, OBSERVING, PLAIN = "deployed", "observing", "plain"


def deployed() -> contextlib.AbstractContextManager[None]:
    """What is traced has the operators of the integer model alone."""
    return _mode(DEPLOYED)


def observing() -> contextlib.AbstractContextManager[None]:
    """Nothing is rounded, and the ranges of activations are taken."""
    return _mode(OBSERVING)


def unrounded() -> contextlib.AbstractContextManager[None]:
    """Nothing is rounded."""
    return _mode(PLAIN)


@contextlib.contextmanager
def _mode(name: str) -> Iterator[None]:
    before, Mode.now = Mode.now, name
    try:
        yield
    finally:
        Mode.now = before
