"""Models whose architecture a device's runtime can make use of, before training.

This module changes when another architecture has to be changed for a runtime, or can
be changed for it.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kprune.coupling.graph import check_graph
from kprune.export import tflite
from kprune.export.choosing import Device, target_of
from kprune.export.convert import check_backend, convert
from kprune.export.interface import of_model
from kprune.export.precision import in_float32
from kprune.export.targets import UNPACKED
from kprune.export.xnnpack import Outcome, Verdict, judge
from kprune.rebuild import Chain, Changes, graph_of, has_graph, nodes_of, plain, rebuild
from kprune.report.text import as_json, table

L = keras.layers

_SPARSITY = 0.8  # Of the question whether zeros would be skipped.


@dataclasses.dataclass(frozen=True)
class Change:
    """One change of an architecture.

    Args:
        layer: The layer's name.
        what: What it is now, and was before.
        exact: Whether the model computes the same as before.
    """

    layer: str
    what: str
    exact: bool


@dataclasses.dataclass(frozen=True)
class PrepareReport:
    """What was changed of a model, and what still is in the way.

    Args:
        model: The model's name.
        target: The target's name.
        changes: What was changed.
        outlook: What the runtime will do with zeros, in a sentence.
        skips: Whether it will skip zeros.
        remaining: What is in the way and was not changed, with the cure where there is
            one.
    """

    model: str
    target: str
    changes: tuple[Change, ...]
    outlook: str
    skips: bool
    remaining: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain Python values."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Returns the report as JSON text."""
        return as_json(self.to_dict())

    def __str__(self) -> str:
        lines = [f"{self.model}, prepared for {self.target}: {self.outlook}"]
        if self.changes:
            rows = [
                (item.layer, item.what, "the same" if item.exact else "other outputs")
                for item in self.changes
            ]
            lines += ["", *table(("layer", "now", "computes"), rows)]
        else:
            lines.append("Nothing was changed.")
        lines += [f"in the way: {reason}" for reason in self.remaining]
        return "\n".join(lines)


def prepare(model: keras.Model, target: Device = "android") -> keras.Model:
    """Returns a model of an architecture that the target's runtime makes use of.

    LiteRT's XNNPACK skips zeros only in networks of one form (see `kprune.advise`). For
    `"android"` what differs from it is changed where that can be done:

    - Padding that depends on the size, which convolutions of stride 2 with
      `padding="same"` have and those of keras.applications, becomes `ZeroPadding2D` on
      all four sides. The same number of outputs comes out, shifted by a pixel: **other
      values**. Weights trained before need some more training.
    - A head of `GlobalAveragePooling2D(keepdims=True)` and 1x1 convolutions becomes one
      of dense layers, and an `AveragePooling2D` over all of height and width a
      `GlobalAveragePooling2D`. Outputs stay the same.

    Other targets need no other architecture.

    Args:
        model: A built Sequential or Functional model. It is not changed.
        target: What the model is for, as in `kprune.export`.

    Returns:
        A new model with the same weights, not compiled. Its attribute `prepare_report`
        is a `PrepareReport`: what was changed and what still is in the way.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If it has no graph, is not built, or cannot be rebuilt or converted.
    """
    chosen = target_of(target)
    check_graph("prepare", model)
    if chosen.encoding != UNPACKED:
        copy = rebuild(model)
        outlook = f"{chosen.runtime} makes no use of another architecture."
        copy.prepare_report = PrepareReport(
            model.name, chosen.name, (), outlook, False, ()
        )
        return copy
    check_backend()
    edits = _edits(model)
    prepared = rebuild(model, _Prepared(edits))
    verdict = foresee(prepared)
    said, remaining = in_words(verdict)
    prepared.prepare_report = PrepareReport(
        model=model.name,
        target=chosen.name,
        changes=_told(edits),
        outlook=said,
        skips=verdict.outcome is Outcome.SKIPS,
        remaining=remaining,
    )
    return prepared


def planned_changes(model: keras.Model) -> tuple[Change, ...]:
    """Returns what `prepare` would change of a model for LiteRT, without doing it."""
    if not has_graph(model) or graph_of(model) is None:
        return ()
    return _told(_edits(model))


def _told(edits: Mapping[int, "_Edit"]) -> tuple[Change, ...]:
    return tuple(edit.change for edit in edits.values() if edit.change)


