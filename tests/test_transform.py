import keras
import numpy as np
import pytest
from models import GRAPHS, KINDS, Subclassed, compiled, nested, sequential, shared

import kprune
from kprune.layers import mask_constraints, mask_of
from kprune.transform import is_pruned


def snapshot(model):
    return [v.numpy().copy() for v in model.variables]


def assert_same(model, before):
    after = snapshot(model)
    assert len(after) == len(before)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def all_layers(model):
    return model._flatten_layers(include_self=False, recursive=True)


# --- prune ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GRAPHS)
def test_wrapping_changes_neither_outputs_nor_the_model(kind, data):
    model = GRAPHS[kind]()
    before = snapshot(model)
    pruned = kprune.prune(model, sparsity=0.8)
    np.testing.assert_array_equal(
        model.predict(data[0], verbose=0), pruned.predict(data[0], verbose=0)
    )
    compiled(pruned).fit(
        *data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback()]
    )
    assert_same(model, before)
    assert not is_pruned(model)
    assert not {id(v) for v in model.variables} & {id(v) for v in pruned.variables}
    assert not set(map(id, all_layers(model))) & set(map(id, all_layers(pruned)))


def test_adapted_normalization_is_copied_with_what_it_derived():
    x = np.random.default_rng(0).normal(2, 3, (20, 4)).astype("float32")
    adapted = keras.layers.Normalization()
    adapted.adapt(x)
    model = keras.Sequential([keras.Input((4,)), adapted, keras.layers.Dense(3)])
    pruned = kprune.prune(model, schedule=kprune.ConstantSparsity(0.5, 10))
    np.testing.assert_array_equal(pruned(x), model(x))
    np.testing.assert_array_equal(kprune.strip(pruned)(x), model(x))


@pytest.mark.parametrize("kind", GRAPHS)
def test_stripped_equals_wrapped_bit_for_bit(kind, data):
    model = GRAPHS[kind]()
    pruned = compiled(kprune.prune(model, sparsity=0.8))
    pruned.fit(*data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback()])
    before = snapshot(pruned)
    plain = kprune.strip(pruned)
    np.testing.assert_array_equal(
        plain.predict(data[0], verbose=0), pruned.predict(data[0], verbose=0)
    )
    assert_same(pruned, before)
    assert [layer.name for layer in plain.layers] == [
        layer.name for layer in model.layers
    ]
    assert [type(layer) for layer in plain.layers] == [
        type(layer) for layer in model.layers
    ]
    assert [w.path for w in plain.weights] == [w.path for w in model.weights]
    assert not is_pruned(plain) and is_pruned(pruned)
    plain.evaluate(*data, verbose=0)  # compiled as the pruned model was


def test_masks_are_named_non_trainable_weights():
    pruned = kprune.prune(sequential(), sparsity=0.8)
    names = [w.name for w in pruned.non_trainable_weights if w.dtype == "bool"]
    assert names == ["kernel_mask"] * 3
    assert [w.path for w in pruned.trainable_weights] == [
        w.path for w in pruned.weights if w.trainable
    ]


def test_a_shared_layer_is_wrapped_once():
    pruned = kprune.prune(shared(), sparsity=0.8)
    towers = [layer for layer in pruned.layers if isinstance(layer, kprune.Pruned)]
    assert len(towers) == 2  # the tower and the head


def test_nested_models_are_wrapped_inside():
    pruned = kprune.prune(nested(), sparsity=0.8)
    backbone = pruned.get_layer("backbone")
    assert isinstance(backbone.layers[0], kprune.Pruned)
    assert not isinstance(backbone, kprune.Pruned)


@pytest.mark.parametrize("kind", GRAPHS)
def test_saved_and_loaded_without_custom_objects(kind, data, tmp_path):
    pruned = compiled(kprune.prune(GRAPHS[kind](), sparsity=0.8))
    pruned.fit(*data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback()])
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    assert_same(loaded, snapshot(pruned))
    assert len(mask_constraints(loaded)) == len(mask_constraints(pruned))
    zero = {path: ~c.mask.numpy() for path, c in mask_constraints(loaded).items()}
    loaded.fit(*data, epochs=1, verbose=0)
    for weight in loaded.weights:
        if weight.path in zero:
            assert (weight.numpy()[zero[weight.path]] == 0).all()


def test_the_schedule_survives_saving(tmp_path):
    schedule = kprune.PolynomialDecay(0.1, 0.8, kprune.Epochs(1), 2000)
    pruned = kprune.prune(sequential(), schedule=schedule, allocation="uniform")
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    rules = [layer.rule for layer in loaded.layers if isinstance(layer, kprune.Pruned)]
    assert rules == [kprune.Rule(schedule, allocation="uniform")] * 3


