"""What all tests share: quiet imports, and the same random numbers every time."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

# Scripts for processes of their own: importing them sets up devices, or Keras 2.
collect_ignore_glob = [
    "distribution/*.py",
    "compat/make_tfmot_files.py",
    "compat/tutorials/*.py",
]


@pytest.fixture(autouse=True)
def same_random_numbers():
    keras.utils.set_random_seed(0)
    yield
    keras.backend.clear_session()
    # It collects garbage, half a second through the objects of TensorFlow and of each
    # `fit` before, which TensorFlow keeps. What is alive now is not looked at again.
    gc.freeze()


@pytest.fixture
def data():
    """96 small images and their labels; six batches of 16."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 8, 8, 1)).astype("float32")
    return x, rng.integers(0, 3, 96)
