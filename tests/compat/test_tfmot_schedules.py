"""tfmot's schedules by its own numbers, and those of the user's own."""

import json

import keras
import numpy as np
import pytest
import tfmot_models as case

import kprune
import kprune.compat.tfmot as sparsity
from kprune.compat.tfmot.schedules import to_kprune

BOTH = {
    "constant": lambda begin=0, end=10, frequency=1, target=0.5: (
        sparsity.ConstantSparsity(target, begin, end, frequency)
    ),
    "polynomial": lambda begin=0, end=10, frequency=1, target=0.5: (
        sparsity.PolynomialDecay(0.0, target, begin, end, 3, frequency)
    ),
}
both = pytest.mark.parametrize("make", BOTH.values(), ids=BOTH)


@both
@pytest.mark.parametrize("begin", [-1, -5])
def test_a_negative_begin_is_refused(make, begin):
    with pytest.raises(ValueError, match="`begin_step` must not be negative"):
        make(begin=begin)


@both
@pytest.mark.parametrize("begin", [0, 1, 100])
def test_any_other_begin_will_do(make, begin):
    assert make(begin=begin, end=100).begin_step == begin


@both
@pytest.mark.parametrize(
    ("begin", "end", "match"),
    [(0, -5, "`end_step` must not be negative"), (10, 5, "must not lie before the")],
)
def test_an_end_that_cannot_be_is_refused(make, begin, end, match):
    with pytest.raises(ValueError, match=match):
        make(begin=begin, end=end)


@both
@pytest.mark.parametrize(
    ("begin", "end"), [(0, 0), (0, 1), (0, 100), (10, 10), (10, 20)]
)
def test_any_other_end_will_do(make, begin, end):
    assert make(begin=begin, end=end).end_step == end


@both
@pytest.mark.parametrize("frequency", [0, -1, -5])
def test_a_frequency_below_one_is_refused(make, frequency):
    with pytest.raises(ValueError, match="`frequency` must be at least 1"):
        make(frequency=frequency)
    assert make(frequency=10).frequency == 10


@pytest.mark.parametrize("value", [-0.001, -1, 1.0, 10])
def test_a_sparsity_outside_its_range_is_refused(value):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        sparsity.ConstantSparsity(value, 0)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        sparsity.PolynomialDecay(value, 0.99, 0, 1)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        sparsity.PolynomialDecay(0.0, value, 0, 1)


@pytest.mark.parametrize("value", [0.0, 0.001, 0.5, 0.99])
def test_any_other_sparsity_will_do(value):
    assert sparsity.ConstantSparsity(value, 0).target_sparsity == value
    assert sparsity.PolynomialDecay(value, 0.99, 0, 1).initial_sparsity == value
    assert sparsity.PolynomialDecay(0.0, value, 0, 1).final_sparsity == value


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: sparsity.ConstantSparsity("0.5", 0), "`target_sparsity` must be"),
        (lambda: sparsity.ConstantSparsity(0.5, "0"), "`begin_step` must be an int"),
        (lambda: sparsity.ConstantSparsity(0.5, 1.0), "`begin_step` must be an int"),
        (lambda: sparsity.ConstantSparsity(0.5, 0, None), "`end_step` must be an int"),
        (
            lambda: sparsity.PolynomialDecay(0.0, 0.5, 0, np.ceil(20 / 3)),
            r"`end_step` must be an integer.*say int\(",
        ),
        (lambda: sparsity.PolynomialDecay(0, 0.5, 0, 1, "3"), "`power` must be a num"),
        (lambda: sparsity.ConstantSparsity(0.5, 0, frequency=True), "`frequency`"),
    ],
)
def test_wrong_types_are_refused_at_once(make, match):
    """Most of these tfmot notices in training."""
    with pytest.raises(TypeError, match=match):
        make()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (dict(end_step=-1), "`end_step` must be a step"),
        (dict(initial_sparsity=0.9), "must not be below `initial_sparsity`"),
        (dict(power=0), "`power` must be positive"),
        (dict(power=-1), "not negative"),
    ],
)
def test_a_polynomial_that_cannot_be_is_refused(arguments, match):
    usual = dict(initial_sparsity=0.2, final_sparsity=0.8, begin_step=0, end_step=9)
    with pytest.raises(ValueError, match=match):
        sparsity.PolynomialDecay(**{**usual, **arguments})


def test_numbers_of_numpy_are_taken_as_they_come():
    """The tutorials compute their last step with NumPy."""
    end = np.ceil(60000 / 128).astype(np.int32) * 2
    schedule = sparsity.PolynomialDecay(np.float32(0.5), np.float64(0.8), 0, end)
    assert json.loads(json.dumps(schedule.get_config()))["config"]["end_step"] == 938


def due(schedule, steps):
    return [bool(schedule(step)[0]) for step in steps]


@both
def test_masks_are_due_from_begin_to_end_both_included(make):
    schedule = make(100, 200, 1)
    steps = [90, 99, 100, 110, 200, 201, 210]
    assert due(schedule, steps) == [False, False, True, True, True, False, False]


@both
def test_masks_are_due_every_so_many_steps(make):
    assert due(make(100, 200, 10), [100, 109, 110, 111]) == [True, False, True, False]


def test_a_constant_without_end_never_ends():
    schedule = sparsity.ConstantSparsity(0.5, 0, -1, 10)
    for step in (10_000, 100_000_000):
        found = schedule(step)
        assert bool(found[0]) and float(found[1]) == 0.5


