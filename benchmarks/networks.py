"""The networks that training steps are timed on, for Keras 3 and tf_keras alike.

Each takes the Keras package to build with, so that both sides train the same thing.
"""

from typing import Any

import numpy as np


def resnet8(keras: Any) -> Any:
    """Returns the residual CNN of MLPerf Tiny: 32x32x3 in, 78,666 parameters."""
    layers = keras.layers
    inputs = keras.Input((32, 32, 3))

    def convolve(x: Any, filters: int, strides: int = 1) -> Any:
        x = layers.Conv2D(filters, 3, strides=strides, padding="same")(x)
        return layers.BatchNormalization()(x)

    x = layers.ReLU()(convolve(inputs, 16))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = convolve(layers.ReLU()(convolve(x, filters, strides)), filters)
        if strides > 1:
            x = layers.Conv2D(filters, 1, strides=strides, padding="same")(x)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Flatten()(layers.AveragePooling2D(8)(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def dense5m(keras: Any) -> Any:
    """Returns a network of three dense layers: 784 inputs, 5,034,000 parameters."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((784,)),
            layers.Dense(2048, activation="relu"),
            layers.Dense(1664, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


NETWORKS = {"resnet8": resnet8, "dense5m": dense5m}
# The most that a training step with pruning may cost, as a multiple of a dense one.
TARGETS = {"resnet8": 1.02, "dense5m": 1.10}


def random_data(model: Any, samples: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs and labels of the model's shapes; their values do not matter."""
    random = np.random.default_rng(0)
    shape = (samples, *model.input_shape[1:])
    return (
        random.normal(size=shape).astype("float32"),
        random.integers(0, 10, samples).astype("int32"),
    )
