import nets
import numpy as np
import pytest
from files import without_signatures

from kprune.export.ends import End, described, of_file, without_batch
from kprune.export.interface import of_model


def end(dtype, scale=0.0, zero_point=0, shape=(1, 4)):
    return End("x", 0, shape, np.dtype(dtype), scale, zero_point)


def test_quantising_rounds_and_clips():
    item = end("int8", 0.5, -3)
    stored = item.quantize(np.array([0.0, 0.26, 1e9, -1e9]))
    assert stored.dtype == np.int8
    assert stored.tolist() == [-3, -2, 127, -128]
    assert item.dequantize(stored).tolist() == [0.0, 0.5, 65.0, -62.5]


def test_floats_pass_through():
    values = np.array([1.25], np.float32)
    assert (
        end("float32").quantize(values) == values == end("float32").dequantize(values)
    )


def test_only_a_batch_of_one_is_no_part_of_a_sample():
    assert end("float32", shape=(1, 4)).sample_shape == (4,)
    assert end("float32", shape=(8, 4)).sample_shape == (8, 4)
    assert end("float32", shape=(15600,)).sample_shape == (15600,)
    assert end("float32", shape=()).sample_shape == ()
    assert without_batch(np.zeros((3, 1, 4))).shape == (3, 4)
    assert without_batch(np.zeros((3, 8, 4))).shape == (3, 8, 4)
    assert without_batch(np.zeros(3)).shape == (3,)


def test_names_and_order_are_those_of_the_interface():
    model, data = nets.two_inputs(), nets.two_inputs_data()
    file = nets.converted(model, "int8", data, integer_io=True)
    interface = of_model(model)
    found = of_file(file, interface)
    assert [item.name for item in found.inputs] == [i.name for i in interface.inputs]
    assert [item.name for item in found.outputs] == list(interface.output_names)
    assert [shape for _, shape, _ in described(found.outputs)] == [(1, 3), (1, 1)]
    assert all(item.dtype == np.int8 and item.scale for item in found.inputs)
    # By itself, the same in the file's order.
    alone = of_file(file)
    assert {i.name: i for i in alone.inputs} == {i.name: i for i in found.inputs}
    assert {i.name: i for i in alone.outputs} == {i.name: i for i in found.outputs}


def test_a_file_without_a_signature_goes_by_its_tensors(cnn_files):
    file = without_signatures(cnn_files["int8"])
    named, plain = of_file(cnn_files["int8"]), of_file(file)
    assert [item.index for item in plain.inputs] == [i.index for i in named.inputs]
    assert [item.shape for item in plain.outputs] == [(1, 3)]
    assert plain.inputs[0].name != named.inputs[0].name == "image"


def test_a_damaged_file_is_refused(cnn_files):
    with pytest.raises(ValueError, match="damaged"):
        of_file(cnn_files["none"][:-5000])
