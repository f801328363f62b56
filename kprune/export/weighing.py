"""Sizes and times of an export beside those of a dense file.

This module changes when exports are compared with something else.
"""

import dataclasses

import keras

from kprune.export import tflite
from kprune.export.baseline import TOO_LARGE, without_zeros
from kprune.export.capacity import fits
from kprune.export.convert import convert
from kprune.export.ends import of_file
from kprune.export.interface import of_model
from kprune.export.latency import DENSE, FILLED, LITERT, MICRO, PLAIN, summarise
from kprune.export.litert import Session, times
from kprune.export.options import Options
from kprune.export.proving import Proven
from kprune.report import FileSize, Latency


@dataclasses.dataclass(frozen=True)
class Weighed:
    """What an export is compared with, and how it compares.

    Args:
        dense_size: Bytes of the dense float32 file.
        dense_from: What that file is.
        latency: Times beside those of other files.
    """

    dense_size: FileSize
    dense_from: str
    latency: tuple[Latency, ...]


def weigh(asked: Options, proven: Proven) -> Weighed:
    """Returns sizes, and times if they were asked for."""
    dense, dense_from = _dense_file(asked, proven)
    latency: tuple[Latency, ...] = ()
    if asked.benchmark:
        latency = _latency(proven, dense, dense_from)
    return Weighed(FileSize.of(dense), dense_from, latency)


def _dense_file(asked: Options, proven: Proven) -> tuple[bytes, str]:
    """Returns the dense float32 file to compare with, and what it is."""
    dense = asked.dense
    if isinstance(dense, bytes):
        return dense, "the file passed as `dense`"
    if isinstance(dense, keras.Model):
        converted = convert(of_model(dense), dense, "none", None, False)
        return converted, f"the model {dense.name!r}, passed as `dense`"
    if not fits(proven.model, "none"):
        return without_zeros(proven.plain), TOO_LARGE
    data = proven.plain
    if asked.quantization != "none":
        data = convert(proven.interface, proven.model, "none", None, False)
    return (
        without_zeros(data),
        "this model's own float32 file, its zeros replaced by random values",
    )


def _latency(proven: Proven, dense: bytes, dense_from: str) -> tuple[Latency, ...]:
    if (encoded := proven.encoded) is not None:  # No other runtime runs it.
        elsewhere = f"{MICRO}, decoding outside of the arena"
        return (
            summarise(MICRO, PLAIN, *encoded.run.times),
            summarise(elsewhere, PLAIN, *encoded.elsewhere.times),
        )
    row = next(proven.samples.rows())

    def session(data: bytes) -> Session:
        return Session(data, of_file(data, proven.interface))

    baselines = {FILLED: session(without_zeros(proven.plain))}
    if dense_from != TOO_LARGE and _same_interface(dense, proven.plain):
        baselines[DENSE] = session(dense)
    found = times([*baselines.values(), proven.session], row)
    result = [
        summarise(LITERT, name, before, found[-1])
        for name, before in zip(baselines, found, strict=False)
    ]
    if proven.run is not None and proven.run.times:
        result.append(summarise(MICRO, FILLED, *proven.run.times))
    return tuple(result)


def _same_interface(first: bytes, second: bytes) -> bool:
    """Returns whether two files have the same inputs and outputs, types aside."""
    return _ends(first) == _ends(second) is not None


def _ends(data: bytes) -> list[dict[str, tuple[int, ...]]] | None:
    """Returns shapes of inputs and outputs by name; `None` without a signature."""
    file = tflite.parse(data)
    if not file.signatures:
        return None
    tensors, signature = file.subgraphs[0].tensors, file.signatures[0]
    return [
        {name: tensors[index].shape for name, index in named.items()}
        for named in (signature.inputs, signature.outputs)
    ]
