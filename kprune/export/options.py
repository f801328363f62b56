"""What users may ask of an export, checked before anything is done.

This module changes when an option is added, or its limits change.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from kprune.export import int4, keeping, sparse, vela
from kprune.export import labels as labelling
from kprune.export.capacity import check_fits
from kprune.export.choosing import Device, choose, limited
from kprune.export.convert import check_backend
from kprune.export.csource import check_free
from kprune.export.files import check_path, read_tflite
from kprune.export.litert import check_survived
from kprune.export.targets import DECODED, NEEDS_DATA, UNPACKED, Target
from kprune.export.tflm import check_installed, check_seconds
from kprune.export.trained import check_trained, is_trained, refuse_trained
from kprune.export.unrolling import without_loops
from kprune.foreign import received


@dataclasses.dataclass(frozen=True)
class Options:
    """What one export was asked for; `kprune.export` says what each entry is.

    Args:
        model: The Keras model.
        file: The `.tflite` file to write.
        target: The device, with its limits.
        quantization: How the file is quantised.
        data: What was passed as `representative_data`.
        num_samples: The most samples of it to use.
        tolerance: The largest difference from Keras; `None` for the usual one.
        dense: What sizes are compared with: a model, a file's bytes, or `None`.
        benchmark: Whether times are measured.
        c_source: Whether sources for firmware are written.
        encode: Whether weights are stored in fewer bytes; `None` for the usual.
        decoding_bytes: The most bytes of a weight that is decoded.
        slim: Whether what no runtime reads is left out.
        run_seconds: The most seconds of a run in TensorFlow Lite Micro.
        labels: What the entries of the first output are called.
        float_layers: Names of layers that stay in float32, for each thing given.
    """

    model: keras.Model
    file: Path
    target: Target
    quantization: str
    data: Any
    num_samples: int
    tolerance: float | None
    dense: keras.Model | bytes | None
    benchmark: bool
    c_source: bool
    encode: bool | None
    decoding_bytes: int | None
    slim: bool
    run_seconds: float
    labels: tuple[str, ...] | None
    float_layers: list[tuple[str, ...]]

    @property
    def compiled_file(self) -> Path:
        """Where the file stands that an NPU's compiler makes."""
        return self.file.with_name(f"{self.file.stem}_vela{self.file.suffix}")

    @property
    def stored_as(self) -> str:
        """The quantisation, as what it makes of the weights."""
        return "float32" if self.quantization == "none" else self.quantization


