"""`kprune.export`: a Keras model becomes a file that was run on the device's runtime.

Everything that can be checked is checked before anything is converted (`options`); the
file is converted, loaded, run and compared with Keras (`proving`); it is weighed and
timed (`weighing`); and only then files are written. This module changes when the order
of that work does.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from kprune.export import limits, options, weighing
from kprune.export.baseline import without_zeros
from kprune.export.choosing import Device
from kprune.export.csource import render
from kprune.export.files import write_together
from kprune.export.firmware import Memory, describe
from kprune.export.flash import Encoded
from kprune.export.options import Options
from kprune.export.proving import Proven, prove
from kprune.export.reporting import report
from kprune.export.tflm import RUN_SECONDS, MicroRun
from kprune.export.vela import Compiled, compiled
from kprune.report import Report


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    target: Device = "android",
    quantization: str | None = None,
    representative_data: Any = None,
    *,
    dense: keras.Model | str | os.PathLike[str] | None = None,
    num_samples: int = 200,
    tolerance: float | None = None,
    benchmark: bool = True,
    c_source: bool = True,
    encode: bool | None = None,
    decoding_bytes: int | None = None,
    slim: bool | None = None,
    flash: int | None = None,
    arena: int | None = None,
    run_seconds: float = RUN_SECONDS,
    labels: Sequence[str] | str | os.PathLike[str] | None = None,
    float_layers: Any = None,
) -> Report:
    """Writes a model for a device, after running it on the device's runtime here.

    The file is converted, loaded and run; its outputs are compared with Keras's; then
    it is written, or nothing is. The model may be pruned in place, hold
    `kprune.Pruned` wrappers or be dense, and is left as it was. The file takes one
    sample at a time: a free batch dimension costs operators that microcontrollers lack.

    Args:
        model: A built Keras model.
        path: The `.tflite` file to write. Its folder must exist.
        target: `"android"` (LiteRT; float32 inputs and outputs); `"generic"` (any other
            runtime; run in LiteRT); `"microcontroller"` (TensorFlow Lite Micro; int8 or
            int16 inputs and outputs for `"int8"` and `"int16x8"`, and C++ sources and
            headers beside the file); or `"ethos-u55-128"`, `"ethos-u55-256"`,
            `"ethos-u65-256"`, `"ethos-u85-256"` (the same for an Arm NPU: the file is
            compiled with Vela, as `<stem>_vela.tflite` beside it, of which the sources
            are). Or a device of your own that is like one of these: a dict, such as
            `{"name": "board", "like": "microcontroller", "flash": 262144}`, or the
            path of a `.yaml` file of it; `kprune.export.choosing.described` has the
            entries.
        quantization: `"none"`, `"float16"`, `"dynamic"`, `"int8"`, `"int16x8"`, or for
            android `"int4"` (weights only; needs `pip install 'kprune[int4]'`). By
            default `"dynamic"` for android, which needs no data, `"int8"` for
            microcontrollers, which have no other small form, and `"none"` otherwise.
            A model of `kprune.quantize_aware` is `"int8"` in any case.
        representative_data: Inputs as the device will see them: an array; a tuple, list
            or dict of arrays for several inputs; a `tf.data.Dataset` or an iterable of
            batches. Needed for `"int8"` and `"int16x8"`, whose ranges are calibrated
            on it unless the model was trained for int8, and used to compare outputs.
            Without it, outputs are compared on random inputs, and the report says so.
        dense: What sizes are compared with: the dense model (converted to float32) or a
            `.tflite` file. By default this model's own float32 file with random values
            in place of the zeros.
        num_samples: The most samples of the data to use, at least 1.
        tolerance: The largest difference from Keras (L2 norm, relative) at which the
            file is still written. By default 0.001 for `"none"`, 0.05 for `"float16"`
            and 0.5 for the others.
        benchmark: Whether to measure times. They take about four seconds.
        c_source: Whether to write sources for a microcontroller's firmware: the file
            as an array, what to know of it, and a test vector.
        encode: Whether to store weights in fewer bytes, in the way that the target's
            runtime reads. On microcontrollers as bits and what is not zero, or as
            look-up tables, each weight in the smallest form: TensorFlow Lite Micro
            decodes them while it runs (its operator DECODE), with the same results bit
            for bit, in more arena and time, which the report states; by default not. On
            Android, in float32 and float16, without zeros: LiteRT unpacks them when it
            loads the file, and skips zeros in networks that have the form for it and in
            dense layers in blocks of four inputs; by default where it does. No other
            runtime can read such files.
        decoding_bytes: The most bytes of a weight that `encode` encodes, at least 1:
            decoded it takes as many in memory. By default weights of any size.
        slim: Whether to leave out what no runtime reads, such as the names of inner
            tensors. By default for microcontrollers only: other tools show the names.
        flash: The most bytes that the file may have.
        arena: The most bytes of arena that it may need on a microcontroller.
        run_seconds: The most seconds to run samples for in TensorFlow Lite Micro, per
            run, of which an encoded file needs three. Its kernels for this machine are
            slow: raise it to compare outputs on all of many samples.
        labels: What the entries of the first output are called, which must be a vector
            of as many: a list of class names, or the path of a text file in UTF-8 with
            one per line. For android the file holds them, as TFLite Metadata with a
            `labels.txt`; for microcontrollers the header does, where they take no flash
            unless they are used.
        float_layers: Layers that stay in float32 while the others are quantised: a
            layer, a layer class, a name or a pattern such as `"head*"`, a function
            from a layer to bool, or a sequence of these. A name counts for all layers
            inside of it, and for the operator that it is folded into. Which ones to
            choose: `kprune.quantization_sensitivity(...).worst(2)`.

    Returns:
        What was measured. `print` it.

    Raises:
        TypeError: If the model, path or data is of the wrong type.
        ValueError: If an argument is unknown or does not fit, the model cannot be
            converted, the runtime cannot run it, it computes wrongly, or it exceeds a
            limit. Nothing is written then.
    """
    asked = options.check(
        model,
        path,
        target,
        quantization,
        representative_data,
        dense=dense,
        num_samples=num_samples,
        tolerance=tolerance,
        benchmark=benchmark,
        c_source=c_source,
        encode=encode,
        decoding_bytes=decoding_bytes,
        slim=slim,
        flash=flash,
        arena=arena,
        run_seconds=run_seconds,
        labels=labels,
        float_layers=float_layers,
    )
    proven = prove(asked)
    npu = None
    if asked.target.npu is not None:
        npu = compiled(proven.plain, without_zeros(proven.plain), asked.target.npu)
    stored = proven.content if npu is None else npu.content
    limits.check(asked.target, stored, proven.plain, proven.run, proven.encoded)
    weighed = weighing.weigh(asked, proven)
    contents = _contents(asked, proven, npu)
    result = report(asked, proven, weighed, npu, contents)
    write_together(contents)
    return result


def _contents(
    asked: Options, proven: Proven, npu: Compiled | None
) -> dict[Path, bytes]:
    """Returns what is to be written, by path, the `.tflite` file first."""
    contents = {asked.file: proven.content}
    if npu is not None:
        contents[asked.compiled_file] = npu.content
    if proven.run is not None and asked.c_source:
        note = f"the Keras model {asked.model.name} in {asked.stored_as}, "
        note += f"for {asked.target.name}."
        content = proven.content if npu is None else npu.content
        memory = _memory(proven.run, proven.encoded, npu)
        facts = describe(content, memory, proven.run.example, proven.labels)
        contents |= render(facts, asked.file, note)
    return contents


def _memory(run: MicroRun, encoded: Encoded | None, npu: Compiled | None) -> Memory:
    """Returns the memory that a microcontroller needs for a file."""
    if npu is not None:
        return Memory(npu.estimate.memory_bytes.get("sram", 0), planned=True)
    if encoded is not None:
        return Memory(
            encoded.run.arena_bytes,
            decoding_bytes=encoded.facts.other_bytes,
            arena_bytes_then=encoded.elsewhere.arena_bytes,
        )
    return Memory(run.arena_bytes)
