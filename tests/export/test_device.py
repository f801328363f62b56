import os

import pytest
from files import with_sparsity

from kprune.export import device
from kprune.export.device import instructions
from kprune.export.encoding import encode


@pytest.fixture
def path(cnn_files, tmp_path):
    file = tmp_path / "my model.tflite"
    file.write_bytes(cnn_files["int8"])
    return file


@pytest.fixture
def adb(tmp_path, monkeypatch):
    """A program of that name which knows the devices that it is given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def knows(*rows):
        program = folder / "adb"
        lines = "\n".join(("List of devices attached", *rows))
        program.write_text(
            f'#!/bin/sh\n[ "$*" = devices ] || exit 9\ncat <<E\n{lines}\n\nE\n'
        )
        program.chmod(0o755)

    return knows


def test_without_adb_it_says_where_to_get_it(path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    text = instructions("android", path)
    assert text.startswith("There is no adb here: https://")
    assert f"  adb push '{path}' '/data/local/tmp/my model.tflite'\n" in text
    assert "--num_threads=1 --use_xnnpack=true" in text
    assert "https://ai.google.dev/edge/litert/models/measurement" in text
    assert "for round" not in text


def test_a_device_is_named_and_addressed(path, adb):
    adb("emulator-5554\tunauthorized", "HT7A1\tdevice", "0123 456\toffline")
    text = instructions("android", path)
    assert text.startswith("adb finds HT7A1. Nothing is run on it by kprune.")
    assert text.count("adb -s HT7A1 ") == text.count("adb ") - 1


def test_no_device_is_said(path, adb):
    adb()
    assert instructions("android", path).startswith("adb finds no device")
    adb("HT7A1\tunauthorized")
    assert instructions("android", path).startswith("adb finds no device")


def test_an_adb_that_hangs_or_breaks_is_no_device(path, adb, tmp_path, monkeypatch):
    adb()
    (tmp_path / "bin" / "adb").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(device, "_ADB_SECONDS", 0.2)
    assert instructions("android", path).startswith("adb finds no device")
    (tmp_path / "bin" / "adb").write_text("no program")
    assert instructions("android", path).startswith("adb finds no device")


def test_two_files_take_turns_under_names_of_their_own(path, tmp_path):
    other = tmp_path / "before"
    other.mkdir()
    (other / path.name).write_bytes(path.read_bytes())
    text = instructions("android", path, other / path.name)
    assert text.index("/data/local/tmp/0-my model.tflite") < text.index(
        "/data/local/tmp/1-my model.tflite"
    )
    assert "for round in 1 2 3 4 5; do" in text
    assert text.count("--graph=") == 2


def test_a_board_gets_the_array_and_the_timer(path):
    text = instructions("board", path)
    assert f"xxd -i '{path}' > model.cc" in text and "alignas(16)" in text
    assert "GetCurrentTimeTicks" in text and "AddDecode" not in text
    path.with_suffix(".c").write_text("// Written by kprune")
    text = instructions("board", path)
    assert f"There is one in {path.with_suffix('.c')}" in text and "xxd" not in text
    path.write_bytes(encode(with_sparsity(path.read_bytes(), 0.9)))
    assert "resolver.AddDecode()" in instructions("board", path)


def test_bad_arguments_are_refused(path, tmp_path):
    with pytest.raises(ValueError, match="Unknown `device`.*Did you mean 'android'"):
        instructions("andriod", path)
    with pytest.raises(ValueError, match="Cannot read `file`"):
        instructions("board", tmp_path / "no.tflite")
    with pytest.raises(ValueError, match="Cannot read `baseline`"):
        instructions("android", path, tmp_path / "no.tflite")