def test_clone_model_keeps_wrappers():
    pruned = kprune.prune(sequential(), sparsity=0.8)
    clone = keras.models.clone_model(pruned)
    assert [type(layer) for layer in clone.layers] == [
        type(layer) for layer in pruned.layers
    ]
    assert len(mask_constraints(clone)) == len(mask_constraints(pruned)) == 3


def test_only_and_skip():
    pruned = kprune.prune(sequential(), sparsity=0.8, only="dense*", skip="dense_1")
    wrapped = [
        layer.name for layer in pruned.layers if isinstance(layer, kprune.Pruned)
    ]
    assert wrapped == ["dense"]


LAYERS = {
    "dense": (lambda: keras.layers.Dense(4), (5,), 1),
    "conv1d": (lambda: keras.layers.Conv1D(4, 2), (5, 3), 1),
    "conv3d_transpose": (lambda: keras.layers.Conv3DTranspose(2, 2), (3, 3, 3, 2), 1),
    "separable": (lambda: keras.layers.SeparableConv2D(4, 2), (5, 5, 3), 1),
    "lstm": (lambda: keras.layers.LSTM(4), (5, 3), 2),
    "gru": (lambda: keras.layers.GRU(4, return_sequences=True), (5, 3), 2),
    "bidirectional": (
        lambda: keras.layers.Bidirectional(keras.layers.LSTM(4)),
        (5, 3),
        4,
    ),
    "time_distributed": (
        lambda: keras.layers.TimeDistributed(keras.layers.Dense(4)),
        (5, 3),
        1,
    ),
    "conv_lstm": (lambda: keras.layers.ConvLSTM1D(2, 2), (3, 5, 2), 2),
    "einsum": (lambda: keras.layers.EinsumDense("abc,cd->abd", (5, 4)), (5, 3), 1),
}


