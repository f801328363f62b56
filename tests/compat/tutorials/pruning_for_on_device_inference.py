"""In the way of tfmot's tutorial "Pruning for on-device inference w/ XNNPACK".

https://www.tensorflow.org/model_optimization/guide/pruning/pruning_for_on_device_inference
"""

import os

import numpy as np
import tensorflow as tf
from tensorflow import keras
from tutorial_data import load_data
from tutorial_ends import convert, evaluate, write, zeros

import kprune.compat.tfmot as sparsity

keras.utils.set_random_seed(0)
train, test = load_data()


def in_colour(images):
    """Returns images of 32x32 in three channels, as CIFAR-10 has them."""
    padded = np.pad(images / 255.0, ((0, 0), (2, 2), (2, 2)))
    return np.repeat(padded[..., None], 3, axis=-1).astype("float32")


ds_train = tf.data.Dataset.from_tensor_slices((in_colour(train[0]), train[1]))
ds_train = ds_train.cache().shuffle(len(train[0]), seed=0).batch(32).prefetch(1)
test_images, test_labels = in_colour(test[0]), test[1]
ds_test = tf.data.Dataset.from_tensor_slices((test_images, test_labels)).batch(64)


def normalized():
    return [keras.layers.BatchNormalization(momentum=0.8), keras.layers.ReLU()]


dense_model = keras.Sequential(
    [
        keras.layers.InputLayer(input_shape=(32, 32, 3)),
        keras.layers.ZeroPadding2D(padding=1),
        keras.layers.Conv2D(
            filters=8, kernel_size=(3, 3), strides=(2, 2), padding="valid"
        ),
        *normalized(),
        keras.layers.DepthwiseConv2D(kernel_size=(3, 3), padding="same"),
        *normalized(),
        keras.layers.Conv2D(filters=16, kernel_size=(1, 1)),
        *normalized(),
        keras.layers.ZeroPadding2D(padding=1),
        keras.layers.DepthwiseConv2D(
            kernel_size=(3, 3), strides=(2, 2), padding="valid"
        ),
        *normalized(),
        keras.layers.Conv2D(filters=32, kernel_size=(1, 1)),
        *normalized(),
        keras.layers.GlobalAveragePooling2D(keepdims=True),
        keras.layers.Flatten(),
        keras.layers.Dense(10),
    ]
)


def compile_model(model):
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.Adam(0.01),
        metrics=["accuracy"],
    )


compile_model(dense_model)
dense_model.fit(ds_train, epochs=4, validation_data=ds_test, verbose=0)
_, dense_accuracy = dense_model.evaluate(ds_test, verbose=0)

end_epoch = 2
pruning_params = {
    "pruning_schedule": sparsity.PolynomialDecay(
        initial_sparsity=0.25,
        final_sparsity=0.75,
        begin_step=0,
        end_step=len(ds_train) * end_epoch,
        frequency=10,
    ),
    "pruning_policy": sparsity.PruneForLatencyOnXNNPack(),
}
try:  # Without a stem that is padded, the policy says no.
    sparsity.prune_low_magnitude(
        keras.Sequential([keras.layers.InputLayer(input_shape=(32, 32, 3)),
                          keras.layers.Conv2D(8, 1)]), **pruning_params
    )  # fmt: skip
    refusal = ""
except ValueError as error:
    refusal = str(error)
model_for_pruning = sparsity.prune_low_magnitude(dense_model, **pruning_params)
compile_model(model_for_pruning)
model_for_pruning.fit(
    ds_train,
    epochs=end_epoch + 2,
    validation_data=ds_test,
    callbacks=[
        sparsity.UpdatePruningStep(),
        sparsity.PruningSummaries(log_dir="logs"),
    ],
    verbose=0,
)
_, accuracy = model_for_pruning.evaluate(ds_test, verbose=0)

dense_tflite = convert(dense_model)
model_for_export = sparsity.strip_pruning(model_for_pruning)
tflite = convert(model_for_export, tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
found = {
    "baseline": dense_accuracy,
    "accuracy": accuracy,
    "of_file": evaluate(tflite, test_images, test_labels),
    "zeros": zeros(model_for_export),
    "refusal": refusal,
    "pruned_bytes": os.path.getsize(write("pruned.tflite", tflite)),
    "dense_bytes": os.path.getsize(write("dense.tflite", dense_tflite)),
}
