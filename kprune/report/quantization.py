"""What becomes of layers that are quantised, and what that costs.

This module changes when quantisation reports something new or shows it differently.
"""

import dataclasses
import math
from typing import Any

from kprune.report.text import as_json, table


@dataclasses.dataclass(frozen=True)
class QuantizedLayer:
    """What becomes of one layer in a model that is trained to be quantised.

    Args:
        name: The layer's name in the model that was given.
        kind: Its class.
        form: How it is computed: `"int8"` and more, or `"float32"`.
        reason: Why it stays in float32; empty if it does not.
    """

    name: str
    kind: str
    form: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class QuantizationReport:
    """What becomes of each layer in a model that is trained to be quantised.

    Args:
        layers: The layers, in the order of their calls.
    """

    layers: tuple[QuantizedLayer, ...]

    @property
    def floats(self) -> tuple[QuantizedLayer, ...]:
        """The layers that stay in float32."""
        return tuple(layer for layer in self.layers if layer.reason)

    def to_json(self) -> str:
        """Returns the report as JSON text."""
        return as_json(dataclasses.asdict(self))

    def __str__(self) -> str:
        rows = [
            (
                layer.name,
                layer.kind,
                f"{layer.form}{': ' if layer.reason else ''}{layer.reason}",
            )
            for layer in self.layers
        ]
        return "\n".join(table(("layer", "class", "computed in"), rows))


@dataclasses.dataclass(frozen=True)
class LayerSensitivity:
    """What quantising one layer costs.

    Args:
        layer: The layer; inside of others after their names, such as `"block/conv"`.
        operators: Its operators in the file.
        activation_error: How far off what it makes is in the quantised file, in which
            all layers before it are quantised too: the root of the mean square of the
            difference, over that of the float32 values. The largest of its operators.
        error_alone: The output's relative difference (L2 norm) from float32 with this
            layer quantised, and no other.
        error_left: The same with all layers quantised but this one and those that are
            listed before it; `None` where that was not measured.
    """

    layer: str
    operators: tuple[str, ...]
    activation_error: float
    error_alone: float
    error_left: float | None

    @property
    def sqnr(self) -> float:
        """Signal to quantisation noise of what it makes, in decibels."""
        error = self.activation_error
        return -20 * math.log10(error) if error else math.inf


@dataclasses.dataclass(frozen=True)
class SensitivityReport:
    """What quantising a model costs, layer by layer.

    Args:
        model: The model's name.
        quantization: How its layers are quantised.
        target: Name of the target.
        samples: Number of samples that it was calibrated on, and measured on.
        error: The output's relative difference (L2 norm) from float32 with all layers
            quantised; of several outputs the largest.
        layers: The layers, first the one that costs most alone.
        worth_keeping: The fewest of the first layers that, in float32, halve the error;
            none if that takes more than half of the layers.
    """

    model: str
    quantization: str
    target: str
    samples: int
    error: float
    layers: tuple[LayerSensitivity, ...]
    worth_keeping: tuple[str, ...]

    def worst(self, count: int = 1) -> tuple[str, ...]:
        """Returns the names of the worst layers, as `float_layers` takes them.

        Args:
            count: How many, at least 0.
        """
        if count < 0:
            raise ValueError(f"`count` must be at least 0. Received: {count}.")
        return tuple(item.layer for item in self.layers[:count])

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain Python values."""
        values = dataclasses.asdict(self)
        for row, item in zip(values["layers"], self.layers, strict=True):
            row["sqnr"] = item.sqnr
        return values

    def to_json(self) -> str:
        """Returns the report as JSON text."""
        return as_json(self.to_dict())

    def __str__(self) -> str:
        rows = [
            (
                item.layer,
                ", ".join(dict.fromkeys(item.operators)),
                f"{item.activation_error:.3g}",
                f"{item.sqnr:.1f} dB",
                f"{item.error_alone:.3g}",
                "-" if item.error_left is None else f"{item.error_left:.3g}",
            )
            for item in self.layers
        ]
        header = (
            "layer",
            "operators",
            "makes values off by",
            "SQNR",
            "output, it alone quantised",
            "all but it and above",
        )
        lines = [
            f"{self.model} in {self.quantization} for {self.target}: the output is off "
            f"by {self.error:.3g} of its size, on {self.samples} samples",
            "",
            *table(header, rows),
            "",
        ]
        if not self.layers:
            lines = [lines[0], "Nothing is quantised: all layers compute in float32."]
        elif self.worth_keeping:
            kept = ", ".join(map(repr, self.worth_keeping))
            lines.append(f"Worth keeping: float_layers=[{kept}] halves the error.")
        else:
            lines.append(
                "No layers stand out: half of them in float32 do not halve the error."
            )
        return "\n".join(lines)
