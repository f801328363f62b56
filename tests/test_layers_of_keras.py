"""Every public layer of Keras that has weights, pruned in `fit`.

A layer that Keras gets anew breaks the suite until it is in the table.
"""

import inspect

import keras
import numpy as np
import pytest

import kprune

L = keras.layers

IMAGE, VOLUME, SERIES, ROW, WORDS = (8, 8, 4), (6, 6, 6, 2), (6, 8), (12,), (6,)
KERNEL = ("kernel",)
CELL = ("kernel", "recurrent_kernel")

# Layer, shape of its input, and the weights that are pruned in it.
EXAMPLES = {
    "AdditiveAttention": (lambda: Twice(L.AdditiveAttention()), SERIES, ()),
    "Attention": (lambda: Twice(L.Attention(use_scale=True)), SERIES, ()),
    "BatchNormalization": (L.BatchNormalization, IMAGE, ()),
    "Bidirectional": (lambda: L.Bidirectional(L.GRU(4)), SERIES, CELL * 2),
    "Conv1D": (lambda: L.Conv1D(8, 3), SERIES, KERNEL),
    "Conv1DTranspose": (lambda: L.Conv1DTranspose(8, 3), SERIES, KERNEL),
    "Conv2D": (lambda: L.Conv2D(8, 3, groups=2), IMAGE, KERNEL),
    "Conv2DTranspose": (lambda: L.Conv2DTranspose(8, 3), IMAGE, KERNEL),
    "Conv3D": (lambda: L.Conv3D(4, 3), VOLUME, KERNEL),
    "Conv3DTranspose": (lambda: L.Conv3DTranspose(4, 2), VOLUME, KERNEL),
    "ConvLSTM1D": (lambda: L.ConvLSTM1D(4, 3), (4, 6, 2), CELL),
    "ConvLSTM2D": (lambda: L.ConvLSTM2D(4, 3), (3, 6, 6, 2), CELL),
    "ConvLSTM3D": (lambda: L.ConvLSTM3D(2, 2), (2, 4, 4, 4, 2), CELL),
    "Dense": (lambda: L.Dense(8), ROW, KERNEL),
    "DepthwiseConv1D": (lambda: L.DepthwiseConv1D(3), SERIES, KERNEL),
    "DepthwiseConv2D": (lambda: L.DepthwiseConv2D(3), IMAGE, KERNEL),
    "EinsumDense": (lambda: L.EinsumDense("abc,cd->abd", (6, 8)), SERIES, KERNEL),
    "Embedding": (lambda: L.Embedding(16, 8), WORDS, ("embeddings",)),
    "GRU": (lambda: L.GRU(4), SERIES, CELL),
    "GRUCell": (lambda: L.RNN(L.GRUCell(4)), SERIES, CELL),
    "GroupNormalization": (lambda: L.GroupNormalization(2), IMAGE, ()),
    "GroupQueryAttention": (
        lambda: Twice(L.GroupQueryAttention(4, 4, 2)),
        SERIES,
        KERNEL * 4,
    ),
    "LSTM": (lambda: L.LSTM(4), SERIES, CELL),
    "LSTMCell": (lambda: L.RNN(L.LSTMCell(4)), SERIES, CELL),
    "LayerNormalization": (L.LayerNormalization, SERIES, ()),
    "MultiHeadAttention": (
        lambda: Twice(L.MultiHeadAttention(2, 4)),
        SERIES,
        KERNEL * 4,
    ),
    "Normalization": (lambda: L.Normalization(mean=0.0, variance=1.0), ROW, ()),
    "PReLU": (L.PReLU, IMAGE, ()),
    "Pipeline": (lambda: L.Pipeline([L.Dense(8)]), ROW, KERNEL),
    "RMSNormalization": (L.RMSNormalization, SERIES, ()),
    "RNN": (lambda: L.RNN(L.StackedRNNCells([L.GRUCell(4)] * 1)), SERIES, CELL),
    "ReversibleEmbedding": (
        lambda: ThereAndBack(L.ReversibleEmbedding(16, 8, tie_weights=False)),
        WORDS,
        ("embeddings", "reverse_embeddings"),
    ),
    "STFTSpectrogram": (
        lambda: L.STFTSpectrogram(frame_length=4, frame_step=2),
        (32, 1),
        (),
    ),
    "SeparableConv1D": (
        lambda: L.SeparableConv1D(8, 3),
        SERIES,
        ("depthwise_kernel", "pointwise_kernel"),
    ),
    "SeparableConv2D": (
        lambda: L.SeparableConv2D(8, 3),
        IMAGE,
        ("depthwise_kernel", "pointwise_kernel"),
    ),
    "SimpleRNN": (lambda: L.SimpleRNN(4), SERIES, CELL),
    "SimpleRNNCell": (lambda: L.RNN(L.SimpleRNNCell(4)), SERIES, CELL),
    "SpectralNormalization": (
        lambda: L.SpectralNormalization(L.Dense(8)),
        ROW,
        KERNEL,
    ),
    "StackedRNNCells": (
        lambda: L.RNN([L.LSTMCell(4), L.GRUCell(3)]),
        SERIES,
        CELL * 2,
    ),
    "TimeDistributed": (lambda: L.TimeDistributed(L.Dense(4)), SERIES, KERNEL),
    "Wrapper": (lambda: PassedOn(L.Dense(8)), ROW, KERNEL),
}
SELF_ATTENTION = (L.MultiHeadAttention, L.GroupQueryAttention)
# They hold layers and have no weights of their own.
HOLDERS = {
    "Bidirectional",
    "ConvLSTM1D",
    "ConvLSTM2D",
    "ConvLSTM3D",
    "GroupQueryAttention",
    "MultiHeadAttention",
    "Pipeline",
    "RNN",
    "StackedRNNCells",
    "TimeDistributed",
    "Wrapper",
}
# Layers of other frameworks, which this one cannot train, and preprocessing.
OTHERS = {"FlaxLayer", "JaxLayer", "TorchModuleWrapper", "TFSMLayer", "Discretization"}


