"""Every command that takes a model, on every file that is none: refused in words."""

import pathlib
import subprocess
import sys

import pytest
from models import sequential
from test_cli import refused, run

COMMANDS = {
    "inspect": ["FILE"],
    "compare": ["good.keras", "FILE"],
    "advise": ["FILE"],
    "export": ["FILE", "out.tflite", "--no-benchmark"],
    "shrink": ["FILE", "out.keras", "--sparsity", "0.5"],
    "prune": ["FILE", "--data", "d.npz", "--out", "out"],
    "bench": ["FILE"],
}
KERAS = sorted(set(COMMANDS) - {"bench"})
BOTH = ("inspect", "compare", "bench")


@pytest.fixture(scope="module")
def tf_keras_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tf_keras") / "old.keras"
    code = (
        "import sys, tf_keras\n"
        "layers = [tf_keras.layers.Dense(2, input_shape=(4,))]\n"
        "tf_keras.Sequential(layers).save(sys.argv[1])"
    )
    subprocess.run(
        [sys.executable, "-c", code, path], check=True, capture_output=True, timeout=120
    )
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sequential().save("good.keras")
    return tmp_path


def on(command, file):
    return run(
        command, *(file if word == "FILE" else word for word in COMMANDS[command])
    )


def refuses(command, file, *words):
    before = sorted(pathlib.Path().iterdir())
    assert refused(on(command, file), *words)
    assert sorted(pathlib.Path().iterdir()) == before
    return True


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_file_of_a_model(here, command):
    (here / "folder.keras").mkdir()
    (here / "notes.txt").write_text("a model")
    assert refuses(command, "folder.keras", "folder.keras")
    assert refuses(command, "notes.txt", "notes.txt")
    assert refuses(command, "gone.keras", "gone.keras")


@pytest.mark.parametrize("command", KERAS)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_keras_files(here, command, share):
    data = pathlib.Path("good.keras").read_bytes()
    pathlib.Path("cut.keras").write_bytes(data[: int(share * len(data))])
    assert refuses(command, "cut.keras", "'cut.keras'", "damaged")


@pytest.mark.parametrize("command", BOTH)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_truncated_tflite_files(here, command, share):
    run("export", "good.keras", "good.tflite", "--no-benchmark")
    data = pathlib.Path("good.tflite").read_bytes()
    pathlib.Path("cut.tflite").write_bytes(data[: int(share * len(data))])
    assert refuses(command, "cut.tflite", "'cut.tflite'")


@pytest.mark.parametrize("command", sorted(set(KERAS) - set(BOTH)))
def test_tflite_files_where_a_model_is_needed(here, command):
    pathlib.Path("m.tflite").write_bytes(b"1234TFL3")
    assert refuses(command, "m.tflite", "Expected a '.keras' file")


@pytest.mark.parametrize("command", KERAS)
def test_files_of_tf_keras(here, tf_keras_file, command):
    assert refuses(command, tf_keras_file, "tf_keras (Keras 2)")


@pytest.mark.parametrize("command", COMMANDS)
def test_files_that_may_not_be_read(here, monkeypatch, command):
    def denied(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    file = "good.tflite" if command == "bench" else "good.keras"
    pathlib.Path("good.tflite").write_bytes(b"1234TFL3")
    monkeypatch.setattr(pathlib.Path, "open", denied)
    assert refused(on(command, file), file, "Permission denied")
