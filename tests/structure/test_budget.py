"""Budgets: what they refuse, and what models that meet them cost."""

import keras
import numpy as np
import pytest

import kprune
from kprune.coupling.graph import analyse
from kprune.coupling.scores import allowed_size, step_of, unit_scores
from kprune.coupling.sites import groups_under
from kprune.granularity import Channel
from kprune.plan import Rule
from kprune.schedules import ConstantSparsity
from kprune.structure import costs
from kprune.structure.budget import Budget, meet

L = keras.layers


def plain():
    return keras.Sequential(
        [
            L.Input((12, 12, 3)),
            L.Conv2D(24, 3, activation="relu"),
            L.Conv2D(40, 3, activation="relu"),
            L.GlobalAveragePooling2D(),
            L.Dense(48, activation="relu"),
            L.Dense(5),
        ],
        name="plain",
    )


def residual():
    inputs = L.Input((12, 12, 3))
    x = L.Conv2D(32, 3, padding="same")(inputs)
    y = L.Conv2D(48, 3, padding="same", activation="relu")(x)
    y = L.BatchNormalization()(L.Conv2D(32, 3, padding="same")(y))
    x = L.GlobalAveragePooling2D()(L.Add()([x, y]))
    return keras.Model(inputs, L.Dense(4)(x), name="residual")


def separable():
    return keras.Sequential(
        [
            L.Input((12, 12, 3)),
            L.Conv2D(16, 3, strides=2, activation="relu"),
            L.DepthwiseConv2D(3, activation="relu"),
            L.Conv2D(64, 1, activation="relu"),
            L.GlobalAveragePooling2D(),
            L.Dense(3),
        ],
        name="separable",
    )


NETS = pytest.mark.parametrize("build", [plain, residual, separable])


