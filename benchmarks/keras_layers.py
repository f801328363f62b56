"""One model around each public layer with weights, for Keras 3 and tf_keras alike.

`tests/test_benchmarks.py` sees to it that none of Keras 3 is missing. `Wrapper` is: it
does nothing before it is derived from. This module changes when a Keras gets a layer.
"""

from collections.abc import Callable
from typing import Any

IMAGE, VOLUME, SERIES, ROW, WORDS = (8, 8, 4), (6, 6, 6, 2), (6, 8), (12,), (6,)


def _call(layer: Any, x: Any) -> Any:
    return layer(x)


def _attend(layer: Any, x: Any) -> Any:
    return layer([x, x])


def _attend_apart(layer: Any, x: Any) -> Any:
    return layer(x, x)


def _there_and_back(layer: Any, x: Any) -> Any:
    return layer(layer(x), reverse=True)


# Of `keras.layers` makes the layer; shape of its input; how it is called.
Example = tuple[Callable[[Any], Any], tuple[int, ...], Callable[[Any, Any], Any]]
LAYERS: dict[str, Example] = {
    "AdditiveAttention": (lambda L: L.AdditiveAttention(), SERIES, _attend),
    "Attention": (lambda L: L.Attention(use_scale=True), SERIES, _attend),
    "BatchNormalization": (lambda L: L.BatchNormalization(), IMAGE, _call),
    "Bidirectional": (lambda L: L.Bidirectional(L.GRU(4)), SERIES, _call),
    "Conv1D": (lambda L: L.Conv1D(8, 3), SERIES, _call),
    "Conv1DTranspose": (lambda L: L.Conv1DTranspose(8, 3), SERIES, _call),
    "Conv2D": (lambda L: L.Conv2D(8, 3), IMAGE, _call),
    "Conv2DTranspose": (lambda L: L.Conv2DTranspose(8, 3), IMAGE, _call),
    "Conv3D": (lambda L: L.Conv3D(4, 3), VOLUME, _call),
    "Conv3DTranspose": (lambda L: L.Conv3DTranspose(4, 2), VOLUME, _call),
    "ConvLSTM1D": (lambda L: L.ConvLSTM1D(4, 3), (4, 6, 2), _call),
    "ConvLSTM2D": (lambda L: L.ConvLSTM2D(4, 3), (3, 6, 6, 2), _call),
    "ConvLSTM3D": (lambda L: L.ConvLSTM3D(2, 2), (2, 4, 4, 4, 2), _call),
    "Dense": (lambda L: L.Dense(8), ROW, _call),
    "DepthwiseConv1D": (lambda L: L.DepthwiseConv1D(3), SERIES, _call),
    "DepthwiseConv2D": (lambda L: L.DepthwiseConv2D(3), IMAGE, _call),
    "EinsumDense": (lambda L: L.EinsumDense("abc,cd->abd", (6, 8)), SERIES, _call),
    "Embedding": (lambda L: L.Embedding(16, 8), WORDS, _call),
    "GRU": (lambda L: L.GRU(4), SERIES, _call),
    "GRUCell": (lambda L: L.RNN(L.GRUCell(4)), SERIES, _call),
    "GroupNormalization": (lambda L: L.GroupNormalization(2), IMAGE, _call),
    "GroupQueryAttention": (
        lambda L: L.GroupQueryAttention(4, 4, 2),
        SERIES,
        _attend_apart,
    ),
    "LSTM": (lambda L: L.LSTM(4), SERIES, _call),
    "LSTMCell": (lambda L: L.RNN(L.LSTMCell(4)), SERIES, _call),
    "LayerNormalization": (lambda L: L.LayerNormalization(), SERIES, _call),
    "LocallyConnected1D": (lambda L: L.LocallyConnected1D(4, 3), SERIES, _call),
    "LocallyConnected2D": (lambda L: L.LocallyConnected2D(4, 3), IMAGE, _call),
    "MultiHeadAttention": (
        lambda L: L.MultiHeadAttention(2, 4),
        SERIES,
        _attend_apart,
    ),
    "Normalization": (lambda L: L.Normalization(mean=0.0, variance=1.0), ROW, _call),
    "PReLU": (lambda L: L.PReLU(), IMAGE, _call),
    "Pipeline": (lambda L: L.Pipeline([L.Dense(8)]), ROW, _call),
    "RMSNormalization": (lambda L: L.RMSNormalization(), SERIES, _call),
    "RNN": (lambda L: L.RNN(L.StackedRNNCells([L.GRUCell(4)])), SERIES, _call),
    "ReversibleEmbedding": (
        lambda L: L.ReversibleEmbedding(16, 8, tie_weights=False),
        WORDS,
        _there_and_back,
    ),
    "STFTSpectrogram": (
        lambda L: L.STFTSpectrogram(frame_length=4, frame_step=2),
        (32, 1),
        _call,
    ),
    "SeparableConv1D": (lambda L: L.SeparableConv1D(8, 3), SERIES, _call),
    "SeparableConv2D": (lambda L: L.SeparableConv2D(8, 3), IMAGE, _call),
    "SimpleRNN": (lambda L: L.SimpleRNN(4), SERIES, _call),
    "SimpleRNNCell": (lambda L: L.RNN(L.SimpleRNNCell(4)), SERIES, _call),
    "SpectralNormalization": (
        lambda L: L.SpectralNormalization(L.Dense(8)),
        ROW,
        _call,
    ),
    "StackedRNNCells": (lambda L: L.RNN([L.LSTMCell(4), L.GRUCell(3)]), SERIES, _call),
    "TimeDistributed": (lambda L: L.TimeDistributed(L.Dense(4)), SERIES, _call),
}


def build(keras: Any, name: str) -> Any:
    """Returns a model of the layer and a head of three classes, named `head`.

    Args:
        keras: The Keras package to build with.
        name: One of `LAYERS` that this Keras has.
    """
    make, shape, call = LAYERS[name]
    dtype = "int32" if shape is WORDS else "float32"
    inputs = keras.Input(shape, dtype=dtype)
    x = keras.layers.Flatten()(call(make(keras.layers), inputs))
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))
