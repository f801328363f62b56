"""How small a network gets for a microcontroller when all of kprune works together.

    python -m benchmarks.combined --out benchmarks/results/combined.json

ResNet-8 on Fashion-MNIST: trained dense; channels removed by `kprune.shrink`; single
weights of what is left pruned by `PruningCallback` while it is trained on; exported in
int8 with `encode=True`. The accuracy of the file is that of the encoded file itself, in
TensorFlow Lite Micro, on all test images. The float32 file that it is compared with is
the dense network's, slimmed as files for microcontrollers are, which is the smaller of
the two that kprune writes. Its accuracy is that of `benchmarks.structured_accuracy`,
which trains the same dense network for as long, from the same first phase.

Results are written after each run; the same command goes on where it was stopped.
Suites, on one free core:

- `combined`: the setting that was chosen, and a larger network. Ten minutes per seed,
  and five for their first phase if `--weights` has none.
- `choice`: settings to choose from, with `--validation` and another `--out`.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import keras  # noqa: E402
import numpy as np  # noqa: E402

import kprune  # noqa: E402
from benchmarks import fashion_mnist, tables  # noqa: E402
from benchmarks.fashion_mnist import (  # noqa: E402
    NETWORKS,
    Phase,
    StructuredRun,
    Trainer,
)

# Dense, after channels are removed, and while single weights are pruned.
IN_TURN = (Phase(8, 2e-3), Phase(4, 2e-3), Phase(4, 2e-3))
AT_ONCE = (Phase(8, 2e-3), Phase(8, 2e-3))


def pruned(phases: tuple[Phase, ...], macs: float, sparsity: float) -> StructuredRun:
    """Returns a run that removes channels first, and then single weights."""
    return StructuredRun("resnet8", phases, sparsity, "lamp", macs, "shrink")


SUITES = {
    "combined": (pruned(AT_ONCE, 0.25, 0.8), pruned(AT_ONCE, 0.35, 0.8)),
    "choice": (
        pruned(AT_ONCE, 0.25, 0.8),
        pruned(IN_TURN, 0.25, 0.8),
        pruned(AT_ONCE, 0.35, 0.9),
    ),
}
AT_LEAST = 15


def train(trainer: Trainer, run: StructuredRun, seed: int) -> keras.Model:
    """Returns the network that one run trains."""
    model = trainer.first_phase(run, seed)
    model = kprune.shrink(model, budget=kprune.Budget(macs=run.macs))
    for index, phase in enumerate(run.phases[1:-1], 1):
        trainer.fit(model, phase, seed + 1000 * index)
    pruning = kprune.PruningCallback(sparsity=run.sparsity)
    trainer.fit(model, run.phases[-1], seed + 1000 * (len(run.phases) - 1), [pruning])
    return model


def in_tflm(path: Path, arena_bytes: int) -> Any:
    """Returns a function from images to logits: an int8 file, run in TFLM."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(str(path), arena_size=arena_bytes)
    (scale,), (zero,) = (
        interpreter.get_input_details(0)["quantization_parameters"][name]
        for name in ("scales", "zero_points")
    )

    def predict(images: np.ndarray) -> np.ndarray:
        stored = np.clip(np.rint(images / scale) + zero, -128, 127).astype(np.int8)
        outputs = []
        for image in stored:
            interpreter.set_input(image[None], 0)
            interpreter.invoke()
            outputs.append(interpreter.get_output(0)[0])
        return np.stack(outputs)  # One scale for all classes: the same order.

    return predict


def more_facts(
    trainer: Trainer, run: StructuredRun, model: keras.Model
) -> dict[str, Any]:
    """Exports the network, and runs the encoded file on all test images."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        float32 = {
            target: kprune.export(
                NETWORKS[run.net](keras), path, target, "none", benchmark=False
            ).size.raw
            for target in ("microcontroller", "android")
        }
        report = kprune.export(
            model,
            path,
            "microcontroller",
            "int8",
            trainer.x[:500],
            num_samples=500,
            benchmark=False,
            encode=True,
        )
        if report.encoding is None or report.arena is None:
            raise RuntimeError("Nothing was encoded.")
        # A little to spare: what is needed depends on where the memory begins.
        accuracy = trainer.score(in_tflm(path, report.arena.bytes + 1024))
    return {
        "file_accuracy": accuracy,
        "bytes": report.size.raw,
        "gzip_bytes": report.size.gzip,
        "int8_bytes": report.encoding.plain_size.raw,
        "dense_float32_bytes": float32,
        "arena_bytes": report.arena.bytes,
        "same_on_inputs": report.encoding.samples,
        "widths": [
            layer.filters
            for layer in model.layers
            if isinstance(layer, keras.layers.Conv2D)
        ],
    }


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns per setting how many times smaller its file is, and what was lost."""
    names = ("net", "macs", "sparsity", "epochs")
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(repr([row[name] for name in names]), []).append(row)
    result = []
    for group in groups.values():
        ratios = [min(r["dense_float32_bytes"].values()) / r["bytes"] for r in group]
        summary = {
            **{name: group[0][name] for name in names},
            **fashion_mnist.spread([row["file_accuracy"] for row in group]),
            "by_seed": {str(row["seed"]): row["file_accuracy"] for row in group},
            "keras_accuracy": round(float(np.mean([r["accuracy"] for r in group])), 3),
            "bytes": [row["bytes"] for row in group],
            "dense_float32_bytes": group[0]["dense_float32_bytes"],
            "times_smaller": [round(ratio, 2) for ratio in ratios],
            "target": {"at_least": AT_LEAST},
            "met": min(ratios) >= AT_LEAST,
        }
        dense = _dense(summary)
        if dense is not None:
            summary["dense_accuracy"] = dense["accuracy"]
            summary["lost"] = fashion_mnist.mean_lead(dense, summary)
        result.append(summary)
    return result


def _dense(row: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the dense network that was trained as long, if it was."""
    document = tables.load("structured_accuracy")
    if document is None:
        return None
    return fashion_mnist.from_scratch(document["summary"], row["net"], row["epochs"])


def main() -> None:
    fashion_mnist.run_suite(
        keras, "combined", __doc__, SUITES, train, summarise, more_facts
    )


if __name__ == "__main__":
    main()
