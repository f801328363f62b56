"""Encoded weights are read as what they decode to, and damage is told, not trusted."""

import files
import layer_kinds
import nets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kprune
from kprune.export import tflite
from kprune.export.decoding import decoded
from kprune.export.encoding import DECODE, encode


@pytest.fixture(scope="module")
def plain():
    model = layer_kinds.built("dense")
    data = nets.converted(model, "int8", layer_kinds.inputs(model), integer_io=True)
    return files.with_sparsity(data, 0.8)


def broken(data, change):
    """Returns what is told of an encoded file after a change to its parts.

    Args:
        data: The file.
        change: From the bytes of the code, and of the header and values, to others.
    """
    file = tflite.parse(data)
    graph = file.subgraphs[0]
    operator = next(o for o in graph.operators if o.name == DECODE)
    parts = [graph.tensors[i].values.tobytes() for i in operator.inputs]
    changed = [np.frombuffer(part, np.uint8) for part in change(*parts)]
    tensors = list(graph.tensors)
    for index, values in zip(operator.inputs, changed, strict=True):
        old = tensors[index]
        tensors[index] = type(old)(**{**vars(old), "values": values})
    graph = type(graph)(**{**vars(graph), "tensors": tuple(tensors)})
    return decoded(type(file)((graph,), file.signatures))


def test_what_is_left_whole_is_read(plain):
    tensors = broken(encode(plain), lambda *parts: parts).subgraphs[0].tensors
    (kernel,) = (t for t in tflite.parse(plain).weights() if len(t.shape) > 1)
    assert any(
        t.values is not None and t.values.tobytes() == kernel.values.tobytes()
        for t in tensors
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda code, rest: (code[:-1], rest), "is encoded in 149 bytes"),
        (lambda code, rest: (code, rest[:-1]), "values stand for them"),
        (lambda code, rest: (code, rest[:9]), "has 9 of 16 bytes"),
        (
            lambda code, rest: (code, b"\0\1\0\0\1\xf0\1" + rest[7:]),
            "indices of 0 bits",
        ),
        (
            lambda code, rest: (code, b"\0\1\0\0\1\x91\1" + rest[7:]),
            "along axis 9",
        ),
        (
            lambda code, rest: (code, b"\0\1\0\0\1\xf1\1" + rest[7:17]),
            "is too short",
        ),
    ],
)
def test_damage_is_told(plain, change, message):
    with pytest.raises(ValueError, match=message):
        broken(encode(plain), change)


def test_decoders_that_are_not_known_leave_a_tensor_without_values(plain):
    file = broken(encode(plain), lambda code, rest: (code, b"\x80" + rest[1:]))
    operator = next(o for o in file.subgraphs[0].operators if o.name == DECODE)
    assert file.subgraphs[0].tensors[operator.outputs[0]].values is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(place=st.integers(0, 2**16), value=st.integers(0, 255))
def test_no_byte_makes_reading_fail_in_another_way(plain, place, value):
    data = bytearray(encode(plain))
    data[place % len(data)] = value
    try:
        decoded(tflite.parse(data))
    except ValueError:
        pass


def test_inspect_sees_through_the_encoding(plain, tmp_path):
    for name, data in (("plain", plain), ("encoded", encode(plain))):
        (tmp_path / f"{name}.tflite").write_bytes(data)
    first = kprune.inspect(tmp_path / "plain.tflite")
    second = kprune.inspect(tmp_path / "encoded.tflite")
    assert second.size.raw < first.size.raw
    for fact in ("sparsity", "macs", "nonzero_macs", "parameters"):
        assert getattr(first, fact) == getattr(second, fact)
    assert [w.zeros for w in first.weights] == [w.zeros for w in second.weights]
    assert second.weights[0].name.startswith("tensor ")