def foresee(model: keras.Model, sparsity: float = _SPARSITY) -> Verdict:
    """Returns what XNNPACK would do with a model of which that share were zero."""
    computing = in_float32(model)
    data = convert(of_model(computing), computing, "none", None, False)
    return judge(tflite.parse(data), lambda tensor: round((1 - sparsity) * tensor.size))


def in_words(verdict: Verdict) -> tuple[str, tuple[str, ...]]:
    """Returns what XNNPACK will do with zeros, and what is in the way of skipping."""
    skipping = sum(layer.skips for layer in verdict.layers)
    candidates = [layer for layer in verdict.layers if layer.candidate]
    reasons = [layer.reason for layer in candidates if layer.reason]
    remaining = tuple(dict.fromkeys([*verdict.mistakes, *reasons]))
    if verdict.outcome is Outcome.SKIPS:
        return (
            f"XNNPACK will skip zeros in {skipping} of its {len(candidates)} 1x1 "
            "convolutions, if more than two thirds are zero.",
            remaining,
        )
    if verdict.outcome is Outcome.WRONG:
        return (
            "XNNPACK would compute it wrongly if its zeros were left out of the file, "
            "so that they will not be, and will be multiplied.",
            remaining,
        )
    if not candidates:
        return (
            "XNNPACK will multiply zeros: it skips them in 1x1 convolutions only, and "
            "there are none.",
            (),
        )
    return "XNNPACK will multiply zeros.", remaining


@dataclasses.dataclass
class _Edit:
    """What is different of one layer.

    Attributes:
        change: What is told of it; `None` for what another edit tells.
        config: Entries of its configuration.
        pad: Width of a ZeroPadding2D before it.
        dense: Whether a dense layer takes the place of a 1x1 convolution.
        pooling: Whether a global mean takes the place of a pooling.
    """

    change: Change | None
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pad: int = 0
    dense: bool = False
    pooling: bool = False


class _Prepared(Changes):
    def __init__(self, edits: Mapping[int, _Edit]) -> None:
        self.edits = edits
        self.reshaped: set[int] = set()

    def config(self, operation: Any, config: dict[str, Any]) -> dict[str, Any]:
        """Returns the configuration with what is different."""
        edit = self.edits.get(id(operation))
        return config if edit is None else {**config, **edit.config}

    def make(self, operation: Any) -> Any:
        """Returns the dense or pooling layer in the place of another."""
        edit = self.edits.get(id(operation))
        if edit is not None and edit.pooling:
            return L.GlobalAveragePooling2D(keepdims=True, name=operation.name)
        if edit is None or not edit.dense:
            return None
        self.reshaped.add(id(operation.kernel))
        names = ("name", "use_bias", "activation", "dtype", "trainable")
        config = operation.get_config()
        return L.Dense(operation.filters, **{name: config[name] for name in names})

    def replacement(self, operation: Any, copy: Any) -> Any:
        """Returns the layer, with padding before it where it needs that."""
        edit = self.edits.get(id(operation))
        if edit is None or not edit.pad:
            return copy
        pad = L.ZeroPadding2D(edit.pad, name=f"{operation.name}_padding")
        return Chain(pad, copy)

    def value(self, variable: keras.Variable) -> Any:
        """Returns a variable's values, of a 1x1 kernel those of a dense one."""
        if id(variable) in self.reshaped:
            return np.asarray(variable)[0, 0]
        return variable


def _edits(model: keras.Model) -> dict[int, _Edit]:
    """Returns by the id of an operation what is to be different of it."""
    found: dict[int, _Edit] = {}
    for graph in _graphs(model):
        nodes = nodes_of(graph)
        readers: dict[int, list[Any]] = {}
        for node in nodes:
            for tensor in node.input_tensors:
                readers.setdefault(id(tensor), []).append(node)
        outputs = {id(tensor) for tensor in graph.outputs}
        for node in nodes:
            found |= _padded(node)
            found |= _repadded(node, readers)
            found |= _pooled(node)
            found |= _dense_head(node, readers, outputs)
    return found


def _graphs(model: Any) -> Iterator[Any]:
    """Yields the graph of a model and those of the models in it."""
    graph = graph_of(model)
    yield graph
    for node in nodes_of(graph):
        inner = plain(node.operation)
        if has_graph(inner) and graph_of(inner) is not None:
            yield from _graphs(inner)


