"""`kprune.sensitivity`: what is measured, what of it can be used, and what is left."""

import json
import math

import keras
import numpy as np
import pytest
from models import Subclassed, compiled, sequential, shared
from pictures import texts

import kprune
from kprune.layers import mask_of

SPARSITIES = (0.5, 0.9)


def state(model):
    """Returns copies of all that a model holds, and what is on its variables."""
    optimizer = model.optimizer.variables
    variables = [*model.variables, *optimizer]
    masks = [mask_of(v).mask for v in model.weights if mask_of(v)]
    return (
        [np.array(v.value) for v in [*variables, *masks]],
        [v.constraint for v in model.weights],
        [layer.name for layer in model._flatten_layers()],
    )


def assert_same(before, after):
    for old, new in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(old, new)
    assert before[1:] == after[1:]


def measured(model, data, sparsities=SPARSITIES, **kwargs):
    return kprune.sensitivity(
        model, data, sparsities, batch_size=96, verbose=0, **kwargs
    )


@pytest.fixture
def model():
    """A compiled model that need not be traced."""
    return compiled(sequential(), metrics=["accuracy"], run_eagerly=True)


@pytest.fixture
def by_hand():
    """A model of one kernel whose loss is known for each sparsity, and its data."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="sum")])
    model.compile("sgd", "mae", run_eagerly=True)
    model.set_weights([np.array([[1.0], [-2.0], [4.0], [8.0]]), np.zeros(1)])
    return model, (np.ones((2, 4)), np.full((2, 1), 11.0))


def test_a_weight_by_hand(by_hand):
    found = kprune.sensitivity(*by_hand, (0.75, 0.25, 0.25, 0.5), verbose=0)
    (weight,) = found.weights
    assert (found.metric, found.mode, found.baseline) == ("loss", "min", 0.0)
    assert (weight.name, weight.units) == ("sum", 4)
    # Without 1: 10. Without -2, too: 12. Without 4: 8.
    points = [(p.sparsity, p.reached, p.value, p.lost) for p in weight.points]
    assert points == [(s, s, v, v) for s, v in [(0.25, 1.0), (0.5, 1.0), (0.75, 3.0)]]
    assert weight.mean_lost == pytest.approx(5 / 3)
    assert found.allocation(0.5) == {"sum": 0.0}
    assert found.allocation(1) == {"sum": 0.5}
    assert found.allocation(math.inf) == {"sum": 0.75}


def test_a_metric_that_is_better_when_higher_loses_what_it_falls(model, data):
    found = measured(model, data)
    accuracy = model.evaluate(*data, verbose=0)[1]
    assert (found.metric, found.mode, found.baseline) == ("accuracy", "max", accuracy)
    names = {weight.name for weight in found.weights}
    assert len(names) == 3 and all(len(w.points) == 2 for w in found.weights)
    for weight in found.weights:
        for point in weight.points:
            assert point.lost == found.baseline - point.value
    order = [weight.mean_lost for weight in found.weights]
    assert order == sorted(order, reverse=True)
    upside_down = measured(model, data, mode="min")
    assert [w.mean_lost for w in upside_down.weights] == [-x for x in reversed(order)]
    assert any("bias" in skip.reason for skip in found.skipped)


def test_each_trial_is_what_pruning_that_weight_alone_gives(model, data):
    found = measured(model, data, metric="loss", only="conv2d*")
    (weight,) = found.weights
    pruner = kprune.Pruner(model, schedule=kprune.ConstantSparsity(0.9), only="conv2d*")
    assert weight.points[1].reached == pruner.sparsity
    loss = model.evaluate(*data, batch_size=96, verbose=0)[0]
    assert weight.points[1].value == pytest.approx(loss, abs=0)


@pytest.mark.parametrize(
    "rule",
    [
        {"granularity": "channel"},
        {"granularity": kprune.Block((1, 2)), "skip": "conv2d*"},
        {"criterion": "taylor"},
        {"granularity": kprune.NofM(2, 4), "only": "dense*", "sparsities": None},
    ],
    ids=str,
)
def test_the_model_is_left_as_it_was(model, data, rule):
    model.fit(*data, batch_size=48, verbose=0)
    before = state(model)
    found = measured(model, data, **rule)
    assert_same(before, state(model))
    assert all(p.reached > 0 for weight in found.weights for p in weight.points)
    if "channel" in rule.values():
        assert {weight.units for weight in found.weights} == {6, 16}


def test_masks_that_are_there_stay_and_count(model, data):
    pruning = kprune.PruningCallback(schedule=kprune.ConstantSparsity(0.7))
    model.fit(*data, batch_size=48, verbose=0, callbacks=[pruning])
    before = state(model)
    found = measured(model, data)
    assert_same(before, state(model))
    held = {w.path.split("/")[-2]: w.sparsity for w in pruning.report.weights}
    for weight in found.weights:
        reached = [point.reached for point in weight.points]
        assert reached[0] == pytest.approx(max(0.5, held[weight.name]), abs=0.01)
        assert reached[1] == pytest.approx(max(0.9, held[weight.name]), abs=0.01)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_ends_the_trials_leaves_the_model_as_it_was(
    model, data, error, monkeypatch
):
    model.fit(*data, batch_size=48, verbose=0)
    before, calls, evaluate = state(model), [], model.evaluate
    changed = []

    def failing(**kwargs):
        calls.append(kwargs)
        if len(calls) == 3:
            kernels = [w.numpy() for w in model.weights if w.name == "kernel"]
            changed.append(any((kernel == 0).mean() > 0.4 for kernel in kernels))
            raise error("ended")
        return evaluate(**kwargs)

    monkeypatch.setattr(model, "evaluate", failing)
    with pytest.raises(error, match="ended"):
        measured(model, data, granularity="channel")
    assert changed == [True]
    assert_same(before, state(model))


def test_training_goes_on_as_if_nothing_had_been_measured(data):
    def trained(between):
        keras.utils.set_random_seed(0)
        model = compiled(sequential(), metrics=["accuracy"])
        model.fit(*data, batch_size=48, verbose=0)
        between(model)
        model.fit(*data, batch_size=48, verbose=0)
        return model.get_weights()

    plain = trained(lambda model: None)
    asked = trained(lambda model: measured(model, data, (0.5,)))
    for old, new in zip(plain, asked, strict=True):
        np.testing.assert_array_equal(old, new)


def test_what_it_gives_is_what_pruning_takes(model, data):
    found = measured(model, data, mode="min")
    allocation = found.allocation(lost=0.02)
    assert set(allocation) == {weight.name for weight in found.weights}
    pruning = kprune.PruningCallback(0.5, allocation=allocation)
    model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[pruning])
    for weight in pruning.report.weights:
        assert weight.sparsity == pytest.approx(
            allocation[weight.path.split("/")[-2]], abs=0.01
        )
    wrapped = kprune.prune(kprune.strip(model), 0.5, allocation=allocation)
    assert wrapped.count_params() > model.count_params()


def test_channels_are_named_as_allocations_name_them(model, data):
    found = measured(model, data, granularity="channel")
    allocation = found.allocation(lost=math.inf)
    assert set(allocation.values()) == {0.9}
    small = kprune.shrink(model, 0.5, allocation=allocation)
    assert small.layers[0].filters == 1 and small.layers[3].units == 2


def test_a_shared_weight_is_tried_once_and_any_model_can_be_asked(data):
    for make, kernels in ((shared, 2), (Subclassed, 2)):
        model = make()
        model(data[0][:1])
        compiled(model, run_eagerly=True)
        found = measured(model, data, (0.5,))
        assert len(found.weights) == kernels and found.metric == "loss"


def test_weights_are_named_so_that_patterns_tell_them_apart():
    model = keras.Sequential(
        [
            keras.Input((4, 3)),
            keras.layers.LSTM(4, name="lstm"),
            keras.Sequential([keras.layers.Dense(4, name="same")], name="inner"),
            keras.layers.Dense(4, name="same"),
        ]
    )
    model.compile("sgd", "mse", run_eagerly=True)
    data = np.zeros((2, 4, 3)), np.zeros((2, 4))
    found = kprune.sensitivity(model, data, (0.5,), verbose=0)
    allocation = found.allocation(0)
    assert len(allocation) == 4 and "same" not in allocation
    assert sum("lstm" in name and name.endswith("kernel") for name in allocation) == 2


def test_data_are_what_evaluate_takes(model, data):
    import tensorflow as tf

    batches = tf.data.Dataset.from_tensor_slices(data).batch(48)
    found = measured(model, batches, only="dense*")
    assert found.weights == measured(model, data, only="dense*").weights


def test_the_report_as_text_json_and_picture(model, data, tmp_path):
    found = measured(model, data)
    text = str(found)
    assert "0.5 zero" in text and f"Most sensitive: {found.worst()[0]}" in text
    assert "Not tried:" in text and "conv2d" in text
    values = json.loads(found.to_json())
    assert [w["name"] for w in values["weights"]] == list(found.worst(3))
    assert values["weights"][0]["points"][1]["sparsity"] == 0.9
    path = found.plot(tmp_path / "s.svg")
    assert {"accuracy", "not pruned", *found.worst(3)} <= set(texts(path))
    with pytest.raises(ValueError, match="must end in .png or .svg"):
        found.plot(tmp_path / "s.pdf")
    with pytest.raises(ValueError, match="`lost` must be at least 0"):
        found.allocation(-0.1)


def test_a_metric_that_becomes_nan_has_lost_everything(by_hand, tmp_path):
    model, data = by_hand

    def ratio(y_true, y_pred):
        gone = keras.ops.any(y_pred < 10)
        return keras.ops.where(gone, np.nan, 1.0) + 0 * y_pred

    model.compile("sgd", "mae", metrics=[ratio], run_eagerly=True)
    found = kprune.sensitivity(model, data, (0.25, 0.75), mode="max", verbose=0)
    assert [p.lost for p in found.weights[0].points] == [0.0, math.inf]
    assert found.allocation(5) == {"sum": 0.25}
    points = json.loads(found.to_json())["weights"][0]["points"]
    assert (points[1]["value"], points[1]["lost"]) == ("nan", "inf")
    found.plot(tmp_path / "s.png")


def without_end():
    import tensorflow as tf

    data = tf.data.Dataset.from_tensors((np.zeros((8, 8, 8, 1)), np.zeros(8)))
    return data.repeat()


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"sparsities": (0.5, 1.0)}, ValueError, "must lie in [0, 1). Received 1.0"),
        ({"sparsities": (-0.5,)}, ValueError, "must lie in [0, 1). Received -0.5"),
        ({"sparsities": (50,)}, ValueError, "Did you mean 0.5?"),
        ({"sparsities": ()}, ValueError, "`sparsities` is empty"),
        ({"sparsities": 0.5}, TypeError, "several numbers in [0, 1)"),
        ({"data": (np.zeros((0, 8, 8, 1)), np.zeros(0))}, ValueError, "Received [0]"),
        ({"data": []}, ValueError, "`data` is empty"),
        ({"data": None}, TypeError, "Received type NoneType"),
        ({"data": iter([])}, TypeError, "is an iterator"),
        ({"data": without_end}, ValueError, "data.take(batches)"),
        ({"metric": "acuracy"}, ValueError, "Did you mean 'accuracy'?"),
        ({"mode": "up"}, ValueError, "must be 'max', 'min' or 'auto'"),
        ({"only": "flatten"}, ValueError, "matches nothing that can be pruned"),
        ({"skip": "dens"}, ValueError, "Did you mean 'dense'?"),
        ({"criterion": "size"}, ValueError, "Unknown criterion 'size'"),
        ({"granularity": kprune.NofM(2, 4)}, ValueError, "Let it end at 0.5"),
        ({"num_batches": 0}, ValueError, "`num_batches` must be"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_refused_and_changes_nothing(model, data, change, error, words):
    before = state(model)
    given = {"data": data, "sparsities": SPARSITIES, **change}
    if callable(given["data"]):
        given["data"] = given["data"]()
    with pytest.raises(error) as caught:
        measured(model, **given)
    assert words in str(caught.value)
    assert_same(before, state(model))


def test_models_that_cannot_be_measured_are_refused(model, data):
    with pytest.raises(ValueError, match="is not compiled.*Call compile"):
        measured(sequential(), data)
    with pytest.raises(TypeError, match="must be a Keras 3 model"):
        measured("model.keras", data)
    wrapped = compiled(kprune.prune(model, 0.5))
    with pytest.raises(ValueError, match="Give kprune.strip"):
        measured(wrapped, data)
    bare = compiled(keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()]))
    with pytest.raises(ValueError, match="has no weights|matches nothing"):
        measured(bare, data)
    model.layers[0].kernel.assign(np.full(model.layers[0].kernel.shape, np.nan))
    with pytest.raises(ValueError, match="is nan, so that there is nothing to compare"):
        measured(model, data, metric="loss")


def test_a_name_that_does_not_tell_what_is_better_is_asked_about(by_hand):
    model, data = by_hand

    def quality(y_true, y_pred):
        return y_pred

    model.compile("sgd", "mae", metrics=[quality], run_eagerly=True)
    with pytest.raises(ValueError, match="sensitivity: the name 'quality' does not"):
        kprune.sensitivity(model, data, verbose=0)
    assert kprune.sensitivity(model, data, mode="max", verbose=0).baseline == 11
