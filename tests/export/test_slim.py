"""Slimmer files: smaller, and the same in every respect that a runtime reads."""

import flatbuffers
import keras
import nets
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from files import in_tflm

from kprune.export import tflite
from kprune.export.ends import of_file
from kprune.export.interface import of_model
from kprune.export.litert import Session
from kprune.export.samples import collect
from kprune.export.slim import slim

L = keras.layers


@pytest.fixture(
    params=["none", "float16", "int8", "dynamic", "int16x8"], scope="module"
)
def file(request):
    return nets.converted(nets.cnn(), request.param, nets.images(), integer_io=True)


def content(data):
    """All that a runtime reads: operators, tensors and constants, but no names."""
    return [
        (
            [(o.name, o.inputs, o.outputs) for o in graph.operators],
            [
                (
                    t.shape,
                    t.type,
                    None if t.values is None else t.values.tobytes(),
                    t.scale.tobytes(),
                    t.zero_point.tobytes(),
                    t.axis if t.scale.size > 1 else 0,
                )
                for t in graph.tensors
            ],
            graph.inputs,
            graph.outputs,
        )
        for graph in tflite.parse(data).subgraphs
    ]


def test_what_runtimes_read_is_the_same(file):
    smaller = slim(file)
    assert len(smaller) < len(file)
    assert content(smaller) == content(file)
    assert tflite.parse(smaller).signatures == tflite.parse(file).signatures


def test_names_of_tensors_are_gone(file):
    names = {
        t.name for graph in tflite.parse(slim(file)).subgraphs for t in graph.tensors
    }
    assert names == {""}


def test_litert_computes_the_same(file):
    interface = of_model(nets.cnn())
    samples = collect(nets.images(), interface.inputs, 8)
    first, second = (
        Session(data, of_file(data, interface)).run(samples)
        for data in (file, slim(file))
    )
    np.testing.assert_array_equal(first, second)


def test_tensorflow_lite_micro_computes_the_same():
    for quantization in ("none", "int8", "int16x8"):
        data = nets.converted(nets.cnn(), quantization, nets.images(), True)
        expected = in_tflm(data, nets.images(4))
        np.testing.assert_array_equal(in_tflm(slim(data), nets.images(4)), expected)


def test_slimming_twice_changes_nothing(file):
    assert slim(slim(file)) == slim(file)


def test_data_of_buffers_is_aligned(file):
    data = slim(file)
    start = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    for tensor in tflite.parse(data).weights():
        place = tensor.values.__array_interface__["data"][0] - start
        assert place % 16 == 0


def test_equal_weights_are_stored_once():
    model = keras.Sequential([keras.Input((8,)), L.Dense(8), L.Dense(8)])
    result = bytearray(nets.converted(model, "none"))
    for tensor in tflite.parse(result).weights():
        tensor.values[:] = 3
    kernels = [t for t in tflite.parse(slim(bytes(result))).weights() if t.size == 64]
    places = {t.values.__array_interface__["data"][0] for t in kernels}
    assert len(kernels) == 2 and len(places) == 1


def test_names_stay_where_no_signature_has_them():
    data = nets.converted(nets.cnn(), "none")
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    model.signatureDefs = None
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    graph = tflite.parse(slim(bytes(builder.Output()))).subgraphs[0]
    named = {t.index for t in graph.tensors if t.name}
    assert named == {*graph.inputs, *graph.outputs}


def test_other_metadata_stays():
    model = schema.ModelT.InitFromPackedBuf(nets.converted(nets.cnn(), "none"), 0)
    item, buffer = schema.MetadataT(), schema.BufferT()
    item.name, item.buffer = b"TFLITE_METADATA", len(model.buffers)
    buffer.data = np.frombuffer(b"labels", np.uint8)
    model.metadata, model.buffers = [*model.metadata, item], [*model.buffers, buffer]
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    left = schema.ModelT.InitFromPackedBuf(slim(bytes(builder.Output())), 0)
    assert [item.name for item in left.metadata] == [b"TFLITE_METADATA"]
    assert bytes(left.buffers[left.metadata[0].buffer].data) == b"labels"


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match="Not a TFLite model"):
        slim(b"nothing like it")


def test_metadata_of_a_buffer_that_is_not_there_is_refused():
    model = schema.ModelT.InitFromPackedBuf(nets.converted(nets.cnn(), "none"), 0)
    item = schema.MetadataT()
    item.name, item.buffer = b"TFLITE_METADATA", len(model.buffers)
    model.metadata = [item]
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    with pytest.raises(ValueError, match="damaged"):
        slim(bytes(builder.Output()))
