"""What a dense teacher brings to a pruned student, on Fashion-MNIST.

    python -m benchmarks.distillation --suite sparse \
        --out benchmarks/results/distillation.json

Results are written after each run; the same command goes on where it was stopped. The
teacher is the dense network of the first phase, which the student begins as; the second
phase is the same with a teacher and without, step by step. Suites, with their time for
three seeds on one free core:

- `sparse`: the tutorial network, pruned to 0.95. 20 minutes.
- `channels`: ResNet-8 shrunk to a quarter of its multiplications. An hour.
- `long`: the same, dense for 8 epochs and shrunk for 20. An hour and a half.
- `choice`: temperatures and weights of the teacher at 0.95, for choosing between them
  with `--validation` and another `--out`.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import dataclasses  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import keras  # noqa: E402

import kprune  # noqa: E402
from benchmarks import fashion_mnist  # noqa: E402
from benchmarks.fashion_mnist import Phase, StructuredRun, Trainer  # noqa: E402


@dataclasses.dataclass(frozen=True)
class TaughtRun(StructuredRun):
    """One training with a teacher, of this weight and temperature; 0 is without."""

    alpha: float = 0.0
    temperature: float = 2.0

    def key(self) -> dict[str, Any]:
        """Returns what tells the run's rows from others in a result file."""
        taught = {"alpha": self.alpha, "temperature": self.temperature}
        return super().key() | (taught if self.alpha else {"alpha": 0.0})


def _pair(*args: Any, **kwargs: Any) -> tuple[TaughtRun, ...]:
    """Returns a run without a teacher, and one with kprune's defaults."""
    return tuple(TaughtRun(*args, alpha=alpha, **kwargs) for alpha in (0.0, 0.5))


CNN = (Phase(8, 1e-3), Phase(8, 2e-3))
RESNET = (Phase(4, 2e-3), Phase(4, 2e-3))
RESNET_LONG = (Phase(8, 2e-3), Phase(20, 2e-3))
SUITES = {
    "sparse": _pair("cnn", CNN, 0.95),
    "channels": _pair("resnet8", RESNET, macs=0.25, how="shrink"),
    "long": _pair("resnet8", RESNET_LONG, macs=0.25, how="shrink"),
    "choice": tuple(
        TaughtRun("cnn", CNN, 0.95, alpha=alpha, temperature=temperature)
        for alpha, temperature in ((0, 2), (0.5, 2), (0.9, 2), (0.5, 4), (0.9, 4))
    ),
}


def train(trainer: Trainer, run: TaughtRun, seed: int) -> keras.Model:
    """Returns the network that one run trains."""
    student = trainer.first_phase(run, seed)
    teach = _teaching(trainer.first_phase(run, seed), run) if run.alpha else None
    callbacks = [kprune.PruningCallback(run.sparsity)] if run.sparsity else []
    if run.how:
        student = kprune.shrink(student, budget=kprune.Budget(macs=run.macs))
    trainer.fit(student, run.phases[1], seed + 1000, callbacks, teach)
    return student


def _teaching(teacher: keras.Model, run: TaughtRun) -> Callable[[Any], Any]:
    return lambda student: kprune.distill(
        student, teacher, alpha=run.alpha, temperature=run.temperature
    )


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns means over the seeds, and what a teacher brings on the same seeds."""
    names = ("net", "sparsity", "macs", "epochs", "alpha", "temperature")
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(repr([row.get(name) for name in names]), []).append(row)
    result = [
        {
            **{name: group[0].get(name) for name in names},
            "parameters_left": group[0]["parameters_left"],
            **fashion_mnist.spread([row["accuracy"] for row in group]),
            "by_seed": {str(row["seed"]): row["accuracy"] for row in group},
        }
        for group in groups.values()
    ]
    for row in result:
        plain = next((r for r in result if not r["alpha"] and _same(r, row)), None)
        if row["alpha"] and plain is not None:
            gain = fashion_mnist.mean_lead(row, plain)
            if gain is not None:
                row |= {"gain": gain, "target": {"above": 0}, "met": gain > 0}
    return result


def _same(row: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(row[n] == other[n] for n in ("net", "sparsity", "macs", "epochs"))


def main() -> None:
    fashion_mnist.run_suite(keras, "distillation", __doc__, SUITES, train, summarise)


if __name__ == "__main__":
    main()
