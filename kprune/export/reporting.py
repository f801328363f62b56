"""From an export to its report.

This module changes when a report of exports says something new.
"""

from collections.abc import Iterable
from pathlib import Path

from kprune.export import notes, tflite
from kprune.export.cost import count_macs
from kprune.export.ends import described
from kprune.export.flash import arena_of
from kprune.export.options import Options
from kprune.export.proving import Proven
from kprune.export.pruned import parameters, records, weights_of
from kprune.export.vela import Compiled
from kprune.export.weighing import Weighed
from kprune.report import FileSize, Npu, Report


def report(
    asked: Options,
    proven: Proven,
    weighed: Weighed,
    npu: Compiled | None,
    files: Iterable[Path],
) -> Report:
    """Returns what was measured of an export.

    Args:
        asked: What was asked for.
        proven: The file, which was run.
        weighed: What it is compared with.
        npu: It compiled for an NPU, if that was asked for.
        files: Everything that is written, that file first.
    """
    target, encoded, run = asked.target, proven.encoded, proven.run
    plain = tflite.parse(proven.plain)
    macs = count_macs(plain)
    weights, lost = records(weights_of(asked.model), plain)
    total, nonzero = parameters(asked.model)
    samples = proven.samples
    compared_on = (
        f"{samples.count} random inputs (no representative_data was given)"
        if samples.random
        else f"{samples.count} samples of representative_data"
    )
    estimates = None if npu is None else (npu.estimate, npu.filled)
    return Report(
        path=str(asked.file),
        files=tuple(map(str, files)),
        target=target.name,
        runtime=target.runtime,
        quantization=asked.quantization,
        inputs=described(proven.session.ends.inputs),
        outputs=described(proven.session.ends.outputs),
        size=FileSize.of(proven.content),
        dense_size=weighed.dense_size,
        dense_from=weighed.dense_from,
        weights=weights,
        parameters=total,
        nonzero_parameters=nonzero,
        macs=macs.total,
        nonzero_macs=macs.nonzero,
        uncounted=macs.uncounted,
        operators=tflite.parse(proven.content).operator_counts(),
        differences=proven.differences,
        compared_on=compared_on,
        latency=weighed.latency,
        arena=None if run is None else arena_of(encoded.run if encoded else run),
        encoding=None if encoded is None else encoded.facts,
        npu=_npu(asked, npu),
        labels=() if proven.labels is None else proven.labels.names,
        float_layers=proven.float_layers,
        notes=(
            *lost,
            *notes.of_labels(proven.labels, target),
            *notes.of_unrolled(proven.unrolled),
            *notes.of_npu(plain, target, estimates),
            *notes.of_encoding(
                proven.plain,
                run if target.npu is None else None,
                encoded,
                bool(asked.encode),
            ),
            *notes.of_zeros(proven.stored, asked.encode),
            *notes.of_unmeasured(weighed.latency, weighed.dense_from),
            *notes.of_quantization(plain, asked.quantization, proven.float_layers),
            *notes.of_difference(proven.differences),
            *notes.of_latency(weighed.latency),
            *(fact.text for fact in target.facts),
        ),
    )


def _npu(asked: Options, compiled: Compiled | None) -> Npu | None:
    if compiled is None or asked.target.npu is None:
        return None
    npu = asked.target.npu
    return Npu(
        npu.accelerator,
        f"{npu.system}, {npu.memory}",
        str(asked.compiled_file),
        compiled.estimate,
        compiled.filled,
    )