def test_a_constant_is_the_same_at_each_step():
    schedule = sparsity.ConstantSparsity(0.5, 100, 200, 10)
    assert [float(schedule(step)[1]) for step in (100, 110, 200)] == [0.5] * 3


def test_polynomial_values_by_hand():
    schedule = sparsity.PolynomialDecay(0.2, 0.8, 100, 110, 3, 2)
    found = [float(schedule(step)[1]) for step in (100, 102, 105, 110)]
    assert found == pytest.approx([0.2, 0.4928, 0.725, 0.8], abs=1e-6)


def test_the_last_step_is_due_although_the_frequency_does_not_divide():
    schedule = sparsity.PolynomialDecay(0.2, 0.8, 0, 8, frequency=3)
    assert [s for s in range(12) if due(schedule, [s])[0]] == [0, 3, 6, 8]


def test_begin_equal_to_end_is_one_shot():
    """tfmot's value at this step is NaN."""
    schedule = sparsity.PolynomialDecay(0.2, 0.8, 5, 5, frequency=1)
    assert float(schedule(5)[1]) == pytest.approx(0.8)
    assert due(schedule, [4, 5, 6]) == [False, True, False]


@pytest.mark.parametrize(
    "schedule",
    [
        sparsity.ConstantSparsity(0.7, 10, 20, 10),
        sparsity.PolynomialDecay(0.2, 0.6, 10, 20, 5, 10),
    ],
)
def test_configurations_come_back(schedule):
    config = schedule.get_config()
    assert config["class_name"] == type(schedule).__name__
    for written in (config, config["config"]):
        again = type(schedule).from_config(json.loads(json.dumps(written)))
        assert vars(again) == vars(schedule)
        assert again == schedule
    kept = keras.saving.serialize_keras_object(schedule)
    assert keras.saving.deserialize_keras_object(kept) == schedule


@pytest.mark.parametrize("given", [None, 3, "ConstantSparsity"])
def test_what_is_no_configuration_is_refused(given):
    with pytest.raises(TypeError, match=r"expected what `get_config\(\)` returns"):
        sparsity.ConstantSparsity.from_config(given)


@pytest.mark.parametrize(
    "given",
    [
        0.5,
        {"class_name": "ConstantSparsity"},
        None,
        sparsity.ConstantSparsity,
        keras.optimizers.schedules.CosineDecay(0.1, 9),
    ],
)
def test_what_is_no_schedule_is_refused_at_once(given):
    with pytest.raises(TypeError, match="`pruning_schedule` must be a PruningSchedule"):
        sparsity.prune_low_magnitude(keras.layers.Dense(3), given)


def test_a_schedule_of_kprunes_will_do():
    schedule = kprune.CosineRamp(0.0, 0.5, 0, kprune.FitFraction(0.5))
    assert to_kprune(schedule) is schedule


# A schedule of the user's own, as tfmot's documents have it.


@keras.saving.register_keras_serializable("tests")
class EveryThird(sparsity.PruningSchedule):
    def __init__(self, amounts, end_step=-1):
        self.amounts, self.end_step = list(amounts), end_step

    def __call__(self, step):
        at = min(int(step), len(self.amounts) - 1)
        return self._should_prune_in_step(step, 1, self.end_step, 3), self.amounts[at]

    def get_config(self):
        config = {"amounts": self.amounts, "end_step": self.end_step}
        return {"class_name": "EveryThird", "config": config}

    @classmethod
    def from_config(cls, config):
        return cls(config["amounts"], config["end_step"])


AMOUNTS = [0, 0.1, 0.1, 0.3, 0.3, 0.5, 0.5, 0.7, 0.7, 0.7]


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (-1, [(1, 0.1), (4, 0.3), (7, 0.7)]),
        # The end is an update of its own.
        (8, [(1, 0.1), (4, 0.3), (7, 0.7)]),
        (5, [(1, 0.1), (4, 0.3), (5, 0.5)]),
    ],
)
def test_a_schedule_of_the_users_own_is_followed_in_fit(end, expected, tmp_path):
    schedule = EveryThird(AMOUNTS, end)
    model = sparsity.prune_low_magnitude(case.matrix(10, 10), schedule)
    callback = case.fit(model, steps=9)
    found = [pair for pair in callback.history if pair[1] > 0]
    assert [(step, round(share, 6)) for step, share in found[:3]] == expected
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].rule == model.layers[0].rule
    assert loaded.layers[0].rule.schedule.schedule == schedule


def test_a_schedule_of_the_users_own_is_followed_in_a_loop():
    model = sparsity.prune_low_magnitude(case.matrix(10, 10), EveryThird(AMOUNTS))
    found = []
    for _ in case.loop(model, steps=8):
        found.append(round(case.share_of_zeros(model), 6))
    assert found == [0.1, 0.1, 0.1, 0.3, 0.3, 0.3, 0.7, 0.7]


def test_an_update_is_found_again_whatever_was_asked_before():
    schedule = to_kprune(EveryThird(AMOUNTS))
    steps = [0, 1, 3, 4, 9, 2, 8, 0, 7]
    assert [schedule.last_update(s) for s in steps] == [
        None, 1, 1, 4, 7, 1, 7, None, 7,
    ]  # fmt: skip


def test_a_schedule_that_answers_something_else_is_named():
    class Wrong(sparsity.PruningSchedule):
        def __call__(self, step):
            return 0.5

        def get_config(self):
            return {}

    model = sparsity.prune_low_magnitude(case.matrix(10, 10), Wrong())
    with pytest.raises(
        TypeError, match=r"Wrong: .* returns \(should_prune, sparsity\)"
    ):
        case.fit(model, steps=1)
