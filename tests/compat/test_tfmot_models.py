"""tfmot's models and layers in wrappers: its own cases, and its users' complaints."""

import json

import keras
import numpy as np
import pytest
import tfmot_models as case

import kprune
import kprune.compat.tfmot as sparsity
from kprune.layers import values
from kprune.notices import PruningWarning

L = keras.layers


@keras.saving.register_keras_serializable("tests")
class Custom(L.Layer):
    """A layer that nobody knows."""

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], 4), name="matrix")
        self.extra = self.add_weight(shape=(4,), name="extra")

    def call(self, x):
        return keras.ops.matmul(x, self.matrix) + self.extra


@keras.saving.register_keras_serializable("tests")
class Prunable(Custom, sparsity.PrunableLayer):
    """One that says itself what is pruned, a vector among it."""

    def get_prunable_weights(self):
        return [self.matrix, self.extra]


@keras.saving.register_keras_serializable("tests")
class SubDense(L.Dense):
    pass


@keras.saving.register_keras_serializable("tests")
class OneOfTwo(L.Layer):
    """One with inner layers, of which one is pruned."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = L.Dense(4), L.Dense(4)

    def build(self, shape):
        self.first.build(shape)
        self.second.build((None, 4))

    def call(self, x):
        return self.second(self.first(x))

    def get_prunable_weights(self):
        return [self.first.kernel]


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(3)

    def call(self, x):
        return self.dense(x)


@keras.saving.register_keras_serializable("tests")
class Cell(L.SimpleRNNCell):
    """A cell that nobody knows."""


class UnknownCell(L.Layer):
    """One that is not derived from a cell of Keras."""

    state_size = output_size = 3

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], 3), name="matrix")

    def call(self, x, states):
        return keras.ops.matmul(x, self.matrix) + states[0], states


@keras.saving.register_keras_serializable("tests")
class PrunableCell(Cell, sparsity.PrunableLayer):
    """One that says itself what is pruned."""

    def get_prunable_weights(self):
        return [self.recurrent_kernel]


# What is wrapped.


@pytest.mark.parametrize(
    ("layer", "shape", "names"),
    [
        (lambda: L.Dense(4), (6,), ["kernel"]),
        (lambda: SubDense(4), (6,), ["kernel"]),
        (lambda: L.Conv2D(4, 2), (4, 6, 2), ["kernel"]),
        (lambda: L.Embedding(10, 3), (3,), ["embeddings"]),
        (lambda: L.Dropout(0.4), (6,), []),
        (lambda: L.BatchNormalization(), (6,), []),
        (lambda: L.BatchNormalization(synchronized=True), (6,), []),
        (lambda: L.Rescaling(2.0), (6,), []),
        (lambda: L.LSTM(3), (3, 4), ["kernel", "recurrent_kernel"]),
        (lambda: L.GRU(3), (3, 4), ["kernel", "recurrent_kernel"]),
        (lambda: L.SimpleRNN(3), (3, 4), ["kernel", "recurrent_kernel"]),
        (lambda: L.RNN(L.LSTMCell(3)), (3, 4), ["kernel", "recurrent_kernel"]),
        (
            lambda: L.RNN([L.LSTMCell(3), L.GRUCell(3)]),
            (3, 4),
            ["kernel", "recurrent_kernel"] * 2,
        ),
        (lambda: L.RNN(PrunableCell(3)), (3, 4), ["recurrent_kernel"]),
        (
            lambda: L.RNN([L.GRUCell(3), PrunableCell(3)]),
            (3, 4),
            ["kernel", "recurrent_kernel", "recurrent_kernel"],
        ),
        # tfmot refuses these.
        (lambda: L.RNN(Cell(3)), (3, 4), ["kernel", "recurrent_kernel"]),
        (lambda: L.ConvLSTM2D(2, 2), (2, 4, 4, 1), ["kernel", "recurrent_kernel"]),
        (
            lambda: L.Bidirectional(L.LSTM(3)),
            (3, 4),
            ["kernel", "recurrent_kernel"] * 2,
        ),
        (lambda: L.TimeDistributed(L.Dense(3)), (3, 4), ["kernel"]),
        # And these say themselves.
        (lambda: Prunable(), (6,), ["matrix", "extra"]),
        (lambda: OneOfTwo(), (6,), ["kernel"]),
    ],
)
def test_a_layer_is_wrapped_before_or_after_it_is_built(layer, shape, names):
    inputs = L.Input(shape)
    built = layer()
    plain = keras.Model(inputs, built(inputs))
    unbuilt = sparsity.prune_low_magnitude(layer())
    unbuilt(keras.Input(shape))
    for wrapper in (unbuilt, sparsity.prune_low_magnitude(built)):
        found = [path.split("/")[-1] for path in case.masks(wrapper)]
        assert sorted(found) == sorted(names)
        assert wrapper.name == wrapper.layer.name
    if names:
        model = sparsity.prune_low_magnitude(plain)
        found = [path.split("/")[-1] for path in case.masks(model)]
        assert sorted(found) == sorted(names)


def test_arguments_reach_each_wrapper_and_its_configuration():
    arguments = dict(
        pruning_schedule=sparsity.PolynomialDecay(0.1, 0.6, 2, 9, 2, 5),
        block_size=(4, 2),
        block_pooling_type="MAX",
    )
    model = sparsity.prune_low_magnitude(case.simple_dense(), **arguments)
    rules = [layer.rule for layer in case.wrappers(model)]
    assert len(rules) == 2 and rules[0] == rules[1]
    assert rules[0].granularity == kprune.Block((2, 4), "max")
    assert rules[0].schedule == kprune.PolynomialDecay(0.1, 0.6, 2, 9, 2, 5)
    again = keras.Sequential.from_config(model.get_config())
    assert [layer.rule for layer in case.wrappers(again)] == rules


def test_groups_are_in_the_configuration():
    """tfmot forgets them in a file."""
    layer = sparsity.prune_low_magnitude(L.Dense(4), sparsity_m_by_n=(1, 4))
    again = type(layer).from_config(layer.get_config())
    assert again.rule.granularity == kprune.NofM(3, 4, remainder="pad")


def test_an_unknown_layer_stays_dense_and_that_is_said():
    model = keras.Sequential([L.Input((6,)), L.Dense(4), Custom()])
    with pytest.warns(PruningWarning, match="unknown layer class Custom"):
        pruned = sparsity.prune_low_magnitude(model)
    assert len(case.wrappers(pruned)) == 1
    layer = sparsity.prune_low_magnitude(Custom())
    with pytest.warns(PruningWarning, match="unknown layer class Custom"):
        layer(keras.Input((6,)))
    layer = sparsity.prune_low_magnitude(L.RNN(UnknownCell()))
    with pytest.warns(PruningWarning, match="unknown layer class UnknownCell"):
        layer(keras.Input((3, 4)))
    assert case.masks(layer) == {}


@pytest.mark.parametrize("answer", [None, "kernel", ["kernel"], [np.ones(3)]])
def test_weights_that_are_none_are_refused(answer):
    class Wrong(Prunable):
        def get_prunable_weights(self):
            return answer

    layer = sparsity.prune_low_magnitude(Wrong())
    with pytest.raises(TypeError, match="must return a list of the layer's variables"):
        layer(keras.Input((6,)))


def conv_net(wrap):
    return keras.Sequential(
        [
            L.Input((12, 12, 1)),
            *map(
                wrap,
                [
                    L.Conv2D(4, 5, padding="same", activation="relu"),
                    L.MaxPooling2D(2, 2, padding="same"),
                    L.BatchNormalization(),
                    L.Conv2D(8, 5, padding="same", activation="relu"),
                    L.MaxPooling2D(2, 2, padding="same"),
                    L.Flatten(),
                    L.Dense(32, activation="relu"),
                    L.Dropout(0.4),
                    L.Dense(10, activation="softmax"),
                ],
            ),
        ]
    )


def test_a_model_of_wrappers_comes_back_from_its_configuration():
    model = conv_net(sparsity.prune_low_magnitude)
    assert len(case.wrappers(model)) == 9 and len(case.masks(model)) == 4
    written = json.loads(model.to_json())
    again = keras.models.model_from_json(json.dumps(written))
    assert again.built
    assert json.loads(again.to_json()) == written
    assert [w.rule for w in case.wrappers(again)] == [
        w.rule for w in case.wrappers(model)
    ]


def test_every_wrapper_is_found():
    prune = sparsity.prune_low_magnitude
    layers = [
        L.SimpleRNN(3), L.BatchNormalization(), L.Flatten(), L.Dense(2), L.Dropout(0.1),
    ]  # fmt: skip
    model = keras.Sequential([L.Input((3, 4)), *map(prune, layers)])
    found = [wrapper.layer.name for wrapper in case.wrappers(model)]
    assert found == [layer.name for layer in layers]
    assert len(case.masks(model)) == 3


def functional(model):
    x = inputs = L.Input(model.input_shape[1:])
    for layer in model.layers:
        x = layer(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize("how", ["sequential", "functional", "list", "layers"])
def test_a_convolutional_net_is_pruned_whichever_way_it_is_wrapped(how):
    def prune(what):
        return sparsity.prune_low_magnitude(what, case.every_step())

    if how == "layers":
        model = conv_net(prune)
    else:
        dense = conv_net(lambda layer: layer)
        model = {
            "sequential": lambda: prune(dense),
            "functional": lambda: prune(functional(dense)),
            "list": lambda: keras.Sequential(
                [L.Input((12, 12, 1)), *prune(dense.layers)]
            ),
        }[how]()
    case.fit(model)
    assert case.shares(model) == pytest.approx([0.5] * 4, abs=1e-4)
    stripped = sparsity.strip_pruning(model)
    x = case.data_for(model, 3)[0]
    np.testing.assert_array_equal(np.array(model(x)), np.array(stripped(x)))


def test_models_of_every_form():
    simple = case.simple_dense()
    assert len(case.wrappers(sparsity.prune_low_magnitude(simple))) == 2
    unbuilt = keras.Sequential([L.Dense(8), L.Dense(5)])
    pruned = sparsity.prune_low_magnitude(unbuilt, case.every_step())
    assert len(case.wrappers(pruned)) == 2 and not pruned.built
    pruned.compile("sgd", "mse")
    x, y = np.ones((4, 3)), np.ones((4, 5))
    pruning = sparsity.UpdatePruningStep()
    with case.short():
        pruned.fit(x, y, epochs=2, verbose=0, callbacks=[pruning])
    assert case.shares(pruned) == pytest.approx([0.5, 0.5])

    a, b = L.Input((4,)), L.Input((4,))
    joined = keras.Model([a, b], L.Dense(2)(L.add([L.Dense(3)(a), L.Dense(3)(b)])))
    assert len(case.wrappers(sparsity.prune_low_magnitude(joined))) == 3
    shared = L.Dense(4)
    reused = keras.Model(a, shared(shared(a)))
    assert len(case.wrappers(sparsity.prune_low_magnitude(reused))) == 1
    nested = keras.Sequential([case.simple_dense(), keras.Sequential([L.Dense(2)])])
    nested.build((None, 10))
    assert len(case.wrappers(sparsity.prune_low_magnitude(nested))) == 3


def test_what_is_wrapped_already_stays_so_with_its_masks():
    dense = case.matrix(4, 4)
    once = sparsity.prune_low_magnitude(dense, case.every_step(0.25))
    case.begin(once)
    twice = sparsity.prune_low_magnitude(once, case.every_step(0.75))
    (before,), (after,) = case.wrappers(once), case.wrappers(twice)
    assert after.rule == before.rule
    (old,), (new,) = case.masks(once).values(), case.masks(twice).values()
    np.testing.assert_array_equal(new, old)
    assert not old.all()
    wrapped = sparsity.prune_low_magnitude(L.Dense(4))
    plain = L.Dense(4)
    listed = sparsity.prune_low_magnitude([wrapped, plain])
    assert listed[0] is wrapped and listed[1].layer is plain
    with pytest.raises(ValueError, match="is wrapped already"):
        sparsity.prune_low_magnitude(wrapped)


def test_a_subclassed_model_inside_is_wrapped_as_a_layer_is():
    """tfmot refuses it."""
    inputs = L.Input((6,))
    model = keras.Model(inputs, L.Dense(2)(Subclassed()(inputs)))
    pruned = sparsity.prune_low_magnitude(model, case.every_step())
    case.begin(pruned)
    assert case.shares(pruned) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (lambda: Subclassed(), "is a subclassed model \\(Subclassed\\)"),
        (lambda: object(), "Received <object object"),
        (lambda: keras.Input((3,)), "KerasTensor"),
        (lambda: [L.Dense(3), "dense"], "Received 'dense'"),
    ],
)
def test_what_cannot_be_wrapped_is_named(given, match):
    with pytest.raises(ValueError, match=match):
        sparsity.prune_low_magnitude(given())


def test_arguments_that_a_model_does_not_have_are_refused():
    """tfmot does not look at them."""
    with pytest.raises(TypeError, match="unknown argument 'pruning_shedule'"):
        sparsity.prune_low_magnitude(case.simple_dense(), pruning_shedule=1)
    with pytest.warns(UserWarning, match="input_shape"):
        layer = sparsity.prune_low_magnitude(L.Dense(3), input_shape=(4,))
    assert keras.Sequential([layer]).built
    with pytest.warns(UserWarning, match="input_shape"):
        layer = sparsity.prune_low_magnitude(L.Dense(3, input_shape=(4,)))
    assert keras.Sequential([layer]).built


# What it does to the model that is given.


def test_the_model_itself_is_left_as_it_was():
    """tfmot's has the same variables, and training changes both."""
    model = case.simple_dense()
    model.compile("sgd", "mse")
    before = [np.array(weight) for weight in model.weights]
    pruned = sparsity.prune_low_magnitude(model, case.every_step())
    assert getattr(pruned, "optimizer", None) is None
    x = np.random.default_rng(0).random((5, 10), dtype="float32")
    np.testing.assert_array_equal(np.array(model(x)), np.array(pruned(x)))
    assert not {map(id, model.weights)} & {map(id, pruned.weights)}
    case.fit(pruned)
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, np.array(weight))