def check(
    model: Any,
    path: str | os.PathLike[str],
    target: Device,
    quantization: str | None,
    data: Any,
    *,
    dense: Any,
    num_samples: int,
    tolerance: float | None,
    benchmark: bool,
    c_source: bool,
    encode: bool | None,
    decoding_bytes: int | None,
    slim: bool | None,
    flash: int | None,
    arena: int | None,
    run_seconds: float,
    labels: Sequence[str] | str | os.PathLike[str] | None,
    float_layers: Any,
) -> Options:
    """Returns what was asked for, if it can be done.

    Raises:
        TypeError: If the model, path or data is of the wrong type.
        ValueError: If an argument is unknown, or does not fit the others, the model or
            what is installed.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(not_a_model("model", model))
    file = check_path(path)
    chosen, quantization = choose(target, check_trained(model, quantization))
    chosen = limited(chosen, flash, arena)
    if not is_trained(model):
        check_data(quantization, data)
    check_numbers(num_samples, tolerance)
    if float_layers is not None:
        refuse_trained("float_layers", model)
    kept = keeping.check(float_layers, quantization, model)
    check_encoding(encode, decoding_bytes, chosen, quantization)
    check_seconds("run_seconds", run_seconds)
    names = read_labels(labels, chosen, c_source)
    if chosen.npu is not None:
        vela.check_installed(chosen)
    if chosen.micro:
        check_installed(f"target={chosen.name!r}")
        if c_source:
            check_free(file)
    check_backend()
    check_fits(model, quantization, chosen.quantizations, "model")
    if isinstance(dense, keras.Model):
        check_fits(dense, "none", (), "dense")
        dense, _ = without_loops(dense, "none", chosen)
    elif dense is not None:
        dense = read_dense(dense, benchmark)
    return Options(
        model=model,
        file=file,
        target=chosen,
        quantization=quantization,
        data=data,
        num_samples=num_samples,
        tolerance=tolerance,
        dense=dense,
        benchmark=benchmark,
        c_source=c_source,
        encode=encode,
        decoding_bytes=decoding_bytes,
        slim=chosen.slim if slim is None else slim,
        run_seconds=run_seconds,
        labels=names,
        float_layers=kept,
    )


def not_a_model(argument: str, value: Any) -> str:
    """Returns the message for what is no Keras 3 model."""
    return f"`{argument}` must be a Keras 3 model. {received(value)}"


def check_data(quantization: str, data: Any) -> None:
    """Refuses data that is missing."""
    if quantization == "int4":
        int4.check_installed()
    if data is None and quantization in NEEDS_DATA:
        raise ValueError(
            f"quantization={quantization!r} needs `representative_data`: some hundred "
            "inputs as the device will see them, for instance "
            "representative_data=x_train[:200]. Only quantization='none', 'float16', "
            "'dynamic' and 'int4' do without, and models of kprune.quantize_aware."
        )


def check_numbers(num_samples: int, tolerance: float | None) -> None:
    """Refuses numbers that are out of range."""
    if not isinstance(num_samples, int) or num_samples < 1:
        raise ValueError(
            f"`num_samples` must be an integer of at least 1. Received: {num_samples}."
        )
    if tolerance is not None and not tolerance > 0:
        raise ValueError(
            "`tolerance` must be a positive relative difference, such as 0.1. "
            f"Received: {tolerance}."
        )


def check_encoding(
    encode: bool | None, decoding_bytes: int | None, target: Target, quantization: str
) -> None:
    """Refuses encoded weights where the target's runtime cannot read them."""
    if encode and not target.encoding:
        why = (
            f"For {target.name}, Vela encodes the weights, in another form"
            if target.npu is not None
            else f"{target.name!r} may be any runtime, and few can read it"
        )
        raise ValueError(
            "encode=True is for target='microcontroller' and target='android'. "
            f"{why}: leave it out."
        )
    if encode and target.encoding == UNPACKED:
        if quantization not in sparse.QUANTIZATIONS:
            raise ValueError(
                f"encode=True for {target.name!r} needs a quantization of "
                f"{sparse.QUANTIZATIONS}. Received: {quantization!r}, of which "
                f"{target.runtime} refuses sparsely stored weights, or they are "
                "larger: leave it out."
            )
    if decoding_bytes is not None and target.encoding != DECODED:
        raise ValueError(
            "`decoding_bytes` is for target='microcontroller', which decodes weights "
            "while it runs: leave it out."
        )
    if decoding_bytes is None:
        return
    if not encode:
        raise ValueError("`decoding_bytes` says what encode=True may take: give both.")
    whole = isinstance(decoding_bytes, int) and not isinstance(decoding_bytes, bool)
    if not whole or decoding_bytes < 1:
        raise ValueError(
            "`decoding_bytes` must be an integer of at least 1, such as 16384. "
            f"Received: {decoding_bytes!r}."
        )


def read_labels(labels: Any, target: Target, c_source: bool) -> tuple[str, ...] | None:
    """Returns the names of classes, of which the firmware's are in its header."""
    if labels is None:
        return None
    if target.micro and not c_source:
        raise ValueError(
            f"For target={target.name!r} `labels` stand in the header, not in the "
            "file, where they would take flash that nothing reads. Leave out "
            "c_source=False, or `labels`."
        )
    return labelling.read(labels)


def read_dense(dense: Any, benchmark: bool) -> bytes:
    """Returns the dense `.tflite` file that sizes, and times, are compared with."""
    if not isinstance(dense, (str, os.PathLike)):
        raise TypeError(not_a_model("dense", dense) + " Or a path of a .tflite file.")
    data = read_tflite("dense", dense)
    if benchmark:  # Only then it is run.
        check_survived("dense", dense, data)
    return data
