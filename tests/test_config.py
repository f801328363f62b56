"""Every setting survives a round trip; settings are found by name."""

import dataclasses
import json

import keras
import pytest
import settings

import kprune
from kprune import recipe
from kprune.allocation import Allocation
from kprune.config import Config, concrete_subclasses, get
from kprune.criteria import Criterion
from kprune.granularity import Granularity
from kprune.schedules import Schedule

EXAMPLES = [
    *(example for examples in settings.ALL.values() for example in examples),
    kprune.PolynomialDecay(0.0, 0.8, kprune.Epochs(1.5), kprune.FitFraction(0.5)),
    kprune.ConstantSparsity(0.5, begin_step=kprune.Epochs(2)),
    kprune.PiecewiseSparsity([0, kprune.Epochs(2)], [0.5, 0.8], linear=True),
    kprune.Epochs(3),
    kprune.FitFraction(0.25),
    kprune.Block([1, None], pooling="max"),
    kprune.Channel(multiple=8, min_channels=2, by_stage=True, head_dimensions=True),
    kprune.Budget(macs=0.5),
    kprune.AccuracyGuard("val_score", 0.02, 0.9, 2, mode="max"),
    kprune.Global(min_density=0.02),
    kprune.Lamp(max_sample=1000, min_density=0.1),
    kprune.Rule(0.5, only=["conv*", "dense"], skip="head", prune_depthwise=True),
    kprune.Rule(granularity=kprune.NofM(2, 4), skip_first=True, skip_last=True),
    kprune.Rule(settings.halves, allocation={"conv*": 0.5, "head": 0}),
    kprune.Plan((kprune.Rule(0.5, only="a", allocation="uniform"), kprune.Rule(0.9))),
    recipe.Train(epochs=2, learning_rate=0.01),
    recipe.Shrink(0.5, criterion="wanda", allocation="global", skip="a", epochs=0),
    recipe.Prune(plan=kprune.Rule(0.5, only="a"), epochs=1, temperature=3.0),
    recipe.QuantizeAware("learned", skip=["a", "b"], epochs=1, distill=False),
    recipe.Export({"name": "board", "like": "microcontroller"}, encode=True),
    kprune.Recipe(recipe.Train(epochs=2), ("android", "generic"), seed=3, data="x"),
]


def test_every_setting_has_an_example():
    missing = set(concrete_subclasses(Config)) - {type(e) for e in EXAMPLES}
    # Classes that other tests define do not count.
    assert {cls for cls in missing if cls.__module__.startswith("kprune")} == set()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: type(e).__name__)
def test_round_trip_through_json(example):
    text = json.dumps(keras.saving.serialize_keras_object(example))
    assert keras.saving.deserialize_keras_object(json.loads(text)) == example
    assert type(example).from_config(example.get_config()) == example


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: type(e).__name__)
def test_settings_are_frozen_and_compare_by_value(example):
    field = dataclasses.fields(example)[0].name if dataclasses.fields(example) else "x"
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(example, field, None)
    assert dataclasses.replace(example) == example


@pytest.mark.parametrize(
    ("base", "name", "expected"),
    [
        (Criterion, "magnitude", kprune.Magnitude()),
        (Criterion, "Magnitude", kprune.Magnitude()),
        (Criterion, "batch_norm_scale", kprune.BatchNormScale()),
        (Criterion, "geometric_median", kprune.GeometricMedian()),
        (Criterion, "synflow", kprune.SynFlow()),
        (Granularity, "element", kprune.Element()),
        (Granularity, "channel", kprune.Channel()),
        (Granularity, "kernel", kprune.Kernel()),
        (Allocation, "erk", kprune.Erk()),
        (Allocation, "global", kprune.Global()),
        (Allocation, "lamp", kprune.Lamp()),
        (Allocation, "uniform", kprune.Uniform()),
    ],
)
def test_get_by_name(base, name, expected):
    assert get(base, name) == expected


def test_get_takes_instances_and_configurations():
    schedule = kprune.ConstantSparsity(0.5)
    assert get(Schedule, schedule) is schedule
    assert get(Schedule, keras.saving.serialize_keras_object(schedule)) == schedule


def test_an_unknown_name_lists_the_known_ones():
    match = r"'magnitud'\. Did you mean 'magnitude'\?.*\['batchnorm.*'magnitude'"
    with pytest.raises(ValueError, match=match):
        get(Criterion, "magnitud")


def test_a_wrong_type_is_refused():
    with pytest.raises(TypeError, match="Expected a Criterion.*of type int"):
        get(Criterion, 3)
    with pytest.raises(TypeError, match="Expected a Schedule.*Magnitude"):
        get(Schedule, kprune.Magnitude())


def test_a_new_criterion_needs_one_class_and_is_found_by_name():
    @keras.saving.register_keras_serializable("tests")
    @dataclasses.dataclass(frozen=True)
    class SquareForTest(Criterion):
        def score(self, weight):
            return weight**2

    try:
        rule = kprune.Rule(0.5, criterion="square_for_test")
        assert rule.criterion == SquareForTest()
        assert kprune.Rule.from_config(rule.get_config()) == rule
    finally:
        keras.saving.get_custom_objects().pop("tests>SquareForTest")
