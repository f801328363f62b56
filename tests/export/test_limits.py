"""Limits of a device: by how much they are exceeded, and what would fit."""

import re

import keras
import nets
import pytest

from kprune.export import export

L = keras.layers


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    layers = [
        L.Input((8, 8, 1)),
        L.Conv2D(32, 3, name="conv"),
        L.Conv2D(64, 3, name="wide"),
        L.GlobalAveragePooling2D(),
        L.Dense(3),
    ]
    return nets.zeroed(keras.Sequential(layers), 0.9)


def exported(model, folder, **kwargs):
    return export(
        model,
        folder / "m.tflite",
        **{"target": "microcontroller", **kwargs},
        representative_data=nets.images(),
        benchmark=False,
    )


@pytest.fixture(scope="module")
def needs(model, tmp_path_factory):
    """What the model needs: not encoded, and encoded."""
    folder = tmp_path_factory.mktemp("needs")
    return exported(model, folder), exported(model, folder, encode=True)


def test_limits_that_are_kept_change_nothing(model, needs, tmp_path):
    plain, _ = needs
    flash, arena = plain.size.raw, plain.arena.bytes
    assert exported(model, tmp_path, flash=flash, arena=arena).size == plain.size


def test_too_little_flash_is_told_with_what_would_fit(model, needs, tmp_path):
    plain, encoded = needs
    limit = plain.size.raw - 1000
    with pytest.raises(ValueError) as caught:
        exported(model, tmp_path, flash=limit)
    said = str(caught.value)
    assert f"may take {limit:,} bytes of flash" in said
    assert "1,000 too many" in said and f"Budget(flash_bytes={limit})" in said
    about = int(
        re.search(r"store it in about ([\d,]+), which fits", said)[1].replace(",", "")
    )
    assert about == pytest.approx(encoded.size.raw, rel=0.1)
    assert list(tmp_path.iterdir()) == []
    assert exported(model, tmp_path, flash=limit, encode=True).size == encoded.size


def test_far_too_little_flash(model, tmp_path):
    with pytest.raises(ValueError, match="which does not fit either"):
        exported(model, tmp_path, flash=2000)
    with pytest.raises(ValueError, match="bytes of flash") as caught:
        exported(model, tmp_path, flash=2000, encode=True)
    assert "encode=True would" not in str(caught.value)


def test_too_little_arena(model, needs, tmp_path):
    plain, encoded = needs
    with pytest.raises(ValueError, match=r"16 too many.*Budget\(arena_bytes="):
        exported(model, tmp_path, arena=plain.arena.bytes - 16)
    inside = encoded.arena.bytes
    assert plain.arena.bytes < encoded.encoding.arena_elsewhere.bytes < inside
    with pytest.raises(ValueError, match="Without encode=True it needs.*which fits"):
        exported(model, tmp_path, arena=inside - 16, encode=True)
    assert list(tmp_path.iterdir()) == []


def test_a_device_of_the_users_own_has_its_limits_and_operators(model, tmp_path):
    board = {"name": "board", "like": "microcontroller", "flash": 1000}
    with pytest.raises(ValueError, match="target='board' may take 1,000 bytes"):
        exported(model, tmp_path, target=board)
    board = {"name": "board", "like": "microcontroller", "operators": ["CONV_2D"]}
    with pytest.raises(ValueError, match="FULLY_CONNECTED"):
        exported(model, tmp_path, target=board)
    board["operators"] += ["MEAN", "FULLY_CONNECTED"]
    assert exported(model, tmp_path, target=board).target == "board"


def test_files_for_phones_have_a_limit_too(model, tmp_path):
    with pytest.raises(ValueError, match="too many.*Fewer channels"):
        exported(model, tmp_path, target="android", flash=1000)
    assert exported(model, tmp_path, target="generic").quantization == "none"
