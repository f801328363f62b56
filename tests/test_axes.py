import keras
import numpy as np
import pytest

import kprune
from kprune.axes import Axes
from kprune.prunable import candidates

L = keras.layers


@pytest.mark.parametrize(
    ("letters", "shape", "arranged"),
    [
        ("io", (3, 5), (5, 3)),
        ("oi", (3, 5), (3, 5)),
        ("ssio", (2, 3, 4, 5), (5, 2, 3, 4)),
        ("ssoi", (2, 3, 4, 5), (4, 2, 3, 5)),
        ("ssoo", (2, 3, 4, 5), (20, 2, 3, 1)),
        ("ioo", (7, 2, 3), (6, 7)),
        ("iio", (2, 3, 7), (7, 6)),
        ("o", (4,), (4, 1)),
    ],
)
def test_there_and_back(letters, shape, arranged):
    array = np.arange(np.prod(shape)).reshape(shape)
    axes = Axes(letters)
    there = axes.arranged(array)
    assert there.shape == axes.shape(shape) == arranged
    np.testing.assert_array_equal(axes.restored(there, shape), array)


def kernel(layer, shape, name="kernel", dtype="float32"):
    """A layer's kernel, and the same as runtimes store it."""
    model = keras.Sequential([L.Input(shape, dtype=dtype), layer])
    found = {c.variable.name: c for c in candidates(model)}[name]
    value = found.variable.numpy()
    return value, found.axes.arranged(value)


CASES = {
    "dense": (L.Dense(5), (3,), lambda k: k.T),
    "conv1d": (L.Conv1D(5, 2), (9, 3), lambda k: k.transpose(2, 0, 1)),
    "conv2d": (L.Conv2D(5, 2), (9, 9, 3), lambda k: k.transpose(3, 0, 1, 2)),
    "conv3d": (L.Conv3D(5, 2), (9, 9, 9, 3), lambda k: k.transpose(4, 0, 1, 2, 3)),
    "grouped": (L.Conv2D(6, 2, groups=3), (9, 9, 9), lambda k: k.transpose(3, 0, 1, 2)),
    # Keras has (height, width, outputs, inputs) here.
    "transposed": (
        L.Conv2DTranspose(5, 2),
        (9, 9, 3),
        lambda k: k.transpose(2, 0, 1, 3),
    ),
    "depthwise": (
        L.DepthwiseConv2D(2, depth_multiplier=2),
        (9, 9, 3),
        lambda k: k.reshape(4, 6).T.reshape(6, 2, 2, 1),
    ),
    "einsum": (
        L.EinsumDense("abc,cde->abde", (None, 4, 5)),
        (6, 3),
        lambda k: k.reshape(3, 20).T,
    ),
    "einsum back": (
        L.EinsumDense("abde,dec->abc", (None, 7)),
        (6, 4, 5),
        lambda k: k.reshape(20, 7).T,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_layers_have_the_layout_of_the_runtimes(case):
    layer, shape, by_hand = CASES[case]
    value, arranged = kernel(layer, shape)
    np.testing.assert_array_equal(arranged, by_hand(value))


@pytest.mark.parametrize("cell", [L.LSTM, L.GRU, L.SimpleRNN])
def test_cells_are_matrices_from_inputs_to_gates(cell):
    for name in ("kernel", "recurrent_kernel"):
        value, arranged = kernel(cell(4), (9, 3), name)
        np.testing.assert_array_equal(arranged, value.T)


def test_convolutional_cells():
    value, arranged = kernel(L.ConvLSTM2D(4, 2), (5, 9, 9, 3), "recurrent_kernel")
    np.testing.assert_array_equal(arranged, value.transpose(3, 0, 1, 2))


def test_embeddings_stay_as_they_are():
    value, arranged = kernel(L.Embedding(7, 3), (9,), "embeddings", "int32")
    np.testing.assert_array_equal(arranged, value)


def test_separable_convolutions_have_two_kernels():
    layer = L.SeparableConv2D(5, 2, depth_multiplier=2)
    value, arranged = kernel(layer, (9, 9, 3), "pointwise_kernel")
    np.testing.assert_array_equal(arranged, value.transpose(3, 0, 1, 2))


def test_attention():
    inputs = L.Input((6, 8))
    model = keras.Model(inputs, L.MultiHeadAttention(2, 3)(inputs, inputs))
    shapes = [c.axes.shape(c.variable.shape) for c in candidates(model) if c.axes]
    assert shapes == [(6, 8), (6, 8), (6, 8), (8, 6)]


def test_a_subclass_with_another_shape_is_not_guessed():
    class Odd(L.Dense):
        def build(self, shape):
            self._kernel = self.add_weight(shape=(2, shape[-1], 3), name="kernel")

        def call(self, x):
            return x

    (found,) = candidates(keras.Sequential([L.Input((4,)), Odd(3)]))
    assert found.reason is None and found.axes is None


def test_files_have_the_groups_where_masks_put_them(tmp_path):
    """The layouts above against what LiteRT's converter writes."""
    inputs = L.Input((12, 12, 16))
    x = L.Conv2D(16, 3, name="conv")(inputs)
    x = L.Conv2DTranspose(16, 3, name="transposed")(x)
    x = L.Conv2D(32, 1, name="pointwise")(x)
    model = keras.Model(inputs, L.Dense(16, name="dense")(L.Flatten()(x)))
    rules = (
        kprune.Rule(granularity=kprune.NofM(2, 4), only=["conv", "transposed"]),
        kprune.Rule(0.5, granularity=kprune.Block((4, 1)), only="pointwise"),
        kprune.Rule(0.5, granularity=kprune.Block((1, 4))),
    )
    model.compile("sgd", "mse")
    x, y = np.zeros((8, 12, 12, 16)), np.zeros((8, 16))
    callback = kprune.PruningCallback(plan=kprune.Plan(rules))
    model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
    kprune.export(model, tmp_path / "m.tflite", target="android", quantization="none")
    found = kprune.inspect(tmp_path / "m.tflite").weights
    words = sorted(weight.pattern for weight in found if weight.sparsity > 0.4)
    assert words == ["2:4 along inputs"] * 2 + [
        "blocks of 4 inputs",
        "blocks of 4 outputs",
    ]
