"""Loading and writing a `.keras` file, with errors that say what to do.

This module changes when Keras's file format or its ways of failing do.
"""

import json
import os
import warnings
import zipfile
from pathlib import Path

import keras

# What an archive may unpack to without being asked how much it is packed. Keras does
# not pack at all; weights that are mostly zero, packed again by hand, by 100 at most.
_HARMLESS, _MOST_PACKED = 2**28, 100
_LONGEST = 400
_AGAIN = "Save it again with model.save('model.keras')."
_KERAS_2 = (
    "Models of Keras 2 (tf_keras), pruned or not, are translated by "
    "kprune.compat.tfmot.load(path).save('model.keras')."
)
_CURES = {
    ".tflite": "Name the model that this file was made of.",
    ".h5": f"Load the model in Python and save it as '.keras'. {_KERAS_2}",
}


def load_model(path: str | os.PathLike[str], *, compile: bool = False) -> keras.Model:
    """Returns the model in a `.keras` file, without running code from it.

    Args:
        path: The file.
        compile: Whether it is compiled as it was when it was saved, if it was.

    Raises:
        ValueError: If it is missing, a folder, of another format or damaged, may not be
            read, or needs classes that are not registered.
    """
    file = Path(path)
    if file.is_dir():
        raise ValueError(f"{str(file)!r} is a folder. Name a '.keras' file.")
    if file.suffix != ".keras":
        raise ValueError(
            f"Expected a '.keras' file. Received: {str(file)!r}. "
            + _CURES.get(
                file.suffix,
                "Load the model in Python and save it with model.save('model.keras').",
            )
        )
    if not file.is_file():
        raise ValueError(f"There is no file {str(file)!r}.")
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise ValueError(f"Cannot read {str(file)!r}: {error.strerror}.") from error
    _check_archive(file)
    try:
        with warnings.catch_warnings():
            # Of one that was compiled and not trained yet.
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            model = keras.saving.load_model(file, compile=compile)
    except Exception as error:
        raise ValueError(
            f"Keras cannot load {str(file)!r}: {_cause(error)} If it has classes of "
            "your own, load it in Python, where they are defined: what this command "
            "does is a function of kprune's. Otherwise it is damaged: save it again."
        ) from error
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"{str(file)!r} holds a {type(model).__name__}, not a Keras model."
        )
    return model


def _check_archive(file: Path) -> None:
    """Refuses what Keras 3 did not write.

    Keras's own errors for it are of a dozen types and name its internals.
    """
    if not zipfile.is_zipfile(file):
        raise ValueError(
            f"{str(file)!r} is not a '.keras' file: it is no zip archive. It is empty "
            f"or damaged, or an older format under a wrong name (.h5). {_AGAIN}"
        )
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            fits = size <= max(_HARMLESS, _MOST_PACKED * file.stat().st_size)
            archive.getinfo("config.json")
            said = json.loads(archive.read("metadata.json")) if fits else None
    except Exception as error:  # Of as many types as there are ways to be damaged.
        raise ValueError(
            f"{str(file)!r} is not a '.keras' file: it is an archive of something "
            f"else, or damaged. {_AGAIN}"
        ) from error
    if not fits:
        raise ValueError(
            f"{str(file)!r} would unpack to {size:,} bytes, more than {_MOST_PACKED} "
            f"times its own, which Keras's files do not. {_AGAIN}"
        )
    if isinstance(said, dict) and str(said.get("keras_version")).startswith("2."):
        raise ValueError(
            f"{str(file)!r} is of tf_keras (Keras 2), and Keras 3 does not read it. "
            f"{_KERAS_2}"
        )


def _cause(error: Exception) -> str:
    """Returns what an error of Keras's says last, and innermost.

    Around it are whole configurations, which fill screens.
    """
    words = str(error).partition("Full object config:")[0]
    words = " ".join(words.rpartition("Exception encountered:")[2].split())
    words = words if len(words) <= _LONGEST else f"{words[:_LONGEST]} ..."
    return words if words.endswith((".", "!", "?")) else f"{words}."
