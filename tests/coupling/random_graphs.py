"""Random functional models out of everything that has a coupling rule.

A model is drawn as a recipe: a list of steps that say which operation is put on which
tensor, with two small numbers for its settings. A step that does not fit its tensor is
left out, so that every recipe makes a model, and shrinks to a small one.
"""

import contextlib
import dataclasses
import importlib
import unittest.mock

import keras
import numpy as np
from hypothesis import strategies as st

from kprune.coupling import registry
from kprune.coupling.rules import operations
from kprune.coupling.rules.axes import operations as classes
from kprune.rebuild import graph_of, has_graph, nodes_of

L, ops = keras.layers, keras.ops

# What inputs may look like: tokens, features, sequences, images, volumes.
INPUTS = ("image", "sequence", "features", "volume", "tokens")
SHAPES = {
    "image": (4, 4, 3),
    "sequence": (6, 3),
    "features": (5,),
    "volume": (3, 3, 3, 2),
    "tokens": (5,),
}
BATCH = 2
MOST_CHANNELS = 12
MOST_ELEMENTS = 600


@dataclasses.dataclass(frozen=True)
class Step:
    """One operation: its kind, the tensor it is put on, and two settings.

    Args:
        kind: A key of `KINDS`.
        source: Which tensor, counted from the newest.
        a: Some number.
        b: Another one.
    """

    kind: str
    source: int = 0
    a: int = 0
    b: int = 0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A model, its weights, and which units are removed of it.

    Args:
        inputs: Keys of `SHAPES`.
        steps: What is put on them.
        seed: For weights, inputs and removed units.
        raw: Whether the last tensor is an output as it is.
    """

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    seed: int = 0
    raw: bool = False


KINDS = {}


def kind(function):
    """Adds a way to grow a model: from a tensor and two numbers to tensors or None."""
    KINDS[function.__name__.removesuffix("_")] = function
    return function


def recipes(most_steps=12):
    """Returns the strategy of recipes."""
    step = st.builds(
        Step,
        kind=st.sampled_from(sorted(KINDS)),
        source=st.sampled_from((0, 0, 0, 1, 2, 3)),
        a=st.integers(0, 7),
        b=st.integers(0, 7),
    )
    return st.builds(
        Recipe,
        inputs=st.lists(st.sampled_from(INPUTS), min_size=1, max_size=2).map(tuple),
        steps=st.lists(step, min_size=3, max_size=most_steps).map(tuple),
        seed=st.integers(0, 1000),
        raw=st.sampled_from((False,) * 7 + (True,)),
    )


def build(recipe):
    """Returns the model of a recipe, with random weights."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(recipe.seed)
    inputs, pool = [], []
    for name in recipe.inputs:
        tokens = name == "tokens"
        tensor = keras.Input(SHAPES[name], dtype="int32" if tokens else "float32")
        inputs.append(tensor)
        # Labels begin behind a first layer with weights.
        first = L.Embedding(7, 6) if tokens else L.Dense(6)
        pool.append(first(tensor))
    used = set()
    for step in recipe.steps:
        grow(pool, used, step)
    model = keras.Model(inputs, _outputs(pool, used, recipe))
    _randomise(model, np.random.default_rng(recipe.seed))
    return model


def grow(pool, used, step):
    """Puts one operation on a tensor of the pool, unless it does not fit."""
    x = pool[-1 - step.source % len(pool)]
    same = [y for y in pool if y is not x and y.shape == x.shape]
    made = KINDS[step.kind](x, step.a, step.b, same)
    if made is None:
        return
    made = made if isinstance(made, list) else [made]
    made = [y for y in made if _is_small(y)]
    if not made:
        return
    used.add(id(x))
    # Whatever else it took is the newest of the same shape: see `other`.
    used.update(id(y) for y in same[-1:])
    pool.extend(made)


def _is_small(tensor):
    sizes = [1 if size is None else size for size in tensor.shape]
    return 2 <= len(sizes) <= 5 and np.prod(sizes) <= MOST_ELEMENTS and all(sizes)


