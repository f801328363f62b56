"""Trains for int8 on two virtual CPUs with MirroredStrategy, and compares the replicas.

Prints the zeros of each kernel, and the ranges of activations.
"""

import json

import keras
import numpy as np
import tensorflow as tf

import kprune
from kprune.quantization.fake_quantization import FakeQuantize, switches

L = keras.layers

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)
STRATEGY = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
X = np.random.default_rng(0).normal(size=(128, 8, 8, 1)).astype("float32")
Y = np.arange(128) % 3

keras.utils.set_random_seed(0)
with STRATEGY.scope():
    model = keras.Sequential(
        [
            L.Input((8, 8, 1)),
            L.Conv2D(8, 3, use_bias=False),
            L.BatchNormalization(),
            L.ReLU(),
            L.Flatten(),
            L.Dense(3),
        ]
    )
    aware = kprune.quantize_aware(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    aware.compile(keras.optimizers.Adam(0.01), loss)
callbacks = [kprune.PruningCallback(0.5), kprune.QuantizationCallback()]
aware.fit(X, Y, batch_size=32, epochs=4, verbose=0, callbacks=callbacks)

zeros = []
for variable in aware.variables:
    if variable.name.startswith("moving_"):
        continue  # Each replica has its own, unless a layer is `synchronized`.
    local = STRATEGY.experimental_local_results(variable.value)
    first, second = (np.asarray(value) for value in local)
    np.testing.assert_array_equal(first, second, err_msg=variable.path)
    if variable.name == "kernel":
        zeros.append([int((first == 0).sum()), first.size])
ranges = [each.range for each in switches(aware) if isinstance(each, FakeQuantize)]
print(json.dumps({"zeros": zeros, "ranges": ranges}))
