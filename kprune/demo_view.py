"""The demo on a terminal: progress while it runs, its result as tables.

This module changes when the demo is to look different.
"""

from collections.abc import Iterable
from types import TracebackType

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from kprune import demo


class Screen:
    """Shows how the demo gets on: bars on a terminal, one line per stage elsewhere.

    Args:
        console: Where to show it.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description:<11}"),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "Screen":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Shows a sentence."""
        self._console.print(text, highlight=False)

    def progress(self, stage: str, done: float, total: int, facts: str) -> None:
        """Shows how far a stage is."""
        if self._progress.disable:
            if done == total:
                self.say(f"{stage:<11} {facts}")
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total, facts="")
        self._progress.update(self._tasks[stage], completed=done, facts=facts)


def show(result: demo.Result, console: Console) -> None:
    """Prints what the demo measured, what it means, and what to do next."""

    def say(text: str = "", wrap: bool = False) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=not wrap)

    say()
    console.print(_table(result))
    say()
    console.print(_effects({row.name: row for row in result.rows}))
    say()
    for note in _notes(result):
        say(note, wrap=True)
    say()
    say("Written:")
    for file in result.files:
        say(f"  {file}")
    say()
    page = next(file for file in result.files if file.endswith(".html"))
    say(f"As a page:      open {page} in a browser")
    say(f"See inside:     kprune inspect {result.rows[-1].path}")
    say(
        "Your own model: model.fit(..., callbacks=["
        f"kprune.PruningCallback(sparsity={result.asked:g})])"
    )


def _new_table(first: str, columns: Iterable[str]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True
    )
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _table(result: demo.Result) -> Table:
    columns = ("accuracy", "sparsity", "bytes", "gzip bytes", "arena", "latency")
    table = _new_table("file", columns)
    for row in result.rows:
        table.add_row(
            row.name,
            f"{row.accuracy:.2%}",
            f"{row.sparsity:.4f}",
            f"{row.size.raw:,}",
            f"{row.size.gzip:,}",
            "not run [1]" if row.arena is None else f"{row.arena:,}",
            "[2]" if row.latency is None else f"{row.latency.file_ms:.4f} ms",
        )
    return table


def _effects(rows: dict[str, demo.Row]) -> Table:
    """Returns the table of what zeros, int8 and both change."""
    columns = ("accuracy", "bytes", "gzip bytes", "arena", "latency")
    table = _new_table("times smaller by", columns)
    effects = [
        ("zeros, in float32", demo.DENSE, demo.PRUNED),
        ("zeros, in int8", demo.DENSE_INT8, demo.PRUNED_INT8),
        ("zeros and int8", demo.DENSE, demo.PRUNED_INT8),
    ]
    if demo.ENCODED_INT8 in rows:
        effects += [
            ("zeros, encoded", demo.DENSE_INT8, demo.ENCODED_INT8),
            ("all of it", demo.DENSE, demo.ENCODED_INT8),
        ]
    for name, *pair in effects:
        before, after = (rows[row] for row in pair)
        times = [
            row.latency.file_ms if row.latency else None for row in (before, after)
        ]
        table.add_row(
            name,
            f"{(after.accuracy - before.accuracy) * 100:+.2f} points",
            _times(before.size.raw, after.size.raw),
            _times(before.size.gzip, after.size.gzip),
            _times(before.arena, after.arena),
            _times(*times),
        )
    return table


def _times(before: float | None, after: float | None) -> str:
    return "-" if before is None or after is None else f"{before / after:.2f}x"


def _notes(result: demo.Result) -> Iterable[str]:
    yield (
        f"accuracy  on {result.test_samples:,} test images, each file run in LiteRT; "
        f"one image is {1 / result.test_samples:.2%}"
    )
    timed = [row.latency for row in result.rows if row.latency is not None]
    # A ratio closer to 1 than this is no effect.
    spread = max((latency.high - latency.low) / 2 for latency in timed[:2])
    yield (
        f"latency   median CPU time of one inference on this machine, "
        f"{timed[-1].runtime}; the files took turns, {timed[-1].rounds} rounds, "
        f"which vary by {spread:.1%}"
    )
    if result.rows[-1].arena is None:
        yield (
            "[1]       TensorFlow Lite Micro is not installed: "
            "pip install 'kprune[micro]'"
        )
    if result.decoding is not None:
        yield (
            "[2]       only TensorFlow Lite Micro decodes weights: the same outputs "
            f"bit for bit, in {1 / result.decoding.ratio:.2f} times the time"
        )
    for note in result.notes:
        yield f"note: {note}"
