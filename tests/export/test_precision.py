import keras
import nets
import numpy as np
import pytest

from kprune.export.precision import in_float32

L = keras.layers


def mixed(policy):
    return nets.zeroed(
        keras.Sequential(
            [
                L.Input((8, 8, 1)),
                L.Conv2D(4, 3, dtype=policy),
                L.BatchNormalization(dtype=policy),
                keras.Sequential([L.Flatten(), L.Dense(4, dtype=policy)]),
                L.Dense(3, dtype="float32"),
            ]
        )
    )


def test_a_float32_model_is_itself():
    model = nets.cnn()
    assert in_float32(model) is model


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_a_mixed_model_is_copied_with_its_weights(policy):
    model = mixed(policy)
    copy = in_float32(model)
    assert {layer.compute_dtype for layer in copy._flatten_layers()} == {"float32"}
    assert model.layers[0].compute_dtype != "float32"
    for old, new in zip(model.weights, copy.weights, strict=True):
        np.testing.assert_array_equal(old.numpy().astype("float32"), new.numpy())
    x = nets.images()
    expected = np.asarray(model(x)).astype("float32")
    np.testing.assert_allclose(np.asarray(copy(x)), expected, atol=0.05)


def test_a_model_that_cannot_be_rebuilt_is_refused_with_the_cure():
    class Odd(L.Layer):
        def __init__(self, function):
            super().__init__(dtype="mixed_float16", name="odd")
            self.function = function

        def call(self, inputs):
            return self.function(inputs)

    model = keras.Sequential([L.Input((3,)), Odd(lambda x: x)])
    with pytest.raises(
        ValueError, match="Layer 'odd' computes in float16.*Odd.*set_weights"
    ):
        in_float32(model)
