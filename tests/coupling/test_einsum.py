"""Dense layers by equation, and embeddings that are read backwards."""

import keras
import pytest
from cases import around, groups, mask_of, proven, why_fixed
from zoo import scrambled

from kprune.coupling.graph import analyse

L = keras.layers


def einsum(equation, shape, bias_axes=None, **kwargs):
    return L.EinsumDense(equation, shape, bias_axes=bias_axes, name="einsum", **kwargs)


def read_whole(layer):
    """Returns a function that applies a layer, and one that reads all of its axes."""

    def layers(x):
        y = layer(x)
        axes = "abcd"[: len(y.shape)]
        return L.EinsumDense(f"{axes},{axes[1:]}z->az", (4,), name="whole")(y)

    return layers


@pytest.mark.parametrize(
    ("equation", "shape", "bias_axes", "sizes"),
    [
        ("abc,cd->abd", (5, 7), "d", [7]),
        ("abc,cd->abd", (5, 7), None, [7]),
        ("...x,xy->...y", 7, "y", [7]),
        ("abc,cde->abde", (5, 4, 3), "de", [4, 3]),
        ("abc,cde->abde", (5, 4, 3), "e", [4, 3]),
        ("abc,cde->abed", (5, 3, 4), "d", [3, 4]),
        ("abc,bd->adc", (7, 8), "d", [7]),
        ("ab...,bd->ad...", (7,), "d", [7]),
        ("abc,bcd->ad", (7,), "d", [7]),
        # Passed on, scaled, and summed over.
        ("abc,c->abc", (5, 8), "c", []),
        ("abc,bcd->abd", (5, 7), "bd", [7]),
        ("abc,bd->ad", (7,), None, [7]),
        ("abc,c->ab", (5,), None, []),
    ],
)
def test_axes_are_what_the_equation_says(equation, shape, bias_axes, sizes):
    model = around(read_whole(einsum(equation, shape, bias_axes)), (5, 3))
    found = groups(model)
    assert found.pop("before_0 units") == 8
    assert found.pop("whole units") == 4
    assert sorted(found.values()) == sorted(sizes)
    proven(model)


def test_kernels_count_once_per_position():
    model = around(read_whole(einsum("abc,cde->abde", (5, 4, 3))), (5, 3))
    coupling = analyse(model)
    others = 5 * 3 * 8 + 5 * 4 * 3 * 4 + 4 * 2
    assert coupling.macs(coupling.nothing()) == 5 * 8 * 4 * 3 + others


def test_the_bias_has_the_axes_it_is_given():
    model = around(read_whole(einsum("abc,cde->abde", (5, 4, 3), "d")), (5, 3))
    masks = mask_of(model, "einsum units", 1)
    assert masks["einsum/bias"] == [(1, 0)]
    assert {index[1] for index in masks["einsum/kernel"]} == {1}


def test_a_bias_along_an_axis_keeps_zeros_from_staying_zero():
    model = around(read_whole(einsum("abc,cde->abde", (5, 4, 3), "e")), (5, 3))
    coupling = analyse(model)
    group = next(g for g in coupling.groups if g.name == "einsum units")
    assert "adds the same bias" in coupling.not_zero[int(group.units[0])]
    proven(model)


def test_sizes_that_are_left_open_fix():
    def layers(x):
        return L.Permute((2, 1))(einsum("abc,bd->adc", (7, None))(x))

    model = around(layers, (5, 3))
    assert why_fixed(model)["before_0 units"] == (
        "EinsumDense 'einsum' makes of it an axis of size None"
    )
    proven(model)


def test_equations_with_a_letter_twice_are_barriers():
    model = around(lambda x: einsum("abb,bd->ad", (7,))(L.Permute((2, 1))(x)), (8, 3))
    reason = why_fixed(model)["before_0 units"]
    assert reason == "EinsumDense 'einsum' has the equation 'abb,bd->ad'"


def test_activations_are_followed():
    proven(around(einsum("abc,cd->abd", (5, 7), "d", activation="sigmoid"), (5, 3)))
    model = around(einsum("abc,cd->abd", (5, 7), activation="softmax"), (5, 3))
    assert "'softmax' is not known" in why_fixed(model)["einsum units"]


@pytest.mark.parametrize("tie_weights", [False, True])
def test_an_embedding_that_is_read_backwards_agrees(tie_weights):
    inputs = L.Input((5,), dtype="int32")
    table = L.ReversibleEmbedding(9, 6, tie_weights=tie_weights, name="table")
    model = scrambled(keras.Model(inputs, table(table(inputs), reverse=True)))
    assert groups(model) == {"table dimensions": 6}
    coupling = analyse(model)
    assert coupling.macs(coupling.nothing()) == 5 * 6 * 9
    assert not coupling.zero_units()[coupling.groups[0].units].any()
    proven(model)
