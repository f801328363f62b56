"""What criteria look at is right, and looking leaves no trace in training."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from models import Subclassed, compiled, sequential

import kprune
from kprune.evidence import Evidence, read

L = keras.layers

# On x the hidden values are 5 and 4, the output is -3, and its loss (-3 - 1) ** 2.
X, Y = np.array([[1.0, 2.0]], "float32"), np.array([[1.0]], "float32")
# Here only the first hidden unit is not cut off by ReLU; the output is 2.
X2, Y2 = np.array([[2.0, 0.0]], "float32"), np.array([[0.0]], "float32")


def net(first=((1, -2), (2, 3)), second=((1,), (-2,))):
    """A 2-2-1 network whose weights do not move."""
    model = keras.Sequential(
        [
            L.Input((2,)),
            L.Dense(2, "relu", use_bias=False, name="a"),
            L.Dense(1, use_bias=False, name="b"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.set_weights([np.array(first, "float32"), np.array(second, "float32")])
    return model


def batches(*pairs):
    return read([pair for pair in pairs], len(pairs), "test")


def about(model, criterion, data=()):
    return Evidence(model, tuple(data)).about(criterion, model.trainable_variables)


def zeros(model, **arguments):
    """Prunes a model at once, before the first step, and returns what is zero."""
    callback = kprune.PruningCallback(**arguments)
    model.fit(X, Y, verbose=0, callbacks=[callback])
    return [(weight == 0).tolist() for weight in model.get_weights()]


AT_ONCE = kprune.ConstantSparsity(0.5, 0)


def test_gradients_by_hand():
    first, second = about(net(), kprune.Snip(), batches((X, Y)))
    np.testing.assert_allclose(first["gradient"], [[-8, 16], [-16, 32]])
    np.testing.assert_allclose(second["gradient"], [[-40], [-32]])


def test_gradients_are_averaged_over_batches_and_so_are_their_squares():
    data = batches((X, Y), (X2, Y2))
    first, second = about(net(), kprune.Snip(), data)
    np.testing.assert_allclose(first["gradient"], [[0, 8], [-8, 16]])
    np.testing.assert_allclose(second["gradient"], [[-16], [-16]])
    first, second = about(net(), kprune.Taylor(), data)
    np.testing.assert_allclose(first["squared_gradient"], [[64, 128], [128, 512]])
    np.testing.assert_allclose(second["squared_gradient"], [[832], [512]])


def test_snip_masks_by_hand():
    # |w * g| is 8, 32, 32, 96 and 40, 64: over the sum, 272, the paper's saliencies.
    found = zeros(net(), schedule=AT_ONCE, criterion="snip", data=(X, Y))
    assert found == [[[True, True], [True, False]], [[False], [False]]]


def test_taylor_masks_by_hand():
    # |w| * sqrt(mean g ** 2) is 8, 22.6, 22.6, 67.9 and 28.8, 45.3.
    data = [(X, Y), (X2, Y2)]
    found = zeros(net(), schedule=AT_ONCE, criterion="taylor", data=data)
    assert found == [[[True, True], [True, False]], [[False], [False]]]


def test_movement_masks_by_hand():
    # -w * g is 8, 32, 32, -96 and 40, -64; each weight keeps its best half.
    found = zeros(net(), schedule=AT_ONCE, criterion="movement", data=(X, Y))
    assert found == [[[True, False], [False, True]], [[False], [True]]]


def test_movement_since_a_start_masks_by_hand(tmp_path):
    model, file = net(), tmp_path / "begin.weights.h5"
    model.save_weights(file)
    moved = net([[2, -1], [1, -4]], [[0.5], [-3]])
    model.set_weights(moved.get_weights())
    # w ** 2 grew by 3, -3, -3 and 7, and by -0.75 and 5.
    found = zeros(model, schedule=AT_ONCE, criterion=kprune.Movement(file))
    assert found == [[[False, True], [True, False]], [[True], [False]]]


@pytest.mark.parametrize("channels", [False, True], ids=["elements", "channels"])
def test_movement_since_a_start_is_resumed_as_if_uninterrupted(
    channels, data, tmp_path
):
    file = tmp_path / "begin.weights.h5"
    rule = dict(granularity="channel") if channels else {}

    def fit(model, *callbacks, initial_epoch=0):
        pruning = kprune.PruningCallback(0.5, criterion=kprune.Movement(file), **rule)
        order = dict(batch_size=16, shuffle=False, verbose=0)
        model.fit(
            *data,
            epochs=4,
            initial_epoch=initial_epoch,
            callbacks=[pruning, *callbacks],
            **order,
        )

    whole = compiled(sequential())
    whole.save_weights(file)
    path = str(tmp_path / "{epoch}.keras")
    fit(whole, keras.callbacks.ModelCheckpoint(path))
    resumed = keras.models.load_model(tmp_path / "2.keras")
    fit(resumed, initial_epoch=2)
    for a, b in zip(whole.variables, resumed.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)
    assert max(np.mean(w == 0) for w in whole.get_weights()) >= 0.5


def test_looking_at_a_start_leaves_no_trace(data, tmp_path):
    model, file = troubled(), tmp_path / "begin.weights.h5"
    model.save_weights(file)
    start = [v.numpy() for v in model.trainable_variables]
    x, y = data
    model.fit(x, (y, y.astype("float32")), batch_size=16, verbose=0)
    state = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    before = [v.numpy() for v in state]
    found = about(model, kprune.Movement(file))
    for beside, was in zip(found, start, strict=True):
        np.testing.assert_array_equal(beside["start"], was)
    for variable, was in zip(state, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), was)


def test_a_start_of_another_model_is_refused(data, tmp_path):
    file = tmp_path / "begin.weights.h5"
    callback = kprune.PruningCallback(0.5, criterion=kprune.Movement(file))
    with pytest.raises(ValueError, match="not a file of the weights of.*save_weights"):
        compiled(sequential()).fit(*data, verbose=0, callbacks=[callback])
    net().save_weights(file)
    with pytest.raises(ValueError, match="not a file of the weights of.*save_weights"):
        compiled(sequential()).fit(*data, verbose=0, callbacks=[callback])


def test_synaptic_flow_by_hand():
    # |W| = 1 2 / 2 3 and 1, 2: hidden values of ones are 3 and 5, their sum 13.
    first, second = about(net(), kprune.SynFlow())
    np.testing.assert_allclose(first["synaptic_flow"], [[1, 2], [1, 2]])
    np.testing.assert_allclose(second["synaptic_flow"], [[3], [5]])


def test_synflow_masks_by_hand():
    def found(rounds):
        model = net([[1, -4], [1, 4]], [[-1], [0.5]])
        criterion = kprune.SynFlow(rounds=rounds)
        return zeros(model, schedule=AT_ONCE, criterion=criterion)

    # Scores are 1 2 / 1 2 and 2, 4. Once the first hidden unit has no input its output
    # carries nothing; scored once, the second unit would lose an input instead.
    assert found(1) == [[[True, True], [True, False]], [[False], [False]]]
    assert found(3) == [[[True, False], [True, False]], [[True], [False]]]


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_what_saturates_at_the_end_is_left_out_of_the_flow(activation):
    model = net()
    model.get_layer("b").activation = keras.activations.get(activation)
    first, _ = about(model, kprune.SynFlow())
    np.testing.assert_allclose(first["synaptic_flow"], [[1, 2], [1, 2]])
    assert model.get_layer("b").activation is keras.activations.get(activation)


def patches(x, size, stride, padding):
    found = tf.image.extract_patches(
        x, [1, *size, 1], [1, *stride, 1], [1, 1, 1, 1], padding.upper()
    )
    return found.numpy().reshape(-1, *size, x.shape[-1])


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_norms_of_a_convolutions_inputs_are_those_of_its_patches(padding):
    x = np.random.default_rng(0).normal(size=(3, 7, 6, 4)).astype("float32")
    layer = L.Conv2D(5, (3, 2), strides=2, padding=padding, activation="relu")
    model = keras.Sequential([L.Input(x.shape[1:]), layer])
    model.layers[0].kernel.assign(layer.kernel * 0)  # Does not matter.
    (known,) = Evidence(model, read((x,), 1, "test")).about(
        kprune.Wanda(), [layer.kernel]
    )
    cut = patches(x, (3, 2), (2, 2), padding)
    expected = np.sqrt((cut**2).sum(axis=0))[..., None] * np.ones(5)
    np.testing.assert_allclose(known["input_norm"], expected, rtol=1e-5)
    assert known["output_axes"] == (3,)


def test_norms_of_grouped_and_causal_convolutions():
    x = np.random.default_rng(0).normal(size=(2, 6, 4)).astype("float32")
    grouped = L.Conv1D(6, 1, groups=2)
    causal = L.Conv1D(3, 2, dilation_rate=2, padding="causal")
    model = keras.Sequential([L.Input(x.shape[1:]), grouped])
    (known,) = Evidence(model, read((x,), 1, "test")).about(
        kprune.Wanda(), [grouped.kernel]
    )
    norms = np.sqrt((x**2).sum(axis=(0, 1)))
    expected = np.repeat(norms.reshape(2, 2).T, 3, axis=1)[None]
    np.testing.assert_allclose(known["input_norm"], expected, rtol=1e-5)
    model = keras.Sequential([L.Input(x.shape[1:]), causal])
    (known,) = Evidence(model, read((x,), 1, "test")).about(
        kprune.Wanda(), [causal.kernel]
    )
    # Two steps back there are zeros before the first two.
    before = np.sqrt((x[:, :-2] ** 2).sum(axis=(0, 1)))
    np.testing.assert_allclose(known["input_norm"][:, :, 0], [before, norms], rtol=1e-5)


def test_norms_of_dense_layers_over_all_calls_and_batches():
    x = np.random.default_rng(0).normal(size=(40, 3, 4)).astype("float32")
    inputs = L.Input((3, 4))
    shared = L.Dense(4)
    heads = L.EinsumDense("abc,cde->abde", (None, 2, 5))
    outer = L.EinsumDense("...x,xy->...y", 2)
    h = shared(inputs)
    model = keras.Model(inputs, [heads(shared(h)), outer(h)])
    variables = [shared.kernel, heads.kernel, outer.kernel]
    known = Evidence(model, read((x,), 8, "test")).about(kprune.Wanda(), variables)
    h = x @ shared.kernel.numpy()
    norms = np.sqrt((x**2).sum(axis=(0, 1)) + (h**2).sum(axis=(0, 1)))
    np.testing.assert_allclose(known[0]["input_norm"][:, 0], norms, rtol=1e-5)
    assert [beside["output_axes"] for beside in known] == [(1,), (1, 2), (1,)]
    last = np.sqrt(((h @ shared.kernel.numpy()) ** 2).sum(axis=(0, 1)))
    np.testing.assert_allclose(known[1]["input_norm"][:, 1, 2], last, rtol=1e-4)
    assert "call" not in vars(shared)


def troubled():
    """A model with all that a look at it might leave a trace in."""
    inputs = L.Input((8, 8, 1))
    x = L.Conv2D(4, 3, kernel_regularizer="l2")(inputs)
    x = L.BatchNormalization()(x)
    x = L.GaussianNoise(0.1)(x)
    x = L.Dropout(0.5)(L.Flatten()(x))
    left = L.Dense(3, activity_regularizer="l2", name="left")(x)
    model = keras.Model(inputs, [left, L.Dense(1, name="right")(x)])
    losses = [keras.losses.SparseCategoricalCrossentropy(from_logits=True), "mse"]
    model.compile("adam", losses, metrics=[["accuracy"], ["mae"]])
    return model


@pytest.mark.parametrize(
    "criterion", [None, "taylor", "movement", "wanda", "snip", "synflow"]
)
def test_looking_leaves_no_trace_in_training(criterion, data):
    x, y = data
    targets = (y, y.astype("float32"))

    def trained(callbacks):
        keras.utils.set_random_seed(1)
        model = troubled()
        history = model.fit(
            x, targets, batch_size=16, epochs=2, verbose=0, callbacks=callbacks
        ).history
        history.pop("sparsity", None)
        state = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
        return history, [v.numpy() for v in state]

    schedule = kprune.PolynomialDecay(0.0, 0.0, 0, 10, frequency=2)
    pruning = kprune.PruningCallback(
        schedule=schedule, criterion=criterion or "magnitude", data=(x, targets)
    )
    history, state = trained([pruning])
    assert len(pruning.history) > 4
    expected_history, expected = trained([])
    assert history == expected_history
    for a, b in zip(state, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_looking_at_a_subclassed_model_leaves_no_trace(data):
    model = compiled(Subclassed())
    model(data[0][:1])
    before = model.get_weights()
    found = {}
    for name in ("taylor", "wanda", "synflow"):
        criterion = kprune.Rule(0.5, criterion=name).criterion
        evidence = Evidence(model, read(data, 2, "test"))
        kernels = [v for v in model.weights if v.name == "kernel"]
        found[name] = evidence.about(criterion, kernels)[0][criterion.needs[0]]
    assert all(np.isfinite(value).all() and value.any() for value in found.values())
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_random_masks_are_the_same_after_a_resumed_fit(data, tmp_path):
    def prune(model, epochs, **kwargs):
        callback = kprune.PruningCallback(
            schedule=kprune.PolynomialDecay(0.0, 0.8, 0, 18, frequency=3),
            criterion=kprune.Random(seed=5),
        )
        model.fit(
            *data,
            batch_size=16,
            epochs=epochs,
            verbose=0,
            callbacks=[callback],
            shuffle=False,
            **kwargs,
        )

    whole = compiled(sequential())
    half = keras.models.clone_model(whole)
    half.set_weights(whole.get_weights())
    compiled(half)
    prune(whole, 4)
    with pytest.warns(kprune.PruningWarning, match="This fit ends at step 12|ended at"):
        prune(half, 2)
    half.save(tmp_path / "half.keras")
    again = keras.models.load_model(tmp_path / "half.keras")
    prune(again, 4, initial_epoch=2)
    for a, b in zip(whole.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_masks_stay_where_gradients_are_nan():
    model = net()
    bad = np.array([[np.nan]], "float32")
    callback = kprune.PruningCallback(
        schedule=AT_ONCE, criterion="taylor", data=(X, bad)
    )
    with pytest.warns(kprune.PruningWarning) as caught:
        model.fit(X, Y, verbose=0, callbacks=[callback])
    assert any("a/kernel scores NaN, so that the masks stay" in str(w) for w in caught)
    assert np.count_nonzero(model.get_weights()[0]) == 4


def test_gradients_too_small_for_half_precision_are_not_lost():
    model = keras.Sequential(
        [L.Input((2,)), L.Dense(2, use_bias=False, dtype="mixed_float16")]
    )
    inner = keras.optimizers.SGD(0.0)
    model.compile(keras.optimizers.LossScaleOptimizer(inner), "mse")
    model.set_weights([np.array([[1e-3, 1e-3], [2e-3, 1e-3]], "float32")])
    x = np.full((1, 2), 1e-6, "float32")
    (known,) = about(model, kprune.Snip(), batches((x, np.full((1, 2), 1e-3))))
    assert (known["gradient"] < 0).all()


def test_gradients_of_embeddings_are_those_of_the_rows_that_were_used():
    model = keras.Sequential([L.Input((2,), dtype="int32"), L.Embedding(4, 3)])
    model.compile("sgd", "mse")
    data = batches((np.array([[1, 3]]), np.ones((1, 2, 3))))
    (known,) = about(model, kprune.Snip(), data)
    assert known["gradient"].any(axis=1).tolist() == [False, True, False, True]


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(32 * index, 32 * index + 32)
        return self.x[rows], self.y[rows]


def test_data_may_come_in_any_form_that_fit_takes(data):
    model = compiled(sequential())
    forms = [
        tf.data.Dataset.from_tensor_slices(data).batch(32),
        Batches(*data),
        [(x, y) for x, y in Batches(*data)],
        (*data, np.ones(96)),
    ]
    found = [about(model, kprune.Snip(), read(form, 8, "test")) for form in forms]
    # Arrays come in another order, which batch normalisation sees; not these.
    for known in found[1:3]:
        for a, b in zip(found[0], known, strict=True):
            np.testing.assert_allclose(a["gradient"], b["gradient"], rtol=1e-5)
    assert [len(read(form, 2, "test")) for form in forms] == [2, 2, 2, 2]


def test_samples_of_sorted_arrays_are_of_all_classes_in_every_batch():
    y = np.repeat(np.arange(10), 100)
    found = read((np.zeros((1000, 1)), y), 2, "test")
    assert [len(batch.y) for batch in found] == [32, 32]
    assert all(set(batch.y) == set(range(10)) for batch in found)


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (None, ValueError, r"criterion Taylor\(\) needs data.*got none.*data=\(x_tr"),
        (iter([(X, Y)]), TypeError, "iterator.*lost for training"),
        ([], ValueError, "`data` is empty"),
        (3, TypeError, "`data` must be a tuple .x, y.*Received type int"),
        ((X, np.ones((2, 1))), ValueError, r"same number of samples.*\[1, 2\]"),
        ((X, Y, Y, Y), TypeError, "Received 4 items"),
        (X, ValueError, "`data` has no targets"),
    ],
)
def test_data_that_does_not_do_is_refused(data, error, match):
    with pytest.raises(error, match=match):
        zeros(net(), schedule=AT_ONCE, criterion="taylor", data=data)


def test_a_criterion_without_its_data_is_refused_before_the_fit():
    with pytest.raises(ValueError, match=r"PruningCallback: the criterion Wanda\(\)"):
        kprune.PruningCallback(sparsity=0.5, criterion="wanda")
    wrapped = kprune.prune(net(), sparsity=0.5, criterion="wanda")
    wrapped.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"Wanda\(\) needs data"):
        wrapped.fit(X, Y, verbose=0, callbacks=[kprune.PruningCallback()])
    with pytest.raises(ValueError, match=r"Taylor\(\) needs data"):
        kprune.shrink(net(), sparsity=0.5, criterion="taylor")
    with pytest.raises(TypeError, match="given to the callback"):
        kprune.prune(net(), sparsity=0.5, criterion="wanda", data=(X, Y))
    with pytest.raises(ValueError, match="`num_batches` must be"):
        kprune.PruningCallback(sparsity=0.5, num_batches=0)


@pytest.mark.parametrize(
    ("layers", "criterion", "match"),
    [
        ([L.LSTM(2)], "wanda", "lstm/lstm_cell/.*LSTMCell.*skip="),
        ([L.Conv1DTranspose(2, 2)], "wanda", "is of '.*conv.*a Conv1DTranspose"),
        ([L.Dense(2), L.Softmax()], "synflow", "nothing flows.*from_logits=True"),
        (
            [L.Dense(2, kernel_initializer=keras.initializers.Constant(3e38))],
            "synflow",
            "overflow",
        ),
    ],
)
def test_what_cannot_be_looked_at_is_named(layers, criterion, match):
    model = keras.Sequential([L.Input((4, 3)), *layers])
    model.compile("sgd", "mse")
    x = np.ones((2, 4, 3), "float32")
    callback = kprune.PruningCallback(
        schedule=AT_ONCE, criterion=criterion, data=(x, model(x).numpy())
    )
    with pytest.raises(ValueError, match=match):
        model.fit(x, model(x), verbose=0, callbacks=[callback])
    # Nothing was changed before.
    assert all(v.constraint is None for v in model.weights)


def test_synflow_names_inputs_that_it_cannot_make():
    words = keras.Sequential([L.Input((3,), dtype="int32"), L.Embedding(4, 2)])
    with pytest.raises(ValueError, match="takes int32 inputs"):
        about(words, kprune.SynFlow())
    series = keras.Sequential([L.Input((None, 3)), L.Dense(2)])
    with pytest.raises(ValueError, match="leaves sizes of its inputs open"):
        about(series, kprune.SynFlow())
    data = read((np.zeros((1, 5, 3), "float32"),), 1, "test")
    assert about(series, kprune.SynFlow(), data)[0]["synaptic_flow"].min() == 5


def channels(model, x, y, criterion, **arguments):
    """Prunes half of the channels at once and returns which filters are left."""
    callback = kprune.PruningCallback(
        schedule=AT_ONCE,
        granularity="channel",
        criterion=criterion,
        data=(x, y),
        **arguments,
    )
    model.fit(x, y, verbose=0, callbacks=[callback])
    kernel = model.get_layer("conv").kernel.numpy()
    return [i for i in range(kernel.shape[-1]) if kernel[..., i].any()]


def filters(values, gamma=None):
    """A network of 1x1 convolutions, each filter of which has one column's values."""
    values = np.array(values, "float32")
    model = keras.Sequential(
        [
            L.Input((2, 2, len(values))),
            L.Conv2D(len(values[0]), 1, use_bias=False, name="conv"),
            L.BatchNormalization(name="norm"),
            L.Flatten(),
            L.Dense(1, kernel_initializer="ones", name="head"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.get_layer("conv").kernel.assign(values[None, None])
    if gamma is not None:
        model.get_layer("norm").gamma.assign(gamma)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 2, 2, len(values))).astype("float32")
    return model, x, np.ones((8, 1), "float32")


def test_channels_by_the_scale_of_their_batch_normalisation():
    model, x, y = filters([[9, 8, 1, 2]], gamma=[0.1, -3.0, 2.0, 0.2])
    assert channels(model, x, y, "batch_norm_scale") == [1, 2]


def test_channels_without_a_scale_are_refused():
    model, x, y = filters([[9, 8, 1, 2]])
    plain = keras.Sequential([L.Input(x.shape[1:]), model.layers[0], L.Flatten()])
    plain.add(L.Dense(1))
    plain.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"BatchNormScale\(\) looks at none.*conv fil"):
        channels(plain, x, y, "batch_norm_scale")


def test_channels_near_the_geometric_median_go():
    # Sums of distances are 16, 10, 10 and 20: the middle ones go, large as they are.
    model, x, y = filters([[2, 5, 6, 11]])
    assert channels(model, x, y, "geometric_median") == [0, 3]


def test_channels_by_the_sum_or_by_the_squares_of_their_weights():
    # Sums are 4, 3 and 4, 3; roots of sums of squares 2.8, 3, 2.8 and 3.
    values = [[2, 3, 2, 3], [2, 0, 2, 0]]
    assert channels(*filters(values), kprune.Magnitude(order=1)) == [0, 2]
    assert channels(*filters(values), kprune.Magnitude(order=2)) == [1, 3]


def test_shrink_looks_at_the_data_that_it_is_given(data):
    model = compiled(sequential())
    tables = [
        kprune.plan_shrink(model, 0.5, criterion=criterion, data=data).to_dict()
        for criterion in ("taylor", "taylor", "random")
    ]
    assert tables[0]["groups"] == tables[1]["groups"] != tables[2]["groups"]
    small = kprune.shrink(model, 0.5, criterion="taylor", data=data)
    assert small.shrink_report.equality.inputs == "4 samples of `data`"