@pytest.mark.parametrize("built", [False, True], ids=["unbuilt", "built"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_single_layer(name, built):
    make, shape, num_masks = LAYERS[name]
    layer = make()
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    if built:
        layer(x)
    pruned = kprune.prune(layer, sparsity=0.5)
    assert isinstance(pruned, kprune.Pruned) and pruned.name == layer.name
    y = pruned(x)
    if built:
        np.testing.assert_array_equal(y, layer(x))
    assert len(mask_constraints(pruned)) == num_masks
    stripped = kprune.strip(pruned)
    assert type(stripped) is type(layer)
    np.testing.assert_array_equal(stripped(x), y)
    inputs = keras.layers.Input(shape)
    model = keras.Model(inputs, kprune.prune(make(), sparsity=0.5)(inputs))
    assert len(mask_constraints(model)) == num_masks


def test_attention_with_several_inputs(tmp_path):
    inputs = keras.layers.Input((6, 8))
    layer = kprune.prune(keras.layers.MultiHeadAttention(2, 4), sparsity=0.5)
    x = layer(inputs, inputs)
    model = keras.Model(inputs, keras.layers.Dense(3)(x[:, 0]))
    assert sorted(w.name for w in layer.weights if w.dtype == "bool") == [
        "attention_output_kernel_mask",
        "key_kernel_mask",
        "query_kernel_mask",
        "value_kernel_mask",
    ]
    x = np.random.default_rng(0).normal(size=(32, 6, 8)).astype("float32")
    y = np.zeros(32, int)
    compiled(model).fit(x, y, epochs=4, verbose=0, callbacks=[kprune.PruningCallback()])
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    plain = kprune.strip(loaded)
    np.testing.assert_array_equal(
        plain.predict(x, verbose=0), model.predict(x, verbose=0)
    )
    rewrapped = kprune.prune(plain, sparsity=0.5)
    assert len(mask_constraints(rewrapped)) == 5  # and the head


def test_time_masks_pass_through_a_wrapper():
    inputs = keras.layers.Input((6,), dtype="int32")
    embedding = keras.layers.Embedding(10, 4, mask_zero=True)
    x = embedding(inputs)
    plain = keras.Model(inputs, keras.layers.LSTM(3)(x))
    x = np.array([[1, 2, 3, 0, 0, 0]], "int32")
    pruned = kprune.prune(plain, sparsity=0.5)
    np.testing.assert_array_equal(
        pruned.predict(x, verbose=0), plain.predict(x, verbose=0)
    )


def test_activity_regularisation_is_not_lost():
    # tfmot's wrapper calls the layer past `__call__`, and loses it.
    layer = keras.layers.Dense(4, activity_regularizer="l2")
    model = keras.Sequential([keras.layers.Input((3,)), layer])
    pruned = kprune.prune(model, sparsity=0.5)
    x = np.ones((2, 3), "float32")
    model(x), pruned(x)
    assert float(pruned.losses[0]) == float(model.losses[0]) > 0


def test_embedding_and_depthwise_on_demand():
    model = keras.Sequential(
        [keras.layers.Input((6, 6, 2)), keras.layers.DepthwiseConv2D(3)]
    )
    with pytest.raises(ValueError, match="prune_depthwise=True"):
        kprune.prune(model, sparsity=0.5)
    pruned = kprune.prune(model, sparsity=0.5, prune_depthwise=True)
    assert len(mask_constraints(pruned)) == 1


def test_composite_layers_with_numbered_names_and_a_choice_of_weights(data):
    @keras.saving.register_keras_serializable("tests")
    class Block(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.first = keras.layers.Dense(4)
            self.second = keras.layers.Dense(4, name="second")

        def call(self, x):
            return self.second(self.first(x))

    layers = [keras.layers.Input((8, 8, 1)), Block(), keras.layers.Flatten()]
    model = keras.Sequential([*layers, keras.layers.Dense(3)])
    x = data[0]
    for only, count in ((None, 3), ("second", 1)):
        pruned = kprune.prune(model, 0.5, only=only)
        assert len(mask_constraints(pruned)) == count
        np.testing.assert_array_equal(
            pruned.predict(x, verbose=0), model.predict(x, verbose=0)
        )
    assert pruned.layers[0].pruned_weights == ("second/kernel",)


def test_inputs_keep_their_names_and_structure():
    inputs = {name: keras.Input((4,), name=name) for name in ("left", "right")}
    x = keras.layers.Dense(3)(inputs["left"]) + keras.layers.Dense(3)(inputs["right"])
    model = keras.Model(inputs, {"sum": x, "double": 2 * x}, name="pair")
    pruned = kprune.prune(model, 0.5)
    plain = kprune.strip(pruned)
    feed = {
        "left": np.ones((2, 4), "float32"),
        "right": np.eye(4)[:2].astype("float32"),
    }
    for copy in (pruned, plain):
        assert [layer.name for layer in copy.layers] == [
            layer.name for layer in model.layers
        ]
        assert copy.name == "pair"
        expected, actual = model(feed), copy(feed)
        assert expected.keys() == actual.keys()
        for key in expected:
            np.testing.assert_array_equal(expected[key], actual[key])


@pytest.mark.parametrize(
    ("make", "arguments", "error", "match"),
    [
        (Subclassed, dict(sparsity=0.5), ValueError, "PruningCallback"),
        (lambda: keras.Sequential([keras.layers.Dense(3)]), dict(sparsity=0.5),
         ValueError, "no weights yet"),
        (sequential, dict(sparsity=1.5), ValueError, r"\[0, 1\)"),
        (sequential, dict(), ValueError, "either `sparsity`"),
        (sequential, dict(sparsity=0.5, only="x"), ValueError, "matches nothing"),
        (sequential, dict(sparsity=0.5, block=3), TypeError, "'block'"),
        (lambda: "model", dict(sparsity=0.5), TypeError, "expected a Keras 3 model"),
        (lambda: kprune.prune(sequential(), 0.5), dict(sparsity=0.5), ValueError,
         "already"),
        (lambda: kprune.prune(keras.layers.Dense(3), 0.5), dict(sparsity=0.5),
         ValueError, "already"),
    ],
)  # fmt: skip
def test_prune_refuses(make, arguments, error, match):
    model = make()
    with pytest.raises(error, match=match):
        kprune.prune(model, **arguments)


def test_an_activation_alone_has_nothing_to_prune():
    with pytest.raises(ValueError, match="matches nothing|no weights"):
        kprune.prune(keras.layers.ReLU(), 0.5)(np.ones((1, 3), "float32"))


# --- strip, release, hold_zeros -------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_strip_of_a_model_pruned_in_place(kind, data):
    model = compiled(KINDS[kind]())
    model.fit(*data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback(0.8)])
    before = snapshot(model)
    plain = kprune.strip(model)
    assert_same(model, before)
    assert is_pruned(model) and not is_pruned(plain)
    np.testing.assert_array_equal(
        plain.predict(data[0], verbose=0), model.predict(data[0], verbose=0)
    )
    assert [w.name for w in plain.weights] == [w.name for w in model.weights]


def test_zeros_may_regrow_after_strip(data):
    model = compiled(sequential())
    model.fit(*data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback(0.8)])
    plain = kprune.strip(model)
    plain.fit(*data, epochs=1, verbose=0)
    assert np.count_nonzero(plain.layers[3].kernel) > np.count_nonzero(
        model.layers[3].kernel
    )


def test_strip_of_an_unpruned_model_is_a_copy(data):
    model = sequential()
    plain = kprune.strip(model)
    assert plain is not model
    np.testing.assert_array_equal(
        plain.predict(data[0], verbose=0), model.predict(data[0], verbose=0)
    )


def test_a_subclassed_model_without_configuration_is_released_instead(data):
    class Anonymous(keras.Model):
        def __init__(self, layer):
            super().__init__()
            self.flatten = keras.layers.Flatten()
            self.head = layer
            self.function = lambda x: x

        def call(self, x):
            return self.head(self.flatten(x))

    model = compiled(Anonymous(keras.layers.Dense(3)))
    model.fit(*data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback(0.8)])
    with pytest.raises(ValueError, match="kprune.release"):
        kprune.strip(model)
    kprune.release(model)
    assert not is_pruned(model)
    model.fit(*data, epochs=1, verbose=0)
    assert np.count_nonzero(model.head.kernel) > 0.3 * 64 * 3


