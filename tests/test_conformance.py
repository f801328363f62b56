"""What holds for every criterion, granularity, allocation and schedule there is.

Classes are found by themselves: one that is not fit for this breaks the suite.
"""

import keras
import numpy as np
import pytest
import settings
from hypothesis import given
from hypothesis import strategies as st
from models import compiled, of_all_layers, sequential

import kprune
from kprune.prunable import candidates

# Couple several weights: tests/test_channels.py has what holds for these.
COUPLED = (kprune.Channel,)
NEEDS_SHAPES = (kprune.Erk,)

UNCOUPLED = [g for g in settings.GRANULARITIES if not isinstance(g, COUPLED)]
SETTINGS = [
    *(("criterion", c) for c in settings.CRITERIA if not c.channels_only),
    *(("granularity", example) for example in UNCOUPLED),
    *(("allocation", example) for example in settings.ALLOCATIONS),
    *(("regrowth", example) for example in settings.REGROWTHS),
]
OF_CHANNELS = [
    *(("criterion", example) for example in settings.CRITERIA),
    *(
        ("allocation", a)
        for a in settings.ALLOCATIONS
        if not isinstance(a, NEEDS_SHAPES)
    ),
]


def ids(value):
    return value if isinstance(value, str) else settings.name(value)


def rule(role, example):
    only = kprune.Explicit
    if isinstance(example, only):  # Names of layers are counted up from test to test.
        example = only({"*dense*": 0.5})
    return kprune.Rule(settings.SCHEDULES[0], **{role: example})


@pytest.mark.parametrize("base", settings.ALL, ids=lambda base: base.__name__)
def test_every_class_is_tried(base):
    assert settings.missing(base) == set()


@pytest.mark.parametrize(("role", "example"), SETTINGS, ids=ids)
def test_it_prunes_in_fit_in_place_and_in_wrappers_alike(role, example, data, tmp_path):
    in_place = compiled(sequential())
    wrapped = kprune.prune(in_place, plan=kprune.Plan(rule(role, example)))
    compiled(wrapped)
    plan = kprune.Plan(rule(role, example))
    callback = kprune.PruningCallback(plan=plan, data=data)
    driving = kprune.PruningCallback(data=data)
    for model, used in ((in_place, callback), (wrapped, driving)):
        keras.utils.set_random_seed(1)
        model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[used])
        size = sum(weight.size for weight in used.report.weights)
        zeros = sum(weight.zeros for weight in used.report.weights)
        # Sparsity counts units, which may be of several sizes.
        slack = 0.02 * size if role == "granularity" else 3
        assert zeros == pytest.approx(round(used.report.asked * size), abs=slack)
        assert 0 < used.report.asked <= 0.75
    plain = kprune.strip(wrapped)
    for a, b in zip(in_place.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)
    wrapped.save(tmp_path / "wrapped.keras")
    loaded = keras.models.load_model(tmp_path / "wrapped.keras")
    rules = [layer.rule for layer in loaded.layers if hasattr(layer, "rule")]
    assert rules == [rule(role, example)] * len(callback.report.weights)


@pytest.mark.parametrize("granularity", UNCOUPLED, ids=ids)
def test_every_layer_of_keras_is_pruned_in_fit(granularity):
    random = np.random.default_rng(0)
    x = random.normal(size=(32, 8, 8, 4)), random.integers(0, 16, (32, 6))
    schedule = kprune.PolynomialDecay(0.0, 0.75, 0, 3, frequency=1)
    callback = kprune.PruningCallback(
        schedule=schedule,
        granularity=granularity,
        allocation="uniform",
        prune_depthwise=True,
    )
    model = of_all_layers()
    y = random.integers(0, 3, 32)
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[callback])
    axes = {c.variable.path: c.axes for c in candidates(model)}
    values = {v.path: v.numpy() for v in model.weights}
    # Each kernel of the model, but for N:M depthwise ones: they read one channel each.
    kernels = [path for path, known in axes.items() if known is not None]
    depthwise = 2 if isinstance(granularity, kprune.NofM) else 0
    assert len(kernels) == 25
    assert len(callback.report.weights) == 25 - depthwise
    for record in callback.report.weights:
        kept = values[record.path] != 0
        if granularity.arranged:
            kept = axes[record.path].arranged(kept)
        scores = granularity.unit_scores(kept)
        num_pruned = scores.size if depthwise else round(0.75 * scores.size)
        assert np.count_nonzero(scores == 0) == min(num_pruned, record.size), record


