"""Models that are trained to be int8: what they compute, and that their files do so."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from sklearn.datasets import load_digits

import kprune
from kprune.export import tflite
from kprune.layers import mask_of
from kprune.quantization.fake_quantization import (
    FakeQuantize,
    QuantizedWeights,
    switches,
)
from kprune.quantization.kernels import kernel_of
from kprune.quantization.mode import observing, unrounded
from kprune.quantization.rounding import round_weight

L = keras.layers
RNG = np.random.default_rng(0)
WARNS = kprune.PruningWarning


def noise(*shape):
    return RNG.normal(size=shape).astype("float32")


def randomised(model):
    """Gives statistics and biases values that show where they are forgotten."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if weight.name in ("gamma", "beta", "moving_mean", "bias"):
            weight.assign(weight + 0.3 * rng.normal(size=weight.shape))
        if weight.name == "moving_variance":
            weight.assign(rng.uniform(0.2, 2, weight.shape))
        if weight.name == "embeddings":
            weight.assign(rng.normal(size=weight.shape))
    return model


def chain(shape, *layers, dtype=None):
    return randomised(keras.Sequential([L.Input(shape, dtype=dtype), *layers]))


def cnn():
    """Every fold that there is: a convolution, a depthwise one and a dense layer."""
    return chain(
        (8, 8, 1),
        L.Conv2D(8, 3, use_bias=False),
        L.BatchNormalization(),
        L.ReLU(),
        L.DepthwiseConv2D(3, padding="same"),
        L.BatchNormalization(),
        L.ReLU(6.0),
        L.Flatten(),
        L.Dense(16, activation="relu"),
        L.BatchNormalization(),
        L.Dropout(0.1),
        L.Dense(3),
    )


def compiled(model, **arguments):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, **arguments)
    return model


def fit(model, data, *callbacks, epochs=4, **arguments):
    arguments = {"batch_size": 16, "verbose": 0, "shuffle": False} | arguments
    model.fit(*data, epochs=epochs, callbacks=list(callbacks), **arguments)
    return model


class File:
    """A `.tflite` file of int8, run in LiteRT."""

    def __init__(self, model, folder, **arguments):
        path = folder / "model.tflite"
        arguments = {"target": "microcontroller", "c_source": False} | arguments
        arguments["slim"] = False  # Which takes the names of inputs away.
        self.report = kprune.export(model, path, benchmark=False, **arguments)
        self.parsed = tflite.parse(path.read_bytes())
        self.interpreter = Interpreter(str(path))
        self.interpreter.allocate_tensors()
        # In the order of the model's inputs, which the file may not keep.
        found = {i["name"]: i for i in self.interpreter.get_input_details()}
        names = [tensor.name for tensor in model.inputs]
        self.inputs = [
            next(i for key, i in found.items() if len(found) == 1 or name in key)
            for name in names
        ]
        self.output = self.interpreter.get_output_details()[0]

    @property
    def types(self):
        return {t.type for t in self.parsed.subgraphs[0].tensors}

    @property
    def step(self):
        return self.output["quantization"][0]

    def run(self, *arrays):
        rows = []
        for row in zip(*arrays, strict=True):
            for value, details in zip(row, self.inputs, strict=True):
                scale, zero = details["quantization"]
                if scale:
                    value = np.clip(np.round(value / scale) + zero, -128, 127)
                self.interpreter.set_tensor(
                    details["index"], value[None].astype(details["dtype"])
                )
            self.interpreter.invoke()
            scale, zero = self.output["quantization"]
            made = self.interpreter.get_tensor(self.output["index"])[0]
            rows.append((made.astype("float32") - zero) * scale)
        return np.stack(rows)


# --- Every layer, in the file ---------------------------------------------------------


def residual():
    x = inputs = L.Input((8, 8, 3))
    x = L.Rescaling(1 / 2.0, offset=0.1)(x)
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(6, 3, padding="same")(x)))
    y = L.Conv2D(6, 3, padding="same", use_bias=False)(x)
    x = L.Activation("relu")(L.Add()([x, L.BatchNormalization()(y)]))
    return randomised(keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(x))))


def densely_connected():
    x = inputs = L.Input((8, 8, 3))
    for _ in range(2):
        y = L.ReLU()(L.BatchNormalization()(x))
        x = L.Concatenate()([x, L.Conv2D(4, 3, padding="same")(y)])
    return randomised(keras.Model(inputs, L.Dense(4)(L.GlobalMaxPooling2D()(x))))


