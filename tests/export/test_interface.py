import keras
import nets
import numpy as np
import pytest

from kprune.export.interface import of_model, unique_names

L = keras.layers


def test_inputs_and_outputs_of_a_model_of_dicts():
    interface = of_model(nets.two_inputs())
    assert [item.name for item in interface.inputs] == ["facts", "pixels"]
    assert [item.shape for item in interface.inputs] == [(5,), (6, 6, 2)]
    assert interface.output_names == ("kind", "price")
    data = nets.two_inputs_data()
    kind, price = interface.call([data["facts"], data["pixels"]])
    assert kind.shape == (16, 3) and price.shape == (16, 1)


def test_names_do_not_depend_on_what_was_built_before():
    L.Input((1,))
    model = keras.Sequential([L.Input((4,)), L.Dense(2)])
    interface = of_model(model)
    assert interface.inputs[0].name == "input"
    assert interface.output_names == ("output",)


def test_a_subclassed_model_is_known_by_its_data():
    class Pair(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(2)

        def call(self, inputs):
            return self.dense(inputs["a"]), inputs["b"]

    model = Pair()
    example = {"b": np.ones((3, 1), "float64"), "a": np.ones((3, 4), "float32")}
    model(example)
    interface = of_model(model, example)
    assert [(i.key, i.shape, i.dtype) for i in interface.inputs] == [
        ("a", (4,), "float32"),
        ("b", (1,), "float32"),
    ]
    assert interface.output_names == ("output", "output_1")
    with pytest.raises(ValueError, match="subclassed model .*representative_data"):
        of_model(model)


def test_a_model_without_weights_is_refused():
    with pytest.raises(ValueError, match="'later' is not built"):
        of_model(keras.Sequential([L.Dense(1)], name="later"))


def test_a_free_dimension_is_refused_by_name():
    model = keras.Sequential([L.Input((None, 3), name="sound"), L.Dense(1)])
    with pytest.raises(ValueError, match="Input 'sound'.*must be fixed"):
        of_model(model)


def test_names_are_unique_and_plain():
    assert unique_names(["a", "a", "b/c", "", "é"]) == (
        "a",
        "a_1",
        "b_c",
        "tensor",
        "_",
    )
