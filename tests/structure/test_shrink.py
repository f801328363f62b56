"""Smaller models: ordinary, equal to the masked one, and going on where it was."""

import json
import re

import keras
import numpy as np
import pytest
from models import GRAPHS, Subclassed, compiled

import kprune
from kprune import structure
from kprune.structure.proof import masked_outputs, probe

L = keras.layers


def alive(model):
    """Gives all weights values that no initialiser gives, statistics included."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if keras.backend.is_float_dtype(variable.dtype):
            values = rng.normal(0.3, 0.5, variable.shape)
            if "variance" in variable.path:
                values = np.abs(values) + 0.1
            variable.assign(values)
    return model


def residual():
    inputs = L.Input((8, 8, 3), name="image")
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = L.ReLU()(L.BatchNormalization(name="norm")(x))
    y = L.Conv2D(16, 3, padding="same", activation="relu", name="inner")(x)
    y = L.Conv2D(8, 3, padding="same", name="outer")(y)
    x = L.GlobalAveragePooling2D()(L.Add(name="add")([x, y]))
    return alive(keras.Model(inputs, L.Dense(3, name="head")(x), name="residual"))


def images(count=16):
    return np.random.default_rng(1).normal(size=(count, 8, 8, 3)).astype("float32")


def values(model):
    return [variable.numpy() for variable in model.variables]


def test_half_of_each_group_goes_and_outputs_equal_the_masked_models():
    model = residual()
    before = values(model)
    small = kprune.shrink(model, sparsity=0.5, data=images())
    assert [small.get_layer(n).filters for n in ("stem", "inner", "outer")] == [4, 8, 4]
    report = small.shrink_report
    assert report.equality.finite and report.equality.relative < 1e-5
    assert report.plan.parameters_after == small.count_params()
    # By hand: the same channels zeroed in the model as it is.
    kept = {
        name: np.setdiff1d(np.arange(group.size), group.removed)
        for name, group in zip(("stem", "inner"), report.plan.groups, strict=True)
    }
    np.testing.assert_array_equal(
        small.get_layer("inner").kernel,
        model.get_layer("inner").kernel.numpy()[:, :, kept["stem"]][..., kept["inner"]],
    )
    for old, new in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_masked_model_is_another_one_than_the_dense_one():
    # Or else the proof would prove nothing.
    model, x = residual(), images()
    small = kprune.shrink(model, sparsity=0.5)
    assert np.abs(small(x) - model(x)).max() > 0.1 * np.abs(model(x)).max()


@pytest.mark.parametrize("kind", GRAPHS)
def test_every_kind_of_graph_stays_of_its_kind(kind):
    model = alive(GRAPHS[kind]())
    small = kprune.shrink(model, sparsity=0.5)
    assert type(small) is type(model)
    assert [layer.name for layer in small.layers] == [x.name for x in model.layers]
    assert small.output_shape == model.output_shape
    assert small.count_params() < model.count_params()
    assert small.shrink_report.equality.relative < 1e-5


def test_settings_of_layers_are_kept():
    inputs = L.Input((6,))
    x = L.Dense(
        8,
        name="a",
        kernel_regularizer=keras.regularizers.L2(0.1),
        kernel_constraint=keras.constraints.MaxNorm(2.0),
        dtype="float32",
        trainable=False,
    )(inputs)
    model = keras.Model(inputs, L.Dense(2, dtype="float64")(x))
    small = kprune.shrink(model, sparsity=0.5)
    layer = small.get_layer("a")
    assert layer.units == 4
    assert not layer.trainable
    assert layer.kernel_regularizer.l2 == pytest.approx(0.1)
    assert layer.kernel.constraint.max_value == 2.0
    assert small.layers[-1].dtype_policy.name == "float64"


def test_a_smaller_model_is_an_ordinary_file(tmp_path):
    small = kprune.shrink(residual(), sparsity=0.5)
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(again(images()), small(images()))


def test_wrapped_models_shrink_to_plain_ones():
    model = residual()
    wrapped = kprune.prune(model, sparsity=0.5, only="inner")
    small = kprune.shrink(wrapped, sparsity=0.5)
    assert small.get_layer("inner").filters == 8
    assert all(not isinstance(layer, kprune.Pruned) for layer in small.layers)


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(amsgrad=True),
    "adafactor": keras.optimizers.Adafactor,
    "rmsprop": lambda: keras.optimizers.RMSprop(momentum=0.5, centered=True),
    "lion": keras.optimizers.Lion,
    "ftrl": keras.optimizers.Ftrl,
    "muon": lambda: keras.optimizers.Muon(exclude_layers=["head"]),
    "ema": lambda: keras.optimizers.Adam(use_ema=True),
    "accumulating": lambda: keras.optimizers.Adam(gradient_accumulation_steps=2),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_that_of_the_masked_model(name):
    """Steps of the smaller model equal those of the model with masks."""
    x, y = images(32), np.random.default_rng(0).integers(0, 3, 32)
    inputs = L.Input((8, 8, 3))
    h = L.Flatten()(L.Conv2D(6, 3, activation="relu", name="conv")(inputs))
    model = keras.Model(inputs, L.Dense(3, name="head")(h))
    compiled(model, OPTIMIZERS[name]())
    callback = kprune.PruningCallback(
        schedule=kprune.ConstantSparsity(0.5), granularity="channel"
    )
    fit = {"batch_size": 8, "verbose": 0, "shuffle": False}
    model.fit(x, y, callbacks=[callback], **fit)
    small = kprune.shrink(model)
    assert "with its state" in small.shrink_report.optimizer
    model.fit(x, y, **fit)
    small.fit(x, y, **fit)
    tolerance = 1e-3 if name in ("adafactor", "muon") else 1e-4
    if name in ("adafactor", "muon"):
        # Their steps depend on norms over a whole weight, zeros included.
        assert np.isfinite(small(x).numpy()).all()
    else:
        np.testing.assert_allclose(small(x), model(x), rtol=tolerance, atol=tolerance)


def test_what_cannot_be_compiled_is_said():
    model = residual()
    model.compile("adam", loss=lambda y, p: keras.ops.mean((y - p) ** 2))
    small = kprune.shrink(model, sparsity=0.5)
    assert "Not compiled" in small.shrink_report.optimizer or small.compiled
    assert (
        "was not compiled"
        in kprune.shrink(residual(), sparsity=0.5).shrink_report.optimizer
    )


def test_a_plan_comes_first_survives_json_and_is_carried_out():
    model = residual()
    before = values(model)
    plan = kprune.plan_shrink(model, sparsity=0.5)
    again = kprune.ShrinkPlan.from_json(plan.to_json())
    assert again == plan
    assert json.loads(plan.to_json())["sparsity"] == 0.5
    for old, new in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(old, new)
    small = kprune.shrink(model, plan=again)
    other = kprune.shrink(model, sparsity=0.5)
    for a, b in zip(small.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_plans_and_reports_say_what_goes_and_what_stays():
    report = kprune.shrink(residual(), sparsity=0.5).shrink_report
    text = str(report)
    assert re.search(r"inner\s+filters\s+16\s+8", text)
    assert re.search(r"head units\s+3\s+it is an output of the model", text)
    assert re.search(r"MACs\s+[\d,]+\s+[\d,]+\s+0\.\d+", text)
    assert "masked and smaller model differ by at most" in text
    assert json.loads(report.to_json())["equality"]["finite"] is True


def test_a_plan_for_another_model_is_refused():
    plan = kprune.plan_shrink(residual(), sparsity=0.5)
    inputs = L.Input((4,))
    other = keras.Model(inputs, L.Dense(2)(L.Dense(6, name="a")(inputs)))
    with pytest.raises(ValueError, match="was made for another model.*a units"):
        kprune.shrink(other, plan=plan)
    with pytest.raises(ValueError, match="not a plan that to_json"):
        kprune.ShrinkPlan.from_json("{}")
    with pytest.raises(TypeError, match="must be what kprune.plan_shrink returned"):
        kprune.shrink(other, plan={"groups": []})
    with pytest.raises(ValueError, match="`plan` says everything"):
        kprune.shrink(other, 0.5, plan=plan)


def test_rules_choose_what_may_go():
    model = residual()
    plan = kprune.plan_shrink(model, sparsity=0.5, skip="outer")
    assert [group.name for group in plan.groups] == ["inner filters"]
    multiple = kprune.Channel(multiple=8)
    plan = kprune.plan_shrink(model, sparsity=0.4, granularity=multiple)
    assert [group.left for group in plan.groups] == [8, 8]
    plan = kprune.plan_shrink(model, sparsity=0.5, allocation="global")
    assert sum(len(group.removed) for group in plan.groups) == 12


def test_zeros_of_any_origin_are_removed():
    model = residual()
    inner, outer = model.get_layer("inner"), model.get_layer("outer")
    kernel = inner.kernel.numpy()
    kernel[..., 3] = 0
    inner.kernel.assign(kernel)
    bias = inner.bias.numpy()
    bias[3] = 0
    inner.bias.assign(bias)
    kernel = outer.kernel.numpy()
    kernel[:, :, 5] = 0  # Nothing reads channel 5.
    outer.kernel.assign(kernel)
    small = kprune.shrink(model)
    assert small.shrink_report.plan.groups[1].removed == (3, 5)
    np.testing.assert_allclose(small(images()), model(images()), rtol=1e-4)


def test_a_group_keeps_its_last_channel():
    model = residual()
    inner = model.get_layer("inner")
    outer = model.get_layer("outer")
    inner.kernel.assign(np.zeros(inner.kernel.shape))
    inner.bias.assign(np.zeros(inner.bias.shape))
    outer.kernel.assign(np.zeros(outer.kernel.shape))
    with pytest.raises(ValueError, match="inner filters .16.: all of its channels are"):
        kprune.shrink(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: compiled(Subclassed()), "is a subclassed model .Subclassed."),
        (lambda: keras.Sequential([L.Dense(4)]), "knows no input shape"),
    ],
)
def test_models_without_a_graph_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        kprune.shrink(make(), sparsity=0.5)


def test_bad_arguments_are_refused_by_name():
    model = residual()
    with pytest.raises(TypeError, match="needs a Keras 3 model. Received 3"):
        kprune.shrink(3)
    with pytest.raises(ValueError, match="shrink: `sparsity`.*50.*Did you mean 0.5"):
        kprune.shrink(model, sparsity=50)
    with pytest.raises(ValueError, match="`sparsity` or `budget`, not both"):
        kprune.shrink(model, 0.5, budget=kprune.Budget(macs=0.5))
    with pytest.raises(TypeError, match="must be a kprune.Budget"):
        kprune.shrink(model, budget=0.5)
    with pytest.raises(TypeError, match="unknown argument 'amount'"):
        kprune.shrink(model, amount=0.5)
    with pytest.raises(ValueError, match="`granularity` must be a kprune.Channel"):
        kprune.shrink(model, 0.5, granularity="element")
    with pytest.raises(ValueError, match="say how many, too"):
        kprune.shrink(model, criterion="magnitude")
    with pytest.raises(ValueError, match="no channel of 'residual' can go"):
        kprune.shrink(model)


def test_a_wrong_rule_is_found_out_and_nothing_is_returned():
    class Reverse(L.Layer):
        def call(self, x):
            return x[..., ::-1]

    # Wrong: it says that each channel stays in its place.
    kprune.register_coupling(Reverse, lambda call: call.output(like=call.input))
    inputs = L.Input((4,))
    x = Reverse()(L.Dense(8, name="a")(inputs))
    model = alive(keras.Model(inputs, L.Dense(2)(x)))
    before = values(model)
    with pytest.raises(RuntimeError, match="does not compute what the masked model"):
        kprune.shrink(model, sparsity=0.5)
    for old, new in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(old, new)
    assert kprune.shrink(model, 0.5, prove=False).shrink_report.equality is None


def test_masked_outputs_leave_the_model_alone():
    model, x = residual(), images()
    before = values(model)
    kernel = model.get_layer("head").kernel
    mask = {id(kernel): np.zeros((1, 1), bool)}
    (masked,) = masked_outputs(model, mask, x)
    np.testing.assert_allclose(
        masked, np.tile(model.get_layer("head").bias, (len(x), 1)), rtol=1e-6
    )
    for old, new in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(old, new)


def test_models_in_half_precision_shrink():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        small = kprune.shrink(residual(), sparsity=0.5)
    finally:
        keras.config.set_dtype_policy("float32")
    assert small.get_layer("stem").compute_dtype == "bfloat16"
    # Too coarse to prove anything in: the proof is in float64.
    equality = small.shrink_report.equality
    assert equality.computed_in == "float64" and equality.relative < 1e-12


def test_open_sizes_are_proven_on_a_size_that_is_stated():
    inputs = L.Input((None, None, 3))
    x = L.Conv2D(8, 3, name="a")(inputs)
    model = alive(keras.Model(inputs, L.GlobalAveragePooling2D()(L.Conv2D(2, 3)(x))))
    small = kprune.shrink(model, sparsity=0.5)
    assert small.input_shape == (None, None, None, 3)
    assert small.shrink_report.equality.relative < 1e-5
    report = kprune.shrink(model, sparsity=0.5, data=images()).shrink_report
    assert report.equality.inputs == "4 samples of `data`"
    with pytest.raises(ValueError, match="`data` does not fit input"):
        kprune.shrink(model, sparsity=0.5, data=np.zeros((4, 8, 8, 2)))


@pytest.mark.parametrize("kind", GRAPHS)
def test_inputs_keep_their_names(kind):
    # An exported file's inputs are named after tensors: small and dense compare.
    model = GRAPHS[kind]()
    small = kprune.shrink(model, sparsity=0.5)
    for old, new in zip(model.inputs, small.inputs, strict=True):
        assert old.name == new.name
        assert old._keras_history.operation.name == new._keras_history.operation.name


def test_data_that_can_be_read_only_once_serves_all_purposes():
    batches = (images(2) for _ in range(3))
    report = kprune.shrink(residual(), blocks=1, data=batches).shrink_report
    assert report.equality.inputs == "4 samples of `data`"
    assert report.plan.blocks == ("add",)


def test_what_may_be_rounding_is_compared_in_float64(monkeypatch):
    monkeypatch.setattr(structure, "_ROUNDING", -1.0)
    equality = kprune.shrink(residual(), sparsity=0.5).shrink_report.equality
    assert equality.computed_in == "float64"
    assert equality.relative < 1e-12


def test_functions_in_lambda_layers_stay_the_same_objects():
    offset = np.float32(2.0)  # A name that code in a configuration would have lost.

    def shifted(x, factor):
        return factor * x + offset

    inputs = L.Input((8, 8, 3))
    x = L.Conv2D(8, 3, activation="relu", name="first")(inputs)
    x = L.Lambda(shifted, arguments={"factor": 0.5}, name="shifted")(x)
    x = L.Conv2D(8, 3, name="second")(x)
    x = L.Lambda(lambda x: keras.ops.mean(x, axis=(1, 2)), output_shape=(8,))(x)
    model = alive(keras.Model(inputs, L.Dense(2)(L.Dense(6, name="third")(x))))
    small = kprune.shrink(model, 0.5)
    assert small.get_layer("shifted").function is shifted
    assert small.get_layer("shifted").arguments == {"factor": 0.5}
    assert small.get_layer("third").units == 3
    # What a function does to its input is not known.
    assert [small.get_layer(name).filters for name in ("first", "second")] == [8, 8]
    reasons = {r.name: r.reason for r in small.shrink_report.plan.refusals}
    assert "Lambda 'shifted' calls a function" in reasons["first filters"]
    assert small.shrink_report.equality.relative < 1e-5


def test_words_are_probed_as_words_whatever_the_type_of_the_input():
    words, size = keras.Input((5,), dtype="float32"), keras.Input((5,))
    y = keras.layers.Flatten()(keras.layers.Embedding(20, 2)(words))
    (ids, other), _ = probe(keras.Model([words, size], [y, size]))
    assert set(ids.ravel()) <= set(range(20)) and ids.dtype == "float32"
    assert other.min() < 0
