"""Keeping third-party chatter off the user's terminal without losing it.

This module changes when what has to be silenced does.
"""

import contextlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator

# Two threads that redirect in turns would leave one's file in place of the terminal.
_lock = threading.RLock()


class Captured:
    """What was written to the process's standard output and error while captured."""

    text: str = ""

    def tail(self, count: int = 15) -> str:
        """Returns its last lines."""
        return last_lines(self.text, count)


def last_lines(text: str, count: int) -> str:
    """Returns the last `count` lines of a text that are not blank."""
    kept = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(kept[-count:])


@contextlib.contextmanager
def captured_output() -> Iterator[Captured]:
    """Sends all output of the process to a temporary file inside the `with` block.

    The converter and the runtimes print from C++, past `sys.stdout`, so file
    descriptors 1 and 2 are redirected; notebooks and test runners replace `sys.stdout`
    by something that writes elsewhere, so that is redirected too. TensorFlow's logger
    keeps to the stream that it found when it was made: in the block it only warns. The
    text is in the yielded object's `text` after the block, also when the block raises.
    Other threads wait for its end before they enter theirs.
    """
    caught = Captured()
    logger, root = logging.getLogger("tensorflow"), logging.getLogger()
    level, handlers = logger.level, list(root.handlers)
    with _lock, tempfile.TemporaryFile() as file:
        _flush()
        saved = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
        try:
            logger.setLevel(max(level, logging.WARNING))
            for descriptor, _ in saved:
                os.dup2(file.fileno(), descriptor)
            with (
                os.fdopen(os.dup(file.fileno()), "w", buffering=1) as text,
                contextlib.redirect_stdout(text),
                contextlib.redirect_stderr(text),
            ):
                yield caught
        finally:
            _flush()
            logger.setLevel(level)
            # logging.warning(...) makes one that would write to the closed file.
            for handler in [h for h in root.handlers if h not in handlers]:
                root.removeHandler(handler)
            for descriptor, copy in saved:
                os.dup2(copy, descriptor)
                os.close(copy)
            file.seek(0)
            caught.text = file.read().decode("utf-8", "replace")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # Notebooks and test runners put objects there that may be closed or absent.
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.flush()
