"""Heads, and dimensions inside and outside of them."""

import keras
import numpy as np
import pytest
from cases import around, groups, mask_of, proven, why_fixed

import kprune
from kprune.coupling.graph import analyse

L = keras.layers
TWO = ((5, 6), (5, 6))


def heads(**kwargs):
    return L.MultiHeadAttention(4, 6, name="mha", **kwargs)


def shared_heads(**kwargs):
    return L.GroupQueryAttention(6, 6, 3, name="gqa", **kwargs)


def test_a_head_is_a_slice_of_all_four_kernels():
    model = around(heads(), *TWO)
    masks = mask_of(model, "mha heads", 1)
    assert set(masks) == {
        "mha/query/kernel",
        "mha/query/bias",
        "mha/key/kernel",
        "mha/key/bias",
        "mha/value/kernel",
        "mha/value/bias",
        "mha/attention_output/kernel",
    }
    assert {index[1] for index in masks["mha/query/kernel"]} == {1}
    assert {index[0] for index in masks["mha/attention_output/kernel"]} == {1}


def test_heads_and_dimensions_are_groups():
    assert groups(around(heads(value_dim=5), *TWO)) == {
        "before_0 units": 8,
        "before_1 units": 8,
        "mha heads": 4,
        "mha query/key dimensions": 6,
        "mha value dimensions": 5,
        "mha units": 8,
    }


def test_dimensions_of_queries_go_with_those_of_keys():
    masks = mask_of(around(heads(), *TWO), "mha query/key dimensions", 2)
    assert set(masks) == {
        "mha/query/kernel",
        "mha/query/bias",
        "mha/key/kernel",
        "mha/key/bias",
    }
    assert {index[-1] for index in masks["mha/key/kernel"]} == {2}


def test_queries_are_scaled_for_the_root_of_the_old_number_of_dimensions():
    model = around(heads(), *TWO)
    small = proven(model)
    layer, left = model.get_layer("mha"), small.get_layer("mha")
    assert left.key_dim == 3
    for old, new, factor in (
        (layer.query_dense, left.query_dense, np.sqrt(3 / 6)),
        (layer.key_dense, left.key_dense, 1),
    ):
        values = old.bias.numpy().reshape(-1) * factor
        distance = np.abs(new.bias.numpy().reshape(-1, 1) - values).min(axis=1)
        assert distance.max() < 1e-6


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"value_dim": 4},
        {"use_bias": False},
        {"output_shape": 10},
        {"use_gate": True, "value_dim": 4},
        {"dropout": 0.2},
        {"sliding_window": 2},
    ],
)
def test_multi_head_attention_agrees(kwargs):
    proven(around(heads(**kwargs), *TWO))


def test_the_output_has_as_many_features_as_the_queries_or_its_own_number():
    model = around(lambda x, y: L.Add()([x, heads()(x, y)]), *TWO)
    assert groups(model)["before_0 units"] == 8
    small = proven(model).get_layer("mha")
    assert small.get_config()["output_shape"] is None
    small = proven(around(heads(), *TWO), 0.2).get_layer("mha")
    assert small.output_dense.kernel.shape[-1] == 6


def test_keys_may_be_given_apart():
    model = around(lambda x, y, z: heads()(x, y, key=z), *TWO, (5, 4))
    assert groups(model)["before_2 units"] == 8
    proven(model)


def test_attention_over_one_of_several_axes_agrees():
    model = around(lambda x: heads(attention_axes=(2,))(x, x), (3, 5, 6))
    proven(model)
    costs = analyse(model).builder.costs
    assert [cost.factor for cost in costs].count(3 * 5 * 5) == 2
    proven(around(lambda x: heads(attention_axes=(1, 2))(x, x), (3, 5, 6)))
    proven(around(lambda x: heads(output_shape=(2, 4))(x, x), (5, 6)))


def test_products_of_activations_are_counted():
    coupling = analyse(around(lambda x, y: heads(value_dim=5)(x, y), (7, 6), (9, 6)))
    everything = coupling.macs(coupling.nothing())
    projections = 7 * 8 * 4 * 6 + 9 * 8 * 4 * (6 + 5) + 7 * 4 * 5 * 8
    dense = 7 * 6 * 8 + 9 * 6 * 8 + 7 * 8 * 2
    assert everything == projections + dense + 7 * 9 * 4 * (6 + 5)


def test_scores_that_are_returned_have_one_map_per_head():
    def attend(x, y):
        out, scores = heads()(x, y, return_attention_scores=True)
        return out, L.Permute((2, 3, 1))(scores)

    model = around(attend, *TWO)
    assert groups(model)["mha heads"] == 4
    proven(model)


def test_masks_are_followed_and_one_per_head_fixes_the_heads():
    inputs, mask = L.Input((5, 6)), L.Input((5, 5), dtype="bool")
    x = heads()(inputs, inputs, attention_mask=mask)
    proven(keras.Model([inputs, mask], L.Dense(2)(x)))
    mask = L.Input((4, 5, 5), dtype="bool")
    x = heads()(inputs, inputs, attention_mask=mask)
    reasons = why_fixed(keras.Model([inputs, mask], L.Dense(2, name="after")(x)))
    assert reasons == {"mha heads": "MultiHeadAttention 'mha' has a mask for each head"}


