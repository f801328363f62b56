"""What the bytes of files are for: all of them, each once."""

import files
import keras
import nets
import pytest

from kprune.export import export
from kprune.export.encoding import encode
from kprune.export.metadata import append
from kprune.export.sections import SECTIONS, sections

L = keras.layers
WEIGHTS = 8 * 9 + 8 * 9 + 8 * 16 + 3 * 16 * 16  # Of `nets.cnn`.


def of(data):
    """Returns the raw bytes by section, which add up to the file's."""
    found = sections(data)
    assert set(found) <= set(SECTIONS)
    assert sum(size.raw for size in found.values()) == len(data)
    assert [size.raw for size in found.values()] == sorted(
        (size.raw for size in found.values()), reverse=True
    )
    return {name: size.raw for name, size in found.items()}


def test_weights_scales_and_the_rest_of_plain_files(cnn_files):
    parts = of(cnn_files["none"])
    assert parts["weights"] == 4 * WEIGHTS
    # Of two biases of 8 zeros there is one, and none of what is all zero.
    assert 4 * (8 + 16) <= parts["biases and constants"] < 200
    assert "quantisation" not in parts and "sparsity metadata" not in parts
    parts = of(cnn_files["int8"])
    assert parts["weights"] == WEIGHTS
    # A scale of 4 and a zero point of 8 bytes for each of 35 channels, twice with
    # those of biases; and for each of the tensors between.
    assert parts["quantisation"] >= 12 * 2 * 35
    assert of(cnn_files["float16"])["weights"] == 2 * WEIGHTS


def test_encoded_weights_and_what_says_where_they_belong(cnn_files):
    plain = files.with_sparsity(cnn_files["int8"], 0.9)
    parts, before = of(encode(plain)), of(plain)
    # A bit for each element of what is encoded, and the values that are left.
    assert 3 * 256 // 8 <= parts["sparsity metadata"] <= WEIGHTS // 8 + 8
    assert parts["weights"] < before["weights"] / 2


def test_sparse_tensors_of_litert(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [L.Input((8, 8, 16)), L.Conv2D(64, 1), L.Conv2D(64, 1, name="second")]
    )
    nets.zeroed(model, 0.9)
    path = tmp_path / "sparse.tflite"
    export(model, path, "android", "none", benchmark=False, encode=True)
    parts, kept = of(path.read_bytes()), 0.1 * 64 * (16 + 64)
    assert parts["weights"] == pytest.approx(4 * kept, abs=8)
    # The place of each in a row of at most 64, in a byte, and where 128 rows begin.
    assert parts["sparsity metadata"] == pytest.approx(kept + 2 * 2 * 65, abs=70)


def test_what_lies_behind_the_model_and_what_is_no_model(cnn_files):
    plain = cnn_files["none"]
    labelled = append(plain, {"labels.txt": b"shirt\nshoe\n"})
    parts = of(labelled)
    assert parts.pop("appended files") == len(labelled) - len(plain)
    assert parts == of(plain)
    with pytest.raises(ValueError, match="Not a TFLite model"):
        sections(b"no model, but some bytes")
