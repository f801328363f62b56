import keras
import numpy as np
import pytest

from kprune.export.interface import Input
from kprune.export.samples import collect, first_batch, random_samples

ONE = (Input("x", "x", (2,), "float32"),)
TWO = (Input("a", "a", (2,), "float32"), Input("b", "b", (3,), "int32"))
A = np.arange(20, dtype="float32").reshape(10, 2)
B = np.arange(30).reshape(10, 3)


def equal(samples, *arrays):
    assert len(samples.arrays) == len(arrays)
    for found, expected in zip(samples.arrays, arrays, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_arrays_are_sampled_over_their_whole_length():
    equal(collect(A, ONE, 200), A)
    equal(collect(A, ONE, 4), A[[0, 3, 6, 9]])
    assert collect(A, ONE, 4).random is False


@pytest.mark.parametrize(
    "data",
    [
        (A, B),
        [A, B],
        {"b": B, "a": A},
        [(A[:4], B[:4]), (A[4:], B[4:])],
        [{"a": A[:4], "b": B[:4]}, {"a": A[4:], "b": B[4:]}],
        (({"a": A[i : i + 1], "b": B[i : i + 1]}, "label") for i in range(10)),
        lambda: ([A[i : i + 1], B[i : i + 1]] for i in range(10)),
    ],
    ids=["tuple", "list", "dict", "batches", "dicts", "generator", "function"],
)
def test_several_inputs_come_in_many_forms(data):
    samples = collect(data, TWO, 200)
    equal(samples, A, B)
    assert samples.arrays[1].dtype == np.int32


def test_data_sets_with_labels_batched_or_not():
    import tensorflow as tf

    labelled = tf.data.Dataset.from_tensor_slices((A, np.zeros(10)))
    equal(collect(labelled.batch(4), ONE, 6), A[:6])
    equal(collect(labelled, ONE, 200), A)
    equal(collect(tf.data.Dataset.from_tensor_slices(A).batch(3), ONE, 200), A)


def test_a_list_of_batches_for_one_input():
    equal(collect([A[:4], A[4:]], ONE, 200), A)


def test_tensors_count_as_arrays():
    equal(collect(keras.ops.convert_to_tensor(A), ONE, 200), A)


@pytest.mark.parametrize(
    ("data", "inputs", "words"),
    [
        (A[:, :1], ONE, r"input 'x'.*shape \(10, 1\), expected \(samples, 2\)"),
        (A[0], ONE, r"shape \(2,\), expected \(samples, 2\)"),
        (A[:0], ONE, "empty"),
        ([], ONE, "empty"),
        (iter([]), ONE, "empty"),
        (A * np.nan, ONE, "input 'x' has 20 values that are NaN or infinite"),
        (A, TWO, "holds 1 array, but the model has 2 inputs: 'a'"),
        ((A, B[:5]), TWO, "as many samples for every input.*'b': 5"),
        ({"a": A}, TWO, r"keys \['a'\], expected \['a', 'b'\]"),
        ((A, B + 0.5), TWO, "input 'b' has values that are not int32.*such as 0.5"),
        (np.full((3, 2), "words"), ONE, "data type <U5"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(data, inputs, words):
    with pytest.raises(ValueError, match=words):
        collect(data, inputs, 200)


@pytest.mark.parametrize("data", [3, "images", [[1.0, 2.0]], [object()]])
def test_what_is_no_data_is_refused(data):
    with pytest.raises(TypeError, match="must"):
        collect(data, ONE, 200)


def test_num_samples_must_be_positive():
    with pytest.raises(ValueError, match="at least 1"):
        collect(A, ONE, 0)


def test_random_samples_are_the_same_each_time_and_say_so():
    first, second = random_samples(TWO), random_samples(TWO)
    assert first.random
    equal(first, *second.arrays)
    assert set(np.unique(first.arrays[1])) == {0, 1}


def test_rows_keep_a_batch_dimension():
    rows = list(collect((A, B), TWO, 200).rows())
    assert len(rows) == 10
    np.testing.assert_array_equal(rows[3][1], B[3:4])


def test_looking_at_the_first_batch_loses_nothing():
    example, rest = first_batch((A[i : i + 2], "label") for i in range(0, 10, 2))
    np.testing.assert_array_equal(example, A[:2])
    equal(collect(rest, ONE, 200), A)
    with pytest.raises(ValueError, match="empty"):
        first_batch(iter([]))
