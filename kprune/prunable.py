"""The table of layers whose weights may be sparse; users register theirs.

This module changes when Keras gets a new layer with weights. A class stands for its
subclasses too, unless they are in the table themselves.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar

import keras

from kprune.axes import KINDS, Axes
from kprune.foreign import received

L = keras.layers
LayerClass = TypeVar("LayerClass", bound=type)


# A letter per axis, as `Axes` has them, with "*" for any number of "s"; a function of
# the layer where it decides; `None` where nobody said.
Letters: TypeAlias = "str | Callable[[keras.layers.Layer], str] | None"


@dataclasses.dataclass(frozen=True)
class Prunable:
    """The weights of a layer class that may be sparse.

    Args:
        weights: Names of the layer's attributes that hold them, and what the axes of
            each are.
        depthwise: Those of them with a single input channel per filter, which are
            pruned only on demand: they are small, and each zero costs much accuracy.
    """

    weights: Mapping[str, Letters]
    depthwise: tuple[str, ...] = ()


def _of_equation(layer: keras.layers.Layer) -> str:
    """Returns the letters of an EinsumDense kernel: what it sums over are inputs."""
    operands, output = layer.equation.split("->")
    return "".join(
        "o" if letter in output else "i" for letter in operands.split(",")[1]
    )


_DENSE = Prunable({"kernel": "io"})
_CONV = Prunable({"kernel": "*io"})
_TRANSPOSED = Prunable({"kernel": "*oi"})
_CELL = Prunable({"kernel": "*io", "recurrent_kernel": "*io"})
# Each filter reads one channel: channels and multiplier together are the outputs.
_SEPARABLE = Prunable(
    {"depthwise_kernel": "*oo", "pointwise_kernel": "*io"}, ("depthwise_kernel",)
)
_DEPTHWISE = Prunable({"kernel": "*oo"}, ("kernel",))
_NONE = Prunable({})

_TABLE: dict[type, Prunable] = {
    L.Dense: _DENSE,
    L.EinsumDense: Prunable({"kernel": _of_equation}),
    L.Conv1D: _CONV,
    L.Conv2D: _CONV,
    L.Conv3D: _CONV,
    L.Conv1DTranspose: _TRANSPOSED,
    L.Conv2DTranspose: _TRANSPOSED,
    L.Conv3DTranspose: _TRANSPOSED,
    L.SeparableConv1D: _SEPARABLE,
    L.SeparableConv2D: _SEPARABLE,
    L.DepthwiseConv1D: _DEPTHWISE,
    L.DepthwiseConv2D: _DEPTHWISE,
    # Stored as it is: a row is what is read for one word, and lies in one piece.
    L.Embedding: Prunable({"embeddings": "oi"}),
    L.ReversibleEmbedding: Prunable({"embeddings": "oi", "reverse_embeddings": "io"}),
    L.SimpleRNNCell: _CELL,
    L.LSTMCell: _CELL,
    L.GRUCell: _CELL,
    # A slope per element; fixed waves; a vector in the shape of a matrix.
    L.PReLU: _NONE,
    L.STFTSpectrogram: _NONE,
    L.SpectralNormalization: _NONE,
}

# How the reason begins for which nobody said that a weight may be sparse.
UNKNOWN = "unknown layer class"

# Of what a layer names itself: as in Keras's own kernels.
_MATRIX = "*io"

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


def register_prunable(
    layer_class: type, weights: Sequence[str] | Mapping[str, str]
) -> None:
    """Says which weights of a layer class of your own may be sparse.

    Args:
        layer_class: A subclass of `keras.layers.Layer`; its subclasses are meant too.
        weights: Names of the attributes that hold the weights, e.g. `("kernel",)`. An
            empty sequence says that none may be. To prune them in blocks or by N:M, say
            what their axes are, too: `{"kernel": "io"}` for a matrix of (inputs,
            outputs), `{"kernel": "ssio"}` for one with a window before these.

    Raises:
        TypeError: If `layer_class` is not a layer class, or a name is not a string.
        ValueError: If axes have other letters than `"o"`, `"s"` and `"i"`.

    Example:
        >>> class Scaled(keras.layers.Layer):
        ...     def build(self, shape):
        ...         self.matrix = self.add_weight(shape=(shape[-1], 4), name="matrix")
        >>> register_prunable(Scaled, {"matrix": "io"})
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, L.Layer)):
        raise TypeError(
            "register_prunable: `layer_class` must be a subclass of "
            f"keras.layers.Layer. {received(layer_class)}"
        )
    if isinstance(weights, str) or not all(isinstance(name, str) for name in weights):
        raise TypeError(
            "register_prunable: `weights` must be a sequence of attribute names, such "
            'as ("kernel",), or say what their axes are, {"kernel": "io"}. Received '
            f"{weights!r}."
        )
    if not isinstance(weights, Mapping):
        _TABLE[layer_class] = Prunable(dict.fromkeys(weights))
        return
    for name, letters in weights.items():
        if not isinstance(letters, str) or not letters or set(letters) - set(KINDS):
            raise ValueError(
                f"register_prunable: the axes of {name!r} are a letter each, 'o' for "
                "outputs, 's' for the window, 'i' for inputs, such as 'io' for a "
                f"matrix of (inputs, outputs). Received {letters!r}."
            )
    _TABLE[layer_class] = Prunable(dict(weights))


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
        is_depthwise: Whether it is a depthwise kernel, pruned on demand only.
        is_frozen: Whether it is not trained, and pruned on demand only.
        axes: What its axes are; `None` if that is not known.
        also: The other ways to it, where layers share it.
        is_first: Whether it is in the first layer of the model with such a weight.
        is_last: Whether it is in the last one.
    """

    variable: keras.Variable
    owners: tuple[keras.layers.Layer, ...]
    reason: str | None
    is_depthwise: bool = False
    is_frozen: bool = False
    axes: Axes | None = None
    also: tuple[tuple[keras.layers.Layer, ...], ...] = ()
    is_first: bool = False
    is_last: bool = False

    def why_dense(
        self, prune_depthwise: bool = False, prune_frozen: bool = False
    ) -> str | None:
        """Returns why the weight stays dense, or `None` if it may be pruned."""
        if self.reason is None and self.is_frozen and not prune_frozen:
            return "frozen: its layer has trainable=False; prune_frozen=True prunes it"
        if self.reason is None and self.is_depthwise and not prune_depthwise:
            return (
                "depthwise kernel: small, and each zero costs accuracy; "
                "prune_depthwise=True prunes it"
            )
        return self.reason

    @property
    def names(self) -> tuple[str, ...]:
        """What patterns are matched against: its path, and its layers' names."""
        layers = [layer for chain in (self.owners, *self.also) for layer in chain]
        return (self.variable.path, *(n for o in layers for n in (o.name, o.path)))


