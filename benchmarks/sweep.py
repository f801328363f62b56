"""Draws the pictures of docs/sensitivity.md, of a small network on Fashion-MNIST.

python -m benchmarks.sweep    # writes docs/sensitivity.png and docs/sweep.png

It trains for an epoch on the first 8,000 images, in each trial for one or two more; all
is kept in build/sweep, and goes on there.
"""

import argparse
from pathlib import Path
from typing import Any

import keras

import kprune
from kprune.recipe import Export, Prune, Recipe, Shrink

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "sweep"
SAMPLES, HELD_OUT = 8_000, 4_000


def data() -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Returns images and labels to train on, and others of the training images."""
    (x, y), _ = keras.datasets.fashion_mnist.load_data()
    x = x[..., None].astype("float32") / 255
    return (x[:SAMPLES], y[:SAMPLES]), (x[-HELD_OUT:], y[-HELD_OUT:])


def network() -> keras.Model:
    """Returns the network, compiled."""
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(16, 3, strides=2, activation="relu", name="stem"),
            layers.Conv2D(32, 3, strides=2, activation="relu", name="body"),
            layers.Conv2D(32, 3, activation="relu", name="top"),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(10, name="head"),
        ],
        name="network",
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def space(trial: Any) -> Recipe:
    """Returns a recipe: fewer channels, fewer weights, or both."""
    channels = trial.suggest_float("channels", 0.0, 0.6)
    stages: list[Any] = [Prune(trial.suggest_float("sparsity", 0.3, 0.95), epochs=1)]
    if channels > 0.1:
        stages.insert(0, Shrink(channels, epochs=1))
    return Recipe(tuple(stages), Export("microcontroller", encode=True), batch_size=64)


def main() -> None:
    """Trains, measures, searches and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    trained = FOLDER / "model.keras"
    if trained.exists():
        model = keras.saving.load_model(trained)
    else:
        keras.utils.set_random_seed(0)
        model = network()
        model.fit(*data()[0], batch_size=64, verbose=2)
        FOLDER.mkdir(parents=True, exist_ok=True)
        model.save(trained)
    report = kprune.sensitivity(model, data()[1], batch_size=500)
    print(report)
    report.plot(ROOT / "docs" / "sensitivity.png")
    found = kprune.sweep(
        space,
        model,
        "benchmarks.sweep:data",
        FOLDER / "trials",
        trials=options.trials,
        workers=options.workers,
        objectives=("accuracy", "bytes", "nonzero_macs"),
    )
    print(found)
    found.plot(ROOT / "docs" / "sweep.png")


if __name__ == "__main__":
    main()
