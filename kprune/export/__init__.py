"""`kprune.export`: a Keras model becomes a file that was run on the device's runtime.

This module changes when the order of that work does; each step is in a module of its
own. Everything that can be checked is checked before anything is converted, and the
files are written last, after the file has loaded, run and agreed with Keras.
"""

import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kprune.export import (
    keeping,
    limits,
    mixed,
    notes,
    options,
    ranges,
    sparse,
    tflite,
    vela,
)
from kprune.export import labels as labelling
from kprune.export.baseline import TOO_LARGE, without_zeros
from kprune.export.capacity import check_fits, fits
from kprune.export.choosing import Device, choose, limited
from kprune.export.compare import check as check_differences
from kprune.export.compare import compare
from kprune.export.convert import check_backend, convert
from kprune.export.cost import count_macs
from kprune.export.csource import check_free, render
from kprune.export.ends import described, of_file
from kprune.export.files import check_path, write_together
from kprune.export.firmware import Memory, describe
from kprune.export.flash import Encoded, arena_of, encode_and_prove
from kprune.export.interface import Interface, of_model
from kprune.export.labels import Labels
from kprune.export.latency import DENSE, FILLED, LITERT, MICRO, PLAIN, summarise
from kprune.export.litert import Session, times
from kprune.export.metadata import with_labels
from kprune.export.precision import in_float32
from kprune.export.pruned import names as weight_names
from kprune.export.pruned import parameters, records, weights_of
from kprune.export.samples import Samples, interface_and_samples
from kprune.export.slim import slim as slimmed
from kprune.export.targets import NEEDS_DATA, UNPACKED, Target
from kprune.export.tflm import (
    RUN_SECONDS,
    MicroRun,
    check_installed,
    check_operators,
    check_seconds,
)
from kprune.export.tflm import run as run_in_tflm
from kprune.export.trained import check_trained, is_trained, refuse_trained
from kprune.export.unrolling import without_loops
from kprune.report import FileSize, Latency, Npu, NpuEstimate, OutputDifference, Report

