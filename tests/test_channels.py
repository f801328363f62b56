"""Channels, coupled over layers, are held at zero while a model trains."""

import re

import keras
import numpy as np
import pytest
from models import Subclassed, compiled

import kprune

L = keras.layers


def residual(**normalization):
    """Two convolutions whose filters an Add ties, one between, and a head."""
    inputs = L.Input((8, 8, 1))
    x = L.Conv2D(8, 3, padding="same", name="stem")(inputs)
    x = L.BatchNormalization(name="stem_norm", **normalization)(x)
    x = L.Activation("sigmoid", name="sigmoid")(x)
    y = L.Conv2D(6, 3, padding="same", activation="relu", name="inner")(x)
    y = L.Conv2D(8, 3, padding="same", name="outer")(y)
    x = L.Add(name="add")([x, y])
    x = L.Flatten()(L.AveragePooling2D(2)(x))
    return compiled(keras.Model(inputs, L.Dense(3, name="head")(x), name="residual"))


def fit(model, data, callback, epochs=2, **kwargs):
    model.fit(
        *data, batch_size=16, epochs=epochs, verbose=0, callbacks=[callback], **kwargs
    )
    return callback


def channel_pruning(sparsity=0.5, **kwargs):
    return kprune.PruningCallback(sparsity=sparsity, granularity="channel", **kwargs)


def dead(model, path, axis):
    """Places along an axis of a weight that are zero altogether."""
    variable = next(v for v in model.weights if v.path == path)
    value = np.moveaxis(variable.numpy(), axis, 0)
    return [i for i, part in enumerate(value) if not part.any()]


def test_a_channel_is_zero_in_every_weight_that_it_is_part_of(data):
    model = residual()
    callback = fit(model, data, channel_pruning())
    stem = dead(model, "stem/kernel", 3)
    assert len(stem) == 4
    # The Add ties the filters of both convolutions.
    for path, axis in [
        ("stem/bias", 0),
        ("stem_norm/gamma", 0),
        ("stem_norm/beta", 0),
        ("inner/kernel", 2),
        ("outer/kernel", 3),
        ("outer/bias", 0),
    ]:
        assert dead(model, path, axis) == stem
    inner = dead(model, "inner/kernel", 3)
    assert len(inner) == 3
    assert dead(model, "inner/bias", 0) == dead(model, "outer/kernel", 2) == inner
    # 4x4 places for each of the 8 channels, the channel changing fastest.
    flat = dead(model, "head/kernel", 0)
    assert flat == [i for i in range(128) if i % 8 in stem]
    assert [(r.size, r.pruned) for r in callback.report.channels] == [(8, 4), (6, 3)]
    assert callback.report.channel_sparsity == callback.report.asked == 0.5


def test_the_channel_itself_is_exactly_zero_also_without_a_scale(data):
    model = residual(scale=False)
    fit(model, data, channel_pruning())
    gone = dead(model, "stem/kernel", 3)
    features = keras.Model(model.input, model.get_layer("stem_norm").output)
    assert np.all(features(data[0], training=False).numpy()[..., gone] == 0)


def test_channels_are_zero_after_every_batch(data):
    counts = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            counts.append(len(dead(self.model, "outer/kernel", 3)))

    model = residual()
    callback = channel_pruning(schedule=kprune.ConstantSparsity(0.5, 2), sparsity=None)
    model.fit(*data, batch_size=16, epochs=1, verbose=0, callbacks=[callback, Watch()])
    assert counts == [0, 4, 4, 4, 4, 4]


