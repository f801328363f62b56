"""What accuracy is left after pruning with kprune's defaults, on Fashion-MNIST.

    python -m benchmarks.accuracy --suite cnn \
        --out benchmarks/results/accuracy_cnn.json

Results are written after each run; the same command goes on where it was stopped.
Suites, with their time for three seeds on one free core:

- `cnn`: the usual tutorial network, dense and pruned to 0.8, 0.9 and 0.95; and the
  int8 file of the one at 0.9, run in LiteRT. An hour.
- `allconv`: a compact network without large layers, pruned to 0.8, and a small dense
  network with as many parameters as are left. 40 minutes.
- `allocation`: the `cnn` at 0.9 with zeros spread over its kernels in other ways.
  15 minutes.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import functools  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import keras  # noqa: E402
from ai_edge_litert.interpreter import Interpreter  # noqa: E402

import kprune  # noqa: E402
from benchmarks import fashion_mnist  # noqa: E402
from benchmarks.fashion_mnist import Phase, Run, Trainer  # noqa: E402

CNN = (Phase(12, 1e-3), Phase(12, 2e-3))
ALLCONV = (Phase(6, 2e-3), Phase(6, 2e-3))
SUITES = {
    "cnn": (
        Run("cnn", CNN),
        Run("cnn", CNN, 0.9, "lamp"),
        Run("cnn", CNN, 0.95, "lamp"),
        Run("cnn", CNN, 0.8, "lamp"),
        Run("cnn", (Phase(24, 1e-3),)),
    ),
    "allconv": (
        Run("allconv", ALLCONV, 0.8, "lamp"),
        Run("small allconv", (Phase(12, 2e-3),)),
        Run("small allconv", ALLCONV),
        Run("allconv", ALLCONV),
    ),
    "allocation": (
        Run("cnn", CNN, 0.9, "uniform"),
        Run("cnn", CNN, 0.9, "global"),
    ),
}
# Points that may be lost against the better dense result, by sparsity.
MOST_LOST = {0.8: 0.3, 0.9: 0.6, 0.95: 1.2}
LEAST_DENSE = 91.3
MOST_LOST_BY_INT8 = 0.3
INT8_OF = 0.9


def train(trainer: Trainer, run: Run, seed: int) -> keras.Model:
    """Returns the network that one run trains."""
    model = trainer.first_phase(run, seed)
    if len(run.phases) > 1:
        callbacks = []
        if run.sparsity and run.allocation == "lamp":  # The defaults.
            callbacks = [kprune.PruningCallback(sparsity=run.sparsity)]
        elif run.sparsity:
            callbacks = [
                kprune.PruningCallback(run.sparsity, allocation=run.allocation)
            ]
        trainer.fit(model, run.phases[1], seed + 1000, callbacks)
    return model


def int8_facts(trainer: Trainer, run: Run, model: keras.Model) -> dict[str, Any]:
    """Exports a model in int8, and measures the file in LiteRT on all test images."""
    if (run.sparsity, run.allocation) != (INT8_OF, "lamp"):
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        report = kprune.export(
            model,
            path,
            target="android",
            quantization="int8",
            representative_data=trainer.x[:500],
            num_samples=500,
            benchmark=False,
        )
        file = Interpreter(str(path))
        accuracy = trainer.score(functools.partial(fashion_mnist.outputs_of_file, file))
    return {
        "int8_accuracy": accuracy,
        "int8_bytes": report.size.raw,
        "int8_gzip_bytes": report.size.gzip,
        "dense_float32_bytes": report.dense_size.raw,
        "dense_float32_gzip_bytes": report.dense_size.gzip,
    }


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns means over the seeds, with targets and whether they are met."""
    result = fashion_mnist.means(rows)
    dense = {
        net: max(
            (row for row in result if row["net"] == net and not row["sparsity"]),
            key=lambda row: row["accuracy"],
            default=None,
        )
        for net in ("cnn", "allconv", "small allconv")
    }
    for row in result:
        if not row["sparsity"]:
            continue
        if best := dense[row["net"]]:
            row["lost"] = round(best["accuracy"] - row["accuracy"], 3)
        if row["net"] == "cnn" and row["allocation"] == "lamp" and best:
            _judge(row, row["lost"], at_most=MOST_LOST[row["sparsity"]])
        if row["net"] == "allconv" and (small := dense["small allconv"]):
            _judge(row, row["accuracy"], at_least=small["accuracy"])
    if best := dense["cnn"]:
        _judge(best, best["accuracy"], at_least=LEAST_DENSE)
    if quantised := [row for row in rows if "int8_accuracy" in row]:
        lost = [round(row["accuracy"] - row["int8_accuracy"], 2) for row in quantised]
        row = {name: quantised[0][name] for name in ("net", "sparsity", "allocation")}
        row |= {"quantization": "int8", "lost_to_int8": lost}
        row |= fashion_mnist.spread([row["int8_accuracy"] for row in quantised])
        _judge(row, max(lost), at_most=MOST_LOST_BY_INT8)
        result.append(row)
    return result


def _judge(row: dict[str, Any], value: float, **target: float) -> None:
    row["target"] = target
    row["met"] = (
        target.get("at_least", -float("inf"))
        <= value
        <= target.get("at_most", float("inf"))
    )


def main() -> None:
    fashion_mnist.run_suite(
        keras, "accuracy", __doc__, SUITES, train, summarise, int8_facts
    )


if __name__ == "__main__":
    main()
