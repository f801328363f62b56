"""In the way of tfmot's tutorial "Structural pruning M by N", down to the picture.

https://www.tensorflow.org/model_optimization/guide/pruning/pruning_with_sparsity_2_by_4
"""

import matplotlib.pyplot as plt
import numpy as np
from tensorflow import keras
from tutorial_data import load_data
from tutorial_ends import convert, evaluate, interpreter_for, zeros

import kprune.compat.tfmot as sparsity

keras.utils.set_random_seed(0)
prune_low_magnitude = sparsity.prune_low_magnitude
(train_images, train_labels), (test_images, test_labels) = load_data()
train_images = train_images[..., None] / 255.0
test_images = test_images[..., None] / 255.0

pruning_params_2_by_4 = {"sparsity_m_by_n": (2, 4)}
pruning_params_unstructured = {
    "pruning_schedule": sparsity.ConstantSparsity(
        target_sparsity=0.5, begin_step=0, frequency=100
    )
}
model = keras.Sequential(
    [
        prune_low_magnitude(
            keras.layers.Conv2D(
                8,
                5,
                padding="same",
                activation="relu",
                input_shape=(28, 28, 1),
                name="unstructured_pruning",
            ),
            **pruning_params_unstructured,
        ),
        keras.layers.MaxPooling2D((2, 2), (2, 2), padding="same"),
        prune_low_magnitude(
            keras.layers.Conv2D(16, 5, padding="same", name="structural_pruning"),
            **pruning_params_2_by_4,
        ),
        keras.layers.BatchNormalization(momentum=0.8),
        keras.layers.ReLU(),
        keras.layers.MaxPooling2D((2, 2), (2, 2), padding="same"),
        keras.layers.Flatten(),
        prune_low_magnitude(
            keras.layers.Dense(64, activation="relu", name="structural_pruning_dense"),
            **pruning_params_2_by_4,
        ),
        keras.layers.Dropout(0.4),
        keras.layers.Dense(10),
    ]
)
model.compile(
    optimizer="adam",
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.summary()
model.fit(
    train_images,
    train_labels,
    batch_size=64,
    epochs=4,
    verbose=0,
    callbacks=sparsity.UpdatePruningStep(),
    validation_split=0.1,
)
_, accuracy = model.evaluate(test_images, test_labels, verbose=0)
model = sparsity.strip_pruning(model)
tflite = convert(model)

# The weights are looked up in the file by the names of their layers.
interpreter = interpreter_for(tflite)
details = interpreter.get_tensor_details()


def weights_of(name, rank):
    """Returns the weights of a layer; Keras 3 names its operations `name_1/MatMul`."""
    (found,) = (
        detail
        for detail in details
        if f"/{name}" in detail["name"]
        and detail["name"].endswith(("/MatMul", "/Conv2D", "/convolution"))
        and len(detail["shape"]) == rank
        and name + "_dense" not in detail["name"]
    )
    return interpreter.tensor(found["index"])()


dense = weights_of("structural_pruning_dense", 2)
conv = weights_of("structural_pruning", 4)
plt.imshow(np.where(abs(dense[:24, :24]) > 0, 1.0, 0.0))
plt.title("Structural pruning for Dense layer")
plt.savefig("dense.png")
plt.close()
found = {
    "accuracy": accuracy,
    "of_file": evaluate(tflite, test_images, test_labels),
    "zeros": zeros(model),
    # In the file as on the runtime: the last axis are the inputs.
    "most_of_four": [
        int(np.count_nonzero(tensor.reshape(-1, 4), axis=1).max())
        for tensor in (dense, conv)
    ],
}
