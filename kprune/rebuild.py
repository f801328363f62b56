"""Models made anew from the configurations of their layers.

Everything that returns a changed copy of a model goes through here: wrapping,
unwrapping, removing channels. This module changes when Keras copies models in another
way.
"""

import copy as copying
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras

from kprune.layers import Pruned


class Changes:
    """What is different in the copy; nothing, unless methods are overridden.

    Attributes:
        bypass: By the id of an operation the position of the input that stands for its
            output. What nothing needs any more is left out of the copy.
    """

    bypass: Mapping[int, int] = {}

    def make(self, operation: Any) -> Any:
        """Returns what is to get an operation's weights instead of its copy, or `None`.

        It is not built, and builds weights of as many elements in the same order.
        """
        return None

    def replacement(self, operation: Any, copy: Any) -> Any:
        """Returns what stands in the place of an operation's copy in the graph.

        It may be a `Chain` that has the copy in it.
        """
        return copy

    def config(self, operation: Any, config: dict[str, Any]) -> dict[str, Any]:
        """Returns the configuration of an operation's copy."""
        return config

    def arguments(
        self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the arguments that an operation's copy is called with."""
        return args, kwargs

    def shape(self, tensor: Any) -> tuple[int | None, ...]:
        """Returns the shape of the copy of an input."""
        return tuple(tensor.shape)

    def value(self, variable: keras.Variable) -> Any:
        """Returns the values of a variable's copy."""
        return variable


class Chain:
    """Layers that stand one after the other in the place of one.

    Args:
        layers: The layers.
    """

    def __init__(self, *layers: keras.layers.Layer) -> None:
        self.layers = layers

    def __call__(self, x: Any, **kwargs: Any) -> Any:
        """Returns what the last layer makes; arguments are the last one's."""
        for layer in self.layers[:-1]:
            x = layer(x)
        return self.layers[-1](x, **kwargs)


def has_graph(model: Any) -> bool:
    """Returns whether a model is Sequential or Functional."""
    return isinstance(model, keras.Sequential) or (
        isinstance(model, keras.Model) and hasattr(model, "operations")
    )


def graph_of(model: keras.Model) -> Any:
    """Returns what holds the nodes of a model; `None` if it is not built."""
    return model._functional if isinstance(model, keras.Sequential) else model


def nodes_of(graph: Any, bypass: Mapping[int, int] | None = None) -> list[Any]:
    """Returns the nodes that a graph's outputs need, each after those it depends on.

    Args:
        graph: The graph.
        bypass: By the id of an operation the position of the only input it needs.
    """
    nodes = [
        node
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for node in graph._nodes_by_depth[depth]
        if node.operation and not node.is_input
    ]
    if not bypass:
        return nodes
    needed = {id(tensor) for tensor in graph.outputs}
    kept = []
    for node in reversed(nodes):
        if any(id(tensor) in needed for tensor in node.outputs):
            inputs = node.input_tensors
            if id(node.operation) in bypass:
                inputs = [inputs[bypass[id(node.operation)]]]
            needed |= {id(tensor) for tensor in inputs}
            kept.append(node)
    return kept[::-1]


def input_like(
    tensor: Any, layer: Any, shape: tuple[int | None, ...] | None = None
) -> Any:
    """Returns a new input with the names of another one and of its layer.

    Args:
        tensor: The other one.
        layer: The layer that it is of.
        shape: Its shape, with the batch dimension; the other one's by default.
    """
    copy = keras.Input(
        batch_shape=tuple(tensor.shape) if shape is None else shape,
        dtype=tensor.dtype,
        sparse=tensor.sparse,
        optional=layer.optional,
        name=layer.name,
    )
    copy.name = tensor.name  # Exported files name their inputs after it.
    return copy


def plain(operation: Any) -> Any:
    """Returns what a `Pruned` wrapper wraps, or the operation itself."""
    return operation.layer if isinstance(operation, Pruned) else operation


def rebuild(model: keras.Model, changes: Changes | None = None) -> keras.Model:
    """Returns a copy of a model with a graph, free of wrappers, not compiled.

    Nested and shared layers stay so, and names are kept. A `Pruned` layer stands for
    what it wraps.
    """
    return rebuild_with_variables(model, changes)[0]


def rebuild_with_variables(
    model: keras.Model, changes: Changes | None = None
) -> tuple[keras.Model, dict[int, keras.Variable]]:
    """Returns the copy, and the copied variables by the id of those they stand for."""
    return _Rebuild(changes or Changes()).run(model)


def from_config(
    operation: Any,
    change: Callable[[Any, dict[str, Any]], dict[str, Any]] | None = None,
) -> Any:
    """Returns an operation of the same class and configuration, not built.

    Args:
        operation: The operation.
        change: From the operation and its configuration to that of the new one.

    Raises:
        ValueError: If its class cannot be made from its configuration.
    """
    if type(operation) is keras.layers.Lambda:
        return _lambda(operation)
    try:
        config = operation.get_config()
        if change is not None:
            config = change(operation, copying.deepcopy(config))
        return type(operation).from_config(config)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"{operation.name!r} of class {type(operation).__name__} cannot be rebuilt "
            f"from its configuration: {error} Implement get_config(), or use "
            "kprune.PruningCallback(...) and kprune.release(model), which work on the "
            "model as it is."
        ) from error