def gated():
    x = inputs = L.Input((8, 8, 3))
    x = L.Conv2D(6, 3, activation="relu6")(x)
    gate = L.Conv2D(6, 1, activation="sigmoid")(
        L.GlobalAveragePooling2D(keepdims=True)(x)
    )
    return randomised(
        keras.Model(inputs, L.Dense(4)(L.Flatten()(L.Multiply()([x, gate]))))
    )


def of_fixed_ranges():
    """What TFLite prescribes different ranges for, in one vector."""
    inputs = L.Input((8,))
    halves = L.Reshape((4,))(L.Dense(4, activation="sigmoid")(inputs))
    rest = L.Dense(4, activation="tanh")(inputs)
    both = L.Concatenate()([halves, rest, L.Dense(4, activation="relu")(inputs)])
    return randomised(keras.Model(inputs, L.Dense(4)(both)))


def of_operators():
    inputs = L.Input((8,))
    a, b, c = (L.Dense(4)(inputs) for _ in range(3))
    return randomised(keras.Model(inputs, L.ReLU()(L.Add()([a, b, c]) + a * b - 1.5)))


def nested():
    base = keras.Sequential(
        [L.Input((8, 8, 3)), L.Conv2D(4, 3, name="conv"), L.BatchNormalization()],
        name="base",
    )
    inputs = L.Input((8, 8, 3))
    x = L.MaxPooling2D()(base(inputs, training=False))
    x = L.Conv2D(4, 3, name="conv")(x)
    return randomised(keras.Model(inputs, L.Dense(3)(L.Flatten()(x))))


def shared():
    inputs = [L.Input((8,), name=name) for name in ("left", "right")]
    layer = L.Dense(5, activation="relu")
    difference = L.Subtract()([layer(inputs[0]), layer(inputs[1])])
    return randomised(keras.Model(inputs, L.Dense(3)(difference)))


def image(*layers):
    return lambda: chain((8, 8, 3), *(make() for make in layers))


def series(*layers):
    return lambda: chain((16, 3), *(make() for make in layers))


