import pytest
from hypothesis import given
from hypothesis import strategies as st

from kprune import ConstantSparsity, Epochs, FitFraction, PolynomialDecay
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
