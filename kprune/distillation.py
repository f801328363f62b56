"""A student model in training that a teacher model guides.

This module changes when what a teacher shows its student, or the way it gets into the
training step, changes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kprune.foreign import received
from kprune.layers import Pruned, scope_of
from kprune.naming import nearest
from kprune.rebuild import graph_of, has_graph

DISTILLED = keras.distillation

# What `cache=None` keeps of a teacher's outputs at most, in bytes.
MOST_CACHED = 2**30

# The inputs of a batch, and what the teacher makes of them, where that is known.
_INPUTS, _TAUGHT = "kprune_inputs", "kprune_taught"


def distill(
    student: keras.Model,
    teacher: keras.Model,
    *,
    temperature: float | None = None,
    alpha: float = 0.5,
    features: Mapping[str, str] | None = None,
    feature_weight: float = 1.0,
    loss: Any = None,
    cache: bool | None = None,
) -> "Distiller":
    """Returns a model whose `fit` trains the student to do as the teacher does.

    `distill(student, teacher).fit(x, y, callbacks=[kprune.PruningCallback(0.9)])` is
    all: the student is trained in place, with the optimizer, losses and metrics that it
    was compiled with, and pruned; the teacher is only asked, and never changed. The
    loss of a batch is

        (1 - alpha) * own + alpha * (outputs + feature_weight * features)

    plus the regularizers of the student. `own` is the student's compiled loss. By
    default `outputs` is `keras.distillation.LogitsDistillation` with
    `keras.losses.KLDivergence()`: the temperature squared, times the Kullback-Leibler
    divergence of the softened outputs. `features` is the sum over all pairs of layers
    of `keras.distillation.FeatureDistillation("mse")`. Outputs that a softmax made are
    taken back to logits first.

    Source: Hinton et al., "Distilling the knowledge in a neural network", 2015,
    https://arxiv.org/abs/1503.02531, section 2; Romero et al., "FitNets", 2015,
    https://arxiv.org/abs/1412.6550, equation 3, in one phase with the rest and without
    its regressor.

    Args:
        student: A built, compiled model. It may be wrapped by `kprune.prune`, come from
            `kprune.shrink` or from a file.
        teacher: A built model with inputs and outputs of the same shapes, such as a
            dense one; compiled or not.
        temperature: What logits are divided by, above 0; 2 by default. Not with `loss`.
        alpha: Weight of the teacher, in (0, 1]; 1 learns from it alone.
        features: Names of layers of the student, and of the teacher's layers that they
            are to be like; their outputs must have the same shapes.
        feature_weight: Weight of the features against the outputs, at least 0.
        loss: A `keras.distillation.DistillationLoss` between the outputs, instead of
            the one above: `keras.distillation.FeatureDistillation("mse")` for
            regression or a sigmoid. Outputs are given as they are, but to
            `LogitsDistillation` as logits, where the models' graphs show a softmax.
        cache: Whether what the teacher makes of the data is computed once, as each fit
            begins, instead of in every step. By default so if `x` is an array, or
            several, and it takes 1 GiB at most. For a data set, which may shuffle or
            augment, map its elements by `Distiller.taught` after the augmentation and
            keep them with `cache()`.

    Raises:
        ValueError: If the models do not fit together, are not built, share variables,
            or a value is out of its range. Nothing has changed then.
        TypeError: If something is of another type.

    Example:
        >>> def network():
        ...     return keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> student = network()
        >>> student.compile("sgd", keras.losses.CategoricalCrossentropy(True))
        >>> distiller = distill(student, network(), temperature=3.0)
        >>> history = distiller.fit(np.ones((8, 8)), np.ones((8, 4)) / 4, verbose=0)
        >>> sorted(history.history)
        ['distillation_loss', 'loss', 'student_loss']
    """
    _check_models(student, teacher)
    _check_numbers(temperature, alpha, feature_weight, loss)
    pairs = _pairs(student, teacher, features)
    seen = all(has_graph(model) for model in (student, teacher))
    if seen:
        _check_outputs(_output(teacher), _output(student))
    if cache not in (None, False, True):
        raise TypeError(f"distill: `cache` must be a bool or None. Received {cache!r}.")
    if loss is None:
        for model in (teacher, student):
            _check_classes(model)
        loss = _default_loss(student, 2.0 if temperature is None else temperature)
    elif seen:
        loss.validate_outputs(_output(teacher), _output(student))
    were: Any = ((), ())
    if seen and isinstance(loss, DISTILLED.LogitsDistillation):
        were = tuple(_activations(model) for model in (teacher, student))
    strategy: Any = getattr(student, "distribute_strategy", None)
    if strategy is not None and strategy.num_replicas_in_sync > 1:
        _check_instances(loss)
    with scope_of(student):
        if not student.optimizer.built:
            # In the order that a checkpoint of the student will be read in.
            student.optimizer.build(student.trainable_variables)
        aside = _Aside(
            teacher,
            _Tapped(teacher, [of_teacher for _, of_teacher in pairs]),
            _Tapped(student, [of_student for of_student, _ in pairs]),
            loss,
            were,
        )
        distiller = Distiller(student, aside, alpha, feature_weight, cache)
        given = dict(student._compile_config.config, optimizer=student.optimizer)
        distiller.compile(**given)
    return distiller


class Distiller(keras.Model):
    """A student with its teacher; `distill` makes it.

    What is saved of it is the student alone: `ModelCheckpoint` writes ordinary files of
    the student, with its optimizer, to go on from.

    Deviations from `keras.distillation.Distiller`, whose losses it uses: that one
    freezes the teacher for good and has it among its own weights and in its files;
    leaves regularizers and sample weights out; and with features runs the student
    twice per step, in training mode even in `evaluate`, which moves the statistics of
    its batch normalisations.

    Attributes:
        student: The model that is trained.
        teacher: The model that is asked; not one of this model's layers.
        is_cached: Whether the last fit computed what the teacher says beforehand.
    """

    def __init__(
        self,
        student: keras.Model,
        aside: "_Aside",
        alpha: float,
        feature_weight: float,
        cache: bool | None,
    ) -> None:
        # Student and teacher cast their inputs themselves, each in its own way.
        super().__init__(name=f"{student.name}_with_teacher", autocast=False)
        self.student = student
        self.output_names = getattr(student, "output_names", None)
        self.alpha, self.feature_weight = alpha, feature_weight
        self.is_cached, self._cache = False, cache
        self._aside = aside
        self._student_loss = keras.metrics.Mean(name="student_loss")
        self._distillation_loss = keras.metrics.Mean(name="distillation_loss")
        self.built = True

    @property
    def teacher(self) -> keras.Model:
        """The model that is asked."""
        return self._aside.teacher

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the student's outputs."""
        outputs, features = self._aside.tapped_student(_plain(inputs), training)
        self._aside.last = outputs, features
        return outputs

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Returns the loss of a batch, see `distill`.

        Weights of samples and classes act on the student's own loss only.
        """
        aside = self._aside
        own = super().compute_loss(x, y, y_pred, sample_weight, training)
        taught = _taught(x)
        if taught is None:
            taught = self._ask(x)
        outputs, features = aside.features(y_pred, _plain(x), training)
        count = len(keras.tree.flatten(outputs))
        hints = keras.tree.pack_sequence_as(outputs, list(taught[:count]))
        _check_outputs(hints, outputs)
        total = aside.loss.compute_loss(
            _logits(hints, aside.were[0]), _logits(outputs, aside.were[1])
        )
        alike = DISTILLED.FeatureDistillation(keras.losses.MeanSquaredError())
        for hint, feature in zip(taught[count:], features, strict=True):
            total += self.feature_weight * alike.compute_loss(
                _floats(hint), _floats(feature)
            )
        # Keras divides losses by the number of replicas, whose gradients are added.
        replicas = self.distribute_strategy.num_replicas_in_sync
        self._student_loss.update_state(replicas * own)
        self._distillation_loss.update_state(replicas * total)
        # Those are in `own` once already.
        regularizers = sum(map(self._aggregate_additional_loss, self.losses))
        return (1 - self.alpha) * own + self.alpha * (total + regularizers)

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains the student, with the arguments of `keras.Model.fit`.

        Raises:
            ValueError: If `cache=True` and `x` is no array, or the student was compiled
                anew.
        """
        if self.optimizer is not self.student.optimizer:
            raise ValueError(
                f"distill: the student {self.student.name!r} and its distiller were "
                "compiled with different optimizers. Compile the student, and call "
                "kprune.distill anew."
            )
        self.is_cached = self._caches(x)
        if self.is_cached:
            x = self._with_taught(x)
            held_out = kwargs.get("validation_data")
            if isinstance(held_out, tuple | list) and _are_arrays(held_out[0]):
                first = self._with_taught(held_out[0])
                kwargs["validation_data"] = (first, *held_out[1:])
        return super().fit(x, *args, **kwargs)

    def taught(self, x: Any, *rest: Any) -> tuple[Any, ...]:
        """Adds what the teacher makes of a batch: `data.map(distiller.taught)`.

        Args:
            x: The inputs of a batch.
            *rest: Its targets and weights, which stay as they are.
        """
        return ({_INPUTS: x, _TAUGHT: self._ask(x)}, *rest)

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Saves the student."""
        self.student.save(filepath, *args, **kwargs)

    def save_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Saves the student's weights."""
        self.student.save_weights(filepath, *args, **kwargs)

    def load_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Loads the student's weights."""
        self.student.load_weights(filepath, *args, **kwargs)

    def _ask(self, x: Any) -> tuple[Any, ...]:
        """Returns the teacher's outputs and then its features, in one tuple."""
        # Whatever a layer of it would write, it stays as it is.
        with keras.StatelessScope():
            outputs, features = self._aside.tapped_teacher(x, False)
        hints = [*keras.tree.flatten(outputs), *features]
        return tuple(keras.ops.stop_gradient(hint) for hint in hints)

    def _caches(self, x: Any) -> bool:
        """Returns whether the teacher is asked once for all of a fit's inputs."""
        if not _are_arrays(x):
            if self._cache:
                raise ValueError(
                    "distill: cache=True needs arrays, fit(x, y): a data set may "
                    "shuffle and augment, so that what the teacher said of it once is "
                    f"not true of it later. Received {type(x).__name__}. Map what it "
                    "gives after the augmentation by data.map(distiller.taught)"
                    ".cache(), or leave cache=True out."
                )
            return False
        if self._cache is None:
            first = self._ask(keras.tree.map_structure(lambda a: a[:1], x))
            size = sum(math.prod(h.shape) * _item_size(h) for h in first)
            return size * _length(x) <= MOST_CACHED
        return self._cache

    def _with_taught(self, x: Any) -> dict[str, Any]:
        """Adds what the teacher makes of arrays."""
        import tensorflow as tf

        ask, parts = tf.function(self._ask, reduce_retracing=True), []
        for start in range(0, _length(x), 256):
            rows = slice(start, start + 256)
            batch = keras.tree.map_structure(lambda a, r=rows: a[r], x)
            tensors = keras.tree.map_structure(tf.convert_to_tensor, batch)
            parts.append([np.asarray(hint) for hint in ask(tensors)])
        taught = tuple(np.concatenate(hints) for hints in zip(*parts, strict=True))
        return {_INPUTS: x, _TAUGHT: taught}


class _Tapped:
    """A model as a function that also gives the outputs of some of its layers.

    Args:
        model: The model.
        names: Names of the layers.
    """

    def __init__(self, model: keras.Model, names: Sequence[str]) -> None:
        self._model, self._inner = model, None
        if names:
            taps = [model.get_layer(name).output for name in names]
            inputs = graph_of(model)._inputs_struct
            self._inner = keras.Model(inputs, [_output(model), taps])

    def __call__(self, x: Any, training: bool | None) -> tuple[Any, list[Any]]:
        """Returns the outputs, and those of the layers."""
        if self._inner is not None:
            return self._inner(x, training=training)
        if self._model._call_has_training_arg:
            return self._model(x, training=training), []
        return self._model(x), []


class _Aside:
    """What a distiller has beside its layers; Keras does not look in here.

    Args:
        teacher: The model that is asked.
        tapped_teacher: It, with its features.
        tapped_student: The student, with its features.
        loss: Between their outputs.
        were: For each output of teacher and student, the activation that made it, if
            it is to be taken back.
    """

    def __init__(
        self,
        teacher: keras.Model,
        tapped_teacher: _Tapped,
        tapped_student: _Tapped,
        loss: Any,
        were: tuple[Sequence[str | None], Sequence[str | None]],
    ) -> None:
        self.teacher = teacher
        self.tapped_teacher, self.tapped_student = tapped_teacher, tapped_student
        self.loss, self.were = loss, were
        self.last: tuple[Any, list[Any]] = (None, [])

    def features(self, y_pred: Any, x: Any, training: bool) -> tuple[Any, list[Any]]:
        """Returns the student's outputs and features, those of the call just before."""
        outputs = keras.tree.flatten(self.last[0])
        if outputs and outputs[0] is keras.tree.flatten(y_pred)[0]:
            return self.last
        # Keras builds losses and metrics on tensors of its own.
        return self.tapped_student(x, training)


def student_of(model: keras.Model) -> keras.Model:
    """Returns the student of a distiller, kprune's or Keras's; else the model."""
    is_distiller = isinstance(model, Distiller | DISTILLED.Distiller)
    return model.student if is_distiller else model


def _plain(x: Any) -> Any:
    """Returns the inputs of a batch without what the teacher makes of them."""
    return x[_INPUTS] if isinstance(x, Mapping) and _TAUGHT in x else x


def _taught(x: Any) -> tuple[Any, ...] | None:
    """Returns what the teacher makes of a batch, if that comes with it."""
    return x[_TAUGHT] if isinstance(x, Mapping) and _TAUGHT in x else None


def _are_arrays(x: Any) -> bool:
    flat = keras.tree.flatten(x)
    return bool(flat) and all(
        hasattr(value, "__array__") and hasattr(value, "shape") for value in flat
    )


def _length(x: Any) -> int:
    return int(keras.tree.flatten(x)[0].shape[0])


def _item_size(tensor: Any) -> int:
    return np.dtype(keras.backend.standardize_dtype(tensor.dtype)).itemsize


def _floats(tensor: Any) -> Any:
    return keras.ops.cast(tensor, keras.config.floatx())


def _logits(outputs: Any, were: Sequence[str | None]) -> Any:
    """Returns outputs in full precision, those of a softmax as logits."""
    flat = [_floats(output) for output in keras.tree.flatten(outputs)]
    for place, activation in enumerate(were):
        if activation == "softmax":
            flat[place] = keras.ops.log(flat[place] + keras.config.epsilon())
    return keras.tree.pack_sequence_as(outputs, flat)


def _output(model: Any) -> Any:
    """Returns the symbolic outputs of a model with a graph, in their structure."""
    return graph_of(model)._outputs_struct


def _check_classes(model: keras.Model) -> None:
    """Raises ValueError if outputs are neither logits nor made by a softmax."""
    cure = (
        "Say what the outputs of the student are compared by, such as "
        'loss=keras.distillation.FeatureDistillation("mse"), or, if they are logits, '
        "loss=keras.distillation.LogitsDistillation(2.0, keras.losses.KLDivergence())."
    )
    if not has_graph(model):
        raise ValueError(
            f"distill: {model.name!r} is a subclassed model ({type(model).__name__}), "
            f"and whether its outputs are logits cannot be seen. {cure}"
        )
    graph = graph_of(model)
    found = zip(graph.output_names, graph.outputs, _activations(model), strict=True)
    for name, output, activation in found:
        if activation == "sigmoid" or output.shape[-1] == 1 or len(output.shape) < 2:
            raise ValueError(
                f"distill: the output {name!r} of {model.name!r}, of shape "
                f"{output.shape}{' and by a sigmoid' * (activation == 'sigmoid')}, is "
                "not one of classes that exclude each other, which temperatures are "
                f"for. {cure}"
            )


def _activations(model: keras.Model) -> list[str | None]:
    """Returns for each output of a model with a graph the activation that made it."""
    return [_activation(output) for output in graph_of(model).outputs]


def _activation(output: Any) -> str | None:
    """Returns the name of the activation that made a symbolic output, if any did."""
    history = output._keras_history
    layer = history.operation
    if has_graph(layer):
        return _activation(graph_of(layer).outputs[history.tensor_index])
    if isinstance(layer, Pruned):
        layer = layer.layer
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    activation = getattr(layer, "activation", None)
    return getattr(activation, "__name__", None)


def _default_loss(student: keras.Model, temperature: float) -> Any:
    """Returns the distillation of logits, for each output of the student."""
    # By its name Keras 3.15 finds a function, which it gives logits as they are.
    kullback_leibler = keras.losses.KLDivergence()
    losses = keras.tree.map_structure(lambda _: kullback_leibler, _output(student))
    return DISTILLED.LogitsDistillation(temperature, losses)


def _check_models(student: Any, teacher: Any) -> None:
    for name, model in (("student", student), ("teacher", teacher)):
        if not isinstance(model, keras.Model):
            raise TypeError(
                f"distill: the {name} must be a Keras 3 model. {received(model)}"
            )
        if not (model.built and model.weights):
            raise ValueError(
                f"distill: the {name} {model.name!r} has no weights yet. Build it "
                "first: begin it with keras.Input(shape), or call it on a batch."
            )
    if student is teacher:
        raise ValueError(
            "distill: student and teacher are the same model, which has nothing to "
            "learn from itself. Make the teacher a copy, as it is before pruning: "
            "teacher = keras.models.clone_model(student); "
            "teacher.set_weights(student.get_weights())."
        )
    mine = {id(variable) for variable in student.weights}
    shared = [v.path for v in teacher.weights if id(v) in mine]
    if shared:
        raise ValueError(
            f"distill: student {student.name!r} and teacher {teacher.name!r} share "
            f"{len(shared)} variables, such as {shared[0]!r}: training the one would "
            "change the other. Copy the teacher: keras.models.clone_model and "
            "set_weights."
        )
    if not student.compiled or student.optimizer is None:
        raise ValueError(
            f"distill: the student {student.name!r} is not compiled. Call "
            "student.compile(optimizer, loss, metrics), as for its own fit; the "
            "distiller trains it with these."
        )
    for method in ("train_step", "test_step", "compute_loss", "compute_metrics"):
        if getattr(type(student), method) is not getattr(keras.Model, method):
            raise ValueError(
                f"distill: the student {student.name!r} has a {method}() of its own, "
                "which the distiller would not call. Ask the teacher in there: call "
                "teacher(x, training=False), and add "
                "keras.distillation.LogitsDistillation(2.0, keras.losses."
                "KLDivergence()).compute_loss(...)."
            )
    if all(has_graph(model) for model in (student, teacher)):
        _check_inputs(teacher, student)


def _check_inputs(teacher: keras.Model, student: keras.Model) -> None:
    shapes = [[tuple(i.shape) for i in graph_of(m).inputs] for m in (teacher, student)]
    if len(shapes[0]) != len(shapes[1]) or not all(map(_may_equal, *shapes)):
        raise ValueError(
            f"distill: the teacher {teacher.name!r} takes inputs of shapes "
            f"{shapes[0]}, the student {student.name!r} of {shapes[1]}. Both are "
            "given the same inputs."
        )


def _check_outputs(taught: Any, outputs: Any) -> None:
    """Raises ValueError if outputs of teacher and student are not alike."""
    try:
        keras.tree.assert_same_structure(taught, outputs)
        alike = True
    except (ValueError, TypeError):
        alike = False
    shapes = [
        [tuple(output.shape) for output in keras.tree.flatten(each)]
        for each in (taught, outputs)
    ]
    if not alike or not all(map(_may_equal, *shapes)):
        raise ValueError(
            f"distill: the teacher's outputs have the shapes {shapes[0]}, the "
            f"student's {shapes[1]}. They must be as many, in the same structure and "
            "of the same shapes. Build a teacher of the outputs in question, with "
            "keras.Model(teacher.inputs, ...)."
        )


def _may_equal(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return len(one) == len(other) and all(
        a is None or b is None or a == b for a, b in zip(one, other, strict=True)
    )


def _check_numbers(temperature: Any, alpha: Any, weight: Any, loss: Any) -> None:
    for name, value in (
        ("temperature", 1.0 if temperature is None else temperature),
        ("alpha", alpha),
        ("feature_weight", weight),
    ):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(
                f"distill: `{name}` must be a number. Received {value!r} of type "
                f"{type(value).__name__}."
            )
    if temperature is not None and not 0 < temperature < math.inf:
        raise ValueError(
            "distill: `temperature` is what logits are divided by and must be above "
            f"0. Received {temperature!r}; 2 to 5 are usual."
        )
    if not 0 < alpha <= 1:
        raise ValueError(
            "distill: `alpha` is the share of the teacher in the loss and must lie in "
            f"(0, 1]. Received {alpha!r}."
        )
    if not 0 <= weight < math.inf:
        raise ValueError(
            "distill: `feature_weight` must be at least 0 and finite. Received "
            f"{weight!r}."
        )
    if loss is None:
        return
    if not isinstance(loss, DISTILLED.DistillationLoss):
        raise TypeError(
            "distill: `loss` must be a keras.distillation.DistillationLoss, such as "
            f'keras.distillation.FeatureDistillation("mse"). Received {loss!r}. The '
            "student's own loss is the one that it was compiled with."
        )
    if getattr(loss, "student_layer_name", None) is not None:
        raise ValueError(
            "distill: `loss` compares the outputs. Name layers as features="
            f"{{{loss.student_layer_name!r}: {loss.teacher_layer_name!r}}}."
        )
    if isinstance(loss, DISTILLED.LogitsDistillation) and any(
        each is keras.losses.kl_divergence for each in keras.tree.flatten(loss.loss)
    ):
        raise ValueError(
            "distill: keras.distillation.LogitsDistillation with the name or function "
            "'kl_divergence', its default, compares logits as if they were "
            "probabilities: only for an instance does this Keras take their softmax. "
            f"Say LogitsDistillation({loss.temperature}, keras.losses.KLDivergence())."
        )
    if temperature is not None:
        raise ValueError(
            "distill: give `temperature` or `loss`, not both: a loss brings its own, "
            "such as LogitsDistillation(temperature, keras.losses.KLDivergence())."
        )


def _check_instances(loss: Any) -> None:
    """Raises ValueError if a loss would be as many times too strong as replicas are."""
    for each in keras.tree.flatten(getattr(loss, "loss", None)):
        if each is not None and not isinstance(each, keras.losses.Loss):
            raise ValueError(
                f"distill: {each.__name__!r} in {type(loss).__name__} is a name or a "
                "function, which does not know of replicas, so that their losses would "
                "be added instead of averaged. Give an instance, such as "
                "keras.losses.MeanSquaredError()."
            )


def _pairs(
    student: keras.Model, teacher: keras.Model, features: Any
) -> list[tuple[str, str]]:
    """Returns the pairs of layers that are to give the same.

    Raises:
        ValueError: If one is not there, or their outputs have other shapes.
        TypeError: If `features` is no mapping.
    """
    if features is None:
        return []
    if not isinstance(features, Mapping):
        raise TypeError(
            "distill: `features` must be a mapping of layer names, "
            '{"layer of the student": "layer of the teacher"}. '
            f"Received {features!r}."
        )
    for mine, theirs in features.items():
        shapes = [
            _shapes_of("student", student, mine),
            _shapes_of("teacher", teacher, theirs),
        ]
        if not _may_equal(*shapes):
            raise ValueError(
                f"distill: the student's layer {mine!r} gives {shapes[0]}, the "
                f"teacher's {theirs!r} {shapes[1]}. Choose layers of the same shape: "
                "a model that was shrunk has fewer channels where it was cut, and as "
                "many as before in its outputs. Or pass the features through a layer "
                "in the student that gives as many."
            )
    return [*features.items()]


def _shapes_of(role: str, model: Any, name: str) -> tuple[Any, ...]:
    """Returns the shape of what a layer of a model gives."""
    if not has_graph(model):
        raise ValueError(
            f"distill: features need a Sequential or Functional {role}, and "
            f"{model.name!r} is a subclassed model ({type(model).__name__}). Leave "
            "features=... out."
        )
    names = [layer.name for layer in model.layers]
    if name not in names:
        near = nearest(str(name), names)
        raise ValueError(
            f"distill: the {role} {model.name!r} has no layer {name!r}. "
            + (f"Did you mean {near!r}? " if near else "")
            + f"Its layers are {', '.join(names)}."
        )
    try:
        output = model.get_layer(name).output
    except (AttributeError, ValueError) as error:
        raise ValueError(
            f"distill: the layer {name!r} of the {role} {model.name!r} is called more "
            "than once, so that it has no one output. Choose another layer."
        ) from error
    if not isinstance(output, keras.KerasTensor):
        raise ValueError(
            f"distill: the layer {name!r} of the {role} {model.name!r} has several "
            "outputs. Choose one that gives a single tensor."
        )
    return tuple(output.shape)
