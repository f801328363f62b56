import keras
import numpy as np
import pytest
import settings
from hypothesis import given
from hypothesis import strategies as st

import kprune
from kprune import (
    ConstantSparsity,
    CosineRamp,
    CyclicRamp,
    Epochs,
    ExponentialRamp,
    FitFraction,
    PiecewiseSparsity,
    PolynomialDecay,
    SparsityFunction,
)
from kprune.schedules import FitLength


def test_polynomial_values_by_hand():
    schedule = PolynomialDecay(0.2, 0.8, 100, 110, power=3, frequency=2)
    steps = {99: 0.0, 100: 0.2, 102: 0.4928, 105: 0.725, 110: 0.8, 10**9: 0.8}
    assert {s: round(schedule.sparsity(s), 6) for s in steps} == steps


def test_power_one_is_a_straight_line():
    schedule = PolynomialDecay(0.0, 0.8, 0, 8, power=1)
    assert [round(schedule.sparsity(s), 6) for s in (0, 2, 4, 8)] == [0, 0.2, 0.4, 0.8]


def test_updates_fall_on_begin_frequency_and_end():
    schedule = PolynomialDecay(0.0, 0.8, 2, 9, frequency=3)
    assert [s for s in range(20) if schedule.due(s - 1, s)] == [2, 5, 8, 9]


def test_the_end_is_reached_when_the_frequency_does_not_divide():
    # tfmot stops at 0.79 here: (end - begin) % frequency != 0.
    schedule = PolynomialDecay(0.2, 0.8, 0, 8, frequency=3)
    assert schedule.sparsity(schedule.last_update(10_000)) == 0.8


def test_a_skipped_step_is_still_due():
    schedule = PolynomialDecay(0.0, 0.8, 0, 100, frequency=10)
    assert schedule.due(previous=8, step=12)
    assert not schedule.due(previous=11, step=19)


def test_begin_equal_to_end_is_one_shot():
    schedule = PolynomialDecay(0.0, 0.8, 5, 5)
    assert [schedule.sparsity(s) for s in (4, 5, 6)] == [0.0, 0.8, 0.8]
    assert [s for s in range(10) if schedule.due(s - 1, s)] == [5]


@given(
    begin=st.integers(0, 500),
    length=st.integers(0, 500),
    frequency=st.integers(1, 700) | st.none(),
    initial=st.floats(0, 0.98),
    rise=st.floats(0, 1),
    power=st.floats(0.1, 5),
    steps_per_call=st.integers(1, 50),
)
def test_any_schedule_rises_and_ends_on_its_target(
    begin, length, frequency, initial, rise, power, steps_per_call
):
    final = initial + (0.99 - initial) * rise
    schedule = PolynomialDecay(initial, final, begin, begin + length, power, frequency)
    seen, previous = [], -1
    for step in range(0, begin + length + steps_per_call + 1, steps_per_call):
        if schedule.due(previous, step):
            seen.append(schedule.sparsity(schedule.last_update(step)))
        previous = step
    assert seen == sorted(seen)
    assert seen[-1] == final
    assert all(0 <= sparsity < 1 for sparsity in seen)


def test_constant_prunes_once():
    schedule = ConstantSparsity(0.5, begin_step=10)
    assert [s for s in range(50) if schedule.due(s - 1, s)] == [10]
    assert schedule.last_update(9) is None


def test_epochs_and_fractions_become_steps():
    fit = FitLength(first_batch=100, batches_per_epoch=10, epochs=4)
    schedule = PolynomialDecay(0.0, 0.8, Epochs(1), FitFraction(0.75)).resolve(fit)
    assert (schedule.begin_step, schedule.end_step) == (110, 130)


def test_steps_are_left_alone_by_resolving():
    fit = FitLength(first_batch=100, batches_per_epoch=10, epochs=4)
    schedule = PolynomialDecay(0.0, 0.8, 3, Epochs(2)).resolve(fit, earliest=115)
    assert (schedule.begin_step, schedule.end_step) == (3, 120)


def test_gradient_accumulation_makes_fewer_steps():
    fit = FitLength(0, batches_per_epoch=10, epochs=3, gradient_accumulation_steps=4)
    assert [fit.step_at(epoch) for epoch in (0, 1, 2, 3)] == [0, 2, 5, 7]


def test_an_unresolved_schedule_says_so():
    with pytest.raises(ValueError, match="resolve"):
        PolynomialDecay(0.0, 0.8, 0, Epochs(2)).last_update(3)


