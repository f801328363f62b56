"""A pruned model's zeros are zeros in its file, the same ones, however quantised."""

import keras
import nets
import numpy as np
import pytest

from kprune.export import export, mixed, tflite
from kprune.export.matching import layouts, match
from kprune.export.pruned import weights_of
from kprune.export.targets import QUANTIZATIONS

L = keras.layers

# How far outputs may be from Keras's. A model of random weights has no classes that are
# far apart, and four bits are coarse.
LIMITS = {"none": 1e-5, "float16": 1e-3, "dynamic": 0.02, "int4": 0.1}
LIMITS |= {"int8": 0.03, "int16x8": 0.01}

FILES = [("android", quantization) for quantization in QUANTIZATIONS]
FILES += [("microcontroller", quantization) for quantization in ("int8", "int16x8")]
KEPT = ["conv", "hidden"]
CASES = [(*file, None) for file in FILES]
CASES += [(*file, KEPT) for file in FILES if file[1] in mixed.QUANTIZATIONS]


@pytest.fixture(scope="module")
def pruned():
    """A network at 0.8, of which one channel of each layer is zero but for its bias."""
    keras.utils.set_random_seed(0)
    layers = [
        L.Input((8, 8, 4)),
        L.Conv2D(32, 3, name="conv"),
        L.BatchNormalization(name="norm"),
        L.ReLU(),
        L.DepthwiseConv2D(3, name="depthwise"),
        L.Conv2D(40, 1, activation="relu", name="pointwise"),
        L.Flatten(),
        L.Dense(32, activation="relu", name="hidden"),
        L.Dense(5, name="head"),
    ]
    model = nets.zeroed(keras.Sequential(layers), 0.8)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            kernel = np.array(layer.kernel)
            kernel[..., 1, :] = 0  # Depthwise kernels have their channels there.
            if layer.name != "depthwise":
                kernel[..., 1] = 0
            layer.kernel.assign(kernel)
            layer.bias.assign(rng.uniform(0.1, 0.3, layer.bias.shape))
    norm = model.get_layer("norm")
    norm.gamma.assign(rng.uniform(0.5, 2, norm.gamma.shape))
    norm.moving_variance.assign(rng.uniform(0.5, 2, norm.gamma.shape))
    return model


@pytest.mark.parametrize(("target", "quantization", "kept"), CASES)
def test_zeros_stay_the_same_zeros(tmp_path, pruned, target, quantization, kept):
    if quantization == "int4":
        pytest.importorskip("ai_edge_quantizer")
    data = np.random.default_rng(1).random((32, 8, 8, 4), dtype="float32")
    report = export(
        pruned, tmp_path / "m.tflite", target, quantization, data,
        benchmark=False, c_source=False, slim=False, encode=False, float_layers=kept,
    )  # fmt: skip
    assert max(item.relative for item in report.differences) < LIMITS[quantization]
    weights = weights_of(pruned)
    file = tflite.parse((tmp_path / "m.tflite").read_bytes())
    images = match([weight.value for weight in weights], list(file.weights()))
    assert len(images) == 5 and None not in images
    for weight, image in zip(weights, images, strict=True):
        assert (weight.value == 0).mean() > 0.79
        assert any(
            np.array_equal(layout == 0, image.zero_mask)
            for layout in layouts(weight.value)
            if layout.shape == image.shape
        ), weight.path
    for record, weight in zip(report.weights, weights, strict=True):
        assert record.counted_in == "file"
        assert record.zeros == (weight.value == 0).sum()
