"""The table of layers whose weights may be sparse; users register theirs.

This module changes when Keras gets a new layer with weights. A class stands for its
subclasses too, unless they are in the table themselves.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeVar

import keras

L = keras.layers
LayerClass = TypeVar("LayerClass", bound=type)


@dataclasses.dataclass(frozen=True)
class Prunable:
    """The weights of a layer class that may be sparse.

    Args:
        weights: Names of the layer's attributes that hold them.
        depthwise: Those of them with a single input channel per filter, which are
            pruned only on demand: they are small, and each zero costs much accuracy.
    """

    weights: tuple[str, ...]
    depthwise: tuple[str, ...] = ()


_KERNEL = Prunable(("kernel",))
_CELL = Prunable(("kernel", "recurrent_kernel"))
_SEPARABLE = Prunable(("depthwise_kernel", "pointwise_kernel"), ("depthwise_kernel",))
_DEPTHWISE = Prunable(("kernel",), ("kernel",))

_TABLE: dict[type, Prunable] = {
    L.Dense: _KERNEL,
    L.EinsumDense: _KERNEL,
    L.Conv1D: _KERNEL,
    L.Conv2D: _KERNEL,
    L.Conv3D: _KERNEL,
    L.Conv1DTranspose: _KERNEL,
    L.Conv2DTranspose: _KERNEL,
    L.Conv3DTranspose: _KERNEL,
    L.SeparableConv1D: _SEPARABLE,
    L.SeparableConv2D: _SEPARABLE,
    L.DepthwiseConv1D: _DEPTHWISE,
    L.DepthwiseConv2D: _DEPTHWISE,
    L.Embedding: Prunable(("embeddings",)),
    L.SimpleRNNCell: _CELL,
    L.LSTMCell: _CELL,
    L.GRUCell: _CELL,
}

# Classes that Keras does not make public, and whose weights are known by their owner.
_OWNED_CELLS = (L.ConvLSTM1D, L.ConvLSTM2D, L.ConvLSTM3D)

_NORMALIZATIONS = (
    L.BatchNormalization,
    L.LayerNormalization,
    L.GroupNormalization,
    L.RMSNormalization,
    L.UnitNormalization,
    L.Normalization,
)


def register_prunable(layer_class: type, weights: Sequence[str]) -> None:
    """Says which weights of a layer class of your own may be sparse.

    Args:
        layer_class: A subclass of `keras.layers.Layer`; its subclasses are meant too.
        weights: Names of the attributes that hold the weights, e.g. `("kernel",)`. An
            empty sequence says that none may be.

    Raises:
        TypeError: If `layer_class` is not a layer class, or a name is not a string.

    Example:
        >>> class Scaled(keras.layers.Layer):
        ...     def build(self, shape):
        ...         self.matrix = self.add_weight(shape=(shape[-1], 4), name="matrix")
        >>> register_prunable(Scaled, ("matrix",))
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, L.Layer)):
        raise TypeError(
            "register_prunable: `layer_class` must be a subclass of "
            f"keras.layers.Layer. Received {layer_class!r}."
        )
    if isinstance(weights, str) or not all(isinstance(name, str) for name in weights):
        raise TypeError(
            "register_prunable: `weights` must be a sequence of attribute names, such "
            f'as ("kernel",). Received {weights!r}.'
        )
    _TABLE[layer_class] = Prunable(tuple(weights))


def lookup(
    layer: keras.layers.Layer, owner: keras.layers.Layer | None = None
) -> Prunable | None:
    """Returns the table's entry for a layer, or `None` for an unknown class.

    Args:
        layer: The layer.
        owner: The layer that holds it, if any.
    """
    for cls in type(layer).__mro__:
        if cls in _TABLE:
            return _TABLE[cls]
    return _CELL if isinstance(owner, _OWNED_CELLS) else None


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A weight, who owns it, and whether it can be pruned.

    Args:
        variable: The weight.
        owners: The layers that hold it, from the outermost (the model itself left
            out) to the one whose attribute it is.
        reason: Why it cannot be pruned; `None` if it can.
        is_depthwise: Whether it is pruned on demand only.
    """

    variable: keras.Variable
    owners: tuple[keras.layers.Layer, ...]
    reason: str | None
    is_depthwise: bool = False

    def why_dense(self, prune_depthwise: bool = False) -> str | None:
        """Returns why the weight stays dense, or `None` if it may be pruned."""
        if self.reason is None and self.is_depthwise and not prune_depthwise:
            return (
                "depthwise kernel: small, and each zero costs accuracy; "
                "prune_depthwise=True prunes it"
            )
        return self.reason


def candidates(root: keras.layers.Layer) -> Iterator[Candidate]:
    """Yields each weight of a built model or layer once, the outermost layers first.

    The root may be of any kind, also a subclassed model: layers are found where Keras
    tracks them, not in a graph.
    """
    seen: set[int] = set()
    for owners in _chains(root, ()):
        layer = owners[-1] if owners else root
        entry = lookup(layer, owners[-2] if len(owners) > 1 else root)
        named = {}
        for name in entry.weights if entry else ():
            # A layer may offer a computed tensor here (LoRA): that is no variable.
            variable = getattr(layer, f"_{name}", None)
            if not isinstance(variable, keras.Variable):
                variable = getattr(layer, name, None)
            if isinstance(variable, keras.Variable):
                named[id(variable)] = name
        for variable in _own_weights(layer):
            if id(variable) in seen:
                continue
            seen.add(id(variable))
            attribute = named.get(id(variable))
            yield Candidate(
                variable,
                owners,
                _unfit(variable) if attribute else _reason(layer, entry, variable),
                entry is not None and attribute in entry.depthwise,
            )


def _chains(
    layer: keras.layers.Layer, owners: tuple[keras.layers.Layer, ...]
) -> Iterator[tuple[keras.layers.Layer, ...]]:
    yield owners
    for child in layer._flatten_layers(include_self=False, recursive=False):
        yield from _chains(child, (*owners, child))


def _own_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    inner = {
        id(variable)
        for child in layer._flatten_layers(include_self=False, recursive=False)
        for variable in child.weights
    }
    return [variable for variable in layer.weights if id(variable) not in inner]


def _unfit(variable: keras.Variable) -> str | None:
    if not keras.backend.is_float_dtype(variable.dtype):
        return f"holds {variable.dtype} values, already quantised"
    if not variable.trainable:
        return "frozen: its layer has trainable=False"
    return None


def _reason(
    layer: keras.layers.Layer, entry: Prunable | None, variable: keras.Variable
) -> str:
    if isinstance(layer, _NORMALIZATIONS):
        return "normalisation parameter: a zero here silences a channel, saves nothing"
    if len(variable.shape) < 2:
        return "bias or other vector: too small for its zeros to save anything"
    if entry is not None:
        return f"not among the weights of {type(layer).__name__} that may be sparse"
    name = type(layer).__name__
    return (
        f"unknown layer class {name}: if it may be sparse, call "
        f"kprune.register_prunable({name}, ({variable.name!r},))"
    )
