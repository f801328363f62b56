"""Scores by hand, and what holds for every criterion."""

import pathlib

import keras
import ml_dtypes
import numpy as np
import pytest
import settings

import kprune
from kprune.criteria import Criterion

BESIDE = {
    "gradient": lambda shape: np.random.default_rng(1).normal(size=shape),
    "squared_gradient": lambda shape: np.random.default_rng(2).random(shape),
    "input_norm": lambda shape: np.random.default_rng(3).random(shape),
    "output_axes": lambda shape: (len(shape) - 1,),
    "synaptic_flow": lambda shape: np.random.default_rng(4).random(shape),
    "place": lambda shape: 2,
    "axis": lambda shape: len(shape) - 1,
}
# The gradients of the network in tests/test_evidence.py.
WEIGHT = np.array([[1.0, -2.0], [2.0, 3.0]], "float32")
GRADIENT = np.array([[-8.0, 16.0], [-16.0, 32.0]], "float32")


def score(criterion, weight):
    """Scores a weight, with something or other beside it."""
    beside = {name: BESIDE[name](weight.shape) for name in criterion.needs}
    return criterion.score(weight, **beside)


def test_magnitude_by_hand():
    weight = np.array([[-3.0, 0.5], [0.0, -0.25]], "float32")
    assert kprune.Magnitude().score(weight).tolist() == [[3.0, 0.5], [0.0, 0.25]]


def test_random_is_drawn_from_seed_and_place_and_keeps_its_order():
    weight = np.ones((50, 40), "float32")
    first = kprune.Random().score(weight, place=0)
    assert (first > 0).all() and (first <= 1).all()
    assert first.mean() == pytest.approx(0.5, abs=0.05)
    changed = weight.copy()
    changed[0] = 0  # Pruned: these go first from then on, and others as before.
    later = kprune.Random().score(changed, place=0)
    assert not later[0].any()
    np.testing.assert_array_equal(later[1:], first[1:])
    for other in (
        kprune.Random().score(weight, place=1),
        kprune.Random(1).score(weight, place=0),
    ):
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.1


def test_taylor_by_hand():
    scores = kprune.Taylor().score(WEIGHT, squared_gradient=GRADIENT**2)
    assert scores.tolist() == [[8.0, 32.0], [32.0, 96.0]]


def test_snip_by_hand():
    scores = kprune.Snip().score(WEIGHT, gradient=GRADIENT)
    assert scores.tolist() == [[8.0, 32.0], [32.0, 96.0]]


def test_movement_by_hand():
    scores = kprune.Movement().score(WEIGHT, gradient=GRADIENT)
    # -w * g is 8, 32, 32, -96: exp(asinh(x)) is x + sqrt(1 + x ** 2).
    expected = [x + (1 + x**2) ** 0.5 for x in (8.0, 32.0, 32.0)]
    np.testing.assert_allclose(scores.ravel()[:3], expected)
    np.testing.assert_allclose(scores[1, 1], (1 + 96**2) ** 0.5 - 96, rtol=1e-9)


def test_movement_keeps_small_differences_apart_and_zeros_go_first():
    weight = np.array([1.0, 1.0, 0.0, -1.0], "float32")
    gradient = np.array([1e-9, 2e-9, -5.0, 1e-9], "float32")
    scores = kprune.Movement().score(weight, gradient=gradient)
    assert np.argsort(scores).tolist() == [2, 1, 0, 3]
    assert scores[2] == 0 < scores[1]


def test_movement_since_a_start_by_hand():
    weight = np.array([2.0, -3.0, 1.0, 0.0], "float32")
    start = np.array([-1.0, -3.0, 3.0, 9.0], "float32")
    scores = kprune.Movement("begin.weights.h5").score(weight, start=start)
    # w ** 2 / 2 grew by 1.5, by nothing and by -4; what is zero goes first.
    assert scores[3] == 0
    np.testing.assert_allclose(np.sinh(np.log(scores[:3])), [1.5, 0, -4], atol=1e-12)


def test_all_movement_is_what_single_steps_add_up_to():
    random = np.random.default_rng(0)
    path = np.cumsum(random.normal(size=(50, 20)), axis=0)
    midway, steps = (path[1:] + path[:-1]) / 2, np.diff(path, axis=0)
    criterion = kprune.Movement("begin.weights.h5")
    scores = criterion.score(path[-1], start=path[0])
    summed = (midway * steps).sum(axis=0)
    np.testing.assert_allclose(np.sinh(np.log(scores)), summed, rtol=1e-9)


def test_wanda_by_hand():
    weight = np.array([[1.0, -2.0], [3.0, 1.0], [-2.0, 4.0]])
    norm = np.array([[5.0], [1.0], [1.0]]) * np.ones((1, 2))
    # |w| * norm is 5, 3, 2 for the first output and 10, 1, 4 for the second.
    scores = kprune.Wanda().score(weight, input_norm=norm, output_axes=(1,))
    np.testing.assert_allclose(scores, [[1, 1], [2 / 3, 1 / 3], [1 / 3, 2 / 3]])
    mask = kprune.Element().mask(scores, 2)
    assert mask.tolist() == [[True, True], [True, False], [False, True]]


def test_wanda_ranks_within_outputs_of_any_axes():
    weight = np.random.default_rng(0).normal(size=(4, 3, 5))
    norm = np.ones(weight.shape)
    scores = kprune.Wanda().score(weight, input_norm=norm, output_axes=(0, 2))
    for a in range(4):
        for c in range(5):
            order = np.argsort(np.argsort(abs(weight[a, :, c])))
            np.testing.assert_allclose(scores[a, :, c], (order + 1) / 3)