class Twice(L.Layer):
    """Gives an attention layer the same sequence as query and value."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def build(self, shape):
        apart = isinstance(self.layer, SELF_ATTENTION)
        self.layer.build(*(shape, shape) if apart else ([shape, shape],))

    def call(self, x):
        apart = isinstance(self.layer, SELF_ATTENTION)
        return self.layer(x, x) if apart else self.layer([x, x])


class ThereAndBack(L.Layer):
    """Words to vectors, and these to scores of words again."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def build(self, shape):
        self.embedding.build(shape)

    def call(self, x):
        return self.embedding(self.embedding(x), reverse=True)


class PassedOn(L.Wrapper):
    """A wrapper of the user's own."""

    def call(self, x):
        return self.layer(x)


def public_layers():
    """Yields each class under its first name: Convolution2D is Conv2D."""
    seen = {L.Layer}
    for name, value in sorted(vars(L).items()):
        if inspect.isclass(value) and issubclass(value, L.Layer) and value not in seen:
            seen.add(value)
            yield name, value


def has_weights(cls):
    """Whether a class, or one that it is made of, adds weights."""
    parts = cls.__mro__[: cls.__mro__.index(L.Layer)]
    return any("add_weight(" in inspect.getsource(part) for part in parts)


def test_every_layer_with_weights_is_tried():
    weighty = {name for name, cls in public_layers() if has_weights(cls)}
    assert (weighty | HOLDERS) - OTHERS == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_its_kernels_are_pruned_in_fit(name):
    make, shape, expected = EXAMPLES[name]
    layer = make()
    dtype = "int32" if shape is WORDS else "float32"
    inputs = L.Input(shape, dtype=dtype)
    outputs = L.Dense(3, name="head")(L.Flatten()(layer(inputs)))
    model = keras.Model(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, run_eagerly=True)  # Tracing takes longer.
    random = np.random.default_rng(0)
    x = random.normal(size=(16, *shape))
    x = random.integers(0, 16, (16, *shape)) if shape is WORDS else x
    callback = kprune.PruningCallback(
        schedule=kprune.ConstantSparsity(0.5),
        allocation="uniform",
        prune_depthwise=True,
    )
    model.fit(x, random.integers(0, 3, 16), 8, verbose=0, callbacks=[callback])
    pruned = {record.path: record for record in callback.report.weights}
    assert sorted(path.split("/")[-1] for path in pruned) == sorted(
        (*expected, "kernel")
    )
    for variable in model.weights:
        if variable.path in pruned:
            share = np.mean(variable.numpy() == 0)
            assert share == pytest.approx(0.5, abs=0.51 / np.size(variable)), name
    reasons = {skip.path: skip.reason for skip in callback.report.skipped}
    assert set(reasons) == {v.path for v in model.weights} - set(pruned)
    assert not any("unknown layer class" in reason for reason in reasons.values())
