"""What the accuracy benchmarks share: data, networks, training, resumable results.

Functions take `keras` as an argument, Keras 3 or tf_keras, so that kprune and its peer
train the same networks on the same data in the same way. Nothing here imports Keras,
and TensorFlow only where batches are made: a peer in PyTorch has neither.
"""

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import protocol

BATCH_SIZE = 128
WARM_UP = 0.5  # Epochs at the begin of each phase.
VALIDATION = 10_000  # Of Fashion-MNIST's training images: a sixth.
QUICK_TRAIN, QUICK_TEST = 1280, 500  # Images with `--quick`.

PROTOCOL = (
    "Fashion-MNIST, all 60,000 training images, accuracy in percent on the 10,000 test "
    "images after the last epoch. Pixels divided by 255, no augmentation, batch 128, "
    "Adam. Each phase of training has a fresh optimizer whose learning rate rises over "
    "half an epoch to its peak and falls to zero along a cosine. Pruned networks are "
    "trained dense in the first phase and pruned in the second; the dense ones that "
    "they are compared with have the same epochs, and of one long cosine and the same "
    "two phases, where both were run, the better counts. All networks of a seed that "
    "have the same first phase share it. Choices were made on a validation split of "
    "the training images."
)

# Training and test set: inputs, float32, and labels, int32, each.
Data = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def images(keras: Any) -> Data:
    """Returns Fashion-MNIST, 28x28x1 with values in [0, 1]."""
    train, test = (
        (pixels[..., None].astype("float32") / 255, labels.astype("int32"))
        for pixels, labels in keras.datasets.fashion_mnist.load_data()
    )
    return train, test


@dataclasses.dataclass(frozen=True)
class Task:
    """What a suite trains on, and what its result file says of how.

    `load` returns the data, given the module `keras` or `tf_keras`.
    """

    protocol: str = PROTOCOL
    load: Callable[[Any], Data] = images


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training with its own optimizer."""

    epochs: int
    peak: float


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: which network, how long, how sparse."""

    net: str
    phases: tuple[Phase, ...]
    sparsity: float = 0.0
    allocation: str | None = None

    def key(self) -> dict[str, Any]:
        """Returns what tells the run's rows from others in a result file."""
        return {
            "net": self.net,
            "sparsity": self.sparsity,
            "allocation": self.allocation,
            "epochs": [phase.epochs for phase in self.phases],
            "peaks": [phase.peak for phase in self.phases],
        }

    def short(self) -> "Run":
        """Returns the run with one epoch per phase, to see that it works."""
        phases = tuple(dataclasses.replace(phase, epochs=1) for phase in self.phases)
        return dataclasses.replace(self, phases=phases)


@dataclasses.dataclass(frozen=True)
class StructuredRun(Run):
    """One training in which whole channels may be removed.

    `macs` is the share of the network's multiplications that is left, and `how` the
    way to remove the others.
    """

    macs: float = 1.0
    how: str | None = None

    def key(self) -> dict[str, Any]:
        """Returns what tells the run's rows from others in a result file."""
        return super().key() | {"macs": self.macs, "how": self.how}


