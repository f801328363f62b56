"""A model as a flat list of calls, written out as TFLite has them.

Nested models are laid open, activations stand apart from what they follow, separable
convolutions are two, and sums of many are sums of two. This module changes when a layer
of Keras becomes several operators of TFLite in another way.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from kprune.layers import Pruned
from kprune.quantization.kernels import entry_of
from kprune.rebuild import from_config, graph_of, has_graph, nodes_of, plain

L = keras.layers


@dataclasses.dataclass(eq=False)
class Value:
    """A tensor between calls.

    Args:
        dtype: Its data type.
        rank: How many axes it has.
        like: The tensor of the model that is an input; `None` for what a call makes.
    """

    dtype: str
    rank: int
    like: Any = None

    @classmethod
    def of(cls, tensor: Any, like: Any = None) -> "Value":
        """Returns a value of a tensor's type and rank."""
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        return cls(dtype, len(tensor.shape), like)

    def again(self) -> "Value":
        """Returns another value of this type and rank."""
        return Value(self.dtype, self.rank)


@dataclasses.dataclass(eq=False)
class Call:
    """One call of an operation.

    Args:
        operation: What is called in the copy. It is not built.
        args: Positional arguments, with values in the place of tensors.
        kwargs: Arguments by name, likewise.
        outputs: What it makes.
        originals: A layer of the model, and the layers of the copy that get its weights
            among them, in their order; on the first call that stands for it.
        name: The name of the layer that it stands for in the model.
        batch_norm: The normalisation that is folded into it.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Value, ...]
    originals: tuple[tuple[Any, tuple[Any, ...]], ...]
    name: str
    batch_norm: Any = None

    @property
    def inputs(self) -> list[Value]:
        """The values among its arguments."""
        leaves = keras.tree.flatten((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, Value)]


@dataclasses.dataclass(eq=False)
class Flow:
    """A model as calls.

    Args:
        calls: The calls, each after those whose values it takes.
        inputs: The inputs.
        input_structure: The structure that the model takes them in.
        outputs: The outputs, in the structure that the model returns.
        output_names: What each output is called, after the layer that makes it.
    """

    calls: list[Call]
    inputs: list[Value]
    input_structure: Any
    outputs: Any
    output_names: list[str]

    def uses(self) -> dict[Value, int]:
        """Returns how often each value is taken; an output once more."""
        counts: dict[Value, int] = {}
        leaves = [v for call in self.calls for v in call.inputs]
        for value in leaves + keras.tree.flatten(self.outputs):
            counts[value] = counts.get(value, 0) + 1
        return counts

    def makers(self) -> dict[Value, Call]:
        """Returns the call that makes each value."""
        return {value: call for call in self.calls for value in call.outputs}


def put(tensors: Mapping[Value, Any], structure: Any) -> Any:
    """Returns a structure with what stands for each value in its place."""
    return keras.tree.map_structure(
        lambda leaf: tensors[leaf] if isinstance(leaf, Value) else leaf, structure
    )


def written_out(model: keras.Model) -> Flow:
    """Returns a model as calls of copies of its layers; the model is not changed."""
    return _Writer().model(model)


class _Writer:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        # By the id of an operation: itself, which must outlive its id, and its copies.
        self.copies: dict[int, tuple[Any, list[Any]]] = {}
        self.names: set[str] = set()

    def model(self, model: keras.Model) -> Flow:
        graph = graph_of(model)
        inputs = [Value.of(tensor, tensor) for tensor in graph.inputs]
        self.names.update(t._keras_history.operation.name for t in graph.inputs)
        outputs = self._graph(graph, inputs, "", {})
        names = [t._keras_history.operation.name for t in graph.outputs]
        structure = keras.tree.pack_sequence_as(graph._outputs_struct, outputs)
        return Flow(self.calls, inputs, graph.input, structure, names)

    def _graph(
        self,
        graph: Any,
        inputs: Sequence[Value],
        within: str,
        passed: Mapping[str, Any],
    ) -> list[Value]:
        """Writes the calls of a graph, and returns its outputs."""
        known: dict[int, Any] = dict(zip(map(id, graph.inputs), inputs, strict=True))
        for node in nodes_of(graph):
            args, kwargs = node.arguments.fill_in(known)
            # Keras notes of what it filled in itself that there was none.
            given = {key: value for key, value in kwargs.items() if value is not None}
            made = self._node(node, args, given, within, passed)
            known |= dict(zip(map(id, node.outputs), made, strict=True))
        return [known[id(tensor)] for tensor in graph.outputs]

    def _node(
        self,
        node: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        within: str,
        passed: Mapping[str, Any],
    ) -> list[Value]:
        operation = node.operation
        if has_graph(operation):
            training = kwargs.pop("training", passed.get("training"))
            passed = {} if training is None else {"training": training}
            values = keras.tree.flatten((args, kwargs))
            name = f"{within}{operation.name}_"
            return self._graph(graph_of(operation), values, name, passed)
        if "training" in passed and "training" in _call_arguments(operation):
            kwargs.setdefault("training", passed["training"])
        outputs = [Value.of(tensor) for tensor in node.outputs]
        merged = self._pairwise(operation, args, outputs, within)
        if not merged:
            self._chain(operation, args, kwargs, outputs, within)
        return outputs

    def _chain(
        self,
        operation: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        outputs: list[Value],
        within: str,
    ) -> None:
        """Writes an operation as the calls that stand for it."""
        if id(operation) not in self.copies:
            self.copies[id(operation)] = operation, self._written(operation, within)
        steps = self.copies[id(operation)][1]
        originals: Any = ((operation, tuple(steps)),)
        for step in steps[:-1]:
            between = outputs[0].again()
            name = operation.name
            self._write(Call(step, args, kwargs, (between,), originals, name), within)
            args, kwargs, originals = (between,), {}, ()
        call = Call(steps[-1], args, kwargs, tuple(outputs), originals, operation.name)
        self._write(call, within)

    def _write(self, call: Call, within: str) -> None:
        """Writes a call; a SiLU is two."""
        if _activation_name(call.operation) not in ("silu", "swish"):
            self.calls.append(call)
            return
        (x,), (y,) = call.args, call.outputs
        half = y.again()
        name = call.operation.name
        gate = self._named(L.Activation, within, f"{name}_gate", activation="sigmoid")
        product = self._named(L.Multiply, within, f"{name}_product")
        self.calls.append(Call(gate, (x,), {}, (half,), (), call.name))
        self.calls.append(Call(product, ([x, half],), {}, (y,), (), call.name))

    def _pairwise(
        self,
        operation: Any,
        args: tuple[Any, ...],
        outputs: list[Value],
        within: str,
    ) -> bool:
        """Writes a sum or product of many as one of two after the other."""
        many = type(operation) in (L.Add, L.Multiply) and len(args[0]) > 2
        if not many:
            return False
        result, *others = args[0]
        for index, other in enumerate(others):
            last = index == len(others) - 1
            made = outputs[0] if last else outputs[0].again()
            name = operation.name if last else f"{operation.name}_{index}"
            step = self._named(
                type(operation), within, name, dtype=operation.dtype_policy
            )
            call = Call(step, ([result, other],), {}, (made,), (), operation.name)
            self.calls.append(call)
            result = made
        return True

    def _written(self, operation: Any, within: str) -> list[Any]:
        """Returns copies of what stands for an operation, one after the other."""
        if _splits(operation):
            return self._separable(operation, within)
        inner = plain(operation)
        activation = getattr(inner, "activation", None)
        apart = entry_of(inner) is not None and activation is not None
        if not apart or _activation_name(inner) == "linear":
            return [self._copy(operation, within)]
        return [
            self._copy(operation, within, _without_activation),
            self._activation(inner, within),
        ]

    def _separable(self, layer: Any, within: str) -> list[Any]:
        """Returns a depthwise and a pointwise convolution, and the activation."""
        config = layer.get_config()
        flat = type(layer) is L.SeparableConv1D
        spatial = self._named(
            L.DepthwiseConv1D if flat else L.DepthwiseConv2D,
            within,
            f"{layer.name}_depthwise",
            **{key: config[key] for key in _SPATIAL},
            **{f"depthwise_{key}": config[f"depthwise_{key}"] for key in _OF_WEIGHTS},
            use_bias=False,
        )
        pointwise = self._named(
            L.Conv1D if flat else L.Conv2D,
            within,
            f"{layer.name}_pointwise",
            filters=config["filters"],
            kernel_size=1,
            **{f"kernel_{key}": config[f"pointwise_{key}"] for key in _OF_WEIGHTS},
            **{key: config[key] for key in _OF_BIAS},
            dtype=layer.dtype_policy,
            trainable=layer.trainable,
        )
        steps = [spatial, pointwise]
        if _activation_name(layer) != "linear":
            steps.append(self._activation(layer, within))
        return steps

    def _activation(self, layer: Any, within: str) -> Any:
        """Returns the activation of a layer, as a layer of its own."""
        if isinstance(layer.activation, L.Layer):
            return self._copy(layer.activation, within)
        return self._named(
            L.Activation,
            within,
            f"{layer.name}_{_activation_name(layer)}",
            activation=layer.activation,
            activity_regularizer=layer.activity_regularizer,
            dtype=layer.dtype_policy,
        )

    def _copy(
        self,
        operation: Any,
        within: str,
        change: Callable[[Any, dict[str, Any]], dict[str, Any]] | None = None,
    ) -> Any:
        name = self.free_name(operation.name, within)

        def changed(operation: Any, config: dict[str, Any]) -> dict[str, Any]:
            config = change(operation, config) if change else config
            return {**config, "name": name} if "name" in config else config

        return from_config(operation, changed)

    def _named(self, cls: Any, within: str, name: str, **arguments: Any) -> Any:
        return cls(name=self.free_name(name, within), **arguments)

    def free_name(self, name: str, within: str = "") -> str:
        """Returns a name that nothing else in the copy has."""
        wanted = [name, f"{within}{name}"]
        wanted += [f"{within}{name}_{number}" for number in range(1, len(self.names))]
        free = next(each for each in wanted if each not in self.names)
        self.names.add(free)
        return free


_SPATIAL = (
    "kernel_size",
    "strides",
    "padding",
    "depth_multiplier",
    "data_format",
    "dilation_rate",
    "dtype",
    "trainable",
)
_OF_WEIGHTS = ("initializer", "regularizer", "constraint")
_OF_BIAS = ("use_bias", "bias_initializer", "bias_regularizer", "bias_constraint")


def _splits(operation: Any) -> bool:
    return type(operation) in (L.SeparableConv1D, L.SeparableConv2D)


def _without_activation(operation: Any, config: dict[str, Any]) -> dict[str, Any]:
    if isinstance(operation, Pruned):
        config = copy.deepcopy(config)
        config["layer"]["config"] |= _NO_ACTIVATION
        return config
    return config | _NO_ACTIVATION


# The regularizer speaks of what the activation makes.
_NO_ACTIVATION = {"activation": "linear", "activity_regularizer": None}


def _activation_name(layer: Any) -> str:
    activation = getattr(layer, "activation", None)
    return getattr(activation, "__name__", type(activation).__name__.lower())


def _call_arguments(operation: Any) -> Sequence[str]:
    if not isinstance(operation, L.Layer):
        return ()
    return operation._call_signature.parameters.keys()
