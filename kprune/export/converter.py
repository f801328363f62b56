"""The process that TensorFlow's converter runs in, since it crashes on some models.

This module changes when the way that the process is kept does. Importing TensorFlow
takes seconds, so that one process is started for all conversions, and a new one after a
crash, a hang or an error. (`multiprocessing` would import the user's script again.)
"""

import atexit
import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

STEP_SECONDS = 1800.0
"""Seconds that one step of a conversion may take: reading, converting, one sample of
calibration, quantising. The largest of keras.applications take minutes."""

# Memory of the process grows with what it converted, and is not given back. Beside
# conversions of such files the start of another process does not count.
_KEPT_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a conversion ended.

    Args:
        kind: What happened.
        step: What the converter did last.
        words: The error's own words, the signal's name, or what a process that could
            not start said; empty if there is a file.
        printed: What TensorFlow printed meanwhile.
    """

    kind: Literal["done", "failed", "crashed", "hung"]
    step: str
    words: str
    printed: str


def run(folder: Path) -> Outcome:
    """Converts what is in a folder, which gets a `model.tflite` if that succeeds.

    Conversions of several threads run one after the other.

    Args:
        folder: See `converter_worker`.
    """
    with _lock:
        worker = _started()
        outcome = None
        try:
            outcome = worker.convert(folder)
        finally:  # An error, or Ctrl-C: nobody knows what state it is in.
            if outcome is None or outcome.kind != "done" or _is_large(folder):
                _end()
    return outcome


def start() -> None:
    """Starts the process if there is none, to have it ready when it is needed."""
    with _lock:
        _started()


def _is_large(folder: Path) -> bool:
    return (folder / "model.tflite").stat().st_size > _KEPT_BYTES


class _Worker:
    def __init__(self) -> None:
        # What it prints while no conversion runs; a pipe that nobody reads fills up.
        self._printed = tempfile.TemporaryFile()
        script = Path(__file__).with_name("converter_worker.py")
        # -P keeps this folder's module names out of the worker's import path. A session
        # of its own keeps Ctrl-C for the user's process, which then ends this one.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            bufsize=0,
            start_new_session=True,
            # It computes on the CPU only, and would take a GPU's memory all the same.
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        )
        self._jobs: Any = self.process.stdin
        self._answers: Any = self.process.stdout
        self._unread = b""

    def convert(self, folder: Path) -> Outcome:
        step = "starting"
        try:
            self._jobs.write(f"{json.dumps(str(folder))}\n".encode())
        except BrokenPipeError:
            pass  # It has ended; reading its answer tells how.
        while True:
            answer = self._answer(STEP_SECONDS)
            if answer is None:
                return Outcome("hung", step, "", _text(folder / "printed.txt"))
            if not answer:
                return Outcome("crashed", step, *self._ending(folder))
            step = answer.get("step", step)
            if "done" in answer:
                kind: Literal["done", "failed"] = "done" if answer["done"] else "failed"
                words = _text(folder / "error.txt")
                return Outcome(kind, step, words, _text(folder / "printed.txt"))

    def _answer(self, seconds: float) -> Mapping[str, Any] | None:
        """Returns the next answer; an empty one if it ended, `None` if none came."""
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, end - time.monotonic())):
                    return None
                found = self._answers.read(1 << 16)
                if not found:
                    return {}
                self._unread += found
        line, _, self._unread = self._unread.partition(b"\n")
        result: Mapping[str, Any] = json.loads(line)
        return result

    def _ending(self, folder: Path) -> tuple[str, str]:
        """Returns how the process ended, and what it said."""
        code = self.process.wait()
        words = f"exit code {code}"
        if code < 0:
            words = f"signal {-code} ({signal.strsignal(-code)})"
        if (folder / "printed.txt").exists():
            return words, _text(folder / "printed.txt")
        self._printed.seek(0)
        return words, self._printed.read().decode("utf-8", "replace")

    def end(self) -> None:
        """Ends the process, which holds nothing that would be lost."""
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        """Closes this process's ends of the pipes."""
        self._jobs.close()
        self._answers.close()
        self._printed.close()


_lock = threading.Lock()
_worker: _Worker | None = None


def _started() -> _Worker:
    """Returns the worker, a new one if there is none that lives."""
    global _worker
    if _worker is not None and _worker.process.poll() is not None:
        _end()
    if _worker is None:
        _worker = _Worker()
    return _worker


def _end() -> None:
    global _worker
    if _worker is not None:
        _worker.end()
        _worker = None


def _leave_to_parent() -> None:
    """Gives up the worker in a forked process: it is the parent's."""
    global _lock, _worker
    _lock = threading.Lock()  # A thread that is not here may hold the old one.
    if _worker is not None:
        _worker.close()
        _worker.process.returncode = 0  # Not to be waited for here.
        _worker = None


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.exists() else ""


atexit.register(_end)
os.register_at_fork(after_in_child=_leave_to_parent)
