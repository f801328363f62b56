"""What reports say of an exported file in sentences.

This module changes when users are to be told something else.
"""

from collections.abc import Sequence

from kprune.export import tflite
from kprune.export.baseline import TOO_LARGE
from kprune.export.encoding import RAW
from kprune.export.flash import Encoded, gain
from kprune.export.labels import Labels
from kprune.export.latency import DENSE, PLAIN
from kprune.export.metadata import LABELS
from kprune.export.sparse import Sparse
from kprune.export.targets import NEEDS_DATA, Target
from kprune.export.tflm import MicroRun
from kprune.export.xnnpack import Outcome
from kprune.report import Latency, NpuEstimate, OutputDifference

# An offer to encode weights is made above this share of a file's bytes.
_WORTH = 0.1


def of_quantization(
    parsed: tflite.TFLiteFile, quantization: str, float_layers: Sequence[str] = ()
) -> list[str]:
    """Returns sentences on operators that stayed in floating point."""
    if quantization not in NEEDS_DATA:
        return []
    floating = sorted(
        {
            operator.name
            for graph in parsed.subgraphs
            for operator in graph.operators
            if operator.name not in ("QUANTIZE", "DEQUANTIZE")
            and any(
                index >= 0 and graph.tensors[index].type == "FLOAT32"
                for index in operator.outputs
            )
        }
    )
    if not floating:
        return []
    if float_layers:
        return [
            f"These operators are in float32, of `float_layers` or for want of an "
            f"{quantization} form: {', '.join(floating)}."
        ]
    return [
        f"These operators stayed in float32, having no {quantization} form: "
        f"{', '.join(floating)}."
    ]


def of_unrolled(names: Sequence[str]) -> list[str]:
    """Returns a sentence on recurrent layers that are straight lines in the file."""
    if not names:
        return []
    return [
        f"Recurrent layers were unrolled for the file, one step after the other, since "
        f"loops crash or hang there: {', '.join(names)}. Outputs were compared with "
        "those of the model as it is."
    ]


def of_labels(labels: Labels | None, target: Target) -> list[str]:
    """Returns a sentence on where the labels are."""
    if labels is None:
        return []
    place = (
        "in the header, as a macro; the file does not hold them"
        if target.micro
        else f"in the file: TFLite Metadata, and {LABELS} behind the model"
    )
    return [f"The {len(labels.names)} labels of output {labels.output!r} are {place}."]


def of_difference(differences: Sequence[OutputDifference]) -> list[str]:
    """Returns sentences on outputs whose own step is coarser than their values."""
    return [
        f"Output {item.output!r} differs by {item.relative:.2g} of its size although "
        "no value is off by more than two of its integer steps: its values are small "
        "beside the step. Logits keep more than softmax probabilities do."
        for item in differences
        if item.relative > 0.25
        and item.step is not None
        and item.max_abs <= 2 * item.step
    ]


def of_encoding(
    plain: bytes, run: MicroRun | None, encoded: Encoded | None, encode: bool
) -> list[str]:
    """Returns sentences on what encoding weights does, or could do."""
    if run is None:
        return []
    if encoded is not None:
        facts = encoded.facts
        told = [
            "Firmware that runs this file needs TensorFlow Lite Micro's operator "
            "DECODE (AddDecode()). To decode outside of the arena, give it "
            f"{facts.other_bytes:,} bytes with SetDecompressionMemory() before "
            "AllocateTensors()."
        ]
        saved = len(plain) - len(encoded.content)
        more = encoded.run.arena_bytes - facts.plain_arena.bytes
        if more > saved / 2:
            largest = max(
                (item for item in facts.weights if item.method != RAW),
                key=lambda item: item.raw_bytes,
            )
            told.append(
                f"{saved:,} bytes less of flash cost {more:,} bytes more of arena, "
                f"since {largest.name!r} takes {largest.raw_bytes:,} when it is "
                "decoded. Give a limit where memory is scarce: "
                f"decoding_bytes={largest.raw_bytes // 2}; or remove channels of it."
            )
        return told
    if encode:
        return [
            "No weight was encoded: none would become smaller by more than the some "
            "hundred bytes that decoding it takes in the file, and none of those that "
            "would is within `decoding_bytes`. More zeros help, and so do fewer "
            "different values."
        ]
    saved, memory = gain(plain)
    if saved < _WORTH * len(plain):
        return []
    return [
        f"encode=True would store the weights in about {saved:,} bytes less of flash, "
        "the same results bit for bit, if the firmware has the operator DECODE and up "
        f"to {memory:,} bytes more of memory."
    ]