# Steps of the output by which the file may differ: one per rounding that it does and
# Keras does in another order, which later layers carry on.
MODELS = {
    "conv": (image(lambda: L.Conv2D(4, 3, activation="relu")), 1),
    "dilated": (image(lambda: L.Conv2D(4, 3, dilation_rate=2)), 1),
    "groups": (image(lambda: L.Conv2D(6, 3, groups=3)), 1),
    "conv_bn": (
        image(lambda: L.Conv2D(4, 3), L.BatchNormalization, L.ReLU),
        1,
    ),
    "depthwise": (
        image(
            lambda: L.DepthwiseConv2D(3, depth_multiplier=2),
            L.BatchNormalization,
            L.ReLU,
        ),
        1,
    ),
    "one_pixel_depthwise": (image(lambda: L.DepthwiseConv2D(1)), 1),
    "separable": (
        image(lambda: L.SeparableConv2D(5, 3, activation="relu", strides=2)),
        2,
    ),
    "transposed": (
        image(lambda: L.Conv2DTranspose(4, 3, strides=2), L.BatchNormalization, L.ReLU),
        1,
    ),
    "dense_bn": (
        image(L.Flatten, lambda: L.Dense(4), L.BatchNormalization, L.ReLU),
        1,
    ),
    "dense_of_rows": (image(lambda: L.Dense(4, activation="relu")), 1),
    "normalisation": (
        image(L.BatchNormalization, L.ReLU, lambda: L.Conv2D(4, 3)),
        2,
    ),
    "rescaling": (image(lambda: L.Rescaling(0.5, 1.0), lambda: L.Conv2D(4, 3)), 2),
    "conv1d": (
        series(
            lambda: L.Conv1D(4, 3, strides=2, padding="same"),
            L.BatchNormalization,
            L.ReLU,
        ),
        1,
    ),
    "causal": (series(lambda: L.Conv1D(4, 3, padding="causal", dilation_rate=2)), 1),
    "depthwise1d": (series(lambda: L.DepthwiseConv1D(3), L.BatchNormalization), 1),
    "separable1d": (series(lambda: L.SeparableConv1D(4, 3, activation="relu")), 2),
    "max_pool": (image(L.MaxPooling2D, lambda: L.Conv2D(4, 3)), 1),
    # Ties are rounded away from zero there, and up here.
    "average_pool": (image(lambda: L.AveragePooling2D(2)), 1),
    "average_pool1d": (series(lambda: L.AveragePooling1D(2)), 1),
    "global_pool": (image(L.GlobalAveragePooling2D), 1),
    "upsampling": (image(lambda: L.UpSampling2D(2), lambda: L.Conv2D(2, 3)), 1),
    "bilinear": (image(lambda: L.UpSampling2D(2, interpolation="bilinear")), 1),
    "padding": (
        image(
            lambda: L.ZeroPadding2D(1),
            lambda: L.Conv2D(4, 3),
            lambda: L.Cropping2D(1),
        ),
        1,
    ),
    "leaky_relu": (image(lambda: L.Conv2D(4, 3), lambda: L.LeakyReLU(0.1)), 2),
    "prelu": (
        image(lambda: L.Conv2D(4, 3), lambda: L.PReLU(shared_axes=[1, 2])),
        2,
    ),
    "hard_swish": (image(lambda: L.Conv2D(4, 3, activation="hard_swish")), 2),
    "swish": (image(lambda: L.Conv2D(4, 3, activation="swish")), 2),
    # A step of its input is more than one of its output.
    "tanh": (image(lambda: L.Conv2D(4, 3, activation="tanh")), 4),
    "sigmoid": (image(lambda: L.Conv2D(4, 3, activation="sigmoid")), 2),
    "softmax": (image(L.Flatten, lambda: L.Dense(4, activation="softmax")), 2),
    "residual": (residual, 2),
    "densely_connected": (densely_connected, 3),
    "gated": (gated, 2),
    "of_fixed_ranges": (of_fixed_ranges, 2),
    "of_operators": (of_operators, 2),
    "nested": (nested, 2),
    "shared": (shared, 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_file_computes_what_the_model_does(name, tmp_path):
    make, most_steps = MODELS[name]
    model = make()
    inputs = [noise(24, *tensor.shape[1:]) for tensor in model.inputs]
    given = inputs if len(inputs) > 1 else inputs[0]
    aware = kprune.quantize_aware(model, data=given if len(inputs) == 1 else (inputs,))
    with unrounded():
        np.testing.assert_allclose(
            aware(given, training=False), model(given, training=False), atol=1e-5
        )
    # Without representative data, and in integers alone.
    file = File(aware, tmp_path, target="generic", quantization="int8")
    expected = np.asarray(aware(given, training=False))
    integer = File(aware, tmp_path) if name != "upsampling" else file
    if integer is not file:  # TensorFlow Lite Micro has no TILE.
        assert integer.types <= {"INT8", "INT32"}
        steps = np.abs(integer.run(*inputs) - expected) / integer.step
        assert steps.max() <= most_steps + 0.01
        assert np.mean(steps > 0.5) < 0.5
    assert aware.quantization_report.floats == ()


@pytest.mark.slow
def test_an_embedding_in_a_file(tmp_path):
    model = chain(
        (6,), L.Embedding(20, 8), L.Conv1D(4, 3, activation="relu"), dtype="int32"
    )
    words = RNG.integers(0, 20, (24, 6)).astype("int32")
    aware = kprune.quantize_aware(model, data=words)
    path = tmp_path / "model.tflite"
    report = kprune.export(
        aware, path, representative_data=words, benchmark=False, quantization="int8"
    )
    assert report.differences[0].relative < 0.02
    table = next(
        t
        for t in tflite.parse(path.read_bytes()).weights()
        if t.shape == (20, 8) and t.type == "INT8"
    )
    assert table is not None


@pytest.mark.slow
def test_layers_without_an_int8_form_stay_in_float32(tmp_path):
    inputs = L.Input((6, 8))
    x = L.LayerNormalization(name="norm")(L.Dense(8)(inputs))
    model = keras.Model(inputs, L.Dense(3)(L.MultiHeadAttention(2, 4, name="a")(x, x)))
    with pytest.raises(ValueError, match="strict=True.*\n  norm: no int8 form of the"):
        kprune.quantize_aware(model, strict=True)
    with pytest.warns(WARNS, match="stay in float32: 'norm'"):
        aware = kprune.quantize_aware(model, data=noise(16, 6, 8))
    assert [layer.name for layer in aware.quantization_report.floats] == ["norm", "a"]
    assert "float32: no int8 form of the layer" in str(aware.quantization_report)
    rows = json.loads(aware.quantization_report.to_json())["layers"]
    assert rows[0]["form"].startswith("int8, a range per tensor")
    with pytest.warns(WARNS):
        kprune.quantize_aware(model, strict=True, skip=["norm", "a"])
    report = kprune.export(aware, tmp_path / "m.tflite", benchmark=False)
    assert report.differences[0].relative < 0.1


# --- Rounding -------------------------------------------------------------------------


def test_weights_are_rounded_to_int8_with_exact_zeros():
    layer = L.Conv2D(3, 2)
    layer.build((None, 4, 4, 2))
    weight = noise(*layer.kernel.shape)
    weight[0] = 0
    weight[..., 1] = 0  # A pruned channel.
    rounded = np.asarray(round_weight(weight, kernel_of(layer)))
    assert (rounded[weight == 0] == 0).all()
    for channel in (0, 2):
        step = np.abs(weight[..., channel]).max() / 127
        np.testing.assert_allclose(
            rounded[..., channel],
            np.round(weight[..., channel] / step) * step,
            atol=1e-6,
        )


def test_a_dense_layer_has_one_range():
    layer = L.Dense(3)
    layer.build((None, 4))
    weight = np.diag([1.0, 0.01, 0.003, 0]).astype("float32")[:, :3]
    step = 1 / 127
    np.testing.assert_allclose(
        round_weight(weight, kernel_of(layer)),
        np.round(weight / step) * step,
        atol=1e-7,
    )
    np.testing.assert_array_equal(round_weight(weight * 0, kernel_of(layer)), 0)


def test_every_weight_gets_its_gradient():
    layer = QuantizedWeights(L.Dense(3))
    x = noise(5, 4)
    layer(x)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x, training=True))
    gradient = tape.gradient(loss, layer.layer.kernel.value)
    np.testing.assert_allclose(gradient, np.repeat(x.sum(0)[:, None], 3, 1), rtol=1e-5)


