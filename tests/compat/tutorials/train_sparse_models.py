"""In the way of the pruning guide: a network in wrappers, saved, restored, exported.

https://github.com/tensorflow/model-optimization, guide/pruning/train_sparse_models.md,
and the first version of pruning_with_keras.
"""

import numpy as np
import tensorflow as tf
from tutorial_data import load_data
from tutorial_ends import convert, evaluate, write, zeros, zipped_size

import kprune.compat.tfmot as sparsity

tf.keras.utils.set_random_seed(0)
(x_train, y_train), (x_test, y_test) = load_data()
x_train, x_test = (x.astype("float32")[..., None] / 255 for x in (x_train, x_test))
y_train, y_test = (tf.keras.utils.to_categorical(y, 10) for y in (y_train, y_test))
batch_size, epochs, restored_epochs = 32, 3, 2
steps = np.ceil(1.0 * len(x_train) / batch_size).astype(np.int32)

l = tf.keras.layers  # noqa: E741
pruning_params = {
    "pruning_schedule": sparsity.PolynomialDecay(
        initial_sparsity=0.50,
        final_sparsity=0.90,
        begin_step=30,
        end_step=steps * (epochs + restored_epochs),
        frequency=10,
    )
}
pruned_model = tf.keras.Sequential(
    [
        sparsity.prune_low_magnitude(
            l.Conv2D(8, 5, padding="same", activation="relu"),
            input_shape=(28, 28, 1),
            **pruning_params,
        ),
        l.MaxPooling2D((2, 2), (2, 2), padding="same"),
        l.BatchNormalization(momentum=0.8),
        sparsity.prune_low_magnitude(
            l.Conv2D(16, 5, padding="same", activation="relu"), **pruning_params
        ),
        l.MaxPooling2D((2, 2), (2, 2), padding="same"),
        l.Flatten(),
        sparsity.prune_low_magnitude(l.Dense(64, activation="relu"), **pruning_params),
        l.Dropout(0.4),
        sparsity.prune_low_magnitude(
            l.Dense(10, activation="softmax"), **pruning_params
        ),
    ]
)
pruned_model.summary()
pruned_model.compile(
    loss=tf.keras.losses.categorical_crossentropy,
    optimizer="adam",
    metrics=["accuracy"],
)


def train(model, epochs):
    callbacks = [
        sparsity.UpdatePruningStep(),
        sparsity.PruningSummaries(log_dir="logs", profile_batch=0),
    ]
    model.fit(
        x_train,
        y_train,
        batch_size=batch_size,
        epochs=epochs,
        verbose=0,
        callbacks=callbacks,
        validation_data=(x_test, y_test),
    )


train(pruned_model, epochs)
# With the optimizer, whose steps the schedule counts.
tf.keras.models.save_model(pruned_model, "checkpoint.h5", include_optimizer=True)
with sparsity.prune_scope():
    restored_model = tf.keras.models.load_model("checkpoint.h5")
train(restored_model, restored_epochs)
score = restored_model.evaluate(x_test, y_test, verbose=0)

final_model = sparsity.strip_pruning(restored_model)
final_model.summary()
tf.keras.models.save_model(final_model, "pruned.h5", include_optimizer=False)
tflite = convert(final_model)
found = {
    "accuracy": score[1],
    "of_file": evaluate(tflite, x_test, y_test.argmax(axis=1)),
    "zeros": zeros(final_model),
    "bytes": [zipped_size("pruned.h5"), zipped_size(write("pruned.tflite", tflite))],
}
