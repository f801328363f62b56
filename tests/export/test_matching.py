import nets
import numpy as np

from kprune.export import matching, tflite
from kprune.export.tflite import Tensor


def tensor(array, index=0):
    none = np.zeros(0)
    return Tensor(
        index, f"t{index}", array.shape, "FLOAT32", array.ravel(), False, none, none, 0
    )


def kernels(model):
    return [v.numpy() for v in model.weights if len(v.shape) > 1]


def test_each_kernel_is_found_through_folding_and_rounding(cnn_files):
    import keras

    keras.utils.set_random_seed(0)
    weights = kernels(nets.cnn())
    for name in ("none", "float16", "int8"):
        file = tflite.parse(cnn_files[name])
        found = matching.match(weights, list(file.weights()))
        assert [t.shape for t in found] == [
            (8, 3, 3, 1),
            (1, 3, 3, 8),
            (16, 1, 1, 8),
            (3, 256),
        ]


def test_same_shape_is_told_apart_by_values_and_signs_do_not_matter():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 6, 6))
    scale = rng.normal(size=(6, 1))  # Folded normalisation may turn a channel round.
    tensors = [tensor(second.T.copy(), 0), tensor(first.T * scale, 1)]
    found = matching.match([first, second], tensors)
    assert [t.index for t in found] == [1, 0]


def test_what_is_not_there_is_not_found():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 8, 6))
    assert matching.match([first], [tensor(second.T.copy())]) == [None]
    assert matching.match([first], [tensor(np.zeros((6, 8)))]) == [None]
    assert matching.match([first], []) == [None]


def test_a_channel_of_zeros_matches_only_zeros():
    weight = np.ones((4, 4))
    weight[:, 1] = 0
    assert matching.match([weight], [tensor(weight.T.copy())])[0] is not None
    assert matching.match([weight], [tensor(np.ones((4, 4)))]) == [None]
