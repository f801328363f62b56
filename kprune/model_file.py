"""Loading and writing a `.keras` file, with errors that say what to do.

This module changes when Keras's file format or its ways of failing do.
"""

import os
import warnings
import zipfile
from pathlib import Path

import keras


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
            f"Expected a '.keras' file. Received: {str(file)!r}. Load the model in "
            "Python and save it with model.save('model.keras')."
        )
    if not file.is_file():
        raise ValueError(f"There is no file {str(file)!r}.")
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise ValueError(f"Cannot read {str(file)!r}: {error.strerror}.") from error
    # Keras's own errors for damaged files are of a dozen types and name its internals.
    if not zipfile.is_zipfile(file):
        raise ValueError(
            f"{str(file)!r} is not a '.keras' file: it is no zip archive. It may be "
            "damaged, or an older format under a wrong name (.h5)."
        )
    try:
        with warnings.catch_warnings():
            # Of one that was compiled and not trained yet.
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            model = keras.saving.load_model(file, compile=compile)
    except Exception as error:
        # Keras appends the whole configuration, which may fill screens.
        words = str(error).partition("Full object config:")[0].strip()
        raise ValueError(
            f"Keras cannot load {str(file)!r}: {words} A model with classes of your "
            "own can be exported from Python, where they are defined: "
            "kprune.export(model, ...). One that tf_keras (Keras 2) wrote must be "
            "rebuilt in Keras 3."
        ) from error
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"{str(file)!r} holds a {type(model).__name__}, not a Keras model."
        )
    return model
