"""What is going to be removed, what cannot be, and what was: as data, text and JSON.

This module changes when plans or reports of structured pruning say something new.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kprune.report import Refusal
from kprune.report.text import as_json, table


@dataclasses.dataclass(frozen=True)
class LayerWidth:
    """How many channels a layer makes, before and after.

    Args:
        layer: The layer's path.
        kind: What the channels are called there, such as `"filters"`.
        before: Their number.
        after: Their number once the plan is carried out; 0 if the layer itself goes.
        group: Name of the group of coupled channels that they are in, the largest one
            if they are in several; empty if none of them can be removed.
    """

    layer: str
    kind: str
    before: int
    after: int
    group: str = ""


@dataclasses.dataclass(frozen=True)
class GroupPlan:
    """Channels that can only be removed together, and which of them go.

    Args:
        name: The layer that makes them first, and what they are called there.
        kind: `"filters"`, `"units"`, `"heads"`, ...
        size: Number of units in the group.
        removed: Places of those that go, ascending, from 0 to `size - 1`.
        layers: All layers that hold weights of them.
    """

    name: str
    kind: str
    size: int
    removed: tuple[int, ...]
    layers: tuple[str, ...]

    @property
    def left(self) -> int:
        """Number of units that stay."""
        return self.size - len(self.removed)


@dataclasses.dataclass(frozen=True)
class ShrinkPlan:
    """What structured pruning will remove from a model.

    Args:
        model: The model's name.
        asked: What was asked for, as a phrase.
        groups: The groups of coupled channels that can lose some.
        refusals: What has to stay, and why.
        blocks: Names of the residual blocks that go as a whole.
        widths: Per layer that makes channels their number before and after.
        parameters: Number of weights.
        parameters_after: The same once the plan is carried out.
        macs: Multiply-accumulates of one inference in kernels and attention products;
            sizes that the model leaves open count as 1.
        macs_after: The same once the plan is carried out.
        notes: What else is to be known, in sentences.
    """

    model: str
    asked: str
    groups: tuple[GroupPlan, ...]
    refusals: tuple[Refusal, ...]
    blocks: tuple[str, ...]
    widths: tuple[LayerWidth, ...]
    parameters: int
    parameters_after: int
    macs: int
    macs_after: int
    notes: tuple[str, ...] = ()

    @property
    def sparsity(self) -> float:
        """Share of the removable units that go, in [0, 1)."""
        size = sum(group.size for group in self.groups)
        return sum(len(group.removed) for group in self.groups) / size if size else 0.0

    @property
    def totals(self) -> tuple[tuple[str, int, int], ...]:
        """What the whole model has of parameters, MACs and channels, before and after.

        Each as its name and two numbers.
        """
        return (
            ("parameters", self.parameters, self.parameters_after),
            ("MACs", self.macs, self.macs_after),
            (
                "removable channels",
                sum(group.size for group in self.groups),
                sum(group.left for group in self.groups),
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as plain Python values."""
        return {**dataclasses.asdict(self), "sparsity": self.sparsity}

    def to_json(self) -> str:
        """Returns the plan as JSON text, which `from_json` reads."""
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "ShrinkPlan":
        """Returns the plan that `to_json` wrote.

        Raises:
            ValueError: If the text is not such a plan.
        """
        try:
            values = json.loads(text)
            values.pop("sparsity", None)
            for name, kind in _ROWS.items():
                values[name] = tuple(
                    kind(**{key: _tuple(value) for key, value in row.items()})
                    for row in values[name]
                )
            for name in ("blocks", "notes"):
                values[name] = tuple(values[name])
            return cls(**values)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(
                "ShrinkPlan.from_json: the text is not a plan that to_json() wrote: "
                f"{error!r}"
            ) from error

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Draws the layers' widths before and after, and which of them are coupled.

        Args:
            path: The file to write, `.png` or `.svg`.

        Returns:
            The path.

        Raises:
            ValueError: If the path has another suffix or cannot be written.
            ImportError: If matplotlib is not installed.
        """
        from kprune.structure.picture import draw  # It needs this module.

        return draw(self, path)

    def to_html(self) -> str:
        """Returns the plan as one HTML page: its picture, tables and JSON.

        The page loads nothing: it can be opened from a disk, and sent by itself.

        Raises:
            ImportError: If matplotlib is not installed: the extra `report`.
        """
        from kprune.structure.page import page  # It needs this module.

        return page(self)

    def __str__(self) -> str:
        lines = [
            f"{self.model}: {self.asked}",
            "",
            *table(
                ("", "before", "after", "left"),
                [_row(*total) for total in self.totals],
            ),
        ]
        if self.blocks:
            lines += ["", f"blocks removed: {', '.join(self.blocks)}"]
        changed = [width for width in self.widths if width.before != width.after]
        if changed:
            rows = [
                (width.layer, width.kind, str(width.before), str(width.after))
                for width in changed
            ]
            lines += ["", *table(("layer", "channels", "before", "after"), rows)]
        if self.refusals:
            lines += [
                "",
                *table(
                    ("stays", "channels", "because"),
                    [
                        (item.name, str(item.size or "-"), item.reason)
                        for item in self.refusals
                    ],
                ),
            ]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Equality:
    """How far the smaller model's outputs are from the masked model's.

    Args:
        max_abs: The largest difference.
        relative: The same over the largest value of that output.
        finite: Whether both models' outputs have neither NaN nor infinity.
        inputs: What they were run on.
        computed_in: `"its own precision"`, or `"float64"` where that would not tell
            rounding from a mistake.
    """

    max_abs: float
    relative: float
    finite: bool
    inputs: str
    computed_in: str = "its own precision"


@dataclasses.dataclass(frozen=True)
class ShrinkReport:
    """What was removed, and the proof that nothing else was changed.

    Args:
        plan: What was planned and carried out.
        equality: The comparison of outputs; `None` if it was not wanted.
        optimizer: What became of the compile state.
    """

    plan: ShrinkPlan
    equality: Equality | None
    optimizer: str

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain Python values."""
        equality = None if self.equality is None else dataclasses.asdict(self.equality)
        return {
            "plan": self.plan.to_dict(),
            "equality": equality,
            "optimizer": self.optimizer,
        }

    def to_json(self) -> str:
        """Returns the report as JSON text."""
        return as_json(self.to_dict())

    @property
    def proof(self) -> str:
        """How far outputs are from the masked model's, as a phrase."""
        if self.equality is None:
            return "masked and smaller model were not compared (prove=False)"
        return (
            "masked and smaller model differ by at most "
            f"{self.equality.max_abs:.3g}, {self.equality.relative:.2g} of the "
            f"largest output, on {self.equality.inputs}"
            f"{', in float64' if self.equality.computed_in == 'float64' else ''}"
        )

    def to_html(self) -> str:
        """Returns the report as one HTML page: the plan's, with the proof.

        Raises:
            ImportError: If matplotlib is not installed: the extra `report`.
        """
        from kprune.structure.page import page  # It needs this module.

        return page(self.plan, self)

    def __str__(self) -> str:
        return f"{self.plan}\n\n{self.proof}\n{self.optimizer}"


_ROWS: dict[str, type] = {
    "groups": GroupPlan,
    "refusals": Refusal,
    "widths": LayerWidth,
}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _row(name: str, before: int, after: int) -> tuple[str, ...]:
    share = f"{after / before:.3f}" if before else "-"
    return (name, f"{before:,}", f"{after:,}", share)


def listed(names: Sequence[str], most: int = 5) -> str:
    """Returns names in one line, the first ones if they are many."""
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])