def test_padding_is_masked_as_before():
    inputs = L.Input((6,), dtype="int32")
    x = L.Embedding(9, 8, mask_zero=True)(inputs)
    x = L.GlobalAveragePooling1D()(heads()(x, x, use_causal_mask=True))
    proven(keras.Model(inputs, L.Dense(2)(x)))


def test_a_shared_layer_is_one():
    mha = heads()
    model = around(lambda x, y: L.Add()([mha(x, x), mha(y, y)]), *TWO)
    assert sorted(groups(model).values()) == [4, 6, 6, 8, 8]
    proven(model)


def test_a_subclass_that_attends_in_its_own_way_is_a_barrier():
    class Own(L.MultiHeadAttention):
        def _compute_attention(self, *args, **kwargs):
            return super()._compute_attention(*args, **kwargs)

    model = around(lambda x: Own(4, 6, name="own")(x, x), (5, 6))
    assert why_fixed(model)["before_0 units"] == (
        "Own 'own' overrides how attention is computed"
    )


def test_adapted_projections_are_a_barrier():
    model = around(heads(), *TWO)
    model.get_layer("mha").query_dense.enable_lora(2)
    assert "LoRA" in why_fixed(model)["before_0 units"]


def test_queries_that_share_keys_go_with_them():
    model = around(shared_heads(), *TWO)
    assert groups(model) == {
        "before_0 units": 8,  # Keras wants queries and values of one size.
        "gqa heads": 3,
        "gqa head dimensions": 6,
    }
    masks = mask_of(model, "gqa heads", 1)
    assert {index[1] for index in masks["gqa/query/kernel"]} == {2, 3}
    assert {index[1] for index in masks["gqa/key/kernel"]} == {1}
    assert {index[0] for index in masks["gqa/attention_output/kernel"]} == {2, 3}


@pytest.mark.parametrize(
    "kwargs", [{}, {"use_bias": False}, {"use_gate": True}, {"sliding_window": 2}]
)
def test_grouped_query_attention_agrees(kwargs):
    small = proven(around(shared_heads(**kwargs), *TWO)).get_layer("gqa")
    assert small.num_query_heads == 2 * small.num_key_value_heads
    assert small.head_dim == 3


def test_causal_self_attention_agrees():
    def attend(x):
        return L.Add()([x, shared_heads()(x, x, use_causal_mask=True)])

    proven(around(attend, (5, 6)))


@pytest.mark.parametrize("layer", [L.Attention, L.AdditiveAttention])
@pytest.mark.parametrize("use_scale", [False, True])
def test_plain_attention_ties_queries_with_keys(layer, use_scale):
    def attend(x, y):
        value = L.Dense(6, name="value")(y)
        return layer(use_scale=use_scale)([x, value, y])

    model = around(attend, *TWO)
    assert sorted(groups(model).values()) == [6, 8]
    proven(model)
    proven(around(lambda x, y: layer(use_scale=use_scale)([x, y]), *TWO))


def test_queries_of_fixed_size_fix_the_keys():
    query, value = L.Input((5, 4)), L.Input((5, 6))
    x = L.Attention(name="attention")([query, L.Dense(4, name="key")(value)])
    assert why_fixed(keras.Model([query, value], L.Dense(2, name="after")(x))) == {
        "key units": "Attention 'attention' compares it with a tensor of fixed size"
    }


def test_scores_sum_over_features_that_must_be_zero():
    def attend(x, y):
        return L.Attention(name="attention")([L.Activation("sigmoid", name="s")(x), y])

    assert why_fixed(around(attend, *TWO))["before_0 units"] == (
        "Activation 's': sigmoid(0) is 0.5, and Attention 'attention' sums it with "
        "that of other features"
    )


def test_a_scale_can_ignore_features_that_are_not_zero():
    def attend(x, y):
        return L.AdditiveAttention()([L.Activation("sigmoid")(x), y])

    proven(around(attend, *TWO))


def test_scores_by_concatenation_agree():
    def attend(x, y):
        return L.Attention(score_mode="concat")([x, y], return_attention_scores=True)

    proven(around(attend, *TWO))


def test_dead_dimensions_of_queries_are_zero_and_not_merely_unread():
    model = around(heads(), *TWO)
    coupling = analyse(model)
    group = next(g for g in coupling.groups if "query/key" in g.name)
    assert not coupling.zero_units()[group.units].any()
    for dense in (model.get_layer("mha").query_dense, model.get_layer("mha").key_dense):
        for variable in (dense.kernel, dense.bias):
            array = variable.numpy()
            array[..., 1] = 0
            variable.assign(array)
    np.testing.assert_array_equal(
        coupling.zero_units()[group.units], [False, True, *[False] * 4]
    )


def test_heads_go_before_the_dimensions_inside_of_them():
    plan = kprune.plan_shrink(around(heads(), *TWO), 0.5)
    reasons = {item.name: item.reason for item in plan.refusals}
    assert "whole heads go before" in reasons["mha query/key dimensions"]
    assert "mha heads" in [group.name for group in plan.groups]