def test_ranges_are_means_first_and_moving_averages_then():
    layer = FakeQuantize(momentum=0.75)
    layer(np.zeros((1, 1), "float32"))
    expected = None
    for count, (low, high) in enumerate([(-1, 2), (-3, 4), (1, 6), (-2, 1), (0, 9)]):
        layer(np.array([[low, high]], "float32"), training=True)
        new = max(1 / (count + 1), 0.25)
        pair = np.array([low, high], "float32")
        expected = pair if expected is None else expected + new * (pair - expected)
        assert layer.range == pytest.approx(tuple(expected))


def test_before_anything_was_seen_nothing_is_rounded():
    model = cnn()
    aware = kprune.quantize_aware(model)
    for layer in switches(aware):
        layer.active = isinstance(layer, FakeQuantize)
    x = noise(4, 8, 8, 1)
    np.testing.assert_allclose(
        aware(x, training=False), model(x, training=False), atol=1e-5
    )


@pytest.mark.slow
def test_units_that_are_dead_are_exported(tmp_path):
    model = chain((4,), L.Dense(3, activation="relu"), L.Dense(2))
    model.layers[0].kernel.assign(np.zeros((4, 3)))
    model.layers[0].bias.assign(-np.ones(3))
    x = noise(16, 4)
    file = File(kprune.quantize_aware(model, data=x), tmp_path)
    step = np.abs(file.run(x) - np.asarray(model(x, training=False))) / file.step
    assert step.max() <= 1


def test_activations_that_share_a_range_have_it_from_all():
    layer = FakeQuantize(num_tensors=2)
    for index, value in enumerate((-1.0, 3.0)):
        layer(np.array([[0.0, value]], "float32"), index=index, training=True)
    assert layer.range == (-1.0, 3.0)


def test_folding_a_normalisation_is_exact_without_rounding():
    model = cnn()
    aware = kprune.quantize_aware(model, data=noise(32, 8, 8, 1))
    x = noise(7, 8, 8, 1)
    exact = np.asarray(model(x, training=False))
    with unrounded():
        np.testing.assert_allclose(aware(x, training=False), exact, atol=1e-5)
    rounded = np.asarray(aware(x, training=False))
    assert 0 < np.abs(rounded - exact).max() < 0.2 * np.abs(exact).max()
    names = [layer.form for layer in aware.quantization_report.layers]
    assert sum("batch norm folded" in name for name in names) == 2
    # An activation lies between the dense layer and its normalisation.
    assert sum("depthwise" in name for name in names) == 1