def test_release_gives_the_users_constraint_back(data):
    model = keras.Sequential(
        [
            keras.layers.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(3, kernel_constraint="non_neg"),
        ]
    )
    constraint = model.layers[1].kernel.constraint
    compiled(model).fit(
        *data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback(0.3)]
    )
    assert mask_of(model.layers[1].kernel).inner is constraint
    kprune.release(model)
    assert model.layers[1].kernel.constraint is constraint


def test_hold_zeros_of_a_loaded_model(data, tmp_path):
    model = compiled(sequential())
    model.fit(*data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback(0.8)])
    model.save(tmp_path / "plain.keras")
    loaded = keras.models.load_model(tmp_path / "plain.keras")
    assert not is_pruned(loaded)
    loaded.fit(*data, epochs=1, verbose=0)  # also traced without masks before
    loaded = keras.models.load_model(tmp_path / "plain.keras")
    report = kprune.hold_zeros(loaded)
    assert report.sparsity == pytest.approx(0.8, abs=1e-3)
    loaded.fit(*data, epochs=2, verbose=0)
    for a, b in zip(model.trainable_weights, loaded.trainable_weights, strict=True):
        if a.path.endswith("kernel"):
            np.testing.assert_array_equal(a.numpy() == 0, b.numpy() == 0)


def test_hold_zeros_works_after_a_fit_that_was_traced_without(data):
    model = compiled(sequential())
    model.fit(*data, verbose=0)
    kernel = model.layers[3].kernel
    kernel.assign(np.where(np.abs(kernel.numpy()) < 0.1, 0, kernel.numpy()))
    zero = kernel.numpy() == 0
    kprune.hold_zeros(model)
    model.fit(*data, verbose=0)
    np.testing.assert_array_equal(kernel.numpy() == 0, zero)


def test_hold_zeros_leaves_zero_initialised_kernels_alone(data):
    model = keras.Sequential(
        [
            keras.layers.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(4),
            keras.layers.Dense(3, kernel_initializer="zeros"),
        ]
    )
    kernel = model.layers[1].kernel
    kernel.assign(np.where(np.random.random(kernel.shape) < 0.5, 0, kernel.numpy()))
    report = kprune.hold_zeros(model)
    assert [w.path for w in report.weights] == [kernel.path]
    assert "zero altogether" in str(report)


def test_refusals_of_hold_zeros_and_release():
    model = sequential()
    with pytest.raises(ValueError, match="has zeros to hold"):
        kprune.hold_zeros(model)
    with pytest.raises(ValueError, match="held by a mask"):
        kprune.release(model)
    with pytest.raises(ValueError, match=r"kprune\.strip"):
        kprune.release(kprune.prune(model, 0.5))
    with pytest.raises(TypeError, match="Keras"):
        kprune.hold_zeros("model.keras")
    with pytest.raises(TypeError, match="Keras"):
        kprune.release(None)
    with pytest.raises(TypeError, match="Keras"):
        kprune.strip(3)


def test_strip_tells_of_weights_that_were_written_over(data):
    model = compiled(sequential())
    dense = model.get_weights()
    model.fit(*data, epochs=2, verbose=0, callbacks=[kprune.PruningCallback(0.8)])
    model.set_weights(dense)
    with pytest.warns(UserWarning, match="are not zero"):
        kprune.strip(model)
