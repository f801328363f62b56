"""The table of coupling rules, and what a rule is given to work with.

This module changes when rules need to say something new about an operation.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import keras
import numpy as np

from kprune.coupling.builder import MAKES, READS, SCALES, Builder, Rescale, Resize
from kprune.coupling.layout import Block, Layout, Shape, reshaped
from kprune.foreign import received

Labels = np.ndarray | None
Rule = Callable[["Call"], Any]
RuleT = TypeVar("RuleT", bound=Rule)

_RULES: dict[type, Rule] = {}


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer or of a `keras.ops` operation in a model's graph.

    Args:
        builder: Where rules report to.
        operation: The layer or operation.
        args: Its positional arguments, with layouts in the place of tensors.
        kwargs: Its keyword arguments, likewise.
        shapes: The shapes of its outputs.
        owner: The operation that stands in the graph; another one than `operation` for
            a layer inside of a wrapper layer.
        path: Keys from the owner's configuration to the operation's.
    """

    builder: Builder
    operation: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shapes: tuple[Shape, ...]
    owner: Any
    path: tuple[str, ...] = ()

    @property
    def inputs(self) -> list[Layout]:
        """All layouts among the arguments."""
        arguments = keras.tree.flatten((self.args, dict(self.kwargs)))
        return [item for item in arguments if isinstance(item, Layout)]

    @property
    def input(self) -> Layout:
        """The first of them."""
        return self.inputs[0]

    @property
    def name(self) -> str:
        """What the operation is called in reasons."""
        kind = type(self.operation).__name__
        return f"{kind} {self._path!r}"

    def fresh(self, count: int) -> np.ndarray:
        """Returns labels for channels that the operation makes."""
        return self.builder.fresh(count)

    def labels(self, layout: Layout, axis: int) -> Labels:
        """Returns the labels along an axis, `None` if its size is fixed."""
        return self.builder.along(layout, axis)

    def weight(
        self,
        variable: keras.Variable | None,
        *,
        reads: Mapping[int, Labels] | None = None,
        makes: Mapping[int, Labels] | None = None,
        scales: Mapping[int, Labels] | None = None,
        kind: str = "",
        uses: int = 0,
        scored: bool = True,
    ) -> None:
        """Says which channels the axes of a weight belong to.

        Args:
            variable: The weight; `None` is ignored, such as the bias of a layer
                without one.
            reads: Per axis that is indexed by an input channel its labels.
            makes: The same for output channels.
            scales: The same for channels that pass through.
            kind: What the channels that the layer is the first to make are called, in
                the plural.
            uses: How often each element is multiplied in one inference.
            scored: Whether its values say how much a channel matters.
        """
        if variable is None:
            return
        labels: dict[int, Labels] = {}
        for role, axes in ((READS, reads), (MAKES, makes), (SCALES, scales)):
            for axis, along in (axes or {}).items():
                axis = axis + len(variable.shape) if axis < 0 else axis
                labels[axis] = along
                self.builder.slot(
                    self._layer,
                    variable,
                    axis,
                    role,
                    along,
                    kind if role == MAKES else "",
                    scored,
                )
        if uses:
            self.builder.cost(self._layer.path, tuple(variable.shape), uses, labels)

    def product(self, shape: Sequence[int | None], labels: dict[int, Labels]) -> None:
        """Counts the multiply-accumulates of a product of two activations.

        Args:
            shape: The sizes that are multiplied.
            labels: Per position in it the labels, where there are any.
        """
        self.builder.cost(self._path, shape, 1, labels)

    def resize(self, key: str, value: Any) -> None:
        """Says that an entry of the configuration depends on what is left.

        Args:
            key: The entry.
            value: Labels, for how many of them are left; or a function from a boolean
                per label, whether it is left, to the new entry.
        """
        if isinstance(value, np.ndarray):
            labels = value
            value = lambda alive: int(np.count_nonzero(alive[labels]))  # noqa: E731
        self.builder.resize(self.owner, Resize((*self.path, key), value))

    def resize_argument(
        self, place: int | str, value: Callable[[np.ndarray], Any]
    ) -> None:
        """Says that an argument of the call depends on what is left.

        Args:
            place: Its position, or its name if it is passed by name.
            value: From a boolean per label, whether it is left, to the new argument.
        """
        self.builder.resize_argument(self.owner, place, value)

    def rescale(
        self, variable: keras.Variable, labels: np.ndarray, power: float
    ) -> None:
        """Says that a weight is multiplied by (left / before) ** power."""
        rescale = Rescale(variable, labels, power)
        self.builder.rescales.setdefault(id(variable), rescale)

    def tie(self, left: Labels, right: Labels, reason: str) -> Labels:
        """Ties two axes; where one is fixed the other one gets fixed."""
        if left is None or right is None:
            for labels in (left, right):
                if labels is not None:
                    self.builder.pin(labels, reason)
            return None
        self.builder.tie(left, right)
        return left

    def pin(self, labels: Labels, reason: str) -> None:
        """Says that nothing of these labels can be removed, and why."""
        if labels is not None:
            self.builder.pin(labels, reason)

    def mixes(self, layout: Layout, axes: Sequence[int], why: str) -> Layout:
        """Returns the layout with axes fixed, because the operation mixes along them.

        Args:
            layout: The layout.
            axes: The axes.
            why: What it does to them, as in `"pools along this axis"`.
        """
        axes = [layout.axis(axis) for axis in axes]
        left = []
        for block in layout.blocks:
            mixed = [i for i, axis in enumerate(block.axes) if axis in axes]
            rest = [i for i, axis in enumerate(block.axes) if axis not in axes]
            if not rest:
                self.builder.pin(block.labels, f"{self.name} {why}")
                continue
            if mixed:  # Of a joint block the other axes can still lose whole indices.
                rows = np.transpose(block.labels, rest + mixed)
                rows = rows.reshape(*rows.shape[: len(rest)], -1)
                self.builder.tie(rows[..., :1], rows)
                block = Block(tuple(block.axes[i] for i in rest), rows[..., 0])
            left.append(block)
        return Layout(layout.shape, tuple(left))

    def shifts(self, layout: Layout, axes: Sequence[int], why: str) -> None:
        """Says that zeros do not stay zero along any but the given axes.

        Args:
            layout: The layout.
            axes: The axes whose indices have values of their own that go with them.
            why: What the operation does, as in `"adds its bias"`.
        """
        own = {layout.axis(axis) for axis in axes}
        for block in layout.blocks:
            if not own & set(block.axes):
                self.builder.spoil(block.labels, f"{self.name} {why}")

    def barrier(self, why: str) -> list[Layout]:
        """Fixes all inputs, and returns outputs of fixed sizes."""
        for layout in self.inputs:
            self.builder.pin(layout.labels, f"{self.name} {why}")
        return [Layout(shape) for shape in self.shapes]

    def output(
        self, labels: Mapping[int, Labels] | None = None, like: Layout | None = None
    ) -> Layout:
        """Returns the layout of the first output.

        Args:
            labels: Per axis its labels; `None` for a fixed size.
            like: A layout of the same rank whose other axes carry over.
        """
        shape = self.shapes[0]
        given = {axis % len(shape): value for axis, value in (labels or {}).items()}
        kept = [
            block
            for block in (like.blocks if like is not None else ())
            if not set(block.axes) & set(given)
        ]
        return _with_axes(Layout(shape, tuple(kept)), given)

    def reshape(self, layout: Layout, shape: Shape | None = None) -> Layout:
        """Returns the layout of a reshaped tensor."""
        new, lost = reshaped(layout, self.shapes[0] if shape is None else shape)
        self.pin(lost, f"{self.name} merges it with another axis of removable indices")
        # The tensor stays rectangular: see Builder.blocks.
        self.builder.blocks += [block for block in new.blocks if len(block.axes) > 1]
        return new

    def activate(self, activation: Any, labels: Labels) -> Labels:
        """Follows channels through an activation function given to a layer.

        They are pinned if the function is not known to work element by element.
        """
        if labels is None or activation is None:
            return labels
        value = value_at_zero(activation)
        name = getattr(activation, "__name__", type(activation).__name__)
        if value is None:
            self.pin(labels, f"{self.name}: its activation {name!r} {NOT_ELEMENTWISE}")
        elif value:
            self.builder.spoil(labels, f"{self.name}: {name}(0) is {value:.3g}")
        return labels

    def inner(
        self, operation: Any, key: str, args: Sequence[Any], shapes: Sequence[Shape]
    ) -> "Call":
        """Returns the call of a layer that this wrapper layer holds.

        Args:
            operation: The inner layer.
            key: The wrapper's configuration entry that describes it.
            args: Its arguments.
            shapes: The shapes of its outputs.
        """
        return dataclasses.replace(
            self,
            operation=operation,
            args=tuple(args),
            kwargs={},
            shapes=tuple(shapes),
            path=(*self.path, key, "config"),
        )

    @property
    def _path(self) -> str:
        # Keras gives layers that have nothing to build no path.
        return getattr(self.operation, "path", None) or self.operation.name

    @property
    def _layer(self) -> keras.layers.Layer:
        return self.operation


