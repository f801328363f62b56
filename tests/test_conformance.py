"""What holds for every criterion, granularity, allocation and schedule there is.

Classes are found by themselves: one that is not fit for this breaks the suite.
"""

import keras
import numpy as np
import pytest
from models import compiled, sequential

import kprune
from kprune.allocation import Allocation
from kprune.config import concrete_subclasses
from kprune.criteria import Criterion
from kprune.granularity import Granularity
from kprune.schedules import Schedule

SCHEDULES = {
    kprune.PolynomialDecay: kprune.PolynomialDecay(0.1, 0.75, 2, 9, frequency=3),
    kprune.ConstantSparsity: kprune.ConstantSparsity(0.75, 4),
}


def ours(base):
    """The subclasses that kprune has; tests define some of their own."""
    return [c for c in concrete_subclasses(base) if c.__module__.startswith("kprune")]


# Couple several weights, so that no wrapper of one layer can hold them:
# tests/test_channels.py has what holds for these.
COUPLED = (kprune.Channel,)

SETTINGS = [
    *(("criterion", cls) for cls in ours(Criterion)),
    *(("granularity", cls) for cls in ours(Granularity) if cls not in COUPLED),
    *(("allocation", cls) for cls in ours(Allocation)),
]


def rule(role, cls):
    return kprune.Rule(SCHEDULES[kprune.PolynomialDecay], **{role: cls()})


def test_every_schedule_is_tried():
    assert set(ours(Schedule)) == set(SCHEDULES)


@pytest.mark.parametrize(("role", "cls"), SETTINGS)
def test_it_prunes_in_fit_in_place_and_in_wrappers_alike(role, cls, data, tmp_path):
    in_place = compiled(sequential())
    wrapped = kprune.prune(in_place, plan=kprune.Plan(rule(role, cls)))
    compiled(wrapped)
    fits = (
        (in_place, kprune.PruningCallback(plan=kprune.Plan(rule(role, cls)))),
        (wrapped, kprune.PruningCallback()),
    )
    for model, callback in fits:
        keras.utils.set_random_seed(1)
        model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
        size = sum(weight.size for weight in callback.report.weights)
        zeros = sum(weight.zeros for weight in callback.report.weights)
        assert zeros == pytest.approx(round(0.75 * size), abs=3)
    plain = kprune.strip(wrapped)
    for a, b in zip(in_place.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)
    wrapped.save(tmp_path / "wrapped.keras")
    loaded = keras.models.load_model(tmp_path / "wrapped.keras")
    rules = [layer.rule for layer in loaded.layers if hasattr(layer, "rule")]
    assert rules == [rule(role, cls)] * 3


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=lambda s: type(s).__name__)
def test_schedules_rise_to_their_end_in_fit(schedule, data):
    model = compiled(sequential())
    callback = kprune.PruningCallback(schedule=schedule)
    model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    sparsities = [sparsity for _, sparsity in callback.history]
    assert sparsities == sorted(sparsities)
    assert sparsities[-1] == pytest.approx(schedule.final_sparsity, abs=1e-3)
    assert callback.report.asked == schedule.final_sparsity


@pytest.mark.parametrize("cls", ours(Granularity))
def test_masks_have_exactly_the_units_that_were_asked_for(cls):
    granularity = cls()
    scores = np.random.default_rng(0).integers(0, 4, (4, 6)).astype("float32")
    num_units = granularity.unit_scores(scores).size
    pruned = np.zeros_like(scores, bool)
    for num_pruned in range(num_units + 1):
        mask = granularity.mask(scores, num_pruned)
        assert mask.shape == scores.shape
        assert np.count_nonzero(granularity.unit_scores(mask) == 0) == num_pruned
        assert not (pruned & mask).any()  # more sparsity frees nothing
        pruned = ~mask


@pytest.mark.parametrize(
    ("role", "cls"), [item for item in SETTINGS if item[0] != "granularity"]
)
def test_it_prunes_channels_in_fit_and_at_once(role, cls, data):
    model = compiled(sequential())
    callback = kprune.PruningCallback(
        sparsity=0.5, granularity="channel", **{role: cls()}
    )
    model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    assert callback.report.channel_sparsity == pytest.approx(0.5, abs=0.05)
    small = kprune.shrink(model)
    assert small.shrink_report.plan.sparsity == callback.report.channel_sparsity
    smaller = kprune.shrink(small, sparsity=0.5, **{role: cls()})
    assert smaller.count_params() < small.count_params() < model.count_params()
