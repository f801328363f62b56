"""`kprune.overview`: one page on models, files, reports or a recipe's run.

This module changes when a page may be made of something else.
"""

import os
from pathlib import Path
from typing import Any

import keras

from kprune.export.files import read_tflite
from kprune.export.latency import DENSE
from kprune.export.sections import sections
from kprune.foreign import received
from kprune.inspection import inspect
from kprune.model_file import load_model
from kprune.page import weights
from kprune.page.facts import FileFacts, Overview
from kprune.page.weights import Weight
from kprune.recipe.page import is_run, of_folder
from kprune.report import FileSize, Report

__all__ = ["Overview", "overview"]


def overview(*sources: Any) -> Overview:
    """Returns what was done to a model and what it brought, to be shown as one page.

    `kprune.overview("out").save("report.html")` writes a page that needs nothing but
    itself: the model before and after, files and what their bytes are for, and of a
    recipe's run the metrics and zeros over the steps, times, memory, what was refused
    and why, and the recipe.

    Args:
        sources: The folder of a recipe's run, alone. Or any number of models, before
            and after: Keras models and `.keras` files; and of files, the one to compare
            with first: `.tflite` files, and reports of `kprune.export`, which know
            times, memory and the dense file.

    Returns:
        The overview: `save(path)`, `to_html()`, `to_dict()` or `to_json()`.

    Raises:
        ValueError: If nothing is given, a file or folder cannot be read, or a folder
            holds no run that has come to its end.
        TypeError: If a source is of another type.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> "<h1>" in overview(model).to_html()
        True
    """
    if not sources:
        raise ValueError(
            "overview: name what to show: a recipe's folder, or models and files, such "
            "as 'dense.keras', 'model.keras', 'model.tflite'."
        )
    found = [
        Path(source) if isinstance(source, str | os.PathLike) else source
        for source in sources
    ]
    folders = [
        source for source in found if isinstance(source, Path) and source.is_dir()
    ]
    if folders:
        return _of_folder(folders[0], alone=len(found) == 1)
    parts = [_part(source) for source in found]
    models = [part for part in parts if part.is_model]
    return _of_parts(parts, models or parts)


def _of_folder(folder: Path, alone: bool) -> Overview:
    if not alone:
        raise ValueError(
            f"overview: {str(folder)!r} is a folder. Name it alone, or files only."
        )
    if not is_run(folder):
        raise ValueError(
            f"overview: {str(folder)!r} holds no run of a recipe that has come to its "
            "end: that has a recipe.yaml and a report.json. Run it again to go on, or "
            "name files."
        )
    return of_folder(folder)


class _Part:
    """One source: its name, its weights, and the files that it tells of."""

    def __init__(
        self,
        name: str,
        is_model: bool,
        found: dict[str, Weight],
        files: tuple[FileFacts, ...],
        notes: tuple[str, ...] = (),
    ) -> None:
        self.name, self.is_model, self.weights = name, is_model, found
        self.files, self.notes = files, notes


def _part(source: Any) -> _Part:
    if isinstance(source, keras.Model):
        return _Part(source.name, True, weights.of_model(source), ())
    if isinstance(source, Report):
        return _of_report(source)
    if not isinstance(source, Path):
        raise TypeError(
            "overview: each source must be a Keras 3 model, a path or a report of "
            f"kprune.export. {received(source)}"
        )
    seen = inspect(source)  # It refuses what is missing, damaged or something else.
    size = FileSize.of(source.read_bytes()) if seen.size is None else seen.size
    if source.suffix == ".keras":
        file = _file(source.name, source, "keras", size, {}, seen.sparsity)
        return _Part(source.name, True, weights.of_model(load_model(source)), (file,))
    data = source.read_bytes()
    try:
        parts = sections(data)
    except ValueError as error:
        raise ValueError(f"{str(source)!r}: {error}") from error
    file = _file(source.name, source, "", size, parts, seen.sparsity)
    return _Part(source.name, False, weights.of_file(data), (file,))


def _file(
    name: str,
    path: Path,
    kind: str,
    size: FileSize,
    parts: dict[str, FileSize],
    sparsity: float,
) -> FileFacts:
    return FileFacts(name, str(path), "", kind, {}, size, parts, sparsity)


def _of_report(report: Report) -> _Part:
    data = read_tflite("report.path", report.path)
    dense = FileFacts(DENSE, "", report.target, "none", {}, report.dense_size, {}, None)
    file = FileFacts(
        name=Path(report.path).name,
        path=report.path,
        target=report.target,
        quantization=report.quantization,
        metrics={},
        size=report.size,
        sections=sections(data),
        sparsity=report.sparsity,
        arena=None if report.arena is None else report.arena.bytes,
        latency=report.latency,
    )
    return _Part(file.name, False, weights.of_file(data), (dense, file), report.notes)


def _of_parts(parts: list[_Part], shown: list[_Part]) -> Overview:
    """Returns the overview of several sources, with the layers of some of them."""
    from kprune_machine import machine

    first, last = shown[0], shown[-1]
    # Files may lack the names by which layers are found again.
    alone = first is last or not set(first.weights) & set(last.weights)
    before = {} if alone else first.weights
    files = tuple(file for part in parts for file in part.files)
    return Overview(
        title=parts[-1].name,
        about=", ".join(part.name for part in parts),
        compared=("before" if before else "", "after" if before else last.name),
        layers=weights.compared(before, last.weights),
        files=files,
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        machines=(machine(),),
    )
