"""Residual blocks: which ones there are, which go, and what is left of the model."""

import keras
import numpy as np
import pytest
from models import compiled

import kprune
from kprune.coupling.graph import analyse
from kprune.structure import blocks, depth

L = keras.layers
A = keras.applications


def alive(model, seed=0):
    """Gives all weights values that no initialiser gives, statistics included."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if keras.backend.is_float_dtype(variable.dtype):
            drawn = rng.normal(0.1, 0.3, variable.shape)
            if "variance" in variable.path:
                drawn = np.abs(drawn) + 0.5
            elif variable.path.endswith(("kernel", "pointwise_kernel")):
                drawn /= np.sqrt(np.prod(variable.shape[:-1]))
            elif "gamma" in variable.path:
                drawn += 1
            variable.assign(drawn)
    return model


def residual():
    """Two identity blocks and, between them, one with a projection."""
    x = inputs = L.Input((8, 8, 3))
    for name, filters, strides in (("a", 4, 1), ("b", 6, 2), ("c", 6, 1)):
        if name == "a":
            x = L.Conv2D(4, 1, name="stem")(x)
        y = L.Conv2D(8, 3, strides=strides, padding="same", name=f"{name}_in")(x)
        y = L.ReLU()(L.BatchNormalization(name=f"{name}_norm")(y))
        y = L.Conv2D(filters, 3, padding="same", name=f"{name}_out")(y)
        y = L.BatchNormalization(name=f"{name}_last")(y)
        y = L.Dropout(0.1)(y)
        if name == "b":
            x = L.Conv2D(filters, 1, strides=strides, name="projection")(x)
        x = L.ReLU()(L.Add(name=name)([x, y]))
    x = L.GlobalAveragePooling2D()(x)
    return alive(keras.Model(inputs, L.Dense(3, name="head")(x), name="residual"))


def transformer(depth=2, width=8):
    """Pre-LN attention and MLP blocks; every second one is added by an operator."""
    x = inputs = L.Input((6, width))
    for i in range(depth):
        y = L.LayerNormalization()(x)
        y = L.MultiHeadAttention(2, 4, name=f"attention_{i}")(y, y)
        x = L.Add(name=f"attended_{i}")([y, x])
        y = L.Dense(12, activation="gelu", name=f"up_{i}")(L.LayerNormalization()(x))
        x = x + L.Dense(width, name=f"down_{i}")(y)
    return alive(keras.Model(inputs, L.LayerNormalization()(x), name="transformer"))


def towers():
    """Two chains of two blocks, side by side."""
    inputs = L.Input((6,))
    ends = []
    for side in ("left", "right"):
        x = inputs
        for i in range(2):
            y = L.Dense(5, activation="relu", name=f"{side}_{i}_down")(x)
            y = L.Dense(6, name=f"{side}_{i}_up")(y)
            x = L.Add(name=f"{side}_{i}")([x, y])
        ends.append(x)
    return alive(keras.Model(inputs, L.Dense(3)(L.Concatenate()(ends)), name="towers"))


def values(model):
    return [variable.numpy() for variable in model.variables]


def batch(model, count=4):
    rng = np.random.default_rng(1)
    shape = [size or 8 for size in model.input_shape[1:]]
    return rng.normal(size=(count, *shape)).astype("float32")


def names(model):
    return [operation.name for operation in model.operations]


def check(model, small, relative=1e-4):
    report = small.shrink_report
    assert report.equality.finite and report.equality.relative < relative
    assert report.plan.parameters_after == small.count_params()
    left = analyse(small)
    assert report.plan.macs_after == left.macs(left.nothing())
    assert report.plan.parameters == model.count_params()


def ending(make_branch, shape=(6,), join=None):
    """A model with one block whose branch is what a function makes of the shortcut."""
    inputs = L.Input(shape)
    x = L.Dense(shape[-1], name="before")(inputs)
    y = make_branch(x)
    x = (join or L.Add(name="join"))([x, y])
    return alive(keras.Model(inputs, L.Dense(2, name="after")(x), name="one"))


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_removed_block_leaves_what_a_branch_of_zeros_does(name):
    model = residual()
    before = values(model)
    small = kprune.shrink(model, blocks=[name])
    check(model, small)
    for old, new in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(old, new)
    # By hand, and only at the very end of the branch.
    for variable in model.get_layer(f"{name}_last").trainable_variables:
        variable.assign(np.zeros(variable.shape))
    x = batch(model)
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-6)
    gone = {f"{name}_in", f"{name}_norm", f"{name}_out", f"{name}_last", name}
    assert set(names(model)) - set(names(small)) >= gone
    assert small.shrink_report.plan.blocks == (name,)


def test_the_projection_stays():
    small = kprune.shrink(residual(), blocks=["b"])
    assert "projection" in names(small) and "b_out" not in names(small)


def test_all_blocks_may_go_and_what_is_left_is_still_named_alike():
    model = residual()
    small = kprune.shrink(model, blocks=3)
    check(model, small)
    assert [layer.name for layer in small.layers if layer.weights] == [
        "stem",
        "projection",
        "head",
    ]
    assert small.shrink_report.plan.blocks == ("a", "b", "c")


def test_nothing_goes_if_no_block_is_asked_for():
    model = residual()
    for nothing in (0, []):
        small = kprune.shrink(model, blocks=nothing)
        assert small.count_params() == model.count_params()


def test_blocks_and_channels_go_together():
    model = residual()
    small = kprune.shrink(model, sparsity=0.5, blocks=["a", "c"])
    check(model, small)
    assert small.get_layer("b_in").filters == 4
    widths = {
        row.layer: (row.before, row.after) for row in small.shrink_report.plan.widths
    }
    assert widths["b_in"] == (8, 4) and widths["a_in"] == (8, 0)


def test_a_plan_with_blocks_does_the_same_after_a_round_trip_through_json():
    model = residual()
    plan = kprune.plan_shrink(model, sparsity=0.5, blocks=1)
    again = kprune.ShrinkPlan.from_json(plan.to_json())
    assert again == plan and len(plan.blocks) == 1
    small = kprune.shrink(model, plan=again)
    check(model, small)
    assert small.shrink_report.plan.blocks == plan.blocks
    assert f"blocks removed: {plan.blocks[0]}" in str(small.shrink_report)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_attention_and_mlp_blocks_of_transformers_go(count):
    model = transformer()
    small = kprune.shrink(model, blocks=count)
    check(model, small)
    assert len(small.shrink_report.plan.blocks) == count


def test_an_attention_block_goes_by_name():
    model = transformer()
    small = kprune.shrink(model, blocks=["attended_1"], sparsity=0.5)
    check(model, small)
    assert "attention_1" not in names(small) and "attention_0" in names(small)


@pytest.mark.parametrize("optimizer", ["adam", "adafactor", "rmsprop"])
def test_the_optimizer_goes_on_for_the_weights_that_are_left(optimizer):
    model = compiled(residual(), optimizer, run_eagerly=True)
    rng = np.random.default_rng(0)
    model.fit(batch(model, 8), rng.integers(0, 3, 8), verbose=0)
    small = kprune.shrink(model, blocks=["b"])
    assert small.shrink_report.optimizer.startswith("Compiled; the optimizer goes on")
    check_state(model, small)
    small.fit(batch(model, 8), rng.integers(0, 3, 8), verbose=0)


def test_the_optimizer_goes_on_where_removal_changes_the_order_of_layers():
    model = compiled(towers(), run_eagerly=True)
    rng = np.random.default_rng(0)
    model.fit(batch(model, 8), rng.integers(0, 3, 8), verbose=0)
    small = kprune.shrink(model, blocks=["left_1"])
    left = {variable.path for variable in small.trainable_variables}
    order = [v.path for v in model.trainable_variables if v.path in left]
    assert order != [v.path for v in small.trainable_variables]
    assert small.shrink_report.optimizer.startswith("Compiled; the optimizer goes on")
    check_state(model, small)


def check_state(model, small):
    def slots(optimizer):
        return {v.path.split("/", 1)[-1]: v for v in optimizer.variables}

    old, new = slots(model.optimizer), slots(small.optimizer)
    assert new.keys() < old.keys()
    for path, variable in new.items():
        np.testing.assert_array_equal(variable, old[path], err_msg=path)


def test_the_blocks_that_change_their_input_least_go_first():
    model = towers()
    for name, scale in (
        ("left_0", 1),
        ("left_1", 1e-3),
        ("right_0", 1e-2),
        ("right_1", 1),
    ):
        for variable in model.get_layer(f"{name}_up").weights:
            variable.assign(variable * scale)
    assert kprune.plan_shrink(model, blocks=1).blocks == ("left_1",)
    assert kprune.plan_shrink(model, blocks=2).blocks == ("right_0", "left_1")


def test_influence_is_one_minus_the_mean_cosine_of_shortcut_and_output():
    model = residual()
    there = blocks.find(model)
    assert [block.name for block in there] == ["a", "b", "c"]
    data = batch(model, 7)
    probe = keras.Model(
        model.input,
        [
            x
            for block in there
            for x in (block.operation.input[0], block.operation.output)
        ],
    )
    ends = [np.asarray(x, np.float64) for x in probe(data)]
    expected = []
    for shortcut, output in zip(ends[::2], ends[1::2], strict=True):
        lengths = np.linalg.norm(shortcut, axis=-1) * np.linalg.norm(output, axis=-1)
        ok = lengths > 0
        cosines = np.where(
            ok, (shortcut * output).sum(-1) / np.where(ok, lengths, 1), 0
        )
        same = np.linalg.norm(shortcut, axis=-1) == np.linalg.norm(output, axis=-1)
        cosines = np.where(~ok & same, 1, cosines)
        expected.append(1 - cosines.mean())
    np.testing.assert_allclose(
        depth.influences(model, there, data), expected, atol=1e-6
    )


def test_which_blocks_go_depends_on_the_data():
    inputs = L.Input((2,))
    x = inputs
    for name, kernel in (("first", [[0, 9], [0, 0]]), ("second", [[0, 0], [9, 0]])):
        y = L.Dense(2, use_bias=False, name=f"{name}_dense")
        x = L.Add(name=name)([x, y(x)])
        y.kernel.assign(kernel)
    model = keras.Model(inputs, x)
    left, right = np.eye(2, dtype="float32") + np.float32(1e-6)
    assert kprune.plan_shrink(model, blocks=1, data=right[None]).blocks == ("first",)
    # The first block turns this around, so that the second one is at work.
    assert depth.influences(model, blocks.find(model), left[None])[0] > 0.5


def test_nan_activations_are_refused():
    model = residual()
    model.get_layer("stem").bias.assign([np.nan] * 4)
    with pytest.raises(ValueError, match="activations are NaN"):
        kprune.shrink(model, blocks=1)


def test_blocks_of_nested_models_go_by_their_models_and_their_own_name():
    body = L.Input((6,))
    x = L.Add(name="inside")([body, L.Dense(6, name="in_dense")(body)])
    body = keras.Model(body, x, name="body")
    inputs = L.Input((6,))
    x = body(L.Dense(6, name="between")(body(inputs)))  # Twice: both lose it.
    x = L.Add(name="outside")([x, L.Dense(6, name="out_dense")(x)])
    model = alive(keras.Model(inputs, L.Dense(2)(x)))
    assert [block.name for block in blocks.find(model)] == ["outside", "body/inside"]
    small = kprune.shrink(model, blocks=["body/inside"])
    check(model, small)
    assert "inside" not in names(small.get_layer("body")) and "outside" in names(small)
    check(model, kprune.shrink(model, blocks=2))


def test_blocks_of_a_model_in_a_sequential_one_go():
    body = L.Input((6,))
    body = keras.Model(
        body, L.Add(name="inside")([body, L.Dense(6)(body)]), name="body"
    )
    model = alive(keras.Sequential([L.Input((6,)), L.Dense(6), body, L.Dense(2)]))
    small = kprune.shrink(model, blocks=1)
    check(model, small)
    assert small.shrink_report.plan.blocks == ("body/inside",)


def test_a_block_that_holds_others_goes_by_name_only():
    inputs = L.Input((6,))
    y = L.Dense(6)(inputs)
    y = L.Add(name="inner")([y, L.Dense(6)(y)])
    model = alive(keras.Model(inputs, L.Add(name="outer")([inputs, y])))
    assert kprune.plan_shrink(model, blocks=1).blocks == ("inner",)
    with pytest.raises(ValueError, match="has 1 residual blocks"):
        kprune.plan_shrink(model, blocks=2)
    small = kprune.shrink(model, blocks=["outer"])
    np.testing.assert_array_equal(small(batch(model)), batch(model))
    check(model, kprune.shrink(model, blocks=["inner", "outer"]))


BRANCHES = {
    "a dense layer": L.Dense(6),
    "relu and dropout after it": lambda x: L.Dropout(0.5)(L.ReLU()(L.Dense(6)(x))),
    "an activation in it": L.Dense(6, activation="tanh"),
    "normalised without gamma": lambda x: L.BatchNormalization(scale=False)(
        L.Dense(6)(x)
    ),
    "a learned slope after it": lambda x: L.PReLU()(L.Dense(6)(x)),
    "a gate after it": lambda x: L.Multiply()(
        [L.Dense(6, activation="sigmoid")(x), L.Dense(6)(x)]
    ),
    "two layers side by side": lambda x: L.Concatenate()(
        [L.Dense(2)(x), L.Dense(4)(x)]
    ),
    "a model": keras.Sequential([L.Input((6,)), L.Dense(9, "relu"), L.Dense(6)]),
    "an operation": lambda x: keras.ops.silu(L.Dense(6)(x)) * 0.5,
}


@pytest.mark.parametrize("kind", BRANCHES)
def test_branches_may_end_in(kind):
    model = ending(BRANCHES[kind])
    small = kprune.shrink(model, blocks=["join"])
    check(model, small)
    assert [layer.name for layer in small.layers[1:]] == ["before", "after"]


def test_a_branch_may_be_subtracted():
    model = ending(L.Dense(6), join=L.Subtract(name="minus"))
    check(model, kprune.shrink(model, blocks=["minus"]))


@keras.saving.register_keras_serializable("tests")
class Scaled(L.Layer):
    def call(self, inputs):
        return inputs[0] + inputs[1] * 0.2


def test_a_branch_may_be_scaled_but_not_its_shortcut():
    model = ending(L.Dense(6), join=Scaled(name="scaled"))
    check(model, kprune.shrink(model, blocks=["scaled"]))
    model = ending(L.Dense(6), join=lambda both: Scaled(name="scaled")(both[::-1]))
    with pytest.raises(ValueError, match="not the shortcut as it is"):
        kprune.shrink(model, blocks=["scaled"])


def test_wrapped_layers_are_seen_through():
    model = residual()
    wrapped = kprune.prune(model, 0.5)
    small = kprune.shrink(wrapped, blocks=["c"])
    assert small.shrink_report.equality.relative < 1e-4
    assert "c_out" not in " ".join(names(small))


def test_other_models_that_join_the_branch_from_the_side_stay_if_they_are_needed():
    text, image = L.Input((4, 6), name="text"), L.Input((5, 3), name="image")
    memory = L.Dense(6, name="encoder")(image)
    x = text
    for i in range(2):
        y = L.MultiHeadAttention(2, 3, name=f"cross_{i}")(x, memory)
        x = L.Add(name=f"block_{i}")([x, y])
    model = alive(keras.Model([text, image], L.Dense(2)(x)))
    small = kprune.shrink(model, blocks=["block_0"])
    check(model, small)
    assert "encoder" in names(small)
    small = kprune.shrink(model, blocks=2)
    check(model, small)
    assert "encoder" not in names(small) and len(small.inputs) == 2


def branches_used_elsewhere():
    inputs = L.Input((6,))
    y = L.Dense(6, name="inner")(inputs)
    x = L.Add(name="join")([inputs, L.Dense(6)(y)])
    return keras.Model(inputs, [x, L.Dense(2)(y)])


def branch_shared():
    inputs = L.Input((6,))
    dense = L.Dense(6, name="twice")
    x = L.Add(name="join")([inputs, dense(inputs)])
    return keras.Model(inputs, dense(x))


def add_shared():
    inputs = L.Input((6,))
    add = L.Add(name="join")
    x = add([inputs, L.Dense(6)(inputs)])
    return keras.Model(inputs, add([x, L.Dense(6)(x)]))


def embeddings():
    inputs = L.Input((5,), dtype="int32")
    tokens = L.Embedding(9, 6)(inputs)
    places = L.Embedding(5, 6)(keras.ops.cumsum(keras.ops.ones_like(inputs), axis=1))
    return keras.Model(inputs, L.Add(name="join")([tokens, places]))


def strangers():
    inputs = [L.Input((6,)), L.Input((6,))]
    return keras.Model(inputs, L.Add(name="join")([L.Dense(6)(x) for x in inputs]))


REFUSED = {
    "'inner', inside of it, is used elsewhere": branches_used_elsewhere,
    "'twice/kernel' is used elsewhere": branch_shared,
    "is called several times": add_shared,
    "begin at whole numbers": embeddings,
    "do not come from the same tensor": strangers,
    "as many weights": lambda: ending(
        lambda x: L.Dense(6)(x),
        join=lambda xs: L.Add(name="join")([L.Dense(6)(xs[0]), xs[1]]),
    ),
    "Activation .* of zero is not": lambda: ending(
        lambda x: L.Activation("sigmoid")(L.Dense(6)(x))
    ),
    "cannot be made zero: Softmax": lambda: ending(
        lambda x: L.Softmax()(L.Dense(6)(x))
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_go_is_refused_with_the_reason(reason):
    model = REFUSED[reason]()
    with pytest.raises(
        ValueError, match=rf"(?s)'join'.* cannot be removed: .*{reason}"
    ):
        kprune.shrink(model, blocks=["join"])
    with pytest.raises(ValueError, match=rf"(?s)has 0 residual .*'join': .*{reason}"):
        kprune.shrink(model, blocks=1)


def test_asking_for_too_many_blocks_names_those_there_are():
    with pytest.raises(ValueError, match="is 4, .* has 3 residual .*: 'a', 'b', 'c'"):
        kprune.shrink(residual(), blocks=4)


def test_unknown_names_are_answered_with_those_there_are():
    with pytest.raises(ValueError, match="'stem', .* has 3 residual .*: 'a', 'b', 'c'"):
        kprune.shrink(residual(), blocks=["a", "stem"])


@pytest.mark.parametrize("wrong", ["a", True, 1.5, [1], {"a"}])
def test_blocks_are_a_number_or_names(wrong):
    with pytest.raises(TypeError, match="`blocks` must be"):
        kprune.shrink(residual(), blocks=wrong)


def test_a_negative_number_of_blocks_is_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        kprune.shrink(residual(), blocks=-1)


ZOO = {
    "ResNet50": (16, 64),
    "ResNet50V2": (16, 64),
    "MobileNetV2": (10, 64),
    "EfficientNetB0": (9, 64),
    "ConvNeXtTiny": (18, 64),
    "InceptionResNetV2": (40, 96),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_blocks_of_known_networks_go(name):
    count, size = ZOO[name]
    model = getattr(A, name)(
        weights=None,
        input_shape=(size, size, 3),
        classes=10,
        classifier_activation=None,
    )
    alive(model)
    there = blocks.find(model)
    assert len(there) == count and not any(block.reason for block in there)
    for arguments in ({"blocks": 2}, {"blocks": count}, {"blocks": 2, "sparsity": 0.5}):
        small = kprune.shrink(model, **arguments)
        check(model, small)
        assert len(small.shrink_report.plan.blocks) == arguments["blocks"]
