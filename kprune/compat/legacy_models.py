"""Models of Keras 3 from the configurations that Keras 2 wrote.

Keras 3 refuses some of them itself: keys that it does not know any more, models within
models, TensorFlow functions in graphs, wrappers of tfmot. The graph is made anew here,
from its description. This module changes when another piece of such a configuration is
to be understood.
"""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from kprune.compat.legacy_ops import operation

WRAPPER = "PruneLowMagnitude"
PREFIX = "prune_low_magnitude_"

_MODELS = ("Functional", "Model", "Sequential")
_OPERATIONS = ("TFOpLambda", "SlicingOpLambda")

# Keys that some layers have no place for any more, and that change no output...
_WITHOUT_MEANING = {
    "autocast",
    "batch_input_shape",
    "fused",
    "has_input_vocabulary",
    "implementation",
    "input_length",
    "kernel_constraint",  # Of separable convolutions, which have no such kernel.
    "kernel_initializer",
    "kernel_regularizer",
    "key_shape",
    "query_shape",
    "rng_type",
    "value_shape",
    "vocabulary_size",
}
# ... or none as long as they have this value.
_DEFAULTS: dict[str, Any] = {
    "adjustment": None,
    "groups": 1,
    "noise_shape": None,
    "optional": False,
    "ragged": False,
    "renorm": False,
    "softmax_robust_masking": False,
    "time_major": False,
    "trainable": True,
    "virtual_batch_size": None,
}
_LOOKUPS = ("IntegerLookup", "StringLookup", "TextVectorization")
_RENAMED = {("LeakyReLU", "alpha"): "negative_slope"}


@dataclasses.dataclass(frozen=True)
class Part:
    """A layer with or without weights in a file, and what stands for it in Keras 3.

    Args:
        name: The file's name for it.
        class_name: The file's name for its class.
        layer: The layer or model of Keras 3; of a tfmot wrapper what is in it.
        wrapper: The configuration of the tfmot wrapper around it, if any.
        parts: What it holds, if it is a model, in the file's order.
        calls: How often one call of the whole model calls it.
    """

    name: str
    class_name: str
    layer: keras.layers.Layer
    wrapper: Mapping[str, Any] | None = None
    parts: tuple["Part", ...] | None = None
    calls: int = 1

    def leaves(self) -> Iterator["Part"]:
        """Yields the parts that are no models, in the file's order."""
        if self.parts is None:
            yield self
        for part in self.parts or ():
            yield from part.leaves()


def decoded(value: Any) -> Any:
    """Returns a configuration with the tuples that JSON has no word for."""
    if isinstance(value, dict):
        if value.get("class_name") in ("__tuple__", "TensorShape"):
            return tuple(decoded(item) for item in value["items"])
        if value.get("class_name") == "__ellipsis__":
            return Ellipsis
        return {key: decoded(item) for key, item in value.items()}
    return [decoded(item) for item in value] if isinstance(value, list) else value


def build(config: Mapping[str, Any], custom_objects: Mapping[str, Any]) -> Part:
    """Returns the model that a configuration of Keras 2 describes, untrained.

    Args:
        config: With `"class_name"` and `"config"`.
        custom_objects: The Keras 3 classes by the names in the file.

    Raises:
        ValueError: If it is no Sequential or Functional model, or has something in it
            that Keras 3 cannot do.
    """
    if config["class_name"] not in _MODELS:
        raise ValueError(
            f"it holds a model of class {config['class_name']!r}, and only Sequential "
            "and Functional ones can be made from a file. Rebuild the model in Keras 3 "
            "and give it the old one's weights: new.set_weights(old.get_weights())."
        )
    return _Builder(custom_objects).part(config, 1)


