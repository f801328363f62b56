"""Where files are: reading a `.tflite` file, and writing all files or none.

This module changes when the rules for files on the disk do.
"""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import keras

from kprune.export import tflite

_PICTURES = (".png", ".svg")


def check_path(path: str | os.PathLike[str], suffix: str = ".tflite") -> Path:
    """Returns `path` as a `Path` after making sure that a file can be written there.

    Args:
        path: The file to write. Its folder must exist.
        suffix: What it must end in.

    Raises:
        TypeError: If `path` is not a path.
        ValueError: If it has another suffix, is a folder, or its folder is missing or
            not writable.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            "`path` must be a string or a path object. "
            f"Received: {path!r} of type {type(path).__name__}."
        )
    file = Path(path)
    if file.suffix != suffix or file.stem.startswith("."):
        raise ValueError(
            f"`path` must name a {suffix!r} file. Received: {str(file)!r}. "
            f"Write, for instance, {str(file.with_suffix(suffix))!r}."
            if file.name
            else f"`path` must name a {suffix!r} file. Received: {str(file)!r}."
        )
    if file.is_dir():
        raise ValueError(f"`path` is a folder: {str(file)!r}. Name a file inside it.")
    folder = file.parent
    if not folder.is_dir():
        raise ValueError(
            f"The folder of `path` does not exist: {str(folder)!r}. Create it first."
        )
    # A trial file asks the file system itself; permission bits mislead on read-only
    # mounts and for root.
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"Cannot write into the folder of `path`, {str(folder)!r}: "
            f"{error.strerror}. Choose a folder that you may write to."
        ) from error
    return file


def picture_path(owner: str, path: str | os.PathLike[str]) -> Path:
    """Returns where a picture is to be written.

    Raises:
        ValueError: If it is neither a `.png` nor an `.svg`, or the folder is not there.
    """
    path = Path(path)
    if path.suffix not in _PICTURES:
        raise ValueError(
            f"{owner}: `path` must end in {' or '.join(_PICTURES)}. "
            f"Received {str(path)!r}."
        )
    if not path.parent.is_dir():
        raise ValueError(
            f"{owner}: the folder of `path` does not exist: {str(path.parent)!r}. "
            "Create it first."
        )
    return path


def read_tflite(argument: str, path: str | os.PathLike[str]) -> bytes:
    """Returns a `.tflite` file's bytes.

    Args:
        argument: What the caller calls it.
        path: The file.

    Raises:
        ValueError: If it cannot be read, or is no readable TFLite model.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(
            f"Cannot read `{argument}`, {str(path)!r}: {error.strerror}. Name a "
            "'.tflite' file that is there and that you may read."
        ) from error
    try:
        tflite.parse(data)
    except ValueError as error:
        raise ValueError(f"`{argument}`, {str(path)!r}: {error}") from error
    return data


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Gives a folder for the files of a step of the work, and removes it.

    Raises:
        ValueError: If there is no space for them.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="kprune-") as name:
            yield Path(name)
    # TensorFlow and other processes tell it in their words, as errors of their own.
    except Exception as error:
        no_folder = isinstance(error, FileNotFoundError) and "usable temp" in str(error)
        told = f"{error} {error.__cause__}"
        if not no_folder and os.strerror(errno.ENOSPC) not in told:
            raise
        where = "" if no_folder else f", {tempfile.gettempdir()!r},"
        raise ValueError(
            f"No space is left in the folder of temporary files{where} for the model "
            "that is converted. Nothing was written. Free some, or name a folder with "
            "space in the environment variable TMPDIR before Python starts."
        ) from error


def write_model(model: keras.Model, path: Path) -> None:
    """Writes a `.keras` file, whole or not at all.

    Raises:
        ValueError: If it cannot be written.
    """
    with temporary_folder() as folder:
        model.save(folder / path.name)
        write_together({path: (folder / path.name).read_bytes()})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Writes all files, or leaves every one as it was.

    Each is written beside its destination first and renamed at the end. If a rename
    fails, the files that were already replaced get their former content back, of which
    a copy is made before, while a full disk does no harm. (A power cut between two
    renames is the one thing that this cannot undo.)

    Args:
        contents: Bytes for each path.

    Raises:
        ValueError: If a file cannot be written.
    """
    with contextlib.ExitStack() as clean_up:

        def stage(path: Path, content: bytes) -> str:
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".kprune-")
            clean_up.callback(_forget, name)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())
            return name

        done: list[tuple[Path, str | None]] = []
        try:
            staged = [(stage(path, data), path) for path, data in contents.items()]
            # The last one replaced, or the only one, is never to be taken back.
            former = {
                path: stage(path, path.read_bytes()) if path.is_file() else None
                for path in list(contents)[:-1]
            }
            for name, path in staged:
                os.replace(name, path)
                done.append((path, former.get(path)))
        except OSError as error:
            for path, copy in reversed(done):
                if copy is None:
                    path.unlink()
                else:
                    os.replace(copy, path)
            raise ValueError(
                f"Could not write {', '.join(map(str, contents))}: {error}. "
                "Nothing was changed."
            ) from error


def _forget(name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name)


def _umask() -> int:
    """Returns the process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
