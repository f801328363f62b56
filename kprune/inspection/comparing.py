"""Several models and files in one table.

This module changes when something else of them is to be compared.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import keras

from kprune.inspection import Inspection, inspect
from kprune.report.text import as_json, table


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare` found. `print` it.

    Args:
        items: Each model or file, in the order given. The first is what the others are
            compared with.
    """

    items: tuple[Inspection, ...]

    def times_smaller(self, item: Inspection) -> float | None:
        """Returns how many times smaller a file is than the first one.

        `None` if one of them is a model in memory.
        """
        first = self.items[0]
        if first.size is None or item.size is None:
            return None
        return first.size.raw / item.size.raw

    def to_dict(self) -> dict[str, Any]:
        """Returns the table as plain Python values, without the single weights."""
        rows = []
        for item in self.items:
            values = item.to_dict()
            del values["weights"]
            rows.append({**values, "times_smaller": self.times_smaller(item)})
        return {"items": rows}

    def to_json(self) -> str:
        """Returns the table as JSON text."""
        return as_json(self.to_dict())

    def __str__(self) -> str:
        header = (
            *("model", "bytes", "times smaller", "gzip bytes"),
            *("parameters", "not zero", "zeros", "MACs", "MACs not by zero"),
        )
        return "\n".join(table(header, [self._cells(item) for item in self.items]))

    def _cells(self, item: Inspection) -> tuple[str, ...]:
        times = self.times_smaller(item)
        return (
            item.name,
            _count(None if item.size is None else item.size.raw),
            "-" if times is None else f"{times:.2f}",
            _count(None if item.size is None else item.size.gzip),
            _count(item.parameters),
            _count(item.nonzero_parameters),
            f"{item.sparsity:.4f}",
            _count(item.macs),
            _count(item.nonzero_macs),
        )


def compare(
    models_or_paths: Sequence[keras.Model | str | os.PathLike[str]],
) -> Comparison:
    """Puts side by side Keras models, `.keras` files and `.tflite` files.

    Args:
        models_or_paths: What `kprune.inspect` takes, one or more of it.

    Raises:
        TypeError: As for `kprune.inspect`.
        ValueError: As for `kprune.inspect`.
    """
    return Comparison(tuple(inspect(item) for item in models_or_paths))


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