def cnn(keras: Any) -> Any:
    """Returns the usual tutorial network, 225,034 parameters."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ]
    )


def allconv(keras: Any, channels: Sequence[int] = (24, 48, 64, 80)) -> Any:
    """Returns four convolutions with BatchNormalization, 85,986 parameters."""
    layers = keras.layers
    model = keras.Sequential([keras.Input((28, 28, 1))])
    for filters, strides in zip(channels, (2, 1, 2, 1), strict=True):
        model.add(
            layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)
        )
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(10))
    return model


def small_allconv(keras: Any) -> Any:
    """Returns `allconv` with as many parameters as 0.8 sparsity leaves: 17,813."""
    return allconv(keras, (11, 21, 29, 36))


RESNET8_WIDTHS = (16, 32, 64)


def resnet8(keras: Any, widths: Sequence[int] = RESNET8_WIDTHS) -> Any:
    """Returns MLPerf Tiny's residual CNN for these images, 78,378 parameters."""
    layers = keras.layers
    inputs = keras.Input((28, 28, 1))

    def convolve(x: Any, filters: int, strides: int = 1) -> Any:
        x = layers.Conv2D(filters, 3, strides=strides, padding="same")(x)
        return layers.BatchNormalization()(x)

    x = layers.ReLU()(convolve(inputs, widths[0]))
    for filters, strides in zip(widths, (1, 2, 2), strict=True):
        y = convolve(layers.ReLU()(convolve(x, filters, strides)), filters)
        if strides > 1:
            x = layers.Conv2D(filters, 1, strides=strides, padding="same")(x)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Flatten()(layers.AveragePooling2D(7)(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def resnet8_macs(widths: Sequence[int]) -> int:
    """Returns how often `resnet8` of these widths multiplies, for one image."""
    size, channels = 28, widths[0]
    macs = size**2 * 9 * channels
    for filters, strides in zip(widths, (1, 2, 2), strict=True):
        size //= strides
        taps = 9 * channels + 9 * filters + (channels if strides > 1 else 0)
        macs += size**2 * taps * filters
        channels = filters
    return macs + channels * 10


def narrow_widths(share: float) -> tuple[int, ...]:
    """Returns the widest `resnet8`, scaled as a whole, with this share of its MACs."""
    most = share * resnet8_macs(RESNET8_WIDTHS)
    scaled = (
        tuple(round(width * step / 256) for width in RESNET8_WIDTHS)
        for step in range(256, 0, -1)
    )
    return next(widths for widths in scaled if resnet8_macs(widths) <= most)


def dscnn(keras: Any, channels: int = 64) -> Any:
    """Returns depthwise separable convolutions as keyword spotting has, 22,602 weights.

    They are MLPerf Tiny's, for these images.
    """
    layers = keras.layers
    model = keras.Sequential([keras.Input((28, 28, 1))])

    def normalised(layer: Any) -> None:
        model.add(layer)
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU())

    normalised(layers.Conv2D(channels, 3, strides=2, padding="same", use_bias=False))
    for _ in range(4):
        normalised(layers.DepthwiseConv2D(3, padding="same", use_bias=False))
        normalised(layers.Conv2D(channels, 1, use_bias=False))
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(10))
    return model


NETWORKS: dict[str, Callable[[Any], Any]] = {
    "cnn": cnn,
    "allconv": allconv,
    "small allconv": small_allconv,
    "dscnn": dscnn,
    "resnet8": resnet8,
    "resnet8 half": functools.partial(resnet8, widths=narrow_widths(0.5)),
    "resnet8 quarter": functools.partial(resnet8, widths=narrow_widths(0.25)),
}


def few(half: Any, count: int) -> Any:
    """Returns the first inputs and labels."""
    return tuple(array[:count] for array in half)


