"""The demo: the whole job on real data, from training to measured files.

This module changes when the job that newcomers are shown does. It prints nothing:
`kprune.demo_view` shows what this tells it.
"""

import dataclasses
import difflib
import importlib.util
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from kprune.callbacks import PruningCallback
from kprune.config import check_fraction
from kprune.export import export
from kprune.export.csource import check_free
from kprune.export.ends import of_file
from kprune.export.files import write_together
from kprune.export.latency import LITERT, summarise
from kprune.export.litert import Session, times
from kprune.export.samples import Samples
from kprune.export.sections import sections
from kprune.inspection import inspect
from kprune.page import weights
from kprune.page.facts import FileFacts, Overview
from kprune.page.fits import record
from kprune.report import FileSize, FitRecord, Latency, Report
from kprune.report.text import as_json
from kprune.transform import strip
from kprune_machine import machine

_LEARNING_RATE = 1e-3

# The rows; also the names of their files, with a hyphen for the blank.
DENSE, PRUNED = "dense float32", "pruned float32"
DENSE_INT8, PRUNED_INT8 = "dense int8", "pruned int8"
ENCODED_INT8 = "encoded int8"


class Listener(Protocol):
    """What the demo tells how it gets on."""

    def say(self, text: str) -> None:
        """Takes a sentence."""

    def progress(self, stage: str, done: float, total: int, facts: str) -> None:
        """Takes how far a stage is; it is over when `done` equals `total`."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One file, measured.

    Args:
        name: What it holds.
        path: Where it is.
        accuracy: Share of the test images, in [0, 1], that the file classifies
            correctly in LiteRT; of the encoded one, what it was encoded from.
        sparsity: Share of zeros in the file's kernels, in [0, 1].
        size: Its bytes.
        arena: Bytes of memory that TensorFlow Lite Micro needs; `None` if not measured.
        latency: Its time beside the dense file's; `None` where LiteRT cannot run it.
    """

    name: str
    path: str
    accuracy: float
    sparsity: float
    size: FileSize
    arena: int | None
    latency: Latency | None


@dataclasses.dataclass(frozen=True)
class Result:
    """What the demo measured.

    Args:
        dataset: Name of the data set.
        asked: Sparsity asked for, over all kernels together.
        epochs: Epochs that each model was trained.
        pruning_epochs: The last of them, in which the pruned one was pruned.
        seed: Seed of all random numbers.
        parameters: Number of weights of the network.
        test_samples: Number of images that accuracies were measured on.
        rows: The files: dense and pruned in float32, both in int8, and, if TensorFlow
            Lite Micro is there, the last one with encoded weights.
        decoding: Time of one inference with encoded weights beside the one without, in
            TensorFlow Lite Micro; `None` if it is not there.
        notes: What is to be known besides, in sentences.
        files: Everything that was written.
    """

    dataset: str
    asked: float
    epochs: int
    pruning_epochs: int
    seed: int
    parameters: int
    test_samples: int
    rows: tuple[Row, ...]
    decoding: Latency | None
    notes: tuple[str, ...]
    files: tuple[str, ...]

    def to_json(self) -> str:
        """Returns the result as JSON text."""
        return as_json(dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class Data:
    """Images with values in [0, 1] and their labels."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set, and the network and training that suit it.

    Args:
        title: The data set's name and source.
        load: Returns the data.
        network: Returns the untrained network for images of a shape.
        epochs: Epochs to train by default.
        batch_size: Samples per step.
    """

    title: str
    load: Callable[[], Data]
    network: Callable[[tuple[int, ...]], keras.Model]
    epochs: int
    batch_size: int


def _digits() -> Data:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    # The same split whatever the seed: seeds are to differ in training alone.
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=1 / 3, stratify=labels, random_state=0
    )
    return Data(x_train, y_train, x_test, y_test)


def _fashion_mnist() -> Data:
    try:
        train, test = keras.datasets.fashion_mnist.load_data()
    except Exception as error:  # Keras raises a plain Exception without a network.
        raise ValueError(
            f"Fashion-MNIST could not be downloaded: {error} Check the network, or "
            "use the data set 'digits', which needs none."
        ) from error

    def scaled(images: np.ndarray) -> np.ndarray:
        return (images / 255).astype("float32")[..., None]

    return Data(scaled(train[0]), train[1], scaled(test[0]), test[1])


def _small_network(shape: tuple[int, ...]) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(shape, name="image"),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1"),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu", name="conv2"),
            keras.layers.MaxPooling2D(name="pool"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(128, activation="relu", name="hidden"),
            keras.layers.Dense(10, name="logits"),
        ],
        name="digits",
    )


def _tutorial_network(shape: tuple[int, ...]) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(shape, name="image"),
            keras.layers.Conv2D(32, 3, activation="relu", name="conv1"),
            keras.layers.MaxPooling2D(name="pool1"),
            keras.layers.Conv2D(64, 3, activation="relu", name="conv2"),
            keras.layers.MaxPooling2D(name="pool2"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(128, activation="relu", name="hidden"),
            keras.layers.Dense(10, name="logits"),
        ],
        name="fashion_mnist",
    )


