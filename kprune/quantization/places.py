"""Where a model rounds: which calls are int8, and which activations share a range.

This module changes when TFLite has another rule for the ranges of activations.
"""

import dataclasses

import keras

from kprune.quantization import roles
from kprune.quantization.calls import Call, Flow, Value, put
from kprune.quantization.kernels import entry_of
from kprune.quantization.roles import Role, role_of, takes_relu
from kprune.rebuild import plain
from kprune.report import QuantizationReport, QuantizedLayer

L = keras.layers

SKIPPED = "skip names it"


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
        before, rank = makers.get(call.inputs[0]), call.outputs[0].rank
        if before is None or before.name in kept:
            continue
        foldable = (
            role_of(norm, rank).kind == roles.SCALING
            and role_of(before.operation, rank).kind == roles.WEIGHTS
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


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Values that have one range.

    Args:
        values: Those of them that are rounded where they are made.
        range: Its ends where TFLite prescribes them.
        nonnegative: Whether none of the values can be below zero.
    """

    values: tuple[Value, ...]
    range: tuple[float, float] | None
    nonnegative: bool


class Places:
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
        """Returns what a call is for a model of integers."""
        return self.roles[id(call)]

    def _role(self, call: Call, kept: set[str]) -> Role:
        if call.name in kept:
            return Role(roles.FLOAT, reason=SKIPPED)
        if any("mask" in name for name in call.kwargs):
            return Role(roles.FLOAT, reason="it is called with a mask")
        role = role_of(call.operation, call.outputs[0].rank)
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
        again = value.again()
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

    def _groups(self) -> dict[Value, Group]:
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
            if self.role(call).kind not in (roles.FLOAT, roles.SAME, roles.NOTHING):
                touched.update([*call.inputs, *call.outputs])
        wanted = {find(value) for value in touched}
        members: dict[Value, list[Value]] = {}
        for value in [*self.flow.inputs, *self.makers]:
            if find(value) in wanted and self._is_rounded(value):
                members.setdefault(find(value), []).append(value)
        groups: dict[Value, Group] = {}
        for values_ in members.values():
            fixed = [self.role(self.makers[v]).range for v in values_ if self._fixed(v)]
            nonnegative = all(value in self.nonnegative for value in values_)
            group = Group(tuple(values_), fixed[0] if fixed else None, nonnegative)
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