def _outputs(pool, used, recipe):
    ends = [x for x in pool if id(x) not in used]
    outputs = [ends.pop()] if recipe.raw and ends else []
    flat = [x if len(x.shape) == 2 else L.Flatten()(_float(x)) for x in ends[-4:]]
    if flat:
        joined = flat[0] if len(flat) == 1 else L.Concatenate()(flat)
        outputs.append(L.Dense(2)(_float(joined)))
    return outputs


def _float(x):
    if x.dtype == keras.config.floatx():
        return x
    return ops.cast(x, keras.config.floatx())


def _randomise(model, rng):
    """Gives all weights values at which no operation is trivial."""
    for variable in model.weights:
        if "float" not in str(variable.dtype):
            continue
        if "variance" in variable.path:
            value = rng.uniform(0.5, 1.5, variable.shape)
        else:
            fan_in = max(1, int(np.prod(variable.shape[:-1])))
            scale = max(0.2, fan_in**-0.5) if len(variable.shape) > 1 else 0.5
            value = rng.normal(0.1, scale, variable.shape)
        variable.assign(value)


@contextlib.contextmanager
def plain_addition():
    """Makes Keras add by broadcasting, as it says it does.

    Keras 3.15 takes a second operand with one axis of more than one index for a bias,
    and adds it along axis 1 or the last one, whichever has its size: also the biases of
    as many heads of size 1 as there are time steps. Such models compute something else
    before and after removal, whatever rules say.
    """
    backend = importlib.import_module("keras.src.backend.tensorflow.numpy")
    original = backend.add

    def add(left, right):
        both = (getattr(x, "dtype", None) for x in (left, right))
        if all("float" in str(getattr(dtype, "name", dtype)) for dtype in both):
            return backend.subtract(left, backend.negative(right))
        return original(left, right)

    with unittest.mock.patch.object(backend, "add", add):
        yield


def samples(recipe):
    """Returns inputs for the model of a recipe."""
    rng = np.random.default_rng(recipe.seed + 1)
    return [
        rng.integers(0, 7, (BATCH, *SHAPES[name])).astype("int32")
        if name == "tokens"
        else rng.normal(size=(BATCH, *SHAPES[name])).astype(keras.config.floatx())
        for name in recipe.inputs
    ]


def removal(coupling, seed):
    """Returns a random choice of units; each group keeps at least one."""
    rng = np.random.default_rng(seed + 2)
    removed = coupling.nothing()
    for group in coupling.groups:
        count = int(rng.integers(0, group.size))
        removed[rng.choice(group.units, count, replace=False)] = True
    return removed


def classes_with_rules():
    """Returns the classes that a rule is registered for and that models here may have.

    The others need a batch of a known size: see test_operations.py.
    """
    known_batch = set(classes("BroadcastTo Ravel Slice"))
    return set(registry._RULES) - known_batch


def exercised(model):
    """Returns the classes with rules of all operations in a model."""
    found = set()
    for node in nodes_of(graph_of(model)):
        operation = node.operation
        if has_graph(operation):
            found |= exercised(operation)
            continue
        nested = [operation, *getattr(operation, "_layers", [])]
        for one in nested:
            found |= {c for c in type(one).__mro__ if c in registry._RULES}
    return found


# Kinds. Each is given the tensor, two numbers, and other tensors of the same shape.


def _width(number):
    return 2 + number % 7


def _channels(x):
    return x.shape[-1]


def _rank(x):
    return len(x.shape)


def other(x, a, same):
    """Returns another tensor of the same shape, made anew if there is none."""
    if same and a % 4 != 3:
        return same[-1]
    return L.Dense(_channels(x))(_float(x))


def _by_rank(name, x):
    """Returns the layer class for the number of axes of space, if there is one."""
    return getattr(L, f"{name}{_rank(x) - 2}D", None)


