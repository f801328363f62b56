"""Encoded weights: never larger, bit for bit the same, close to what entropy allows."""

import math
import tempfile
import warnings
from pathlib import Path

import files
import keras
import layer_kinds
import nets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kprune.export import encoding, tflite
from kprune.export.convert import _trace
from kprune.export.decoding import decoded
from kprune.export.encoding import (
    DECODE,
    PRUNING,
    RAW,
    TABLE,
    alternate_bytes,
    encode,
    survey,
)
from kprune.export.interface import of_model
from kprune.export.quiet import captured_output
from kprune.export.slim import slim

L = keras.layers
SPARSITIES = (0.0, 0.3, 0.5, 0.8, 0.95, 0.99)


def int8_with_one_scale(model, data):
    """Returns a file as other converters write it: one scale for all of a kernel."""
    import tensorflow as tf

    interface = of_model(model)
    (name,) = (item.name for item in interface.inputs)
    with tempfile.TemporaryDirectory() as folder, captured_output():
        _trace(interface, model, Path(folder))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ({name: x[None]} for x in data)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
        converter._experimental_disable_per_channel = True
        with warnings.catch_warnings():
            # Its calibrator itself uses the class that it calls deprecated.
            warnings.simplefilter("ignore", UserWarning)
            return converter.convert()


@pytest.fixture(scope="module")
def converted():
    """Makes files by kind of layer and quantisation, with scales per tensor or not."""
    known = {}

    def make(kind, quantization, per_tensor=False):
        key = (kind, quantization, per_tensor)
        if key not in known:
            model = layer_kinds.built(kind)
            data = layer_kinds.inputs(model)
            if per_tensor:
                known[key] = int8_with_one_scale(model, data)
            else:
                known[key] = nets.converted(model, quantization, data, integer_io=True)
        return known[key]

    return make


def kernels(data):
    return [t for t in tflite.parse(data).weights() if len(t.shape) > 1]


def constants(data):
    """All weights by shape and type, whether they are decoded or stored as they are."""
    found = [
        (t.shape, t.type, t.values.tobytes())
        for graph in decoded(tflite.parse(data)).subgraphs
        for t in graph.tensors
        if t.values is not None and t.type != "UINT8"
    ]
    return sorted(set(found))  # What several operators read is decoded several times.


@pytest.mark.parametrize("kind", layer_kinds.KINDS)
@pytest.mark.parametrize(
    ("quantization", "per_tensor"),
    [("none", False), ("int8", False), ("int8", True), ("int16x8", False)],
)
def test_outputs_are_those_of_the_file_before(
    converted, kind, quantization, per_tensor
):
    data = converted(kind, quantization, per_tensor)
    if per_tensor:
        assert all(t.scale.size == 1 for t in kernels(data))
    inputs = layer_kinds.inputs(layer_kinds.built(kind), 3)
    encoded_once = False
    for sparsity in SPARSITIES:
        dense = files.with_sparsity(data, sparsity)
        smaller = encode(dense)
        expected = files.in_tflm(dense, inputs)
        assert len(np.unique(expected)) > 2
        assert len(smaller) <= len(slim(dense))
        np.testing.assert_array_equal(files.in_tflm(smaller, inputs), expected)
        other = alternate_bytes(smaller)
        if other:
            encoded_once = True
            found = files.in_tflm(smaller, inputs, other)
            np.testing.assert_array_equal(found, expected)
        assert constants(smaller) == constants(slim(dense))
    large = max(t.values.nbytes for t in kernels(data)) > 700
    assert encoded_once or not large


@pytest.mark.parametrize("kind", layer_kinds.KINDS)
@pytest.mark.parametrize(
    ("quantization", "per_tensor"), [("none", False), ("int8", False), ("int8", True)]
)
@pytest.mark.parametrize("count", [1, 2, 5, 16, 100])
def test_few_values_go_into_tables(converted, kind, quantization, per_tensor, count):
    dense = files.with_values(converted(kind, quantization, per_tensor), count)
    inputs = layer_kinds.inputs(layer_kinds.built(kind), 3)
    methods = {item.method for item in survey(dense)}
    per_channel = quantization == "int8" and not per_tensor
    if max(t.values.nbytes for t in kernels(dense)) > 1000 and count < 16:
        # One table for each of many channels may take more than the indices spare.
        assert TABLE in methods or (per_channel and count > 2)
    smaller = encode(dense)
    np.testing.assert_array_equal(
        files.in_tflm(smaller, inputs), files.in_tflm(dense, inputs)
    )
    assert constants(smaller) == constants(slim(dense))