def decide(model, budget, granularity=None):
    """Returns everything that a search looks at, and what it found."""
    coupling = analyse(model)
    granularity = granularity or Channel(multiple=budget.multiple)
    rule = Rule(ConstantSparsity(0.5), granularity=granularity)
    groups, _ = groups_under(coupling, rule)
    scores = unit_scores(coupling, rule.criterion)
    cost = costs.of(budget, coupling, {}, None)
    return coupling, groups, cost, meet(budget, coupling, groups, scores, rule, cost)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, ValueError, "exactly one of params, macs, flash_bytes.*Received none"),
        ({"macs": 0.5, "params": 0.5}, ValueError, "exactly one of"),
        ({"target": "android"}, ValueError, "exactly one of"),
        ({"macs": "half"}, TypeError, "`macs` must be a number. Received 'half'"),
        ({"macs": True}, TypeError, "`macs` must be a number"),
        ({"flash_bytes": 0}, ValueError, "`flash_bytes` must be positive"),
        ({"params": float("nan")}, ValueError, "`params` must be positive"),
        ({"latency_ratio": 0.5}, ValueError, "above 1. Received 0.5. Did you mean 2?"),
        ({"latency_ratio": 1}, ValueError, "must be above 1"),
        ({"macs": 0.5, "target": "andriod"}, ValueError, "Did you mean 'android'"),
        ({"arena_bytes": 9e4, "target": "android"}, ValueError, "LiteRT has no arena"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        Budget(**arguments)


def test_the_target_decides_the_multiple():
    assert Budget(macs=0.5).multiple == Budget(params=0.5).multiple == 1
    assert Budget(flash_bytes=0.5).multiple == Budget(arena_bytes=0.5).multiple == 4
    assert Budget(latency_ratio=2.0).multiple == 8
    assert Budget(macs=0.5, target="microcontroller").multiple == 4


def test_limits_below_one_are_relative():
    assert Budget(macs=0.25).allowed(1000) == 250
    assert Budget(flash_bytes=700).allowed(1000) == 700
    assert Budget(latency_ratio=2.0).allowed(1.0) == 0.5


def test_a_budget_survives_serialisation():
    budget = Budget(macs=0.5, target="android")
    assert Budget.from_config(budget.get_config()) == budget


@NETS
@pytest.mark.parametrize("share", [0.7, 0.4, 0.2])
@pytest.mark.parametrize("name", ["macs", "params"])
def test_counted_budgets_are_met_within_three_percent(build, share, name):
    coupling, groups, cost, met = decide(build(), Budget(**{name: share}))
    left = cost.after(met.removed) / cost.before
    # The smallest nets cannot come nearer than one channel.
    one = min(1 - _one_less(coupling, cost, group) for group in groups)
    assert share - max(0.03, one) <= left <= share


def _one_less(coupling, cost, group):
    removed = coupling.nothing()
    removed[group.units[:1]] = True
    return cost.after(removed) / cost.before


@NETS
@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_no_group_could_keep_one_step_more(build, multiple):
    granularity = Channel(multiple=multiple)
    budget = Budget(macs=0.45)
    coupling, groups, cost, met = decide(build(), budget, granularity)
    allowed = budget.allowed(cost.before)
    assert cost.after(met.removed) <= allowed
    for group in groups:
        gone = group.units[met.removed[group.units]]
        left = group.size - gone.size
        step = step_of(coupling, group, granularity)
        more = allowed_size(coupling, group, left + step, granularity) - left
        if more:
            back = met.removed.copy()
            back[gone[:more]] = False
            assert cost.after(back) > allowed


def test_the_same_model_gives_the_same_channels():
    model = residual()
    first, second = (decide(model, Budget(macs=0.5))[3] for _ in range(2))
    np.testing.assert_array_equal(first.removed, second.removed)


def test_multiples_and_floors_are_respected():
    model = plain()
    by_target = kprune.plan_shrink(model, budget=Budget(macs=0.4, target="android"))
    assert all(group.left % 8 == 0 for group in by_target.groups)
    channel = kprune.Channel(multiple=3, min_channels=9)
    said = kprune.plan_shrink(
        model, budget=Budget(macs=0.4, target="android"), granularity=channel
    )
    assert all(group.left % 3 == 0 and group.left >= 9 for group in said.groups)


def test_a_budget_that_cannot_be_met_says_how_far_it_got():
    with pytest.raises(ValueError, match="cannot be met") as failure:
        kprune.shrink(
            plain(), budget=Budget(macs=0.01), granularity=Channel(min_channels=20)
        )
    text = str(failure.value)
    assert "Budget(macs=0.01) of 'plain'" in text
    assert "are left with the fewest channels that its 3 groups may have" in text
    assert "it is an output of the model" in text


def test_a_budget_that_is_met_already_removes_nothing():
    model = plain()
    small = kprune.shrink(model, budget=Budget(params=10**9))
    plan = small.shrink_report.plan
    assert "which the model has already" in plan.asked
    assert plan.notes == ("Nothing is removed.",)
    assert small.count_params() == model.count_params()


def export(model, tmp_path):
    return kprune.export(
        model,
        tmp_path / "small.tflite",
        target="microcontroller",
        quantization="int8",
        representative_data=np.random.default_rng(1).random((8, 12, 12, 3), "float32"),
        tolerance=10.0,
        benchmark=False,
        c_source=False,
    )


@pytest.mark.slow
def test_the_exported_file_is_within_the_flash_budget(tmp_path):
    small = kprune.shrink(plain(), budget=Budget(flash_bytes=0.6))
    notes = small.shrink_report.plan.notes
    size = export(small, tmp_path).size.raw
    assert f"flash_bytes {size:,} of at most" in notes[0]
    assert "random inputs" in notes[1]
    assert all(group.left % 4 == 0 for group in small.shrink_report.plan.groups)


@pytest.mark.slow
def test_the_exported_file_runs_in_the_arena_budget(tmp_path):
    data = np.random.default_rng(0).random((8, 12, 12, 3), "float32")
    model = plain()
    small = kprune.shrink(model, budget=Budget(arena_bytes=0.8), data=data)
    notes = small.shrink_report.plan.notes
    arena = export(small, tmp_path).arena.bytes
    assert arena <= 0.8 * export(model, tmp_path).arena.bytes
    assert f"arena_bytes {arena:,} of at most" in notes[0]
    assert len(notes) == 1


@pytest.fixture
def clock(monkeypatch):
    """Files take as many milliseconds as they have bytes, and are never run."""

    def pairs(sessions, row):
        return [[1.0 * session] * 5 for session in sessions]

    monkeypatch.setattr(costs, "times", pairs)
    monkeypatch.setattr(costs, "Session", lambda content, interface: len(content))


def test_a_latency_budget_is_met_on_the_clock(clock):
    plan = kprune.plan_shrink(plain(), budget=Budget(latency_ratio=1.5))
    assert plan.asked == "latency_ratio of at least 1.5"
    assert plan.notes[0].startswith("latency_ratio ")
    assert float(plan.notes[0].split()[1]) >= 1.5
    assert "of at least 1.50, measured in LiteRT" in plan.notes[0]
    assert all(group.left % 8 == 0 for group in plan.groups)


def test_a_latency_budget_out_of_reach_is_refused(clock):
    with pytest.raises(ValueError, match=r"latency_ratio=1000\).* is reached with the"):
        kprune.plan_shrink(plain(), budget=Budget(latency_ratio=1000))


@pytest.mark.slow
def test_a_latency_budget_is_measured_or_refused():
    try:
        plan = kprune.plan_shrink(plain(), budget=Budget(latency_ratio=1.05))
    except ValueError as refusal:
        assert "is reached with the fewest" in str(refusal)
    else:
        assert "measured in LiteRT on this machine" in plan.notes[0]
