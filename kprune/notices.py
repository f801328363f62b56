"""What pruning has to say to its user in one training: each thing once, and a summary.

This module changes when warnings are to be given, counted or summed up in another way.
"""

import importlib.util
import os
import sys
import warnings
from collections import Counter

import keras

# Code of others' that stands between the user's line and ours.
_TENSORFLOW = importlib.util.find_spec("tensorflow")
_INNER = tuple(
    os.path.dirname(path) + os.sep
    for path in (__file__, keras.__file__, _TENSORFLOW and _TENSORFLOW.origin)
    if path
)


class PruningWarning(UserWarning):
    """Pruning will not, or did not, do what was asked for."""


class Notices:
    """The warnings of one training.

    Each is given once, when it is due for the first time, and counted from then on.
    The next training says it again, whatever Python's own filters remember.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @property
    def counts(self) -> dict[str, int]:
        """How often each thing was due to be said, in order."""
        return dict(self._counts)

    def warn(self, message: str) -> None:
        """Warns the user of what pruning will not, or did not, do; once."""
        self._counts[message] += 1
        if self._counts[message] == 1:
            self._give(message)

    def sum_up(self, at_end: list[str], hint: str = "") -> None:
        """Ends training: gives what shows at its end, and repeats what was said.

        It is one warning, and none where nothing has come up since it was said.

        Args:
            at_end: What shows at the end.
            hint: What else helps, as a sentence; said along with the rest only.
        """
        if not at_end and max(self._counts.values(), default=0) <= 1:
            return
        earlier = [
            f"{count} times: {message}" if count > 1 else message
            for message, count in self._counts.items()
        ]
        self._counts.update(at_end)
        said = [*dict.fromkeys(at_end), *earlier]
        if len(said) == 1:
            self._give(said[0])
            return
        lines = "".join(f"\n- {line}" for line in said)
        self._give(f"What this training has to say of pruning:{lines}\n{hint}")

    def _give(self, message: str) -> None:
        file, line = _place_of_user()
        # Without a registry of what was said before.
        warnings.warn_explicit(message.rstrip(), PruningWarning, file, line)


def _place_of_user() -> tuple[str, int]:
    """Returns the file and line that is running outside of Keras and what it calls."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INNER):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno
