"""A teacher guides the student that is pruned, and stays as it was."""

import keras
import numpy as np
import pytest

import kprune
from kprune.distillation import student_of
from kprune.layers import mask_constraints, values

L = keras.layers
SPARSE = keras.losses.SparseCategoricalCrossentropy
LOGITS = keras.distillation.LogitsDistillation(2.0, keras.losses.KLDivergence())


def network(activation=None, classes=3, **dense):
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            L.Conv2D(6, 3, use_bias=False, name="conv"),
            L.BatchNormalization(name="norm"),
            L.ReLU(name="relu"),
            L.Flatten(),
            L.Dense(classes, activation=activation, name="head", **dense),
        ]
    )


def compiled(model, optimizer="sgd", from_logits=True, **kwargs):
    model.compile(optimizer, SPARSE(from_logits), **kwargs)
    return model


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, 4, 4, 1)).astype("float32"), np.arange(32) % 3


def fit(distiller, data, callbacks=(), **kwargs):
    arguments = {"epochs": 2, "batch_size": 8, "shuffle": False, "verbose": 0}
    return distiller.fit(*data, callbacks=[*callbacks], **arguments | kwargs).history


class Zeros(keras.callbacks.Callback):
    """Checks at each batch that what masks prune is exactly zero."""

    num_batches = 0

    def on_train_batch_end(self, batch, logs=None):
        held = mask_constraints(self.model)
        by_path = {v.path: v for v in self.model.weights}
        for path, constraint in held.items():
            assert not values(by_path[path])[~values(constraint.mask)].any()
        self.num_batches += bool(held)


@pytest.mark.parametrize("granularity", ["element", "channel"])
def test_prunes_the_student_and_leaves_the_teacher_bit_for_bit(data, granularity):
    teacher, student = compiled(network()), compiled(network(), metrics=["accuracy"])
    teacher.get_layer("conv").trainable = False
    teacher.fit(*data, verbose=0)
    before = [np.array(w) for w in teacher.get_weights()]
    steps, flags = int(teacher.optimizer.iterations), frozen(teacher)
    metrics = [m.name for m in teacher.metrics]
    pruning, zeros = kprune.PruningCallback(0.5, granularity=granularity), Zeros()
    logs = fit(kprune.distill(student, teacher), data, [pruning, zeros])
    assert zeros.num_batches == 8 and logs["sparsity"][-1] == pytest.approx(
        0.5, abs=0.02
    )
    assert {w.path for w in pruning.report.weights} < {w.path for w in student.weights}
    assert not {s.path for s in pruning.report.skipped} & {
        w.path for w in teacher.weights
    }
    for weight, earlier in zip(teacher.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, earlier)
    assert frozen(teacher) == flags and True in flags and False in flags
    assert [m.name for m in teacher.metrics] == metrics
    assert int(teacher.optimizer.iterations) == steps and teacher.losses == []


def frozen(model):
    return [variable.trainable for variable in model.weights]


def softmax(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


@pytest.mark.parametrize("teachers", [None, "softmax"])
def test_the_loss_is_what_the_docstring_says(data, teachers):
    x, y = data
    teacher = network(teachers)
    student = compiled(network("softmax", kernel_regularizer="l2"), from_logits=False)
    distiller = kprune.distill(
        student,
        teacher,
        temperature=3.0,
        alpha=0.3,
        features={"relu": "norm"},
        feature_weight=2.0,
    )
    found = distiller.evaluate(x, y, batch_size=32, return_dict=True, verbose=0)

    own = -np.log(student.predict(x, verbose=0)[np.arange(32), y]).mean()
    penalty = 0.01 * np.square(student.get_layer("head").kernel).sum()
    soft = [softmax(logits(model, x) / 3) for model in (teacher, student)]
    outputs = 9 * (soft[0] * np.log(soft[0] / soft[1])).sum(-1).mean()
    hint, feature = layer(teacher, "norm", x), layer(student, "relu", x)
    alike = np.square(hint - feature).mean()
    taught = outputs + 2 * alike
    assert found == pytest.approx(
        {
            "loss": 0.7 * own + 0.3 * taught + penalty,
            "student_loss": own + penalty,
            "distillation_loss": taught,
        },
        rel=1e-4,
    )


def test_a_softmax_is_taken_back_for_a_loss_that_is_given(data):
    teacher, student = network("softmax"), compiled(network())

    def loss(**arguments):
        distiller = kprune.distill(student, teacher, **arguments)
        return distiller.evaluate(*data, verbose=0, return_dict=True)["loss"]

    assert loss(loss=LOGITS) == loss(temperature=2.0)


def layer(model, name, x):
    return np.array(keras.Model(model.layers[0].input, model.get_layer(name).output)(x))


def logits(model, x):
    head = model.get_layer("head")
    flat = layer(model, "relu", x).reshape(len(x), -1)
    return flat @ np.array(head.kernel) + np.array(head.bias)


def test_cached_is_as_uncached(data):
    def trained(cache):
        keras.utils.set_random_seed(1)
        teacher, student = network(), compiled(network(), metrics=["accuracy"])
        distiller = kprune.distill(
            student, teacher, features={"relu": "relu"}, cache=cache
        )
        held_out = data[0][:10], data[1][:10]
        logs = fit(
            distiller, data, [kprune.PruningCallback(0.5)], validation_data=held_out
        )
        assert distiller.is_cached is (cache is not False)
        return logs, student.get_weights()

    (logs, weights), (other_logs, others) = trained(None), trained(False)
    assert logs.keys() == other_logs.keys() and "val_distillation_loss" in logs
    for name in logs:
        np.testing.assert_allclose(logs[name], other_logs[name], rtol=1e-5)
    for weight, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-4, atol=1e-6)


def test_a_cached_teacher_is_asked_once(data):
    asked = []

    class Counted(L.Layer):
        def call(self, x):
            asked.append(1)
            return x

    inner = network()
    teacher = keras.Sequential([keras.Input((4, 4, 1)), Counted(), *inner.layers])
    distiller = kprune.distill(compiled(network(), run_eagerly=True), teacher)
    asked.clear()
    fit(distiller, data, epochs=3)
    few = len(asked)
    asked.clear()
    distiller = kprune.distill(
        compiled(network(), run_eagerly=True), teacher, cache=False
    )
    fit(distiller, data, epochs=3)
    # Once to see how much it is and once to trace; or once in each of twelve steps.
    assert few <= 2 and len(asked) >= 12


def test_too_much_is_not_cached(data, monkeypatch):
    monkeypatch.setattr("kprune.distillation.MOST_CACHED", 32 * 3 * 4 - 1)
    distiller = kprune.distill(compiled(network()), network())
    fit(distiller, data)
    assert not distiller.is_cached
    monkeypatch.setattr("kprune.distillation.MOST_CACHED", 32 * 3 * 4)
    fit(distiller, data)
    assert distiller.is_cached


def test_a_data_set_is_taught_by_mapping_it(data):
    import tensorflow as tf

    def trained(prepare):
        keras.utils.set_random_seed(1)
        distiller = kprune.distill(compiled(network()), network())
        batches = tf.data.Dataset.from_tensor_slices(data).batch(8)
        prepared = prepare(batches, distiller)
        logs = distiller.fit(prepared, epochs=2, shuffle=False, verbose=0).history
        assert not distiller.is_cached
        return logs["loss"]

    mapped = trained(lambda batches, distiller: batches.map(distiller.taught).cache())
    np.testing.assert_allclose(mapped, trained(lambda b, _: b), rtol=1e-5)

    distiller = kprune.distill(compiled(network()), network(), cache=True)
    with pytest.raises(ValueError, match=r"cache=True needs arrays.*data\.map"):
        distiller.fit(tf.data.Dataset.from_tensor_slices(data).batch(8), verbose=0)


def test_a_checkpoint_is_the_student_and_goes_on(data, tmp_path):
    teacher, start = network(), network()

    def student():
        model = network()
        model.set_weights(start.get_weights())
        return compiled(model, "adam")

    whole = student()
    fit(kprune.distill(whole, teacher), data, [kprune.PruningCallback(0.5)], epochs=4)

    class Killed(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    file = tmp_path / "student.keras"
    saving = keras.callbacks.ModelCheckpoint(file)
    with pytest.raises(KeyboardInterrupt):
        fit(
            kprune.distill(student(), teacher),
            data,
            [kprune.PruningCallback(0.5), saving, Killed()],
            epochs=4,
        )
    resumed = keras.models.load_model(file)
    assert type(resumed) is keras.Sequential
    assert int(resumed.optimizer.iterations) == 8
    fit(
        kprune.distill(resumed, teacher),
        data,
        [kprune.PruningCallback(0.5)],
        epochs=4,
        initial_epoch=2,
    )
    for weight, other in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)


def test_the_students_own_fit_holds_what_the_distillers_pruned(data):
    student = compiled(network())
    student.fit(*data, verbose=0)  # Its training step is traced, without masks.
    fit(kprune.distill(student, network()), data, [kprune.PruningCallback(0.5)])
    zeros = student.get_layer("head").kernel.numpy() == 0
    assert zeros.any()
    student.fit(*data, verbose=0)
    np.testing.assert_array_equal(student.get_layer("head").kernel.numpy() == 0, zeros)


def test_wrappers_are_driven(data):
    student = compiled(kprune.prune(network(), 0.5))
    callback = kprune.PruningCallback()
    distiller = kprune.distill(student, network(), features={"relu": "relu"})
    fit(distiller, data, [callback])
    assert callback.report.sparsity == pytest.approx(0.5, abs=0.02)


def test_a_shrunk_model_learns_from_the_dense_one(data):
    teacher, student = network(), compiled(network())
    student.fit(
        *data,
        epochs=2,
        verbose=0,
        callbacks=[kprune.PruningCallback(0.5, granularity="channel")],
    )
    small = compiled(kprune.shrink(student))
    assert small.get_layer("conv").filters == 3
    with pytest.raises(ValueError, match="'conv' gives .*3.*fewer channels"):
        kprune.distill(small, teacher, features={"conv": "conv"})
    fit(kprune.distill(small, teacher), data)


def test_penalties_and_gradients_are_those_of_the_student(data):
    student = compiled(network())
    pruning = kprune.PruningCallback(
        0.5,
        granularity="channel",
        regularization="group_lasso",
        criterion="taylor",
        data=data,
    )
    fit(kprune.distill(student, network()), data, [pruning], epochs=4)
    assert [channels.pruned for channels in pruning.report.channels] == [3]


def test_several_outputs(data):
    def two(names):
        inputs = keras.Input((4, 4, 1))
        x = L.Flatten()(inputs)
        return keras.Model(inputs, {n: L.Dense(3, name=n)(x) for n in names})

    x, y = data
    student = two("ab")
    student.compile(
        "sgd", {"a": SPARSE(True), "b": SPARSE(True)}, metrics={"b": ["accuracy"]}
    )
    logs = fit(kprune.distill(student, two("ab")), (x, {"a": y, "b": y}))
    assert "b_accuracy" in logs
    with pytest.raises(ValueError, match="same structure"):
        kprune.distill(student, two("ac"))


def test_regression_is_compared_as_the_loss_says(data):
    student, teacher = network(classes=1), network(classes=1)
    student.compile("sgd", "mse")
    mse = keras.distillation.FeatureDistillation("mse")
    distiller = kprune.distill(student, teacher, loss=mse)
    x, y = data
    found = distiller.evaluate(x, y, batch_size=32, return_dict=True, verbose=0)
    apart = student.predict(x, verbose=0) - teacher.predict(x, verbose=0)
    assert found["distillation_loss"] == pytest.approx(
        np.square(apart).mean(), rel=1e-5
    )


def test_a_subclassed_teacher_is_asked_as_it_is(data):
    class Own(keras.Model):
        def __init__(self, classes=3):
            super().__init__()
            self.inner = network(classes=classes)

        def call(self, x):
            return self.inner(x)

    def teacher(classes=3):
        model = Own(classes)
        model(data[0])
        return model

    with pytest.raises(ValueError, match="cannot be seen"):
        kprune.distill(compiled(network()), teacher())
    loss = LOGITS
    fit(kprune.distill(compiled(network()), teacher(), loss=loss), data)
    with pytest.raises(ValueError, match=r"\(None, 4\).*\(None, 3\)|\(8, 4\)"):
        fit(kprune.distill(compiled(network()), teacher(4), loss=loss), data)


def test_sample_weights_act_on_the_students_own_loss(data):
    distiller = kprune.distill(compiled(network()), network(), cache=False)
    x, y = data
    weights = np.where(y == 0, 1.0, 0.0)
    found, plain = (
        distiller.evaluate(x, y, 32, 0, sample_weight=w, return_dict=True)
        for w in (weights, None)
    )
    assert found["student_loss"] < plain["student_loss"]
    assert found["distillation_loss"] == pytest.approx(plain["distillation_loss"])


def test_the_student_of_keras_own_distiller_is_pruned(data):
    teacher, student = network(), network()
    distiller = keras.distillation.Distiller(teacher, student, LOGITS)
    distiller.compile("sgd", SPARSE(True))
    pruning = kprune.PruningCallback(0.5, granularity="channel")
    fit(distiller, data, [pruning])
    assert pruning.report.sparsity > 0 and student_of(distiller) is student
    paths = {w.path for w in (*pruning.report.weights, *pruning.report.skipped)}
    assert not paths & {w.path for w in teacher.weights}
    assert mask_constraints(teacher) == {}


def one_more(model):
    return keras.Model(model.inputs, [model.outputs[0], model.outputs[0]])


REFUSALS = {
    "not a model": (lambda s, t: (s, 3), {}, TypeError, "teacher must be a Keras 3"),
    "not built": (
        lambda s, t: (s, keras.Sequential([L.Dense(3)])),
        {},
        ValueError,
        "teacher .* has no weights yet. Build it",
    ),
    "itself": (lambda s, t: (s, s), {}, ValueError, "the same model.*clone_model"),
    "shared": (
        lambda s, t: (s, keras.Model(s.inputs, s.outputs[0])),
        {},
        ValueError,
        "share 7 variables",
    ),
    "not compiled": (lambda s, t: (t, s), {}, ValueError, "is not compiled"),
    "inputs": (
        lambda s, t: (s, keras.Sequential([keras.Input((5,)), L.Dense(3)])),
        {},
        ValueError,
        r"inputs of shapes \[\(None, 5\)\]",
    ),
    "classes": (
        lambda s, t: (s, network(classes=4)),
        {},
        ValueError,
        r"\[\(None, 4\)\], the student's \[\(None, 3\)\]",
    ),
    "number of outputs": (
        lambda s, t: (s, one_more(t)),
        {},
        ValueError,
        "as many, in the same structure",
    ),
    "sigmoid": (
        lambda s, t: (s, network("sigmoid")),
        {},
        ValueError,
        "by a sigmoid.*FeatureDistillation",
    ),
    "temperature": (None, {"temperature": 0}, ValueError, "above 0. Received 0"),
    "no temperature": (None, {"temperature": "2"}, TypeError, "must be a number"),
    "alpha": (None, {"alpha": 0.0}, ValueError, r"lie in \(0, 1\]. Received 0.0"),
    "more alpha": (None, {"alpha": 1.5}, ValueError, r"\(0, 1\]. Received 1.5"),
    "weight": (None, {"feature_weight": -1}, ValueError, "at least 0"),
    "cache": (None, {"cache": "yes"}, TypeError, "`cache` must be a bool"),
    "loss": (None, {"loss": "mse"}, TypeError, "DistillationLoss"),
    "both": (
        None,
        {"loss": LOGITS, "temperature": 2.0},
        ValueError,
        "not both",
    ),
    "the loss by name": (
        None,
        {"loss": keras.distillation.LogitsDistillation(3.0)},
        ValueError,
        r"Say LogitsDistillation\(3.0, keras.losses.KLDivergence\(\)\)",
    ),
    "layers in the loss": (
        None,
        {"loss": keras.distillation.FeatureDistillation("mse", "relu", "relu")},
        ValueError,
        "features={'relu': 'relu'}",
    ),
    "features": (None, {"features": ["relu"]}, TypeError, "must be a mapping"),
    "unknown layer": (
        None,
        {"features": {"rleu": "relu"}},
        ValueError,
        "student .* has no layer 'rleu'. Did you mean 'relu'",
    ),
    "shape of features": (
        None,
        {"features": {"relu": "head"}},
        ValueError,
        "Choose layers of the same shape",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_does_not_fit_is_refused_and_nothing_changed(case):
    change, arguments, error, message = REFUSALS[case]
    student, teacher = compiled(network()), network()
    pair = (student, teacher) if change is None else change(student, teacher)
    with pytest.raises(error, match=message):
        kprune.distill(*pair, **arguments)
    assert not student.optimizer.built and all(
        v.trainable for v in student.variables[:1]
    )
    assert all(layer.trainable for layer in teacher.layers)


def test_a_student_with_a_step_of_its_own_is_refused():
    class Own(keras.Sequential):
        def train_step(self, data):
            return {}

    student = compiled(Own([keras.Input((4, 4, 1)), L.Flatten(), L.Dense(3)]))
    with pytest.raises(ValueError, match=r"has a train_step\(\) of its own"):
        kprune.distill(student, network())


def test_a_student_that_was_compiled_anew_is_refused(data):
    student = compiled(network())
    distiller = kprune.distill(student, network())
    compiled(student)
    with pytest.raises(ValueError, match="call kprune.distill anew"):
        distiller.fit(*data, verbose=0)