def of_zeros(stored: Sparse | None, encode: bool | None) -> list[str]:
    """Returns sentences on what LiteRT does with a file's zeros."""
    if stored is None:
        return []
    in_vain = [
        "Weights are stored with their zeros, although encode=True: three in ten of a "
        "weight must be zero, and the file has to get smaller."
    ]
    if not stored.worth:
        return in_vain if encode else []
    verdict = stored.verdict
    if verdict.outcome is Outcome.WRONG:
        return [
            "Weights are stored with their zeros: without them XNNPACK would compute "
            f"wrongly on phones, or not load the file, since {verdict.mistakes[0]}."
        ]
    told = []
    if stored.in_blocks:
        told.append(
            f"Zeros: LiteRT skips them in {stored.in_blocks} dense layers, in blocks "
            "of four inputs, on every CPU."
        )
    candidates = [layer for layer in verdict.layers if layer.candidate]
    if verdict.outcome is Outcome.SKIPS:
        skipping = sum(layer.skips for layer in verdict.layers)
        how = (
            "XNNPACK skips them"
            if stored.content is not None
            else "XNNPACK would skip them if weights were stored without them "
            "(encode=True)"
        )
        told.append(
            f"Zeros: {how} in {skipping} of {len(verdict.layers)} layers, on Arm and "
            "on x86 without AVX. On other machines, such as most PCs, it multiplies "
            "them, and times measured there do not show it."
        )
    elif candidates:
        told.append(
            "XNNPACK multiplies the zeros of 1x1 convolutions: "
            f"{candidates[0].reason}. kprune.advise() tells more, and "
            "kprune.prepare() changes what it can."
        )
    elif not stored.in_blocks:
        told.append(
            "LiteRT multiplies the zeros: it skips them in 1x1 convolutions, of which "
            "there are none, and in dense layers, in blocks of four inputs "
            "(granularity=kprune.Block((1, 4)))."
        )
    if encode is None and stored.content is None:
        told.append(
            "encode=True would store weights without their zeros, in a smaller file "
            "that LiteRT alone can read."
        )
    if encode and stored.content is None:
        told += in_vain
    return told


def of_npu(
    parsed: tflite.TFLiteFile,
    target: Target,
    estimates: tuple[NpuEstimate, NpuEstimate] | None,
) -> list[str]:
    """Returns sentences on what an NPU leaves to the CPU, and on widths it wastes."""
    if estimates is None:
        return []
    notes = []
    if on_cpu := estimates[0].on_cpu:
        named = ", ".join(f"{name} {count}" for name, count in on_cpu.items())
        notes.append(
            f"The NPU does not run these operators, which take their time on the CPU: "
            f"{named}."
        )
    multiple = target.channel_multiple
    widths = [
        graph.tensors[operator.outputs[0]].shape[-1]
        for graph in parsed.subgraphs
        for operator in graph.operators
        if operator.name == "CONV_2D"
    ]
    odd = [width for width in widths if width % multiple]
    if odd:
        notes.append(
            f"{len(odd)} of {len(widths)} convolutions have numbers of channels that "
            f"are no multiples of {multiple}, which the NPU computes in blocks: "
            f"{', '.join(map(str, dict.fromkeys(odd)))}. To remove channels down to "
            f"multiples: kprune.shrink(..., granularity=kprune.Channel(multiple="
            f"{multiple}))."
        )
    return notes


def of_unmeasured(latency: Sequence[Latency], dense_from: str) -> list[str]:
    """Returns a sentence on a dense file that was not made or not timed."""
    if dense_from == TOO_LARGE:
        return [f"Sizes are compared with {dense_from}."]
    if not latency or any(item.baseline in (DENSE, PLAIN) for item in latency):
        return []
    return [
        f"{dense_from[0].upper()}{dense_from[1:]}, was not timed: its inputs or "
        "outputs differ in name or shape from this file's."
    ]


def of_latency(latency: Sequence[Latency]) -> list[str]:
    """Returns sentences on files that run clearly slower than the dense float32 one."""
    return [
        f"In {item.runtime}, this file takes {1 / item.ratio:.2g} times as long as "
        f"{item.baseline} on this machine: measure on the device before choosing "
        "this quantisation."
        for item in latency
        if item.baseline == DENSE and item.high < 0.9
    ]
