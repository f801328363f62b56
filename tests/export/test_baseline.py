import gzip

import numpy as np
import pytest

from kprune.export import tflite
from kprune.export.baseline import without_zeros


@pytest.mark.parametrize("name", ["none", "float16", "int8"])
def test_zeros_are_filled_and_nothing_else_changes(cnn_files, name):
    data = cnn_files[name]
    filled = without_zeros(data)
    assert len(filled) == len(data)
    before, after = tflite.parse(data), tflite.parse(filled)
    assert before.operator_counts() == after.operator_counts()
    for old, new in zip(before.weights(), after.weights(), strict=True):
        assert old.zero_mask is not None
        kept = ~old.zero_mask
        np.testing.assert_array_equal(old.array[kept], new.array[kept])
        if len(old.shape) > 1:
            assert old.zero_mask.any()
            assert not new.zero_mask.any()
        else:
            np.testing.assert_array_equal(old.array, new.array)
    assert len(gzip.compress(filled)) > len(gzip.compress(data))


def test_the_file_itself_is_not_written_to(cnn_files):
    data = bytes(cnn_files["none"])
    copy = bytes(bytearray(data))
    assert without_zeros(data) == without_zeros(data)
    assert data == copy