class _Builder:
    def __init__(self, custom_objects: Mapping[str, Any]) -> None:
        self.custom_objects = dict(custom_objects)

    def part(self, config: Mapping[str, Any], calls: int) -> Part:
        """Returns the layer or model of a configuration."""
        class_name, inner = _class_name(config), config["config"]
        name = inner.get("name") or config["name"]
        if class_name in _MODELS:
            make = self._sequential if class_name == "Sequential" else self._functional
            model, parts = make(inner, calls)
            if inner.get("trainable") is False:
                model.trainable = False
            return Part(name, class_name, model, parts=tuple(parts), calls=calls)
        if class_name != WRAPPER:
            return Part(name, class_name, self._layer(config), calls=calls)
        if _class_name(inner["layer"]) in _MODELS:
            raise ValueError(f"{name!r} wraps a whole model, which tfmot never does.")
        return Part(name, class_name, self._layer(inner["layer"]), inner, calls=calls)

    def _layer(self, config: Mapping[str, Any]) -> Any:
        config = self._mended(config)
        name = config["config"].get("name")
        try:
            with keras.saving.custom_object_scope(self.custom_objects):
                return self._class(config["class_name"]).from_config(config["config"])
        except (TypeError, ValueError, KeyError) as error:
            words = str(error).partition("\n\nconfig=")[0]
            raise ValueError(
                f"layer {name!r} of class {config['class_name']} cannot be made in "
                f"Keras 3: {words}"
            ) from error

    def _class(self, name: str) -> Any:
        found = self.custom_objects.get(name) or self.custom_objects.get(
            name.split(">")[-1]
        )
        found = found or keras.saving.get_registered_object(name)
        found = found or getattr(keras.layers, name, None)
        if found is None:
            raise ValueError(
                f"the class is unknown. Say load(path, custom_objects={{{name!r}: "
                "its Keras 3 counterpart}), or in the old environment replace the "
                "layer and save the model again."
            )
        return found

    def _mended(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the configuration of a layer as Keras 3 has it, at any depth."""
        class_name = _class_name(config)
        if class_name == "Lambda" and class_name not in self.custom_objects:
            raise ValueError(
                f"layer {config['config'].get('name')!r} is a Lambda, whose function "
                "a file has as code of its Python, which another one cannot run. In "
                "the old environment make it a layer class, MyLayer, save the model "
                "again, and load it with custom_objects={'MyLayer': its Keras 3 "
                "counterpart}."
            )
        inner = {
            key: self._mended_value(value) for key, value in config["config"].items()
        }
        if inner.get("name"):
            inner["name"] = _name(inner["name"])
        known = getattr(keras.layers, class_name, None)
        if known is None or class_name in self.custom_objects:
            return {"class_name": class_name, "config": inner}
        if class_name in _LOOKUPS and not inner.get("vocabulary"):
            raise ValueError(
                f"layer {inner.get('name')!r} of class {class_name} has no vocabulary "
                "in the file's settings: it was learned by adapt(), or the file is a "
                "SavedModel. In the old environment make the layer with vocabulary="
                "layer.get_vocabulary(include_special_tokens=False) in place of "
                "adapt(), and save the model as '.keras'."
            )
        accepted = _arguments(known)
        for key in list(inner):
            new = _RENAMED.get((class_name, key))
            if new is not None:
                inner[new] = inner.pop(key)
            elif key not in accepted:
                value = inner.pop(key)
                if key not in _WITHOUT_MEANING and (
                    key not in _DEFAULTS or _DEFAULTS[key] != value
                ):
                    raise ValueError(
                        f"layer {inner.get('name')!r} of class {class_name} has "
                        f"{key}={value!r}, which Keras 3 cannot do. Build and train "
                        "the model without it."
                    )
        axis = inner.get("axis")
        if isinstance(axis, list | tuple) and len(axis) == 1:
            inner["axis"] = axis[0]
        return {"module": "keras.layers", "class_name": class_name, "config": inner}

    def _mended_value(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(self._mended_value(item) for item in value)
        if not isinstance(value, Mapping) or not isinstance(value.get("config"), dict):
            return value
        if value["class_name"] == "Policy":
            return value["config"]["name"]
        if getattr(keras.layers, _class_name(value), None) is not None:
            return {"registered_name": None, **self._mended(value)}
        return value

    def _sequential(
        self, config: Any, calls: int
    ) -> tuple[keras.Sequential, list[Part]]:
        # Very old files have a list of layers in this place.
        layers = config if isinstance(config, list) else config["layers"]
        name = None if isinstance(config, list) else config.get("name")
        parts, stack = [], []
        if _class_name(layers[0]) == "InputLayer":
            stack.append(_input(layers[0]["config"]))
            layers = layers[1:]
        else:
            shape = layers[0]["config"].get("batch_input_shape")
            if not isinstance(config, list):
                shape = config.get("build_input_shape") or shape
            if shape is None:
                raise ValueError(
                    f"the Sequential model {name!r} does not say its input's shape. In "
                    "the old environment call it on data, and save it again."
                )
            stack.append(keras.Input(batch_shape=shape))
        for layer in layers:
            parts.append(self.part(layer, calls))
            stack.append(parts[-1].layer)
        return keras.Sequential(stack, name=name), parts

    def _functional(self, config: Any, calls: int) -> tuple[keras.Model, list[Part]]:
        graph = _Graph(config["name"])
        parts = []
        for layer in config["layers"]:
            name, nodes = layer["name"], layer["inbound_nodes"]
            class_name = _class_name(layer)
            if class_name == "InputLayer":
                graph.outputs[name, 0] = [_input(layer["config"])]
            elif class_name in _OPERATIONS:
                graph.add(
                    name, operation(name, layer["config"]["function"]), nodes, 0, True
                )
            else:
                part = self.part(layer, calls * len(nodes))
                parts.append(part)
                graph.add(name, part.layer, nodes, _first_node(layer), False)
        graph.run()
        model = keras.Model(
            graph.ends(config["input_layers"]),
            graph.ends(config["output_layers"]),
            name=config["name"],
        )
        return model, parts


class _Graph:
    """The calls of a functional model, done when what they need is there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.outputs: dict[tuple[str, int], list[Any]] = {}
        self._waiting: list[tuple[str, int, Any, Any, bool]] = []
        self._names: set[str] = set()

    def add(
        self, name: str, call: Any, nodes: Sequence[Any], first: int, exact: bool
    ) -> None:
        """Adds the calls of a layer.

        Args:
            name: The layer's name.
            call: The layer, or a function.
            nodes: The arguments of each call.
            first: The number of the first call.
            exact: Whether a list of one tensor is a list and not the tensor.
        """
        self._names.add(name)
        for index, node in enumerate(nodes, first):
            self._waiting.append((name, index, call, node, exact))

    def run(self) -> None:
        """Does all calls.

        Raises:
            ValueError: If some of them wait for one another.
        """
        self._names |= {name for name, _ in self.outputs}
        while self._waiting:
            left = []
            for each in self._waiting:
                name, index, call, node, exact = each
                if all(key in self.outputs for key in self._needed(node)):
                    self.outputs[name, index] = self._called(name, call, node, exact)
                else:
                    left.append(each)
            if len(left) == len(self._waiting):
                raise ValueError(
                    f"the graph of {self.name!r} has no begin at {left[0][0]!r}: the "
                    "file is damaged."
                )
            self._waiting = left

    def ends(self, described: Any) -> Any:
        """Returns the tensors that a model begins or ends with."""
        found = self._value(described)
        if isinstance(found, list | tuple) and len(found) == 1:
            return found[0]
        return found

    def _called(self, name: str, call: Any, node: Any, exact: bool) -> list[Any]:
        first = self._value(node)
        if not exact and isinstance(first, list | tuple) and len(first) == 1:
            first = first[0]
        arguments = self._value(_arguments_in(node))
        try:
            return keras.tree.flatten(call(first, **arguments))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name!r} cannot be called in Keras 3: {error}"
            ) from error

    def _is_tensor(self, value: Any) -> bool:
        return (
            isinstance(value, list | tuple)
            and len(value) in (3, 4)
            and isinstance(value[0], str)
            and (value[0] in self._names or value[0] == "_CONSTANT_VALUE")
        )

    def _value(self, value: Any) -> Any:
        if self._is_tensor(value):
            if value[0] == "_CONSTANT_VALUE":
                return value[2]
            return self.outputs[value[0], value[1]][value[2]]
        if isinstance(value, list | tuple):
            return type(value)(self._value(item) for item in value)
        if isinstance(value, Mapping):
            return {key: self._value(item) for key, item in value.items()}
        return value

    def _needed(self, value: Any) -> Iterator[tuple[str, int]]:
        if self._is_tensor(value):
            if value[0] != "_CONSTANT_VALUE":
                yield value[0], value[1]
            value = value[3:]
        if isinstance(value, Mapping):
            value = list(value.values())
        for item in value if isinstance(value, list | tuple) else ():
            yield from self._needed(item)


