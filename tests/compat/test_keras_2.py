"""A model of Keras 2 (tf_keras) by mistake: the message names it, and the cure."""

import warnings

import keras
import numpy as np
import pytest

import kprune
import kprune.compat.tfmot as sparsity

CURE = r"(?s)belongs to Keras 2 \(tf_keras\).*build it with `keras`, version 3"


@pytest.fixture(scope="module")
def tf_keras():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tf_keras
    return tf_keras


@pytest.fixture(scope="module")
def legacy(tf_keras):
    model = tf_keras.Sequential([tf_keras.layers.Dense(3, input_shape=(4,))])
    model.compile("sgd", "mse")
    return model


XY = np.ones((2, 4)), np.ones((2, 3))
RULE = kprune.Rule(kprune.ConstantSparsity(0.5))


def own():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])


def run_recipe(model):
    recipe = kprune.Recipe(kprune.recipe.Prune(sparsity=0.5, epochs=1))
    recipe.run(model, XY, XY, "folder")


CALLS = [
    lambda model: kprune.prune(model, 0.5),
    lambda model: kprune.prune(model.layers[0], 0.5),
    lambda model: kprune.prune(own(), 0.5, only=model.layers[0]),
    lambda model: kprune.prune(own(), 0.5, skip=[type(model.layers[0])]),
    lambda model: kprune.Pruned(model.layers[0], RULE),
    kprune.strip,
    kprune.hold_zeros,
    kprune.release,
    lambda model: kprune.Pruner(model, sparsity=0.5),
    lambda model: kprune.cluster(model, 4),
    lambda model: kprune.distill(model, own()),
    lambda model: kprune.distill(own(), model),
    kprune.advise,
    kprune.prepare,
    kprune.inspect,
    kprune.plan_shrink,
    kprune.shrink,
    kprune.quantize_aware,
    lambda model: kprune.quantization_sensitivity(model, XY[0]),
    kprune.bench,
    lambda model: kprune.export(model, "model.tflite"),
    lambda model: kprune.export(own(), "model.tflite", dense=model),
    run_recipe,
    lambda model: kprune.register_prunable(type(model.layers[0]), ["kernel"]),
    lambda model: kprune.register_coupling(type(model.layers[0]), print),
]
# These raise what tfmot raises.
CALLS_OF_TFMOT = [
    sparsity.prune_low_magnitude,
    lambda model: sparsity.prune_low_magnitude(model.layers[0]),
    lambda model: sparsity.prune_low_magnitude(model.layers),
    sparsity.strip_pruning,
    sparsity.PruneForLatencyOnXNNPack().ensure_model_supports_pruning,
]


# In one test, since what follows each of them takes a second with tf_keras.
def test_it_is_named_wherever_it_is_given(legacy):
    for call in CALLS:
        with pytest.raises(TypeError, match=CURE):
            call(legacy)
    for call in CALLS_OF_TFMOT:
        with pytest.raises(ValueError, match=CURE):
            call(legacy)


def test_it_is_named_by_callbacks_in_its_fit(legacy):
    pruning = kprune.PruningCallback(0.5)
    for callback in [
        pruning,
        kprune.RewindCallback(0.5),
        kprune.ClusteringCallback(4),
        kprune.QuantizationCallback(),
        kprune.PruningSummaries(pruning, "logs"),
        kprune.AtTarget(keras.callbacks.EarlyStopping(), pruning),
        sparsity.UpdatePruningStep(),
        sparsity.PruningSummaries("logs"),
    ]:
        with pytest.raises(TypeError, match=CURE):
            legacy.fit(*XY, verbose=0, callbacks=[callback])


def test_a_subclass_of_keras_2_is_named(tf_keras):
    class Mine(tf_keras.Model):
        pass

    with pytest.raises(TypeError, match=CURE):
        kprune.prune(Mine(), 0.5)
