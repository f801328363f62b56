"""`quantize_aware`: a copy of a model that computes as its int8 file will.

This module changes when the places of rounding in a model are chosen in another way.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune import evidence
from kprune.layers import Pruned, constrain, mask_of, new_mask, values
from kprune.naming import matches, unknown
from kprune.notices import Notices
from kprune.prunable import candidates
from kprune.quantization import roles
from kprune.quantization.calls import Call, Flow, Value, put, written_out
from kprune.quantization.fake_quantization import (
    FakeQuantize,
    QuantizedScaling,
    QuantizedWeights,
    observing,
    switches,
)
from kprune.quantization.kernels import entry_of
from kprune.quantization.roles import Role, role_of, takes_relu
from kprune.rebuild import graph_of, has_graph, input_like, plain
from kprune.report import QuantizationReport, QuantizedLayer
from kprune.steps import check_backend
from kprune.transform import compile_alike

L = keras.layers

RANGES = ("moving_average", "learned")


def quantize_aware(
    model: keras.Model,
    *,
    data: Any = None,
    num_batches: int = 8,
    ranges: str = "moving_average",
    momentum: float = 0.99,
    skip: Any = None,
    strict: bool = False,
) -> keras.Model:
    """Returns a copy of a model that is trained to be an int8 file.

    Weights and activations are rounded in its graph to the values that they will have
    in the file: weights symmetric around an exact zero, convolutions with a range per
    output channel; activations to 256 values of a range that training finds. Batch
    normalisation is folded into the weights before they are rounded, as TFLite's
    converter does. Train the copy with `fit` as usual, a few epochs at a tenth of the
    learning rate, and give it to `kprune.export`, which needs no representative data
    for it. Its file computes what the copy does in inference, but for steps of
    rounding.

    Zeros stay zeros: masks of a pruned model come along, in place or in
    `kprune.Pruned` wrappers, and elements that are zero without a mask are held there.
    `PruningCallback` prunes the copy further, in the same fit; rounding can begin later
    in it, with `kprune.QuantizationCallback`. Remove channels (`kprune.shrink`) before.

    The copy is a functional model. Nested models are laid open in it, a layer's
    activation stands apart, separable convolutions are two. Layers with weights keep
    their names, and get a suffix where they make an output of the model, whose name
    stays.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3, with the
    deviation that `QuantizedWeights` has; scales as
    https://ai.google.dev/edge/litert/models/quantization_spec prescribes.

    Args:
        model: A built Sequential or Functional model, nested ones included. It is not
            changed.
        data: Inputs to find the first ranges on, before training: arrays, or a
            `tf.data.Dataset` or `keras.utils.PyDataset`, as `fit` takes them. Without
            it they begin with the first batches of training.
        num_batches: The most batches of the data to use, at least 1.
        ranges: How the ranges of activations are found: as the `"moving_average"` of
            the extremes in each batch, or `"learned"` along with the weights, which
            needs `data` to begin with.
        momentum: The share of the old average that stays at each step, in [0, 1).
        skip: What stays in float32: layers, layer classes, name patterns or functions
            from a layer to bool, or a list of these.
        strict: Whether a layer that has to stay in float32 is an error. What `skip`
            names is none.

    Returns:
        The copy, compiled as the given model is, with a fresh optimizer. Its attribute
        `quantization_report` says what becomes of each layer.

    Raises:
        ValueError: If the model has no graph or is not built, an argument is out of
            its range, a name is unknown, nothing can be quantised, `strict` finds
            layers that cannot, or activations are not finite on the data.
        TypeError: If an argument is of the wrong type.
    """
    _check(model, data, ranges, momentum)
    batches = None
    if data is not None:
        batches = evidence.read(data, num_batches, "quantize_aware")
    flow = written_out(model)
    kept = _kept_float(model, skip)
    fold_normalisations(flow, kept)
    plan = _Plan(flow, kept)
    report = plan.report()
    _check_report(model, report, strict)
    copy = _Builder(plan, ranges, momentum).model(model.name)
    _copy_weights(flow)
    if batches is not None:
        calibrate(copy, batches)
    copy.quantization_report = report
    if report.floats:
        Notices().warn(_floats(model, report))
    return compile_alike(model, copy)


def _check(model: Any, data: Any, ranges: str, momentum: float) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"quantize_aware: expected a Keras 3 model. Received {model!r} of type "
            f"{type(model).__module__}.{type(model).__qualname__}."
        )
    check_backend("quantize_aware")
    if not has_graph(model):
        raise ValueError(
            f"quantize_aware: {model.name!r} is a subclassed model "
            f"({type(model).__name__}), whose call() only Python can follow. Build it "
            "with the functional API, or export it with representative data: "
            "kprune.export(model, path, quantization='int8', representative_data=x)."
        )
    if not model.built or graph_of(model) is None:
        raise ValueError(
            f"quantize_aware: {model.name!r} is not built: it has no weights yet. Give "
            "it a keras.Input, or call it on data, first."
        )
    if any(switches(model)):
        raise ValueError(
            f"quantize_aware: {model.name!r} is quantised already. Train it as it is."
        )
    if ranges not in RANGES:
        raise ValueError(
            f"quantize_aware: `ranges` must be one of {RANGES}. Received {ranges!r}."
        )
    if ranges == "learned" and data is None:
        raise ValueError(
            "quantize_aware: ranges='learned' needs data to begin with: "
            "data=x_train[:256]."
        )
    if not isinstance(momentum, (int, float)) or not 0 <= momentum < 1:
        raise ValueError(
            f"quantize_aware: `momentum` must be in [0, 1). Received {momentum!r}."
        )


def _kept_float(model: keras.Model, skip: Any) -> set[str]:
    """Returns the names of the layers that `skip` means."""
    if skip is None:
        return set()
    layers = [layer for layer in model._flatten_layers() if layer is not model]
    names = [name for layer in layers for name in _called(layer)]
    found: set[str] = set()
    for matcher in skip if isinstance(skip, (list, tuple, set)) else (skip,):
        if isinstance(matcher, str):
            hits = [
                layer
                for layer in layers
                if any(matches(name, matcher) for name in _called(layer))
            ]
            if not hits:
                raise ValueError(f"quantize_aware: skip: {unknown(matcher, names)}")
        elif isinstance(matcher, keras.layers.Layer):
            hits = [layer for layer in layers if layer is matcher]
        elif isinstance(matcher, type):
            hits = [layer for layer in layers if isinstance(plain(layer), matcher)]
        elif callable(matcher):
            hits = [layer for layer in layers if matcher(layer)]
        else:
            raise TypeError(
                "quantize_aware: `skip` takes layers, layer classes, name patterns or "
                f"functions from a layer to bool. Received {matcher!r} of type "
                f"{type(matcher).__name__}."
            )
        if not hits:
            raise ValueError(f"quantize_aware: skip: {matcher!r} matches no layer.")
        for layer in hits:
            found.update(part.name for part in layer._flatten_layers())
    return found


def _called(layer: keras.layers.Layer) -> tuple[str, ...]:
    return (layer.name, layer.path) if layer.path else (layer.name,)


def fold_normalisations(flow: Flow, kept: set[str]) -> None:
    """Folds each batch normalisation into the layer before it, where it may be."""
    uses, makers = flow.uses(), flow.makers()
    times: dict[int, int] = {}
    for call in flow.calls:
        times[id(call.operation)] = times.get(id(call.operation), 0) + 1
    for call in list(flow.calls):
        norm = call.operation
        if type(norm) is not L.BatchNormalization or call.name in kept:
            continue
        before = makers.get(call.inputs[0])
        if before is None or before.name in kept or role_of(norm).kind == roles.FLOAT:
            continue
        foldable = (
            role_of(before.operation).kind == roles.WEIGHTS
            and not isinstance(plain(before.operation), L.Embedding)
            and len(call.inputs) == 1
            and uses[call.inputs[0]] == 1
            and times[id(norm)] == times[id(before.operation)] == 1
            and before.kwargs.get("training") == call.kwargs.get("training")
            and before.operation.dtype_policy == norm.dtype_policy
        )
        if foldable:
            before.batch_norm, before.outputs = norm, call.outputs
            before.originals += call.originals
            before.kwargs |= call.kwargs
            flow.calls.remove(call)


class _Plan:
    """Which calls are quantised, and where activations are rounded.

    Args:
        flow: The model's calls, with normalisations folded.
        kept: Names of layers that stay in float32.
    """

    def __init__(self, flow: Flow, kept: set[str]) -> None:
        self.flow = flow
        self.uses = flow.uses()
        self.makers = flow.makers()
        self.roles = {id(call): self._role(call, kept) for call in flow.calls}
        self._fuse_relus()
        self._part_fixed()
        self.groups = self._groups()

    def role(self, call: Call) -> Role:
        return self.roles[id(call)]

    def _role(self, call: Call, kept: set[str]) -> Role:
        if call.name in kept:
            return Role(roles.FLOAT, reason="skip names it")
        if any("mask" in name for name in call.kwargs):
            return Role(roles.FLOAT, reason="it is called with a mask")
        role = role_of(call.operation)
        if role.kind == roles.FREE and not call.inputs:
            return Role(roles.FLOAT, reason="it takes no tensor")
        return role

    def _fuse_relus(self) -> None:
        """Finds the ReLUs that are part of what comes before them."""
        self.fused: set[int] = set()
        self.nonnegative: set[Value] = set()
        for call in self.flow.calls:
            if self.role(call).kind != roles.RELU:
                continue
            (x,) = call.inputs
            self.nonnegative.update(call.outputs)
            before = self.makers.get(x)
            if (
                before is not None
                and self.uses[x] == 1
                and takes_relu(before.operation, self.role(before))
                and self.role(before).kind != roles.FLOAT
            ):
                self.fused.add(id(before))
            self.roles[id(call)] = Role(roles.FREE)

    def _part_fixed(self) -> None:
        """Rounds anew what has a fixed range where others have to share one with it."""
        for call in list(self.flow.calls):
            inputs = set(call.inputs)
            if self.role(call).kind == roles.SAME and len(inputs) > 1:
                for value in inputs:
                    self._part(call, value)

    def _part(self, taker: Call, value: Value) -> None:
        maker = self.makers.get(value)
        while maker is not None and self._follows(maker) and len(maker.inputs) == 1:
            taker, value = maker, maker.inputs[0]
            maker = self.makers.get(value)
        if maker is None or self.role(maker).kind != roles.FIXED:
            return
        again = Value(value.dtype)
        layer = L.Identity(name=f"{maker.operation.name}_for_{taker.operation.name}")
        step = Call(layer, (value,), {}, (again,), (), maker.name)
        self.roles[id(step)] = Role(roles.AGAIN)
        self.makers[again] = step
        self.flow.calls.insert(self.flow.calls.index(taker), step)
        taker.args, taker.kwargs = put(
            {v: again if v is value else v for v in taker.inputs},
            (taker.args, taker.kwargs),
        )

    def _follows(self, call: Call) -> bool:
        """Returns whether what a call makes has the range of what it takes."""
        return self.role(call).kind in (roles.SAME, roles.ROUNDED, roles.NOTHING)

    def _groups(self) -> dict[Value, "_Group"]:
        """Returns for each value that is rounded its range."""
        root: dict[Value, Value] = {}

        def find(value: Value) -> Value:
            while root.get(value, value) is not value:
                value = root[value]
            return value

        touched = set()
        for call in self.flow.calls:
            if self._follows(call):
                for value in call.inputs:
                    root[find(value)] = find(call.outputs[0])
            elif self.role(call).kind != roles.FLOAT:
                touched.update([*call.inputs, *call.outputs])
        wanted = {find(value) for value in touched}
        members: dict[Value, list[Value]] = {}
        for value in [*self.flow.inputs, *self.makers]:
            if find(value) in wanted and self._is_rounded(value):
                members.setdefault(find(value), []).append(value)
        groups: dict[Value, _Group] = {}
        for values_ in members.values():
            fixed = [self.role(self.makers[v]).range for v in values_ if self._fixed(v)]
            nonnegative = all(value in self.nonnegative for value in values_)
            group = _Group(tuple(values_), fixed[0] if fixed else None, nonnegative)
            groups |= dict.fromkeys(values_, group)
        return groups

    def _fixed(self, value: Value) -> bool:
        maker = self.makers.get(value)
        return maker is not None and self.role(maker).kind == roles.FIXED

    def _is_rounded(self, value: Value) -> bool:
        """Returns whether a value is rounded where it is made."""
        if not value.dtype.startswith(("float", "bfloat")):
            return False
        maker = self.makers.get(value)
        if maker is None:
            return True
        return id(maker) not in self.fused and self.role(maker).kind not in (
            roles.SAME,
            roles.NOTHING,
        )

    def report(self) -> QuantizationReport:
        """Returns what becomes of each layer of the model."""
        found: dict[str, QuantizedLayer] = {}
        for call in self.flow.calls:
            role = self.role(call)
            if role.kind in (roles.NOTHING, roles.AGAIN):
                continue
            form = _form(call, role)
            layer = QuantizedLayer(call.name, type(call.operation).__name__, form)
            if role.kind == roles.FLOAT:
                layer = dataclasses.replace(layer, reason=role.reason)
            before = found.get(call.name)
            # Of several calls that stand for a layer the first names it.
            if before is None or (layer.reason and not before.reason):
                found[call.name] = layer
        return QuantizationReport(tuple(found.values()))


@dataclasses.dataclass(frozen=True, eq=False)
class _Group:
    """Values that have one range.

    Args:
        values: Those of them that are rounded where they are made.
        range: Its ends where TFLite prescribes them.
        nonnegative: Whether none of the values can be below zero.
    """

    values: tuple[Value, ...]
    range: tuple[float, float] | None
    nonnegative: bool


def _form(call: Call, role: Role) -> str:
    if role.kind == roles.FLOAT:
        return "float32"
    if role.kind == roles.WEIGHTS:
        entry = entry_of(call.operation)
        per = "channel" if entry is not None and entry.per_channel else "tensor"
        folded = ", batch norm folded" if call.batch_norm is not None else ""
        return f"int8, a range per {per}{folded}"
    if role.kind == roles.SCALING:
        return "int8, as a depthwise convolution"
    return "int8"


class _Builder:
    """Makes the copy of a model from its calls."""

    def __init__(self, plan: _Plan, ranges: str, momentum: float) -> None:
        self.plan, self.ranges, self.momentum = plan, ranges, momentum
        self.layers: dict[int, Any] = {}
        self.ends: dict[int, FakeQuantize] = {}
        self.taken = {call.operation.name for call in plan.flow.calls}
        self.taken |= {value.like.name for value in plan.flow.inputs}
        self._name_outputs()

    def model(self, name: str) -> keras.Model:
        """Returns the copy, with weights that are not copied yet."""
        flow = self.plan.flow
        inputs = [
            input_like(value.like, value.like._keras_history.operation)
            for value in flow.inputs
        ]
        exact: dict[Value, Any] = dict(zip(flow.inputs, inputs, strict=True))
        rounded = {value: self._rounded(value, exact[value]) for value in flow.inputs}

        for call in flow.calls:
            # The converter makes nothing of a value that is rounded twice.
            again = self.plan.role(call).kind == roles.AGAIN
            args, kwargs = put(exact if again else rounded, (call.args, call.kwargs))
            made = keras.tree.flatten(self._layer(call)(*args, **kwargs))
            for value, tensor in zip(call.outputs, made, strict=True):
                exact[value] = tensor
                rounded[value] = self._rounded(value, tensor)
        outputs = put(rounded, flow.outputs)
        structure = keras.tree.pack_sequence_as(flow.input_structure, inputs)
        return keras.Model(structure, outputs, name=name)

    def _layer(self, call: Call) -> Any:
        """Returns what is called in the copy."""
        if id(call.operation) not in self.layers:
            kind, layer = self.plan.role(call).kind, call.operation
            if kind == roles.WEIGHTS:
                layer = QuantizedWeights(layer, call.batch_norm)
            elif kind == roles.SCALING:
                layer = QuantizedScaling(layer)
            self.layers[id(call.operation)] = layer
        return self.layers[id(call.operation)]

    def _rounded(self, value: Value, tensor: Any) -> Any:
        group = self.plan.groups.get(value)
        if group is None:
            return tensor
        if id(group) not in self.ends:
            maker = self.plan.makers.get(group.values[0])
            wanted = value.like.name if maker is None else maker.operation.name
            name = self.names.get(value) or self._free(f"{wanted}_range")
            self.ends[id(group)] = FakeQuantize(
                1 if group.range else len(group.values),
                self.ranges,
                group.range,
                self.momentum,
                group.nonnegative,
                name=name,
                dtype=tensor.dtype,
            )
        layer = self.ends[id(group)]
        if layer.num_tensors == 1:
            return layer(tensor)
        return layer(tensor, index=group.values.index(value))

    def _name_outputs(self) -> None:
        """Gives the names of outputs to what rounds them.

        Losses, metrics and files name outputs after the layer that makes them.
        """
        self.names: dict[Value, str] = {}
        flow = self.plan.flow
        for value, name in zip(
            keras.tree.flatten(flow.outputs), flow.output_names, strict=True
        ):
            group = self.plan.groups.get(value)
            if group is None or value in self.names or group.values[0] is not value:
                continue
            for call in flow.calls:
                if call.operation.name == name:
                    kind = type(plain(call.operation)).__name__.lower()
                    self.taken.discard(name)
                    call.operation.name = self._free(f"{name}_{kind}")
            self.taken.add(name)
            self.names[value] = name

    def _free(self, name: str) -> str:
        free, number = name, 0
        while free in self.taken:
            number += 1
            free = f"{name}_{number}"
        self.taken.add(free)
        return free


def _copy_weights(flow: Flow) -> None:
    """Gives the copy the values and masks of the model."""
    for call in flow.calls:
        for original, copies in call.originals:
            new = [v for copy in copies for v in getattr(copy, "variables", ())]
            old = getattr(original, "variables", [])
            if [tuple(v.shape) for v in old] != [tuple(v.shape) for v in new]:
                raise ValueError(
                    f"quantize_aware: {original.name!r} of class "
                    f"{type(original).__name__} builds other weights from its "
                    "configuration than it has now; it cannot be copied."
                )
            for source, target in zip(old, new, strict=True):
                target.assign(source)
                _copy_mask(source, target, original)
            if not isinstance(original, Pruned):
                for copy in copies:
                    _hold_zeros(copy)


def _copy_mask(
    source: keras.Variable, target: keras.Variable, original: keras.layers.Layer
) -> None:
    mask = mask_of(source)
    if mask is None or isinstance(original, Pruned):
        return  # A wrapper's are among its weights.
    constrain(target, new_mask(target)).mask.assign(mask.mask)


def _hold_zeros(layer: Any) -> None:
    """Holds what is zero without a mask, as in a pruned model from a file."""
    if not isinstance(layer, keras.layers.Layer):
        return
    for candidate in candidates(layer):
        variable = candidate.variable
        if candidate.reason is not None or mask_of(variable) is not None:
            continue
        kept = values(variable) != 0
        if not kept.all() and kept.any():
            constrain(variable, new_mask(variable)).mask.assign(kept)


def calibrate(model: keras.Model, batches: Sequence[evidence.Batch]) -> None:
    """Takes the ranges of a quantised model's activations.

    Args:
        model: A model that `quantize_aware` made.
        batches: Inputs.

    Raises:
        ValueError: If activations are not finite.
    """
    with observing():
        for batch in batches:
            model(batch.x, training=False)
    check_ranges("quantize_aware", model)


def check_ranges(owner: str, model: keras.Model) -> None:
    """Raises a `ValueError` if a range was never observed, or is not finite."""
    for layer in switches(model):
        if not isinstance(layer, FakeQuantize) or layer.fixed is not None:
            continue
        if not np.isfinite(layer.range).all():
            raise ValueError(
                f"{owner}: activations at {layer.name!r} are NaN or infinite. Check "
                "the data for such values, and the model's weights."
            )
        if not layer.observations.numpy().all():
            raise ValueError(
                f"{owner}: the range of the activations at {layer.name!r} was never "
                "observed. Train the model with fit(), or give data to "
                "kprune.quantize_aware(model, data=x)."
            )


def _check_report(model: keras.Model, report: QuantizationReport, strict: bool) -> None:
    if not any(layer.reason == "" for layer in report.layers):
        raise ValueError(
            f"quantize_aware: no layer of {model.name!r} can be quantised.\n{report}"
        )
    unasked = [layer for layer in report.floats if layer.reason != "skip names it"]
    if strict and unasked:
        lines = "\n".join(f"  {layer.name}: {layer.reason}" for layer in unasked)
        raise ValueError(
            f"quantize_aware: strict=True, and layers of {model.name!r} cannot be "
            f"quantised:\n{lines}\nReplace them, name them in `skip`, or leave out "
            "`strict`."
        )


def _floats(model: keras.Model, report: QuantizationReport) -> str:
    lines = ", ".join(f"{layer.name!r} ({layer.reason})" for layer in report.floats)
    return (
        f"Layers of {model.name!r} stay in float32: {lines}. Microcontrollers and NPUs "
        "may refuse the file, and others convert to float and back there. strict=True "
        "makes it an error; print(model.quantization_report) shows all layers."
    )
