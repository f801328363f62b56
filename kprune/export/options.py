"""What users may ask of an export, checked before anything is done.

This module changes when an option is added, or its limits change.
"""

import os
from typing import Any

from kprune.export import int4, sparse
from kprune.export import labels as labelling
from kprune.export.files import read_tflite
from kprune.export.litert import check_survived
from kprune.export.targets import DECODED, NEEDS_DATA, UNPACKED, Target
from kprune.foreign import received


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
