"""Images for the tutorials: of Fashion-MNIST where it lies, else enlarged digits.

Nothing is downloaded. The digits, 8x8, come with scikit-learn.
"""

import gzip
import os
import pathlib

import numpy as np

TRAIN, TEST = 960, 200


def load_data():
    """Returns images of 28x28, 0 to 255, and labels; to train on, and to test with."""
    home = os.environ.get("KERAS_HOME", pathlib.Path.home() / ".keras")
    folder = pathlib.Path(home, "datasets", "fashion-mnist")
    if not folder.is_dir():
        return _digits()
    return tuple(
        (_read(folder / f"{part}-images-idx3-ubyte.gz", 16, (-1, 28, 28))[:count],
         _read(folder / f"{part}-labels-idx1-ubyte.gz", 8, (-1,))[:count])
        for part, count in (("train", TRAIN), ("t10k", TEST))
    )  # fmt: skip


def _read(path, header, shape):
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header).reshape(shape)


def _digits():
    import sklearn.datasets

    x, y = sklearn.datasets.load_digits(return_X_y=True)
    x = np.kron(x.reshape(-1, 8, 8) * 15, np.ones((3, 3))).astype("uint8")
    x = np.pad(x, ((0, 0), (2, 2), (2, 2)))
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    return (x[:-TEST], y[:-TEST]), (x[-TEST:], y[-TEST:])
