"""Small models with the shapes of those in use, with weights that nothing hides behind.

Each function builds one; `built(name)` gives its weights seeded random values, biases
and statistics of normalisations included, which are all zero or one otherwise.
"""

import keras
import numpy as np

L = keras.layers


def _conv(x, filters, size=3, strides=1, activation="relu", **kwargs):
    x = L.Conv2D(filters, size, strides, padding="same", use_bias=False, **kwargs)(x)
    x = L.BatchNormalization()(x)
    return L.Activation(activation)(x) if activation else x


def resnet8():
    """The image classifier of MLPerf Tiny, on smaller images."""
    x = inputs = L.Input((16, 16, 3))
    x = _conv(x, 16)
    for stage, filters in enumerate((16, 32, 64)):
        strides = 1 if stage == 0 else 2
        y = _conv(_conv(x, filters, strides=strides), filters, activation=None)
        if stage:
            x = L.Conv2D(filters, 1, strides, padding="same")(x)
        x = L.ReLU()(L.Add()([x, y]))
    x = L.AveragePooling2D(4)(x)
    return keras.Model(inputs, L.Dense(10)(L.Flatten()(x)))


def ds_cnn():
    """The keyword spotter of MLPerf Tiny: depthwise and pointwise in turn."""
    x = inputs = L.Input((24, 10, 1))
    x = L.Dropout(0.2)(_conv(x, 16, (10, 4), 2))
    for _ in range(3):
        x = L.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = _conv(L.ReLU()(L.BatchNormalization()(x)), 16, 1)
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(12, activation="softmax")(x))


def mobilenet():
    """The person detector of MLPerf Tiny."""
    return keras.applications.MobileNet(
        (32, 32, 3), alpha=0.25, weights=None, classes=2, classifier_activation=None
    )


def autoencoder():
    """The anomaly detector of MLPerf Tiny: dense, down to a bottleneck and up."""
    layers = [L.Input((40,))]
    for units in (16, 16, 4, 16, 16):
        layers += [L.Dense(units), L.BatchNormalization(), L.ReLU()]
    return keras.Sequential([*layers, L.Dense(40)])


def unet():
    """Skips that are concatenated on the way up."""
    x = inputs = L.Input((16, 16, 2))
    skips = []
    for filters in (6, 12):
        x = _conv(_conv(x, filters), filters)
        skips.append(x)
        x = L.MaxPooling2D()(x)
    x = _conv(x, 24)
    for filters, skip in ((12, skips[1]), (6, skips[0])):
        x = L.Conv2DTranspose(filters, 2, 2)(x)
        x = _conv(L.Concatenate()([x, skip]), filters)
    return keras.Model(inputs, L.Conv2D(3, 1)(x))


def _block(x, heads, key_dim, attend):
    x = L.Add()([x, attend(L.LayerNormalization()(x), heads, key_dim)])
    y = L.Dense(2 * x.shape[-1], activation="gelu")(L.LayerNormalization()(x))
    return L.Add()([x, L.Dense(x.shape[-1])(y)])


def vit():
    """Patches, learnt positions, and attention among all of them."""

    def attend(x, heads, key_dim):
        return L.MultiHeadAttention(heads, key_dim)(x, x)

    inputs = L.Input((16, 16, 3))
    x = L.Reshape((16, 16))(L.Conv2D(16, 4, 4)(inputs))
    places = L.Input(batch_shape=(None, 16), dtype="int32", name="places")
    x = L.Add()([x, L.Embedding(16, 16)(places)])
    for _ in range(2):
        x = _block(x, 4, 6, attend)
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    return keras.Model([inputs, places], L.Dense(5)(x))


def causal():
    """A decoder whose normalisation can lose channels, with shared keys and values."""

    def attend(x):
        return L.GroupQueryAttention(6, 4, 2)(x, x, use_causal_mask=True)

    inputs = L.Input((12,), dtype="int32")
    x = L.Embedding(20, 16)(inputs)
    for _ in range(2):
        x = L.Add()([x, attend(L.RMSNormalization()(x))])
        y = L.RMSNormalization()(x)
        y = L.Multiply()([L.Dense(24, activation="silu")(y), L.Dense(24)(y)])
        x = L.Add()([x, L.Dense(16)(y)])
    return keras.Model(inputs, L.Dense(20)(L.RMSNormalization()(x)))


def lstm():
    """Two layers over tokens, some of which are padding."""
    inputs = L.Input((10,), dtype="int32")
    x = L.Embedding(30, 12, mask_zero=True)(inputs)
    x = L.LSTM(8)(L.LSTM(10, return_sequences=True)(x))
    return keras.Model(inputs, L.Dense(4)(x))


def bidirectional_gru():
    """A sequence both ways, with a label at each step."""
    inputs = L.Input((9, 5))
    x = L.Conv1D(8, 3, padding="same", activation="relu")(inputs)
    x = L.Bidirectional(L.GRU(6, return_sequences=True))(x)
    x = L.Bidirectional(L.GRU(4, return_sequences=True), merge_mode="sum")(x)
    return keras.Model(inputs, L.TimeDistributed(L.Dense(3))(x))