def test_without_sparsity_it_trains_as_the_model_itself():
    model = case.simple_dense()
    pruned = sparsity.prune_low_magnitude(model, case.every_step(0.0))
    data = case.data_for(model, 20)
    case.fit(pruned, data=data)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    model.fit(*data, batch_size=20, verbose=0)
    for a, b in zip(model.weights, pruned.trainable_variables, strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), rtol=1e-6, atol=1e-9)


def test_of_each_weight_one_is_left_at_least():
    model = sparsity.prune_low_magnitude(case.simple_dense(), case.every_step(0.99))
    case.fit(model)
    kernels = [v for v in model.trainable_variables if v.name == "kernel"]
    assert [int(np.count_nonzero(kernel)) for kernel in kernels] == [1, 1]


def test_inference_changes_nothing_and_needs_no_callback():
    """tfmot's wrapper zeroes weights when it predicts."""
    model = sparsity.prune_low_magnitude(case.simple_dense(), case.every_step())
    before = [np.array(weight) for weight in model.weights]
    model.compile("sgd", "mse")
    x, y = case.data_for(model, 1000)
    model.predict(x, verbose=0)
    model.evaluate(x, y, verbose=0)
    model(x)
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, np.array(weight))


def test_a_regularizer_of_activities_counts():
    """tfmot loses it."""
    layer = L.Dense(4, activity_regularizer="l2", kernel_regularizer="l2")
    model = keras.Sequential([L.Input((6,)), layer])
    pruned = sparsity.prune_low_magnitude(model)
    x = np.ones((2, 6), "float32")
    model(x), pruned(x)
    assert len(model.losses) == len(pruned.losses) == 2
    np.testing.assert_allclose(sum(pruned.losses), sum(model.losses))


