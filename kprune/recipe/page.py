"""A recipe's run as a page.

This module changes when another part of a run's folder belongs on its page.
"""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from kprune.export.latency import DENSE
from kprune.export.sections import sections
from kprune.model_file import load_model
from kprune.page import weights
from kprune.page.facts import FileFacts, Overview, distinct
from kprune.recipe.report import RecipeReport, StageRow

if TYPE_CHECKING:
    from kprune.recipe import Recipe


def is_run(folder: Path) -> bool:
    """Returns whether a folder holds a run that has come to its end."""
    return all((folder / name).is_file() for name in ("recipe.yaml", "report.json"))


def of_folder(folder: Path) -> Overview:
    """Returns what the run in a folder did and brought.

    Raises:
        ValueError: If the recipe, the report or a file of the run cannot be read.
    """
    from kprune.recipe import Recipe  # It needs this module.

    recipe = Recipe.load(folder / "recipe.yaml")
    try:
        values = json.loads((folder / "report.json").read_text())
        report = RecipeReport.from_dict(values)
        return of_run(recipe, report, folder)
    except (KeyError, TypeError, OSError, ValueError) as error:
        raise ValueError(
            f"{str(folder)!r} is no whole run of a recipe: "
            f"{type(error).__name__}: {error}. Give `kprune prune` the same recipe and "
            "folder again: it makes what is missing."
        ) from error


def of_run(recipe: "Recipe", report: RecipeReport, folder: Path) -> Overview:
    """Returns what a run did and brought.

    Layers are those of the dense model and of the last one before it is trained for
    int8, which folds normalisations into kernels and leaves zeros as they are.

    Args:
        recipe: The recipe.
        report: What it measured.
        folder: Where its files are.
    """
    from kprune.recipe.stages import QuantizeAware, Train

    names = ["0 given"]
    names += [f"{number} {fit.name}" for number, fit in enumerate(report.fits, 1)]
    first = 1 if isinstance(recipe.stages[0], Train) else 0
    last = len(recipe.stages) - isinstance(recipe.stages[-1], QuantizeAware)
    dense, pruned = (
        load_model(folder / "stages" / f"{names[place].replace(' ', '_')}.keras")
        for place in (first, last)
    )
    targets = len(recipe.export)
    files = tuple(
        _file(row, DENSE if place < targets else names[place // targets], folder)
        for place, row in enumerate(report.rows)
    )
    about = recipe.data or "A recipe"
    done = ", ".join(_plain(name) for name in names[1:])
    fits = tuple(
        dataclasses.replace(fit, name=name)
        for fit, name in zip(report.fits, names[1:], strict=True)
    )
    notes = [note for row in report.rows[-targets:] for note in row.notes]
    return Overview(
        title=dense.name,
        about=f"{about}: {done}.",
        compared=("dense", f"after {_plain(names[last])}"),
        layers=weights.compared(weights.of_model(dense), weights.of_model(pruned)),
        files=files,
        fits=fits,
        notes=tuple(dict.fromkeys(notes)),
        recipe=recipe.to_yaml(),
        machines=distinct([row.machine for row in report.rows]),
    )


def _plain(name: str) -> str:
    return name.partition(" ")[2].replace("_", " ")


def _file(row: StageRow, name: str, folder: Path) -> FileFacts:
    return FileFacts(
        name=name,
        path=row.path,
        target=row.target,
        quantization=row.quantization,
        metrics=row.metrics,
        size=row.size,
        sections=sections((folder / row.path).read_bytes()),
        sparsity=row.sparsity,
        arena=row.arena,
        latency=tuple(dataclasses.replace(t, baseline=DENSE) for t in row.latency),
    )
