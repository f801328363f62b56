"""Which channels go together, and which weights they are part of."""

import keras
import numpy as np
import pytest

import kprune
from kprune.coupling.graph import analyse

L = keras.layers


def groups(model):
    return {group.name: group.size for group in analyse(model).groups}


def why_fixed(model):
    return {group.name: group.reason for group in analyse(model).fixed}


def chain(*layers, shape=(8, 8, 4)):
    x = inputs = L.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def test_filters_are_read_by_the_next_layer():
    model = chain(L.Conv2D(6, 3, name="a"), L.Conv2D(5, 3, name="b"))
    coupling = analyse(model)
    (group,) = coupling.groups
    assert (group.name, group.size) == ("a filters", 6)
    members = [coupling.slots[i] for i in group.slots]
    assert [(s.variable.path, s.axis, s.role) for s in members] == [
        ("a/kernel", 3, "makes"),
        ("a/bias", 0, "makes"),
        ("b/kernel", 2, "reads"),
    ]


def test_outputs_keep_their_shape():
    reason = why_fixed(chain(L.Conv2D(6, 3, name="a"), L.Dense(5, name="b")))
    assert reason == {"b units": "it is an output of the model, which keeps its shape"}


def test_residuals_tie_and_concatenations_do_not():
    inputs = L.Input((8, 8, 4))
    a, b = L.Conv2D(6, 1, name="a")(inputs), L.Conv2D(6, 1, name="b")(inputs)
    c = L.Conv2D(3, 1, name="c")(inputs)
    x = L.Concatenate()([L.Add()([a, b]), c])
    model = keras.Model(inputs, L.Dense(2)(x))
    assert groups(model) == {"a filters": 6, "c filters": 3}


def test_halves_that_are_tied_to_different_layers_are_two_groups():
    inputs = L.Input((8, 8, 4))
    a, b = L.Conv2D(3, 1, name="a")(inputs), L.Conv2D(5, 1, name="b")(inputs)
    c = L.Conv2D(8, 1, name="c")(inputs)
    x = L.Add()([L.Concatenate()([a, b]), c])
    model = keras.Model(inputs, L.Dense(2)(x))
    assert groups(model) == {"a filters": 3, "b filters": 5}


def test_a_tensor_of_fixed_size_fixes_what_is_added_to_it():
    inputs = L.Input((8, 8, 4))
    x = L.Add(name="add")([L.Conv2D(4, 1, name="a")(inputs), inputs])
    model = keras.Model(inputs, L.Dense(2)(x))
    assert groups(model) == {}
    assert why_fixed(model)["a filters"] == (
        "Add 'add' merges it with a tensor of a fixed number of channels"
    )


def test_grouped_convolutions_lose_the_same_places_in_each_group():
    model = chain(
        L.Conv2D(8, 1, name="a"), L.Conv2D(12, 1, groups=4, name="b"), L.Dense(2)
    )
    assert groups(model) == {"a filters": 2, "b filters": 3}


def test_depthwise_channels_belong_to_the_layer_before():
    model = chain(
        L.Conv2D(6, 1, name="a"), L.DepthwiseConv2D(3, depth_multiplier=2), L.Dense(2)
    )
    assert groups(model) == {"a filters": 6}


def test_layer_normalization_fixes_and_group_normalization_ties():
    fixed = chain(L.Conv2D(6, 1, name="a"), L.LayerNormalization(), L.Dense(2))
    assert "takes mean and variance" in why_fixed(fixed)["a filters"]
    tied = chain(L.Conv2D(6, 1, name="a"), L.GroupNormalization(3), L.Dense(2))
    assert groups(tied) == {"a filters": 3}


def test_zeros_must_stay_zero_where_their_squares_are_summed():
    plain = chain(L.Conv2D(6, 1, name="a"), L.RMSNormalization(), L.Dense(2))
    assert groups(plain) == {"a filters": 6}
    shifted = chain(
        L.Conv2D(6, 1, activation="sigmoid", name="a"),
        L.RMSNormalization(name="norm"),
        L.Dense(2),
    )
    assert why_fixed(shifted)["a filters"] == (
        "Conv2D 'a': sigmoid(0) is 0.5, and RMSNormalization 'norm' sums their squares"
    )


def test_an_activation_that_is_not_known_fixes():
    model = chain(L.Conv2D(6, 1, activation=lambda x: x**2, name="a"), L.Dense(2))
    assert "is not known to work element by element" in why_fixed(model)["a filters"]


def test_one_gate_for_all_channels_is_no_channel_of_theirs():
    inputs = L.Input((8, 8, 4))
    x = L.Conv2D(6, 1, name="a")(inputs)
    gate = L.Conv2D(1, 1, activation="sigmoid", name="gate")(x)
    model = keras.Model(inputs, L.Dense(2)(L.Multiply()([x, gate])))
    assert groups(model) == {"a filters": 6}


