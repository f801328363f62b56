"""Small models with zeros, for exporting."""

import keras
import numpy as np

from kprune.export.convert import convert
from kprune.export.interface import of_model
from kprune.export.samples import collect

L = keras.layers


def zeroed(model, sparsity=0.75):
    """Sets the smallest weights of each kernel to zero, exactly that share."""
    for variable in model.weights:
        if len(variable.shape) < 2:
            continue
        value = variable.numpy()
        flat = value.reshape(-1)
        flat[np.argsort(np.abs(flat))[: round(sparsity * flat.size)]] = 0
        variable.assign(value)
    return model


def cnn():
    return zeroed(
        keras.Sequential(
            [
                L.Input((8, 8, 1), name="image"),
                L.Conv2D(8, 3, name="conv"),
                L.BatchNormalization(),
                L.ReLU(),
                L.DepthwiseConv2D(3, name="depthwise"),
                L.Conv2D(16, 1, activation="relu", name="pointwise"),
                L.Flatten(),
                L.Dense(3, name="head"),
            ],
            name="cnn",
        )
    )


def images(count=24):
    return np.random.default_rng(0).random((count, 8, 8, 1), dtype="float32")


def two_inputs():
    """A dict of inputs and a dict of outputs, neither in the order of their names."""
    inputs = {
        "pixels": L.Input((6, 6, 2), name="pixels"),
        "facts": L.Input((5,), name="facts"),
    }
    x = L.Flatten()(L.Conv2D(4, 3)(inputs["pixels"]))
    x = L.Concatenate()([x, L.Dense(4)(inputs["facts"])])
    outputs = {
        "price": L.Dense(1, name="price")(x),
        "kind": L.Dense(3, activation="softmax", name="kind")(x),
    }
    return keras.Model(inputs, outputs)


def two_inputs_data(count=16):
    rng = np.random.default_rng(0)
    return {
        "facts": rng.random((count, 5), dtype="float32"),
        "pixels": rng.random((count, 6, 6, 2), dtype="float32"),
    }


def converted(model, quantization, data=None, integer_io=False):
    interface = of_model(model)
    samples = None if data is None else collect(data, interface.inputs, 16)
    return convert(interface, model, quantization, samples, integer_io)
