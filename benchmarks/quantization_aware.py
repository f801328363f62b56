"""What int8 costs a pruned network: trained for it, or quantised afterwards.

    python -m benchmarks.quantization_aware --suite dscnn \
        --out benchmarks/results/quantization_aware.json

Results are written after each run; the same command goes on where it was stopped. Each
network is trained dense, then pruned to 0.8, and then trained further for as long in
two ways: in float32, which is what int8 is compared with, and what is quantised
afterwards; and by `kprune.quantize_aware`. Files are run in LiteRT on all test images.
Suites, with their time for three seeds on one free core:

- `resnet8`: MLPerf Tiny's residual network. 50 minutes.
- `dscnn`: depthwise separable convolutions. 40 minutes.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import keras  # noqa: E402
from ai_edge_litert.interpreter import Interpreter  # noqa: E402

import kprune  # noqa: E402
from benchmarks import fashion_mnist  # noqa: E402
from benchmarks.fashion_mnist import Trainer  # noqa: E402
from benchmarks.quantized_runs import (  # noqa: E402
    SUITES,
    QuantizedRun,
    score_of_file,
    summarise,
)


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
        accuracy = score_of_file(trainer, Interpreter(str(path)))
    asked = sum(round((w.asked or 0.0) * w.size) for w in report.weights)
    return {
        "int8_accuracy": accuracy,
        "zeros_asked": asked,
        "zeros_in_file": sum(w.zeros for w in report.weights if w.asked is not None),
        "difference_from_keras": report.differences[0].relative,
        "int8_bytes": report.size.raw,
    }


def main() -> None:
    fashion_mnist.run_suite(
        keras, "quantization_aware", __doc__, SUITES, train, summarise, facts
    )


if __name__ == "__main__":
    main()