def _lambda(layer: keras.layers.Lambda) -> keras.layers.Lambda:
    """Returns a copy that calls the very same functions.

    Keras reads no functions from configurations that it does not trust, and what it
    reads has lost the names of the module that it was written in.
    """
    config = super(keras.layers.Lambda, layer).get_config()
    config |= {
        "function": layer.function,
        "output_shape": layer._output_shape,
        "mask": layer.mask,
        "arguments": dict(layer.arguments),
    }
    return super(keras.layers.Lambda, keras.layers.Lambda).from_config(config)


def copy_values(
    source: keras.layers.Layer,
    target: keras.layers.Layer,
    value: Callable[[keras.Variable], Any] | None = None,
) -> dict[int, keras.Variable]:
    """Gives a layer's variables the values of another one's.

    Args:
        source: The layer with the values.
        target: The layer that gets them, built from the same configuration.
        value: From a variable to the value of its copy; the same by default.

    Returns:
        The target's variables by the id of the source's.

    Raises:
        ValueError: If the two do not have variables of the same shapes.
    """
    if len(source.variables) != len(target.variables):
        raise ValueError(_other_weights(source))
    copies = {}
    for old, new in zip(source.variables, target.variables, strict=True):
        values = old if value is None else value(old)
        if tuple(values.shape) != tuple(new.shape):
            raise ValueError(_other_weights(source))
        new.assign(values)
        copies[id(old)] = new
    settle(target)
    return copies


def settle(layer: keras.layers.Layer) -> None:
    """Lets what a layer derived from its weights follow new values of them.

    `keras.layers.Normalization` computes with such values, not with its weights.
    """
    for each in layer._flatten_layers():
        if isinstance(each, keras.layers.Normalization):
            each.finalize_state()


def _other_weights(layer: keras.layers.Layer) -> str:
    return (
        f"{layer.name!r} of class {type(layer).__name__} builds other weights from its "
        "configuration than it has now; it cannot be copied."
    )


class _Rebuild:
    def __init__(self, changes: Changes) -> None:
        self.changes = changes
        # By the id of an operation: itself, as it must outlive its id, what it stands
        # for, the copy, and what stands in the graph.
        self.copies: dict[int, tuple[Any, Any, Any, Any]] = {}

    def run(self, model: keras.Model) -> tuple[keras.Model, dict[int, keras.Variable]]:
        """Returns the copy of a model, and its variables by the id of the old ones."""
        clone = self._graph(model)
        variables: dict[int, keras.Variable] = {}
        for _, original, copy, _ in self.copies.values():
            if isinstance(original, keras.layers.Layer) and not has_graph(original):
                variables |= copy_values(original, copy, self.changes.value)
        return clone, variables

    def _operation(self, operation: Any) -> Any:
        if id(operation) not in self.copies:
            original = plain(operation)
            # Not built yet: in the new graph its weights get their old paths.
            if has_graph(original):
                copy = self._graph(original)
            else:
                copy = self.changes.make(original)
                if copy is None:
                    copy = from_config(original, self.changes.config)
            new = self.changes.replacement(original, copy)
            self.copies[id(operation)] = (operation, original, copy, new)
        return self.copies[id(operation)][3]

    def _run(self, node: Any, tensors: dict[int, Any]) -> list[Any]:
        """Returns the copies of a node's outputs."""
        position = self.changes.bypass.get(id(node.operation))
        if position is not None:
            return [tensors[id(node.input_tensors[position])]]
        args, kwargs = node.arguments.fill_in(tensors)
        args, kwargs = self.changes.arguments(plain(node.operation), args, kwargs)
        return keras.tree.flatten(self._operation(node.operation)(*args, **kwargs))

    def _graph(self, graph: keras.Model) -> keras.Model:
        if isinstance(graph, keras.Sequential):
            return self._sequential(graph)
        inputs = keras.tree.map_structure(
            lambda tensor: self._input(tensor, tensor._keras_history.operation),
            graph.input,
        )
        tensors = dict(
            zip(map(id, graph.inputs), keras.tree.flatten(inputs), strict=True)
        )
        for node in nodes_of(graph, self.changes.bypass):
            for tensor, copy in zip(
                node.outputs, self._run(node, tensors), strict=True
            ):
                tensors[id(tensor)] = copy
        outputs = keras.tree.pack_sequence_as(
            graph._outputs_struct, [tensors[id(tensor)] for tensor in graph.outputs]
        )
        cls = type(graph) if _takes_graph(type(graph)) else keras.Model
        return cls(inputs, outputs, name=graph.name)

    def _input(self, tensor: Any, layer: Any) -> Any:
        return input_like(tensor, layer, self.changes.shape(tensor))

    def _sequential(self, graph: keras.Sequential) -> keras.Sequential:
        layers: list[Any] = []
        for layer in graph.layers:
            if not isinstance(layer, keras.layers.InputLayer):
                new = self._operation(layer)
                layers += new.layers if isinstance(new, Chain) else [new]
        first = graph._layers[0] if graph._layers else None
        if isinstance(first, keras.layers.InputLayer):
            tensor = graph.inputs[0] if graph._functional else first.output
            layers.insert(0, self._input(tensor, first))
        return keras.Sequential(layers, name=graph.name)


def _takes_graph(cls: type) -> bool:
    """Returns whether a class of functional models is made from inputs and outputs."""
    probe = keras.Input((1,))
    base: Any = type(keras.Model(probe, probe))
    wanted = inspect.signature(base).parameters
    return cls is base or inspect.signature(cls).parameters.keys() == wanted.keys()
