"""What a page knows: layers, fits, files and machines, as data.

This module changes when a page is to know something else; `facts.schema.json`, beside
it, describes its JSON.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kprune.export.files import check_path, write_together
from kprune.report import FileSize, FitRecord, Latency
from kprune.report.text import without_infinities


@dataclasses.dataclass(frozen=True)
class WeightFacts:
    """One weight at one time.

    Args:
        channels: How many channels, units or rows it makes.
        size: Number of its elements.
        zeros: Those that are exactly zero.
        histogram: How many of the others lie in each of equal bins.
    """

    channels: int
    size: int
    zeros: int
    histogram: tuple[int, ...]

    @property
    def sparsity(self) -> float:
        """Share of zeros, in [0, 1]."""
        return self.zeros / self.size if self.size else 0.0


@dataclasses.dataclass(frozen=True)
class LayerFacts:
    """One weight of a layer, before and after.

    Args:
        name: The layer, inside of others after their names.
        kind: The layer's class, or the data type in a file.
        low: Where the first bin of the histograms begins.
        high: Where the last one ends.
        before: The weight before; `None` where it was not there.
        after: The weight after; `None` where it is gone.
    """

    name: str
    kind: str
    low: float
    high: float
    before: WeightFacts | None
    after: WeightFacts | None


@dataclasses.dataclass(frozen=True)
class FileFacts:
    """One file, measured.

    Args:
        name: What it holds, such as the stage that it was made after.
        path: Where it is; empty if it was not kept.
        target: What it is for; empty if that is not known.
        quantization: How it is quantised; empty if that is not known.
        metrics: Loss and metrics by name, of the file; empty if not measured.
        size: Its bytes.
        sections: What they are for, by `kprune.export.sections`; empty if not known.
        sparsity: Share of zeros, in [0, 1]; `None` if not known.
        arena: Bytes of working memory in TensorFlow Lite Micro; `None` if not measured.
        latency: Times beside the first file's of the same target, by runtime.
    """

    name: str
    path: str
    target: str
    quantization: str
    metrics: dict[str, float]
    size: FileSize
    sections: dict[str, FileSize]
    sparsity: float | None
    arena: int | None = None
    latency: tuple[Latency, ...] = ()


@dataclasses.dataclass(frozen=True)
class Overview:
    """What was done to a model and what it brought: one page.

    Args:
        title: What the page is about.
        about: That in a sentence.
        compared: What the layers are compared as: before and after.
        layers: The weights of two axes and more, in the model's order.
        fits: What the model went through, one after the other.
        files: What came of it; the first of each target is what others are compared
            with.
        notes: What else is to be known, in sentences.
        recipe: What was asked for, as text; `None` if that is not known.
        machines: What was measured on, as `kprune_machine.machine` has it.
    """

    title: str
    about: str
    compared: tuple[str, str]
    layers: tuple[LayerFacts, ...]
    files: tuple[FileFacts, ...]
    fits: tuple[FitRecord, ...] = ()
    notes: tuple[str, ...] = ()
    recipe: str | None = None
    machines: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the facts as plain Python values, as the schema has them."""
        values: dict[str, Any] = without_infinities(dataclasses.asdict(self))
        return values

    def to_json(self) -> str:
        """Returns the facts as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def to_html(self) -> str:
        """Returns the page: HTML that loads nothing, with the JSON inside.

        It can be opened from a disk and sent by itself; the JSON is the text of its
        element `kprune`.
        """
        from kprune.page.render import overview_page  # It needs this module.

        return overview_page(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the page, whole or not at all.

        Args:
            path: The `.html` file to write.

        Returns:
            The path.

        Raises:
            ValueError: If it has another suffix or cannot be written.
        """
        file = check_path(path, ".html")
        write_together({file: self.to_html().encode()})
        return file


def distinct(machines: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Returns each machine once, whatever its load was meanwhile."""
    seen: dict[str, dict[str, Any]] = {}
    for each in machines:
        named = {key: value for key, value in each.items() if key != "load_average"}
        seen.setdefault(json.dumps(named, sort_keys=True), each)
    return tuple(each for each in seen.values() if each)


SCHEMA = Path(__file__).with_name("facts.schema.json")
"""The JSON Schema (draft 2020-12) of `Overview.to_dict`."""
