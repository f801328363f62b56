"""Small networks of the forms that XNNPACK computes sparsely, densely or wrongly.

Each with what XNNPACK does with its zeros, as measured with ai-edge-litert 2.3.0.
"""

import keras
import numpy as np

from kprune.export.xnnpack import Outcome

L = keras.layers
SKIPS, MULTIPLIES, WRONG = Outcome.SKIPS, Outcome.MULTIPLIES, Outcome.WRONG


def stem(x, kernel=3, stride=2, activation="relu", padded=True):
    if padded:
        x = L.ZeroPadding2D(kernel // 2)(x)
    padding = "valid" if padded else "same"
    x = L.Conv2D(16, kernel, strides=stride, padding=padding)(x)
    return activated(x, activation)


def activated(x, activation):
    if activation == "prelu":
        return L.PReLU(shared_axes=[1, 2])(x)
    return L.Activation(activation)(x)


def blocks(x, activation="relu", padded=True, kernel=3, residual=False):
    for width, stride in ((32, 1), (48, 2), (48, 1)):
        if stride == 2 and padded:
            x = L.ZeroPadding2D(kernel // 2)(x)
            x = L.DepthwiseConv2D(kernel, strides=2)(x)
        else:
            x = L.DepthwiseConv2D(kernel, strides=stride, padding="same")(x)
        x = activated(x, activation)
        y = activated(L.Conv2D(width, 1)(x), activation)
        x = L.Add()([x, y]) if residual and x.shape == y.shape else y
    return x


def head(x):
    return L.Dense(5)(L.GlobalAveragePooling2D()(x))


def convolution_head(x):
    return L.Flatten()(L.Conv2D(5, 1)(L.GlobalAveragePooling2D(keepdims=True)(x)))


def net(middle=lambda x: x, end=head, size=32, channels=3, first=stem, **kwargs):
    inputs = L.Input((size, size, channels), name="image")
    x = first(inputs, activation=kwargs.get("activation", "relu"))
    return keras.Model(inputs, end(middle(blocks(x, **kwargs))))


def middle(function):
    return lambda: net(function)


def end(function):
    return lambda: net(end=function)


def act(name):
    return lambda: net(activation=name)


def first(**kwargs):
    return lambda: net(
        first=lambda x, activation: stem(x, activation=activation, **kwargs)
    )


def reduced(name, **kwargs):
    return L.Lambda(lambda x: getattr(keras.ops, name)(x, **kwargs))


def squeeze_and_excite(gate):
    def block(x):
        s = L.GlobalAveragePooling2D(keepdims=True)(x)
        s = L.Conv2D(16, 1, activation="relu")(s)
        return L.Multiply()([x, L.Conv2D(x.shape[-1], 1, activation=gate)(s)])

    return block


def chain(between):
    def model():
        inputs = L.Input((32, 32, 3), name="image")
        x = between(blocks(stem(inputs)))
        return keras.Model(inputs, head(L.Conv2D(32, 1)(x)))

    return model


def forked(function):
    """What the blocks make is read by a 1x1 convolution and by something else."""
    return middle(lambda x: function([L.Conv2D(48, 1)(x), x]))


def with_output(function):
    def model():
        whole = net(lambda x: L.Conv2D(32, 1)(x))
        inner = function(whole)
        return keras.Model(whole.inputs, [whole.outputs[0], inner])

    return model


def _depth_to_space(x):
    import tensorflow as tf

    return L.Lambda(lambda t: tf.nn.depth_to_space(t, 2))(x)


# The share of zeros in the weights of the 1x1 convolutions.
SPARSITY = 0.85

FORMS = {
    # What is eligible.
    "base": (net, SKIPS),
    "relu6": (act("relu6"), SKIPS),
    "leaky relu": (act("leaky_relu"), SKIPS),
    "elu": (act("elu"), SKIPS),
    "hard swish": (act("hard_swish"), SKIPS),
    "gelu": (act("gelu"), SKIPS),
    "silu": (act("silu"), SKIPS),
    "residual": (lambda: net(residual=True), SKIPS),
    "squeeze and excite": (middle(squeeze_and_excite("sigmoid")), SKIPS),
    "spatial gate": (
        middle(lambda x: L.Multiply()([x, L.Conv2D(1, 1, activation="sigmoid")(x)])),
        SKIPS,
    ),
    "depthwise 5x5": (lambda: net(kernel=5), SKIPS),
    "bilinear": (middle(L.UpSampling2D(2, interpolation="bilinear")), SKIPS),
    "square": (middle(reduced("square")), SKIPS),
    "dense between": (middle(L.Dense(16)), SKIPS),
    "two dense": (
        end(lambda x: L.Softmax()(L.Dense(4)(L.Dense(8, "relu")(head(x))))),
        SKIPS,
    ),
    "sum": (end(lambda x: L.Dense(5)(reduced("sum", axis=(1, 2))(x))), SKIPS),
    "flatten after mean": (
        end(
            lambda x: L.Dense(5)(
                L.Flatten()(L.GlobalAveragePooling2D(keepdims=True)(x))
            )
        ),
        SKIPS,
    ),
    "depth to space": (end(_depth_to_space), SKIPS),
    # What stays dense.
    "same padding": (
        lambda: net(first=lambda x, activation: stem(x, padded=False), padded=False),
        MULTIPLIES,
    ),
    "stem same padding": (first(padded=False), MULTIPLIES),
    "odd size": (lambda: net(size=33), MULTIPLIES),
    "stem stride 1": (first(stride=1), MULTIPLIES),
    "stem 5x5": (first(kernel=5), MULTIPLIES),
    "stem 1x1": (first(kernel=1, stride=1), MULTIPLIES),
    "one input channel": (lambda: net(channels=1), MULTIPLIES),
    "prelu": (act("prelu"), MULTIPLIES),
    "hard sigmoid gate": (middle(squeeze_and_excite("hard_sigmoid")), MULTIPLIES),
    "average pooling and flatten": (
        end(lambda x: L.Dense(5)(L.Flatten()(L.AveragePooling2D(8)(x)))),
        MULTIPLIES,
    ),
    "flatten": (end(lambda x: L.Dense(5)(L.Flatten()(x))), MULTIPLIES),
    "max pooling at the end": (
        end(lambda x: L.Dense(5)(L.GlobalMaxPooling2D()(x))),
        MULTIPLIES,
    ),
    "concatenation": (forked(lambda xs: L.Concatenate()(xs)), MULTIPLIES),
    "subtraction": (forked(lambda xs: L.Subtract()(xs)), MULTIPLIES),
    "maximum": (forked(lambda xs: L.Maximum()(xs)), MULTIPLIES),
    "softmax beside": (
        with_output(lambda m: L.Softmax()(m.layers[-4].output)),
        MULTIPLIES,
    ),
    "pooling beside": (
        middle(lambda x: L.Add()([x, L.MaxPooling2D(1)(x)])),
        MULTIPLIES,
    ),
    "3x3 beside": (
        middle(lambda x: L.Add()([x, L.Conv2D(48, 3, padding="same")(x)])),
        MULTIPLIES,
    ),
    "constants": (middle(L.Rescaling(2.0, 0.5)), MULTIPLIES),
    "strided 1x1": (middle(L.Conv2D(32, 1, strides=2)), MULTIPLIES),
    "two channels of each": (
        middle(L.DepthwiseConv2D(3, depth_multiplier=2, padding="same")),
        MULTIPLIES,
    ),
    "dilated": (
        middle(L.DepthwiseConv2D(3, dilation_rate=2, padding="same")),
        MULTIPLIES,
    ),
    "depthwise 7x7": (middle(L.DepthwiseConv2D(7, padding="same")), MULTIPLIES),
    "depthwise valid": (middle(L.DepthwiseConv2D(3)), MULTIPLIES),
    "cropping": (middle(L.Cropping2D(1)), MULTIPLIES),
    "transposed": (middle(L.Conv2DTranspose(32, 2, strides=2)), MULTIPLIES),
    # What must not be written.
    "max pooling between": (chain(L.MaxPooling2D(2)), WRONG),
    "average pooling between": (chain(L.AveragePooling2D(2)), WRONG),
    "3x3 between": (chain(L.Conv2D(32, 3, padding="same")), WRONG),
    "padding before 1x1": (chain(L.ZeroPadding2D(1)), WRONG),
    "convolution as head": (
        end(convolution_head),
        WRONG,
    ),
    "mean over channels": (
        middle(lambda x: L.Multiply()([x, reduced("mean", axis=-1, keepdims=True)(x)])),
        WRONG,
    ),
    "mean over height": (
        end(lambda x: L.Dense(5)(L.Flatten()(reduced("mean", axis=1)(x)))),
        WRONG,
    ),
    "an output in the middle": (with_output(lambda m: m.layers[-4].output), WRONG),
    "a 1x1 convolution as output": (
        end(lambda x: [L.Conv2D(8, 1)(x), L.GlobalAveragePooling2D()(x)]),
        WRONG,
    ),
}


def build(name, sparsity=SPARSITY):
    """Returns a form's model with zeros in its 1x1 convolutions."""
    keras.utils.set_random_seed(0)
    model = FORMS[name][0]()
    rng = np.random.default_rng(0)
    for variable in model.weights:
        value = variable.numpy()
        if value.ndim == 1:
            value = rng.normal(0, 0.2, value.shape)
        elif value.ndim == 4 and value.shape[:2] == (1, 1) and value.size > 200:
            value = zeroed(value, sparsity)
        variable.assign(value)
    return model


def zeroed(value, sparsity):
    """Returns a kernel whose smallest elements are zero, exactly that share."""
    flat = value.reshape(-1).copy()
    flat[np.argsort(np.abs(flat))[: round(sparsity * flat.size)]] = 0
    return flat.reshape(value.shape)
