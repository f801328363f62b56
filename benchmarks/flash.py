"""What encoded weights save in a microcontroller's flash, and cost in arena and time.

    python -m benchmarks.flash --out benchmarks/results/flash.json

Int8 files of networks with random weights, the smallest of each kernel set to zero
(those of depthwise convolutions aside) and batches normalised as after training: as
TensorFlow's converter writes them, slimmed, and encoded by
`kprune.export(..., encode=True)`, which runs both in TensorFlow Lite Micro and compares
their outputs bit for bit on 1,000 inputs. Times are CPU time with the runtime's
reference kernels, ratios taken within rounds in which the files take turns. About five
minutes on one core.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402

import kprune  # noqa: E402
from benchmarks import protocol  # noqa: E402
from benchmarks.structured_gains import NETWORKS  # noqa: E402

SPARSITIES = (0.5, 0.8, 0.9)
# The most that the encoded file may take of the slimmed one with dense weights.
AT_MOST = {("resnet8", 0.8): 0.48, ("resnet8", 0.9): 0.40}
SAMPLES = 1000
# Enough to run them all.
RUN_SECONDS = 300.0


def zeroed(model: keras.Model, sparsity: float) -> keras.Model:
    """Sets that share of each kernel to zero, the smallest elements.

    Depthwise kernels stay, as kprune leaves them by default. What is left is scaled up,
    so that signals get through to the outputs, as they do in trained networks.
    """
    for variable in model.weights:
        if len(variable.shape) > 1 and "depthwise" not in variable.path:
            value = variable.numpy()
            order = np.argsort(np.abs(value), axis=None)
            before = np.square(value).sum()
            value.reshape(-1)[order[: round(sparsity * value.size)]] = 0
            variable.assign(value * np.sqrt(before / np.square(value).sum()))
    return model


def settle(model: keras.Model, inputs: np.ndarray) -> None:
    """Has each batch normalisation normalise these inputs, as after training.

    Behind Keras's initial depthwise kernels, one after the other, signals vanish.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(inputs, training=True)


def measure(network: str, sparsity: float, samples: int) -> dict[str, Any]:
    """Exports one network with and without what is measured."""
    keras.utils.set_random_seed(0)
    model = zeroed(NETWORKS[network](lambda width: width), sparsity)
    shape = model.input_shape[1:]
    inputs = np.random.default_rng(0).random((SAMPLES, *shape), dtype="float32")
    settle(model, inputs[:100])
    inputs = inputs[:samples]
    settings: dict[str, Any] = {
        "target": "microcontroller",
        "representative_data": inputs,
        "num_samples": samples,
        "c_source": False,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        as_written = kprune.export(
            model, path, slim=False, **{**settings, "num_samples": 8}, benchmark=False
        )
        report = kprune.export(
            model, path, encode=True, run_seconds=RUN_SECONDS, **settings
        )
    found = report.encoding
    if found is None:
        raise RuntimeError(f"{network} at {sparsity}: nothing was encoded.")
    if found.samples != samples:
        raise RuntimeError(f"Only {found.samples} of {samples} samples were run.")
    inside, elsewhere = report.latency
    share = report.size.raw / found.plain_size.raw
    result = {
        "ratio": round(share, 4),
        "quartiles": [round(share, 4)] * 2,
        "bytes": {
            "converter": as_written.size.raw,
            "slimmed": found.plain_size.raw,
            "encoded": report.size.raw,
            "slimmed, gzip": found.plain_size.gzip,
        },
        "weights": {
            "raw": sum(weight.raw_bytes for weight in found.weights),
            "encoded": sum(weight.bytes for weight in found.weights),
            "entropy": sum(weight.entropy_bytes for weight in found.weights),
        },
        "arena": {
            "slimmed": found.plain_arena.bytes,
            "encoded": report.arena.bytes if report.arena else None,
            "elsewhere": found.arena_elsewhere.bytes,
            "other_memory": found.other_bytes,
        },
        "time": {
            name: {"ratio": round(1 / item.ratio, 4), "rounds": item.rounds}
            for name, item in (("arena", inside), ("elsewhere", elsewhere))
        },
        "samples": found.samples,
    }
    most = AT_MOST.get((network, sparsity))
    return result if most is None else protocol.judged(result, at_most=most)


def main() -> None:
    args = protocol.options(__doc__)
    samples = 20 if args.quick else SAMPLES
    results = {}
    for network in NETWORKS:
        for sparsity in SPARSITIES:
            found = measure(network, sparsity, samples)
            results[f"{network}, {sparsity}"] = found
            print(
                f"{network}, {sparsity}: the same bits on {found['samples']} inputs",
                flush=True,
            )
    protocol.finish("flash", results, args)


if __name__ == "__main__":
    main()
