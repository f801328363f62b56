"""What each quantisation makes of a pruned network, and what float32 layers give back.

    python -m benchmarks.quantization --out benchmarks/results/quantization.json

The network of `benchmarks.clustering` learns the 8x8 digits of scikit-learn and is
pruned to 0.8, which each quantisation then has to write. "Badly scaled" is the same
network, made hard to quantise: of the first layer's channels one is multiplied by 300,
and what reads it divided by 300, so that it computes the same. There the layers that
`kprune.quantization_sensitivity` names stay in float32; or the network is trained for
int8 for ten epochs (`kprune.quantize_aware`). Files are for android; the
error is the difference of outputs from Keras's (L2 norm, relative), and accuracy that
of the file in LiteRT, both on test images. A minute per seed on one core.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gzip  # noqa: E402
import statistics  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import keras  # noqa: E402
import numpy as np  # noqa: E402
from ai_edge_litert.interpreter import Interpreter  # noqa: E402

import kprune  # noqa: E402
from benchmarks import clustering, fashion_mnist, protocol  # noqa: E402

QUANTIZATIONS = ("none", "float16", "dynamic", "int4", "int16x8", "int8")
SCALE = 300.0
AWARE_EPOCHS = 10


def badly_scaled(model: keras.Model) -> keras.Model:
    """Returns a model that computes the same, with values that quantise badly."""
    copy = kprune.strip(model)
    first, second = [layer for layer in copy.layers if layer.weights][:2]
    kernel, bias = first.get_weights()
    largest = int(np.abs(kernel).sum((0, 1, 2)).argmax())
    kernel[..., largest] *= SCALE
    bias[largest] *= SCALE
    after = second.get_weights()[0]
    after[:, :, largest] /= SCALE
    first.set_weights([kernel, bias])
    second.kernel.assign(after)
    return copy


def exported(model: keras.Model, quantization: str, **settings: Any) -> dict[str, Any]:
    """Returns what a file takes, in bytes, and how well it computes."""
    (x, _), (images, labels) = clustering.data()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        report = kprune.export(
            model,
            path,
            "android",
            quantization,
            x[:200],
            benchmark=False,
            encode=False,
            tolerance=10.0,
            **settings,
        )
        found = fashion_mnist.outputs_of_file(Interpreter(str(path)), images)
        content = path.read_bytes()
    right = np.asarray(model(images))
    return {
        "bytes": len(content),
        "gzip": len(gzip.compress(content, 9, mtime=0)),
        "error": float(np.linalg.norm(found - right) / np.linalg.norm(right)),
        "accuracy": 100 * float((found.argmax(1) == labels).mean()),
        "zeros": report.sparsity,
    }


def measure(seed: int, epochs: int) -> dict[str, dict[str, Any]]:
    """Returns the facts of each file for one seed."""
    keras.utils.set_random_seed(seed)
    model = clustering.network()
    clustering.fit(model, 2 * epochs, kprune.PruningCallback(clustering.SPARSITY))
    found = {name: exported(model, name) for name in QUANTIZATIONS}
    hard = badly_scaled(model)
    (x, _), _ = clustering.data()
    sensitivity = kprune.quantization_sensitivity(hard, x[:200])
    print(f"seed {seed}\n{sensitivity}", flush=True)
    found["badly scaled"] = exported(hard, "int8")
    kept = sensitivity.worth_keeping
    found["badly scaled, layers kept"] = {
        **exported(hard, "int8", float_layers=kept),
        "kept": len(kept),
    }
    kprune.hold_zeros(hard)
    aware = kprune.quantize_aware(hard, data=x[:200])
    clustering.fit(aware, 1 if epochs < AWARE_EPOCHS else AWARE_EPOCHS)
    found["badly scaled, trained for int8"] = exported(aware, "int8")
    return found


def summarised(name: str, seeds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Returns the means of a file over seeds, and its size as a ratio to float32."""
    facts = {
        key: round(statistics.mean(seed[name][key] for seed in seeds), 5)
        for key in seeds[0][name]
    }
    ratios = [seed[name]["gzip"] / seed["none"]["gzip"] for seed in seeds]
    return {
        "ratio": round(statistics.mean(ratios), 4),
        "quartiles": [round(min(ratios), 4), round(max(ratios), 4)],
        "seeds": len(seeds),
        **facts,
    }


def main() -> None:
    args = protocol.options(__doc__, seeds=3)
    epochs = 2 if args.quick else clustering.EPOCHS
    number = 1 if args.quick else args.seeds
    seeds = [measure(seed, epochs) for seed in range(number)]
    results = {name: summarised(name, seeds) for name in seeds[0]}
    protocol.finish("quantization", results, args)


if __name__ == "__main__":
    main()
