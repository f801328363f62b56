"""Random small networks of what XNNPACK computes sparsely, and of what it does not."""

import random

import keras
import numpy as np
import xnnpack_forms

L = keras.layers


def _stem(x, rng):
    if rng.random() < 0.8:
        return L.Conv2D(16, 3, strides=2)(L.ZeroPadding2D(1)(x))
    return L.Conv2D(16, 3, strides=2, padding="same")(x)


def _pointwise(x, rng, seen):
    activation = rng.choice([None, "relu"])
    return L.Conv2D(rng.choice([16, 32, 48]), 1, activation=activation)(x)


def _depthwise(x, rng, seen):
    return L.DepthwiseConv2D(rng.choice([3, 3, 5]), padding="same")(x)


def _smaller(x, rng, seen):
    if x.shape[1] < 4 or x.shape[1] % 2:
        return x
    return L.DepthwiseConv2D(3, strides=2)(L.ZeroPadding2D(1)(x))


def _activation(x, rng, seen):
    names = ["relu", "relu6", "sigmoid", "tanh", "elu", "gelu", "silu", "hard_swish"]
    return L.Activation(rng.choice(names))(x)


def _merge(x, rng, seen):
    merge = rng.choice([L.Add, L.Add, L.Multiply, L.Subtract, L.Maximum])
    others = [y for y in seen if y.shape == x.shape]
    return merge()([x, rng.choice(others)]) if others else x


def _concatenate(x, rng, seen):
    others = [y for y in seen if y.shape[1:3] == x.shape[1:3]]
    return L.Concatenate()([x, rng.choice(others)]) if others else x


def _gate(x, rng, seen):
    if rng.random() < 0.5:
        return L.Multiply()([x, L.Conv2D(1, 1, activation="sigmoid")(x)])
    return xnnpack_forms.squeeze_and_excite("sigmoid")(x)


def _pool(x, rng, seen):
    pooling = rng.choice([L.MaxPooling2D, L.AveragePooling2D])
    return pooling(2)(x) if x.shape[1] > 3 else x


def _other(x, rng, seen):
    layer = rng.choice(
        [
            L.Conv2D(16, 3, padding="same"),
            L.Rescaling(2.0, 0.5),
            L.Dense(16),
            L.ZeroPadding2D(1),
            L.PReLU(shared_axes=[1, 2]),
            L.DepthwiseConv2D(3, dilation_rate=2, padding="same"),
            L.Conv2DTranspose(16, 2, strides=2),
        ]
    )
    return layer(x)


STEPS = (
    [_pointwise] * 8
    + [_depthwise] * 5
    + [_smaller, _smaller, _activation, _activation, _merge, _merge, _merge]
    + [_gate, _gate, _concatenate, _pool, _other, _other]
)
ENDS = (
    [xnnpack_forms.head] * 6
    + [lambda x: L.GlobalAveragePooling2D()(x), lambda x: L.Dense(5)(L.Flatten()(x))]
    + [xnnpack_forms.convolution_head, lambda x: x]
)


def build(seed):
    """Returns a network with zeros in its kernels; equal ones for equal seeds."""
    rng = random.Random(seed)
    keras.utils.set_random_seed(seed)
    inputs = L.Input((32, 32, 3), name="image")
    x = _stem(inputs, rng)
    seen, outputs = [x], []
    for _ in range(rng.randint(2, 9)):
        x = rng.choice(STEPS)(x, rng, seen)
        if rng.random() < 0.7:
            seen.append(x)
        if rng.random() < 0.05:
            outputs.append(rng.choice([lambda y: y, L.Softmax()])(x))
    model = keras.Model(inputs, [rng.choice(ENDS)(x), *outputs])
    values = np.random.default_rng(seed)
    sparsity = rng.choice([0.6, 0.75, 0.85, 0.9])
    for variable in model.weights:
        value = variable.numpy()
        if value.ndim == 1:
            variable.assign(values.normal(0, 0.3, value.shape))
        elif value.ndim == 2 or value.shape[:2] == (1, 1):
            variable.assign(xnnpack_forms.zeroed(value, sparsity))
    return model