def _margin(node: Any, padding: str) -> int:
    """Returns by how much a convolution of stride 2 must be padded; 0 if it is none.

    Only those are meant that XNNPACK has a sparse neighbour for.
    """
    layer = plain(node.operation)
    if type(layer) is L.Conv2D:
        fits = layer.kernel_size == (3, 3) and node.input_tensors[0].shape[-1] == 3
    else:
        fits = isinstance(layer, (L.DepthwiseConv2D, L.SeparableConv2D)) and (
            layer.kernel_size in ((3, 3), (5, 5))
        )
    strided = fits and tuple(layer.strides) == (2, 2) and layer.padding == padding
    return layer.kernel_size[0] // 2 if strided else 0


def _is_even(sizes: Sequence[int | None]) -> bool:
    return all(size is not None and size % 2 == 0 for size in sizes)


def _padded(node: Any) -> dict[int, _Edit]:
    margin = _margin(node, "same")
    if not margin or not _is_even(node.input_tensors[0].shape[1:3]):
        return {}
    layer = plain(node.operation)
    what = f"ZeroPadding2D({margin}) and padding='valid', was padding='same'"
    change = Change(layer.name, what, exact=False)
    return {id(layer): _Edit(change, {"padding": "valid"}, pad=margin)}


def _repadded(node: Any, readers: Mapping[int, Sequence[Any]]) -> dict[int, _Edit]:
    """Returns the padding that keras.applications have before strided convolutions."""
    layer = plain(node.operation)
    following = readers.get(id(node.outputs[0]), ())
    if not isinstance(layer, L.ZeroPadding2D) or not following:
        return {}
    margins = {_margin(reader, "valid") for reader in following}
    margin = margins.pop()
    if margins or not margin or not _is_even(node.input_tensors[0].shape[1:3]):
        return {}
    even = ((margin, margin), (margin, margin))
    before = tuple(map(tuple, layer.padding))
    if before != ((margin - 1, margin), (margin - 1, margin)):
        return {}
    what = f"padding of {margin} on all four sides, was {before}"
    return {id(layer): _Edit(Change(layer.name, what, exact=False), {"padding": even})}


def _pooled(node: Any) -> dict[int, _Edit]:
    layer = plain(node.operation)
    if not isinstance(layer, L.AveragePooling2D):
        return {}
    if tuple(node.input_tensors[0].shape[1:3]) != tuple(layer.pool_size):
        return {}
    what = "GlobalAveragePooling2D(keepdims=True), was AveragePooling2D"
    return {id(layer): _Edit(Change(layer.name, what, exact=True), pooling=True)}


# What computes the same of a vector as of an image of one pixel.
_POINTWISE = (L.Activation, L.ReLU, L.LeakyReLU, L.Dropout, L.BatchNormalization)


def _dense_head(
    node: Any, readers: Mapping[int, Sequence[Any]], outputs: set[int]
) -> dict[int, _Edit]:
    """Returns dense layers for the 1x1 convolutions between a mean and a vector."""
    layer = plain(node.operation)
    if not isinstance(layer, L.GlobalAveragePooling2D) or not layer.keepdims:
        return {}
    what = "GlobalAveragePooling2D without keepdims, was with"
    found = {id(layer): _Edit(Change(layer.name, what, True), {"keepdims": False})}
    convolutions = 0
    tensor = node.outputs[0]
    while True:
        following = readers.get(id(tensor), ())
        if len(following) != 1 or id(tensor) in outputs:
            return {}
        (reader,) = following
        inner = plain(reader.operation)
        if len(inner._inbound_nodes) != 1:
            return {}
        if isinstance(inner, (L.Flatten, L.Reshape)):
            ends = len(reader.outputs[0].shape) == 2
            return found if ends and convolutions else {}
        if type(inner) is L.Conv2D and inner.kernel_size == (1, 1):
            what = f"Dense({inner.filters}), was a 1x1 Conv2D"
            found[id(inner)] = _Edit(Change(inner.name, what, True), dense=True)
            convolutions += 1
        elif isinstance(inner, L.BatchNormalization):
            found[id(inner)] = _Edit(None, {"axis": -1})
        elif not isinstance(inner, _POINTWISE):
            return {}
        tensor = reader.outputs[0]