# --- Training -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [{}, {"jit_compile": True}, {"run_eagerly": True}, {"steps_per_execution": 3}],
    ids=["default", "xla", "eager", "several_steps"],
)
def test_it_trains_in_every_way(arguments, data):
    aware = compiled(kprune.quantize_aware(cnn()), **arguments)
    before = aware.evaluate(*data, verbose=0)
    fit(aware, data, epochs=8)
    assert aware.evaluate(*data, verbose=0) < before
    ranges = [s.range for s in switches(aware) if isinstance(s, FakeQuantize)]
    assert all(high > 0 for _, high in ranges)


def test_mixed_precision(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.config, "dtype_policy", keras.config.dtype_policy)
        keras.config.set_dtype_policy("mixed_float16")
        try:
            model = cnn()
        finally:
            keras.config.set_dtype_policy("float32")
    aware = fit(compiled(kprune.quantize_aware(model)), data)
    assert np.isfinite(aware.predict(data[0], verbose=0)).all()


def test_learned_ranges_are_trained(data):
    aware = compiled(kprune.quantize_aware(cnn(), data=data[0], ranges="learned"))
    layers = [s for s in switches(aware) if isinstance(s, FakeQuantize)]
    before = [layer.range for layer in layers]
    fit(aware, data)
    after = [layer.range for layer in layers]
    assert before != after
    assert all(
        v.path.split("/")[-1] in "minimum maximum"
        for v in layers[0].variables
        if v.trainable
    )


def test_the_model_is_left_as_it_was_and_compiled_alike(data):
    model = compiled(cnn(), metrics=["accuracy"])
    before = [w.numpy() for w in model.weights]
    aware = kprune.quantize_aware(model)
    assert aware.compiled and aware.optimizer is not model.optimizer
    assert type(aware.optimizer) is type(model.optimizer)
    fit(aware, data)
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, weight.numpy())
    assert not switches(model)


def test_a_saved_model_goes_on_as_if_it_were_not_saved(data, tmp_path):
    aware = fit(compiled(kprune.quantize_aware(cnn())), data, epochs=2)
    aware.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.predict(data[0], verbose=0), aware.predict(data[0], verbose=0)
    )
    again = [fit(model, data, epochs=1) for model in (aware, loaded)]
    # Dropout draws anew after loading, so that only what it does not touch is equal.
    assert len(again[0].weights) == len(again[1].weights)


# --- Zeros ----------------------------------------------------------------------------


def zeros_of(model):
    return [w.numpy() == 0 for w in model.weights if w.name == "kernel"]


@pytest.mark.parametrize("how", ["in_place", "wrappers", "loaded"])
@pytest.mark.slow
def test_zeros_are_held_into_the_file(how, data, tmp_path):
    model = cnn()
    if how == "wrappers":
        model = kprune.prune(model, 0.8)
    callback = kprune.PruningCallback(*([] if how == "wrappers" else [0.8]))
    fit(compiled(model), data, callback)
    if how == "loaded":
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    before = zeros_of(model)
    more = [kprune.PruningCallback()] if how == "wrappers" else []
    aware = fit(compiled(kprune.quantize_aware(model)), data, *more)
    after = zeros_of(aware)
    assert sum(zeros.any() for zeros in before) == 3
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    report = File(aware, tmp_path, representative_data=data[0]).report
    kernels = [w for w in report.weights if w.path.endswith("/kernel")]
    for zeros, weight in zip(before, kernels, strict=True):
        assert weight.counted_in == "file"
        # Small weights may come to zero beside the pruned ones.
        assert weight.zeros >= zeros.sum()