NOT_ELEMENTWISE = "is not known to work element by element"

_ELEMENTWISE = (
    "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh "
    "leaky_relu linear log_sigmoid mish relu relu6 selu sigmoid silu soft_shrink "
    "softplus softsign sparse_plus sparse_sigmoid squareplus swish tanh tanh_shrink "
    "threshold"
).split()


def value_at_zero(activation: Any) -> float | None:
    """Returns f(0) of an element-wise activation, or `None` if it is not known as such.

    Args:
        activation: A function of `keras.activations`, or of `keras.ops` of that name.
    """
    known = [
        getattr(module, name)
        for name in _ELEMENTWISE
        for module in (keras.activations, keras.ops)
        if hasattr(module, name)
    ]
    if isinstance(activation, keras.layers.Layer):
        return None
    if all(activation is not function for function in known):
        return None
    key = id(activation)
    if key not in _AT_ZERO:
        zero = keras.ops.zeros((1,))
        _AT_ZERO[key] = float(keras.ops.convert_to_numpy(activation(zero))[0])
    return _AT_ZERO[key]


_AT_ZERO: dict[int, float] = {}


def _with_axes(layout: Layout, labels: Mapping[int, Labels]) -> Layout:
    blocks = [
        *layout.blocks,
        *(Block((axis,), value) for axis, value in labels.items() if value is not None),
    ]
    return Layout(layout.shape, tuple(sorted(blocks, key=lambda block: block.axes)))


