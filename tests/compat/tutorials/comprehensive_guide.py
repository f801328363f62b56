"""In the way of tfmot's "Pruning comprehensive guide": each use of its names, once.

https://www.tensorflow.org/model_optimization/guide/pruning/comprehensive_guide
"""

import numpy as np
import tensorflow as tf
from tutorial_ends import convert, evaluate, write, zeros, zipped_size

import kprune.compat.tfmot as sparsity

tf.keras.utils.set_random_seed(0)
input_shape = [20]
x_train = np.random.default_rng(0).normal(size=(8, 20)).astype(np.float32)
labels = np.arange(8)
y_train = tf.keras.utils.to_categorical(labels, num_classes=20)
found = {}


def setup_model():
    return tf.keras.Sequential(
        [
            tf.keras.layers.Dense(20, input_shape=input_shape),
            tf.keras.layers.Flatten(),
        ]
    )


def compile_model(model):
    model.compile(
        loss=tf.keras.losses.CategoricalCrossentropy(from_logits=True),
        optimizer="adam",
        metrics=["accuracy"],
    )


def train(model):
    """Trains a pruned model; returns the share of zeros in its kernels."""
    compile_model(model)
    callbacks = [
        sparsity.UpdatePruningStep(),
        sparsity.PruningSummaries(log_dir="logs"),
    ]
    model.fit(x_train, y_train, callbacks=callbacks, epochs=2, verbose=0)
    return zeros(sparsity.strip_pruning(model))


pretrained = setup_model()
compile_model(pretrained)
pretrained.fit(x_train, y_train, verbose=0)
pretrained.save_weights("pretrained.weights.h5")


def pretrained_model():
    model = setup_model()
    model.load_weights("pretrained.weights.h5")
    return model


def one_shot():
    """The default schedule updates every 100 steps; here are two."""
    return {"pruning_schedule": sparsity.ConstantSparsity(0.5, 0, frequency=1)}


# A whole model.
model_for_pruning = sparsity.prune_low_magnitude(pretrained_model(), **one_shot())
model_for_pruning.summary()
found["whole"] = train(model_for_pruning)


# Some layers.
def apply_pruning_to_dense(layer):
    if isinstance(layer, tf.keras.layers.Dense):
        return sparsity.prune_low_magnitude(layer, **one_shot())
    return layer


some = tf.keras.models.clone_model(
    pretrained_model(), clone_function=apply_pruning_to_dense
)
found["some"] = train(some)

# While the model is defined: functional, and sequential with a layer of one's own.
i = tf.keras.Input(shape=(20,))
x = sparsity.prune_low_magnitude(tf.keras.layers.Dense(20), **one_shot())(i)
functional = tf.keras.Model(inputs=i, outputs=tf.keras.layers.Flatten()(x))
found["functional"] = train(functional)


class MyDenseLayer(tf.keras.layers.Dense, sparsity.PrunableLayer):
    def get_prunable_weights(self):
        return [self.kernel, self.bias]


own = tf.keras.Sequential(
    [
        sparsity.prune_low_magnitude(
            MyDenseLayer(20, input_shape=input_shape, bias_initializer="ones"),
            **one_shot(),
        ),
        tf.keras.layers.Flatten(),
    ]
)
train(own)
found["own"] = [
    float(np.mean(w == 0)) for w in sparsity.strip_pruning(own).get_weights()
]

# A loop of one's own.
in_loop = sparsity.prune_low_magnitude(pretrained_model(), **one_shot())
loss = tf.keras.losses.CategoricalCrossentropy(from_logits=True)
optimizer = tf.keras.optimizers.Adam()
unused_arg = -1
in_loop.optimizer = optimizer
step_callback = sparsity.UpdatePruningStep()
step_callback.set_model(in_loop)
log_callback = sparsity.PruningSummaries(log_dir="logs_of_loop")
log_callback.set_model(in_loop)
step_callback.on_train_begin()
for _ in range(2):
    log_callback.on_epoch_begin(epoch=unused_arg)
    for _ in range(1):
        step_callback.on_train_batch_begin(batch=unused_arg)
        with tf.GradientTape() as tape:
            logits = in_loop(x_train, training=True)
            loss_value = loss(y_train, logits)
            grads = tape.gradient(loss_value, in_loop.trainable_variables)
            optimizer.apply_gradients(
                zip(grads, in_loop.trainable_variables, strict=True)
            )
    step_callback.on_epoch_end(batch=unused_arg)
found["loop"] = zeros(sparsity.strip_pruning(in_loop))

# A checkpoint, and training that goes on from it.
in_loop = sparsity.prune_low_magnitude(pretrained_model(), **one_shot())
train(in_loop)
in_loop.save("checkpoint.h5", include_optimizer=True)
with sparsity.prune_scope():
    loaded_model = tf.keras.models.load_model("checkpoint.h5")
loaded_model.summary()
found["steps"] = int(loaded_model.optimizer.iterations)
found["loaded"] = train(loaded_model)

# Deployment: stripped and zipped.
model_for_export = sparsity.strip_pruning(model_for_pruning)
model_for_pruning.save("unstripped.h5", include_optimizer=False)
model_for_export.save("stripped.h5", include_optimizer=False)
tflite = write("stripped.tflite", convert(model_for_export))
found["bytes"] = [zipped_size("stripped.h5"), zipped_size(tflite)]
found["unstripped_bytes"] = zipped_size("unstripped.h5")
compile_model(model_for_export)
found["accuracy"] = model_for_export.evaluate(x_train, y_train, verbose=0)[1]
found["of_file"] = evaluate(convert(model_for_export), x_train, labels)

# Blocks, for hardware that likes them.
blocks = sparsity.prune_low_magnitude(setup_model(), **one_shot(), block_size=[1, 16])
blocks.summary()
found["blocks"] = train(blocks)
