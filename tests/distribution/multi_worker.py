"""One worker of MultiWorkerMirroredStrategy, in a loop with `kprune.Pruner`.

    TF_CONFIG=... python multi_worker.py

Prints a JSON object: the masks, the weights and the history of updates.
"""

import json

import keras
import numpy as np
import tensorflow as tf

import kprune
from kprune.layers import mask_constraints, values


def main():
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    x = np.random.default_rng(0).normal(size=(256, 20)).astype("float32")
    y = np.arange(256) % 3
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.layers.Input((20,)),
                keras.layers.Dense(32, activation="relu"),
                keras.layers.Dense(3),
            ]
        )
        optimizer = keras.optimizers.Adam(0.01)
        optimizer.build(model.trainable_variables)
    pruner = kprune.Pruner(
        model, optimizer=optimizer, sparsity=0.75, steps_per_epoch=8, epochs=3
    )
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def on_replica(images, labels):
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(images, training=True)) / 2
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)

    train_step = tf.function(lambda *batch: strategy.run(on_replica, args=batch))
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(32).repeat(3)
    for batch in strategy.experimental_distribute_dataset(batches):
        train_step(*batch)
        pruner.step()
    report = pruner.finish()
    masks = mask_constraints(model)
    document = {
        "sparsity": report.sparsity,
        "history": pruner.history,
        "masks": {path: values(c.mask).tolist() for path, c in masks.items()},
        "weights": {v.path: values(v).tolist() for v in model.trainable_variables},
    }
    document["refused"] = refused(strategy, x, y)
    print(json.dumps(document))


def refused(strategy, x, y):
    """Returns what is said if each worker looks at other data."""
    with strategy.scope():
        model = keras.Sequential([keras.layers.Input((20,)), keras.layers.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss)
    mine = strategy.cluster_resolver.task_id
    try:
        kprune.Pruner(
            model,
            schedule=kprune.ConstantSparsity(0.5),
            criterion="taylor",
            data=(x[mine::2], y[mine::2]),
        )
    except ValueError as error:
        return str(error)


if __name__ == "__main__":
    main()
