"""Trains on two virtual CPUs with MirroredStrategy, and compares the replicas.

Run by tests/test_distribution.py in a process of its own: devices are made before
TensorFlow starts. Prints a JSON object, case by case: the share of zeros per mask.
"""

import json

import keras
import numpy as np
import tensorflow as tf

import kprune
from kprune.layers import mask_constraints

L = keras.layers
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)
STRATEGY = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
X = np.random.default_rng(0).normal(size=(128, 8, 8, 1)).astype("float32")
Y = np.arange(128) % 3
DATA = X, Y

CASES = {
    "default": {},
    "channel": dict(granularity="channel"),
    "taylor": dict(criterion="taylor", data=DATA),
    "wanda": dict(criterion="wanda", data=DATA),
    "rigl": dict(regrowth="rigl", data=DATA),
}


def build(**of_optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            L.Input((8, 8, 1)),
            L.Conv2D(8, 3, use_bias=False),
            L.BatchNormalization(),
            L.ReLU(),
            L.Flatten(),
            L.Dense(16, activation="relu"),
            L.Dense(3),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01, **of_optimizer), LOSS)
    return model


def per_replica(variable):
    local = STRATEGY.experimental_local_results(variable.value)
    return [np.asarray(value) for value in local]


def compared(model):
    """Returns the share of zeros per mask, after comparing the replicas."""
    for variable in model.trainable_variables:
        first, second = per_replica(variable)
        np.testing.assert_array_equal(first, second, err_msg=variable.path)
    shares = {}
    weights = {variable.path: variable for variable in model.weights}
    for path, constraint in mask_constraints(model).items():
        masks = per_replica(constraint.mask)
        for variable in (weights[path], *constraint.averages):
            for value in per_replica(variable):
                if value[~masks[0]].any():
                    raise ValueError(f"{path} is not masked")
        for mask in masks[1:]:
            np.testing.assert_array_equal(masks[0], mask, err_msg=path)
        shares[path.split("/", 1)[1]] = 1 - float(masks[0].mean())
    return shares


def trained(model, callback):
    model.fit(*DATA, batch_size=32, epochs=3, verbose=0, callbacks=[callback])
    return compared(model)


def main():
    results = {}
    for name, arguments in CASES.items():
        with STRATEGY.scope():
            model = build()
        callback = kprune.PruningCallback(sparsity=0.75, **arguments)
        results[name] = trained(model, callback)
    with STRATEGY.scope():
        averaged = build(use_ema=True)
        wrapped = kprune.prune(build(), sparsity=0.75)
        wrapped.compile(keras.optimizers.Adam(0.01), LOSS)
    results["averages"] = trained(averaged, kprune.PruningCallback(sparsity=0.75))
    results["wrapped"] = trained(wrapped, kprune.PruningCallback())
    print(json.dumps(results))


if __name__ == "__main__":
    main()