def _arguments_in(node: Any) -> dict[str, Any]:
    """Returns the keyword arguments of a call, which stand beside its tensors."""
    if isinstance(node, Mapping):
        node = list(node.values())
    if len(node) == 4 and isinstance(node[0], str):
        return dict(node[3])
    for item in node:
        if isinstance(item, list | tuple | Mapping) and (found := _arguments_in(item)):
            return found
    return {}


def _first_node(config: Mapping[str, Any]) -> int:
    """Returns the number of a layer's first call: a model's own graph is one before."""
    if _class_name(config) not in _MODELS:
        return 0
    inner = config["config"]
    first = (inner if isinstance(inner, list) else inner["layers"])[0]
    return int(_class_name(first) == "InputLayer")


def _input(config: Mapping[str, Any]) -> Any:
    if config.get("ragged"):
        raise ValueError(
            f"the input {config.get('name')!r} takes ragged tensors, and Keras 3 has "
            "none. Build the model for padded ones, and save it again."
        )
    return keras.Input(
        batch_shape=config["batch_input_shape"],
        dtype=config.get("dtype"),
        sparse=config.get("sparse", False),
        name=config.get("name"),
    )


def _name(of_keras_2: str) -> str:
    """Returns a layer's name in Keras 3, where it is a part of paths."""
    return of_keras_2.replace("/", "_")


def _class_name(config: Mapping[str, Any]) -> str:
    """Returns the name of a class, with its package if it was registered."""
    name = config["class_name"]
    registered = config.get("registered_name")
    return registered if registered and registered.endswith(f">{name}") else name


def _arguments(cls: type) -> set[str]:
    """Returns the arguments that a layer class knows by name."""
    found: set[str] = set()
    for each in cls.__mro__:
        parameters = inspect.signature(each.__init__).parameters.values()  # type: ignore[misc]
        found |= {parameter.name for parameter in parameters}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found
