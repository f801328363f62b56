"""Walks a model's graph, asks each operation's rule, and solves what they said.

This module changes when Keras describes graphs in another way.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kprune.coupling import rules  # noqa: F401  (registers them)
from kprune.coupling.builder import Builder
from kprune.coupling.groups import Coupling, solve
from kprune.coupling.layout import Layout
from kprune.coupling.registry import Call, rule_of
from kprune.foreign import received
from kprune.rebuild import graph_of, has_graph, nodes_of, plain

OUTPUT = "it is an output of the model, which keeps its shape"


def analyse(model: keras.Model, bypass: Mapping[int, int] | None = None) -> Coupling:
    """Finds which channels of a model can only be removed together.

    Args:
        model: A built Sequential or Functional model, nested ones included. `Pruned`
            wrappers stand for what they wrap.
        bypass: By the id of an operation the position of the input that is taken for
            its output.

    Raises:
        ValueError: If the model has no graph or is not built.
        TypeError: If it is not a Keras model.
    """
    check_graph("The coupling of channels", model)
    builder = Builder()
    graph = graph_of(model)
    inputs = [Layout(tuple(tensor.shape)) for tensor in graph.inputs]
    outputs = _walk(graph, inputs, builder, bypass or {})
    # First among the reasons: a softmax at the end is one more, and says less.
    builder.pins[:0] = [
        (np.unique(layout.labels), OUTPUT) for layout in outputs if layout.blocks
    ]
    return solve(builder, model)


def check_graph(owner: str, model: Any) -> None:
    """Raises unless a model is built and has a graph of operations."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"{owner} needs a Keras 3 model. {received(model)}")
    if not has_graph(model):
        raise ValueError(
            f"{owner} needs a graph of layers, and {model.name!r} is a subclassed "
            f"model ({type(model).__name__}), whose call() only Python can follow. "
            "Build it with the functional API; layers of your own may stand in it with "
            "kprune.register_coupling."
        )
    if graph_of(model) is None:
        raise ValueError(
            f"{owner} needs a built model, and {model.name!r} knows no input shape. "
            "Begin it with keras.Input(shape), or call build(input_shape)."
        )


def _walk(
    graph: Any, inputs: list[Layout], builder: Builder, bypass: Mapping[int, int]
) -> list[Layout]:
    """Returns the layouts of a graph's outputs."""
    layouts = dict(zip(map(id, graph.inputs), inputs, strict=True))
    for node in nodes_of(graph, bypass):
        position = bypass.get(id(node.operation))
        if position is not None:
            outputs = [layouts[id(node.input_tensors[position])]]
        else:
            outputs = _ask(node, layouts, builder, bypass)
        for tensor, layout in zip(node.outputs, outputs, strict=True):
            layouts[id(tensor)] = layout
    # A graph that is called several times is built with what its channels share.
    for key, layout in layouts.items():
        builder.layouts.setdefault(key, layout)
    return [layouts[id(tensor)] for tensor in graph.outputs]


def _ask(
    node: Any,
    layouts: Mapping[int, Layout],
    builder: Builder,
    bypass: Mapping[int, int],
) -> list[Layout]:
    args, kwargs = node.arguments.fill_in(layouts)
    operation = plain(node.operation)
    shapes = tuple(tuple(tensor.shape) for tensor in node.outputs)
    call = Call(builder, operation, tuple(args), kwargs, shapes, operation)
    if has_graph(operation) and graph_of(operation) is not None:
        # A mask comes beside the inputs, and has no channels.
        others = {key: value for key, value in kwargs.items() if key != "mask"}
        call = dataclasses.replace(call, kwargs=others)
        _tie_calls(call)
        graph = graph_of(operation)
        inside = _with_shapes(call, [tuple(tensor.shape) for tensor in graph.inputs])
        found = _walk(graph, inside, builder, bypass)
        return [Layout(s, x.blocks) for s, x in zip(shapes, found, strict=True)]
    builder.weights |= {id(v): v for v in getattr(operation, "weights", ())}
    rule = rule_of(operation)
    changed = _changed_kernel(operation)
    if changed or rule is None:
        return call.barrier(changed or _unknown(operation))
    outputs = rule(call)
    if not getattr(operation, "weights", None) and id(operation) in builder.resizes:
        _tie_calls(call)
    found = list(keras.tree.flatten(outputs))
    for layout, shape in zip(found, shapes, strict=True):
        _check(call, layout, shape)
    if shapes and found[0].blocks:
        builder.stages.append((found[0].labels, shapes[0]))
    return found


def _tie_calls(call: Call) -> None:
    """Ties the inputs of all calls of what is built once, for channels of one number.

    Where there are weights, they tie the calls.
    """
    first = call.builder.called.setdefault(id(call.operation), call.inputs)
    for old, new in zip(first, call.inputs, strict=True):
        for axes in {block.axes for block in (*old.blocks, *new.blocks)}:
            found = [
                block.labels
                for layout in (old, new)
                for block in layout.blocks
                if block.axes == axes
            ]
            if len(found) == 2 and found[0].shape == found[1].shape:
                call.builder.tie(*found)
                continue
            for labels in found:
                reason = "is also called on a tensor with other channels"
                call.pin(labels, f"{call.name} {reason}")


def _with_shapes(call: Call, shapes: list[tuple[int | None, ...]]) -> list[Layout]:
    """Returns the inputs with the shapes that a nested model knows of them.

    These may leave sizes open. Along such an axis its layers cannot be rebuilt.
    """
    found = []
    for layout, shape in zip(call.inputs, shapes, strict=True):
        if len(layout.shape) != len(shape):
            call.pin(layout.labels, f"{call.name} gives its input another shape")
            layout = Layout(shape)
        opened = [axis for axis, size in enumerate(shape) if size is None]
        layout = call.mixes(layout, opened, "leaves their number open")
        found.append(Layout(shape, layout.blocks))
    return found


def _changed_kernel(operation: Any) -> str | None:
    if not isinstance(operation, keras.layers.Layer):
        return None
    layers = list(operation._flatten_layers())  # Attention and wrappers hold others.
    if any(getattr(layer, "lora_enabled", False) for layer in layers):
        return "has LoRA weights beside its kernel; merge them first"
    if any(getattr(layer, "quantization_mode", None) for layer in layers):
        return "is quantised already; remove channels before quantising"
    return None


def _unknown(operation: Any) -> str:
    name = type(operation).__name__
    if isinstance(operation, keras.layers.Lambda):
        return (
            "calls a function that is not followed; write it with keras.ops in the "
            "graph, or as a layer whose class gets a rule with kprune.register_coupling"
        )
    if isinstance(operation, keras.layers.Layer):
        return (
            "has no coupling rule; give its class one with "
            f"kprune.register_coupling({name}, rule)"
        )
    return "has no coupling rule"


def _check(call: Call, layout: Any, shape: tuple[int | None, ...]) -> None:
    """Raises if a rule returned something else than the layout of its output."""
    fits = isinstance(layout, Layout) and layout.shape == shape
    if fits:
        for block in layout.blocks:
            sizes = tuple(shape[axis] for axis in block.axes)
            fits = fits and block.labels.shape == sizes
    if not fits:
        raise ValueError(
            f"The coupling rule of {call.name} returned {layout!r} for an output of "
            f"shape {shape}. It has to return one kprune layout per output, such as "
            "call.output(like=call.input)."
        )
