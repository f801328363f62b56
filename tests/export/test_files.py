import os

import pytest

from kprune.export.files import check_path, write_together


def test_a_good_path_is_returned_and_nothing_is_left_behind(tmp_path):
    assert check_path(tmp_path / "m.tflite") == tmp_path / "m.tflite"
    assert check_path(str(tmp_path / "m.tflite")) == tmp_path / "m.tflite"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("m.keras", "m.tflite"),
        ("m", "m.tflite"),
        ("", "'.tflite' file"),
        (".tflite", "'.tflite' file"),
        ("missing/m.tflite", "folder of `path` does not exist"),
        ("folder.tflite", "is a folder"),
    ],
)
def test_bad_paths_are_named_with_the_cure(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.tflite").mkdir()
    with pytest.raises(ValueError, match=words):
        check_path(name)


def test_a_number_is_no_path():
    with pytest.raises(TypeError, match="Received: 3 of type int"):
        check_path(3)


def test_a_folder_that_cannot_be_written_to_is_refused():
    # /proc refuses new files from root too, whom permission bits do not stop.
    with pytest.raises(ValueError, match="Cannot write into the folder"):
        check_path("/proc/m.tflite")


def test_all_files_appear_with_ordinary_permissions(tmp_path):
    write_together({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    (tmp_path / "c").touch()
    assert (tmp_path / "a").read_bytes() == b"1"
    assert (tmp_path / "b").read_bytes() == b"2"
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "c").stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


def test_if_one_cannot_be_written_none_is(tmp_path):
    (tmp_path / "old").write_bytes(b"before")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="Nothing was changed"):
        write_together(
            {
                tmp_path / "old": b"after",
                tmp_path / "new": b"new",
                tmp_path / "folder": b"cannot replace a folder",
            }
        )
    assert (tmp_path / "old").read_bytes() == b"before"
    assert sorted(os.listdir(tmp_path)) == ["folder", "old"]
