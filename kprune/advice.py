"""Will it pay? What each kind of pruning would bring on a device, before training.

This module changes when kprune learns of another way to prune that pays somewhere.

The model is converted as it is, so that the graph that is looked at is the one that
the runtime gets. Bytes are those of the kernels' values as the file stores them, and
multiply-accumulates (MACs) those that are carried out: counted, not timed.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from kprune.config import check_fraction
from kprune.export import tflite
from kprune.export.choosing import Device, target_of
from kprune.export.convert import check_backend, convert
from kprune.export.cost import uses
from kprune.export.encoding import pruned_bytes
from kprune.export.interface import of_model
from kprune.export.origin import told
from kprune.export.precision import in_float32
from kprune.export.samples import first_batch
from kprune.export.sparse import (
    BLOCK,
    LEAST_IN_BLOCKS,
    block_bytes,
    sparse_bytes,
)
from kprune.export.targets import DECODED, UNPACKED, Target
from kprune.export.tflite import Subgraph, Tensor, TFLiteFile
from kprune.export.unrolling import without_loops
from kprune.export.xnnpack import Outcome, Verdict, judge
from kprune.foreign import received
from kprune.granularity import Channel
from kprune.preparation import Change, planned_changes
from kprune.report.text import as_json, table
from kprune.structure import plan_shrink

ELEMENT, CHANNEL, TWO_OF_FOUR = "scattered zeros", "fewer channels", "2 of 4 zeros"
IN_BLOCKS = "blocks of 4 zeros"


@dataclasses.dataclass(frozen=True)
class Gain:
    """What one kind of pruning would bring in one layer.

    Args:
        layer: The layer, and the operator that it is in the file.
        bytes_before: Bytes of its kernel.
        bytes_after: Bytes of it then; `None` if only a compiler knows.
        macs_before: Multiply-accumulates of one inference.
        macs_after: Those that the runtime would carry out then.
        reason: Why not more; empty if nothing is in the way.
    """

    layer: str
    bytes_before: int
    bytes_after: int | None
    macs_before: int
    macs_after: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Option:
    """What one kind of pruning would bring overall.

    Args:
        pruning: The kind.
        stored: In which quantisation the file would be, or how it would be stored.
        bytes_before: Bytes of all kernels.
        bytes_after: Bytes of them then; `None` if only a compiler knows.
        macs_before: Multiply-accumulates of one inference.
        macs_after: Those that the runtime would carry out then; `None` if unknown.
        verdict: Whether it pays, in a sentence.
        cures: What to do so that it pays, or pays more.
        layers: The same for each layer; empty where it depends on the whole.
    """

    pruning: str
    stored: str
    bytes_before: int
    bytes_after: int | None
    macs_before: int
    macs_after: int | None
    verdict: str
    cures: tuple[str, ...]
    layers: tuple[Gain, ...] = ()

    @property
    def saves_bytes(self) -> bool:
        """Whether kernels are known to get smaller by a twentieth and more."""
        return self.bytes_after is not None and (
            self.bytes_after < 0.95 * self.bytes_before
        )

    @property
    def saves_macs(self) -> bool:
        """Whether the runtime computes less by a twentieth and more."""
        return self.macs_after is not None and (
            self.macs_after < 0.95 * self.macs_before
        )


@dataclasses.dataclass(frozen=True)
class Advice:
    """What each kind of pruning would bring for a model on a device.

    Args:
        model: The model's name.
        target: The target's name.
        runtime: Its runtime.
        sparsity: The share of zeros that is asked about.
        options: The kinds of pruning.
        sources: Where what is said of the runtime is from.
    """

    model: str
    target: str
    runtime: str
    sparsity: float
    options: tuple[Option, ...]
    sources: tuple[str, ...]

    def option(self, pruning: str, stored: str | None = None) -> Option:
        """Returns one kind of pruning.

        Args:
            pruning: `"scattered zeros"`, `"blocks of 4 zeros"`, `"2 of 4 zeros"` or
                `"fewer channels"`.
            stored: How it is stored, if there are several.

        Raises:
            KeyError: If there is none.
        """
        for option in self.options:
            if option.pruning == pruning and stored in (None, option.stored):
                return option
        raise KeyError(f"{pruning!r} stored as {stored!r} is no option here.")

    def to_dict(self) -> dict[str, Any]:
        """Returns the advice as plain Python values."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Returns the advice as JSON text."""
        return as_json(self.to_dict())

    def __str__(self) -> str:
        rows = [
            (
                option.pruning,
                option.stored,
                _from_to(option.bytes_before, option.bytes_after),
                _from_to(option.macs_before, option.macs_after),
            )
            for option in self.options
        ]
        lines = [
            f"{self.model} on {self.target} ({self.runtime}), at {self.sparsity:g}",
            "",
            *table(("pruning", "stored as", "bytes of kernels", "MACs"), rows),
        ]
        for option in self.options:
            lines += ["", f"{option.pruning}, {option.stored}: {option.verdict}"]
            lines += [f"  cure: {cure}" for cure in option.cures]
        for option in self.options:
            if option.layers and option.saves_bytes | option.saves_macs:
                lines += ["", f"{option.pruning}, {option.stored}:"]
                lines += table(
                    ("layer", "bytes", "MACs", "why not more"),
                    [
                        (
                            gain.layer,
                            _from_to(gain.bytes_before, gain.bytes_after),
                            _from_to(gain.macs_before, gain.macs_after),
                            gain.reason,
                        )
                        for gain in option.layers
                    ],
                )
        return "\n".join(lines)


