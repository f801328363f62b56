"""The models of keras.applications, each with random weights and small images.

All of them take some ten minutes on one core. Without more ado the smallest of each
family is tested; set KPRUNE_ALL_APPLICATIONS=1 for the others.
"""

import importlib
import os

import keras
import numpy as np
import pytest
from cases import around, groups, proven, why_fixed
from zoo import scrambled

import kprune
from kprune.coupling.graph import analyse

L = keras.layers
OUTPUT = "it is an output of the model, which keeps its shape"

# By name the smallest images that it takes; the first of a line is tested always.
FAMILIES = [
    {"VGG16": 32, "VGG19": 32},
    {"Xception": 71},
    {"InceptionV3": 75},
    {"InceptionResNetV2": 75},
    {"MobileNet": 32},
    {"MobileNetV2": 32},
    {"MobileNetV3Small": 32, "MobileNetV3Large": 32},
    {f"EfficientNetB{i}": 32 for i in range(8)},
    {f"EfficientNetV2{kind}": 32 for kind in ("B0", "B1", "B2", "B3", "S", "M", "L")},
    {f"DenseNet{depth}": 32 for depth in (121, 169, 201)},
    {"NASNetMobile": 32, "NASNetLarge": 32},
    {f"ConvNeXt{size}": 32 for size in ("Tiny", "Small", "Base", "Large", "XLarge")},
    {f"ResNet{depth}": 32 for depth in (50, 101, 152)},
    {f"ResNet{depth}V2": 32 for depth in (50, 101, 152)},
]
SIZES = {name: size for family in FAMILIES for name, size in family.items()}
ALWAYS = [next(iter(family)) for family in FAMILIES]
TESTED = SIZES if os.environ.get("KPRUNE_ALL_APPLICATIONS") else ALWAYS


def application(name):
    keras.utils.set_random_seed(0)
    size = SIZES[name]
    model = getattr(keras.applications, name)(
        weights=None,
        input_shape=(size, size, 3),
        classes=10,
        classifier_activation=None,  # A softmax would hide differences.
    )
    return scrambled(model, spread=0.2)


def bring_to_life(model, plan, images):
    """Sets what goes to zero, and lets signals reach the outputs all the same.

    With half of the channels at zero and random weights, each layer halves the signal,
    and biases are all that is left of it: outputs would agree whatever was removed.
    """
    coupling = analyse(model)
    groups = {group.name: group for group in coupling.groups}
    removed = coupling.nothing()
    for item in plan.groups:
        removed[groups[item.name].units[list(item.removed)]] = True
    masks = coupling.masks(removed)
    normalised = False
    for variable in model.weights:
        if id(variable) in masks:
            variable.assign(np.where(masks[id(variable)], variable.numpy(), 0))
    for layer in model._flatten_layers():
        if isinstance(layer, L.BatchNormalization):
            layer.momentum, normalised = 0.0, True
    if normalised:
        # Means and variances become these images', of the signals that inference sees.
        dropped = [x for x in model._flatten_layers() if isinstance(x, L.Dropout)]
        rates = [layer.rate for layer in dropped]
        for layer in dropped:
            layer.rate = 0.0
        model(images, training=True)
        for layer, rate in zip(dropped, rates, strict=True):
            layer.rate = rate
    elif model.name.startswith("vgg"):
        for layer in model.layers:  # Half of the inputs, and half of them rectified.
            if layer.weights:
                layer.kernel.assign(2 * layer.kernel)


def test_the_table_has_every_application():
    public = vars(keras.applications).items()
    assert {name for name, item in public if callable(item)} == set(SIZES)


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTED)
def test_half_of_the_channels_are_at_least_two_fifths_of_the_macs(name):
    model = application(name)
    images = np.random.default_rng(0).uniform(0, 255, (8, *model.input_shape[1:]))
    plan = kprune.plan_shrink(model, 0.5)
    bring_to_life(model, plan, images)
    small = kprune.shrink(model, plan=plan, data=images)
    report = small.shrink_report
    outputs = keras.ops.convert_to_numpy(small(images))
    spread = np.abs(outputs - outputs.mean(axis=0)).max()
    assert spread > 0.05 * np.abs(outputs).max()
    assert report.equality.relative < 1e-4
    assert report.plan.macs_after <= 0.6 * report.plan.macs
    assert small.count_params() == report.plan.parameters_after
    refused = {item.reason for item in report.plan.refusals}
    if name.startswith("ConvNeXt"):
        # Its residual stream is normalised over the channels; hidden units go.
        kinds = ("takes mean and variance over these channels", "a fixed number of")
        refused = {r for r in refused if not any(kind in r for kind in kinds)}
        hidden = [item.name for item in report.plan.groups]
        assert all("pointwise_conv_1" in name for name in hidden)
    assert refused == {OUTPUT}


@pytest.mark.slow
def test_multiply_accumulates_of_mobilenet_are_those_of_its_paper():
    model = keras.applications.MobileNet(weights=None)
    plan = kprune.plan_shrink(model, 0.5)
    # Table 4 of Howard et al., 2017: 569 million mult-adds, 4.2 million parameters.
    assert round(plan.macs / 1e6) == 569
    assert round(plan.parameters / 1e6, 1) == 4.3  # With statistics.


def private(module, name):
    return getattr(importlib.import_module(f"keras.src.applications.{module}"), name)


def test_a_layer_scale_goes_with_the_channels_it_scales():
    scale = private("convnext", "LayerScale")(0.5, 8, name="layer_scale")
    model = around(scale, (5, 3))
    assert groups(model) == {"before_0 units": 8}
    assert proven(model).get_layer("layer_scale").projection_dim == 4


def test_stochastic_depth_passes_channels_on():
    depth = private("convnext", "StochasticDepth")(0.3)
    proven(around(lambda x: L.Add()([x, depth(L.Dense(8)(x))]), (5, 3)))


def test_a_scaled_sum_ties_what_it_adds():
    add = private("inception_resnet_v2", "CustomScaleLayer")(0.3)
    model = around(lambda x, y: add([x, y]), (5, 3), (5, 3))
    assert list(groups(model).values()) == [8]
    proven(model)


def test_a_convolution_with_a_group_per_channel_passes_them_on():
    conv = L.Conv2D(16, 3, padding="same", groups=8, name="conv")
    model = around(conv, (5, 5, 3))
    assert groups(model) == {"before_0 units": 8}
    small = proven(model).get_layer("conv")
    assert (small.filters, small.groups) == (8, 4)
    fixed = L.Input((5, 5, 4))
    own = L.Conv2D(8, 3, groups=4, name="own")(fixed)
    model = keras.Model(fixed, L.Dense(2, name="after")(own))
    assert groups(model) == {"own filters": 2}
    assert not why_fixed(model)


def test_its_multiply_accumulates_are_those_of_a_depthwise_one():
    shape = (5, 5, 3)
    grouped = around(L.Conv2D(8, 3, padding="same", groups=8), shape)
    depthwise = around(L.DepthwiseConv2D(3, padding="same"), shape)
    plans = [kprune.plan_shrink(model, 0.5) for model in (grouped, depthwise)]
    assert plans[0].macs == plans[1].macs
    assert plans[0].macs_after == plans[1].macs_after
    assert np.isclose(plans[0].macs_after / plans[0].macs, 0.5)
