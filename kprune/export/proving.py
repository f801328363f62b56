"""A file that was converted, loaded, run and compared with Keras.

This module changes when another proof is asked of a file before it is written.
"""

import dataclasses
import importlib.metadata
from collections.abc import Sequence

import keras
import numpy as np

from kprune.export import keeping, mixed, ranges, sparse, tflite
from kprune.export import labels as labelling
from kprune.export.baseline import without_zeros
from kprune.export.compare import check as check_differences
from kprune.export.compare import compare
from kprune.export.convert import convert
from kprune.export.ends import of_file
from kprune.export.flash import Encoded, encode_and_prove
from kprune.export.interface import Interface, of_model
from kprune.export.labels import Labels
from kprune.export.litert import Session
from kprune.export.metadata import with_labels
from kprune.export.options import Options
from kprune.export.precision import in_float32
from kprune.export.pruned import names as weight_names
from kprune.export.pruned import parameters, weights_of
from kprune.export.samples import Samples, interface_and_samples
from kprune.export.slim import slim
from kprune.export.targets import NEEDS_DATA, UNPACKED
from kprune.export.tflm import MicroRun, check_operators
from kprune.export.tflm import run as run_in_tflm
from kprune.export.unrolling import without_loops
from kprune.report import FileSize, OutputDifference

_BATCH = 32


@dataclasses.dataclass(frozen=True)
class Proven:
    """A file that computes what Keras does.

    Args:
        model: The Keras model that was converted, which computes in float32.
        interface: Its inputs and outputs.
        samples: What it was run on.
        plain: The file, its weights as they are.
        content: The file as it was asked for: with weights encoded, where they are.
        session: That file in LiteRT; the plain one, where LiteRT cannot run it.
        differences: Its outputs from Keras's.
        run: The plain file in TensorFlow Lite Micro, for microcontrollers.
        encoded: Its weights encoded for that runtime, where that was asked for.
        stored: Whether LiteRT skips its zeros, where it can.
        labels: What the entries of its first output are called.
        float_layers: The layers that were kept in float32.
        unrolled: The layers whose loops were written out.
    """

    model: keras.Model
    interface: Interface
    samples: Samples
    plain: bytes
    content: bytes
    session: Session
    differences: tuple[OutputDifference, ...]
    run: MicroRun | None
    encoded: Encoded | None
    stored: sparse.Sparse | None
    labels: Labels | None
    float_layers: tuple[str, ...]
    unrolled: tuple[str, ...]


def prove(asked: Options) -> Proven:
    """Returns the file that was asked for, after it was run and compared with Keras.

    Raises:
        ValueError: If the model cannot be converted, the runtime cannot run the file,
            or it computes wrongly.
    """
    model = in_float32(asked.model)
    straight, unrolled = without_loops(model, asked.quantization, asked.target)
    interface, samples = interface_and_samples(model, asked.data, asked.num_samples)
    expected = _keras_outputs(interface, samples)
    if unrolled:
        model, interface = straight, of_model(straight)
    labels = None
    if asked.labels is not None:
        first = interface.output_names[0]
        labels = labelling.of_output(asked.labels, first, expected[0].shape[1:])
    source = _Source(asked, model, interface, samples, labels)
    judge = _Judge(asked, interface, samples, expected)
    content = plain = source.file()
    session, differences = judge.in_litert(plain)
    run = encoded = stored = None
    if asked.target.micro:
        run, found = judge.in_tflm(plain, session)
        differences += found
        if asked.encode:
            encoded = _encoded(asked, plain, run, session, samples)
            content = plain if encoded is None else encoded.content
    if asked.target.encoding == UNPACKED and asked.quantization in sparse.QUANTIZATIONS:
        stored = sparse.store(plain, asked.encode, lambda: source.file(sparsely=True))
        if stored.content is not None:
            content = stored.content
            session, differences = judge.in_litert(content)
    return Proven(
        model,
        interface,
        samples,
        plain,
        content,
        session,
        differences,
        run,
        encoded,
        stored,
        labels,
        source.float_layers,
        tuple(unrolled),
    )