def test_geometric_median_by_hand():
    filters = np.array([[0.0, 3.0, 3.0, 0.0], [1.0, 5.0, 1.0, 0.0]])
    scores = kprune.GeometricMedian().score(filters, axis=1)
    # The last one is pruned. Distances are 5, 3 and 4.
    np.testing.assert_allclose(np.linalg.norm(scores, axis=0), [8, 9, 7, 0])
    rows = kprune.GeometricMedian().score(filters.T, axis=0)
    np.testing.assert_allclose(rows, scores.T)


def test_synflow_by_hand():
    flow = np.array([[1.0, 2.0], [1.0, 2.0]])
    scores = kprune.SynFlow().score(WEIGHT, synaptic_flow=flow)
    assert scores.tolist() == [[1.0, 4.0], [2.0, 6.0]]


def test_synflow_goes_by_equal_factors():
    targets = kprune.SynFlow(rounds=100).targets(0.5, 0.95)
    densities = 1 - np.array([0.5, *targets])
    np.testing.assert_allclose(densities[1:] / densities[:-1], 0.1**0.01)
    assert (len(targets), targets[-1]) == (100, 0.95)
    assert kprune.SynFlow().targets(0.5, 0.4) == [0.4]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: kprune.Magnitude(order=3), "`order` must be 1 or 2. Received 3"),
        (lambda: kprune.Random(seed=-1), "`seed` must be an integer.*Received -1"),
        (lambda: kprune.SynFlow(rounds=0), "`rounds` must be.*Received 0"),
        (lambda: kprune.Movement("begin.keras"), r"'.weights.h5'. Received 'begin.k"),
        (
            lambda: kprune.Rule(0.5, criterion="geometric_median"),
            r"GeometricMedian\(\) compares whole channels.*granularity='channel'",
        ),
        (
            lambda: kprune.Rule(0.5, criterion="batch_norm_scale"),
            r"BatchNormScale\(\) compares whole channels",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_a_start_is_a_path_that_is_kept_as_text():
    with pytest.raises(TypeError, match="path of a file with weights.*Received 3"):
        kprune.Movement(3)
    path = pathlib.Path("a", "begin.weights.h5")
    assert kprune.Movement(path).get_config() == {"since": str(path)}


def test_sparsity_is_spread_as_suits_the_criterion():
    def allocation(criterion, **rule):
        return kprune.Rule(0.5, criterion=criterion, **rule).allocation

    assert allocation("magnitude") == kprune.Lamp()
    assert allocation("random") == allocation("wanda") == kprune.Uniform()
    assert allocation("snip") == allocation("synflow") == kprune.Global()
    assert allocation("snip", allocation="lamp") == kprune.Lamp()
    assert allocation("snip", granularity="channel") == kprune.Uniform()
    assert allocation("taylor", granularity=kprune.NofM(2, 4)) == kprune.Uniform()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ml_dtypes.bfloat16])
@pytest.mark.parametrize("criterion", settings.CRITERIA, ids=settings.name)
def test_scores_have_the_weights_shape_and_leave_it_alone(criterion, dtype):
    weight = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(dtype)
    before = weight.copy()
    scores = score(criterion, weight)
    assert scores.shape == weight.shape
    assert scores.dtype in (np.float32, np.float64)
    assert not np.shares_memory(scores, weight)
    assert scores.flags.writeable
    np.testing.assert_array_equal(weight, before)
    np.testing.assert_array_equal(score(criterion, weight), scores)


@pytest.mark.parametrize("criterion", settings.CRITERIA, ids=settings.name)
def test_what_is_zero_scores_zero_and_nothing_less(criterion):
    weight = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
    weight[:, 2] = 0
    scores = score(criterion, weight)
    assert not scores[:, 2].any()
    assert (np.delete(scores, 2, axis=1) > 0).all()


@pytest.mark.parametrize("criterion", settings.CRITERIA, ids=settings.name)
def test_nan_in_what_is_looked_at_is_nan_in_the_scores(criterion):
    weight = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
    for name in criterion.needs:
        if name not in ("output_axes", "place", "axis"):
            beside = {n: BESIDE[n](weight.shape) for n in criterion.needs}
            beside[name] = np.full(weight.shape, np.nan)
            assert np.isnan(criterion.score(weight, **beside)).all()


def test_every_criterion_says_where_it_is_from():
    for criterion in settings.CRITERIA:
        text = type(criterion).__doc__
        assert isinstance(criterion, kprune.Random) or "https://arxiv.org/abs" in text


def test_a_new_criterion_may_need_something():
    class Sensitivity(Criterion):
        needs = ("gradient",)

        def score(self, weight, gradient):
            return np.abs(gradient) * (weight != 0)

    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    rule = kprune.Rule(kprune.ConstantSparsity(0.5, 0), criterion=Sensitivity())
    x = np.array([[1.0, 2.0]], "float32")
    callback = kprune.PruningCallback(plan=kprune.Plan(rule), data=(x, np.ones((1, 2))))
    model.fit(x, np.ones((1, 2)), verbose=0, callbacks=[callback])
    # The gradient is proportional to the input.
    assert callback.report.sparsity == 0.5


def test_a_criterion_that_needs_what_nobody_knows_is_refused():
    class Curvature(Criterion):
        needs = ("hessian",)

        def score(self, weight, hessian):
            return hessian

    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    callback = kprune.PruningCallback(
        schedule=kprune.ConstantSparsity(0.5, 0), criterion=Curvature()
    )
    with pytest.raises(TypeError, match=r"needs 'hessian'. .*'gradient'"):
        model.fit(np.ones((1, 2)), np.ones((1, 2)), verbose=0, callbacks=[callback])