_BATCH = 32


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
    if not isinstance(model, keras.Model):
        raise TypeError(options.not_a_model("model", model))
    file = check_path(path)
    chosen, quantization = choose(target, check_trained(model, quantization))
    chosen = limited(chosen, flash, arena)
    if not is_trained(model):
        options.check_data(quantization, representative_data)
    options.check_numbers(num_samples, tolerance)
    if float_layers is not None:
        refuse_trained("float_layers", model)
    kept_names = keeping.check(float_layers, quantization, model)
    options.check_encoding(encode, decoding_bytes, chosen, quantization)
    check_seconds("run_seconds", run_seconds)
    label_names = options.read_labels(labels, chosen, c_source)
    micro, npu = chosen.micro, chosen.npu
    if npu is not None:
        vela.check_installed(chosen)
    if micro:
        check_installed(f"target={chosen.name!r}")
        if c_source:
            check_free(file)
    check_backend()
    check_fits(model, quantization, chosen.quantizations, "model")
    if isinstance(dense, keras.Model):
        check_fits(dense, "none", (), "dense")
        dense, _ = without_loops(dense, "none", chosen)
    elif dense is not None:
        dense = options.read_dense(dense, benchmark)

    computing = in_float32(model)
    straight, unrolled = without_loops(computing, quantization, chosen)
    interface, samples = interface_and_samples(
        computing, representative_data, num_samples
    )
    expected = _keras_outputs(interface, samples)
    if unrolled:
        computing, interface = straight, of_model(straight)
    labelled = None
    if label_names is not None:
        first = interface.output_names[0]
        labelled = labelling.of_output(label_names, first, expected[0].shape[1:])

    plain, kept = b"", {}
    if kept_names:
        plain = convert(interface, computing, "none", None, False)
        kept = keeping.operators(plain, interface, computing, kept_names)

    def converted(sparsely: bool) -> bytes:
        data = convert(
            interface, computing, quantization, samples, chosen.integer_io, sparsely
        )
        data = mixed.with_float(data, plain, kept) if kept else data
        if quantization in NEEDS_DATA:
            ranges.check_observed(data, samples.count)
        if micro:
            check_operators(data, chosen)
        if labelled is not None and not micro:
            description = _description(model, quantization)
            data = with_labels(data, labelled, model.name, description)
        return slimmed(data) if (chosen.slim if slim is None else slim) else data

    data = converted(sparsely=False)
    session = Session(data, of_file(data, interface))
    names = interface.output_names
    differences = compare(
        names, "LiteRT", expected, session.run(samples), session.steps
    )
    check_differences(differences, quantization, tolerance)
    run = encoded = None
    if micro:
        filled = without_zeros(data) if benchmark and not encode else None
        run = run_in_tflm(data, session.ends, samples, filled, run_seconds=run_seconds)
        in_tflm = compare(names, chosen.runtime, expected, run.outputs, session.steps)
        check_differences(in_tflm, quantization, tolerance)
        differences += in_tflm
        if encode:
            called = weight_names(weights_of(model), tflite.parse(data))
            encoded = encode_and_prove(
                data,
                FileSize.of(data),
                run,
                session.ends,
                samples,
                called,
                decoding_bytes,
                benchmark,
                run_seconds,
            )

    stored = None
    if chosen.encoding == UNPACKED and quantization in sparse.QUANTIZATIONS:
        stored = sparse.store(data, encode, lambda: converted(sparsely=True))
        if stored.content is not None:
            session = Session(stored.content, of_file(stored.content, interface))
            outputs = session.run(samples)
            differences = compare(names, "LiteRT", expected, outputs, session.steps)
            check_differences(differences, quantization, tolerance)

    content = data
    if encoded is not None:
        content = encoded.content
    elif stored is not None and stored.content is not None:
        content = stored.content
    contents = {file: content}
    estimates = None
    if npu is not None:
        content, estimate = vela.compile_file(data, npu)
        estimates = estimate, vela.compile_file(without_zeros(data), npu)[1]
        contents[_compiled_path(file)] = content
    limits.check(chosen, content, data, run, encoded)
    dense_data, dense_from = _dense_file(
        dense, data, quantization, interface, computing
    )
    latency = _latency(
        session,
        interface,
        data,
        dense_data,
        dense_from,
        samples,
        run,
        encoded,
        benchmark,
    )
    if run is not None and c_source:
        memory = _memory(run, encoded, estimates)
        note = f"the Keras model {model.name} in {_kind(quantization)}, "
        note += f"for {chosen.name}."
        facts = describe(content, memory, run.example, labelled)
        contents |= render(facts, file, note)
    report = _report(
        model=model,
        target=chosen,
        quantization=quantization,
        contents=contents,
        plain=data,
        dense_size=FileSize.of(dense_data),
        dense_from=dense_from,
        session=session,
        interface=interface,
        samples=samples,
        differences=differences,
        latency=latency,
        run=run,
        encoded=encoded,
        stored=stored,
        encode=encode,
        estimates=estimates,
        unrolled=unrolled,
        labelled=labelled,
        float_layers=tuple(dict.fromkeys(kept.values())),
    )
    write_together(contents)
    return report


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


def _dense_file(
    dense: keras.Model | bytes | None,
    data: bytes,
    quantization: str,
    interface: Interface,
    model: keras.Model,
) -> tuple[bytes, str]:
    """Returns the dense float32 file to compare sizes with, and what it is."""
    if isinstance(dense, bytes):
        return dense, "the file passed as `dense`"
    if dense is not None:
        converted = convert(of_model(dense), dense, "none", None, False)
        return converted, f"the model {dense.name!r}, passed as `dense`"
    if not fits(model, "none"):
        return without_zeros(data), TOO_LARGE
    if quantization != "none":
        data = convert(interface, model, "none", None, False)
    return (
        without_zeros(data),
        "this model's own float32 file, its zeros replaced by random values",
    )


def _latency(
    session: Session,
    interface: Interface,
    data: bytes,
    dense_data: bytes,
    dense_from: str,
    samples: Samples,
    run: MicroRun | None,
    encoded: Encoded | None,
    benchmark: bool,
) -> tuple[Latency, ...]:
    if not benchmark:
        return ()
    if encoded is not None:  # No other runtime runs it.
        elsewhere = f"{MICRO}, decoding outside of the arena"
        return (
            summarise(MICRO, PLAIN, *encoded.run.times),
            summarise(elsewhere, PLAIN, *encoded.elsewhere.times),
        )
    row = next(samples.rows())
    filled = without_zeros(data)
    baselines = {FILLED: Session(filled, of_file(filled, interface))}
    if dense_from != TOO_LARGE and _same_interface(dense_data, data):
        baselines[DENSE] = Session(dense_data, of_file(dense_data, interface))
    found = times([*baselines.values(), session], row)
    result = [
        summarise(LITERT, name, before, found[-1])
        for name, before in zip(baselines, found, strict=False)
    ]
    if run is not None and run.times:
        result.append(summarise(MICRO, FILLED, *run.times))
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


