"""Dynamic sparse training: what exchanges, what stays, and what is left behind."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
import settings
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from models import compiled, of_all_layers, sequential

import kprune
from kprune import slots
from kprune.layers import mask_constraints, values

L = keras.layers
WARNS = kprune.PruningWarning
UNCOUPLED = [g for g in settings.GRANULARITIES if not isinstance(g, kprune.Channel)]
BOTH = pytest.mark.parametrize("regrowth", settings.REGROWTHS, ids=settings.name)


def masks(model):
    return {path: values(c.mask) for path, c in mask_constraints(model).items()}


class EachMask(keras.callbacks.Callback):
    """Keeps the masks and the weights at the end of each batch."""

    def __init__(self):
        super().__init__()
        self.masks, self.weights = [], []

    def on_train_batch_end(self, batch, logs=None):
        held = mask_constraints(self.model)
        found = {v.path: values(v).copy() for v in self.model.weights if v.path in held}
        for path, constraint in held.items():
            assert not found[path][~values(constraint.mask)].any(), path
        self.masks.append({path: values(c.mask).copy() for path, c in held.items()})
        self.weights.append(found)


# --- Which units are exchanged --------------------------------------------------------


def test_lowest_kept_gives_way_to_highest_growth():
    mask = np.array([[True, True, False], [True, False, True]])
    scores = np.array([[3.0, 1.0, 0.0], [4.0, 0.0, 2.0]])
    growth = np.array([[9.0, 0.0, 2.0], [9.0, 5.0, 9.0]])
    new = kprune.Element().exchange(mask, scores, growth, num_pruned=2, rate=0.25)
    np.testing.assert_array_equal(new, [[True, False, False], [True, True, True]])


def test_what_gave_way_may_come_back():
    mask = np.array([True, True, False])
    scores = np.array([1.0, 2.0, 0.0])
    growth = np.array([8.0, 0.0, 7.0])
    new = kprune.Element().exchange(mask, scores, growth, num_pruned=1, rate=0.5)
    np.testing.assert_array_equal(new, mask)


def test_a_lower_count_prunes_before_it_exchanges():
    mask = np.array([True, True, True, True, False])
    scores = np.array([1.0, 2.0, 3.0, 4.0, 0.0])
    growth = np.array([0.0, 0.0, 0.0, 0.0, 1.0])
    new = kprune.Element().exchange(mask, scores, growth, num_pruned=3, rate=0.5)
    np.testing.assert_array_equal(new, [False, False, False, True, True])


def test_blocks_are_exchanged_whole():
    mask = np.array([[True, True, False, False]])
    scores = np.array([[1.0, 2.0, 0.0, 0.0]])
    growth = np.array([[1.0, 1.0, 0.0, 3.0]])
    block = kprune.Block((1, 2))
    new = block.exchange(mask, scores, growth, num_pruned=1, rate=0.9)
    np.testing.assert_array_equal(new, mask)  # Nine tenths of one block are none.
    mask, scores, growth = (np.tile(a, (2, 1)) for a in (mask, scores, growth))
    scores[1] *= 2
    new = block.exchange(mask, scores, growth, num_pruned=2, rate=0.5)
    # The block of the higher score stays; of equal growth the last one is next.
    np.testing.assert_array_equal(new, [[False] * 4, [True] * 4])


def test_n_of_m_exchanges_inside_of_its_groups():
    mask = np.array([[True, True, False, False, False, True, True, False]])
    scores = np.array([[5.0, 1.0, 0.0, 0.0, 0.0, 6.0, 7.0, 0.0]])
    growth = np.array([[0.0, 0.0, 1.0, 2.0, 9.0, 0.0, 0.0, 9.0]])
    new = kprune.NofM(2, 4).exchange(mask, scores, growth, num_pruned=2, rate=0.25)
    kept = [[True, False, False, True, False, True, True, False]]
    np.testing.assert_array_equal(new, kept)


@pytest.mark.parametrize("granularity", UNCOUPLED, ids=settings.name)
@given(drawn=st.data())
def test_counts_are_exact_and_the_best_stay(granularity, drawn):
    shape = drawn.draw(st.sampled_from([(4, 8), (6, 2, 2, 4), (5, 9)]))
    whole = arrays.arrays("float32", shape, elements=st.integers(1, 5))
    scores, growth = drawn.draw(whole), drawn.draw(whole)
    num_units = granularity.unit_scores(scores).size
    before, after = sorted(drawn.draw(st.tuples(*[st.integers(0, num_units)] * 2)))
    rate = drawn.draw(st.sampled_from([0.0, 0.3, 0.9]))
    mask = granularity.mask(scores, before)
    scores = np.where(mask, scores, 0)
    new = granularity.exchange(mask, scores, growth, after, rate)
    assert np.count_nonzero(granularity.unit_scores(new) == 0) == after
    if rate == 0:
        assert not (new & ~mask).any()
        if before == after:
            np.testing.assert_array_equal(new, mask)
    if not isinstance(granularity, kprune.NofM):
        moved = np.count_nonzero(granularity.unit_scores(new & ~mask))
        assert moved <= rate * (num_units - after)


def test_the_rate_falls_along_a_cosine_and_ends():
    regrowth = kprune.RigL(0.4, begin_step=100, end_step=200, frequency=10)
    rates = [regrowth.rate(step) for step in (99, 100, 125, 150, 199, 200, 300)]
    np.testing.assert_allclose(
        rates, [0, 0.4, 0.2 * (1 + 2**-0.5), 0.2, 0.2 * (1 - np.cos(np.pi / 100)), 0, 0]
    )


def test_rigl_goes_by_the_gradient_and_set_by_lot():
    weight = np.ones((2, 3), "float32")
    gradient = np.array([[1.0, -2.0, 0.0], [0.5, 0.0, -4.0]])
    np.testing.assert_array_equal(
        kprune.RigL().growth(weight, step=3, gradient=gradient), abs(gradient)
    )
    lots = kprune.SET(seed=1).growth(weight, step=3, place=0)
    assert lots.shape == (2, 3)
    again = kprune.SET(seed=1).growth(weight, step=3, place=0)
    np.testing.assert_array_equal(lots, again)
    for seed, step, place in [(2, 3, 0), (1, 4, 0), (1, 3, 1)]:
        other = kprune.SET(seed=seed).growth(weight, step=step, place=place)
        assert (lots != other).all()


# --- In training ----------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("granularity", UNCOUPLED, ids=settings.name)
def test_masks_move_and_keep_their_counts(regrowth, granularity, data):
    model, seen = compiled(sequential()), EachMask()
    callback = kprune.PruningCallback(
        schedule=kprune.ConstantSparsity(
            granularity.fixed_sparsity or 0.5  # N:M leaves no choice.
        ),
        granularity=granularity,
        regrowth=regrowth,
        data=data,
    )
    model.fit(*data, batch_size=16, epochs=4, verbose=0, callbacks=[callback, seen])
    for path, first in seen.masks[0].items():
        counts = {np.count_nonzero(each[path]) for each in seen.masks}
        # Where units are of several sizes, one may take the place of another.
        slack = 0 if isinstance(granularity, kprune.Element | kprune.NofM) else 0.1
        assert max(counts) - min(counts) <= slack * first.size, path
    moved = [
        any((a[path] != b[path]).any() for path in a)
        for a, b in itertools.pairwise(seen.masks)
    ]
    # Three quarters of 24 steps; the rate is too low for one weight near the end.
    assert any(moved)
    assert not any(moved[18:])


@BOTH
def test_sparse_from_the_first_step_on_with_erk(regrowth, data):
    model, seen = compiled(sequential()), EachMask()
    callback = kprune.PruningCallback(0.8, regrowth=regrowth, data=data)
    model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[callback, seen])
    assert callback.history[0][0] == 0
    shapes = [(3, 3, 1, 6), (216, 16), (16, 3)]
    facts = [kprune.allocation.Facts((str(s),), s) for s in shapes]
    expected = kprune.Erk().num_pruned(
        [np.zeros(np.prod(shape)) for shape in shapes], 0.8, facts
    )
    for each in (seen.masks[0], seen.masks[-1]):
        pruned = [np.count_nonzero(~mask) for mask in each.values()]
        assert pruned == expected


def test_what_grows_begins_at_zero_and_what_comes_back_at_its_value(data):
    model, seen = compiled(sequential(), keras.optimizers.SGD(0.01)), EachMask()
    regrowth = kprune.SET(0.9, begin_step=0, end_step=7, frequency=6)
    callback = kprune.PruningCallback(0.5, regrowth=regrowth)
    model.fit(*data, batch_size=12, epochs=1, verbose=0, callbacks=[callback, seen])
    before, after = seen.masks[4], seen.masks[5]
    grown = sum(np.count_nonzero(after[p] & ~before[p]) for p in after)
    assert grown > 0
    for path in after:
        weights = seen.weights[5][path]
        assert not weights[after[path] & ~before[path]].any()
        assert np.count_nonzero(weights[after[path] & before[path]])


def test_pruning_and_regrowth_take_turns_where_sparsity_rises(data):
    model, seen = compiled(sequential()), EachMask()
    callback = kprune.PruningCallback(
        schedule=kprune.PolynomialDecay(0.5, 0.8, 2, 14, frequency=4),
        regrowth=kprune.SET(begin_step=0, end_step=18, frequency=2),
        allocation="global",
    )
    model.fit(*data, batch_size=16, epochs=4, verbose=0, callbacks=[callback, seen])
    sparsities = [sparsity for _, sparsity in callback.history]
    assert sparsities == sorted(sparsities)
    assert sparsities[0] == pytest.approx(0.5, abs=1e-3)
    assert sparsities[-1] == pytest.approx(0.8, abs=1e-3)
    grown = [
        sum(np.count_nonzero(b[path] & ~a[path]) for path in b)
        for a, b in itertools.pairwise(seen.masks)
    ]
    assert np.count_nonzero(grown) >= 5


@BOTH
def test_masks_move_in_every_layer_of_keras(regrowth):
    random = np.random.default_rng(0)
    x = random.normal(size=(16, 8, 8, 4)), random.integers(0, 16, (16, 6))
    y, seen = random.integers(0, 3, 16), EachMask()
    callback = kprune.PruningCallback(
        0.5,
        allocation="uniform",
        prune_depthwise=True,
        regrowth=dataclasses.replace(regrowth, fraction=0.9, end_step=4, frequency=1),
        data=(x, y),
        num_batches=1,
    )
    model = of_all_layers()
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[seen, callback])
    first, *_, last = seen.masks[1:]
    assert len(last) == 25
    for path, mask in last.items():
        assert np.count_nonzero(mask) == mask.size - round(0.5 * mask.size), path
        assert (mask != first[path]).any(), path


def of_five_inputs():
    """Data whose labels depend on 5 of 100 inputs."""
    x = np.random.default_rng(0).normal(size=(1000, 100)).astype("float32")
    return x, x[:, ::20].sum(1) > 0


def test_rigl_finds_the_inputs_that_matter():
    x, y = of_five_inputs()
    shares = {}
    for name, arguments in {
        "rigl": dict(sparsity=0.97, regrowth="rigl", data=(x, y)),
        "static": dict(schedule=kprune.ConstantSparsity(0.97), allocation="erk"),
    }.items():
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [L.Input((100,)), L.Dense(64, activation="relu"), L.Dense(2)]
        )
        compiled(model, keras.optimizers.Adam(0.01))
        callback = kprune.PruningCallback(**arguments)
        model.fit(x, y, batch_size=25, epochs=5, verbose=0, callbacks=[callback])
        kernel = model.layers[0].kernel.numpy() != 0
        shares[name] = kernel[::20].sum() / kernel.sum()
    assert shares["static"] < 0.08  # One in twenty inputs.
    assert shares["rigl"] > 3 * shares["static"]


def test_in_a_loop_of_ones_own(data):
    model = compiled(sequential())
    pruner = kprune.Pruner(
        model, sparsity=0.8, regrowth="rigl", data=data, steps_per_epoch=6, epochs=4
    )
    first = masks(model)
    for _ in range(4):
        for start in range(0, 96, 16):
            model.train_on_batch(*(part[start : start + 16] for part in data))
            pruner.step()
    pruner.finish()
    assert any((first[path] != mask).any() for path, mask in masks(model).items())
    assert pruner.sparsity == pytest.approx(0.8, abs=1e-3)


def test_moments_in_epochs_need_the_length_of_training(data):
    with pytest.raises(ValueError, match="RigL.*Say steps_per_epoch="):
        kprune.Pruner(compiled(sequential()), sparsity=0.8, regrowth="rigl", data=data)


# --- Resuming -------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("wrapped", [False, True])
def test_resumed_training_gives_the_same_weights(regrowth, wrapped, data, tmp_path):
    # Weights are told from a file by their zeros, which new ones have at first.
    regrowth = dataclasses.replace(regrowth, frequency=5)
    arguments = {} if wrapped else dict(sparsity=0.7, regrowth=regrowth)

    def fresh():
        keras.utils.set_random_seed(0)
        model = sequential()
        if wrapped:
            model = kprune.prune(model, 0.7, regrowth=regrowth)
        return compiled(model)

    class Interrupted(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.save(tmp_path / f"{epoch}.keras")

    whole = fresh()
    whole.fit(
        *data,
        batch_size=16,
        epochs=4,
        shuffle=False,
        verbose=0,
        callbacks=[kprune.PruningCallback(data=data, **arguments), Interrupted()],
    )
    resumed = keras.models.load_model(tmp_path / "1.keras")
    resumed.fit(
        *data,
        batch_size=16,
        epochs=4,
        initial_epoch=2,
        shuffle=False,
        verbose=0,
        callbacks=[kprune.PruningCallback(data=data, **arguments)],
    )
    for a, b in zip(whole.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)


def test_a_restored_epoch_keeps_its_own_masks(data):
    class Restore(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                self.weights = self.model.get_weights()

        def on_train_end(self, logs=None):
            self.model.set_weights(self.weights)

    model, restore = compiled(sequential()), Restore()
    callback = kprune.PruningCallback(0.8, regrowth=kprune.SET(0.9))
    model.fit(*data, batch_size=16, epochs=4, verbose=0, callbacks=[restore, callback])
    for a, b in zip(model.get_weights(), restore.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    for path, mask in masks(model).items():
        weight = next(v for v in model.weights if v.path == path)
        np.testing.assert_array_equal(mask, weight.numpy() != 0)


# --- The optimizer's slots ------------------------------------------------------------

OPTIMIZERS = {
    name: cls
    for name, cls in vars(keras.optimizers).items()
    if isinstance(cls, type)
    and issubclass(cls, keras.optimizers.Optimizer)
    and name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slots_become_those_of_a_new_weight(name):
    make = OPTIMIZERS[name]
    kwargs = {}
    if name in ("SGD", "RMSprop"):
        kwargs["momentum"] = 0.9
    if name.startswith("Adam") and name != "Adamax" and name != "Adafactor":
        kwargs["amsgrad"] = True
    weight = keras.Variable(np.ones((4, 3), "float32"), name="kernel")
    other = keras.Variable(np.ones((4, 3), "float32"), name="kernel_1")
    optimizer, fresh = make(use_ema=True, **kwargs), make(use_ema=True, **kwargs)
    gradient = keras.ops.convert_to_tensor(np.full((4, 3), 0.5, "float32"))
    for each, steps in ((optimizer, 3), (fresh, 0)):
        each.build([other, weight])
        for _ in range(steps):
            each.apply([gradient, gradient], [other, weight])
    before = [v.numpy().copy() for v in optimizer.variables]
    at = np.zeros((4, 3), bool)
    at[1] = True
    slots.reset([optimizer], weight, at)
    changed = 0
    for variable, was, new in zip(
        optimizer.variables, before, fresh.variables, strict=True
    ):
        mine = "kernel_1" not in variable.path and variable.shape == (4, 3)
        if mine and name == "ScheduleFreeAdamW" and "momentum" in variable.path:
            assert not variable.numpy()[at].any()  # It is a copy of the weight.
            changed += 1
        elif mine and "average" not in variable.path:
            np.testing.assert_array_equal(variable.numpy()[at], new.numpy()[at])
            np.testing.assert_array_equal(variable.numpy()[~at], was[~at])
            changed += not np.array_equal(variable.numpy(), was)
        elif mine:  # That of a weight at zero.
            assert not variable.numpy()[at].any()
        else:
            np.testing.assert_array_equal(variable.numpy(), was, err_msg=variable.path)
    assert changed or name in ("Adafactor",)


def test_an_exchange_resets_slots(data):
    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 5:
                kernel = self.model.layers[-1].kernel
                index = self.model.optimizer._get_variable_index(kernel)
                self.momentum = self.model.optimizer.momentums[index].numpy()
                self.kernel = kernel.numpy()
                self.mask = masks(self.model)[kernel.path]

    model = compiled(sequential(), keras.optimizers.SGD(0.1, momentum=0.9))
    regrowth = kprune.SET(0.9, begin_step=0, end_step=7, frequency=6)
    callback = kprune.PruningCallback(0.5, regrowth=regrowth, allocation="uniform")
    look = Look()
    model.fit(*data, batch_size=12, verbose=0, callbacks=[callback, look])
    grown = look.mask & (look.kernel == 0)
    assert grown.any()
    assert not look.momentum[grown].any()
    assert look.momentum[look.mask & ~grown].all()


# --- Refusals and warnings ------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(fraction=0), r"`fraction` is the share .* in \(0, 1\). Received 0"),
        (dict(fraction=1.0), r"in \(0, 1\). Received 1.0"),
        (dict(fraction="all"), r"in \(0, 1\). Received 'all'"),
        (dict(frequency=0), "`frequency` must be at least 1"),
        (dict(begin_step=9, end_step=3), "the end must not lie before the begin"),
    ],
)
@BOTH
def test_bad_settings(regrowth, arguments, message):
    with pytest.raises(ValueError, match=message):
        type(regrowth)(**arguments)


def test_bad_seed():
    with pytest.raises(ValueError, match="`seed` must be an integer of at least 0"):
        kprune.SET(seed=-1)


def test_channels_do_not_grow_back():
    with pytest.raises(ValueError, match="channel whose weights are all zero"):
        kprune.PruningCallback(0.5, granularity="channel", regrowth="set")


def test_nothing_grows_above_a_threshold():
    with pytest.raises(ValueError, match="begins at zero, below any threshold"):
        kprune.PruningCallback(0.5, allocation=kprune.Threshold(0.1), regrowth="set")


def test_unknown_regrowth():
    with pytest.raises(ValueError, match=r"Unknown regrowth 'rigle'. Did you mean"):
        kprune.PruningCallback(0.5, regrowth="rigle")


def test_rigl_needs_data():
    with pytest.raises(ValueError, match=r"the regrowth RigL.* needs data.*'set'"):
        kprune.PruningCallback(0.5, regrowth="rigl")


def test_a_fit_without_an_exchange_is_told(data):
    regrowth = kprune.SET(frequency=100)
    with pytest.warns(WARNS, match="exchanges no weight.*would be at step 100"):
        compiled(sequential()).fit(
            *data,
            batch_size=16,
            verbose=0,
            callbacks=[kprune.PruningCallback(0.5, regrowth=regrowth)],
        )


def test_a_fit_that_ends_among_exchanges_is_told(data):
    regrowth = kprune.SET(begin_step=0, end_step=100)
    with pytest.warns(WARNS, match="ends at step 6.*weights up to step 100"):
        compiled(sequential()).fit(
            *data,
            batch_size=16,
            verbose=0,
            callbacks=[kprune.PruningCallback(0.5, regrowth=regrowth)],
        )


def test_gradients_that_are_not_finite_leave_masks_as_they_are(data):
    x, y = data
    broken = np.full_like(x[:8], np.nan), y[:8]
    model = compiled(sequential())
    callback = kprune.PruningCallback(0.5, regrowth="rigl", data=broken)
    with pytest.warns(WARNS, match="scores NaN, so that the masks stay"):
        model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    assert callback.history == [(0, pytest.approx(0.5, abs=1e-3))]