def short(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Returns short runs of each kind: one where runs differ in shares or epochs."""
    kinds: dict[str, Run] = {}
    for run in runs:
        varied = ("sparsity", "macs", "epochs", "peaks")
        key = {k: bool(v) if k in varied[:2] else v for k, v in run.key().items()}
        kinds.setdefault(repr([v for k, v in key.items() if k not in varied[2:]]), run)
    return tuple(run.short() for run in kinds.values())


class Trainer:
    """Trains on one task's data, and keeps dense first phases for the runs after it.

    Args:
        keras: The module, `keras` or `tf_keras`.
        folder: Where weights of first phases are kept.
        validation: Whether to train on all but the last sixth of the training data,
            10,000 images of Fashion-MNIST, and to evaluate on that: for making choices.
        task: Whose data.
        quick: Whether to take only the first of the data.
    """

    def __init__(
        self,
        keras: Any,
        folder: Path,
        validation: bool = False,
        task: Task = Task(),
        quick: bool = False,
    ) -> None:
        self.keras = keras
        self.folder = folder
        self.validation = validation
        train, test = task.load(keras)
        if quick:
            train, test = few(train, QUICK_TRAIN), few(test, QUICK_TEST)
        if validation:
            split = len(train[0]) - len(train[0]) // 6
            test = train[0][split:], train[1][split:]
            train = train[0][:split], train[1][:split]
        (self.x, self.y), (self.x_test, self.y_test) = train, test
        self.steps = -(-len(self.x) // BATCH_SIZE)

    def fit(
        self,
        model: Any,
        phase: Phase,
        seed: int,
        callbacks: Any = None,
        teach: Callable[[Any], Any] | None = None,
    ) -> None:
        """Trains a model, with a fresh optimizer and the seed's order of batches.

        `teach` returns what is fitted in place of the compiled model.
        """
        keras = self.keras
        keras.utils.set_random_seed(seed)
        warm_up = int(WARM_UP * self.steps)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0,
            phase.epochs * self.steps - warm_up,
            warmup_target=phase.peak,
            warmup_steps=warm_up,
        )
        model.compile(
            keras.optimizers.Adam(rate),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        learner = model if teach is None else teach(model)
        learner.fit(
            self.batches(seed),
            epochs=phase.epochs,
            callbacks=callbacks,
            shuffle=False,  # Done by the data set.
            verbose=2,
        )

    def batches(self, seed: int) -> Any:
        """Returns the training data in batches, shuffled anew in each epoch."""
        import tensorflow as tf

        inputs, labels = tf.constant(self.x), tf.constant(self.y)
        order = tf.data.Dataset.range(len(self.x)).shuffle(len(self.x), seed)
        batches = order.batch(BATCH_SIZE).map(
            lambda indices: (tf.gather(inputs, indices), tf.gather(labels, indices))
        )
        # The end of an epoch waits for the autotuner's thread, which may be in the
        # middle of a sleep of several seconds.
        options = tf.data.Options()
        options.autotune.enabled = False
        return batches.prefetch(2).with_options(options)

    def first_phase(self, run: Run, seed: int) -> Any:
        """Returns the dense network after the run's first phase."""
        keras, phase = self.keras, run.phases[0]
        keras.utils.set_random_seed(seed)
        model = NETWORKS[run.net](keras)
        split = "_validation" if self.validation else ""
        name = f"{run.net}_{phase.epochs}_{phase.peak}_seed{seed}{split}".replace(
            " ", "_"
        )
        path = self.folder / f"{keras.__name__}_{name}.weights.h5"
        if path.exists():
            model.load_weights(path)
        else:
            self.fit(model, phase, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            model.save_weights(path)
        return model

    def score(self, predict: Callable[[np.ndarray], np.ndarray]) -> float:
        """Returns the accuracy in percent of a function from images to logits."""
        logits = np.concatenate(
            [
                np.asarray(predict(self.x_test[start : start + 500]))
                for start in range(0, len(self.x_test), 500)
            ]
        )
        return round(100 * float(np.mean(logits.argmax(-1) == self.y_test)), 2)


def outputs_of_file(interpreter: Any, images: np.ndarray) -> np.ndarray:
    """Returns what a `.tflite` file with float32 inputs and outputs makes of images."""
    interpreter.allocate_tensors()
    (given,), (made,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    outputs = []
    for image in images:
        interpreter.set_tensor(given["index"], image[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(made["index"])[0])
    return np.stack(outputs)


def counts(model: Any) -> dict[str, Any]:
    """Returns parameters, those left, and the sparsity of kernels, all and each."""
    # By name: the biases of a GRU are a matrix, too.
    kernels = [
        values
        for variable, values in zip(model.weights, model.get_weights(), strict=True)
        if values.ndim > 1 and "bias" not in variable.name
    ]
    zeros = [kernel.size - np.count_nonzero(kernel) for kernel in kernels]
    total = sum(kernel.size for kernel in kernels)
    return {
        "parameters": model.count_params(),
        "parameters_left": int(model.count_params() - sum(zeros)),
        "achieved_sparsity": round(float(sum(zeros) / total), 5),
        "kernel_sparsities": [
            round(float(n / kernel.size), 3)
            for n, kernel in zip(zeros, kernels, strict=True)
        ],
    }


def run_suite(
    keras: Any,
    benchmark: str,
    docstring: str | None,
    suites: dict[str, tuple[Run, ...]],
    train: Callable[[Trainer, Run, int], Any],
    summarise: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
    more_facts: Callable[[Trainer, Run, Any], dict[str, Any]] | None = None,
    tasks: Mapping[str, Task] | None = None,
) -> None:
    """Runs what the command line asks for and the result file does not have yet.

    Args:
        keras: The module, `keras` or `tf_keras`.
        benchmark: Name of the script's module in `benchmarks`.
        docstring: The script's, for `--help`.
        suites: What to run, by the name for `--suite`.
        train: Returns the network of one run and seed.
        summarise: Returns the summary of all rows.
        more_facts: Returns more columns for a row.
        tasks: What suites train on, by their names, where it is not Fashion-MNIST
            by `PROTOCOL`.
    """
    args = options(docstring, tuple(suites))
    task = (tasks or {}).get(args.suite, Task())
    trainer = Trainer(keras, args.weights, args.validation, task, args.quick)
    results = Results(benchmark, args, summarise, task.protocol)
    for seed in args.seeds:
        for run in chosen(suites, args):
            if results.has(run, seed):
                continue
            started = time.perf_counter()
            model = train(trainer, run, seed)
            predict = functools.partial(model, training=False)
            facts = {"accuracy": trainer.score(predict), **counts(model)}
            if more_facts is not None:
                facts |= more_facts(trainer, run, model)
            results.add(run, seed, started, facts)
            keras.backend.clear_session()
    results.write(results.rows())
    for row in summarise(results.rows()):
        print(row)


def chosen(
    suites: Mapping[str, Sequence[Run]], args: argparse.Namespace
) -> Sequence[Run]:
    """Returns the runs that the command line asks for."""
    return short(suites[args.suite]) if args.quick else suites[args.suite]


class Results:
    """A result file that grows by one row per run; what it has is not run again."""

    def __init__(
        self,
        benchmark: str,
        args: argparse.Namespace,
        summarise: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
        about: str = PROTOCOL,
    ) -> None:
        self.benchmark, self.args, self.summarise = benchmark, args, summarise
        self.about = about

    def rows(self) -> list[dict[str, Any]]:
        """Returns what the file has now; several processes may add to it."""
        return protocol.written(self.args).get("rows", [])

    def has(self, run: Run, seed: int) -> bool:
        """Returns whether the run is in the file."""
        key = self._key(run, seed)
        return any({**row, **key} == row for row in self.rows())

    def add(self, run: Run, seed: int, started: float, facts: dict[str, Any]) -> None:
        """Adds a row and writes the file."""
        seconds = round(time.perf_counter() - started)
        row = {**self._key(run, seed), **facts, "seconds": seconds}
        print(row, flush=True)
        self.write([*self.rows(), row])

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Writes the file, whole or not at all."""
        before = protocol.written(self.args)
        same = before.get("rows") == rows  # Then they keep their date and machine.
        document = {
            "benchmark": self.benchmark,
            "command": f"python -m benchmarks.{self.benchmark} --suite "
            f"{self.args.suite} --out {self.args.out}",
            "protocol": self.about,
            "machine": before["machine"] if same else protocol.machine(),
            "validation": self.args.validation,
            "quick": self.args.quick,
            "rows": rows,
            "summary": self.summarise(rows),
        }
        self.args.out.parent.mkdir(parents=True, exist_ok=True)
        partial = self.args.out.with_suffix(".partial")
        partial.write_text(json.dumps(document, indent=1) + "\n")
        partial.replace(self.args.out)

    def _key(self, run: Run, seed: int) -> dict[str, Any]:
        return {"suite": self.args.suite, "seed": seed, **run.key()}


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns one row per run: mean and range of its accuracy over the seeds."""
    names = ("net", "sparsity", "allocation", "epochs")
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(repr([row[name] for name in names]), []).append(row)
    return [
        {
            **{name: group[0][name] for name in names},
            "parameters_left": group[0]["parameters_left"],
            **spread([row["accuracy"] for row in group]),
        }
        for group in groups.values()
    ]


def structured_means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns `means` of structured runs, and what the pruned ones lost."""
    names = ("net", "macs", "how", "epochs")
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(repr([row[name] for name in names]), []).append(row)
    result = [
        {
            **{name: group[0][name] for name in names},
            "parameters": [row["parameters"] for row in group],
            "macs_left": [row["macs_left"] for row in group],
            **spread([row["accuracy"] for row in group]),
            "by_seed": {str(row["seed"]): row["accuracy"] for row in group},
        }
        for group in groups.values()
    ]
    for row in result:
        dense = from_scratch(result, row["net"], row["epochs"])
        if row["how"] and dense is not None:
            lead = mean_lead(dense, row)
            row |= {} if lead is None else {"lost": lead}
    return result


def from_scratch(
    summary: list[dict[str, Any]], net: str, epochs: Sequence[int]
) -> dict[str, Any] | None:
    """Returns the row of a network that was trained as long without being pruned."""
    for row in summary:
        same = row["net"] == net and sum(row["epochs"]) == sum(epochs)
        if same and row["how"] is None:
            return row
    return None


def mean_lead(row: dict[str, Any], other: dict[str, Any]) -> float | None:
    """Returns how far a row of `structured_means` is ahead, on seeds that both have."""
    pairs = [
        (accuracy, other["by_seed"][seed])
        for seed, accuracy in row["by_seed"].items()
        if seed in other["by_seed"]
    ]
    return round(sum(a - b for a, b in pairs) / len(pairs), 3) if pairs else None


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Returns mean, range and number of accuracies."""
    return {
        "accuracy": round(sum(values) / len(values), 3),
        "range": [min(values), max(values)],
        "seeds": len(values),
    }


def options(docstring: str | None, suites: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; the first suite is the default."""
    parser = argparse.ArgumentParser(
        description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", choices=suites, default=suites[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to go on")
    parser.add_argument(
        "--weights",
        type=Path,
        default=Path("build/accuracy"),
        help="folder for weights of dense first phases (%(default)s)",
    )
    parser.add_argument(
        "--validation",
        action="store_true",
        help="hold 10,000 training images out and evaluate on them",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one seed, few images and epochs, to see that it works",
    )
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.weights = args.seeds[:1], args.out.parent / "weights"
    return args
