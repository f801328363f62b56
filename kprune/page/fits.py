"""What a fit has to tell, put down for a page.

This module changes when something else of a fit is worth keeping.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from kprune.callbacks import PruningCallback
from kprune.export.files import write_together
from kprune.page import weights
from kprune.report import EpochRecord, FitRecord, Refusal
from kprune.report.text import floats


def record(
    name: str,
    model: keras.Model,
    history: Mapping[str, Sequence[Any]] | None = None,
    steps: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    refusals: Sequence[Refusal] = (),
) -> FitRecord:
    """Returns what is to be told of a fit, or of a change without one.

    Args:
        name: What it was for.
        model: The model that was trained.
        history: What `fit` returned, its attribute `history`.
        steps: How many the optimizer took, the same in each epoch.
        callbacks: What `fit` was given.
        refusals: What was not done before training began, and why.
    """
    logs = history or {}
    count = max(map(len, logs.values()), default=0)
    epochs = tuple(
        EpochRecord(
            number,
            steps * (number + 1) // count,
            floats({key: v[number] for key, v in logs.items() if number < len(v)}),
        )
        for number in range(count)
    )
    reports = [c.report for c in callbacks if isinstance(c, PruningCallback)]
    dense = [Refusal(s.path, 0, s.reason) for r in reports for s in r.skipped]
    masks = tuple(pair for report in reports for pair in report.history)
    found = weights.of_model(model).values()
    size = sum(weight.values.size for weight in found)
    zeros = sum(int((weight.values == 0).sum()) for weight in found)
    return FitRecord(
        name=name,
        steps=steps,
        epochs=epochs,
        sparsity=masks or ((0, zeros / max(1, size)),),
        refusals=(*refusals, *dense),
        notices=tuple(text for report in reports for text in report.notices),
    )


def beside(model: Path) -> Path:
    """Returns where the record of the fit lies that made a model's file."""
    return model.with_name(f"{model.stem}_fit.json")


def write(fit: FitRecord, model: Path) -> None:
    """Writes a record beside a model's file, whole or not at all."""
    text = json.dumps(dataclasses.asdict(fit), indent=1)
    write_together({beside(model): text.encode()})


def read(model: Path) -> FitRecord:
    """Returns the record beside a model's file.

    Raises:
        ValueError: If it is missing or damaged.
    """
    file = beside(model)
    try:
        return FitRecord.from_dict(json.loads(file.read_text()))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{str(file)!r}, which tells of the fit that made {model.name!r}, is "
            "missing or damaged, or an earlier kprune wrote none. Put it back; or "
            f"remove {model.name!r}, too, and run this again: it is trained anew. Or "
            "name another folder."
        ) from error
