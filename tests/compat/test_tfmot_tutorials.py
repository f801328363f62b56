"""Scripts in the way of tfmot's five tutorials, of which the import is changed only.

They are written as these are, with `tf.keras`, on handwritten digits that come with
scikit-learn: https://www.tensorflow.org/model_optimization/guide/pruning
"""

import gzip
import os
import pathlib
import warnings

import numpy as np
import pytest
import sklearn.datasets
import sklearn.model_selection

import kprune.compat.tfmot as sparsity
from kprune.notices import PruningWarning

tf = pytest.importorskip("tensorflow")
BATCH, EPOCHS = 64, 2


@pytest.fixture(scope="module")
def digits():
    x, y = sklearn.datasets.load_digits(return_X_y=True)
    x = (x / 16).astype("float32").reshape(-1, 8, 8)
    return sklearn.model_selection.train_test_split(x, y, random_state=0)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def dense_model():
    return tf.keras.Sequential(
        [
            tf.keras.layers.Input((8, 8)),
            tf.keras.layers.Reshape((8, 8, 1)),
            tf.keras.layers.Conv2D(12, 3, activation="relu"),
            tf.keras.layers.MaxPooling2D(2),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(10, name="head"),
        ]
    )


def compile_for_digits(model):
    model.compile(
        optimizer=tf.keras.optimizers.Adam(0.01),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def zipped(file):
    return len(gzip.compress(pathlib.Path(file).read_bytes()))


def zeros(model):
    """The share of zeros per kernel."""
    return [
        round(float(np.mean(np.array(w) == 0)), 2)
        for w in model.trainable_variables
        if w.name == "kernel"
    ]


def test_pruning_with_keras(digits):
    train_images, test_images, train_labels, test_labels = digits
    model = dense_model()
    compile_for_digits(model)
    model.fit(train_images, train_labels, BATCH, 4, validation_split=0.1, verbose=0)
    _, baseline = model.evaluate(test_images, test_labels, verbose=0)
    model.save("baseline.keras", include_optimizer=False)

    num_images = train_images.shape[0] * 0.9
    end_step = np.ceil(num_images / BATCH).astype(np.int32) * EPOCHS
    pruning_params = {
        "pruning_schedule": sparsity.PolynomialDecay(
            initial_sparsity=0.50,
            final_sparsity=0.80,
            begin_step=0,
            end_step=end_step,
            frequency=10,
        )
    }
    model_for_pruning = sparsity.prune_low_magnitude(model, **pruning_params)
    compile_for_digits(model_for_pruning)
    callbacks = [
        sparsity.UpdatePruningStep(),
        sparsity.PruningSummaries(log_dir="logs"),
    ]
    model_for_pruning.fit(
        train_images,
        train_labels,
        batch_size=BATCH,
        epochs=EPOCHS + 4,
        validation_split=0.1,
        callbacks=callbacks,
        verbose=0,
    )
    _, accuracy = model_for_pruning.evaluate(test_images, test_labels, verbose=0)
    assert accuracy > baseline - 0.1 > 0.7

    model_for_export = sparsity.strip_pruning(model_for_pruning)
    model_for_export.save("pruned.keras", include_optimizer=False)
    assert zeros(model_for_export) == [0.8, 0.8]
    assert zipped("pruned.keras") < zipped("baseline.keras")
    again = tf.keras.models.load_model("pruned.keras")
    compile_for_digits(again)
    assert again.evaluate(test_images, test_labels, verbose=0)[1] == accuracy


def test_comprehensive_guide_some_layers(digits):
    """Chosen by a function for `clone_model`."""
    train_images, _, train_labels, _ = digits
    base_model = dense_model()

    def apply_pruning_to_dense(layer):
        if isinstance(layer, tf.keras.layers.Dense):
            return sparsity.prune_low_magnitude(layer)
        return layer

    model_for_pruning = tf.keras.models.clone_model(
        base_model, clone_function=apply_pruning_to_dense
    )
    compile_for_digits(model_for_pruning)
    model_for_pruning.fit(
        train_images,
        train_labels,
        epochs=1,
        callbacks=[sparsity.UpdatePruningStep()],
        verbose=0,
    )
    assert zeros(sparsity.strip_pruning(model_for_pruning)) == [0.0, 0.5]


def test_comprehensive_guide_functional_and_own_layers(digits):
    train_images, _, train_labels, _ = digits

    @tf.keras.utils.register_keras_serializable("tutorial")
    class MyDenseLayer(tf.keras.layers.Dense, sparsity.PrunableLayer):
        def get_prunable_weights(self):
            return [self.kernel, self.bias]

    i = tf.keras.Input(shape=(8, 8))
    x = tf.keras.layers.Flatten()(i)
    x = sparsity.prune_low_magnitude(MyDenseLayer(20, bias_initializer="ones"))(x)
    o = tf.keras.layers.Dense(10)(x)
    model_for_pruning = tf.keras.Model(inputs=i, outputs=o)
    compile_for_digits(model_for_pruning)
    checkpoint = tf.keras.callbacks.ModelCheckpoint("checkpoint.keras")
    model_for_pruning.fit(
        train_images,
        train_labels,
        epochs=1,
        callbacks=[checkpoint, sparsity.UpdatePruningStep()],
        verbose=0,
    )
    with sparsity.prune_scope():
        loaded = tf.keras.models.load_model("checkpoint.keras")
    kernel, bias = sparsity.strip_pruning(loaded).layers[2].get_weights()
    assert np.mean(kernel == 0) == np.mean(bias == 0) == 0.5


def test_comprehensive_guide_custom_training_loop(digits):
    train_images, _, train_labels, _ = digits
    model_for_pruning = sparsity.prune_low_magnitude(dense_model())
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = tf.keras.optimizers.Adam()
    unused_arg = -1
    model_for_pruning.optimizer = optimizer
    step_callback = sparsity.UpdatePruningStep()
    step_callback.set_model(model_for_pruning)
    log_callback = sparsity.PruningSummaries(log_dir="logs")
    log_callback.set_model(model_for_pruning)

    step_callback.on_train_begin()
    for _ in range(EPOCHS):
        log_callback.on_epoch_begin(epoch=unused_arg)
        for start in range(0, 4 * BATCH, BATCH):
            batch = slice(start, start + BATCH)
            step_callback.on_train_batch_begin(batch=unused_arg)
            with tf.GradientTape() as tape:
                logits = model_for_pruning(train_images[batch], training=True)
                loss_value = loss(train_labels[batch], logits)
            grads = tape.gradient(loss_value, model_for_pruning.trainable_variables)
            optimizer.apply_gradients(
                zip(grads, model_for_pruning.trainable_variables, strict=True)
            )
        step_callback.on_epoch_end(batch=unused_arg)
    assert zeros(sparsity.strip_pruning(model_for_pruning)) == [0.5, 0.5]
    assert os.listdir("logs/metrics")


def test_structural_pruning_2_by_4(digits):
    train_images, _, train_labels, _ = digits
    pruning_params_2_by_4 = {"sparsity_m_by_n": (2, 4)}
    pruning_params_sparsity_0_5 = {
        "pruning_schedule": sparsity.ConstantSparsity(
            target_sparsity=0.5, begin_step=0, frequency=100
        )
    }
    with warnings.catch_warnings():
        # Keras 3 would rather have an Input.
        warnings.filterwarnings("ignore", "Do not pass an `input_shape`", UserWarning)
        first = sparsity.prune_low_magnitude(
            tf.keras.layers.Conv2D(
                16, 3, padding="same", activation="relu", input_shape=(8, 8, 1)
            ),
            **pruning_params_sparsity_0_5,
        )
    model = tf.keras.Sequential(
        [
            first,
            tf.keras.layers.MaxPooling2D((2, 2), (2, 2), padding="same"),
            sparsity.prune_low_magnitude(
                tf.keras.layers.Conv2D(16, 3, padding="same", name="structural"),
                **pruning_params_2_by_4,
            ),
            tf.keras.layers.BatchNormalization(),
            tf.keras.layers.ReLU(),
            tf.keras.layers.Flatten(),
            sparsity.prune_low_magnitude(
                tf.keras.layers.Dense(32, activation="relu"), **pruning_params_2_by_4
            ),
            tf.keras.layers.Dropout(0.4),
            tf.keras.layers.Dense(10),
        ]
    )
    compile_for_digits(model)
    model.fit(
        train_images[..., None],
        train_labels,
        batch_size=BATCH,
        epochs=1,
        verbose=0,
        callbacks=sparsity.UpdatePruningStep(),
    )
    model = sparsity.strip_pruning(model)
    assert zeros(model) == [0.5, 0.5, 0.5, 0.0]
    kernel = np.array(model.get_layer("structural").kernel)
    groups = np.moveaxis(kernel, -2, -1).reshape(-1, 4)
    assert (np.count_nonzero(groups, axis=1) <= 2).all()


def test_pruning_for_on_device_inference_with_xnnpack():
    rng = np.random.default_rng(0)
    train_images = rng.random((64, 32, 32, 3)).astype("float32")
    train_labels = rng.integers(0, 10, 64)
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Input((32, 32, 3)),
            tf.keras.layers.ZeroPadding2D(padding=1),
            tf.keras.layers.Conv2D(8, 3, strides=2, padding="valid"),
            tf.keras.layers.BatchNormalization(),
            tf.keras.layers.ReLU(),
            tf.keras.layers.DepthwiseConv2D(3, padding="same"),
            tf.keras.layers.Conv2D(16, 1, name="pointwise"),
            tf.keras.layers.GlobalAveragePooling2D(keepdims=True),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(10),
        ]
    )
    start_step, end_step = 0, 8
    model_for_pruning = sparsity.prune_low_magnitude(
        model,
        pruning_schedule=sparsity.PolynomialDecay(0.25, 0.75, start_step, end_step),
        pruning_policy=sparsity.PruneForLatencyOnXNNPack(),
    )
    compile_for_digits(model_for_pruning)
    model_for_pruning.fit(
        train_images,
        train_labels,
        batch_size=16,
        epochs=3,
        callbacks=[sparsity.UpdatePruningStep()],
        verbose=0,
    )
    stripped = sparsity.strip_pruning(model_for_pruning)
    pointwise = np.array(stripped.get_layer("pointwise").kernel)
    assert np.mean(pointwise == 0) == 0.75
    assert zeros(stripped)[-1] == 0.0
    with pytest.raises(ValueError, match="In the way"):
        sparsity.prune_low_magnitude(
            dense_model_with_pointwise(),
            pruning_policy=sparsity.PruneForLatencyOnXNNPack(),
        )


def dense_model_with_pointwise():
    return tf.keras.Sequential(
        [
            tf.keras.layers.Input((32, 32, 3)),
            tf.keras.layers.Conv2D(8, 1),
            tf.keras.layers.Flatten(),
        ]
    )


def test_early_stopping_of_a_tutorial_is_told_what_it_does(digits):
    train_images, _, train_labels, _ = digits
    schedule = sparsity.PolynomialDecay(0.0, 0.8, 0, 40)
    model_for_pruning = sparsity.prune_low_magnitude(dense_model(), schedule)
    compile_for_digits(model_for_pruning)
    stopping = tf.keras.callbacks.EarlyStopping(monitor="loss", patience=10)
    with pytest.warns(PruningWarning, match="Epochs before the target sparsity"):
        model_for_pruning.fit(
            train_images,
            train_labels,
            epochs=2,
            callbacks=[sparsity.UpdatePruningStep(), stopping],
            verbose=0,
        )
