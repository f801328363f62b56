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


KINDS = {
    "sequential": sequential,
    "functional": functional,
    "nested": nested,
    "shared": shared,
    "subclassed": Subclassed,
}
GRAPHS = {kind: make for kind, make in KINDS.items() if kind != "subclassed"}
