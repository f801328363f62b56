"""A model of Keras 2 (tf_keras) by mistake: the message names it, and the cure."""

import warnings

import keras
import numpy as np
import pytest

import kprune
import kprune.compat.tfmot as sparsity

CURE = r"belongs to Keras 2 \(tf_keras\).*build it with `keras`, version 3"


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


def own():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])


@pytest.mark.parametrize(
    "call",
    [
        lambda model: kprune.prune(model, 0.5),
        lambda model: kprune.prune(model.layers[0], 0.5),
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
        lambda model: kprune.export(model, "model.tflite"),
        lambda model: kprune.PruningCallback(0.5).set_model(model),
        lambda model: kprune.ClusteringCallback(4).set_model(model),
    ],
)
def test_it_is_named_wherever_it_is_given(legacy, call):
    with pytest.raises(TypeError, match=CURE):
        call(legacy)


@pytest.mark.parametrize(
    "call",
    [
        sparsity.prune_low_magnitude,
        lambda model: sparsity.prune_low_magnitude(model.layers[0]),
        lambda model: sparsity.prune_low_magnitude(model.layers),
        sparsity.strip_pruning,
    ],
)
def test_it_is_named_by_tfmots_names_too(legacy, call):
    """These raise what tfmot raises."""
    with pytest.raises(ValueError, match=CURE):
        call(legacy)


@pytest.mark.parametrize(
    "make",
    [
        lambda: kprune.PruningCallback(0.5),
        lambda: kprune.RewindCallback(0.5),
        lambda: kprune.ClusteringCallback(4),
        sparsity.UpdatePruningStep,
    ],
)
def test_it_is_named_by_callbacks_in_its_fit(legacy, make):
    with pytest.raises(TypeError, match=CURE):
        legacy.fit(np.ones((2, 4)), np.ones((2, 3)), verbose=0, callbacks=[make()])


def test_a_subclass_of_keras_2_is_named(tf_keras):
    class Mine(tf_keras.Model):
        pass

    with pytest.raises(TypeError, match=CURE):
        kprune.prune(Mine(), 0.5)
