"""Shares values on two virtual CPUs with MirroredStrategy, and compares the replicas.

Prints the values and the zeros per kernel, and whether they stayed shared.
"""

import json

import keras
import numpy as np
import tensorflow as tf

import kprune

L = keras.layers

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)
# One for the process: two of them number their exchanges alike, and mix them up.
STRATEGY = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
X = np.random.default_rng(0).normal(size=(128, 8, 8, 1)).astype("float32")
Y = np.arange(128) % 3

keras.utils.set_random_seed(0)
with STRATEGY.scope():
    model = keras.Sequential(
        [L.Input((8, 8, 1)), L.Conv2D(8, 3), L.Flatten(), L.Dense(16), L.Dense(3)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
pruning = kprune.PruningCallback(0.5)
clustering = kprune.ClusteringCallback(8)
model.fit(X, Y, batch_size=32, epochs=4, verbose=0, callbacks=[pruning, clustering])

kernels = []
for variable in model.trainable_variables:
    local = STRATEGY.experimental_local_results(variable.value)
    first, second = (np.asarray(value) for value in local)
    np.testing.assert_array_equal(first, second, err_msg=variable.path)
    if variable.path.endswith("kernel"):
        zeros = int((first == 0).sum())
        kernels.append([len(np.unique(np.append(first, 0))), zeros, first.size])
print(json.dumps({"clustered": clustering.report.clustered, "kernels": kernels}))