def test_shared_layers_are_one_and_conflicting_uses_fix():
    inputs = L.Input((8,))
    tower = L.Dense(8, name="tower")
    model = keras.Model(inputs, L.Dense(2, name="head")(tower(tower(inputs))))
    reason = why_fixed(model)["tower units"]
    assert "'tower/kernel' is shared, and another use of it has a fixed" in reason


def test_unknown_layers_are_barriers_with_a_reason():
    class Unknown(L.Layer):
        def call(self, x):
            return x * 2

    model = chain(L.Dense(6, name="a"), Unknown(name="own"), L.Dense(2), shape=(4,))
    assert why_fixed(model)["a units"] == (
        "Unknown 'own' has no coupling rule; give its class one with "
        "kprune.register_coupling(Unknown, rule)"
    )


def test_a_subclass_with_a_call_of_its_own_is_not_what_it_inherits_from():
    class Doubled(L.Dense):
        def call(self, x):
            return 2 * super().call(x)

    model = chain(L.Dense(6, name="a"), Doubled(5, name="b"), L.Dense(2), shape=(4,))
    assert groups(model) == {}


def test_a_registered_rule_opens_the_way():
    class Twice(L.Layer):
        def call(self, x):
            return x * 2

    kprune.register_coupling(Twice, lambda call: call.output(like=call.input))
    model = chain(L.Dense(6, name="a"), Twice(), L.Dense(2), shape=(4,))
    assert groups(model) == {"a units": 6}


@pytest.mark.parametrize("returned", [None, "layout"])
def test_a_rule_that_returns_something_else_is_named(returned):
    class Wrong(L.Layer):
        def call(self, x):
            return x * 2

    kprune.register_coupling(Wrong, lambda call: returned)
    model = chain(L.Dense(6, name="a"), Wrong(name="own"), L.Dense(2), shape=(4,))
    with pytest.raises(ValueError, match="rule of Wrong 'own' returned"):
        analyse(model)


def test_what_is_registered_must_be_a_layer_and_a_function():
    with pytest.raises(TypeError, match="must be a subclass of keras.layers.Layer"):
        kprune.register_coupling(int, print)
    with pytest.raises(TypeError, match="`rule` must be a function"):
        kprune.register_coupling(L.Dense, 3)


def test_quantised_and_adapted_layers_are_barriers():
    model = chain(L.Dense(6, name="a"), L.Dense(4, name="b"), L.Dense(2), shape=(4,))
    model.get_layer("b").enable_lora(2)
    assert groups(model) == {}
    assert "LoRA" in why_fixed(model)["a units"]


def test_reshapes_split_channels_where_most_of_them_stay_apart():
    model = chain(
        L.Dense(24, name="a"),
        L.Reshape((2, 3, 4)),
        L.Conv2D(3, 1, name="b"),
        L.Flatten(),
        L.Dense(2),
        shape=(4,),
    )
    # Convolving mixes places, so that the 4 channels are what is left to choose.
    assert groups(model) == {"a units": 4, "b filters": 3}


def test_multiply_accumulates_and_parameters_are_counted_after_removal():
    model = chain(L.Conv2D(6, 3, name="a"), L.Conv2D(5, 3, name="b"))
    coupling = analyse(model)
    nothing = coupling.nothing()
    assert coupling.macs(nothing) == 6 * 6 * 9 * 4 * 6 + 4 * 4 * 9 * 6 * 5
    assert coupling.parameters(nothing) == model.count_params()
    removed = nothing.copy()
    removed[coupling.groups[0].units[:2]] = True
    assert coupling.macs(removed) == 6 * 6 * 9 * 4 * 4 + 4 * 4 * 9 * 4 * 5
    assert coupling.parameters(removed) == 9 * 4 * 4 + 4 + 9 * 4 * 5 + 5


def test_zero_units_are_unread_or_never_made():
    model = chain(L.Dense(6, name="a"), L.Dense(5, name="b"), L.Dense(2), shape=(4,))
    a, b = model.get_layer("a"), model.get_layer("b")
    for layer in (a, b):
        layer.bias.assign(np.ones(layer.bias.shape))
    kernel = a.kernel.numpy()
    kernel[:, [0, 1]] = 0  # Channel 1 still is what its bias says.
    a.kernel.assign(kernel)
    a.bias.assign([0, 1, 1, 1, 1, 1])
    kernel = b.kernel.numpy()
    kernel[4] = 0  # Nothing reads it.
    b.kernel.assign(kernel)
    coupling = analyse(model)
    group = next(g for g in coupling.groups if g.name == "a units")
    zero = coupling.zero_units()[group.units]
    np.testing.assert_array_equal(zero, [True, False, False, False, True, False])


def test_a_channel_that_does_not_stay_zero_is_not_dead():
    model = chain(L.Dense(6, activation="sigmoid", name="a"), L.Dense(2), shape=(4,))
    layer = model.get_layer("a")
    kernel = layer.kernel.numpy()
    kernel[:, 0] = 0
    layer.kernel.assign(kernel)
    coupling = analyse(model)
    (group,) = coupling.groups
    assert not coupling.zero_units()[group.units].any()