@pytest.mark.parametrize("per_channel", [False, True])
def test_zeros_and_shared_values_are_held_while_rounding_is_trained(data, per_channel):
    """tfmot's PCQAT."""
    model = compiled(cnn())
    fit(model, data, kprune.PruningCallback(0.5))
    settings = dict(num_clusters=8, per_channel=per_channel)
    clustered = kprune.cluster(model, **settings)
    before = [w.values for w in clustered.clustering_report.weights]
    aware = compiled(kprune.quantize_aware(clustered))
    kernels = [
        w
        for w in aware.trainable_variables
        if w.name == "kernel" and "depthwise" not in w.path  # Not clustered.
    ]
    old = [w.numpy() for w in kernels]
    sharing = kprune.ClusteringCallback(begin_step=0, **settings)
    fit(aware, data, sharing, kprune.QuantizationCallback(0))
    assert [w.values for w in sharing.report.weights] == before and max(before) <= 8
    for now, was in zip(kernels, old, strict=True):
        if not per_channel:  # Counted by hand, zero among them.
            assert len(np.unique(np.append(now.numpy(), 0))) <= 8
        assert np.count_nonzero(now.numpy() != was)
        np.testing.assert_array_equal(now.numpy()[was == 0], 0)


@pytest.mark.parametrize("per_channel", [False, True])
def test_shared_values_that_nothing_holds_are_told(data, per_channel):
    model = compiled(chain((8, 8, 1), L.Flatten(), L.Dense(16), L.Dense(3)))
    clustered = kprune.cluster(model, num_clusters=4, per_channel=per_channel)
    aware = compiled(kprune.quantize_aware(clustered))
    first, second = (w for w in aware.trainable_variables if w.name == "kernel")
    setting = "per_channel=True, " if per_channel else ""
    said = rf"{first.path} \(4\), .*num_clusters=4, {setting}begin_step=0"
    with pytest.warns(kprune.PruningWarning, match=said) as caught:
        fit(aware, data, kprune.QuantizationCallback(0))
    assert len(caught) == 1 and second.path in str(caught[0].message)
    aware = compiled(kprune.quantize_aware(clustered))
    sharing = kprune.ClusteringCallback(4, per_channel=per_channel, begin_step=0)
    fit(aware, data, kprune.QuantizationCallback(0), sharing)  # Nothing is said.
    assert max(weight.values for weight in sharing.report.weights) <= 4
    fit(aware, data, kprune.QuantizationCallback(0))  # Clusters stay on the model.


@pytest.mark.slow
def test_pruned_clustered_and_rounded_down_to_the_file(tmp_path):
    """tfmot's longest test of PCQAT, on digits: accuracy, zeros and values survive."""
    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8, 1) / 16).astype("float32")
    (x, test_x), (y, test_y) = (x[:1497], x[1497:]), (y[:1497], y[1497:])

    def accuracy(model):
        return np.mean(model.predict(test_x, verbose=0).argmax(1) == test_y)

    network = [L.Conv2D(12, 3, activation="relu"), L.MaxPooling2D(), L.Flatten()]
    model = compiled(chain((8, 8, 1), *network, L.Dense(10)))
    fit(model, (x, y), kprune.PruningCallback(0.5), epochs=10)
    pruned = kprune.inspect(model).sparsity
    clustered = compiled(kprune.cluster(model, num_clusters=8))
    aware = compiled(kprune.quantize_aware(clustered))
    sharing = kprune.ClusteringCallback(8, begin_step=0)
    fit(aware, (x, y), sharing, kprune.QuantizationCallback(0))
    file = File(aware, tmp_path, representative_data=test_x)
    in_file = np.mean(np.argmax(file.run(test_x), 1) == test_y)
    assert min(accuracy(model), accuracy(clustered), accuracy(aware), in_file) > 0.8
    assert accuracy(aware) >= accuracy(clustered)
    kernels = [t.array for t in file.parsed.weights() if t.array.ndim > 1]
    assert len(kernels) == 2
    for kernel in kernels:  # One scale per output, the first axis.
        assert max(len(np.unique(np.append(row, 0))) for row in kernel) <= 8
    zeros = sum(np.sum(kernel == 0) for kernel in kernels)
    assert zeros / sum(kernel.size for kernel in kernels) >= pruned > 0.4


def test_pruning_first_and_rounding_then_in_one_fit(data):
    aware = compiled(kprune.quantize_aware(cnn()))
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            layer = switches(self.model)[0]
            seen.append((layer.active, layer.frozen))

    pruning = kprune.PruningCallback(0.75)
    rounding = kprune.QuantizationCallback(freeze_step=kprune.FitFraction(0.75))
    fit(aware, data, pruning, rounding, Watch(), epochs=4)
    assert pruning.report.sparsity == pytest.approx(0.75, abs=0.01)
    # Six batches in each epoch; a callback sees what the one before it did.
    assert [active for active, _ in seen].index(True) == 11
    assert [frozen for _, frozen in seen].index(True) == 17
    assert all(
        mask_of(w) is not None
        for w in aware.weights
        if w.name == "kernel" and "depthwise" not in w.path
    )


