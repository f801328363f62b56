"""Layers that hold other layers."""

import keras
import numpy as np
import pytest
from cases import around, groups, proven, why_fixed
from zoo import scrambled

from kprune.coupling.graph import analyse

L = keras.layers


def test_a_layer_is_applied_to_each_step():
    model = around(L.TimeDistributed(L.Dense(6, name="dense"), name="each"), (5, 3))
    assert groups(model) == {"before_0 units": 8, "each/dense units": 6}
    small = proven(model).get_layer("each").layer
    assert tuple(small.kernel.shape) == (4, 3)


def test_images_over_time_become_vectors_over_time():
    each = L.TimeDistributed
    keras.utils.set_random_seed(0)
    x = inputs = L.Input((4, 6, 6, 2))
    x = each(L.Conv2D(6, 3, name="conv"), name="a")(x)
    x = each(L.BatchNormalization())(x)
    x = each(L.Flatten())(x)
    x = L.LSTM(4, name="lstm")(each(L.Dense(8, name="dense"), name="b")(x))
    model = scrambled(keras.Model(inputs, L.Dense(2)(x)))
    assert groups(model) == {
        "a/conv filters": 6,
        "b/dense units": 8,
        "lstm units": 4,
    }
    proven(model)


def test_steps_that_are_masked_stay_so():
    inputs = L.Input((6,), dtype="int32")
    x = L.Embedding(9, 8, mask_zero=True, name="embedding")(inputs)
    x = L.TimeDistributed(L.Dense(6, name="dense"), name="each")(x)
    model = scrambled(keras.Model(inputs, L.Dense(2)(L.LSTM(4, name="lstm")(x))))
    assert groups(model) == {
        "embedding dimensions": 8,
        "each/dense units": 6,
        "lstm units": 4,
    }
    proven(model)


def test_wrappers_may_be_wrapped():
    each = L.TimeDistributed(L.Bidirectional(L.GRU(4, name="gru")), name="each")
    model = around(each, (3, 5, 2))
    assert sorted(groups(model).values()) == [4, 8]
    proven(model)
    each = L.TimeDistributed(L.Reshape((2, 2, -1)))
    proven(around(lambda x: L.Conv3D(4, 1)(each(x)), (3, 4, 2)))


@pytest.mark.parametrize("layer", [L.Conv1D(6, 3), L.Dense(6), L.Conv1DTranspose(6, 3)])
def test_a_spectral_norm_keeps_its_vector_beside_the_kernel(layer):
    model = around(L.SpectralNormalization(layer, name="norm"), (5, 3))
    assert sorted(groups(model).values()) == [6, 8]
    small = proven(model).get_layer("norm")
    assert small.vector_u.shape[-1] == small.layer.kernel.shape[-1]
    small(np.ones((2, 5, 4)), training=True)


def test_each_step_is_counted():
    model = around(L.TimeDistributed(L.Dense(6)), (5, 3))
    coupling = analyse(model)
    assert coupling.macs(coupling.nothing()) == 5 * (3 * 8 + 8 * 6 + 6 * 2)


def test_models_and_unknown_layers_inside_are_barriers():
    inner = keras.Sequential([L.Input((8,)), L.Dense(6)])
    model = around(L.TimeDistributed(inner, name="each"), (5, 3))
    assert "'each' wraps a model" in why_fixed(model)["before_0 units"]

    class Own(L.Layer):
        def call(self, x):
            return x * 2

        def compute_output_shape(self, shape):
            return shape

    model = around(L.TimeDistributed(Own(), name="each"), (5, 3))
    assert why_fixed(model)["before_0 units"] == (
        "TimeDistributed 'each' wraps Own, which has no coupling rule"
    )
