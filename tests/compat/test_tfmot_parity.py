"""The same masks as the real tfmot, wherever tfmot is right."""

import dataclasses
import inspect
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from tfmot_cases import Case

import kprune.compat.tfmot as sparsity
from kprune.granularity import Block, Element
from kprune.layers import mask_constraints, values

PEER = pathlib.Path(__file__).with_name("tfmot_peer.py")


@pytest.fixture(scope="module")
def tfmot():
    """Asks the real tfmot, which the test extra installs; it never is skipped."""
    process = subprocess.Popen(
        [sys.executable, str(PEER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def ask(function, *arguments):
        try:
            print(json.dumps([function, arguments]), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            raise AssertionError(process.communicate()[1][-3000:]) from None

    yield ask
    process.communicate()


def pruned_model(case):
    layer = getattr(keras.layers, case.layer)(*case.arguments, use_bias=False)
    name, arguments = case.schedule
    model = sparsity.prune_low_magnitude(
        keras.Sequential([keras.Input(case.input_shape), layer]),
        getattr(sparsity, name)(*arguments),
        block_size=tuple(case.block),
        block_pooling_type=case.pooling,
        sparsity_m_by_n=case.m_by_n,
    )
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def masks(case):
    model = pruned_model(case)
    callback = sparsity.UpdatePruningStep()
    callback.set_model(model)
    callback.on_train_begin()
    kernel = model.trainable_variables[0]
    mask = mask_constraints(model)[kernel.path].mask
    found = []
    for step in range(1, case.steps + 1):
        kernel.assign(case.weights(step) * values(mask))
        model.optimizer.iterations.assign(step)
        callback.on_train_batch_begin(batch=-1)
        found.append(np.array(mask))
    return found


def compare(tfmot, case, until=None):
    """Compares all masks up to a step; thresholds are those of the last update."""
    theirs = tfmot("masks", dataclasses.asdict(case))
    ours = masks(case)
    mask = np.ones(case.shape, bool)
    for step, (found, (expected, threshold)) in enumerate(
        zip(ours, theirs, strict=True), start=1
    ):
        if until is not None and step >= until:
            break
        expected = np.reshape(expected, case.shape).astype(bool)
        np.testing.assert_array_equal(found, expected, err_msg=f"step {step}: {case}")
        if case.m_by_n is None and not np.array_equal(found, mask):
            assert lowest_kept(case, step, mask, found) == pytest.approx(
                threshold, rel=1e-5
            )
        mask = found


def lowest_kept(case, step, before, mask):
    units = Element()
    if case.block != [1, 1]:
        units = Block(case.block, {"AVG": "mean", "MAX": "max"}[case.pooling])
    scores = units.unit_scores(np.abs(case.weights(step)) * before)
    return scores[units.unit_scores(mask.astype("float32")) > 0].min()


def no_halves(num_units, sparsities):
    """Leaves out where one unit more or less is a matter of taste in rounding."""
    return all(abs(num_units * (1 - s) % 1 - 0.5) > 1e-3 for s in sparsities)


LAYERS = st.one_of(
    st.tuples(st.integers(2, 9), st.integers(2, 12)).map(
        lambda n: ("Dense", [n[1]], [n[0]], list(n))
    ),
    st.tuples(
        st.integers(1, 3), st.integers(1, 3), st.integers(2, 6), st.integers(2, 6)
    ).map(
        lambda n: ("Conv2D", [n[3], list(n[:2])], [4, 4, n[2]], list(n)),
    ),
)
HYPOTHESIS = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    # Shrinking a failure takes minutes, and the cases are small as they are.
    phases=[Phase.generate],
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.filter_too_much,
    ],
)


@st.composite
def ramps(draw):
    begin = draw(st.integers(1, 4))
    length = draw(st.integers(1, 6))
    initial, final = sorted(draw(st.lists(st.floats(0, 0.99), min_size=2, max_size=2)))
    power = draw(st.integers(1, 4))
    frequency = draw(st.integers(1, 4))
    return [initial, final, begin, begin + length, power, frequency]


@HYPOTHESIS
@given(layer=LAYERS, ramp=ramps(), seed=st.integers(0, 2**16))
def test_polynomials_prune_the_same(tfmot, layer, ramp, seed):
    schedule = sparsity.PolynomialDecay(*ramp)
    end, frequency = ramp[3], ramp[5]
    amounts = [float(schedule(step)[1]) for step in range(end + 1)]
    assume(no_halves(np.prod(layer[3]), amounts))
    case = Case(*layer, ["PolynomialDecay", ramp], steps=end + 2, seed=seed)
    # What tfmot has at the end falls short where the frequency does not divide.
    is_reached = (end - ramp[2]) % frequency == 0
    compare(tfmot, case, until=None if is_reached else end)


@HYPOTHESIS
@given(
    layer=LAYERS,
    target=st.floats(0, 0.99),
    begin=st.integers(1, 3),
    frequency=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_constants_prune_the_same(tfmot, layer, target, begin, frequency, seed):
    assume(no_halves(np.prod(layer[3]), [target]))
    schedule = ["ConstantSparsity", [target, begin, -1, frequency]]
    compare(tfmot, Case(*layer, schedule, steps=6, seed=seed))


@HYPOTHESIS
@given(
    blocks=st.tuples(st.integers(2, 4), st.integers(2, 4)),
    block=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    # Where more than one row or column is missing, tfmot scores other elements than it
    # prunes: its windows begin half of what is missing before the first element.
    cut=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    pooling=st.sampled_from(["AVG", "MAX"]),
    ramp=ramps(),
    seed=st.integers(0, 2**16),
)
def test_blocks_prune_the_same(tfmot, blocks, block, cut, pooling, ramp, seed):
    # At least two blocks along each axis: tfmot fails with one.
    shape = [n * b - min(c, b - 1) for n, b, c in zip(blocks, block, cut, strict=True)]
    assume(block != (1, 1))
    schedule = sparsity.PolynomialDecay(*ramp)
    end = ramp[3]
    amounts = [float(schedule(step)[1]) for step in range(end + 1)]
    assume(no_halves(np.prod(blocks), amounts))
    is_reached = (end - ramp[2]) % ramp[5] == 0
    case = Case(
        "Dense",
        [shape[1]],
        [shape[0]],
        shape,
        ["PolynomialDecay", ramp],
        steps=end + 1,
        block=list(block),
        pooling=pooling,
        seed=seed,
    )
    compare(tfmot, case, until=None if is_reached else end)


@HYPOTHESIS
@given(layer=LAYERS, n=st.integers(2, 6), data=st.data(), seed=st.integers(0, 2**16))
def test_groups_prune_the_same(tfmot, layer, n, data, seed):
    m = data.draw(st.integers(1, n - 1))
    assume(layer[3][-2] % n > n - m or layer[3][-2] >= n)
    # tfmot makes them at the first step, whatever the schedule says.
    case = Case(
        *layer,
        ["ConstantSparsity", [m / n, 1]],
        steps=3,
        m_by_n=[m, n],
        seed=seed,
    )
    compare(tfmot, case)


def test_blocks_at_edges_are_scored_by_their_own_elements(tfmot):
    """tfmot's windows are shifted by half of what is missing at the edge."""
    weight = [[9, 1, 1, 9], [4.4, 4.4, 4.4, 4.6]]
    case = Case(
        "Dense",
        [4],
        [2],
        [2, 4],
        ["ConstantSparsity", [0.25, 1, -1, 1]],
        steps=1,
        block=[1, 3],
        given=weight,
    )
    (theirs, _), ours = tfmot("masks", dataclasses.asdict(case))[0], masks(case)[0]
    assert np.reshape(theirs, (2, 4)).tolist() == [[1, 1, 1, 1], [0, 0, 0, 1]]
    assert ours.tolist() == [[0, 0, 0, 1], [1, 1, 1, 1]]


def test_a_fit_prunes_the_same(tfmot):
    case = Case(
        "Dense", [8], [10], [10, 8], ["PolynomialDecay", [0.2, 0.8, 2, 8, 3, 2]], 9
    )
    theirs = np.reshape(tfmot("fitted", dataclasses.asdict(case)), case.shape)
    model = pruned_model(case)
    model.trainable_variables[0].assign(case.weights(1))
    x, y = np.zeros((9, 10)), np.zeros((9, 8))
    callback = sparsity.UpdatePruningStep()
    model.fit(x, y, batch_size=1, verbose=0, callbacks=[callback])
    ours = sparsity.strip_pruning(model).get_weights()[0]
    np.testing.assert_array_equal(ours, theirs)
    assert np.count_nonzero(ours) == 16


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ConstantSparsity", [0.5, 2, 20, 3]),
        ("ConstantSparsity", [0.5, 0, -1, 10]),
        ("PolynomialDecay", [0.2, 0.8, 4, 24, 3, 5]),
        ("PolynomialDecay", [0.0, 0.9, 0, 21, 1, 7]),
        ("PolynomialDecay", [0.3, 0.3, 5, 13, 2, 1]),
    ],
)
def test_schedules_say_the_same(tfmot, name, arguments):
    steps = list(range(31))
    theirs = tfmot("schedule", name, arguments, steps)
    schedule = getattr(sparsity, name)(*arguments)
    for step, (due, amount) in zip(steps, theirs, strict=True):
        found = schedule(step)
        assert bool(found[0]) == due, step
        assert float(found[1]) == pytest.approx(amount, abs=1e-6)


def test_names_and_arguments_are_the_same(tfmot):
    theirs = tfmot("names")
    assert sorted([*theirs, "load"]) == sorted(sparsity.__all__)
    for name, expected in theirs.items():
        found = inspect.signature(getattr(sparsity, name)).parameters.values()
        said = [str(p.replace(annotation=inspect.Parameter.empty)) for p in found]
        if name == "prune_low_magnitude":  # The default is an object.
            said[1], expected[1] = said[1].split("=")[0], expected[1].split("=")[0]
        if name.startswith(("PrunableLayer", "Pruning", "PruneFor", "Update")):
            continue  # Without a constructor of their own, or checked below.
        assert said == expected, name
    summaries = inspect.signature(sparsity.PruningSummaries).parameters
    assert list(summaries) == ["log_dir", "update_freq", "kwargs"]


def test_where_tfmot_and_kprune_are_mixed_it_is_said(tfmot):
    quoted = "`prune_low_magnitude` can only prune an object of the following types"
    alone, schedule, policy, theirs = tfmot("mixed")
    for said in (alone, schedule, policy):
        assert "is imported beside kprune.compat.tfmot. It refuses" in said
        assert quoted in said
    for said in (schedule, policy):
        assert "kprune.compat.tfmot has one of the same name, for Keras 3." in said
    assert theirs.startswith(quoted)