def siamese():
    """One tower for two images, of which the distance is judged."""
    tower = keras.Sequential(
        [
            L.Input((8, 8, 1)),
            L.Conv2D(6, 3, activation="relu"),
            L.Flatten(),
            L.Dense(8, activation="relu"),
        ],
        name="tower",
    )
    left, right = L.Input((8, 8, 1)), L.Input((8, 8, 1))
    x = L.Subtract()([tower(left), tower(right)])
    return keras.Model([left, right], L.Dense(1)(L.Activation("tanh")(x)))


def two_in_two_out():
    """An image and a vector, a class and a value."""
    image, vector = L.Input((8, 8, 2), name="image"), L.Input((5,), name="vector")
    x = L.GlobalAveragePooling2D()(_conv(image, 8))
    x = L.Concatenate()([x, L.Dense(6, activation="relu")(vector)])
    x = L.Dense(10, activation="relu")(x)
    classes = L.Dense(3, name="classes")(x)
    value = L.Dense(1, name="value")(L.Dense(4, activation="relu")(x))
    return keras.Model({"image": image, "vector": vector}, [classes, value])


def sequential_in_functional():
    """A backbone as it is taken from elsewhere, and a head."""
    backbone = keras.Sequential(
        [
            L.Input((8, 8, 1)),
            L.Conv2D(6, 3, activation="relu"),
            L.BatchNormalization(),
            L.Conv2D(8, 3, activation="relu"),
        ],
        name="backbone",
    )
    inputs = L.Input((8, 8, 1))
    x = L.GlobalMaxPooling2D()(backbone(inputs))
    return keras.Model(inputs, L.Dense(3)(x))


def functional_in_functional():
    """An inner model whose input has channels that go with the outer graph's."""
    inner_inputs = L.Input((8, 8, 6))
    y = _conv(inner_inputs, 6)
    y = L.Add()([inner_inputs, y])
    inner = keras.Model(inner_inputs, [y, L.GlobalAveragePooling2D()(y)], name="inner")
    inputs = L.Input((8, 8, 2))
    x, pooled = inner(L.Conv2D(6, 1, name="stem")(inputs))
    x = L.Concatenate()([L.GlobalMaxPooling2D()(x), pooled])
    return keras.Model(inputs, L.Dense(3)(x))


def squeeze_and_excite():
    """Channels that are weighed by what they say of the whole image."""
    x = inputs = L.Input((8, 8, 3))
    x = _conv(x, 12, activation="silu")
    gate = L.GlobalAveragePooling2D(keepdims=True)(x)
    gate = L.Conv2D(4, 1, activation="relu")(gate)
    gate = L.Conv2D(12, 1, activation="hard_sigmoid")(gate)
    x = _conv(L.Multiply()([x, gate]), 8)
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


def flattened():
    """Channels that become many columns of a dense layer each."""
    x = inputs = L.Input((8, 8, 1))
    x = L.MaxPooling2D()(_conv(_conv(x, 4), 6))
    x = L.Dense(10, activation="relu")(L.Flatten()(x))
    return keras.Model(inputs, L.Dense(3)(x))


# By the name what groups there are, and how many units in each.
GROUPS = {
    resnet8: [16, 16, 32, 32, 64, 64],
    ds_cnn: [16, 16, 16, 16],
    mobilenet: [8, 16, 32, 32, 64, 64, *[128] * 6, 256, 256],
    autoencoder: [16, 16, 4, 16, 16],
    unet: [6, 6, 12, 12, 24, 12, 12, 6, 6],
    # What layer normalisations see stays; heads and hidden units go.
    vit: [4, 6, 6, 32, 4, 6, 6, 32],
    causal: [16, 2, 6, 24, 2, 6, 24],
    lstm: [12, 10, 8],
    bidirectional_gru: [8, 6, 4],
    siamese: [6, 8],
    two_in_two_out: [8, 6, 10, 4],
    sequential_in_functional: [6, 8],
    functional_in_functional: [6],
    squeeze_and_excite: [12, 4, 8],
    flattened: [4, 6, 10],
}
FACTORIES = {make.__name__: make for make in GROUPS}


def built(name: str) -> keras.Model:
    """Returns the model of that name, with seeded random weights."""
    keras.utils.set_random_seed(0)
    model = scrambled(FACTORIES[name]())
    # So that outputs depend on inputs also where half of all channels are zero.
    for variable in model.trainable_variables:
        if "kernel" in variable.name:
            variable.assign(2 * variable)
        elif variable.name == "embeddings":
            variable.assign(20 * variable)
    for layer in model.layers:
        if isinstance(layer, L.DepthwiseConv2D):
            # Keras takes all channels for its inputs, and makes it that much smaller.
            layer.kernel.assign(layer.kernel * layer.kernel.shape[-2] ** 0.5)
    return model


def scrambled(model: keras.Model, spread: float = 0.5) -> keras.Model:
    """Gives all that begins as zeros or ones random values, and returns the model.

    Args:
        model: The model.
        spread: How far from 1 factors lie; where layers are many, signals grow with it.
    """
    rng = np.random.default_rng(0)
    factors = ("gamma", "scale", "moving_variance")
    for variable in model.weights:
        if variable.name in factors or "layer_scale" in variable.path:
            values = rng.uniform(1 - spread, 1 + spread, variable.shape)
            variable.assign(values)
        elif variable.name in ("beta", "bias", "moving_mean"):
            variable.assign(rng.normal(0, 0.1, variable.shape))
    return model