def test_before_rounding_begins_it_is_the_float_model(data):
    model = cnn()
    aware = compiled(kprune.quantize_aware(model, data=data[0]))
    fit(aware, data, kprune.QuantizationCallback(6), epochs=1)
    rounded = aware.predict(data[0], verbose=0)
    with unrounded():
        exact = np.asarray(aware(data[0], training=False))
    assert np.abs(rounded - exact).max() > 1e-4
    with pytest.warns(WARNS, match="begin_step is step 100: nothing is rounded"):
        fit(aware, data, kprune.QuantizationCallback(100), epochs=1)
    with unrounded():
        exact = np.asarray(aware(data[0], training=False))
    np.testing.assert_allclose(aware.predict(data[0], verbose=0), exact, atol=1e-5)


def test_a_resumed_fit_equals_an_uninterrupted_one(data, tmp_path):
    def model():
        keras.utils.set_random_seed(3)
        network = cnn()
        plain = [layer for layer in network.layers if not isinstance(layer, L.Dropout)]
        return compiled(
            kprune.quantize_aware(keras.Sequential([L.Input((8, 8, 1)), *plain]))
        )

    def rounding():
        return kprune.QuantizationCallback(freeze_step=kprune.FitFraction(0.75))

    whole = fit(model(), data, rounding())
    half = model()

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                self.model.save(tmp_path / "model.keras")
                self.model.stop_training = True

    fit(half, data, rounding(), Stop())
    loaded = keras.models.load_model(tmp_path / "model.keras")
    fit(loaded, data, rounding(), initial_epoch=3)
    for a, b in zip(whole.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.filterwarnings("ignore:`shuffle=True`:UserWarning")
def test_data_of_unknown_length(data):
    x, y = data
    unknown = tf.data.Dataset.from_generator(
        lambda: zip(x, y, strict=True),
        output_signature=(tf.TensorSpec((8, 8, 1)), tf.TensorSpec((), tf.int64)),
    ).batch(16)
    aware = compiled(kprune.quantize_aware(cnn()))
    aware.fit(unknown, epochs=2, verbose=0, callbacks=[kprune.QuantizationCallback()])
    assert switches(aware)[0].active
    fresh = compiled(kprune.quantize_aware(cnn()))
    with pytest.raises(ValueError, match="number of batches in an epoch is not known"):
        fresh.fit(unknown, verbose=0, callbacks=[kprune.QuantizationCallback()])


def test_a_teacher_teaches_it(data):
    teacher = compiled(cnn())
    aware = compiled(kprune.quantize_aware(cnn()), metrics=["accuracy"])
    history = kprune.distill(aware, teacher).fit(*data, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


# --- Structure ------------------------------------------------------------------------


def test_names_of_outputs_and_layers_stay():
    inputs = L.Input((4,))
    a = L.Dense(3, activation="softmax", name="kind")(inputs)
    b = L.Dense(1, name="size")(inputs)
    model = keras.Model(inputs, {"a": a, "b": b})
    aware = kprune.quantize_aware(model, data=noise(8, 4))
    assert aware.output_names == model.output_names
    assert sorted(aware(noise(2, 4))) == ["a", "b"]
    assert aware.get_layer("kind_dense").layer.units == 3
    several = kprune.quantize_aware(keras.Model(inputs, [a, b]), data=noise(8, 4))
    several.compile(loss={"kind": "mse", "size": "mse"})


def test_layers_that_are_skipped_stay_in_float32():
    model = cnn()
    first = model.layers[0]
    for skip in (first.name, first, L.Conv2D, lambda x: x is first, "conv2d*"):
        with pytest.warns(WARNS, match="stay in float32"):
            aware = kprune.quantize_aware(model, skip=skip, strict=True)
        floats = [layer.name for layer in aware.quantization_report.floats]
        assert first.name in floats
        assert type(aware.get_layer(first.name)) is L.Conv2D


def test_a_normalisation_that_another_layer_reads_is_not_folded():
    inputs = L.Input((8, 8, 3))
    x = L.Conv2D(4, 3)(inputs)
    model = keras.Model(inputs, L.Add()([L.BatchNormalization()(x), x]))
    aware = kprune.quantize_aware(model, data=noise(8, 8, 8, 3))
    forms = [layer.form for layer in aware.quantization_report.layers]
    assert forms == [
        "int8, a range per channel",
        "int8, as a depthwise convolution",
        "int8",
    ]


# --- Bad input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"ranges": "best"}, ValueError, "`ranges` must be one of"),
        ({"ranges": "learned"}, ValueError, "'learned' needs data to begin with"),
        ({"momentum": 1.0}, ValueError, r"`momentum` must be in \[0, 1\)"),
        ({"skip": "no_layer"}, ValueError, "skip: 'no_layer'"),
        ({"skip": 3}, TypeError, "`skip` takes layers"),
        ({"skip": L.LSTM}, ValueError, "matches no layer"),
        ({"skip": "*"}, ValueError, "no layer of .* can be quantised"),
        ({"data": noise(0, 8, 8, 1)}, ValueError, "quantize_aware"),
        ({"data": noise(8, 8, 8, 1), "num_batches": 0}, ValueError, "num_batches"),
    ],
)
def test_bad_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        kprune.quantize_aware(cnn(), **arguments)


