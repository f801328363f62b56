"""Each thing is said once in a training, and summed up at its end."""

import warnings

import keras
import numpy as np
import pytest
from models import compiled, sequential

import kprune
from kprune.notices import Notices

WARNS = kprune.PruningWarning


def said(act):
    with warnings.catch_warnings(record=True) as caught:
        # As a user's Python has it: once per place, and not "error" as in tests.
        warnings.simplefilter("default")
        act()
    assert all(w.category is WARNS for w in caught)
    return [str(w.message) for w in caught]


def test_a_warning_is_given_once_and_counted():
    notices = Notices()

    def act():
        for message in ("a", "b", "a", "a"):
            notices.warn(message)

    assert said(act) == ["a", "b"]
    assert notices.counts == {"a": 3, "b": 1}
    (summary,) = said(lambda: notices.sum_up(["c"], "Hint."))
    assert summary.splitlines()[1:] == ["- c", "- 3 times: a", "- b", "Hint."]
    assert notices.counts == {"a": 3, "b": 1, "c": 1}


def test_the_next_training_says_it_again():
    assert said(lambda: [Notices().warn("a") for _ in range(3)]) == ["a"] * 3


def test_what_was_said_already_and_once_needs_no_summary():
    notices = Notices()
    said(lambda: notices.warn("a"))
    assert said(lambda: notices.sum_up([], "Hint.")) == []
    assert said(lambda: Notices().sum_up([], "Hint.")) == []
    assert said(lambda: Notices().sum_up(["at the end"], "Hint.")) == ["at the end"]


def test_warnings_point_to_the_line_of_the_user():
    with pytest.warns(WARNS) as caught:
        Notices().warn("a")
    assert caught[0].filename == __file__


def test_many_updates_with_nan_are_one_warning_and_its_count(data):
    model = compiled(sequential())
    kernel = model.layers[3].kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    callback = kprune.PruningCallback(
        schedule=kprune.PolynomialDecay(0.1, 0.5, 0, 4, frequency=1)
    )

    def fit():
        model.fit(*data, batch_size=16, verbose=0, callbacks=[callback])

    # One step of training spreads NaN to the first weight.
    first, second, summary = said(fit)
    assert "dense/kernel scores NaN" in first and "conv2d/kernel" in second
    assert f"- 4 times: {second}" in summary
    assert "The fit ended at sparsity 0.0000" in summary
    assert "7 weights stay dense" in summary
    assert [*callback.report.notices.values()][:2] == [1, 4]
    assert f"warned 4 times: {second}" in str(callback.report)
    # The same words, in the next fit.
    assert second in said(fit)


def test_nan_of_channels_goes_the_same_way(data):
    model = compiled(sequential())
    kernel = model.layers[0].kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    callback = kprune.PruningCallback(
        schedule=kprune.PolynomialDecay(0.1, 0.5, 0, 4, frequency=1),
        granularity="channel",
    )
    first, summary = said(
        lambda: model.fit(*data, batch_size=16, verbose=0, callbacks=[callback])
    )
    assert "score NaN" in first and f"- 5 times: {first}" in summary


def test_a_report_is_that_of_its_fit(data):
    model = compiled(sequential())
    callback = kprune.PruningCallback(
        schedule=kprune.PolynomialDecay(0.0, 0.6, 2, 9, frequency=3)
    )
    model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    report = callback.report
    assert [step for step, _ in report.history] == [2, 5, 8, 9]
    assert list(report.history) == callback.history
    assert [(e.epoch, e.step) for e in report.epochs] == [(0, 6), (1, 12)]
    logged = model.history.history["sparsity"]
    assert [e.logs["sparsity"] for e in report.epochs] == logged
    assert report.guard is None and report.notices == {}
    assert "masks were made 4 times, from step 2 to 9; now at step 12" in str(report)
    kprune.release(model)
    model.fit(*data, batch_size=16, verbose=0)
    assert callback.report == report
    assert report.sparsity == pytest.approx(0.6, abs=1e-3)
    assert (keras.ops.convert_to_numpy(model.layers[3].kernel) != 0).all()
