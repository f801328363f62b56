import keras
import nets
import numpy as np
import pytest

from kprune.export import tflite
from kprune.export.cost import count_macs

L = keras.layers


def test_macs_of_each_kind_of_layer_by_hand(cnn_files):
    # conv 6x6x8 of 3x3x1; depthwise 4x4x8 of 3x3; pointwise 4x4x16 of 8; dense 256x3.
    expected = 36 * 8 * 9 + 16 * 8 * 9 + 16 * 16 * 8 + 256 * 3
    for data in cnn_files.values():
        macs = count_macs(tflite.parse(data))
        assert macs.total == expected
        assert macs.nonzero <= expected * 0.25
    assert macs.uncounted == ("RESHAPE",)


def test_only_the_zeros_are_taken_off(cnn_files):
    assert count_macs(tflite.parse(cnn_files["none"])).nonzero == 0.25 * (
        36 * 8 * 9 + 16 * 8 * 9 + 16 * 16 * 8 + 256 * 3
    )


def test_transposed_convolutions_and_products_of_activations():
    inputs = L.Input((4, 4, 3))
    x = L.Conv2DTranspose(5, 2, strides=2, use_bias=False)(inputs)
    x = L.Reshape((16, 20))(x)
    x = L.Dot(axes=(2, 2))([x, x])
    macs = count_macs(tflite.parse(nets.converted(keras.Model(inputs, x), "none")))
    assert macs.total == 4 * 4 * (2 * 2 * 5 * 3) + 16 * 16 * 20
    assert macs.total == macs.nonzero


@pytest.mark.parametrize("shape", [(), (0, 4), (4, 0)])
def test_weights_unpacked_from_an_impossible_shape_are_not_counted(shape):
    def tensor(index, shape):
        none = np.zeros(0)
        return tflite.Tensor(index, "", shape, "FLOAT32", None, False, none, none, 0)

    tensors = tuple(map(tensor, range(4), [(1, 4), shape, (3, 4), (1, 3)]))
    unpacking = tflite.Operator("DENSIFY", (1,), (2,))
    product = tflite.Operator("FULLY_CONNECTED", (0, 2), (3,))
    graph = tflite.Subgraph(tensors, (unpacking, product), (0,), (3,))
    macs = count_macs(tflite.TFLiteFile((graph,), ()))
    assert macs.total == 0 and "FULLY_CONNECTED" in macs.uncounted


def test_nets_have_the_zeros_that_the_tests_count_on():
    for variable in nets.cnn().weights:
        if len(variable.shape) > 1:
            assert np.mean(variable.numpy() == 0) == 0.75