def test_data_that_is_not_a_number_is_refused():
    x = noise(32, 8, 8, 1)
    x[3] = np.nan
    with pytest.raises(ValueError, match="activations at .* are NaN or infinite"):
        kprune.quantize_aware(cnn(), data=x)


def test_models_that_cannot_be_copied_are_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="is a subclassed model"):
        kprune.quantize_aware(Own())
    with pytest.raises(ValueError, match="is not built"):
        kprune.quantize_aware(keras.Sequential([L.Dense(3)]))
    with pytest.raises(TypeError, match="expected a Keras 3 model"):
        kprune.quantize_aware(L.Dense(3))
    with pytest.raises(ValueError, match="is quantised already"):
        kprune.quantize_aware(kprune.quantize_aware(cnn()))


@pytest.mark.parametrize(
    "remove",
    [
        lambda model: kprune.shrink(model, 0.5),
        lambda model: kprune.plan_shrink(model, 0.5),
        lambda model: kprune.Pruner(
            model,
            optimizer=keras.optimizers.Adam(),
            sparsity=0.5,
            steps_per_epoch=8,
            granularity="channel",
        ),
    ],
)
def test_channels_go_before_a_model_rounds(remove):
    aware = kprune.quantize_aware(cnn())
    before = [np.array(weight) for weight in aware.weights]
    with pytest.raises(ValueError, match="Do it before: small = kprune.shrink"):
        remove(aware)
    np.testing.assert_equal([np.array(weight) for weight in aware.weights], before)


def test_what_is_not_trained_is_not_exported(data, tmp_path):
    path = tmp_path / "model.tflite"
    aware = compiled(kprune.quantize_aware(cnn()))
    with pytest.raises(ValueError, match="export: the range .* was never observed"):
        kprune.export(aware, path)
    with pytest.raises(ValueError, match="is trained for quantization='int8'"):
        kprune.export(aware, path, quantization="float16")
    with pytest.warns(WARNS):
        fit(aware, data, kprune.QuantizationCallback(100), epochs=1)
    with pytest.raises(ValueError, match="does not round yet"):
        kprune.export(aware, path)
    assert not path.exists()


def test_the_callback_refuses_what_cannot_be(data):
    with pytest.raises(ValueError, match="nothing in .* rounds"):
        fit(compiled(cnn()), data, kprune.QuantizationCallback())
    with pytest.raises(ValueError, match="before rounding begins after step 5"):
        fit(
            compiled(kprune.quantize_aware(cnn())),
            data,
            kprune.QuantizationCallback(5, 2),
        )
    with pytest.raises(TypeError, match="begin_step"):
        kprune.QuantizationCallback("late")


def test_observing_changes_no_weight():
    aware = kprune.quantize_aware(cnn())
    kernels = [w.numpy() for w in aware.weights if w.name == "kernel"]
    with observing():
        aware(noise(4, 8, 8, 1), training=False)
    after = [w.numpy() for w in aware.weights if w.name == "kernel"]
    for a, b in zip(kernels, after, strict=True):
        np.testing.assert_array_equal(a, b)
