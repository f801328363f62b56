"""What int8 costs a pruned network: trained for it, or quantised afterwards.

    python -m benchmarks.quantization --suite dscnn \
        --out benchmarks/results/quantization.json

Results are written after each run; the same command goes on where it was stopped. Each
network is trained dense, then pruned to 0.8, and then trained further for as long in
three ways: as it is, in float32, which is what int8 is compared with, and what is
quantised afterwards; and by `kprune.quantize_aware`. Files are run in LiteRT on all test
images. Suites, with their time for three seeds on one free core:

- `resnet8`: MLPerf Tiny's residual network. 50 minutes.
- `dscnn`: depthwise separable convolutions. 40 minutes.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import dataclasses  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import keras  # noqa: E402
import numpy as np  # noqa: E402
from ai_edge_litert.interpreter import Interpreter  # noqa: E402

import kprune  # noqa: E402
from benchmarks import fashion_mnist  # noqa: E402
from benchmarks.fashion_mnist import Phase, Run, Trainer  # noqa: E402

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


def train(trainer: Trainer, run: QuantizedRun, seed: int) -> keras.Model:
    """Returns the network that one run trains."""
    model = pruned(trainer, run, seed)
    if run.aware:
        model = kprune.quantize_aware(model, data=trainer.x[:512])
    trainer.fit(model, run.phases[2], seed + 2000)
    return model


def pruned(trainer: Trainer, run: QuantizedRun, seed: int) -> keras.Model:
    """Returns the network after its second phase, with its masks; runs share it."""
    split = "_validation" if trainer.validation else ""
    path = trainer.folder / f"quantization_{run.net}_{seed}{split}.weights.h5"
    model = trainer.first_phase(run, seed)
    if path.exists():
        model.load_weights(path)
    else:
        callbacks = [kprune.PruningCallback(run.sparsity)]
        trainer.fit(model, run.phases[1], seed + 1000, callbacks)
        model.save_weights(path)
    kprune.hold_zeros(model)
    return model


def facts(trainer: Trainer, run: QuantizedRun, model: keras.Model) -> dict[str, Any]:
    """Exports a model in int8, and measures the file in LiteRT on all test images."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        report = kprune.export(
            model,
            path,
            quantization="int8",
            representative_data=trainer.x[:500],
            num_samples=500,
            benchmark=False,
        )
        interpreter = Interpreter(str(path))
        interpreter.allocate_tensors()
        source = interpreter.get_input_details()[0]["index"]
        target = interpreter.get_output_details()[0]["index"]

        def predict(images: np.ndarray) -> np.ndarray:
            outputs = []
            for image in images:
                interpreter.set_tensor(source, image[None])
                interpreter.invoke()
                outputs.append(interpreter.get_tensor(target)[0])
            return np.stack(outputs)

        accuracy = trainer.score(predict)
    asked = sum(round((w.asked or 0.0) * w.size) for w in report.weights)
    return {
        "int8_accuracy": accuracy,
        "zeros_asked": asked,
        "zeros_in_file": sum(w.zeros for w in report.weights if w.asked is not None),
        "difference_from_keras": report.differences[0].relative,
        "int8_bytes": report.size.raw,
    }


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
        kept = [r["zeros_in_file"] - r["zeros_asked"] for r in mine]
        result.append({"net": net, "how": "zeros lost in files", "zeros": min(kept)})
    return result


def main() -> None:
    fashion_mnist.run_suite(
        keras, "quantization", __doc__, SUITES, train, summarise, facts
    )


if __name__ == "__main__":
    main()
