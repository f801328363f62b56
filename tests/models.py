"""Small models of every kind that tests prune."""

import keras

L = keras.layers


def compiled(model, optimizer="adam", **kwargs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **kwargs)
    return model


def sequential():
    return keras.Sequential(
        [
            L.Input((8, 8, 1)),
            L.Conv2D(6, 3, activation="relu"),
            L.BatchNormalization(),
            L.Flatten(),
            L.Dense(16, activation="relu"),
            L.Dense(3),
        ]
    )


def functional():
    inputs = L.Input((8, 8, 1))
    x = L.Conv2D(6, 3, padding="same")(inputs)
    y = L.Conv2D(6, 1)(x)
    x = L.Add()([x, y])
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(3)(x))


def nested():
    inputs = L.Input((8, 8, 1))
    backbone = keras.Sequential(
        [L.Input((8, 8, 1)), L.Conv2D(6, 3), L.Flatten()], name="backbone"
    )
    return keras.Model(inputs, L.Dense(3)(backbone(inputs)))


def shared():
    inputs = L.Input((8, 8, 1))
    tower = L.Dense(5)
    left = tower(L.Flatten()(inputs))
    right = tower(L.Flatten()(L.ReLU()(inputs)))
    return keras.Model(inputs, L.Dense(3)(L.Concatenate()([left, right])))


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.flatten = L.Flatten()
        self.hidden = L.Dense(16, activation="relu")
        self.head = L.Dense(3)

    def call(self, inputs):
        return self.head(self.hidden(self.flatten(inputs)))


def of_all_layers():
    """A model with a layer of each kind that has kernels."""
    images, words = L.Input((8, 8, 4)), L.Input((6,), dtype="int32")
    x = L.Conv2D(8, 3, padding="same")(images)
    x = L.Conv2DTranspose(8, 3, padding="same")(x)
    x = L.SeparableConv2D(8, 3, padding="same")(x)
    x = L.DepthwiseConv2D(3, padding="same")(x)
    x = L.Conv3D(8, 2, padding="same")(L.Reshape((4, 4, 4, 8))(x))
    x = L.ConvLSTM2D(8, 2)(x)
    x = L.Reshape((9, 8))(x)
    x = L.Conv1D(8, 3, padding="same")(x)
    x = L.Bidirectional(L.LSTM(4, return_sequences=True))(x)
    x = L.GRU(8, return_sequences=True)(x)
    x = L.MultiHeadAttention(2, 4)(x, x)
    x = L.EinsumDense("abc,cd->abd", (9, 8))(x)
    x = L.TimeDistributed(L.Dense(8))(x)
    y = L.SimpleRNN(8)(L.Embedding(16, 8)(words))
    x = L.Concatenate()([L.Flatten()(x), y])
    model = keras.Model([images, words], L.Dense(3)(x))
    return compiled(model, run_eagerly=True)  # Tracing takes longer than four steps.


KINDS = {
    "sequential": sequential,
    "functional": functional,
    "nested": nested,
    "shared": shared,
    "subclassed": Subclassed,
}
GRAPHS = {kind: make for kind, make in KINDS.items() if kind != "subclassed"}
