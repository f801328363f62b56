"""Trains with a teacher, on one virtual CPU and on two with MirroredStrategy.

Prints the logs and the sum of each weight, of both.
"""

import contextlib
import json

import keras
import numpy as np
import tensorflow as tf

import kprune

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)
STRATEGY = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(32, 8)).astype("float32"), np.arange(32) % 3


def network():
    hidden = keras.layers.Dense(6, name="hidden", kernel_regularizer="l2")
    return keras.Sequential([keras.Input((8,)), hidden, keras.layers.Dense(3)])


def trained(scope):
    keras.utils.set_random_seed(0)
    with scope:
        teacher, student = network(), network()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        student.compile("sgd", loss, metrics=["accuracy"])
    distiller = kprune.distill(student, teacher, features={"hidden": "hidden"})
    pruning = kprune.PruningCallback(0.5)
    fit = {"batch_size": 32, "shuffle": False, "epochs": 3, "verbose": 0}
    logs = distiller.fit(X, Y, callbacks=[pruning], **fit).history
    by_name = keras.distillation.FeatureDistillation("mse")
    if scope is not one and not refused(student, teacher, by_name):
        raise AssertionError("A loss by its name was not refused.")
    return {"logs": logs, "weights": [float(w.sum()) for w in student.get_weights()]}


def refused(student, teacher, loss):
    try:
        kprune.distill(student, teacher, loss=loss)
    except ValueError as error:
        return "Give an instance" in str(error)
    return False


one = contextlib.nullcontext()
print(json.dumps([trained(one), trained(STRATEGY.scope())]))
