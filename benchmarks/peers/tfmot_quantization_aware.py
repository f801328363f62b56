"""What int8 costs a pruned network that tensorflow-model-optimization trains for it.

    python -m benchmarks.peers.tfmot_quantization_aware --suite dscnn \
        --out benchmarks/results/tfmot_quantization_aware.json

The protocol of `benchmarks/quantization_aware.py` in tf_keras: `prune_low_magnitude` in
the second phase, and in the third the scheme that keeps zeros,
`Default8BitPrunePreserveQuantizeScheme`. Files are run in TensorFlow Lite.

Needs an environment with the packages of kprune's extra `tfmot`; not kprune itself.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["TF_USE_LEGACY_KERAS"] = "1"

from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tensorflow_model_optimization as tfmot  # noqa: E402
import tf_keras  # noqa: E402

from benchmarks import fashion_mnist  # noqa: E402
from benchmarks.fashion_mnist import Trainer  # noqa: E402
from benchmarks.quantized_runs import (  # noqa: E402
    SUITES,
    QuantizedRun,
    score_of_file,
    summarise,
)

FREQUENCY = 50


def train(trainer: Trainer, run: QuantizedRun, seed: int) -> Any:
    """Returns the network that one run trains."""
    model = pruned(trainer, run, seed)
    if run.aware:
        annotated = tfmot.quantization.keras.quantize_annotate_model(model)
        scheme = tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
        model = tfmot.quantization.keras.quantize_apply(annotated, scheme)
    else:  # Otherwise zeros would regrow.
        schedule = tfmot.sparsity.keras.ConstantSparsity(run.sparsity, 0, frequency=100)
        model = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
    callbacks = [] if run.aware else [tfmot.sparsity.keras.UpdatePruningStep()]
    trainer.fit(model, run.phases[2], seed + 2000, callbacks)
    return model if run.aware else tfmot.sparsity.keras.strip_pruning(model)


def pruned(trainer: Trainer, run: QuantizedRun, seed: int) -> Any:
    """Returns the network after its second phase."""
    path = trainer.folder / f"tfmot_quantization_{run.net}_{seed}.weights.h5"
    model = trainer.first_phase(run, seed)
    if path.exists():
        model.load_weights(path)
        return model
    phase = run.phases[1]
    half = trainer.steps * phase.epochs // 2
    frequency = min(FREQUENCY, half)  # Short runs have few steps.
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        0.0,
        run.sparsity,
        begin_step=0,
        end_step=half // frequency * frequency,
        frequency=frequency,
    )
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
    callbacks = [tfmot.sparsity.keras.UpdatePruningStep()]
    trainer.fit(wrapped, phase, seed + 1000, callbacks)
    model = tfmot.sparsity.keras.strip_pruning(wrapped)
    model.save_weights(path)
    return model


def facts(trainer: Trainer, run: QuantizedRun, model: Any) -> dict[str, Any]:
    """Converts a model to int8, and measures the file on all test images."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if not run.aware:
        samples = trainer.x[:500]
        converter.representative_dataset = lambda: ([x[None]] for x in samples)
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    kernels = [
        values
        for variable, values in zip(model.weights, model.get_weights(), strict=True)
        if values.ndim > 1 and "kernel" in variable.name
    ]
    return {
        "int8_accuracy": score_of_file(trainer, interpreter),
        "zeros": int(sum(np.sum(kernel == 0) for kernel in kernels)),
    }


def main() -> None:
    fashion_mnist.run_suite(
        tf_keras,
        "peers.tfmot_quantization_aware",
        __doc__,
        SUITES,
        train,
        summarise,
        facts,
    )


if __name__ == "__main__":
    main()
