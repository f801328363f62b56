"""The runs of the benchmarks of int8, kprune's and its peer's, and their summary.

Nothing here imports Keras or kprune: the peer has neither.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from benchmarks import fashion_mnist
from benchmarks.fashion_mnist import Phase, Run, Trainer

SPARSITY = 0.8
MOST_LOST = 0.2  # Points below the float model.
PHASES = (Phase(3, 2e-3), Phase(3, 2e-3), Phase(1, 5e-4))


@dataclasses.dataclass(frozen=True)
class QuantizedRun(Run):
    """One training whose last phase is `aware` of int8, or in float32."""

    aware: bool = False

    def key(self) -> dict[str, Any]:
        """Returns what tells the run's rows from others in a result file."""
        return super().key() | {"aware": self.aware}


def _pair(net: str) -> tuple[QuantizedRun, ...]:
    runs = (QuantizedRun(net, PHASES, SPARSITY, aware=aware) for aware in (False, True))
    return tuple(runs)


SUITES = {net: _pair(net) for net in ("resnet8", "dscnn")}


def score_of_file(trainer: Trainer, interpreter: Any) -> float:
    """Returns the accuracy in percent of a file on all test images."""
    return trainer.score(functools.partial(fashion_mnist.outputs_of_file, interpreter))


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns means over the seeds, with targets and whether they are met."""
    result = []
    for net in dict.fromkeys(row["net"] for row in rows):
        mine = [row for row in rows if row["net"] == net]
        floats = {r["seed"]: r["accuracy"] for r in mine if not r["aware"]}
        after = {r["seed"]: r["int8_accuracy"] for r in mine if not r["aware"]}
        aware = {r["seed"]: r["int8_accuracy"] for r in mine if r["aware"]}
        for how, found in (
            ("float32", floats),
            ("int8, quantised afterwards", after),
            ("int8, trained for it", aware),
        ):
            if not found:
                continue
            row = {"net": net, "how": how, **fashion_mnist.spread(list(found.values()))}
            row["by_seed"] = {str(seed): value for seed, value in found.items()}
            both = [floats[s] - found[s] for s in found if s in floats]
            if how != "float32" and both:
                row["lost"] = round(float(np.mean(both)), 3)
            if how.endswith("for it") and both:
                row |= {"target": {"at_most": MOST_LOST}}
                row["met"] = row["lost"] <= MOST_LOST
                row["above_afterwards"] = round(
                    float(np.mean([found[s] - after[s] for s in found if s in after])),
                    3,
                )
            result.append(row)
        lost = [
            r["zeros_asked"] - r["zeros_in_file"] for r in mine if "zeros_asked" in r
        ]
        if lost:
            result.append({"net": net, "how": "zeros lost", "zeros": max(lost)})
    return result