class _Source:
    """What a file is made of: the plain one, and the one that is stored sparsely."""

    def __init__(
        self,
        asked: Options,
        model: keras.Model,
        interface: Interface,
        samples: Samples,
        labels: Labels | None,
    ) -> None:
        self._asked, self._model, self._interface = asked, model, interface
        self._samples, self._labels = samples, labels
        self._in_float32, self._kept = b"", {}
        if asked.float_layers:
            self._in_float32 = convert(interface, model, "none", None, False)
            self._kept = keeping.operators(
                self._in_float32, interface, model, asked.float_layers
            )

    @property
    def float_layers(self) -> tuple[str, ...]:
        """The layers whose operators stay in float32."""
        return tuple(dict.fromkeys(self._kept.values()))

    def file(self, sparsely: bool = False) -> bytes:
        """Returns the converted file."""
        asked, target = self._asked, self._asked.target
        data = convert(
            self._interface,
            self._model,
            asked.quantization,
            self._samples,
            target.integer_io,
            sparsely,
        )
        if self._kept:
            data = mixed.with_float(data, self._in_float32, self._kept)
        if asked.quantization in NEEDS_DATA:
            ranges.check_observed(data, self._samples.count)
        if target.micro:
            check_operators(data, target)
        elif self._labels is not None:
            data = with_labels(
                data, self._labels, asked.model.name, _description(asked)
            )
        return slim(data) if asked.slim else data


class _Judge:
    """Compares what files compute with Keras's outputs, and refuses those that err."""

    def __init__(
        self,
        asked: Options,
        interface: Interface,
        samples: Samples,
        expected: Sequence[np.ndarray],
    ) -> None:
        self._asked, self._interface = asked, interface
        self._samples, self._expected = samples, expected

    def in_litert(self, data: bytes) -> tuple[Session, tuple[OutputDifference, ...]]:
        """Runs a file in LiteRT; returns that session too."""
        session = Session(data, of_file(data, self._interface))
        outputs = session.run(self._samples)
        return session, self._differences("LiteRT", outputs, session)

    def in_tflm(
        self, data: bytes, session: Session
    ) -> tuple[MicroRun, tuple[OutputDifference, ...]]:
        """Runs a file in TensorFlow Lite Micro; returns that run too."""
        asked = self._asked
        timed = asked.benchmark and not asked.encode
        run = run_in_tflm(
            data,
            session.ends,
            self._samples,
            without_zeros(data) if timed else None,
            run_seconds=asked.run_seconds,
        )
        return run, self._differences(asked.target.runtime, run.outputs, session)

    def _differences(
        self, runtime: str, outputs: Sequence[np.ndarray], session: Session
    ) -> tuple[OutputDifference, ...]:
        names = self._interface.output_names
        found = compare(names, runtime, self._expected, outputs, session.steps)
        check_differences(found, self._asked.quantization, self._asked.tolerance)
        return tuple(found)


def _encoded(
    asked: Options, plain: bytes, run: MicroRun, session: Session, samples: Samples
) -> Encoded | None:
    called = weight_names(weights_of(asked.model), tflite.parse(plain))
    return encode_and_prove(
        plain,
        FileSize.of(plain),
        run,
        session.ends,
        samples,
        called,
        asked.decoding_bytes,
        asked.benchmark,
        asked.run_seconds,
    )


def _keras_outputs(interface: Interface, samples: Samples) -> list[np.ndarray]:
    """Returns Keras's own outputs; `predict` would leave a trace in the model."""
    batches = []
    for start in range(0, samples.count, _BATCH):
        batch = [array[start : start + _BATCH] for array in samples.arrays]
        tensors = [keras.ops.convert_to_tensor(array) for array in batch]
        outputs = interface.call(tensors)
        batches.append([keras.ops.convert_to_numpy(output) for output in outputs])
    expected = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    for name, values in zip(interface.output_names, expected, strict=True):
        if not np.isfinite(values).all():
            raise ValueError(
                f"Output {name!r} of the Keras model itself has values that are NaN or "
                "infinite, so that there is nothing to compare the file with. Check "
                "the model's weights."
            )
    return expected


def _description(asked: Options) -> str:
    try:
        version = importlib.metadata.version("kprune")
    except importlib.metadata.PackageNotFoundError:  # Run from its source folder.
        version = "from source"
    total, nonzero = parameters(asked.model)
    return (
        f"Written by kprune ({version}): {total - nonzero:,} of {total:,} parameters "
        f"are zero; {asked.stored_as}."
    )