def _memory(
    run: MicroRun,
    encoded: Encoded | None,
    estimates: tuple[NpuEstimate, NpuEstimate] | None,
) -> Memory:
    if estimates is not None:
        return Memory(estimates[0].memory_bytes.get("sram", 0), planned=True)
    if encoded is not None:
        return Memory(
            encoded.run.arena_bytes,
            decoding_bytes=encoded.facts.other_bytes,
            arena_bytes_then=encoded.elsewhere.arena_bytes,
        )
    return Memory(run.arena_bytes)


def _kind(quantization: str) -> str:
    return "float32" if quantization == "none" else quantization


def _description(model: keras.Model, quantization: str) -> str:
    try:
        version = importlib.metadata.version("kprune")
    except importlib.metadata.PackageNotFoundError:  # Run from its source folder.
        version = "from source"
    total, nonzero = parameters(model)
    return (
        f"Written by kprune ({version}): {total - nonzero:,} of {total:,} parameters "
        f"are zero; {_kind(quantization)}."
    )


def _report(
    *,
    model: keras.Model,
    target: Target,
    quantization: str,
    contents: dict[Path, bytes],
    plain: bytes,
    dense_size: FileSize,
    dense_from: str,
    session: Session,
    interface: Interface,
    samples: Samples,
    differences: Sequence[OutputDifference],
    latency: tuple[Latency, ...],
    run: MicroRun | None,
    encoded: Encoded | None,
    stored: sparse.Sparse | None,
    encode: bool | None,
    estimates: tuple[NpuEstimate, NpuEstimate] | None,
    unrolled: Sequence[str],
    labelled: Labels | None,
    float_layers: tuple[str, ...],
) -> Report:
    files = list(contents)
    data = contents[files[0]]
    parsed = tflite.parse(plain)
    macs = count_macs(parsed)
    weights, lost = records(weights_of(model), parsed)
    total, nonzero = parameters(model)
    compared_on = (
        f"{samples.count} random inputs (no representative_data was given)"
        if samples.random
        else f"{samples.count} samples of representative_data"
    )
    return Report(
        path=str(files[0]),
        files=tuple(map(str, files)),
        target=target.name,
        runtime=target.runtime,
        quantization=quantization,
        inputs=described(session.ends.inputs),
        outputs=described(session.ends.outputs),
        size=FileSize.of(data),
        dense_size=dense_size,
        dense_from=dense_from,
        weights=weights,
        parameters=total,
        nonzero_parameters=nonzero,
        macs=macs.total,
        nonzero_macs=macs.nonzero,
        uncounted=macs.uncounted,
        operators=tflite.parse(data).operator_counts(),
        differences=tuple(differences),
        compared_on=compared_on,
        latency=latency,
        arena=None if run is None else arena_of(encoded.run if encoded else run),
        encoding=None if encoded is None else encoded.facts,
        npu=_npu(target, files[0], estimates),
        labels=() if labelled is None else labelled.names,
        float_layers=float_layers,
        notes=(
            *lost,
            *notes.of_labels(labelled, target),
            *notes.of_unrolled(unrolled),
            *notes.of_npu(parsed, target, estimates),
            *notes.of_encoding(
                plain, run if target.npu is None else None, encoded, bool(encode)
            ),
            *notes.of_zeros(stored, encode),
            *notes.of_unmeasured(latency, dense_from),
            *notes.of_quantization(parsed, quantization, float_layers),
            *notes.of_difference(differences),
            *notes.of_latency(latency),
            *(fact.text for fact in target.facts),
        ),
    )


def _compiled_path(file: Path) -> Path:
    return file.with_name(f"{file.stem}_vela{file.suffix}")


def _npu(
    target: Target, file: Path, estimates: tuple[NpuEstimate, NpuEstimate] | None
) -> Npu | None:
    if target.npu is None or estimates is None:
        return None
    system = f"{target.npu.system}, {target.npu.memory}"
    compiled = str(_compiled_path(file))
    return Npu(target.npu.accelerator, system, compiled, *estimates)
