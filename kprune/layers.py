"""What holds zeros while a model trains: the mask constraint and the wrapper layer.

Keras applies a variable's constraint after each optimizer step, inside the compiled
training step. A mask there costs one selection per weight and needs nothing of the
model: no rebuilding, no subclassing. This module changes when masks are held in another
way.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from kprune.foreign import received
from kprune.notices import Notices
from kprune.plan import Plan, Rule, resolve


class MaskConstraint(keras.constraints.Constraint):
    """Sets a variable to zero wherever its mask is False.

    Put it on a variable (`variable.constraint`), not on a layer: a layer's constraints
    are part of its configuration, while masks are state.

    Args:
        mask: Boolean `keras.Variable` of the weight's shape, True = keep.
        inner: The constraint that the variable had before, if any. It sees masked
            weights, and what it returns is masked again.
    """

    def __init__(self, mask: keras.Variable, inner: Any = None) -> None:
        self.mask = mask
        self.inner = inner
        # The optimizer averages weights before it applies constraints, so that its
        # moving averages (`use_ema`) have to be held at zero beside the weight.
        self.averages: tuple[keras.Variable, ...] = ()

    def __call__(self, w: Any) -> Any:
        """Returns the masked values, after the inner constraint."""
        for average in self.averages:
            average.assign(self.masked(average))
        if self.inner is not None:
            w = self.inner(self.masked(w))
        return self.masked(w)

    def masked(self, w: Any) -> Any:
        """Returns the values with zeros where the mask is False."""
        # Not a plain product: that would keep NaN, and give -0.0 for negative weights.
        if keras.config.backend() == "tensorflow":
            import tensorflow as tf

            # In two thirds of the time of `where` on a CPU (TensorFlow 2.21).
            return tf.math.multiply_no_nan(w, tf.cast(self.mask, w.dtype))
        return keras.ops.where(self.mask, w, keras.ops.zeros((), dtype=w.dtype))


def constrain(variable: keras.Variable, mask: keras.Variable) -> MaskConstraint:
    """Puts a mask on a variable, around the constraint that it has."""
    constraint = MaskConstraint(mask, inner=variable.constraint)
    variable.constraint = constraint
    return constraint


def mask_of(variable: keras.Variable) -> MaskConstraint | None:
    """Returns the mask constraint of a variable, or `None` if it has none."""
    constraint = variable.constraint
    return constraint if isinstance(constraint, MaskConstraint) else None


def mask_constraints(model: keras.layers.Layer) -> dict[str, MaskConstraint]:
    """Returns the mask constraints in a model by the path of their variable."""
    return {
        variable.path: constraint
        for variable in model.weights
        if (constraint := mask_of(variable)) is not None
    }


def new_mask(variable: keras.Variable) -> keras.Variable:
    """Returns a mask that keeps everything, as a variable that no model tracks."""
    return keras.Variable(
        np.ones(variable.shape, bool),
        dtype="bool",
        trainable=False,
        name=f"{variable.name}_mask",
    )


def scope_of(model: keras.Model) -> Any:
    """Returns the scope in which a model's variables are made, one per replica."""
    strategy = getattr(model, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def values(variable: keras.Variable) -> np.ndarray:
    """Returns a variable's values as they are now, without a copy where possible.

    The array must not be written to, and is stale after the variable's next change.
    """
    tensor = variable.value
    if hasattr(tensor, "read_value"):  # a tf.Variable
        tensor = tensor.read_value()
    try:
        return np.asarray(memoryview(tensor))
    except (TypeError, ValueError, BufferError):  # bfloat16, or not on the CPU
        return tensor.numpy()


@keras.saving.register_keras_serializable("kprune")
class Pruned(keras.layers.Wrapper):
    """Wraps a layer and keeps the masks of its weights among its own weights.

    The masks are non-trainable weights named after the weight that they belong to
    (`kernel_mask`), so that a saved model carries them. The zeros are exact in the
    inner layer's variables, not put there on the way: inference and saving need no
    masking. Wrappers are driven by `kprune.PruningCallback()` during `fit`; make them
    with `kprune.prune`, and unwrap with `kprune.strip`. A model that is trained before
    it has masks, with nothing that makes them, gets a `PruningWarning`, once.

    Args:
        layer: The layer to prune. Its weights may be nested in inner layers.
        rule: The `Rule` that says how, without `only` and `skip`. One for channels
            prunes the channels that the layer makes, with the slices of other layers
            that go with them; these need no wrapper.
        weights: Which of the layer's weights to prune, by their name inside of it
            (`("kernel",)`, `("query/kernel", "key/kernel")`). By default all that may
            be pruned.
        **kwargs: Arguments of `keras.layers.Layer`. The name is the inner layer's
            unless another one is given.

    Attributes:
        is_driven: Whether something has begun to make its masks.

    Raises:
        ValueError: If the rule has `only` or `skip`; on building, if none of the
            layer's weights may be pruned, or `weights` names one that may not.
        TypeError: If `rule` is not a `Rule`, or `layer` is no layer, or `Pruned`
            already.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        rule: Rule,
        weights: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(f"Pruned: expected a layer of Keras 3. {received(layer)}")
        if isinstance(layer, Pruned):
            raise TypeError(f"Layer {layer.name!r} is pruned already.")
        if not isinstance(rule, Rule):
            raise TypeError(
                f"Pruned: `rule` must be a kprune.Rule. Received {rule!r} of type "
                f"{type(rule).__name__}."
            )
        for name in ("only", "skip", "skip_first", "skip_last"):
            if getattr(rule, name):
                raise ValueError(
                    "Pruned: `only`, `skip`, `skip_first` and `skip_last` choose "
                    "layers of a model; for one layer say `weights`. Received "
                    f"{name}={getattr(rule, name)!r}."
                )
        kwargs.setdefault("name", layer.name)
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(layer, **kwargs)
        self.rule = rule
        self.pruned_weights = None if weights is None else tuple(weights)
        self.supports_masking = layer.supports_masking
        self.is_driven = False
        self._is_told = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Builds the inner layer if need be, and calls it."""
        if not self.built and not self.layer.built:
            # Builds layers of any signature, with all that they hold, without their
            # weights' paths changing: a wrapper's own `build` sees one shape only.
            symbolic = keras.tree.map_structure(_symbolic, (args, kwargs))
            self.layer(*symbolic[0], **symbolic[1])
        return super().__call__(*args, **kwargs)

    def build(self, input_shape: Any = None) -> None:
        """Builds the inner layer if need be, and adds the masks."""
        super().build(input_shape)
        for name, variable in self.pruned_variables().items():
            mask = self.add_weight(
                shape=variable.shape,
                initializer="ones",
                dtype="bool",
                trainable=False,
                name=f"{name.replace('/', '_')}_mask",
            )
            constrain(variable, mask)
        self.built = True

    def pruned_variables(self) -> dict[str, keras.Variable]:
        """Returns the weights that the rule prunes, by their name in the inner layer.

        Raises:
            ValueError: If there are none, or one that `weights` names is not there.
        """
        found = {
            site.name_in(self.layer): site.variable
            for site in resolve(Plan((self.rule,)), self.layer, whole=False).sites
        }
        if self.pruned_weights is None:
            return found
        for name in self.pruned_weights:
            if name not in found:
                raise ValueError(
                    f"Layer {self.layer.name!r} has no weight {name!r} that may be "
                    f"pruned. It has {sorted(found)}."
                )
        return {name: found[name] for name in self.pruned_weights}

    def call(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        """Calls the inner layer, which knows by itself whether it is trained."""
        if training and not self.is_driven:
            self.on_undriven()
        return self.layer(*args, **kwargs)

    def on_undriven(self) -> None:
        """Warns in training, before the first mask, if nothing makes masks."""
        # Seen while a step is traced, or once: steps pay nothing for it.
        if self._is_told or keras.config.backend() != "tensorflow":
            return
        model = self._get_call_context().entry_layer
        wrappers = list(dict.fromkeys([self, *pruned_layers(model)]))
        for wrapper in wrappers:
            wrapper._is_told = True
        if any(map(_is_held, wrappers)) or not any(map(_is_trained, wrappers)):
            return
        Notices().warn(
            f"{model.name!r} is trained, and nothing prunes it: masks of its Pruned "
            f"wrappers, such as {self.name!r}, are made by a callback. Add "
            "kprune.PruningCallback() to the callbacks of fit; in a loop of your own "
            "make kprune.Pruner(model) before the first step."
        )

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Returns the inner layer's mask (of time steps, not of weights)."""
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self) -> dict[str, Any]:
        """Returns the configuration; the masks are weights and not part of it."""
        rule = keras.saving.serialize_keras_object(self.rule)
        weights = None if self.pruned_weights is None else list(self.pruned_weights)
        return {**super().get_config(), "rule": rule, "weights": weights}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "Pruned":
        """Returns the wrapper that `get_config` described."""
        config = dict(config)
        config["rule"] = keras.saving.deserialize_keras_object(config["rule"])
        return super().from_config(config, custom_objects)


def _symbolic(value: Any) -> Any:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        dtype = keras.backend.standardize_dtype(value.dtype)
        return keras.KerasTensor(value.shape, dtype)
    return value


def _is_trained(wrapper: Pruned) -> bool:
    return any(v.trainable for v in wrapper.layer.weights if mask_of(v) is not None)


def _is_held(wrapper: Pruned) -> bool:
    """Returns whether masks prune anything, also while a step is traced."""
    import tensorflow as tf

    with tf.init_scope():
        return not all(values(c.mask).all() for c in mask_constraints(wrapper).values())


def drive(model: keras.layers.Layer) -> None:
    """Tells the wrappers in a model that something makes their masks."""
    for wrapper in pruned_layers(model):
        wrapper.is_driven = True


def pruned_layers(model: keras.layers.Layer) -> Iterator[Pruned]:
    """Yields the wrappers in a model, at any depth."""
    for layer in model._flatten_layers(include_self=True, recursive=True):
        if isinstance(layer, Pruned):
            yield layer