@kind
def convolution(x, a, b, same):
    layer = _by_rank("Conv", x)
    if layer is None:
        return None
    groups = 2 if a % 3 == 2 and _channels(x) % 2 == 0 else 1
    filters = _width(b) * groups if groups == 2 else _width(b)
    options = {"padding": "same"} if a % 2 else {}
    size = min(3, *[s for s in x.shape[1:-1]]) if a % 2 == 0 else 3
    if a % 4 == 1:
        options["strides"] = 2
    if a % 4 == 3:
        options["dilation_rate"] = 2
    activation = (None, "relu", "sigmoid", "softplus")[b % 4]
    return layer(
        min(filters, MOST_CHANNELS),
        size,
        groups=groups,
        activation=activation,
        use_bias=b != 3,
        **options,
    )(x)


@kind
def transposed(x, a, b, same):
    layer = _by_rank("Conv", x)
    layer = getattr(L, f"{layer.__name__}Transpose") if layer else None
    return layer(_width(b), 2, strides=1 + a % 2)(x) if layer else None


@kind
def depthwise(x, a, b, same):
    layer = _by_rank("DepthwiseConv", x)
    if layer is None or _channels(x) * (1 + b % 2) > MOST_CHANNELS:
        return None
    activation = (None, "tanh", "sigmoid")[a % 3]
    return layer(3, padding="same", depth_multiplier=1 + b % 2, activation=activation)(
        x
    )


@kind
def separable(x, a, b, same):
    layer = _by_rank("SeparableConv", x)
    if layer is None:
        return None
    return layer(_width(b), 3, padding="same", depth_multiplier=1 + a % 2)(x)


@kind
def dense(x, a, b, same):
    activation = (None, "relu", "gelu", "sigmoid", "softmax", "tanh", "silu", None)[a]
    return L.Dense(_width(b), activation=activation, use_bias=b != 5)(_float(x))


@kind
def spectral(x, a, b, same):
    return L.SpectralNormalization(L.Dense(_width(b)))(_float(x))


@kind
def einsum_dense(x, a, b, same):
    if _rank(x) != 3:
        return None
    time, channels = x.shape[1:]
    equation, shape, bias = (
        ("btc,cd->btd", (time, _width(b)), "d"),
        ("btc,chd->bthd", (time, 2, _width(b) % 4 + 1), "hd"),
        ("btc,td->bdc", (_width(b), channels), None),
        ("btc,tcd->bd", (_width(b),), "d"),
    )[a % 4]
    return L.EinsumDense(equation, shape, bias_axes=bias)(_float(x))


@kind
def batch_norm(x, a, b, same):
    return L.BatchNormalization(scale=a % 3 != 1, center=b % 3 != 1)(_float(x))


@kind
def layer_norm(x, a, b, same):
    return L.LayerNormalization(axis=-1 if a % 2 or _rank(x) < 3 else 1)(_float(x))


@kind
def rms_norm(x, a, b, same):
    return L.RMSNormalization(epsilon=1e-2)(_float(x))


@kind
def group_norm(x, a, b, same):
    if _channels(x) % 2:
        return None
    return L.GroupNormalization(groups=2 if a % 2 else _channels(x))(_float(x))


@kind
def unit_norm(x, a, b, same):
    return L.UnitNormalization()(_float(x))


@kind
def activation(x, a, b, same):
    names = (
        "relu elu gelu sigmoid softplus tanh silu mish selu softsign exponential "
        "hard_sigmoid relu6 log_sigmoid softmax log_softmax"
    ).split()
    return L.Activation(names[(a + 8 * b) % len(names)])(_float(x))


@kind
def activation_layer(x, a, b, same):
    if a % 4 == 3:
        shared = list(range(1, _rank(x) - 1)) if b % 2 else None
        return L.PReLU(alpha_initializer="ones", shared_axes=shared)(_float(x))
    layers = [
        L.ReLU(max_value=2.0, negative_slope=0.1),
        L.LeakyReLU(),
        L.ELU(),
        L.Softmax(axis=-1),
        L.Softmax(axis=1),
        L.Rescaling(0.5, offset=float(b % 2)),
        L.Masking(),
    ]
    if isinstance(layers[(a + b) % 7], L.Masking) and _rank(x) != 3:
        return None
    return layers[(a + b) % 7](_float(x))


