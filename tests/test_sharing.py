"""Weights that share values: in a copy, and while `fit` trains."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from models import KINDS, compiled, sequential

import kprune
from kprune.clustering import Clustering
from kprune.layers import mask_of, values
from kprune.prunable import candidates
from kprune.shared import ClusterConstraint, clusters_of

L = keras.layers
WARNS = kprune.PruningWarning
pytestmark = pytest.mark.filterwarnings("ignore:`shuffle=True`:UserWarning")


def kernels(model):
    return [w for w in model.weights if w.path.endswith("kernel")]


def num_values(weight):
    return len(np.unique(np.append(weight.numpy(), 0)))


def half_zero(model):
    for weight in kernels(model):
        value = weight.numpy()
        value[np.abs(value) < np.median(np.abs(value))] = 0
        weight.assign(value)
    return model


def in_order(data):
    return tf.data.Dataset.from_tensor_slices(data).batch(16)


class AtEachBatch(keras.callbacks.Callback):
    """Keeps what any other callback would see after each batch."""

    def __init__(self):
        super().__init__()
        self.values, self.zeros = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.values.append(max(map(num_values, kernels(self.model))))
        self.zeros.append(sum((w.numpy() == 0).sum() for w in kernels(self.model)))
        for weight in kernels(self.model):
            assert not np.signbit(weight.numpy()[weight.numpy() == 0]).any()


# --- A copy with shared values --------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_shares_values_and_keeps_zeros(kind, data):
    model = compiled(KINDS[kind]())
    model(data[0][:1])
    half_zero(model)
    before = model.get_weights()
    copy = kprune.cluster(model, 8)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert copy is not model and copy.optimizer is not None
    for old, new in zip(kernels(model), kernels(copy), strict=True):
        assert num_values(new) <= 8
        np.testing.assert_array_equal(new.numpy() == 0, old.numpy() == 0)
    report = copy.clustering_report
    assert report.clustered and [w.values for w in report.weights] == [
        num_values(w) for w in kernels(copy)
    ]
    zeros = sum((w.numpy() == 0).sum() for w in kernels(copy))
    assert sum(w.zeros for w in report.weights) == zeros
    for old, new in zip(model.weights, copy.weights, strict=True):
        if not old.path.endswith("kernel"):
            np.testing.assert_array_equal(old.numpy(), new.numpy())


def test_values_per_channel():
    copy = kprune.cluster(half_zero(sequential()), 4, per_channel=True)
    for weight, kernel in zip(
        copy.clustering_report.weights, kernels(copy), strict=True
    ):
        rows = kernel.numpy().reshape(-1, kernel.shape[-1]).T
        assert max(len(np.unique(row)) for row in rows) == weight.values <= 4
        assert len(np.unique(kernel.numpy())) > 4
    assert "per channel" in str(copy.clustering_report)


def test_what_to_cluster_can_be_chosen():
    model = keras.Sequential(
        [
            L.Input((8, 8, 4)),
            L.SeparableConv2D(8, 3, name="separable"),
            L.Flatten(),
            L.Dense(5, name="head"),
        ]
    )

    def clustered(**arguments):
        report = kprune.cluster(model, 4, **arguments).clustering_report
        skipped = {s.path: s.reason for s in report.skipped}
        return {w.path for w in report.weights}, skipped

    point, depth = (
        f"{model.name}/separable/{name}_kernel" for name in ("pointwise", "depthwise")
    )
    found, skipped = clustered()
    assert (
        found == {point, f"{model.name}/head/kernel"} and "sensitive" in skipped[depth]
    )
    assert clustered(only="separable")[0] == {point, depth}
    assert clustered(skip=L.Dense)[0] == {point}


def test_the_copy_of_a_pruned_model_has_no_masks(data):
    model = compiled(kprune.prune(sequential(), 0.5))
    model.fit(*data, verbose=0, callbacks=[kprune.PruningCallback()])
    copy = kprune.cluster(model, 8)
    assert not any("mask" in w.path for w in copy.weights)
    asked = {w.path.split("/", 1)[-1]: (w.numpy() == 0).sum() for w in kernels(model)}
    assert sum(asked.values()) == sum(w.zeros for w in copy.clustering_report.weights)


@pytest.mark.parametrize(
    ("error", "said", "arguments"),
    [
        (
            ValueError,
            "cluster: `num_clusters` must be at least 2",
            dict(num_clusters=1),
        ),
        (ValueError, "Did you mean 'dense", dict(only="dens")),
        (ValueError, "fewer than 100000 values", dict(num_clusters=100000)),
    ],
)
def test_bad_input_leaves_the_model_as_it_was(error, said, arguments):
    model = sequential()
    before = model.get_weights()
    with pytest.raises(error, match=said):
        kprune.cluster(model, **arguments)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_too_few_values_are_an_error_and_the_model_is_as_it_was():
    clustered = kprune.cluster(sequential(), 8)
    before = clustered.get_weights()
    with pytest.raises(ValueError, match="has 7 values already"):
        kprune.cluster(clustered, 16)
    constant = keras.Sequential([L.Input((9,)), L.Dense(9, kernel_initializer="ones")])
    with pytest.raises(ValueError, match="all elements are 1, as they were init"):
        kprune.cluster(constant)
    constant.layers[0].kernel.assign(np.full((9, 9), np.nan))
    with pytest.raises(ValueError, match="holds values that are not finite"):
        kprune.cluster(constant)
    with pytest.raises(TypeError, match="expected a Keras 3 model"):
        kprune.cluster(L.Dense(3))
    with pytest.raises(ValueError, match="no weights yet"):
        kprune.cluster(keras.Sequential([L.Dense(3)]))
    for old, new in zip(before, clustered.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_report_is_shown_and_written():
    report = kprune.cluster(half_zero(sequential()), 4).clustering_report
    assert "conv2d" in str(report) and "bits" in str(report)
    read = json.loads(report.to_json())
    assert read["weights"][0]["index_bits"] == 2 and read["clustered"] is True
    assert read["sparsity"] == pytest.approx(0.5, abs=0.01)


# --- The constraint -------------------------------------------------------------------


def test_a_cluster_moves_by_the_mean_of_its_elements():
    weight = keras.Variable([[1.0, 1, 0], [2, 2, 2]])
    constraint = ClusterConstraint(weight, 3)
    stepped = np.array([[1.1, 1.3, 0.5], [2, 1.4, 2.9]], "float32")
    np.testing.assert_array_equal(constraint(stepped), stepped)  # Not shared yet.
    constraint.share(np.array([[1, 1, 0], [2, 2, 2]]))
    expected = [[1.2, 1.2, 0], [2.1, 2.1, 2.1]]
    np.testing.assert_allclose(constraint(stepped), expected, rtol=1e-6)
    # What a mask sets to zero has no say.
    stepped[1, 2] = 0
    expected = [[1.2, 1.2, 0], [1.7, 1.7, 0]]
    np.testing.assert_allclose(constraint(stepped), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_shared_values_stay_to_the_last_bit(dtype):
    # A sum of so many thirds has lost some of its digits.
    weight = keras.Variable(np.full(100_000, 1 / 3), dtype=dtype)
    constraint = ClusterConstraint(weight, 2)
    constraint.share(np.ones(100_000, np.int32))
    after = constraint(weight)
    assert keras.backend.standardize_dtype(after.dtype) == dtype
    np.testing.assert_array_equal(np.asarray(after), np.asarray(weight))


def test_the_constraint_that_a_weight_has_goes_before():
    model = keras.Sequential(
        [L.Input((16,)), L.Dense(16, kernel_constraint=keras.constraints.NonNeg())]
    )
    model.compile(keras.optimizers.SGD(1.0), "mse")
    x = np.random.default_rng(0).normal(size=(16, 16))
    callback = kprune.ClusteringCallback(4, 1)
    model.fit(x, -x, epochs=4, verbose=0, callbacks=[callback])
    assert model.layers[0].kernel.numpy().min() >= 0
    assert num_values(model.layers[0].kernel) <= 4
    kprune.release(model)
    assert isinstance(model.layers[0].kernel.constraint, keras.constraints.NonNeg)


# --- While fit trains -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "order"), [*((kind, 1) for kind in KINDS), ("sequential", -1)]
)
def test_pruning_and_clustering_in_one_fit_hold_at_each_batch(kind, order, data):
    model = compiled(KINDS[kind]())
    pruning, clustering = (
        kprune.PruningCallback(0.75),
        kprune.ClusteringCallback(8),
    )
    seen = AtEachBatch()
    both = [pruning, clustering][::order]
    model.fit(*data, batch_size=16, epochs=4, verbose=0, callbacks=[*both, seen])
    since = clustering.report.since
    assert since == 18 and len(seen.values) == 24
    assert seen.values[since - 2] > 8
    assert max(seen.values[since - 1 :]) <= 8
    total = sum(weight.numpy().size for weight in kernels(model))
    assert set(seen.zeros[since - 1 :]) == {round(0.75 * total)}
    report = clustering.report
    assert report.clustered and report.notices == {}
    assert report.sparsity == pytest.approx(pruning.report.sparsity)


def test_shared_values_are_trained(data):
    model = compiled(sequential())
    callback = kprune.ClusteringCallback(4, begin_step=0)
    model.fit(*data, batch_size=16, epochs=1, verbose=0, callbacks=[callback])
    first = [np.unique(weight.numpy()) for weight in kernels(model)]
    model.fit(*data, batch_size=16, epochs=1, verbose=0)  # Without any callback.
    for weight, before in zip(kernels(model), first, strict=True):
        now = np.unique(weight.numpy())
        assert len(now) == len(before) and (now != before).all()


def test_both_orders_and_each_run_give_the_same(data):
    def trained(order):
        keras.utils.set_random_seed(1)
        model = compiled(sequential())
        both = [kprune.PruningCallback(0.75), kprune.ClusteringCallback(8)][::order]
        model.fit(in_order(data), epochs=4, verbose=0, callbacks=both)
        return model.get_weights()

    once, again, swapped = trained(1), trained(1), trained(-1)
    for a, b, c in zip(once, again, swapped, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


@pytest.mark.parametrize(
    ("optimizer", "compiling"),
    [
        (keras.optimizers.SGD(0.1, momentum=0.9), {}),
        (keras.optimizers.Adam(use_ema=True, ema_overwrite_frequency=3), {}),
        (keras.optimizers.Adam(use_ema=True), {}),
        (keras.optimizers.Adam(), dict(jit_compile=True)),
        (keras.optimizers.Adam(), dict(run_eagerly=True)),
        (keras.optimizers.Adam(), dict(steps_per_execution=4)),
        (keras.optimizers.Adam(gradient_accumulation_steps=2), {}),
    ],
    ids=["momentum", "ema_often", "ema", "xla", "eager", "several_steps", "accumulate"],
)
def test_every_way_to_train_holds_the_values(optimizer, compiling, data):
    model = compiled(sequential(), optimizer, **compiling)
    pruning, clustering = kprune.PruningCallback(0.5), kprune.ClusteringCallback(8)
    model.fit(
        *data, batch_size=16, epochs=4, verbose=0, callbacks=[pruning, clustering]
    )
    assert clustering.report.clustered and clustering.report.sparsity >= 0.499
    assert clustering.report.since is not None


def test_wrappers_are_clustered_and_saved(data, tmp_path):
    model = compiled(kprune.prune(sequential(), 0.75))
    clustering = kprune.ClusteringCallback(8)
    model.fit(
        *data, verbose=0, epochs=4, callbacks=[kprune.PruningCallback(), clustering]
    )
    assert clustering.report.clustered
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for a, b in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_model_of_unknown_shape_is_clustered_once_it_is_built(data):
    model = compiled(keras.Sequential([L.Flatten(), L.Dense(16), L.Dense(3)]))
    clustering = kprune.ClusteringCallback(8)
    model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[clustering])
    assert clustering.report.clustered


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
def test_data_of_unknown_length(data):
    x, y = data
    unknown = tf.data.Dataset.from_generator(
        lambda: zip(x, y, strict=True),
        output_signature=(tf.TensorSpec((8, 8, 1)), tf.TensorSpec((), tf.int64)),
    ).batch(16)
    clustering = kprune.ClusteringCallback(8)
    compiled(model := sequential())
    model.fit(unknown, epochs=4, verbose=0, callbacks=[clustering])
    assert clustering.report.since == 21  # Seven steps an epoch, as Keras counts.
    with pytest.raises(ValueError, match="number of batches in an epoch is not known"):
        model.fit(unknown, verbose=0, callbacks=[kprune.ClusteringCallback(8)])


# --- Interrupted, loaded, released ----------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "per_channel"), [(1, False), (2, False), (3, False), (3, True)]
)
def test_resumed_equals_uninterrupted(stop, per_channel, data, tmp_path):
    def callbacks():
        clustering = kprune.ClusteringCallback(
            8, kprune.FitFraction(0.5), per_channel=per_channel
        )
        schedule = kprune.PolynomialDecay(0, 0.5, 0, kprune.FitFraction(0.25))
        return [kprune.PruningCallback(schedule=schedule), clustering]

    whole = compiled(sequential())
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    whole.fit(in_order(data), epochs=4, verbose=0, callbacks=[*callbacks(), checkpoint])
    second = keras.models.load_model(tmp_path / f"{stop}.keras")
    second.fit(
        in_order(data), epochs=4, initial_epoch=stop, verbose=0, callbacks=callbacks()
    )
    for a, b in zip(whole.weights, second.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)


def test_a_clustered_file_is_held_from_the_first_step_on(data, tmp_path):
    kprune.cluster(half_zero(compiled(sequential())), 8).save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    seen, clustering = AtEachBatch(), kprune.ClusteringCallback(8)
    model.fit(*data, batch_size=16, verbose=0, callbacks=[clustering, seen])
    assert clustering.report.since == 0
    assert max(seen.values) <= 8 and len(set(seen.zeros)) == 1


def test_release_and_strip_let_go(data):
    model = compiled(sequential())
    model.fit(*data, verbose=0, epochs=2, callbacks=[kprune.ClusteringCallback(8)])
    plain = kprune.strip(model)
    assert all(clusters_of(w) is None for w in plain.weights)
    assert any(clusters_of(w) is not None for w in model.weights)
    kprune.release(model)
    assert all(w.constraint is None for w in kernels(model))
    model.fit(*data, verbose=0)
    assert max(map(num_values, kernels(model))) > 8
    with pytest.raises(ValueError, match="held by a mask or a cluster"):
        kprune.release(model)


def test_a_new_fit_may_ask_for_fewer_values(data):
    model = compiled(sequential())
    for number in (16, 4):
        callback = kprune.ClusteringCallback(number, begin_step=0)
        model.fit(*data, verbose=0, callbacks=[callback])
        assert max(map(num_values, kernels(model))) <= number
    chain = kernels(model)[0].constraint
    assert isinstance(chain, ClusterConstraint) and chain.inner is None


def test_a_mask_lies_around_clusters_whichever_came_first(data):
    for first in (kprune.PruningCallback(0.5), kprune.ClusteringCallback(8)):
        model = compiled(sequential())
        model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[first])
        if isinstance(first, kprune.PruningCallback):
            second = kprune.ClusteringCallback(8)
            model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[second])
        else:
            kprune.hold_zeros(half_zero(model))
        for weight in kernels(model):
            assert mask_of(weight).inner is clusters_of(weight) is not None
            np.testing.assert_array_equal(
                values(weight) == 0, ~values(mask_of(weight).mask)
            )


# --- What is said ---------------------------------------------------------------------


def test_a_fit_that_ends_before_the_begin_is_told(data):
    model = compiled(sequential())
    with pytest.warns(
        WARNS, match="ends at step 6, and clustering begins after step 9"
    ):
        model.fit(
            *data, batch_size=16, verbose=0, callbacks=[kprune.ClusteringCallback(8, 9)]
        )


def test_weights_of_an_earlier_epoch_are_clustered_again_and_told(data):
    class Restore(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                self.early = self.model.get_weights()

        def on_train_end(self, logs=None):
            self.model.set_weights(self.early)

    model = compiled(sequential())
    clustering = kprune.ClusteringCallback(8)
    with pytest.warns(WARNS, match="were clustered again, without fine-tuning"):
        model.fit(*data, epochs=4, verbose=0, callbacks=[Restore(), clustering])
    assert max(map(num_values, kernels(model))) <= 8


def test_pruning_after_clustering_is_told(data):
    model = compiled(sequential())
    both = [kprune.PruningCallback(0.5), kprune.ClusteringCallback(8, 0)]
    with pytest.warns(WARNS, match="were pruned after values were shared at step 0"):
        model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=both)
    assert max(map(num_values, kernels(model))) <= 8


def test_a_weight_that_diverged_is_told(data):
    model = compiled(sequential())
    model.layers[-1].kernel.assign(np.full((16, 3), np.nan))
    with pytest.warns(WARNS, match="dense_1/kernel is not clustered at step 0: holds"):
        model.fit(*data, verbose=0, callbacks=[kprune.ClusteringCallback(8, 0)])


@pytest.mark.parametrize(
    ("error", "said", "arguments"),
    [
        (ValueError, "ClusteringCallback: `num_clusters`", dict(num_clusters=0)),
        (TypeError, "`begin_step` must be a step", dict(begin_step=0.5)),
        (ValueError, "must not be negative", dict(begin_step=-1)),
        (TypeError, "`optimizer` must be", dict(optimizer="adam")),
    ],
)
def test_bad_arguments(error, said, arguments):
    with pytest.raises(error, match=said):
        kprune.ClusteringCallback(**arguments)


def test_another_backend_is_refused(data, monkeypatch):
    model = compiled(sequential())
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="ClusteringCallback trains on Keras's Tensor"):
        model.fit(*data, verbose=0, callbacks=[kprune.ClusteringCallback()])


def test_weights_that_are_set_back_within_a_fit_are_told(data):
    class Noise(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                kernel = self.model.layers[0].kernel
                kernel.assign(kernel + keras.random.normal(kernel.shape))

    model = compiled(sequential())
    clustering = kprune.ClusteringCallback(8, 0)
    with pytest.warns(WARNS, match="had more values than they may have"):
        model.fit(*data, epochs=4, verbose=0, callbacks=[Noise(), clustering])
    assert clustering.report.clustered and len(clustering.report.notices) == 1


def test_nothing_to_cluster_is_refused_before_training(data):
    model = compiled(sequential())
    before = model.get_weights()
    with pytest.raises(ValueError, match="no weight of .* can be clustered"):
        model.fit(*data, verbose=0, callbacks=[kprune.ClusteringCallback(10_000)])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert all(w.constraint is None for w in model.weights)
    with pytest.raises(RuntimeError, match="no fit has begun"):
        _ = kprune.ClusteringCallback().report


def test_candidates_with_unknown_axes_have_no_channels():
    @keras.saving.register_keras_serializable("tests")
    class Scaled(L.Layer):
        def build(self, shape):
            self.matrix = self.add_weight(shape=(shape[-1], 40), name="matrix")
            self.built = True

        def call(self, x):
            return x @ self.matrix

    kprune.register_prunable(Scaled, ("matrix",))
    model = keras.Sequential([L.Input((40,)), Scaled()])
    assert kprune.cluster(model, 4).clustering_report.clustered
    with pytest.raises(ValueError, match="its channels are not known"):
        kprune.cluster(model, 4, per_channel=True)
    assert candidates(model)[0].axes is None
    assert (
        Clustering(4).why_not((2, 1), None) == "it has 2 elements, fewer than 4 values"
    )