def test_frozen_layers_are_pruned_too():
    model = case.simple_dense()
    model.layers[0].trainable = False
    pruned = sparsity.prune_low_magnitude(model, case.every_step())
    case.fit(pruned)
    assert case.shares(pruned) == [0.5, 0.5]


# Every layer.

LAYERS = {
    "Conv1D": (lambda: L.Conv1D(4, 2), (3, 6)),
    "Conv2D": (lambda: L.Conv2D(4, (2, 2)), (4, 6, 1)),
    "Conv3D": (lambda: L.Conv3D(2, (3, 2, 2)), (3, 4, 4, 2)),
    "Conv1DTranspose": (lambda: L.Conv1DTranspose(4, 2), (3, 6)),
    "Conv2DTranspose": (lambda: L.Conv2DTranspose(2, (2, 2)), (4, 4, 2)),
    "Conv3DTranspose": (lambda: L.Conv3DTranspose(2, (2, 2, 2)), (3, 3, 3, 2)),
    "SeparableConv1D": (lambda: L.SeparableConv1D(4, 3), (3, 6)),
    "SeparableConv2D": (lambda: L.SeparableConv2D(4, (2, 2)), (4, 6, 2)),
    "Dense": (lambda: L.Dense(4), (6,)),
    "GRU": (lambda: L.GRU(10), (3, 4)),
    "LSTM": (lambda: L.LSTM(10), (3, 4)),
    "SimpleRNN": (lambda: L.SimpleRNN(10), (3, 4)),
    "RNN": (
        lambda: L.RNN([L.LSTMCell(10), L.GRUCell(10), L.SimpleRNNCell(10)]),
        (3, 4),
    ),
    "Bidirectional": (lambda: L.Bidirectional(L.LSTM(10)), (3, 4)),
    "ConvLSTM2D": (lambda: L.ConvLSTM2D(2, 2), (2, 4, 4, 1)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_pruned_in_training(name):
    make, shape = LAYERS[name]
    layer = sparsity.prune_low_magnitude(make(), case.every_step())
    model = keras.Sequential([L.Input(shape), layer, L.Flatten()])
    assert max(case.shares(model)) < 0.5
    case.fit(model)
    assert case.shares(model) == pytest.approx([0.5] * len(case.shares(model)))
    stripped = sparsity.strip_pruning(model)
    x = case.data_for(model, 3)[0]
    np.testing.assert_array_equal(np.array(model(x)), np.array(stripped(x)))


def test_embeddings_are_pruned_in_training():
    model = keras.Sequential(
        [L.Input((4,)), L.Embedding(10, 3), L.Flatten(), L.Dense(1)]
    )
    pruned = sparsity.prune_low_magnitude(model, case.every_step())
    x = np.random.default_rng(0).integers(0, 10, (8, 4))
    case.fit(pruned, data=(x, np.ones((8, 1))))
    assert case.shares(pruned) == [0.5, 0.5]
    stripped = sparsity.strip_pruning(pruned)
    np.testing.assert_array_equal(np.array(pruned(x)), np.array(stripped(x)))


def test_attention_is_pruned_in_training():
    inputs = L.Input((32, 32))
    model = keras.Model(inputs, L.MultiHeadAttention(2, 16)(inputs, inputs))
    pruned = sparsity.prune_low_magnitude(model, case.every_step())
    pruned.compile(keras.optimizers.Adam(1e-4), "mse")
    x, y = case.data_for(pruned, 4)
    case.fit(pruned, data=(x, y))
    assert case.shares(pruned) == [0.5] * 4
    stripped = sparsity.strip_pruning(pruned)
    np.testing.assert_array_equal(np.array(pruned(x)), np.array(stripped(x)))


@pytest.mark.parametrize("m_by_n", [(2, 4), (1, 2)])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [(lambda: L.Conv2D(16, (5, 7)), (10, 10, 8)), (lambda: L.Dense(16), (8,))],
    ids=["Conv2D", "Dense"],
)
def test_groups_hold_in_training(layer, shape, m_by_n):
    model = keras.Sequential([L.Input(shape), layer()])
    pruned = sparsity.prune_low_magnitude(model, sparsity_m_by_n=m_by_n)
    case.fit(pruned, steps=2)
    kernel = np.array(pruned.trainable_variables[0])
    zeros = np.moveaxis(kernel == 0, -2, -1).reshape(-1, m_by_n[1])
    assert (zeros.sum(axis=1) == m_by_n[0]).all()


def test_groups_need_axes_of_any_number():
    """tfmot takes two or four, and fails in training."""
    model = keras.Sequential([L.Input((3, 4, 4, 8)), L.Conv3D(2, (1, 2, 2))])
    pruned = sparsity.prune_low_magnitude(model, sparsity_m_by_n=(2, 4))
    case.begin(pruned)
    assert case.share_of_zeros(pruned) == 0.5
    model = keras.Sequential([L.Input((8,)), Prunable()])
    with pytest.raises(ValueError, match="needs to know its axes"):
        sparsity.prune_low_magnitude(model, sparsity_m_by_n=(2, 4))


def test_models_in_models_are_pruned_in_training():
    """tfmot's own test of them prunes nothing."""
    inner = keras.Sequential([L.Input((6,)), L.Dense(8), L.Dropout(0.1)])
    model = keras.Sequential([L.Input((6,)), inner, L.Dense(4)])
    pruned = sparsity.prune_low_magnitude(model, case.every_step(0.75))
    case.fit(pruned)
    assert case.shares(pruned) == [0.75, 0.75]


def test_groups_at_the_end_of_seven_channels():
    model = keras.Sequential([L.Input((10, 10, 7)), L.Conv2D(16, (5, 7))])
    pruned = sparsity.prune_low_magnitude(model, sparsity_m_by_n=(2, 4))
    case.fit(pruned)
    assert case.share_of_zeros(pruned) == pytest.approx(3 / 7)


def test_a_depthwise_convolution_stays_dense():
    model = keras.Sequential(
        [L.Input((6, 6, 4)), L.DepthwiseConv2D(3), L.Conv2D(2, 1), L.Flatten()]
    )
    pruned = sparsity.prune_low_magnitude(model, case.every_step())
    callback = case.fit(pruned)
    assert case.shares(pruned) == [0.5]
    reasons = {s.path.split("/")[-1]: s.reason for s in callback.report.skipped}
    assert "depthwise kernel" in str(reasons)


# strip_pruning, prune_scope


@pytest.mark.parametrize(
    "make", [case.simple_dense, lambda: functional(conv_net(lambda x: x))]
)
def test_stripping_gives_the_model_back(make):
    model = make()
    stripped = sparsity.strip_pruning(sparsity.prune_low_magnitude(model))
    assert case.wrappers(stripped) == []
    assert stripped.get_config() == model.get_config()


def test_what_cannot_be_stripped_is_named():
    with pytest.raises(ValueError, match="stripped with the model that it is in"):
        sparsity.strip_pruning(L.Dense(3))
    with pytest.raises(ValueError, match="subclassed"):
        sparsity.strip_pruning(Subclassed())


def test_a_file_needs_no_scope(tmp_path):
    model = sparsity.prune_low_magnitude(case.simple_dense(), case.every_step())
    case.fit(model)
    model.save(tmp_path / "model.keras")
    with sparsity.prune_scope():
        scoped = keras.models.load_model(tmp_path / "model.keras")
    for loaded in (keras.models.load_model(tmp_path / "model.keras"), scoped):
        assert [type(w) for w in case.wrappers(loaded)] == [
            type(w) for w in case.wrappers(model)
        ]
        for a, b in zip(model.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(values(a), values(b))


def test_weights_of_the_plain_model_go_into_the_pruned_one(tmp_path):
    """tfmot refuses them, or loads nothing without a word."""
    model = case.simple_dense()
    pruned = sparsity.prune_low_magnitude(case.simple_dense())
    with pytest.raises(ValueError, match="expecting 6 weights"):
        pruned.set_weights(model.get_weights())
    model.save_weights(tmp_path / "plain.weights.h5")
    with pytest.raises(ValueError, match="could not be loaded"):
        pruned.load_weights(tmp_path / "plain.weights.h5")
    sparsity.strip_pruning(pruned).set_weights(model.get_weights())


# Policies


def mobile(pad=True, middle=None, pool=True, pointwise=1, name="mobile"):
    x = inputs = L.Input((32, 32, 3))
    if pad:
        x = L.ZeroPadding2D(1)(x)
    x = L.Conv2D(8, 3, strides=2, padding="valid" if pad else "same")(x)
    x = L.ReLU()(x)
    if middle is not None:
        x = middle(x)
    for _ in range(pointwise):
        x = L.Conv2D(8, 1)(x)
    x = L.GlobalAveragePooling2D()(x) if pool else L.Flatten()(x)
    return keras.Model(inputs, x, name=name)


XNNPACK = sparsity.PruneForLatencyOnXNNPack()


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (lambda: mobile(pad=False), "must be padded by 1 on all four sides"),
        (lambda: mobile(pool=False), "a mean over height and width"),
        (lambda: mobile(middle=L.MaxPooling2D()), "MAX_POOL_2D"),
        # tfmot takes it; XNNPACK does not.
        (lambda: mobile(middle=lambda x: x - L.Conv2D(8, 1)(x)), r"\(SUB\)"),
        (lambda: keras.Sequential([L.Conv2D(3, 1)]), "is not built"),
        (lambda: Subclassed(), "is a subclassed model"),
    ],
)
def test_models_that_xnnpack_gains_nothing_from_are_refused(model, match):
    with pytest.raises(ValueError, match=match):
        sparsity.prune_low_magnitude(model(), pruning_policy=XNNPACK)