@kind
def of_applications(x, a, b, same):
    """Layers of Keras's own models."""
    modules = [
        importlib.import_module(f"keras.src.applications.{name}")
        for name in ("convnext", "inception_resnet_v2")
    ]
    if a % 3 == 0:
        return modules[0].LayerScale(0.5, _channels(x))(_float(x))
    if a % 3 == 1:
        return modules[0].StochasticDepth(0.5)(_float(x))
    scaled = modules[1].CustomScaleLayer(0.3)
    return scaled([_float(x), _float(other(x, b, same))])


@kind
def read_backwards(x, a, b, same):
    """The end of a language model: scores for each row of an embedding."""
    layer = L.ReversibleEmbedding(_width(b), _channels(x), tie_weights=a % 2 == 0)
    return layer(_float(x), reverse=True)


@kind
def fixed_normalization(x, a, b, same):
    ones = np.ones(_channels(x))
    axis = -1 if a % 2 else None
    values = {"mean": ones, "variance": ones} if a % 2 else {"mean": 0.5, "variance": 2}
    return L.Normalization(axis=axis, **values)(_float(x))


@kind
def nothing_at_inference(x, a, b, same):
    layers = [
        L.Dropout(0.5),
        L.GaussianNoise(0.5),
        L.GaussianDropout(0.5),
        L.Identity(),
        L.AlphaDropout(0.2),
        L.ActivityRegularization(),
        getattr(L, f"SpatialDropout{min(max(_rank(x) - 2, 1), 3)}D")(0.5),
    ]
    if a % 7 == 6 and _rank(x) < 3:
        return None
    return layers[a % 7](_float(x))


@kind
def merge(x, a, b, same):
    layers = [L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum]
    return layers[a % 6]()([_float(x), _float(other(x, b, same))])


@kind
def residual(x, a, b, same):
    return L.Add()([_float(x), L.Dense(_channels(x), activation="relu")(_float(x))])


@kind
def broadcast_merge(x, a, b, same):
    """Merges with a tensor that has one channel, or one place, for all."""
    if _rank(x) < 3:
        y = L.Dense(1 if b % 2 else _channels(x))(_float(x))
    elif b % 2:
        y = L.Dense(1)(_float(x))
        y = y if a % 2 else ops.mean(_float(x), -1, keepdims=True)
    else:
        axes = tuple(range(1, _rank(x) - 1))
        y = ops.mean(_float(x), axes, keepdims=True)
    layers = [L.Add, L.Multiply, L.Subtract, L.Maximum]
    return layers[a % 4]()([_float(x), y])


@kind
def concatenate(x, a, b, same):
    if b % 4 == 3 and _rank(x) > 2:
        return L.Concatenate(axis=1)([_float(x), _float(other(x, a, same))])
    y = L.Dense(_width(a))(_float(x)) if a % 2 else _float(other(x, a, same))
    if b % 3 == 1:
        return ops.concatenate([_float(x), y], axis=-1)
    return L.Concatenate()([_float(x), y])


@kind
def dot(x, a, b, same):
    if _rank(x) == 2:
        return L.Dot(axes=1, normalize=b % 4 == 3)([x, other(x, a, same)])
    if _rank(x) == 3:
        return L.Dot(axes=1 + b % 2)([_float(x), _float(other(x, a, same))])
    return None


@kind
def pooling(x, a, b, same):
    names = ("AveragePooling", "MaxPooling", "GlobalAveragePooling", "GlobalMaxPooling")
    name = names[a % 4]
    layer = _by_rank(name, x)
    if layer is None:
        return None
    if a % 4 > 1:
        return layer(keepdims=b % 2 == 1)(_float(x))
    fits = b % 2 == 0 and min(x.shape[1:-1]) > 1
    return layer(2, padding="valid" if fits else "same")(_float(x))


