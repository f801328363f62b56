"""Files that several tests of the export read."""

import keras
import nets
import pytest


@pytest.fixture(autouse=True)
def same_random_numbers():
    """The seed only: clear_session collects garbage for a second after each test."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="module", autouse=True)
def names_begin_anew():
    """After each file: names of layers count on over the tests in it."""
    yield
    keras.backend.clear_session()


@pytest.fixture(scope="session")
def cnn_files():
    """The same small network as float32, float16, and int8 with integer inputs."""
    keras.utils.set_random_seed(0)
    model, data = nets.cnn(), nets.images()
    return {
        "none": nets.converted(model, "none"),
        "float16": nets.converted(model, "float16"),
        "int8": nets.converted(model, "int8", data, integer_io=True),
    }