def coupling(*classes: type) -> Callable[[RuleT], RuleT]:
    """Registers a function as the coupling rule of layer or operation classes."""

    def register(rule: RuleT) -> RuleT:
        for cls in classes:
            _RULES[cls] = rule
        return rule

    return register


def register_coupling(layer_class: type, rule: Rule) -> None:
    """Says how channels pass through a layer class of your own.

    Args:
        layer_class: A subclass of `keras.layers.Layer`; its subclasses are meant too.
        rule: A function that is given a `Call` and returns the layouts of the outputs.
            It says which channels the layer's weights belong to (`call.weight`), which
            entries of its configuration depend on their number (`call.resize`), and
            returns `call.output(...)`.

    Raises:
        TypeError: If `layer_class` is not a layer class, or `rule` cannot be called.

    Example:
        >>> class Gain(keras.layers.Layer):
        ...     def build(self, shape):
        ...         self.gain = self.add_weight(shape=(shape[-1],), name="gain")
        ...     def call(self, x):
        ...         return x * self.gain
        >>> def gain(call):
        ...     channels = call.labels(call.input, -1)
        ...     call.weight(call.operation.gain, scales={0: channels})
        ...     return call.output(like=call.input)
        >>> register_coupling(Gain, gain)
    """
    base = keras.layers.Layer
    if not (isinstance(layer_class, type) and issubclass(layer_class, base)):
        raise TypeError(
            "register_coupling: `layer_class` must be a subclass of "
            f"keras.layers.Layer. {received(layer_class)}"
        )
    if not callable(rule):
        raise TypeError(
            "register_coupling: `rule` must be a function from a kprune.Call to "
            f"layouts. Received {rule!r}."
        )
    _RULES[layer_class] = rule


def rule_of(operation: Any) -> Rule | None:
    """Returns the rule of an operation's class or of the nearest class it inherits.

    A class of the user's own that overrides `call` is not what it inherits from.
    """
    for cls in type(operation).__mro__:
        if cls in _RULES:
            return _RULES[cls]
        if "call" in vars(cls):
            return None
    return None