DATASETS: Mapping[str, Task] = {
    "digits": Task("scikit-learn's digits", _digits, _small_network, 40, 32),
    "fashion-mnist": Task("Fashion-MNIST", _fashion_mnist, _tutorial_network, 4, 128),
}
"""The data sets by name."""


def run(
    out: Path,
    listener: Listener,
    *,
    dataset: str = "digits",
    sparsity: float = 0.9,
    epochs: int | None = None,
    seed: int = 0,
) -> Result:
    """Trains, prunes, exports and measures.

    A network is trained dense for the first half of the epochs. From there two copies
    go on alike for the second half: one stays dense, one is pruned. Each becomes a
    float32 and an int8 file. The files are written last, when
    everything is measured, or not at all.

    Args:
        out: The folder for the files; it is made if it is missing.
        listener: Is told how the work gets on.
        dataset: A key of `DATASETS`.
        sparsity: Fraction of zeros to reach over all kernels together, in [0, 1).
        epochs: Epochs that each model is trained, at least 2; by default the data
            set's own number.
        seed: Seed of all random numbers, at least 0.

    Raises:
        ValueError: If an argument does not fit, or the data cannot be loaded.
    """
    task = _choose(dataset)
    epochs = task.epochs if epochs is None else epochs
    _check(sparsity, epochs, seed)
    _check_folder(out)

    data = task.load()
    keras.utils.set_random_seed(seed)
    dense = task.network(data.x_train.shape[1:])
    first, second = range(epochs // 2), range(epochs // 2, epochs)
    listener.say(_data_line(task, data, dense))
    listener.say(
        f"Trained for {len(first)} epochs; from there on for {len(second)} more, once "
        f"dense and once pruned to sparsity {sparsity:g}."
    )
    fits = [_train(dense, data, task, listener, "train dense", first)]
    pruned = task.network(data.x_train.shape[1:])
    pruned.set_weights(dense.get_weights())
    _train(dense, data, task, listener, "stay dense", second)
    pruning = PruningCallback(sparsity)
    fits.append(_train(pruned, data, task, listener, "prune", second, pruning))
    pruned = strip(pruned)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows, decoding, notes = _files(folder, dense, pruned, data, listener)
        pruned.save(folder / "pruned.keras")
        Overview(
            title=f"kprune demo: {task.title}",
            about=f"A small network: {epochs} epochs, and in the last {len(second)} of "
            f"them pruned to sparsity {sparsity:g}; beside it the same one, dense.",
            compared=("dense", "pruned"),
            layers=weights.compared(weights.of_model(dense), weights.of_model(pruned)),
            files=tuple(_facts(row, folder, decoding) for row in rows),
            fits=tuple(fits),
            notes=notes,
            machines=(machine(),),
        ).save(folder / "report.html")
        names = sorted(path.name for path in folder.iterdir())
        result = Result(
            dataset=dataset,
            asked=sparsity,
            epochs=epochs,
            pruning_epochs=len(second),
            seed=seed,
            parameters=dense.count_params(),
            test_samples=len(data.y_test),
            rows=tuple(
                dataclasses.replace(row, path=str(out / row.path)) for row in rows
            ),
            decoding=decoding,
            notes=notes,
            files=tuple(str(out / name) for name in (*names, "results.json")),
        )
        contents = {out / name: (folder / name).read_bytes() for name in names}
    contents[out / "results.json"] = f"{result.to_json()}\n".encode()
    out.mkdir(parents=True, exist_ok=True)
    write_together(contents)
    return result


def _choose(dataset: str) -> Task:
    if dataset in DATASETS:
        return DATASETS[dataset]
    near = difflib.get_close_matches(dataset.lower(), DATASETS, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"Unknown data set. Received: {dataset!r}. Expected one of "
        f"{tuple(DATASETS)}.{hint}"
    )


def _check(sparsity: float, epochs: int, seed: int) -> None:
    check_fraction("sparsity", sparsity, "demo")
    if epochs < 2:
        raise ValueError(
            "demo: `epochs` must be at least 2, one to train and one to prune. "
            f"Received {epochs}."
        )
    if not 0 <= seed < 2**32:
        raise ValueError(
            f"demo: `seed` must be at least 0 and below 2**32. Received {seed}."
        )


def _check_folder(out: Path) -> None:
    existing = next(path for path in (out, *out.parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(
            f"{str(existing)!r} is a file, not a folder. Choose another folder for "
            "the files."
        )
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(
            f"Cannot write into {str(existing)!r}: {error.strerror}. Choose another "
            "folder for the files."
        ) from error
    check_free(out / _file_name(PRUNED_INT8))


def _data_line(task: Task, data: Data, model: keras.Model) -> str:
    size = "x".join(map(str, data.x_train.shape[1:3]))
    return (
        f"{task.title}: {len(data.y_train):,} images of {size} to train on, "
        f"{len(data.y_test):,} to test on; {model.count_params():,} parameters."
    )


class _Progress(keras.callbacks.Callback):
    """Tells a listener about a fit, after every batch."""

    def __init__(self, listener: Listener, stage: str, before: int) -> None:
        super().__init__()
        self._listener = listener
        self._stage = stage
        self._before = before
        self._epoch = 0
        self._facts = ""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # The last batch's progress is the epoch's, which has numbers to tell.
        if batch + 1 < self.params["steps"]:
            self._tell(self._epoch + (batch + 1) / self.params["steps"])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        last = self._before + self.params["epochs"]
        self._facts = (
            f"epoch {self._before + epoch + 1}/{last}  "
            f"train acc. {logs['accuracy']:.4f}  "
            f"sparsity {logs.get('sparsity', 0.0):.4f}"
        )
        self._tell(epoch + 1)

    def _tell(self, done: float) -> None:
        self._listener.progress(self._stage, done, self.params["epochs"], self._facts)


def _train(
    model: keras.Model,
    data: Data,
    task: Task,
    listener: Listener,
    stage: str,
    epochs: range,
    *callbacks: keras.callbacks.Callback,
) -> FitRecord:
    """Trains for some epochs with a fresh Adam; the last ones take its rate to zero."""
    rate: Any = _LEARNING_RATE
    if epochs.start > 0:
        steps = math.ceil(len(data.y_train) / task.batch_size) * len(epochs)
        rate = keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, steps)
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(
        data.x_train,
        data.y_train,
        batch_size=task.batch_size,
        epochs=len(epochs),
        verbose=0,
        callbacks=[*callbacks, _Progress(listener, stage, epochs.start)],
    ).history
    return record(stage, model, history, int(model.optimizer.iterations), callbacks)


def _file_name(row: str) -> str:
    return f"{row.replace(' ', '-')}.tflite"


def _files(
    folder: Path,
    dense: keras.Model,
    pruned: keras.Model,
    data: Data,
    listener: Listener,
) -> tuple[tuple[Row, ...], Latency | None, tuple[str, ...]]:
    """Writes the files and measures each.

    Returns:
        The rows, the time that decoding takes, and notes on the last file.
    """
    target = "microcontroller" if has_micro() else "android"
    plan = (
        (DENSE, dense, "none"),
        (PRUNED, pruned, "none"),
        (DENSE_INT8, dense, "int8"),
        (PRUNED_INT8, pruned, "int8"),
    )
    stage, stages = "measure", len(plan) + 2
    reports: list[Report] = []
    sessions: list[Session] = []
    for done, (name, model, quantization) in enumerate(plan):
        listener.progress(stage, done, stages, f"export {name}")
        path = folder / _file_name(name)
        report = export(
            model,
            path,
            target,
            quantization,
            data.x_train,
            dense=folder / _file_name(DENSE) if reports else None,
            benchmark=False,  # All files are timed in turns below.
            c_source=name == PRUNED_INT8,
        )
        reports.append(report)
        content = path.read_bytes()
        sessions.append(Session(content, of_file(content)))
    listener.progress(stage, len(plan), stages, "accuracy and latency")
    found = times(sessions, (data.x_test[:1],))
    rows = tuple(
        Row(
            name=name,
            path=_file_name(name),
            accuracy=_accuracy(session, data),
            sparsity=inspect(report.path).sparsity,
            size=report.size,
            arena=report.arena.bytes if report.arena else None,
            latency=summarise(LITERT, DENSE, found[0], seconds),
        )
        for (name, *_), report, session, seconds in zip(
            plan, reports, sessions, found, strict=True
        )
    )
    last, decoding = reports[-1], None
    if target == "microcontroller":
        listener.progress(stage, stages - 1, stages, "encode")
        path = folder / _file_name(ENCODED_INT8)
        last = export(
            pruned,
            path,
            target,
            "int8",
            data.x_train,
            dense=folder / _file_name(DENSE),
            c_source=False,
            encode=True,
        )
        if last.encoding is not None:
            decoding = last.latency[0]
            rows += (
                dataclasses.replace(
                    rows[-1],
                    name=ENCODED_INT8,
                    path=path.name,
                    size=last.size,
                    arena=last.arena.bytes if last.arena else None,
                    latency=None,
                ),
            )
    listener.progress(stage, stages, stages, f"{len(rows)} files")
    return rows, decoding, last.notes


def _facts(row: Row, folder: Path, decoding: Latency | None) -> FileFacts:
    """Returns a row for the page; what LiteRT cannot run has the time of decoding."""
    latency = decoding if row.latency is None else row.latency
    return FileFacts(
        name=row.name,
        path=row.path,
        target="",
        quantization="none" if row.name in (DENSE, PRUNED) else "int8",
        metrics={"accuracy": row.accuracy},
        size=row.size,
        sections=sections((folder / row.path).read_bytes()),
        sparsity=row.sparsity,
        arena=row.arena,
        latency=() if latency is None else (latency,),
    )


def _accuracy(session: Session, data: Data) -> float:
    logits = session.run(Samples((data.x_test,), random=False))[0]
    return float(np.mean(logits.argmax(axis=-1) == data.y_test))


def has_micro() -> bool:
    """Returns whether TensorFlow Lite Micro can be run here."""
    return importlib.util.find_spec("tflite_micro") is not None
