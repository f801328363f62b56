import keras
import nets
import pytest

from kprune.export import tflite
from kprune.export.origin import layer_of, told
from kprune.export.slim import slim

L = keras.layers


@pytest.fixture(scope="module")
def converted():
    block = keras.Sequential([L.Input((6, 6, 4)), L.MaxPooling2D(name="pool")])
    layers = [
        L.Input((8, 8, 1)),
        L.Conv2D(4, 3, name="conv_2"),
        L.BatchNormalization(name="norm"),
        L.ReLU(name="relu"),
        block,
        L.DepthwiseConv2D(3, name="depthwise"),
        L.Flatten(name="flatten"),
        L.Dense(3, name="head"),
    ]
    return nets.converted(keras.Sequential(layers), "none")


def test_operators_are_called_by_their_layers(converted):
    graph = tflite.parse(converted).subgraphs[0]
    assert {
        operator.name: layer_of(graph, operator)
        for operator in graph.operators
        if operator.name != "RESHAPE"
    } == {
        "CONV_2D": "conv_2",
        "MAX_POOL_2D": "pool",
        "DEPTHWISE_CONV_2D": "depthwise",
        "FULLY_CONNECTED": "head",
    }
    assert told(graph, 0) == "'conv_2' (CONV_2D)"


def test_slimmed_files_have_no_names(converted):
    graph = tflite.parse(slim(converted)).subgraphs[0]
    assert {layer_of(graph, operator) for operator in graph.operators} == {""}
    assert told(graph, 0) == "a CONV_2D"
