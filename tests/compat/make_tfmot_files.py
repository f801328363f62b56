"""Writes files of tfmot-pruned models, and what tf_keras says of them.

Run as a script with a folder, in a process of its own. Beside each model there is a
`NAME.npz`: inputs, targets, masks, steps, and outputs of the stripped model as it is
and after one more batch.
"""

import os
import sys
import warnings

os.environ["TF_USE_LEGACY_KERAS"] = "1"
warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tf_keras as keras  # noqa: E402
from tensorflow_model_optimization.sparsity import keras as sparsity  # noqa: E402

L = keras.layers
FOLDER = sys.argv[1]
RANDOM = np.random.default_rng(0)
BATCH, BATCHES = 8, 8


def ramp(end, frequency):
    return sparsity.PolynomialDecay(0.2, 0.8, 0, end, frequency=frequency)


def cnn():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(8, 3, activation="relu", padding="same"),
            L.DepthwiseConv2D(3),
            L.BatchNormalization(),
            L.ReLU(),
            L.GlobalAveragePooling2D(),
            L.Dense(16, activation="relu"),
            L.Dense(4),
        ]
    )


def nested():
    """Models within models, called twice, and TensorFlow functions in the graph."""
    inputs = keras.Input((8,))
    # The order of their names is another than that of their calls.
    first = L.Dense(12, activation="relu", name="z_first")(inputs)
    second = L.Dense(12, name="a_second")(inputs)
    body = keras.Model(inputs, L.BatchNormalization()(first + second), name="body")
    x = keras.Input((8,))
    shared = L.Dense(8, name="shared")
    y = L.Concatenate()([body(shared(x)), body(shared(1.0 - x * 2.0))])
    y = tf.reshape(tf.nn.relu(y) + 0.5, (-1, 4, 6))[:, :2]
    y = tf.concat([tf.reduce_mean(y, axis=1), x], axis=-1)
    return keras.Model(x, L.Dense(4, name="head")(y))


def wrap_dense(layer):
    if isinstance(layer, keras.Model):
        return keras.models.clone_model(layer, clone_function=wrap_dense)
    if isinstance(layer, L.Dense):
        # Their wrappers are called twice in a step, and count so.
        twice = 1 if layer.name == "head" else 2
        schedule = ramp(20 * twice, 4 * twice)
        return sparsity.prune_low_magnitude(layer, schedule)
    return layer


def lstm():
    layers = [keras.Input((5,)), L.Embedding(20, 6), L.LSTM(7), L.Dense(4)]
    return keras.Sequential(layers)


def patterns():
    once = sparsity.ConstantSparsity(0.5, 0, frequency=2)
    prune = sparsity.prune_low_magnitude
    return keras.Sequential(
        [
            keras.Input((6, 6, 7)),
            # Of seven inputs the last three are a group that is filled up.
            prune(L.Conv2D(8, 3), once, sparsity_m_by_n=(2, 4)),
            L.Flatten(),
            prune(L.Dense(8), once, block_size=(4, 2), block_pooling_type="MAX"),
            L.Dense(4),
        ]
    )


def padded():
    layers = [keras.Input((5,)), L.Embedding(20, 6, mask_zero=True), L.LSTM(7)]
    return sparsity.prune_low_magnitude(
        keras.Sequential(layers), sparsity.ConstantSparsity(0.5, 0)
    )


def wrappers(model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from wrappers(layer)
        elif layer.__class__.__name__ == "PruneLowMagnitude":
            yield layer


def compile_model(model, optimizer):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])


def save(model, name, endings):
    for ending in endings:
        kind = {"save_format": "tf"} if not ending else {}
        model.save(os.path.join(FOLDER, name + ending), **kind)


def data_for(model):
    count, shape = BATCH * BATCHES, model.input_shape[1:]
    x = RANDOM.normal(size=(count, *shape))
    if isinstance(getattr(model.layers[0], "layer", None), L.Embedding):
        x = RANDOM.integers(0, 20, (count, *shape))
    return x.astype("float32"), RANDOM.integers(0, 4, count)


def write(name, model, optimizer, endings):
    """Trains a model, saves it as it is and stripped, and trains it for a batch."""
    compile_model(model, optimizer)
    x, y = data_for(model)
    callbacks = [sparsity.UpdatePruningStep()]
    model.fit(x, y, BATCH, shuffle=False, verbose=0, callbacks=callbacks)
    save(model, f"{name}_wrapped", endings)
    stripped = sparsity.strip_pruning(model)
    facts = {"x": x, "y": y, "outputs": stripped.predict(x, verbose=0)}
    for wrapper in wrappers(model):
        facts[f"step/{wrapper.layer.name}"] = wrapper.pruning_step.numpy()
        for i, (_, mask, _) in enumerate(wrapper.pruning_vars):
            facts[f"mask/{wrapper.layer.name}/{i}"] = mask.numpy()
    plain = keras.models.clone_model(stripped)
    plain.set_weights(stripped.get_weights())
    compile_model(plain, "adam")
    save(plain, f"{name}_stripped", {*endings, ".h5"})
    model.fit(x[:BATCH], y[:BATCH], BATCH, verbose=0, callbacks=callbacks)
    facts["after"] = stripped.predict(x, verbose=0)
    np.savez(os.path.join(FOLDER, f"{name}.npz"), **facts)


