"""Files that several tests of the export read."""

import keras
import nets
import pytest


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