def test_pruned_weights_take_a_header_a_bit_each_and_what_is_kept(converted):
    for quantization, width in (("int8", 1), ("none", 4)):
        dense = files.with_sparsity(converted("dense", quantization), 0.9)
        (kernel,) = kernels(dense)
        (item,) = survey(dense)
        kept = int(np.count_nonzero(kernel.values))
        assert item.method == PRUNING
        assert item.raw_bytes == 1200 * width
        assert item.bytes == 16 + math.ceil(1200 / 8) + kept * width
        assert item.entropy_bytes < item.bytes


def test_the_entropy_is_that_of_the_values(converted):
    dense = bytearray(converted("dense", "int8"))
    (kernel,) = kernels(dense)
    kernel.values[:] = np.arange(1200) % 4
    (item,) = survey(bytes(dense))
    assert item.entropy_bytes == 1200 * 2 / 8


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_no_weight_is_encoded_that_would_grow_the_file(converted, sparsity):
    """By taking each encoded weight back: with it as it is, the file is larger."""
    dense = files.with_sparsity(converted("dense_after_convolution", "int8"), sparsity)
    whole = len(encode(dense))
    chosen = [item.method for item in survey(dense)]
    for place, method in enumerate(chosen):
        if method == RAW:
            continue
        choices = list(encoding._choices(tflite.parse(slim(dense)), None))
        left = [item for i, item in enumerate(choices) if i != place]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(encoding, "_choices", lambda file, limit, left=left: left)
            assert len(encode(dense)) > whole


def test_weights_above_a_limit_stay_as_they_are(converted):
    data = converted("dense_after_convolution", "none")
    dense = files.with_sparsity(data, 0.9)
    sizes = sorted(item.raw_bytes for item in survey(dense))
    methods = {item.raw_bytes: item.method for item in survey(dense, limit=sizes[0])}
    assert methods[sizes[-1]] == RAW
    assert encode(dense, limit=sizes[-1]) == encode(dense)
    assert encode(dense, limit=sizes[-1] - 1) != encode(dense)
    assert alternate_bytes(encode(dense, limit=sizes[-1] - 1)) < sizes[-1]


def test_weights_that_other_operators_read_stay():
    table = np.zeros((40, 40), "float32")
    table[::7] = 1
    inputs = L.Input((40, 40))
    x = L.Dense(40, use_bias=False, name="dense")(inputs)
    model = keras.Model(inputs, [x, keras.ops.add(inputs, table)])
    data = nets.converted(nets.zeroed(model, 0.9), "none")
    assert [t.shape for t in kernels(data)].count((40, 40)) == 2
    assert {o.name for o in tflite.parse(data).subgraphs[0].operators} > {"ADD"}
    assert [item.shape for item in survey(data)] == [(40, 40)]


def test_a_weight_with_several_readers_is_decoded_for_each():
    dense = L.Dense(40, use_bias=False)
    inputs = L.Input((40,))
    model = keras.Model(inputs, dense(L.ReLU()(dense(L.ReLU()(dense(inputs))))))
    data = nets.converted(nets.zeroed(model, 0.9), "none")
    assert len(survey(data)) == 1
    smaller = encode(data)
    names = [o.name for o in tflite.parse(smaller).subgraphs[0].operators]
    assert names == [DECODE, "FULLY_CONNECTED"] * 3
    inputs = np.random.default_rng(0).normal(size=(3, 40))
    np.testing.assert_array_equal(
        files.in_tflm(smaller, inputs), files.in_tflm(data, inputs)
    )


def test_nothing_to_gain_leaves_the_file_slim_and_plain(converted):
    dense = converted("conv1d", "int8")
    assert encode(dense) == slim(dense)
    assert alternate_bytes(encode(dense)) == 0


def test_negative_zeros_and_nan_stay_what_they_are(converted):
    dense = bytearray(files.with_sparsity(converted("dense", "none"), 0.9))
    (kernel,) = kernels(dense)
    zeros = np.flatnonzero(kernel.values == 0)
    kernel.values[zeros[:20]] = -0.0
    kernel.values[zeros[20:30]] = np.nan
    assert constants(encode(bytes(dense))) == constants(slim(bytes(dense)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(["dense", "pointwise", "depthwise"]),
    quantization=st.sampled_from(["none", "int8"]),
    sparsity=st.floats(0, 1),
    seed=st.integers(0, 2**16),
    count=st.integers(1, 200),
)
def test_decoding_gives_back_what_was_encoded(
    converted, kind, quantization, sparsity, seed, count
):
    data = files.with_values(converted(kind, quantization), count, seed)
    data = files.with_sparsity(data, sparsity, seed)
    smaller = encode(data)
    assert constants(smaller) == constants(slim(data))
    assert len(smaller) <= len(slim(data))
