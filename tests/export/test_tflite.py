import contextlib

import keras
import nets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kprune
from kprune.export import encoding, labels, metadata, tflite
from kprune.export.sections import sections
from kprune.export.slim import slim


def tensors(data):
    return tflite.parse(data).subgraphs[0].tensors


def by_shape(data, shape):
    return next(t for t in tensors(data) if t.shape == shape and t.values is not None)


def test_operators_tensors_and_signature_of_a_float_file(cnn_files):
    file = tflite.parse(cnn_files["none"])
    assert file.operator_counts() == {
        "CONV_2D": 2,
        "DEPTHWISE_CONV_2D": 1,
        "FULLY_CONNECTED": 1,
        "RESHAPE": 1,
    }
    (signature,) = file.signatures
    graph = file.subgraphs[0]
    assert signature.inputs == {"image": graph.inputs[0]}
    assert signature.outputs == {"output": graph.outputs[0]}
    assert graph.tensors[graph.inputs[0]].shape == (1, 8, 8, 1)
    kernels = [t.shape for t in file.weights() if len(t.shape) > 1]
    assert sorted(kernels) == [(1, 3, 3, 8), (3, 256), (8, 3, 3, 1), (16, 1, 1, 8)]


def test_quantised_values_mean_the_same_as_the_float_ones(cnn_files):
    exact = by_shape(cnn_files["none"], (16, 1, 1, 8))
    rounded = by_shape(cnn_files["int8"], (16, 1, 1, 8))
    assert (exact.type, rounded.type) == ("FLOAT32", "INT8")
    assert rounded.scale.shape == (16,)
    error = np.abs(rounded.real - exact.real)
    half_steps = rounded.scale.reshape(16, 1, 1, 1) / 2
    assert (error <= half_steps * 1.01).all()
    # Every exact zero is still one; rounding may add some.
    assert (rounded.zero_mask[exact.zero_mask]).all()
    assert exact.zero_mask.mean() == 0.75


def test_half_precision_weights_are_read(cnn_files):
    half = by_shape(cnn_files["float16"], (3, 256))
    assert half.values.dtype == np.float16
    assert half.zero_mask.mean() == 0.75


def test_narrow_integers_are_unpacked_low_bits_first():
    raw = np.array([0b1111_0001, 0b1000_0111], np.uint8)
    assert tflite._unpack(raw, 4, True).tolist() == [1, -1, 7, -8]
    assert tflite._unpack(raw, 4, False).tolist() == [1, 15, 7, 8]
    assert tflite._unpack(raw[:1], 2, True).tolist() == [1, 0, -1, -1]


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\0" * 100, b"PK\3\4" + b"\0" * 100])
def test_other_files_are_refused_by_their_first_bytes(data):
    with pytest.raises(ValueError, match="Not a TFLite model"):
        tflite.parse(data)


def test_a_vector_longer_than_the_file_is_refused(cnn_files):
    data = bytearray(cnn_files["none"])
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data, 0)
    # Overwrites the length in front of the vector of subgraphs.
    start = model._tab.Vector(model._tab.Offset(8)) - 4
    data[start : start + 4] = (2**31 - 1).to_bytes(4, "little")
    with pytest.raises(ValueError, match="damaged"):
        tflite.parse(data)


def test_a_graph_whose_output_is_no_tensor_is_refused(cnn_files):
    from ai_edge_litert import schema_py_generated as schema

    data = bytearray(cnn_files["none"])
    graph = schema.Model.GetRootAs(data, 0).Subgraphs(0)
    place = graph._tab.Vector(graph._tab.Offset(8))
    data[place : place + 4] = b"\xff" * 4
    with pytest.raises(ValueError, match="input or output of a graph is no tensor"):
        tflite.parse(data)


def test_damaged_metadata_is_refused_by_the_name_of_the_file(cnn_files, tmp_path):
    from ai_edge_litert import schema_py_generated as schema

    data = bytearray(cnn_files["none"])
    model = schema.Model.GetRootAs(data, 0)
    start = model._tab.Vector(model._tab.Offset(16)) - 4  # Its number of entries.
    data[start : start + 4] = (2**31 - 1).to_bytes(4, "little")
    path = tmp_path / "damaged.tflite"
    path.write_bytes(data)
    assert kprune.inspect(path)  # It has no use for metadata.
    words = "The TFLite model is damaged"
    with pytest.raises(ValueError, match=rf"damaged\.tflite.*{words}"):
        kprune.overview(path)
    with pytest.raises(ValueError, match=words):
        slim(bytes(data))


KINDS = ("none", "int8", "int4", "int16x8", "dynamic", "sparse", "encoded", "labels")
FEW = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def kinds(cnn_files, tmp_path_factory):
    """One file of each kind that is read in another way."""
    path = tmp_path_factory.mktemp("kinds") / "sparse.tflite"
    model = nets.zeroed(
        keras.Sequential([keras.Input((8,)), keras.layers.Dense(32)]), 0.9
    )
    rule = kprune.Rule(0.9, granularity=kprune.Block((1, 4)))
    model = kprune.strip(kprune.prune(model, plan=kprune.Plan(rule)))
    settings = {"quantization": "none", "encode": True, "benchmark": False}
    kprune.export(model, path, "android", **settings)
    wide = nets.zeroed(keras.Sequential([keras.Input((64,)), keras.layers.Dense(32)]))
    named = labels.Labels("output", ("a", "b", "c"))
    return {
        **cnn_files,
        "int16x8": nets.converted(nets.cnn(), "int16x8", nets.images()),
        "dynamic": nets.converted(wide, "dynamic"),
        "labels": metadata.with_labels(cnn_files["none"], named, "cnn", "A network."),
        "int4": nets.converted(nets.cnn(), "int4"),
        "sparse": path.read_bytes(),
        "encoded": encoding.encode(cnn_files["int8"]),
    }


@pytest.fixture(scope="module")
def survives(tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / "m.tflite"

    def check(data):
        path.write_bytes(data)
        try:
            found = kprune.inspect(path)
        except ValueError:
            return
        # What was accepted can be used without another error.
        assert str(found) and found.to_json()
        for tensor in tflite.parse(data).weights():
            assert tensor.sparse or tensor.array is None or tensor.real is not None
        # These read more of it.
        for read in (sections, slim):
            with contextlib.suppress(ValueError):
                assert read(bytes(data))

    return check


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(st.data())
def test_truncated_files_are_refused_or_read(kinds, survives, kind, data):
    whole = kinds[kind]
    survives(whole[: data.draw(st.integers(0, len(whole) - 1))])


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(st.data())
def test_flipped_bits_are_refused_or_read(kinds, survives, kind, data):
    changed = bytearray(kinds[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        position = data.draw(st.integers(8, len(changed) - 1))
        changed[position] ^= 1 << data.draw(st.integers(0, 7))
    survives(changed)


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(st.data())
def test_overwritten_words_are_refused_or_read(kinds, survives, kind, data):
    changed = bytearray(kinds[kind])
    position = data.draw(st.integers(2, len(changed) // 4 - 1)) * 4
    word = data.draw(st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 4]))
    changed[position : position + 4] = word.to_bytes(4, "little")
    survives(changed)
