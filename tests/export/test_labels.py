"""What is taken for labels, and what is refused with which words."""

import pathlib

import pytest

from kprune.export.labels import of_output, read


def test_a_list_a_tuple_and_a_file_say_the_same(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("cat\nguinea pig\nweiß\n", encoding="utf-8")
    expected = ("cat", "guinea pig", "weiß")
    assert read(list(expected)) == read(expected) == read(path) == expected
    assert read(str(path)) == expected


@pytest.mark.parametrize(
    "content", [b"a\nb", b"a\r\nb\r\n", b"\xef\xbb\xbfa\nb\n", b"a\rb\r"]
)
def test_files_of_other_editors(tmp_path, content):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    assert read(path) == ("a", "b")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([], "0 names"),
        ((), "0 names"),
        (["a", "", "c"], "is empty, at index 1 of 3"),
        (["a", " \t"], "is empty, at index 1 of 2"),
        (["a\nb", "c"], "holds the end of a line, at index 0 of 2"),
        (["a", "b\r"], "holds the end of a line"),
        (["a\u2028b"], "holds the end of a line"),
        (["a\0b"], "holds the end of a line"),
        (["\udc80"], "cannot be written in UTF-8"),
        (["a", "b", "a"], "3 names, of which 2 differ: 'a' 2 times"),
        (list("aabbccddeeffgg"), "of which 7 differ.* and 2 more"),
    ],
)
def test_names_that_cannot_be_labels(labels, words):
    with pytest.raises(ValueError, match=words):
        read(labels)


@pytest.mark.parametrize("labels", [3, {"a": 1}, ["a", 3], [b"a"], [None]])
def test_what_is_no_text_is_refused(labels):
    with pytest.raises(TypeError, match="Received: "):
        read(labels)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 names"),
        (b"a\n\nb\n", "is empty, at index 1 of 3"),
        (b"a\nb\n\n", "is empty, at index 2 of 3"),
        (b"a\xff", "not text in UTF-8"),
    ],
)
def test_files_that_cannot_be_labels(tmp_path, content, words):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read(path)


def test_files_that_are_not_there(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(ValueError, match="Cannot read `labels`"):
            read(pathlib.Path(path))


def test_an_output_has_to_be_a_vector_of_as_many_entries():
    assert of_output(("a", "b"), "scores", (2,)).output == "scores"
    with pytest.raises(ValueError, match=r"2 names, .* 'scores', has 3 entries"):
        of_output(("a", "b"), "scores", (3,))
    for shape in ((), (2, 2), (4, 4, 2)):
        with pytest.raises(ValueError, match="name the entries of a vector"):
            of_output(("a", "b"), "scores", shape)