keras.utils.set_random_seed(0)
write(
    "cnn",
    sparsity.prune_low_magnitude(cnn(), ramp(20, 4)),
    "adam",
    (".h5", ".keras", ""),
)
momentum = keras.optimizers.SGD(0.05, momentum=0.9)
write("nested", wrap_dense(nested()), momentum, (".h5", ".keras", ""))
write(
    "lstm",
    sparsity.prune_low_magnitude(lstm(), sparsity.ConstantSparsity(0.5, 2)),
    "adam",
    (".keras", ""),
)
write("patterns", patterns(), "rmsprop", (".h5", ""))
save(padded(), "padded", (".keras",))

fresh = sparsity.prune_low_magnitude(
    keras.Sequential([keras.Input((6,)), L.Dense(5)]), ramp(20, 4)
)
save(fresh, "fresh", (".h5",))
again = keras.models.clone_model(fresh)
again.build()
for each in wrappers(again):
    each.pruning_step.assign(6)
compile_model(again, "adam")
save(again, "compiled_anew", (".h5",))


class Doubled(L.Layer):
    """A layer of the user's own."""

    def call(self, x):
        return 2 * x


save(keras.Sequential([keras.Input((6,)), Doubled(), L.Dense(2)]), "own", (".h5",))
x = keras.Input((6,))
save(keras.Model(x, tf.math.bessel_i0(x)), "bessel", (".h5",))
save(keras.Model(x, L.Lambda(lambda t: t + 1)(x)), "lambda", (".h5",))
plain = keras.Sequential([keras.Input((6,)), L.Dense(2)])
plain.save_weights(os.path.join(FOLDER, "weights.h5"))


def functions(x):
    """TensorFlow functions as users call them, on six numbers and on images."""
    a, b = tf.split(tf.where(x > 0, tf.sin(x), tf.zeros_like(x)), 2, axis=-1)
    y = tf.pad(tf.stack([a, b], 1), [[0, 0], [0, 1], [2, 1]], constant_values=0.5)
    y = tf.reshape(tf.math.l2_normalize(y // 0.3, -1), (tf.shape(y)[0], 3, 6))
    y = tf.matmul(y, tf.tile(y, [1, 2, 1]), transpose_b=True)
    image = tf.image.resize(tf.expand_dims(y, -1), (4, 4))
    image = tf.nn.depth_to_space(tf.repeat(image, 4, axis=-1), 2)
    return tf.nn.max_pool2d(image, 2, 2, "SAME")[:, ::2, -1]


save(keras.Model(x, functions(x)), "functions", (".h5",))
data = RANDOM.normal(size=(4, 6)).astype("float32")
np.savez(os.path.join(FOLDER, "functions.npz"), x=data, outputs=functions(data))

optimizers = keras.optimizers
rate = optimizers.schedules.ExponentialDecay(0.05, 2, 0.5)
OPTIMIZERS = {
    "adafactor": optimizers.Adafactor(0.01),
    "amsgrad": optimizers.Adam(
        0.01, amsgrad=True, use_ema=True, ema_overwrite_frequency=4
    ),
    "ftrl": optimizers.legacy.Ftrl(0.1),
    "half": keras.mixed_precision.LossScaleOptimizer(
        optimizers.SGD(0.1, 0.9), False, 128
    ),
    "nadam": optimizers.Nadam(rate),
    "old_adam": optimizers.legacy.Adam(0.1, decay=0.5),
    "old_nadam": optimizers.legacy.Nadam(0.1),
    "rmsprop": optimizers.RMSprop(0.01, centered=True, momentum=0.5, clipnorm=0.1),
}


def own_loss(true, predicted):
    """A loss of the user's own."""
    return tf.reduce_mean(tf.abs(true - predicted) ** 1.5, -1)


def two_outputs(optimizer, policy):
    """A wrapped model, with a loss and a metric for one output each."""
    keras.mixed_precision.set_global_policy(policy)
    x = keras.Input((6,))
    hidden = L.Dense(8, activation="relu", name="hidden")(x)
    model = keras.Model(x, [L.Dense(3, name=name)(hidden) for name in ("a", "b")])
    once = sparsity.ConstantSparsity(0.5, 1, frequency=100)
    model = sparsity.prune_low_magnitude(model, once)  # Wrappers take the policy, too.
    keras.mixed_precision.set_global_policy("float32")
    a, b = model.output_names
    model.compile(
        optimizer,
        {a: own_loss, b: keras.losses.Huber(0.5)},
        {b: ["mae"]},
        loss_weights={a: 1.0, b: 0.3},
        run_eagerly=True,
    )
    return model


x, y = RANDOM.normal(size=(32, 6)), RANDOM.normal(size=(32, 3))
for name, optimizer in OPTIMIZERS.items():
    model = two_outputs(optimizer, "mixed_float16" if name == "half" else "float32")
    settings = {"verbose": 0, "callbacks": [sparsity.UpdatePruningStep()]}
    model.fit(x[:16], [y[:16]] * 2, 8, shuffle=False, **settings)
    save(model, f"by_{name}", (".h5", *([".keras"] if name == "old_adam" else [])))
    facts = {"x": x, "y": y, "evaluated": model.evaluate(x, [y] * 2, 8, verbose=0)}
    model.fit(x[16:], [y[16:]] * 2, 8, shuffle=False, **settings)
    facts["after"] = np.stack(model.predict(x, verbose=0)).astype("float32")
    np.savez(os.path.join(FOLDER, f"by_{name}.npz"), **facts)