def candidates(root: keras.layers.Layer) -> tuple[Candidate, ...]:
    """Returns each weight of a built model or layer once, the outermost layers first.

    The root may be of any kind, also a subclassed model: layers are found where Keras
    tracks them, not in a graph. A layer with `get_prunable_weights() -> list of
    variables` says itself which of its weights, those of inner layers included, may be
    sparse; the last axes of one that the table does not know are (inputs, outputs).
    """
    found: dict[int, Candidate] = {}
    # The layers of the model, in its order, that hold a weight of the table.
    places: dict[int, int] = {}
    for owners in _chains(root, ()):
        layer = owners[-1] if owners else root
        entry = lookup(layer, owners[-2] if len(owners) > 1 else root)
        known = _known(layer, entry)
        declared = _declared((root, *owners))
        for variable in _own_weights(layer):
            key = id(variable)
            if key in found:
                also = (*found[key].also, owners)
                found[key] = dataclasses.replace(found[key], also=also)
                continue
            letters, is_depthwise = known.get(key, (None, False))
            reason = None
            if declared is None:
                reason = None if key in known else _reason(layer, entry, variable)
            elif key in declared:
                letters, is_depthwise = letters or _MATRIX, False
            else:
                reason = "not among what its layer's get_prunable_weights() returns"
            if reason is not None:
                found[key] = Candidate(variable, owners, reason)
                continue
            places[key] = id(_in_model(owners) or root)
            found[key] = Candidate(
                variable,
                owners,
                _unfit(variable),
                is_depthwise,
                not variable.trainable,
                _axes(layer, letters, variable),
            )
    ends = [*places.values()][:1], [*places.values()][-1:]
    return tuple(
        dataclasses.replace(
            candidate,
            is_first=places.get(key) in ends[0],
            is_last=places.get(key) in ends[1],
        )
        for key, candidate in found.items()
    )


def _known(
    layer: keras.layers.Layer, entry: Prunable | None
) -> dict[int, tuple[Letters, bool]]:
    """Returns, by id, the weights of the table, and whether they are depthwise."""
    known: dict[int, tuple[Letters, bool]] = {}
    if entry is None:
        return known
    for name, letters in entry.weights.items():
        # A layer may offer a computed tensor here (LoRA): that is no variable.
        variable = getattr(layer, f"_{name}", None)
        if not isinstance(variable, keras.Variable):
            variable = getattr(layer, name, None)
        if isinstance(variable, keras.Variable):
            known[id(variable)] = (letters, name in entry.depthwise)
    return known


def _declared(chain: tuple[keras.layers.Layer, ...]) -> set[int] | None:
    """Returns by id what the outermost layer names that names its weights itself."""
    for layer in chain:
        if hasattr(layer, "get_prunable_weights"):
            named = layer.get_prunable_weights()
            if not isinstance(named, list | tuple) or not all(
                isinstance(each, keras.Variable) for each in named
            ):
                raise TypeError(
                    f"{type(layer).__name__}.get_prunable_weights() must return a list "
                    "of the layer's variables, such as [self.kernel], or []. That of "
                    f"{layer.name!r} returned {named!r}."
                )
            return {id(variable) for variable in named}
    return None


def _in_model(
    owners: tuple[keras.layers.Layer, ...],
) -> keras.layers.Layer | None:
    """Returns the layer that stands in a model, of those that hold a weight."""
    return next((o for o in owners if not isinstance(o, keras.Model)), None)


def _axes(
    layer: keras.layers.Layer, letters: Letters, variable: keras.Variable
) -> Axes | None:
    if callable(letters):
        letters = letters(layer)
    if letters is None:
        return None
    rank = len(variable.shape)
    spread = letters.replace("*", "s" * (rank - len(letters) + 1))
    # A subclass may keep its weight in another shape.
    return Axes(spread) if len(spread) == rank else None


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
        f"{UNKNOWN} {name}: if it may be sparse, call "
        f"kprune.register_prunable({name}, ({variable.name!r},))"
    )
