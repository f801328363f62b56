"""What shared values save in files that are pruned, and what accuracy they cost.

    python -m benchmarks.clustering --out benchmarks/results/clustering.json

A small network learns the 8x8 digits of scikit-learn and is pruned to 0.8. From there
it is trained further, by the same number of epochs each: pruned only; and with values
shared from the first step on. "At once" stands for `kprune.cluster` of the former,
without any training. Files are int8, made by `kprune.export` with and without
`encode=True`; their accuracy is that of the int8 file, run in LiteRT. A minute per seed
on one core.
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
from sklearn.datasets import load_digits  # noqa: E402

import kprune  # noqa: E402
from benchmarks import protocol  # noqa: E402

L = keras.layers
SPARSITY = 0.8
# Arguments of the clustering; `None` for none.
VARIANTS: dict[str, dict[str, Any] | None] = {
    "pruned": None,
    "16 values": {"num_clusters": 16},
    "8 values": {"num_clusters": 8},
    "4 values": {"num_clusters": 4},
    "4 values per channel": {"num_clusters": 4, "per_channel": True},
}
# The most that a gzipped file may take of that of the network that is pruned only.
AT_MOST = {"16 values": 0.9, "4 values": 0.75}
EPOCHS = 15


def data() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns 1,437 digits to train on and 360 to test on, each with its label."""
    digits = load_digits()
    x = (digits.images / 16)[..., None].astype("float32")
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], digits.target[order]
    return (x[:1437], y[:1437]), (x[1437:], y[1437:])


def network() -> keras.Model:
    """Returns a network of 92,244 parameters, most of them in one dense layer."""
    return keras.Sequential(
        [
            L.Input((8, 8, 1), name="image"),
            L.Conv2D(32, 3, padding="same", activation="relu"),
            L.Conv2D(32, 3, padding="same", activation="relu"),
            L.MaxPooling2D(),
            L.Conv2D(64, 3, padding="same", activation="relu"),
            L.Flatten(),
            L.Dense(62, activation="relu"),
            L.Dense(10),
        ]
    )


def fit(model: keras.Model, epochs: int, *callbacks: Any) -> None:
    """Trains a model further."""
    (x, y), _ = data()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    model.fit(x, y, 64, epochs=epochs, verbose=0, callbacks=list(callbacks))


def accuracy(path: Path) -> float:
    """Returns the share of test images that an int8 file gets right, in percent."""
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (given,), (made,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    scale, zero = given["quantization"]
    images, labels = data()[1]
    right = 0
    for image, label in zip(images, labels, strict=True):
        stored = np.clip(np.rint(image / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(given["index"], stored[None])
        interpreter.invoke()
        right += int(interpreter.get_tensor(made["index"])[0].argmax() == label)
    return 100 * right / len(labels)


def exported(model: keras.Model) -> dict[str, float]:
    """Returns what a model's int8 files take, in bytes, and how accurate they are."""
    (x, _), _ = data()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        sizes = {}
        for name, encode in (("plain", False), ("encoded", True)):
            kprune.export(
                model,
                path,
                target="microcontroller",
                representative_data=x[:200],
                encode=encode,
                c_source=False,
                benchmark=False,
            )
            content = path.read_bytes()
            sizes[name] = len(content)
            sizes[f"{name}, gzip"] = len(gzip.compress(content, 9, mtime=0))
            if not encode:
                right = accuracy(path)
    return {**sizes, "accuracy": right}


def measure(seed: int, epochs: int) -> dict[str, dict[str, float]]:
    """Returns the facts of each variant for one seed."""
    keras.utils.set_random_seed(seed)
    base = network()
    fit(base, 2 * epochs, kprune.PruningCallback(SPARSITY))
    found = {}
    for name, settings in VARIANTS.items():
        keras.utils.set_random_seed(seed + 1000)
        model = kprune.strip(base)
        kprune.hold_zeros(model)
        callbacks = []
        if settings is not None:
            callbacks = [kprune.ClusteringCallback(begin_step=0, **settings)]
        fit(model, epochs, *callbacks)
        found[name] = exported(model)
        if settings is None:
            pruned = model
        else:
            at_once = kprune.cluster(pruned, **settings)
            found[name]["at once"] = exported(at_once)["accuracy"]
        print(f"seed {seed}, {name}: {found[name]}", flush=True)
    return found


def summarised(name: str, seeds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Returns the means of a variant over seeds, and its ratio to pruning alone."""
    facts = {
        key: round(statistics.mean(seed[name][key] for seed in seeds), 2)
        for key in seeds[0][name]
    }
    ratios = [
        seed[name]["plain, gzip"] / seed["pruned"]["plain, gzip"] for seed in seeds
    ]
    result = {
        "ratio": round(statistics.mean(ratios), 4),
        "quartiles": [round(min(ratios), 4), round(max(ratios), 4)],
        "seeds": len(seeds),
        **facts,
    }
    most = AT_MOST.get(name)
    return result if most is None else protocol.judged(result, at_most=most)


def main() -> None:
    args = protocol.options(__doc__, seeds=3)
    epochs = 2 if args.quick else EPOCHS
    number = 1 if args.quick else args.seeds
    seeds = [measure(seed, epochs) for seed in range(number)]
    results = {name: summarised(name, seeds) for name in VARIANTS}
    protocol.finish("clustering", results, args)


if __name__ == "__main__":
    main()
