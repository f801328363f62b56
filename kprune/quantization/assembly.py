"""A model that rounds, made from calls and from where they round.

This module changes when Keras builds models, or names what is in them, in another way.
"""

from typing import Any

import keras

from kprune.layers import Pruned, constrain, mask_of, new_mask, values
from kprune.prunable import candidates
from kprune.quantization import roles
from kprune.quantization.calls import Call, Flow, Value, put
from kprune.quantization.fake_quantization import (
    FakeQuantize,
    QuantizedScaling,
    QuantizedWeights,
)
from kprune.quantization.places import Places
from kprune.rebuild import input_like, plain, settle


class Builder:
    """Makes the copy of a model from its calls."""

    def __init__(self, places: Places, ranges: str, momentum: float) -> None:
        self.places, self.ranges, self.momentum = places, ranges, momentum
        self.layers: dict[int, Any] = {}
        self.ends: dict[int, FakeQuantize] = {}
        self.taken = {call.operation.name for call in places.flow.calls}
        self.taken |= {v.like._keras_history.operation.name for v in places.flow.inputs}
        self._name_outputs()

    def model(self, name: str) -> keras.Model:
        """Returns the copy, with weights that are not copied yet."""
        flow = self.places.flow
        inputs = [
            input_like(value.like, value.like._keras_history.operation)
            for value in flow.inputs
        ]
        exact: dict[Value, Any] = dict(zip(flow.inputs, inputs, strict=True))
        rounded = {value: self._rounded(value, exact[value]) for value in flow.inputs}

        for call in flow.calls:
            # The converter makes nothing of a value that is rounded twice.
            again = self.places.role(call).kind == roles.AGAIN
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
            kind, layer = self.places.role(call).kind, call.operation
            if kind == roles.WEIGHTS:
                layer = QuantizedWeights(layer, call.batch_norm)
            elif kind == roles.SCALING:
                layer = QuantizedScaling(layer)
            self.layers[id(call.operation)] = layer
        return self.layers[id(call.operation)]

    def _rounded(self, value: Value, tensor: Any) -> Any:
        group = self.places.groups.get(value)
        if group is None:
            return tensor
        if id(group) not in self.ends:
            maker = self.places.makers.get(group.values[0])
            history = value.like._keras_history if maker is None else maker
            wanted = history.operation.name
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
        flow = self.places.flow
        for value, name in zip(
            keras.tree.flatten(flow.outputs), flow.output_names, strict=True
        ):
            group = self.places.groups.get(value)
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


def copy_weights(flow: Flow) -> None:
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
            for copy in copies:
                if isinstance(copy, keras.layers.Layer):
                    settle(copy)
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
