"""Runs the recipe of one trial, in a process of its own.

A process for each: memory of one trial does not pile up, and one that is killed takes
nothing with it. It ends with its standard input, that is with the sweep. This module
changes when something else of a recipe's run is measured.

Usage: python -m kprune.sweep.worker JOB, a text in JSON with the paths of the `model`,
the `recipe`, the `folder` to run in and the `result` to write; `data` as a command line
names them; and whether to `benchmark`.
"""

import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from kprune.data_file import read_training_data
from kprune.export.files import write_together
from kprune.inspection import inspect
from kprune.model_file import load_model
from kprune.recipe import Recipe, RecipeResult


def main(job: dict[str, Any]) -> None:
    """Runs a recipe, and writes what was measured, or why not."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        data = read_training_data(job["data"])
        found = Recipe.load(job["recipe"]).run(
            load_model(job["model"], compile=True),
            data.train,
            data.validation,
            job["folder"],
            benchmark=job["benchmark"],
            verbose=2,
        )
        result: dict[str, Any] = {"measures": _measures(found)}
    except Exception as error:  # Whatever it is, it is the trial's own.
        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {error}"}
    write_together({Path(job["result"]): json.dumps(result).encode()})


def _measures(found: RecipeResult) -> dict[str, float | None]:
    """Returns what the last file of the recipe's first target is like."""
    last = found.report.rows[-1].stage
    row = next(row for row in found.report.rows if row.stage == last)
    file = inspect(found.folder / row.path)
    return {
        **row.metrics,
        "bytes": row.size.raw,
        "gzip_bytes": row.size.gzip,
        "arena_bytes": row.arena,
        "macs": file.macs,
        "nonzero_macs": file.nonzero_macs,
        "milliseconds": row.latency[-1].file_ms if row.latency else None,
    }


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