@pytest.mark.parametrize("sparsity", [-0.001, -1, 1.0, 1, 10, 80, float("nan")])
def test_sparsity_outside_its_range_is_refused(sparsity):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        PolynomialDecay(0.0, sparsity, 0, 1)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        PolynomialDecay(sparsity, 0.99, 0, 1)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        ConstantSparsity(sparsity)


def test_a_percentage_is_recognised():
    with pytest.raises(ValueError, match=r"Did you mean 0\.9\?"):
        ConstantSparsity(90)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (dict(begin_step=-1), ValueError, "not be negative"),
        (dict(begin_step=10, end_step=5), ValueError, "begin_step=10, end_step=5"),
        (dict(begin_step=Epochs(3), end_step=Epochs(2)), ValueError, "end must not"),
        (
            dict(end_step=FitFraction(0.2), begin_step=FitFraction(0.3)),
            ValueError,
            "en",
        ),
        (dict(begin_step=0.5), TypeError, "a step"),
        (dict(begin_step=True), TypeError, "a step"),
        (dict(frequency=0), ValueError, "at least 1"),
        (dict(frequency=1.5), TypeError, "frequency"),
        (dict(power=0), ValueError, "positive"),
        (dict(power=-1), ValueError, "not negative"),
        (dict(initial_sparsity=0.9), ValueError, "must not be below"),
        (dict(final_sparsity="0.8"), TypeError, "number"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, match):
    good = dict(initial_sparsity=0.0, final_sparsity=0.8, begin_step=0, end_step=100)
    with pytest.raises(error, match=match):
        PolynomialDecay(**{**good, **arguments})


def test_moments_are_checked():
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        FitFraction(1.5)
    with pytest.raises(ValueError, match="not negative"):
        Epochs(-1)
    with pytest.raises(TypeError, match="number"):
        Epochs("two")


# --- Other ramps ----------------------------------------------------------------------


def values(schedule, *steps):
    return [round(schedule.sparsity(step), 4) for step in steps]


def test_cosine_by_hand():
    schedule = CosineRamp(0.2, 0.8, 10, 20)
    assert values(schedule, 9, 10, 15, 20, 99) == [0.0, 0.2, 0.5, 0.8, 0.8]
    assert schedule.sparsity(12) - 0.2 == pytest.approx(0.8 - schedule.sparsity(18))


def test_exponential_takes_the_same_share_of_what_is_left():
    schedule = ExponentialRamp(0.0, 0.9, 0, 4)
    kept = [1 - schedule.sparsity(step) for step in range(5)]
    assert [b / a for a, b in zip(kept, kept[1:], strict=False)] == pytest.approx(
        [0.1**0.25] * 4
    )


def test_cycles_rise_and_rest():
    # Two rounds of 20 steps, the second without its rest: 0, 10, 20 and 30.
    schedule = CyclicRamp(0.0, 0.8, 0, 30, rounds=2, recovery=0.5, power=3)
    assert values(schedule, 0, 10, 15, 20, 30) == [0.0, 0.7, 0.7, 0.7, 0.8]
    assert values(schedule, 5) == [round(0.7 * (1 - 0.5**3), 4)]


def test_one_cycle_without_rest_is_the_polynomial():
    cycle = CyclicRamp(0.1, 0.8, 3, 50, rounds=1, recovery=0.0)
    ramp = PolynomialDecay(0.1, 0.8, 3, 50)
    for step in range(60):
        assert cycle.sparsity(step) == pytest.approx(ramp.sparsity(step))


@given(
    kind=st.sampled_from([CosineRamp, ExponentialRamp, CyclicRamp]),
    begin=st.integers(0, 50),
    length=st.integers(0, 300),
    initial=st.floats(0, 0.98),
    rise=st.floats(0, 1),
    extra=st.fixed_dictionaries(
        {
            "rounds": st.integers(1, 6),
            "recovery": st.floats(0, 0.9),
            "power": st.floats(0.2, 5),
        }
    ),
)
def test_ramps_never_fall(kind, begin, length, initial, rise, extra):
    final = initial + (0.99 - initial) * rise
    more = extra if kind is CyclicRamp else {}
    schedule = kind(initial, final, begin, begin + length, **more)
    seen = [schedule.sparsity(step) for step in range(begin + length + 2)]
    assert all(b >= a - 1e-12 for a, b in zip(seen, seen[1:], strict=False))
    assert seen[-1] == final
    assert all(0 <= sparsity < 1 for sparsity in seen)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (dict(rounds=0), ValueError, "at least 1"),
        (dict(rounds=1.5), TypeError, "`rounds`"),
        (dict(recovery=1.0), ValueError, "recovery"),
        (dict(power=0), ValueError, "positive"),
    ],
)
def test_cycles_refuse(arguments, error, match):
    with pytest.raises(error, match=match):
        CyclicRamp(0.0, 0.8, 0, 100, **arguments)