def test_resumed_training_prunes_the_same_channels(data, tmp_path):
    path = tmp_path / "model.keras"
    whole = residual()
    keras.utils.set_random_seed(1)
    half = keras.models.clone_model(whole)
    half.set_weights(whole.get_weights())
    compiled(half)
    schedule = kprune.PolynomialDecay(0.0, 0.5, 0, 18, frequency=3)
    fit(whole, data, channel_pruning(None, schedule=schedule), 4, shuffle=False)
    first = channel_pruning(None, schedule=schedule)
    with pytest.warns(kprune.PruningWarning, match="This fit ends at step 12|ended at"):
        fit(half, data, first, 2, shuffle=False)
    half.save(path)
    again = keras.models.load_model(path)
    fit(
        again,
        data,
        channel_pruning(None, schedule=schedule),
        4,
        shuffle=False,
        initial_epoch=2,
    )
    for a, b in zip(whole.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_zero_can_be_removed_and_training_goes_on(data):
    model = residual()
    fit(model, data, channel_pruning())
    small = kprune.shrink(model, data=data[0])
    assert small.count_params() < model.count_params()
    np.testing.assert_allclose(
        small.predict(data[0], verbose=0),
        model.predict(data[0], verbose=0),
        rtol=1e-5,
        atol=1e-6,
    )
    assert int(small.optimizer.iterations) == int(model.optimizer.iterations) == 12
    small.fit(*data, verbose=0)


def test_a_later_fit_keeps_channels_and_prunes_more(data):
    model = residual()
    fit(model, data, channel_pruning(0.25))
    before = dead(model, "stem/kernel", 3)
    model.fit(*data, verbose=0)
    assert dead(model, "stem/kernel", 3) == before
    fit(model, data, channel_pruning(0.5))
    assert set(before) < set(dead(model, "stem/kernel", 3))


def test_single_zeros_that_were_held_before_stay(data):
    model = residual()
    fit(model, data, kprune.PruningCallback(sparsity=0.5, only="inner"))
    zeros = model.get_layer("inner").kernel.numpy() == 0
    fit(model, data, channel_pruning(0.5))
    assert np.all(model.get_layer("inner").kernel.numpy()[zeros] == 0)


def test_a_reloaded_model_holds_its_channels_and_shrinks(data, tmp_path):
    model = residual()
    fit(model, data, channel_pruning())
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    kprune.hold_zeros(again)
    again.fit(*data, verbose=0)
    small = kprune.shrink(again)
    assert small.get_layer("stem").filters == 4


@pytest.mark.parametrize("allocation", ["uniform", "global", "lamp"])
def test_groups_share_the_sparsity_as_the_allocation_says(allocation, data):
    model = residual()
    report = fit(model, data, channel_pruning(allocation=allocation)).report
    assert sum(r.pruned for r in report.channels) == 7
    assert all(r.pruned < r.size for r in report.channels)


def test_multiples_and_floors_are_kept(data):
    model = residual()
    granularity = kprune.Channel(multiple=4, min_channels=5)
    report = fit(
        model, data, kprune.PruningCallback(sparsity=0.6, granularity=granularity)
    ).report
    # 6 inner channels: a multiple of 4 that is at least 5 would be 8.
    assert [(r.size, r.pruned) for r in report.channels] == [(8, 0), (6, 0)]


def test_stages_are_ranked_apart(data):
    model = residual()
    granularity = kprune.Channel(by_stage=True)
    callback = kprune.PruningCallback(
        sparsity=0.5, granularity=granularity, allocation="global"
    )
    # Both groups have feature maps of 8x8: one stage.
    assert sum(r.pruned for r in fit(model, data, callback).report.channels) == 7


def test_a_rule_that_skips_a_maker_leaves_all_that_is_coupled(data):
    model = residual()
    report = fit(model, data, channel_pruning(skip="outer")).report
    assert [r.name for r in report.channels] == ["inner filters"]
    reason = next(s.reason for s in report.skipped if s.path == "stem filters")
    assert "made by 'outer/kernel', which `only`, `skip`" in reason


def test_frozen_layers_keep_their_channels(data):
    model = residual()
    model.get_layer("inner").trainable = False
    compiled(model)
    with pytest.raises(ValueError, match="'inner/kernel' is frozen"):
        fit(model, data, channel_pruning())


def test_a_model_without_a_graph_is_refused(data):
    with pytest.raises(ValueError, match="subclassed model .Subclassed.*functional"):
        fit(compiled(Subclassed()), data, channel_pruning())


def test_rules_for_channels_and_for_single_weights_hold_one_mask_where_they_meet(data):
    plan = kprune.Plan(
        (
            kprune.Rule(0.5, granularity="channel", only=L.Conv2D),
            kprune.Rule(0.9, only=L.Dense),
        )
    )
    model = residual()
    report = fit(model, data, kprune.PruningCallback(plan=plan)).report
    assert len({record.path for record in report.weights}) == len(report.weights)
    assert report.channel_sparsity == 0.5
    head = model.get_layer("head").kernel.numpy()
    assert np.sum(head == 0) >= round(0.9 * head.size)
    # Four filters are gone, and so is what reads them, at all sixteen places.
    assert np.sum((head.reshape(16, 8, 3) == 0).all(axis=(0, 2))) >= 4
    small = kprune.shrink(model)
    assert small.get_layer("head").kernel.shape == (64, 3)


def test_convolutions_by_channel_and_dense_layers_by_n_of_m(data):
    plan = kprune.Plan(
        (
            kprune.Rule(0.5, granularity="channel", only=L.Conv2D),
            kprune.Rule(granularity=kprune.NofM(2, 4), only=L.Dense),
        )
    )
    model = residual()
    with pytest.warns(kprune.PruningWarning, match="'head/kernel' is pruned by NofM"):
        fit(model, data, kprune.PruningCallback(plan=plan))
    head = model.get_layer("head").kernel.numpy()
    assert np.count_nonzero(head.reshape(32, 4, 3), axis=1).max() <= 2
    assert np.sum((head.reshape(16, 8, 3) == 0).all(axis=(0, 2))) == 4


def test_rules_for_channels_and_for_single_weights_stand_side_by_side(data):
    inputs = L.Input((8, 8, 1))
    x = L.GlobalAveragePooling2D()(
        L.Conv2D(3, 3, name="second")(L.Conv2D(8, 3, name="first")(inputs))
    )
    model = compiled(keras.Model(inputs, L.Dense(3, name="head")(x)))
    plan = kprune.Plan(
        (
            kprune.Rule(0.5, granularity="channel", only="first"),
            kprune.Rule(0.5, only="head"),
        )
    )
    report = fit(model, data, kprune.PruningCallback(plan=plan)).report
    assert [(r.name, r.pruned) for r in report.channels] == [("first filters", 4)]
    assert np.sum(model.get_layer("head").kernel.numpy() == 0) == 4


def test_wrappers_prune_the_channels_that_their_layers_make(data, tmp_path):
    in_place = residual()
    wrapped = compiled(kprune.prune(in_place, sparsity=0.5, granularity="channel"))
    keras.utils.set_random_seed(1)
    expected = fit(in_place, data, channel_pruning()).report
    keras.utils.set_random_seed(1)
    report = fit(wrapped, data, kprune.PruningCallback()).report
    assert report == expected
    plain = kprune.strip(wrapped)
    for a, b in zip(in_place.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)
    wrapped.save(tmp_path / "wrapped.keras")
    loaded = keras.models.load_model(tmp_path / "wrapped.keras")
    assert fit(loaded, data, kprune.PruningCallback()).report.channel_sparsity == 0.5
    num_left = kprune.shrink(loaded).count_params()
    assert num_left == kprune.shrink(in_place).count_params()


def test_wrappers_for_channels_and_for_elements_go_together(data):
    plan = kprune.Plan(
        (
            kprune.Rule(0.5, granularity="channel", only=["stem", "outer"]),
            kprune.Rule(0.75, only="head"),
        )
    )
    wrapped = compiled(kprune.prune(residual(), plan=plan))
    report = fit(wrapped, data, kprune.PruningCallback()).report
    assert {record.name for record in report.channels} == {"stem filters"}
    assert report.channel_sparsity == 0.5
    head = next(w for w in report.weights if w.path.endswith("head/kernel"))
    assert head.sparsity == pytest.approx(0.75, abs=0.02)


def test_the_report_speaks_of_channels(data):
    report = fit(residual(), data, channel_pruning()).report
    text = str(report)
    assert re.search(r"stem filters\s+8\s+4", text)
    assert re.search(r"all: 0.5000 asked\s+14\s+0.5000", text)
    assert "moving_mean" not in text
    assert report.to_dict()["channels"][0]["layers"] == (
        "stem",
        "stem_norm",
        "inner",
        "outer",
        "head",
    )


def test_moving_averages_of_weights_are_zero_too(data):
    model = residual()
    compiled(model, keras.optimizers.Adam(use_ema=True))
    fit(model, data, channel_pruning())
    assert len(dead(model, "stem/kernel", 3)) == 4
    kprune.shrink(model)


@pytest.mark.parametrize(
    "settings", [{"multiple": 0}, {"min_channels": 0}, {"multiple": 2.0}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="must be an integer of at least 1"):
        kprune.Channel(**settings)


def test_a_weight_by_itself_is_scored_and_masked_by_its_last_axis():
    scores = np.array([[3.0, 0.0, 1.0], [4.0, 1.0, 1.0]])
    channel = kprune.Channel()
    np.testing.assert_allclose(channel.unit_scores(scores), [5, 1, 2**0.5])
    np.testing.assert_array_equal(
        channel.mask(scores, 1), [[True, False, True], [True, False, True]]
    )
