"""One small model per kind of layer whose weights a file may encode."""

import keras
import numpy as np

L = keras.layers


def _conv1d():
    return [L.Input((12, 3)), L.Conv1D(10, 3)]


def _conv2d():
    return [L.Input((7, 7, 3)), L.Conv2D(12, 3)]


def _pointwise():
    return [L.Input((5, 5, 9)), L.Conv2D(40, 1)]


def _dilated():
    return [L.Input((9, 9, 4)), L.Conv2D(12, 3, dilation_rate=2)]


def _depthwise():
    return [L.Input((7, 7, 20)), L.DepthwiseConv2D(3, depth_multiplier=2)]


def _separable():
    return [L.Input((7, 7, 20)), L.SeparableConv2D(24, 3)]


def _transposed():
    return [L.Input((4, 4, 5)), L.Conv2DTranspose(8, 3, strides=2)]


def _dense():
    return [L.Input((40,)), L.Dense(30)]


def _dense_after_convolution():
    return [L.Input((6, 6, 2)), L.Conv2D(4, 3), L.Flatten(), L.Dense(25)]


def _recurrent():
    return [L.Input((4, 8)), L.SimpleRNN(24, unroll=True)]


KINDS = {
    function.__name__[1:]: function
    for function in (
        _conv1d,
        _conv2d,
        _pointwise,
        _dilated,
        _depthwise,
        _separable,
        _transposed,
        _dense,
        _dense_after_convolution,
        _recurrent,
    )
}


def built(kind):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([*KINDS[kind](), L.ReLU()])
    rng = np.random.default_rng(0)
    for variable in model.weights:  # Biases, too.
        variable.assign(rng.normal(0, 0.3, variable.shape))
    return model


def inputs(model, count=6):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(1).normal(size=shape).astype("float32")