def test_only_pointwise_convolutions_are_pruned_for_xnnpack():
    def count(model):
        return len(case.wrappers(model))

    def prune(model):
        return sparsity.prune_low_magnitude(model, pruning_policy=XNNPACK)

    once = prune(mobile())
    assert count(once) == 1
    assert count(prune(once)) == 1
    assert count(keras.models.clone_model(once)) == 1
    two = mobile(middle=keras.Sequential([L.Conv2D(8, 1), L.ReLU(), L.Conv2D(8, 1)]))
    assert count(prune(two)) == 3
    with pytest.warns(PruningWarning, match="nothing of 'mobile' is pruned"):
        assert count(prune(mobile(pointwise=0))) == 0


def test_a_layer_that_is_used_twice_is_one_for_xnnpack_too():
    shared = L.Conv2D(8, 1)
    model = mobile(
        middle=lambda x: shared(L.ReLU()(shared(x))) * 2 + 1 - 3, pointwise=0
    )
    pruned = sparsity.prune_low_magnitude(model, pruning_policy=XNNPACK)
    assert len(case.wrappers(pruned)) == 1


def test_a_network_with_gates_and_two_outputs_for_xnnpack():
    def stem(inputs):
        x = L.ZeroPadding2D(1)(inputs)
        return L.ReLU()(L.Conv2D(8, 3, strides=2)(x))

    a, b = L.Input((32, 32, 3)), L.Input((32, 32, 3))
    x, y = stem(a), stem(b)
    gate = L.GlobalAveragePooling2D(keepdims=True)(x)
    gate = L.Conv2D(8, 1, activation="sigmoid")(L.Conv2D(4, 1, activation="relu")(gate))
    x = L.multiply([x, gate])
    joined = L.add([L.Conv2D(8, 1)(x), L.Conv2D(8, 1)(y)])
    first = L.GlobalAveragePooling2D()(L.Conv2D(4, 1)(joined))
    large = L.UpSampling2D(interpolation="bilinear")(joined)
    second = L.GlobalAveragePooling2D()(L.Conv2D(4, 1)(large))
    model = keras.Model([a, b], [first, second])
    pruned = sparsity.prune_low_magnitude(model, pruning_policy=XNNPACK)
    assert len(case.wrappers(pruned)) == 6


class Heads(sparsity.PruningPolicy):
    def allow_pruning(self, layer):
        return layer.name == "head"

    def ensure_model_supports_pruning(self, model):
        pass


def test_a_policy_holds_for_lists_and_layers_too():
    """tfmot does not ask it."""
    layers = [L.Dense(3), L.Dense(3, name="head")]
    listed = sparsity.prune_low_magnitude(layers, pruning_policy=Heads())
    assert listed[0] is layers[0] and listed[1].layer is layers[1]
    layer = sparsity.prune_low_magnitude(layers[0], pruning_policy=Heads())
    assert layer is layers[0]