# --- Piecewise ------------------------------------------------------------------------


def test_steps_are_updates_and_nothing_else_is():
    schedule = PiecewiseSparsity((3, 10, 30), (0.2, 0.5, 0.8))
    assert [s for s in range(50) if schedule.due(s - 1, s)] == [3, 10, 30]
    assert values(schedule, 2, 3, 9, 10, 30, 99) == [0.0, 0.2, 0.2, 0.5, 0.8, 0.8]


def test_lines_are_updated_on_the_way_and_at_the_steps():
    schedule = PiecewiseSparsity((0, 10, 30), (0.2, 0.5, 0.8), linear=True, frequency=4)
    assert values(schedule, 0, 5, 10, 20, 30) == [0.2, 0.35, 0.5, 0.65, 0.8]
    due = [s for s in range(50) if schedule.due(s - 1, s)]
    assert due == [0, 4, 8, 10, 12, 16, 20, 24, 28, 30]


def test_steps_may_be_moments():
    fit = FitLength(first_batch=0, batches_per_epoch=10, epochs=4)
    schedule = PiecewiseSparsity((0, Epochs(2), FitFraction(0.75)), (0.2, 0.5, 0.8))
    assert not schedule.is_resolved
    assert schedule.resolve(fit).steps == (0, 20, 30)
    with pytest.raises(ValueError, match="not in ascending order"):
        PiecewiseSparsity((Epochs(3), FitFraction(0.5)), (0.2, 0.5)).resolve(fit)


@pytest.mark.parametrize(
    ("steps", "sparsities", "error", "match"),
    [
        ((0, 1), (0.5,), ValueError, "2 steps and 1 sparsities"),
        ((), (), TypeError, "sequence"),
        (5, (0.5,), TypeError, "sequence"),
        ((0, 1), (0.5, 0.4), ValueError, "must not fall"),
        ((5, 1), (0.4, 0.5), ValueError, "1 after 5"),
        ((-1, 1), (0.4, 0.5), ValueError, "negative"),
        ((0, 1), (0.4, 80), ValueError, r"Did you mean 0\.8"),
    ],
)
def test_piecewise_refuses(steps, sparsities, error, match):
    with pytest.raises(error, match=match):
        PiecewiseSparsity(steps, sparsities)


# --- Functions ------------------------------------------------------------------------


def test_a_function_becomes_a_schedule_to_the_end_of_the_fit():
    rule = kprune.Rule(lambda step: 0.5)
    assert isinstance(rule.schedule, SparsityFunction)
    assert rule.schedule.final_sparsity is None
    schedule = rule.schedule.resolve(FitLength(0, batches_per_epoch=10, epochs=3))
    assert (schedule.begin_step, schedule.end_step) == (0, 30)
    assert schedule.final_sparsity == 0.5


def test_a_function_is_not_asked_after_its_end():
    schedule = SparsityFunction(lambda step: step / 100, 10, 50)
    assert values(schedule, 9, 10, 20, 50, 70) == [0.0, 0.1, 0.2, 0.5, 0.5]


def test_numbers_of_any_kind_are_taken():
    schedule = SparsityFunction(lambda step: np.float32(0.5), 0, 5)
    assert schedule.sparsity(1) == 0.5


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (90, ValueError, r"function <lambda>: `sparsity\(1\)`.* mean 0\.9"),
        (-0.1, ValueError, "function <lambda>"),
        (None, TypeError, "For step 1 it returned None"),
        ("much", TypeError, "returned 'much'"),
    ],
)
def test_what_a_function_returns_is_checked(value, error, match):
    schedule = SparsityFunction(lambda step: value, 0, 5)
    with pytest.raises(error, match=match):
        schedule.sparsity(1)


def test_a_function_must_be_one():
    with pytest.raises(TypeError, match="must be a function"):
        SparsityFunction(0.5)
    with pytest.raises(TypeError, match="must be a Schedule"):
        kprune.Rule(ConstantSparsity)


def test_functions_that_are_not_registered_are_not_saved():
    with pytest.raises(ValueError, match="<lambda> cannot be saved"):
        SparsityFunction(lambda step: 0.5).get_config()
    schedule = SparsityFunction(settings.halves, 0, 9)
    text = keras.saving.serialize_keras_object(schedule)
    assert keras.saving.deserialize_keras_object(text) == schedule