@kind
def adaptive_pooling(x, a, b, same):
    name = ("AdaptiveAveragePooling", "AdaptiveMaxPooling")[a % 2]
    layer = _by_rank(name, x)
    return layer(2)(_float(x)) if layer else None


@kind
def resizing(x, a, b, same):
    name = ("ZeroPadding", "Cropping", "UpSampling")[a % 3]
    layer = _by_rank(name, x)
    if layer is None or (name == "Cropping" and min(x.shape[1:-1]) < 3):
        return None
    return layer(1 if name == "Cropping" else 1 + (name == "UpSampling"))(_float(x))


@kind
def flatten(x, a, b, same):
    return L.Flatten()(x) if _rank(x) > 2 else None


@kind
def reshape(x, a, b, same):
    sizes = list(x.shape[1:])
    if a % 4 == 0 and sizes[-1] % 2 == 0:
        target = [*sizes[:-1], 2, sizes[-1] // 2]
    elif a % 4 == 1 and len(sizes) > 2:
        target = [sizes[0] * sizes[1], *sizes[2:]]
    elif a % 4 == 2 and len(sizes) > 1:
        target = [*sizes[:-2], sizes[-2] * sizes[-1]]
    else:
        target = [-1, sizes[-1]]
    if b % 2:
        return ops.reshape(x, [-1, *target]) if -1 not in target else None
    return L.Reshape(target)(x)


@kind
def permute(x, a, b, same):
    axes = list(range(1, _rank(x)))
    axes = axes[::-1] if a % 2 else [*axes[1:], axes[0]]
    if b % 4 == 0:
        return ops.transpose(x, [0, *axes])
    if b % 4 == 1:
        return ops.swapaxes(x, 1, -1)
    if b % 4 == 2:
        return ops.moveaxis(x, [-1], [1])
    return L.Permute(axes)(x)


@kind
def repeat_vector(x, a, b, same):
    return L.RepeatVector(2 + a % 3)(x) if _rank(x) == 2 else None


@kind
def squeeze_and_excite(x, a, b, same):
    pool = _by_rank("GlobalAveragePooling", x)
    if pool is None:
        return None
    y = L.Dense(_width(a), "relu")(pool(keepdims=True)(_float(x)))
    return L.Multiply()([_float(x), L.Dense(_channels(x), "sigmoid")(y)])


@kind
def attention(x, a, b, same):
    if _rank(x) != 3:
        return None
    options = {"key_dim": 1 + b % 3, "use_bias": b % 4 != 3}
    if a % 2:
        layer = L.GroupQueryAttention(
            head_dim=1 + b % 3, num_query_heads=4, num_key_value_heads=2
        )
    else:
        layer = L.MultiHeadAttention(num_heads=2 + a % 3, **options)
    y = other(x, a, same) if b % 2 else x
    return layer(_float(x), _float(y))


@kind
def simple_attention(x, a, b, same):
    if _rank(x) != 3:
        return None
    layer = L.Attention(use_scale=b % 2 == 1) if a % 2 else L.AdditiveAttention()
    return layer([_float(x), _float(other(x, b, same))])


@kind
def attention_by_hand(x, a, b, same):
    """Queries, keys and values of one layer, as vision transformers have them."""
    if _rank(x) != 3:
        return None
    time, heads, size = x.shape[1], 2, 1 + a % 3
    y = L.Dense(3 * heads * size)(_float(x))
    y = ops.reshape(y, (-1, time, 3, heads, size))
    if b % 3 == 0:
        y = ops.transpose(y, (2, 0, 3, 1, 4))
        q, k, v = y[0], y[1], y[2]
        scores = ops.matmul(q * size**-0.5, ops.transpose(k, (0, 1, 3, 2)))
        y = ops.transpose(ops.matmul(ops.softmax(scores), v), (0, 2, 1, 3))
    else:
        parts = ops.unstack(y, axis=2) if b % 3 == 1 else ops.split(y, 3, axis=2)
        q, k, v = (p if b % 3 == 1 else ops.squeeze(p, 2) for p in parts)
        scores = ops.softmax(ops.einsum("bthd,bshd->bhts", q, k) * 0.7)
        y = ops.einsum("bhts,bshd->bthd", scores, v)
    return ops.reshape(y, (-1, time, heads * size))


@kind
def attention_operation(x, a, b, same):
    if _rank(x) != 3:
        return None
    heads, size = 2, 1 + a % 4
    q, k, v = (
        L.Reshape((x.shape[1], heads, size))(L.Dense(heads * size)(_float(x)))
        for _ in range(3)
    )
    scale = None if b % 2 else 0.5
    return ops.dot_product_attention(q, k, v, scale=scale)


@kind
def recurrent(x, a, b, same):
    if _rank(x) != 3:
        return None
    layer = (L.LSTM, L.GRU, L.SimpleRNN)[a % 3]
    options = {"return_sequences": b % 2 == 1}
    if a == 7:
        cells = [L.GRUCell(3), L.LSTMCell(2 + b % 3)]
        made = L.RNN(cells if b % 3 == 0 else cells[b % 2], **options)
    elif a % 3 == 1 and b % 3 == 1:
        made = L.GRU(2 + a % 4, reset_after=False, **options)
    else:
        made = layer(2 + a % 4, **options)
    if b % 4 > 1:
        made = L.Bidirectional(made, merge_mode=("concat", "sum", "ave", "mul")[a % 4])
    return made(_float(x))


@kind
def time_distributed(x, a, b, same):
    if _rank(x) < 3:
        return None
    inner = [
        L.Dense(_width(b), activation="relu"),
        L.BatchNormalization(),
        L.Conv1D(_width(b), 2, padding="same") if _rank(x) == 4 else L.Dense(3),
        L.Reshape((-1, 1)) if _rank(x) == 3 else L.Flatten(),
    ]
    return L.TimeDistributed(inner[a % 4])(_float(x))


@kind
def nested(x, a, b, same):
    """A model in the model, called once or on two tensors."""
    time = [None] if b % 4 == 3 and _rank(x) == 3 else x.shape[1:2]
    inside = keras.Input((*time, *x.shape[2:]))
    y = L.Dense(_width(a), activation="relu")(inside)
    if _rank(x) == 3 and b % 3 == 2:
        y = L.Permute((2, 1))(L.Permute((2, 1))(y))
    if a % 3 == 1:
        y = ops.concatenate([y[..., :1], y * 2.0], axis=-1)
    if a % 3 == 2:
        y = keras.Sequential([L.Dense(_width(b)), L.ReLU()])(y)
    model = keras.Model(inside, y)
    first = model(_float(x))
    return [first, model(_float(other(x, a, same)))] if b % 2 else first


@kind
def nested_without_weights(x, a, b, same):
    """A model in the model that only moves data, called on two tensors."""
    if _channels(x) < 2:
        return None
    inside = keras.Input(x.shape[1:])
    y = [inside[..., 1:], ops.concatenate([inside, inside], -1), ops.relu(inside)][
        a % 3
    ]
    model = keras.Model(inside, y)
    return [model(_float(x)), model(_float(other(x, b, same)))]


@kind
def shared(x, a, b, same):
    """A layer that is used twice."""
    layer = [
        L.Dense(_width(b)),
        L.BatchNormalization(),
        L.Reshape((*x.shape[1:], 1)),
        L.ReLU(),
    ][a % 4]
    return [layer(_float(x)), layer(_float(other(x, b, same)))]


def _unary():
    special = {
        "Clip": {"x_min": 0.1, "x_max": 0.5},
        "Cast": {"dtype": "float32"},
        "SaturateCast": {"dtype": "float32"},
        "Threshold": {"threshold": 0.1, "default_value": 0.3},
    }
    return [
        (cls, special.get(cls.__name__, {}))
        for cls in classes(f"{operations._UNARY} {operations._PARTIAL}")
    ]


UNARY = _unary()


@kind
def unary(x, a, b, same):
    cls, options = UNARY[(a + 8 * b + 3 * _channels(x)) % len(UNARY)]
    # Within the domain of all but a few, so that outputs are numbers.
    y = ops.tanh(_float(x)) if b % 2 else _float(x)
    return _float(cls(**options)(y))


@kind
def common_unary(x, a, b, same):
    names = "relu sigmoid abs square negative tanh stop_gradient softplus".split()
    return getattr(ops, names[a])(_float(x))


@kind
def with_number(x, a, b, same):
    x = _float(x)
    made = [
        x * 0.5,
        x + 0.5,
        1.0 - x,
        x / 2.0,
        ops.maximum(x, 0.1),
        ops.power(x, 2),
        -x,
        x - 0.0,
    ]
    return made[a]


@kind
def with_constant(x, a, b, same):
    """Merges with a constant array: one value, one per place, or one per channel."""
    rng = np.random.default_rng(a)
    shapes = [(1,), (_channels(x),), (*x.shape[1:-1], 1), (1,) * (_rank(x) - 1)]
    value = rng.normal(size=shapes[b % 4]).astype("float32")
    x = _float(x)
    if a % 4 == 3:
        return ops.where(value > 0, x, 0.0)
    # Keras takes products with arrays for sparse until they are clipped.
    made = [ops.clip(x * value, -9.0, 9.0), x + value, ops.minimum(x, value)]
    return made[a % 4]


BINARY = [c for c in classes(operations._BINARY) if c.__name__ != "Where"]


@kind
def binary(x, a, b, same):
    cls = BINARY[(a + 8 * b) % len(BINARY)]
    y = _float(other(x, b, same))
    if cls.__name__ == "FullLike":
        return cls()(_float(x), float(b % 2))
    return _float(cls()(_float(x), y))


@kind
def arithmetic(x, a, b, same):
    y, x = _float(other(x, b, same)), _float(x)
    made = [x + y, x - y, x * y, ops.maximum(x, y), x / (1.5 + ops.tanh(y))]
    made += [ops.where(x > 0.1, x, y), x * ops.sigmoid(y), ops.square(x - y)]
    return made[a]


@kind
def along_an_axis(x, a, b, same):
    names = "softmax log_softmax cumsum sort argsort roll cumprod sparsemax".split()
    axis = -1 if b % 2 else 1
    if b % 4 > 1 and names[a].startswith("cum"):
        (cls,) = classes(f"Nan{names[a]}")
        return cls(axis=axis)(_float(x))
    if names[a] == "roll":
        return ops.roll(x, 1, axis=axis)
    return _float(getattr(ops, names[a])(_float(x), axis=axis))


@kind
def reduction(x, a, b, same):
    names = "sum mean max min prod var std logsumexp".split()
    if _rank(x) < 3 and b % 2 == 0:
        return None
    axis = -1 if b % 4 == 1 else 1
    keepdims = b % 3 == 1 or _rank(x) == 2
    return _float(getattr(ops, names[a])(_float(x), axis=axis, keepdims=keepdims))


@kind
def other_reduction(x, a, b, same):
    names = [*operations._SUMS.split(), *operations._REDUCTIONS.split(), "Norm"]
    (cls,) = classes(names[(a + 8 * b) % len(names)])
    if cls.__name__ == "Moments":
        return cls(axes=(1,), keepdims=True)(_float(x))[0]
    axis = -1 if a % 2 else 1
    if cls.__name__ == "CountNonzero":
        return _float(cls(axis=axis)(x)) if _rank(x) > 2 else None
    return _float(cls(axis=axis, keepdims=True)(_float(x)))


@kind
def slice_of(x, a, b, same):
    size = _channels(x)
    if size < 3:
        return None
    keys = [
        (..., slice(1, None)),
        (..., slice(None, -1)),
        (..., slice(None, None, 2)),
        (..., slice(1, 2)),
        (..., slice(None, None, -1)),
        (..., slice(0, 99)),
        (slice(None), 0) if _rank(x) > 2 else (..., slice(0, 2)),
        (slice(None), None, ..., slice(1, size - 1)),
    ]
    return x[keys[a]]


@kind
def split(x, a, b, same):
    size = _channels(x)
    if a % 4 == 3:
        return ops.array_split(x, 2, axis=-1) if size > 1 else None
    if a % 4 == 2 and _rank(x) > 2:
        return ops.unstack(x, axis=1)[:2]
    if a % 2 and size % 2 == 0:
        return ops.split(x, 2, axis=-1)
    return ops.split(x, [1 + b % (size - 1)], axis=-1) if size > 1 else None


@kind
def gated(x, a, b, same):
    if _channels(x) % 2:
        return None
    if b % 2:
        return classes("Glu")[0]()(_float(x))
    first, second = ops.split(_float(x), 2, axis=-1)
    return first * ops.sigmoid(second)


@kind
def stack(x, a, b, same):
    y = _float(other(x, b, same))
    return ops.stack([_float(x), y], axis=1 + a % (_rank(x)))


@kind
def join(x, a, b, same):
    y = _float(other(x, b, same))
    return ops.concatenate([_float(x), y], axis=-1 if a % 2 else 1)


@kind
def axes_of_one(x, a, b, same):
    y = ops.expand_dims(x, axis=(1, -1, 2)[a % 3])
    if b % 3 == 0:
        return y
    return ops.squeeze(ops.relu(_float(y)), None if b % 3 == 1 else (1, -1, 2)[a % 3])


@kind
def repeated(x, a, b, same):
    rank = _rank(x)
    if a % 4 == 0:
        return ops.tile(x, [1] * (rank - 1) + [2])
    if a % 4 == 1:
        return ops.repeat(x, 2, axis=-1 if b % 2 else 1)
    if a % 4 == 2:
        return ops.flip(x, axis=-1 if b % 2 else 1)
    width = [[0, 0]] * (rank - 1) + [[1, b % 2]]
    return ops.pad(_float(x), width, mode="constant", constant_values=float(b % 3 == 1))


@kind
def matmul(x, a, b, same):
    if _rank(x) < 3:
        return None
    x = _float(x)
    if a % 4 == 3:
        return ops.matmul(x, np.ones((_channels(x), 2), "float32"))
    y = _float(other(x, b, same))
    y = ops.swapaxes(y, -1, -2)
    return ops.matmul(x, y) if a % 2 else ops.matmul(y, x)


@kind
def einsum(x, a, b, same):
    if _rank(x) != 3:
        return None
    equations = "btc,bsc->bts btc,btc->bc btc,btd->bcd btc,bsd->bt btc,btc->btc"
    equation = equations.split()[a % 5]
    return ops.einsum(equation, _float(x), _float(other(x, b, same)))


@kind
def product_with_constant(x, a, b, same):
    value = np.ones((_channels(x), 2), "float32")
    x = _float(x)
    return ops.dot(x, value) if a % 2 else ops.tensordot(x, value, axes=1)


@kind
def spatial(x, a, b, same):
    if _rank(x) != 4:
        return None
    x, channels = _float(x), _channels(x)
    if a % 5 == 0:
        return ops.image.resize(x, (3, 3))
    if a % 5 == 1:
        return ops.max_pool(x, 2, padding="same")
    if a % 5 == 2:
        return ops.average_pool(x, 2, padding="same")
    if a % 5 == 3 and hasattr(ops, "depth_to_space"):
        return ops.depth_to_space(x, 2) if channels % 4 == 0 else None
    even = x.shape[1] % 2 == 0 and x.shape[2] % 2 == 0
    return ops.space_to_depth(x, 2) if even and hasattr(ops, "space_to_depth") else None


@kind
def normalized(x, a, b, same):
    return ops.normalize(_float(x), axis=-1 if a % 2 else 1, order=1 + b % 2)


@kind
def triangle(x, a, b, same):
    if _rank(x) < 3:
        return None
    return ops.tril(x) if a % 2 else ops.triu(x)


@kind
def without_rule(x, a, b, same):
    """What nothing is known of stops channels, and does no harm."""
    return ops.diff(_float(x)) if _channels(x) > 2 else None