@pytest.mark.parametrize("schedule", settings.SCHEDULES, ids=ids)
def test_schedules_rise_to_their_end_in_fit(schedule, data):
    model = compiled(sequential())
    callback = kprune.PruningCallback(schedule=schedule)
    model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    sparsities = [sparsity for _, sparsity in callback.history]
    assert sparsities == sorted(sparsities)
    assert sparsities[-1] == pytest.approx(schedule.final_sparsity, abs=1e-3)
    assert callback.report.asked == schedule.final_sparsity == 0.75


@pytest.mark.parametrize("schedule", settings.SCHEDULES, ids=ids)
@given(steps_per_call=st.integers(1, 20))
def test_schedules_end_on_their_target_however_often_they_are_asked(
    schedule, steps_per_call
):
    seen, previous = [], -1
    for step in range(0, 40, steps_per_call):
        if schedule.due(previous, step):
            seen.append(schedule.sparsity(schedule.last_update(step)))
        previous = step
    assert seen == sorted(seen)
    assert seen[-1] == 0.75
    assert all(0 <= sparsity < 1 for sparsity in seen)


@pytest.mark.parametrize("granularity", settings.GRANULARITIES, ids=ids)
@pytest.mark.parametrize("shape", [(4, 8), (6, 3, 3, 5), (5, 3, 9)])
def test_masks_have_exactly_the_units_that_were_asked_for(granularity, shape):
    scores = np.random.default_rng(0).integers(1, 4, shape).astype("float32")
    num_units = granularity.unit_scores(scores).size
    sizes = granularity.unit_sizes(shape)
    if not isinstance(granularity, COUPLED):
        assert sum(sizes.values()) == num_units > 0
    pruned = np.zeros_like(scores, bool)
    for num_pruned in range(num_units + 1):
        mask = granularity.mask(scores, num_pruned)
        assert mask.shape == scores.shape
        assert np.count_nonzero(granularity.unit_scores(mask) == 0) == num_pruned
        assert not (pruned & mask).any()  # more sparsity frees nothing
        np.testing.assert_array_equal(mask, granularity.mask(scores, num_pruned))
        pruned = ~mask
    if not isinstance(granularity, COUPLED):
        assert pruned.sum() == sum(size * count for size, count in sizes.items())


@pytest.mark.parametrize(("role", "example"), OF_CHANNELS, ids=ids)
def test_it_prunes_channels_in_fit_and_at_once(role, example, data):
    if isinstance(example, kprune.Threshold):
        example = kprune.Threshold(9.0)  # Scores of channels are about 1.
    if isinstance(example, kprune.Explicit):
        example = kprune.Explicit({"*conv2d*": 0.5})
    model = compiled(sequential())
    arguments = {role: example, "data": data}
    if isinstance(example, kprune.BatchNormScale):
        arguments["skip"] = "*dense*"  # Nothing normalises these.
    callback = kprune.PruningCallback(sparsity=0.5, granularity="channel", **arguments)
    model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    assert callback.report.channel_sparsity == pytest.approx(0.5, abs=0.05)
    small = kprune.shrink(model, skip=arguments.get("skip"))
    assert small.shrink_report.plan.sparsity == callback.report.channel_sparsity
    if role == "allocation":
        arguments["data"] = data[0]
    smaller = kprune.shrink(small, sparsity=0.5, **arguments)
    assert smaller.count_params() < small.count_params() < model.count_params()
