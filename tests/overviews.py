"""An overview with something of everything, and names that could be markup."""

import numpy as np

from kprune.page import weights
from kprune.page.facts import FileFacts, Overview
from kprune.report import EpochRecord, FileSize, FitRecord, Latency, Refusal

NAME = "<script>alert('x')</script>"


def weight(inputs, outputs, sparsity, seed):
    values = np.random.default_rng(seed).normal(0, 0.2, (3, 3, inputs, outputs))
    values[np.abs(values) < np.quantile(np.abs(values), sparsity)] = 0
    return weights.Weight("Conv2D", outputs, values)


def fit(name, steps, sparsity, *values, **rest):
    each = steps // len(values)
    epochs = (
        EpochRecord(i, each * (i + 1), {"accuracy": value, "loss": 1 - value})
        for i, value in enumerate(values)
    )
    return FitRecord(name, steps, tuple(epochs), sparsity, **rest)


def file(name, target, raw, accuracy, sparsity, latency=(), quantization="int8"):
    parts = {"weights": raw - 2000, "graph": 1500, "sparsity metadata": 500}
    return FileFacts(
        name=name,
        path=f"{name}.tflite",
        target=target,
        quantization=quantization,
        metrics={"loss": 0.3, "accuracy": accuracy},
        size=FileSize(raw, raw // 2),
        sections={part: FileSize(size, size // 2) for part, size in parts.items()},
        sparsity=sparsity,
        arena=raw // 3 if target == "microcontroller" else None,
        latency=latency,
    )


def example():
    before = {NAME: weight(1, 16, 0, 0), "stage1/conv": weight(16, 32, 0, 1)}
    before |= {"stage2/a_rather_long_name/of_a_conv": weight(16, 64, 0, 2)}
    after = {NAME: weight(1, 13, 0.4, 0), "stage1/conv": weight(13, 20, 0.8, 1)}
    times = (
        Latency("LiteRT, 1 thread", "dense float32", 1.23, 0.41, 3.0, 2.9, 3.1, 40),
        Latency("TensorFlow Lite Micro, r.", "other", 9.1, 2.8, 3.2, 3.1, 3.3, 9),
    )
    ramp = ((0, 0.0), (20, 0.5), (40, 0.7), (60, 0.8))
    refused = (
        Refusal("head units", 10, f"an output: {NAME}"),
        Refusal("stem/bias", 0, "a bias: few elements"),
        Refusal("head/bias", 0, "a bias: few elements"),
    )
    return Overview(
        title=f"resnet8 {NAME}",
        about="Fashion-MNIST: train, prune.",
        compared=("dense", "after prune"),
        layers=weights.compared(before, after),
        files=(
            file("dense float32", "microcontroller", 312464, 0.9123, 0.0, (), "none"),
            file("dense float32", "android", 319128, 0.9123, 0.0, (), "none"),
            file("1 train", "microcontroller", 94000, 0.9121, 0.0),
            file("1 train", "android", 98000, 0.9121, 0.0),
            file("2 prune", "microcontroller", 24000, 0.9056, 0.8, times),
            file("2 prune", "android", 31000, 0.9056, 0.8, times[:1]),
        ),
        fits=(
            fit("1 train", 100, ((0, 0.0),), 0.7, 0.85, 0.9, 0.91, 0.915),
            fit("2 prune", 100, ramp, 0.8, 0.86, 0.89, refusals=refused),
        ),
        notes=("Zeros are multiplied like other numbers.",),
        recipe="stages:\n- train: {epochs: 5}\n- prune: {epochs: 3, sparsity: 0.8}\n",
        machines=(
            {
                "date": "2026-11-28",
                "processor": "Intel(R) Xeon(R) Processor",
                "cores": 2,
                "memory_bytes": 8 << 30,
                "load_average": [0.5, 0.4, 0.3],
                "system": "Linux 6.1 x86_64",
                "python": "3.11.7",
                "versions": {"kprune": "0.1.0", "keras": "3.15.1"},
            },
        ),
    )
