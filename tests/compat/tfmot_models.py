"""What the tests of tfmot's names share: small models, a fit, and a loop."""

import contextlib
import warnings

import keras
import numpy as np

import kprune
import kprune.compat.tfmot as sparsity
from kprune.layers import Pruned, mask_constraints, values

L = keras.layers


def matrix(inputs, outputs):
    """A single matrix without ties: 1, 2, 3 ... in some order."""
    model = keras.Sequential([L.Input((inputs,)), L.Dense(outputs, use_bias=False)])
    numbers = np.random.default_rng(0).permutation(inputs * outputs) + 1.0
    model.layers[0].kernel.assign(numbers.reshape(inputs, outputs))
    return model


def simple_dense():
    return keras.Sequential(
        [
            L.Input((10,)),
            L.Dense(8, activation="relu"),
            L.Dense(5, activation="softmax"),
        ]
    )


def every_step(target=0.5):
    return sparsity.ConstantSparsity(target, 0, -1, 1)


def data_for(model, samples):
    rng = np.random.default_rng(0)
    x = rng.random((samples, *model.input_shape[1:])).astype("float32")
    return x, rng.random((samples, *model.output_shape[1:])).astype("float32")


@contextlib.contextmanager
def short():
    """A fit that is shorter than its schedule warns; that is meant here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This fit ends at", kprune.PruningWarning)
        warnings.filterwarnings(
            "ignore", "(?s).*The fit ended at", kprune.PruningWarning
        )
        yield


def fit(model, steps=1, callbacks=(), learning_rate=0.01, data=None):
    """Trains for so many steps; returns the callback that pruned."""
    callback = sparsity.UpdatePruningStep()
    if getattr(model, "optimizer", None) is None:
        model.compile(keras.optimizers.SGD(learning_rate), "mse")
    x, y = data or data_for(model, 2 * steps)
    batch = len(x) // steps
    with short():
        model.fit(
            x, y, batch_size=batch, verbose=0, shuffle=False,
            callbacks=[*callbacks, callback],
        )  # fmt: skip
    return callback


def loop(model, steps, learning_rate=0.01):
    """Trains as tfmot's guide has it for loops of one's own; yields after each step."""
    import tensorflow as tf

    model.optimizer = optimizer = keras.optimizers.SGD(learning_rate)
    x, y = data_for(model, 4)
    pruning = sparsity.UpdatePruningStep()
    pruning.set_model(model)
    pruning.on_train_begin()
    for _ in range(steps):
        pruning.on_train_batch_begin(batch=-1)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        pruning.on_epoch_end(batch=-1)
        yield pruning


def wrappers(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, Pruned)]


def masks(model):
    return {p: values(c.mask) for p, c in mask_constraints(model).items()}


def shares(model):
    """The share of zeros of each weight that is pruned."""
    weights = {v.path: np.array(v) for v in model.weights}
    return [float(np.mean(weights[path] == 0)) for path in mask_constraints(model)]


def share_of_zeros(model):
    (share,) = shares(model)
    return share


def begin(model):
    """Makes the masks of step 0, as the begin of a loop of one's own does."""
    model.optimizer = keras.optimizers.SGD(0.0)
    pruning = sparsity.UpdatePruningStep()
    pruning.set_model(model)
    pruning.on_train_begin()
    return pruning


def mask_at_once(weight, target=0.5, **arguments):
    """Returns the mask of a kernel with these values, pruned in one shot."""
    weight = np.asarray(weight, "float32")
    *window, inputs, outputs = weight.shape
    layer = L.Dense(outputs, use_bias=False)
    if window:
        layer = {1: L.Conv1D, 2: L.Conv2D}[len(window)](outputs, window, use_bias=False)
    model = keras.Sequential([L.Input((*window, inputs)), layer])
    layer.kernel.assign(weight)
    model = sparsity.prune_low_magnitude(
        model, sparsity.ConstantSparsity(target, 0), **arguments
    )
    begin(model)
    (mask,) = masks(model).values()
    kernel = np.array(model.trainable_variables[0])
    np.testing.assert_array_equal(kernel, weight * mask)
    return mask
