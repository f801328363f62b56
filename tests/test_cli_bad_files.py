"""Every command that takes a model, on every file that is none: refused in words."""

import contextlib
import os
import pathlib
import subprocess
import sys
import zipfile

import keras
import pytest
from test_cli import refused, run

KERAS, EITHER, TFLITE = range(3)
COMMANDS = {
    # What it reads, and its arguments.
    "advise": (KERAS, ["FILE"]),
    "export": (KERAS, ["FILE", "out.tflite", "--no-benchmark"]),
    "shrink": (KERAS, ["FILE", "out.keras", "--sparsity", "0.5"]),
    "prune": (KERAS, ["FILE", "--data", "d.npz", "--out", "out"]),
    "inspect": (EITHER, ["FILE"]),
    "compare": (EITHER, ["good.keras", "FILE"]),
    "bench": (TFLITE, ["FILE"]),
    "bench --baseline": (TFLITE, ["good.tflite", "--baseline", "FILE"]),
    "export --dense": (TFLITE, ["good.keras", "out.tflite", "--dense", "FILE"]),
}
OTHER, ENDING = "Expected a '.keras' file.", "must end in '.keras' or '.tflite'"
NONE, AGAIN = "Not a TFLite model", "Save it again with model.save('model.keras')"
TRANSLATED = "tfmot.load(path).save('model.keras')"
MADE_OF = "Name the model that this file was made of"
DAMAGED = "is damaged: it ends before what it points to. Write it again"
FILES = {
    # What is said where a .keras file is read, where either is, where a .tflite file
    # is; None where it is good.
    "gone.keras": ("There is no file", "There is no file", "No such file"),
    "gone.tflite": (MADE_OF, "There is no file", "No such file"),
    "folder.keras": ("is a folder. Name", "is a folder. Name", "Is a directory. Name"),
    "folder.tflite": ("is a folder. Name", "is a folder. Name", "Is a directory. Name"),
    "notes.txt": (OTHER, ENDING, NONE),
    "old.h5": (TRANSLATED, ENDING, NONE),
    "old.keras": (TRANSLATED, TRANSLATED, NONE),
    "archive.keras": (AGAIN, AGAIN, NONE),
    "empty.keras": ("no zip archive", "no zip archive", "It is empty"),
    "half.keras": (AGAIN, AGAIN, "kprune export makes a '.tflite' file of it"),
    "nearly.keras": (AGAIN, AGAIN, "kprune export makes a '.tflite' file of it"),
    "good.keras": (None, None, "kprune export makes a '.tflite' file of it"),
    "empty.tflite": (MADE_OF, "It is empty", "It is empty"),
    "half.tflite": (MADE_OF, DAMAGED, DAMAGED),
    "good.tflite": (MADE_OF, None, None),
    "secret.keras": ("Permission denied", "Permission denied", "Permission denied"),
    "secret.tflite": (MADE_OF, "Permission denied", "Permission denied"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("files")
    path.chmod(0o777)  # For a user who is not root.
    with contextlib.chdir(path):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model.save("good.keras")
        result = run("export", "good.keras", "good.tflite", "--no-benchmark")
        assert result.exit_code == 0, result.stderr
        for kind in ("keras", "tflite"):
            good, secret = (pathlib.Path(f"{n}.{kind}") for n in ("good", "secret"))
            data = good.read_bytes()
            for name, share in (("empty", 0), ("half", 0.5), ("nearly", 0.99)):
                cut = data[: int(share * len(data))]
                pathlib.Path(f"{name}.{kind}").write_bytes(cut)
            pathlib.Path(f"folder.{kind}").mkdir()
            secret.write_bytes(data)
            secret.chmod(0)
        pathlib.Path("notes.txt").write_text("a model")
        with zipfile.ZipFile("archive.keras", "w") as archive:
            archive.writestr("notes.txt", "a model")
        code = (
            "import tf_keras\n"
            "layers = [tf_keras.layers.Dense(2, input_shape=(4,))]\n"
            "model = tf_keras.Sequential(layers)\n"
            "model.save('old.keras'); model.save('old.h5')"
        )
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, timeout=300
        )
    return path


@contextlib.contextmanager
def not_as_root():
    """Root may read everything; nobody may not."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def files():
    found = sorted(pathlib.Path().rglob("*"))
    return [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in found]


@pytest.mark.parametrize("command", COMMANDS)
def test_bad_files_are_refused_in_one_line(folder, monkeypatch, command):
    monkeypatch.chdir(folder)
    reads, arguments = COMMANDS[command]
    before = files()

    def on(file):
        given = [file if argument == "FILE" else argument for argument in arguments]
        return run(command.split()[0], *given)

    for file, all_words in FILES.items():
        words = all_words[reads]
        if words is None:
            continue
        denied = words == "Permission denied"
        with not_as_root() if denied else contextlib.nullcontext():
            result = on(file)
        assert refused(result, repr(file), words)
        assert len(result.stderr.splitlines()) == 1 and len(result.stderr) < 400
        assert files() == before
