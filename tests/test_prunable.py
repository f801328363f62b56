import keras
import numpy as np
import pytest

import kprune
from kprune import prunable
from kprune.plan import Plan, Rule, resolve

L = keras.layers


def sites(model, **arguments):
    resolution = resolve(Plan(Rule(0.5, **arguments)), model)
    return [s.path.split("/")[-1] for s in resolution.sites], resolution.skipped


def chain(shape, *layers, dtype="float32"):
    return keras.Sequential([L.Input(shape, dtype=dtype), *layers])


@pytest.fixture
def table():
    before = dict(prunable._TABLE)
    yield
    prunable._TABLE.clear()
    prunable._TABLE.update(before)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (lambda: chain((9,), L.Dense(2)), ["kernel"]),
        (lambda: chain((9, 2), L.Conv1DTranspose(2, 2)), ["kernel"]),
        (lambda: chain((9, 9, 2), L.SeparableConv2D(2, 2)), ["pointwise_kernel"]),
        (lambda: chain((9,), L.Embedding(5, 3), dtype="int32"), ["embeddings"]),
        (lambda: chain((9, 2), L.LSTM(2)), ["kernel", "recurrent_kernel"]),
        (
            lambda: chain((9, 2), L.RNN([L.GRUCell(2), L.SimpleRNNCell(3)])),
            ["kernel", "recurrent_kernel"] * 2,
        ),
        (
            lambda: chain((9, 2), L.Bidirectional(L.GRU(2))),
            ["kernel", "recurrent_kernel"] * 2,
        ),
        (
            lambda: chain((4, 9, 9, 2), L.ConvLSTM2D(2, 2)),
            ["kernel", "recurrent_kernel"],
        ),
    ],
)
def test_layers_of_keras(model, names):
    assert sites(model())[0] == names


def test_depthwise_kernels_on_demand():
    model = chain((9, 9, 2), L.SeparableConv2D(2, 2), L.DepthwiseConv2D(2))
    names, skipped = sites(model)
    assert names == ["pointwise_kernel"]
    assert sum("prune_depthwise" in skip.reason for skip in skipped) == 2
    names, _ = sites(model, prune_depthwise=True)
    assert sorted(names) == ["depthwise_kernel", "kernel", "pointwise_kernel"]


def test_subclasses_are_known_by_their_parent():
    class Mine(L.Dense):
        pass

    assert sites(chain((9,), Mine(2)))[0] == ["kernel"]


class Custom(L.Layer):
    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], 4), name="matrix")

    def call(self, x):
        return keras.ops.matmul(x, self.matrix)


def test_an_unknown_layer_is_reported_and_does_not_stop_the_rest():
    names, skipped = sites(chain((9,), Custom(), L.Dense(2)))
    assert names == ["kernel"]
    assert "kprune.register_prunable(Custom, ('matrix',))" in skipped[0].reason


def test_a_registered_layer_is_pruned(table):
    kprune.register_prunable(Custom, ["matrix"])
    assert sites(chain((9,), Custom(), L.Dense(2)))[0] == ["matrix", "kernel"]


def test_a_layer_may_be_registered_as_not_prunable(table):
    kprune.register_prunable(L.Embedding, [])
    names, skipped = sites(
        chain((9,), L.Embedding(5, 3), L.Flatten(), L.Dense(2), dtype="int32")
    )
    assert names == ["kernel"]
    assert "not among the weights of Embedding" in skipped[0].reason


def test_registering_checks_its_arguments():
    with pytest.raises(TypeError, match="subclass"):
        kprune.register_prunable("Dense", ["kernel"])
    with pytest.raises(TypeError, match="sequence of attribute names"):
        kprune.register_prunable(Custom, "matrix")


def test_weights_of_composite_layers_are_found():
    class Block(L.Layer):
        def __init__(self):
            super().__init__()
            self.inner = L.Dense(4)
            self.norm = L.LayerNormalization()

        def build(self, shape):
            self.inner.build(shape)
            self.norm.build((*shape[:-1], 4))

        def call(self, x):
            return self.norm(self.inner(x))

    names, skipped = sites(chain((9,), Block()))
    assert names == ["kernel"]
    assert len(skipped) == 3


def test_quantised_and_frozen_weights_are_left_alone():
    model = chain((9,), L.Dense(4), L.Dense(4, trainable=False), L.Dense(2))
    model.layers[0].quantize("int8")
    names, skipped = sites(model)
    assert names == ["kernel"]
    reasons = " ".join(skip.reason for skip in skipped)
    assert "already quantised" in reasons and "trainable=False" in reasons


def test_a_layer_names_its_weights_itself():
    class Pair(L.Layer):
        def build(self, shape):
            self.inner, self.other = L.Dense(4), L.DepthwiseConv1D(1)
            self.matrix = self.add_weight(shape=(shape[-1], 4), name="matrix")
            self.vector = self.add_weight(shape=(4,), name="vector")
            self.inner.build(shape)
            self.other.build((None, 3, 4))

        def call(self, x):
            return self.inner(x) + x @ self.matrix + self.vector

        def get_prunable_weights(self):
            return [self.matrix, self.vector, self.other.kernel]

    found = prunable.candidates(chain((9,), Pair()))
    named = [c for c in found if c.why_dense() is None]
    assert [c.variable.name for c in named] == ["matrix", "vector", "kernel"]
    assert [c.axes and c.axes.letters for c in named] == ["io", None, "soo"]
    assert len(found) == 6
    assert all("get_prunable" in c.reason for c in found if c.why_dense())


def test_a_tied_weight_is_found_once():
    dense = L.Dense(9)
    model = chain((9,), dense, L.ReLU(), dense)
    assert sites(model)[0] == ["kernel"]


def test_all_of_keras_applications_resolve():
    model = keras.applications.MobileNetV3Small((32, 32, 3), weights=None)
    names, skipped = sites(model)
    assert len(names) > 30
    assert len(names) + len(skipped) == len(model.weights)
    assert np.all([skip.reason for skip in skipped])


def test_frozen_kernels_on_demand(data):
    inputs = L.Input((8, 8, 1))
    frozen = L.Dense(8, trainable=False, name="frozen")
    model = keras.Model(inputs, L.Dense(3)(frozen(L.Flatten()(inputs))))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    _, skipped = sites(model)
    assert "prune_frozen=True" in " ".join(skip.reason for skip in skipped)
    before = frozen.kernel.numpy()
    callback = kprune.PruningCallback(0.5, allocation="uniform", prune_frozen=True)
    model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    after = frozen.kernel.numpy()
    assert np.mean(after == 0) == 0.5
    np.testing.assert_array_equal(after[after != 0], before[after != 0])
    wrapped = kprune.prune(model, 0.5, allocation="uniform", prune_frozen=True)
    wrapped.compile("adam", loss)
    driving = kprune.PruningCallback()
    with pytest.warns(kprune.PruningWarning, match="zeros that nothing holds"):
        wrapped.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[driving])
    assert [w.zeros / w.size for w in driving.report.weights] == [0.5, 0.5]


def test_frozen_channels_are_refused():
    with pytest.raises(ValueError, match="prune_frozen=True is for single weights"):
        kprune.Rule(0.5, granularity="channel", prune_frozen=True)
