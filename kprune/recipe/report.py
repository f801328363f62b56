"""What became of a model at each stage of a recipe.

This module changes when another fact of a stage is to be told.
"""

import dataclasses
from typing import Any

from kprune.report import FileSize, FitRecord, Latency
from kprune.report.text import as_json, floats, table


@dataclasses.dataclass(frozen=True)
class StageRow:
    """One file of one stage, measured.

    Args:
        stage: Name of the stage; the first row's is that of the dense model.
        target: What the file is for.
        quantization: How it is quantised.
        path: Where it is.
        metrics: The compiled loss and metrics on the validation data, of the file in
            LiteRT, or of the same file before its weights were encoded.
        keras_metrics: The same of the Keras model.
        size: Its bytes.
        arena: Bytes of working memory in TensorFlow Lite Micro; `None` for others.
        parameters: Number of weights of the Keras model.
        nonzero_parameters: Those that are not zero.
        latency: Its times beside the dense float32 file's, in each runtime that can run
            both; empty if not measured.
        notes: What else is to be known of the file, in sentences.
        machine: What it was measured on, as `kprune_machine.machine` has it; two
            rows that differ in it alone are equal.
    """

    stage: str
    target: str
    quantization: str
    path: str
    metrics: dict[str, float]
    keras_metrics: dict[str, float]
    size: FileSize
    arena: int | None
    parameters: int
    nonzero_parameters: int
    latency: tuple[Latency, ...] = ()
    notes: tuple[str, ...] = ()
    machine: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def sparsity(self) -> float:
        """Share of the parameters that is zero, in [0, 1]."""
        return 1 - self.nonzero_parameters / max(1, self.parameters)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "StageRow":
        """Returns the row that `dataclasses.asdict` described."""
        given = {
            "size": FileSize(**values["size"]),
            "latency": tuple(Latency(**item) for item in values["latency"]),
            "notes": tuple(values["notes"]),
            "metrics": floats(values["metrics"]),
            "keras_metrics": floats(values["keras_metrics"]),
        }
        return cls(**{**values, **given})


@dataclasses.dataclass(frozen=True)
class RecipeReport:
    """What a recipe measured: `print` it.

    Args:
        rows: One per file: of the dense model in float32, what all are compared with,
            once per target; and then of each stage.
        fits: One per stage.
    """

    rows: tuple[StageRow, ...]
    fits: tuple[FitRecord, ...] = ()

    def dense(self, row: StageRow) -> StageRow:
        """Returns the dense float32 row that a row is compared with."""
        return next(item for item in self.rows if item.target == row.target)

    def times_smaller(self, row: StageRow) -> float:
        """Returns how many times smaller a row's file is than the dense float32 one."""
        return self.dense(row).size.raw / row.size.raw

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain Python values."""
        values = dataclasses.asdict(self)
        for item, row in zip(values["rows"], self.rows, strict=True):
            item["sparsity"] = row.sparsity
            item["times_smaller"] = self.times_smaller(row)
        return values

    def to_json(self) -> str:
        """Returns the report as JSON text."""
        # A loss that diverged is no JSON.
        return as_json(self.to_dict())

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RecipeReport":
        """Returns the report that `to_dict` described."""
        known = [field.name for field in dataclasses.fields(StageRow)]
        rows = [{name: row[name] for name in known} for row in values["rows"]]
        return cls(
            tuple(map(StageRow.from_dict, rows)),
            tuple(map(FitRecord.from_dict, values["fits"])),
        )

    def __str__(self) -> str:
        metrics = list(self.rows[0].metrics)
        shown = [name for name in metrics if name != "loss"] or metrics
        runtimes = dict.fromkeys(i.runtime for row in self.rows for i in row.latency)
        short = [f"times faster, {name.partition(',')[0]}" for name in runtimes]
        header = (
            *("stage", "target", "type", *shown, "bytes", "times smaller"),
            *("gzip bytes", "arena bytes", "zeros", *short),
        )
        return "\n".join(table(header, [self._cells(r, shown) for r in self.rows]))

    def _cells(self, row: StageRow, metrics: list[str]) -> tuple[str, ...]:
        runtimes = dict.fromkeys(i.runtime for each in self.rows for i in each.latency)
        ratios = {item.runtime: f"{item.ratio:.2f}" for item in row.latency}
        return (
            row.stage,
            row.target,
            "float32" if row.quantization == "none" else row.quantization,
            *(f"{row.metrics[name]:.4f}" for name in metrics),
            f"{row.size.raw:,}",
            f"{self.times_smaller(row):.1f}",
            f"{row.size.gzip:,}",
            "-" if row.arena is None else f"{row.arena:,}",
            f"{row.sparsity:.1%}",
            *(ratios.get(runtime, "-") for runtime in runtimes),
        )
