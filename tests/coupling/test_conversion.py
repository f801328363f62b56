"""Smaller models convert to int8 and run in LiteRT, as those they were made of.

All applications take some four minutes on one core. Without more ado the quickest are
tested; set KPRUNE_ALL_APPLICATIONS=1 for the others.
"""

import os

import keras
import numpy as np
import pytest
from zoo import FACTORIES, built, scrambled

import kprune
from kprune.export.convert import convert
from kprune.export.ends import of_file
from kprune.export.interface import of_model
from kprune.export.litert import Session
from kprune.export.samples import collect, random_samples
from kprune.export.targets import TARGETS
from kprune.export.unrolling import without_loops

# With the smallest images that they take.
APPLICATIONS = {
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "MobileNetV3Large": 32,
    "EfficientNetB0": 32,
    "ResNet50": 32,
    "DenseNet121": 32,
    "NASNetMobile": 32,
    "ConvNeXtTiny": 32,
}


ALWAYS = ["MobileNet", "MobileNetV3Small", "ConvNeXtTiny"]
TESTED = APPLICATIONS if os.environ.get("KPRUNE_ALL_APPLICATIONS") else ALWAYS


def relative_error(model, quantization, samples):
    """How far the file's outputs are from Keras's, and the file's bytes."""
    straight, _ = without_loops(model, quantization, TARGETS["android"])
    interface = of_model(straight)
    content = convert(interface, straight, quantization, samples, False)
    session = Session(content, of_file(content, interface))
    worst = 0.0
    received = session.run(samples)
    expected = keras.tree.flatten(of_model(model).call(list(samples.arrays)))
    for got, right in zip(received, expected, strict=True):
        right = keras.ops.convert_to_numpy(right)
        error = np.linalg.norm(got.reshape(right.shape) - right)
        worst = max(worst, float(error / np.linalg.norm(right)))
    return worst, len(content)


@pytest.mark.parametrize("name", FACTORIES)
def test_the_zoo_runs_in_litert_after_removal(name):
    model = built(name)
    small = kprune.shrink(model, 0.5)
    samples = random_samples(of_model(model).inputs)
    # Over the steps of random recurrent weights 8 bits drift apart, removed or zero.
    quantization = "int16x8" if name == "bidirectional_gru" else "int8"
    error, size = relative_error(small, quantization, samples)
    dense_error, dense_size = relative_error(model, quantization, samples)
    # Random weights quantise badly, whole or not.
    assert error < max(0.25, 2 * dense_error)
    assert size < dense_size


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTED)
def test_applications_run_in_litert_as_int8_after_removal(name):
    keras.utils.set_random_seed(0)
    shape = (APPLICATIONS[name], APPLICATIONS[name], 3)
    model = scrambled(
        getattr(keras.applications, name)(
            weights=None, input_shape=shape, classes=10, classifier_activation=None
        ),
        spread=0.2,
    )
    small = kprune.shrink(model, 0.5)
    images = np.random.default_rng(0).uniform(0, 255, (4, *shape)).astype("float32")
    interface = of_model(small)
    error, _ = relative_error(small, "int8", collect(images, interface.inputs, 4))
    assert error < 0.5