def advise(
    model: keras.Model,
    target: Device = "android",
    *,
    sparsity: float = 0.8,
    data: Any = None,
) -> Advice:
    """Returns what each kind of pruning would bring on a device, before training.

    Args:
        model: A built Keras model, trained or not. It is not changed.
        target: What it is for, as in `kprune.export`.
        sparsity: The share of zeros, or of channels, to ask about, in (0, 1).
        data: One batch of inputs, for a subclassed model, which does not know the
            shapes of its inputs.

    Returns:
        Per kind of pruning, and per layer, what it would save and what is in the way.
        `print` it.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If it is not built or cannot be converted, or an argument is out of
            its range.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"advise needs a Keras 3 model. {received(model)}")
    chosen = target_of(target)
    check_fraction("sparsity", sparsity, "advise")
    if not sparsity:
        raise ValueError("advise: `sparsity` must be above 0. Received 0.")
    check_backend()
    computing = in_float32(model)
    computing, _ = without_loops(computing, "none", chosen)
    example = None
    if data is not None and not getattr(computing, "inputs", None):
        example, _ = first_batch(data)
    converted = convert(of_model(computing, example), computing, "none", None, False)
    file = tflite.parse(converted)
    options = [
        *_scattered(model, chosen, file, sparsity),
        *_in_blocks(chosen, file, sparsity),
        *_two_of_four(chosen, file),
        _channels(model, chosen, file, sparsity),
    ]
    sources = dict.fromkeys(
        f"{pattern.pruning}: {pattern.source}" for pattern in chosen.patterns
    )
    return Advice(
        model=model.name,
        target=chosen.name,
        runtime=chosen.runtime,
        sparsity=sparsity,
        options=tuple(options),
        sources=tuple(sources),
    )


@dataclasses.dataclass(frozen=True)
class _Kernel:
    """One operator with a kernel in the file.

    Args:
        position: The operator's position in the graph.
        name: What it is called.
        operator: The operator's name.
        tensor: The kernel.
        macs: Its multiply-accumulates.
    """

    position: int
    name: str
    operator: str
    tensor: Tensor
    macs: int


def _kernels(graph: Subgraph) -> Iterator[_Kernel]:
    for position, operator in enumerate(graph.operators):
        found = uses(graph, operator)
        if found is not None:
            tensor, times = found
            yield _Kernel(
                position,
                told(graph, position),
                operator.name,
                tensor,
                times * tensor.size,
            )


def _option(
    pruning: str,
    stored: str,
    gains: Sequence[Gain],
    verdict: str,
    cures: Sequence[str] = (),
) -> Option:
    after = [gain.bytes_after for gain in gains]
    return Option(
        pruning=pruning,
        stored=stored,
        bytes_before=sum(gain.bytes_before for gain in gains),
        bytes_after=None if None in after else sum(size or 0 for size in after),
        macs_before=sum(gain.macs_before for gain in gains),
        macs_after=sum(gain.macs_after for gain in gains),
        verdict=verdict,
        cures=tuple(cures),
        layers=tuple(gains),
    )


def _scattered(
    model: keras.Model, target: Target, file: TFLiteFile, sparsity: float
) -> Iterator[Option]:
    kernels = list(_kernels(file.subgraphs[0]))
    if target.encoding == UNPACKED:
        yield _skipped(model, file, kernels, sparsity)
        reason = "int8 weights are stored and multiplied, zero or not"
        yield _option(
            ELEMENT,
            "dynamic or int8",
            [_unchanged(kernel, 1, reason) for kernel in kernels],
            "Nothing gets smaller or faster; the file compresses better. Stored "
            "without its zeros an int8 file is larger at half of them, and LiteRT "
            "refuses some.",
            ["Remove channels; or export in float32 or float16 if zeros are skipped."],
        )
    elif target.encoding == DECODED:
        gains = [
            _decoded(kernel, sparsity, "multiplied, zero or not") for kernel in kernels
        ]
        yield _option(
            ELEMENT,
            "int8, encoded",
            gains,
            "Flash is saved if weights are encoded, in some more arena; nothing gets "
            "faster. Files that are stored sparsely for LiteRT are refused here, or "
            "compute wrongly.",
            ["kprune.export(..., encode=True)."],
        )
    elif target.npu is not None:
        reason = "read in fewer bytes, and multiplied"
        yield _option(
            ELEMENT,
            "int8, by Vela",
            [
                dataclasses.replace(_unchanged(kernel, 1, reason), bytes_after=None)
                for kernel in kernels
            ],
            "Vela encodes weights in fewer bytes, which saves flash and the time that "
            "reading them takes; multiplications stay. How much, kprune.export() "
            "tells.",
        )
    else:
        reason = "what the runtime does is not known"
        yield _option(
            ELEMENT,
            "any",
            [_unchanged(kernel, 4, reason) for kernel in kernels],
            "Files compress better. What else depends on the runtime.",
        )


def _unchanged(kernel: _Kernel, width: int, reason: str) -> Gain:
    size = kernel.tensor.size * width
    return Gain(kernel.name, size, size, kernel.macs, kernel.macs, reason)


def _decoded(kernel: _Kernel, sparsity: float, reason: str) -> Gain:
    size = kernel.tensor.size
    after = pruned_bytes(size, round((1 - sparsity) * size), 1)
    if after == size:
        reason = "too small to be encoded in fewer bytes"
    return Gain(kernel.name, size, after, kernel.macs, kernel.macs, reason)


def _skipped(
    model: keras.Model, file: TFLiteFile, kernels: Sequence[_Kernel], sparsity: float
) -> Option:
    verdict = judge(file, lambda tensor: round((1 - sparsity) * tensor.size))
    sparsely = verdict.outcome is not Outcome.WRONG
    reasons = {layer.operator: layer.reason for layer in verdict.layers}
    gains = []
    for kernel in kernels:
        before = 4 * kernel.tensor.size
        kept = round((1 - sparsity) * kernel.tensor.size)
        after = before
        if sparsely:
            after = min(before, sparse_bytes(kernel.tensor.shape, kept, 4))
        reason = reasons.get(kernel.position, "no kernel skips its zeros")
        skips = not reason and sparsely
        macs = round((1 - sparsity) * kernel.macs) if skips else kernel.macs
        gains.append(Gain(kernel.name, before, after, kernel.macs, macs, reason))
    said, cures = _told_of(model, verdict)
    return _option(ELEMENT, "float32 or float16", gains, said, cures)


def _told_of(model: keras.Model, verdict: Verdict) -> tuple[str, list[str]]:
    if verdict.outcome is Outcome.SKIPS:
        skipping = sum(layer.skips for layer in verdict.layers)
        return (
            f"XNNPACK skips zeros in {skipping} layers on Arm, and on x86 without AVX, "
            "if more than two thirds of their weights are zero; elsewhere it "
            "multiplies them. int8 may be faster still: measure both on the device."
        ), []
    reasons = verdict.mistakes or tuple(
        layer.reason for layer in verdict.layers if layer.candidate and layer.reason
    )
    why = f": {reasons[0]}." if reasons else ", since it has no 1x1 convolutions."
    if verdict.outcome is Outcome.WRONG:
        said = (
            "XNNPACK would compute wrongly, or not load the file, if zeros were left "
            f"out of it{why} They stay in it, and are multiplied."
        )
    else:
        said = f"The file can be smaller (encode=True); zeros are multiplied{why}"
    return said, _preparing(planned_changes(model))


def _preparing(changes: Sequence[Change]) -> list[str]:
    if not changes:
        return []
    return [
        f"kprune.prepare(model) changes {len(changes)} layers towards the form that "
        "XNNPACK needs; do so before training, and ask again."
    ]


def _in_blocks(target: Target, file: TFLiteFile, sparsity: float) -> Iterator[Option]:
    """Yields what blocks of four inputs bring in dense layers, if there are any."""
    kernels = list(_kernels(file.subgraphs[0]))
    dense = any(kernel.operator == "FULLY_CONNECTED" for kernel in kernels)
    if target.encoding != UNPACKED or not dense:
        return
    gains = []
    for kernel in kernels:
        before = 4 * kernel.tensor.size
        kept = round((1 - sparsity) * kernel.tensor.size)
        reason = ""
        if kernel.operator != "FULLY_CONNECTED":
            reason = "only dense layers have a kernel for them"
        elif kernel.tensor.shape[1] % BLOCK:
            reason = f"{kernel.tensor.shape[1]} inputs are no multiple of {BLOCK}"
        elif sparsity < LEAST_IN_BLOCKS:
            reason = f"a dense kernel is faster below {LEAST_IN_BLOCKS:g}"
        after = before
        if not reason:
            after = min(before, block_bytes(kernel.tensor.shape, kept, 4))
        macs = kernel.macs if reason else round((1 - sparsity) * kernel.macs)
        gains.append(Gain(kernel.name, before, after, kernel.macs, macs, reason))
    yield _option(
        IN_BLOCKS,
        "float32",
        gains,
        "LiteRT skips zeros of dense layers in blocks of four inputs, on every CPU, "
        "in float32 files that are stored without them.",
        ["kprune.PruningCallback(granularity=kprune.Block((1, 4)), only=[...])."],
    )


def _two_of_four(target: Target, file: TFLiteFile) -> Iterator[Option]:
    patterns = [p for p in target.patterns if p.pruning == "2:4"]
    if not patterns:
        return
    gains = []
    for kernel in _kernels(file.subgraphs[0]):
        size = kernel.tensor.size
        reason = ""
        if kernel.operator != "CONV_2D":
            reason = "only convolutions skip them"
        elif kernel.tensor.shape[-1] % 4:
            reason = f"{kernel.tensor.shape[-1]} input channels are no multiple of 4"
        macs = kernel.macs if reason else kernel.macs // 2
        gains.append(Gain(kernel.name, size, None, kernel.macs, macs, reason))
    yield _option(
        TWO_OF_FOUR,
        "int8, by Vela",
        gains,
        "Two zeros in each four consecutive input channels halve the multiplications "
        "of a convolution on this NPU.",
        ["kprune.PruningCallback(granularity=kprune.NofM(2, 4))."],
    )


def _channels(
    model: keras.Model, target: Target, file: TFLiteFile, sparsity: float
) -> Option:
    gains = [_unchanged(kernel, 1, "") for kernel in _kernels(file.subgraphs[0])]
    multiple = target.channel_multiple
    width = 4 if target.encoding == UNPACKED or target.name == "generic" else 1
    try:
        plan = plan_shrink(
            model, sparsity=sparsity, granularity=Channel(multiple=multiple)
        )
    except ValueError as error:
        whole = _option(CHANNEL, "any", gains, f"Nothing can be removed: {error}")
        return dataclasses.replace(whole, layers=(), bytes_after=whole.bytes_before)
    cures = []
    free = {group.name for group in plan.groups}
    # Heads go one by one: the channels of each are not their number.
    odd = [
        w
        for w in plan.widths
        if w.group in free and w.kind != "heads" and w.before % multiple
    ]
    if multiple > 1 and odd:
        cures.append(
            f"{len(odd)} of {len(plan.widths)} layers have widths that are no "
            f"multiples of {multiple}, in which the runtime computes: "
            f"{', '.join(f'{w.layer} {w.before}' for w in odd[:5])}"
            f"{' ...' if len(odd) > 5 else ''}. "
            f"kprune.Channel(multiple={multiple}) leaves multiples."
        )
    return Option(
        pruning=CHANNEL,
        stored="any",
        bytes_before=width * plan.parameters,
        bytes_after=width * plan.parameters_after,
        macs_before=plan.macs,
        macs_after=plan.macs_after,
        verdict=(
            "Bytes, multiplications and memory get less on every runtime; accuracy "
            "suffers more than from as many scattered zeros. "
            f"Groups of channels that have to stay: {len(plan.refusals)}."
        ),
        cures=tuple(cures),
    )


def _from_to(before: int, after: int | None) -> str:
    return f"{before:,} to " + ("?" if after is None else f"{after:,}")
