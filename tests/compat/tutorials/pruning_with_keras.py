"""In the way of tfmot's tutorial "Pruning in Keras": a network 3x and 10x smaller.

https://www.tensorflow.org/model_optimization/guide/pruning/pruning_with_keras
"""

import numpy as np
import tensorflow as tf
from tutorial_data import load_data
from tutorial_ends import convert, evaluate, write, zeros, zipped_size

import kprune.compat.tfmot as sparsity

tf.keras.utils.set_random_seed(0)
(train_images, train_labels), (test_images, test_labels) = load_data()
train_images = train_images / 255.0
test_images = test_images / 255.0

model = tf.keras.Sequential(
    [
        tf.keras.layers.InputLayer(input_shape=(28, 28)),
        tf.keras.layers.Reshape(target_shape=(28, 28, 1)),
        tf.keras.layers.Conv2D(filters=12, kernel_size=(3, 3), activation="relu"),
        tf.keras.layers.MaxPooling2D(pool_size=(2, 2)),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(10),
    ]
)


def compile_model(model):
    model.compile(
        optimizer="adam",
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


compile_model(model)
model.fit(train_images, train_labels, epochs=4, validation_split=0.1, verbose=0)
_, baseline_accuracy = model.evaluate(test_images, test_labels, verbose=0)
tf.keras.models.save_model(model, "baseline.h5", include_optimizer=False)

batch_size = 16
epochs = 2
validation_split = 0.1
num_images = train_images.shape[0] * (1 - validation_split)
end_step = np.ceil(num_images / batch_size).astype(np.int32) * epochs
pruning_params = {
    "pruning_schedule": sparsity.PolynomialDecay(
        initial_sparsity=0.50,
        final_sparsity=0.80,
        begin_step=0,
        end_step=end_step,
        frequency=18,
    )
}
model_for_pruning = sparsity.prune_low_magnitude(model, **pruning_params)
compile_model(model_for_pruning)
model_for_pruning.summary()
callbacks = [
    sparsity.UpdatePruningStep(),
    sparsity.PruningSummaries(log_dir="logs"),
]
model_for_pruning.fit(
    train_images,
    train_labels,
    batch_size=batch_size,
    epochs=epochs,
    validation_split=validation_split,
    callbacks=callbacks,
    verbose=0,
)
_, accuracy = model_for_pruning.evaluate(test_images, test_labels, verbose=0)

model_for_export = sparsity.strip_pruning(model_for_pruning)
tf.keras.models.save_model(model_for_export, "pruned.h5", include_optimizer=False)
tflite = convert(model_for_export)
quantized = convert(model_for_export, tf.lite.Optimize.DEFAULT)
found = {
    "baseline": baseline_accuracy,
    "accuracy": accuracy,
    "of_file": evaluate(tflite, test_images, test_labels),
    "of_quantized": evaluate(quantized, test_images, test_labels),
    "zeros": zeros(model_for_export),
    "baseline_bytes": zipped_size("baseline.h5"),
    "bytes": [
        zipped_size("pruned.h5"),
        zipped_size(write("pruned.tflite", tflite)),
        zipped_size(write("quantized.tflite", quantized)),
    ],
}
