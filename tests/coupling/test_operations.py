"""What becomes of channels in `keras.ops` of functional models."""

import keras
import numpy as np
import pytest

from kprune.coupling.graph import analyse
from kprune.coupling.rules.axes import operations
from kprune.structure import proof
from kprune.structure.removal import Cut, remove

L, ops = keras.layers, keras.ops


def dense(x, units=8):
    return L.Dense(units)(x)


def built(function, shape=(4, 4, 3), batch=None):
    """A model: what is to be tested, and a last layer that reads all of it."""
    keras.utils.clear_session(free_memory=False)
    x = keras.Input(batch_shape=(batch, *shape))
    y = function(x)
    y = y if len(y.shape) == 2 else L.Flatten()(y)
    model = keras.Model(x, L.Dense(2, name="last")(y))
    rng = np.random.default_rng(0)
    for variable in model.weights:
        value = rng.normal(0.1, 0.5, variable.shape)
        variable.assign(np.abs(value) if "variance" in variable.path else value)
    return model


def sizes(coupling):
    return sorted(group.size for group in coupling.groups)


def refusals(coupling):
    return [group.reason for group in coupling.fixed if "last" not in group.name]


def assert_masked_equals_shrunk(model, coupling, shape):
    rng = np.random.default_rng(1)
    removed = coupling.nothing()
    for group in coupling.groups:
        removed[rng.choice(group.units, group.size // 2, replace=False)] = True
    x = rng.normal(size=(3, *shape)).astype("float32")
    masked = proof.masked_outputs(model, coupling.masks(removed), x)
    small, _ = remove(coupling, Cut(coupling, removed))
    found = proof.equality(masked, proof.outputs(small, x), "")
    assert found.finite
    assert found.relative < 1e-5
    if removed.any():
        assert small.count_params() < model.count_params()


def qkv(x, taken):
    """Attention of two heads, all three made by one layer."""
    y = ops.reshape(dense(x, 24), (-1, 6, 3, 2, 4))
    if taken == "transposed":
        y = ops.transpose(y, (2, 0, 3, 1, 4))
        q, k, v = y[0], y[1], y[2]
        scores = ops.softmax(ops.matmul(q * 0.5, ops.transpose(k, (0, 1, 3, 2))))
        return ops.reshape(
            ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3)), (-1, 6, 8)
        )
    q, k, v = ops.unstack(y, axis=2)
    scores = ops.softmax(ops.einsum("bthd,bshd->bhts", q, k))
    return ops.reshape(ops.einsum("bhts,bshd->bthd", scores, v), (-1, 6, 8))


def attention(x, scale):
    q, k, v = (L.Reshape((6, 2, 4))(dense(x)) for _ in range(3))
    return L.Reshape((6, 8))(ops.dot_product_attention(q, k, v, scale=scale))


IMAGE, SEQUENCE, FEATURES = (4, 4, 3), (6, 3), (5,)
CHANNELS = np.arange(1, 9).astype("float32")

# By what is claimed: the model behind the input, its shape, sizes of removable groups.
PASSING = {
    "relu works on each element": (lambda x: ops.relu(dense(x)), IMAGE, [8]),
    "what makes something of zero passes": (lambda x: ops.exp(dense(x)), IMAGE, [8]),
    "numbers are merged with all channels": (
        lambda x: 1.0 - dense(x) * 0.5 / 3.0,
        IMAGE,
        [8],
    ),
    "clipping passes": (lambda x: ops.clip(dense(x), 0.1, 0.5), IMAGE, [8]),
    "casting passes": (
        lambda x: ops.cast(ops.cast(dense(x), "float64"), "float32"),
        IMAGE,
        [8],
    ),
    "the root of a square passes": (
        lambda x: ops.sqrt(ops.square(dense(x))),
        IMAGE,
        [8],
    ),
    "a sum ties both sides": (lambda x: dense(x) + dense(x), IMAGE, [8]),
    "a gate ties both sides": (
        lambda x: dense(x) * ops.sigmoid(dense(x)),
        IMAGE,
        [8],
    ),
    "a choice ties both sides": (
        lambda x: ops.where(dense(x) > 0, dense(x), 0.0),
        IMAGE,
        [8],
    ),
    "division by one number for all channels passes": (
        lambda x: dense(x) / (1.0 + ops.abs(dense(x, 1))),
        IMAGE,
        [8],
    ),
    "a constant for all channels passes": (
        lambda x: dense(x) * np.ones((4, 4, 1), "float32") * 2,
        IMAGE,
        [8],
    ),
    "channels side by side go apart": (
        lambda x: ops.concatenate([dense(x), dense(x, 4)], axis=-1),
        IMAGE,
        [4, 8],
    ),
    "channels beside the input go alone": (
        lambda x: ops.concatenate([x, dense(x)], axis=-1),
        IMAGE,
        [8],
    ),
    "stacked tensors go together": (
        lambda x: ops.stack([dense(x), dense(x)], axis=1),
        IMAGE,
        [8],
    ),
    "parts of a split keep one each": (
        lambda x: ops.concatenate(ops.split(dense(x), [2], axis=-1)[::-1], axis=-1),
        IMAGE,
        [2, 6],
    ),
    "halves that gate each other go together": (
        lambda x: (lambda a, b: a * ops.tanh(b))(*ops.split(dense(x), 2, axis=-1)),
        IMAGE,
        [4],
    ),
    "glu ties its halves": (
        lambda x: keras.activations.glu(dense(x), axis=-1),
        IMAGE,
        [4],
    ),
    "a slice stays one": (lambda x: dense(x)[..., 2:6], IMAGE, [4, 4]),
    "a slice counted from the end stays one": (
        lambda x: dense(x)[:, 1:, ..., -3:],
        IMAGE,
        [3, 5],
    ),
    "a token is chosen from all": (lambda x: dense(x)[:, 0], SEQUENCE, [8]),
    "new axes pass": (lambda x: dense(x)[:, None, ..., None], FEATURES, [8]),
    "reshaped channels stay together where they were": (
        lambda x: ops.reshape(dense(x), (-1, 2, 8, 8)),
        IMAGE,
        [8],
    ),
    "the batch may be merged with other axes": (
        lambda x: ops.reshape(ops.relu(ops.reshape(dense(x), (-1, 8))), (-1, 6, 8)),
        SEQUENCE,
        [8],
    ),
    "split channels go as a rectangle": (
        lambda x: ops.reshape(dense(x), (-1, 6, 2, 4)),
        SEQUENCE,
        [4],
    ),
    "axes change places": (
        lambda x: ops.moveaxis(
            ops.swapaxes(ops.transpose(dense(x), (0, 3, 1, 2)), 1, 2), 1, -1
        ),
        IMAGE,
        [8],
    ),
    "axes of size 1 come and go": (
        lambda x: ops.squeeze(ops.expand_dims(dense(x), (1, -1)), 1),
        SEQUENCE,
        [8],
    ),
    "what shrinks to one channel is not squeezed": (
        lambda x: ops.squeeze(ops.expand_dims(dense(x, 2), 1)),
        SEQUENCE,
        [2],
    ),
    "copies go together": (
        lambda x: ops.tile(ops.repeat(dense(x), 2, axis=-1), [1, 1, 2]),
        SEQUENCE,
        [8],
    ),
    "turned channels go where they are": (
        lambda x: ops.concatenate([ops.flip(dense(x), -1), ops.flip(dense(x), 1)], -1),
        SEQUENCE,
        [8, 8],
    ),
    "zeros beside channels stay": (
        lambda x: ops.pad(dense(x), [[0, 0], [1, 1], [2, 3]]),
        SEQUENCE,
        [8],
    ),
    "reductions over space pass": (
        lambda x: ops.concatenate(
            [
                f(dense(x), axis=(1, 2))
                for f in (ops.mean, ops.max, ops.var, ops.logsumexp)
            ],
            -1,
        ),
        IMAGE,
        [8, 8, 8, 8],
    ),
    "a sum over channels takes zeros": (
        lambda x: ops.sum(ops.relu(dense(x)), axis=-1),
        SEQUENCE,
        [8],
    ),
    "a norm over channels takes zeros": (
        lambda x: ops.norm(dense(x), axis=-1),
        SEQUENCE,
        [8],
    ),
    "normalising by a norm takes zeros": (
        lambda x: ops.normalize(dense(x), axis=-1),
        SEQUENCE,
        [8],
    ),
    "softmax over time passes": (
        lambda x: ops.softmax(dense(x), axis=1),
        SEQUENCE,
        [8],
    ),
    "a product sums over both sides' channels": (
        lambda x: ops.matmul(dense(x), ops.transpose(dense(x), (0, 2, 1))),
        SEQUENCE,
        [8],
    ),
    "rows and columns of a product are apart": (
        lambda x: ops.sum(ops.einsum("btc,btd->bcd", dense(x), dense(x, 5)), 2),
        SEQUENCE,
        [5, 8],
    ),
    "heads go from queries, keys and values at once": (
        lambda x: qkv(x, "transposed"),
        SEQUENCE,
        [2],
    ),
    "heads go also if they are unstacked": (
        lambda x: qkv(x, "unstacked"),
        SEQUENCE,
        [2],
    ),
    "heads go from the attention operation": (
        lambda x: attention(x, None),
        SEQUENCE,
        [2],
    ),
    "images are resized channel by channel": (
        lambda x: ops.image.resize(dense(x), (3, 5)),
        IMAGE,
        [8],
    ),
    "pooling passes": (
        lambda x: ops.average_pool(ops.max_pool(dense(x), 2), 2),
        IMAGE,
        [8],
    ),
    "a reshape with a size left open passes": (
        lambda x: ops.reshape(dense(x), (-1, 16, 8))[:, 2:],
        IMAGE,
        [8],
    ),
}

# The same with a part of the reason why all have to stay.
STAYING = {
    "a logarithm": (lambda x: ops.log(dense(x)), "does not give a number for zero"),
    "a quotient of channels": (
        lambda x: dense(x) / dense(x),
        "does not give a number for zero",
    ),
    "a constant per channel": (
        lambda x: dense(x) * CHANNELS,
        "merges it with a tensor of a fixed number of channels",
    ),
    "a constant that Keras could take for a bias": (
        lambda x: dense(x) + np.ones((6, 1), "float32"),
        "may come to be as many as the 6 values it adds along another axis",
    ),
    "a sum of what another axis's layer shifted": (
        lambda x: ops.sum(
            L.Permute((2, 1))(L.Dense(6)(L.Permute((2, 1))(dense(x)))), 2
        ),
        "adds the same bias along this axis, and Sum 'sum' sums over them",
    ),
    "a sum of what another axis's mean and beta shifted": (
        lambda x: ops.sum(L.LayerNormalization(axis=1)(dense(x)), -1),
        "shifts it by values of another axis, and Sum 'sum' sums over them",
    ),
    "a sum of what was shifted per time step": (
        lambda x: ops.sum(L.BatchNormalization(axis=1)(dense(x)), -1),
        "shifts it by means of another axis, and Sum 'sum' sums over them",
    ),
    "a sum of what lost its mean": (
        lambda x: ops.sum(
            L.Normalization(axis=None, mean=1.0, variance=2.0)(dense(x)), -1
        ),
        "subtracts a mean, and Sum 'sum' sums over them",
    ),
    "a sum of what is not zero": (
        lambda x: ops.sum(ops.sigmoid(dense(x)), -1),
        "Sigmoid 'sigmoid' makes 0.5 of zero, and Sum 'sum' sums over them",
    ),
    "a sum of what was added to all": (
        lambda x: ops.norm(dense(x) + x[..., :1], axis=-1),
        "gives the values of a tensor without channels to all, and Norm",
    ),
    "a mean over channels": (
        lambda x: ops.mean(dense(x), -1),
        "takes one value of all along this axis",
    ),
    "softmax over channels": (lambda x: ops.softmax(dense(x)), "mixes this axis"),
    "every other channel": (lambda x: dense(x)[..., ::2], "are not one run"),
    "channels backwards": (lambda x: dense(x)[..., ::-1], "are not one run"),
    "one channel by place": (
        lambda x: dense(x)[..., 3],
        "takes one of its indices by place",
    ),
    "a constant matrix": (
        lambda x: ops.matmul(dense(x), np.ones((8, 2), "float32")),
        "multiplies it with a fixed size",
    ),
    "rows merged with the batch": (
        lambda x: ops.reshape(
            ops.reshape(ops.transpose(dense(x), (0, 2, 1)), (-1, 6)), (-1, 48)
        ),
        "merges it with the batch",
    ),
    "rolled channels": (lambda x: ops.roll(dense(x), 1, axis=-1), "mixes this axis"),
    "mirrored channels": (
        lambda x: ops.pad(dense(x), [[0, 0], [0, 0], [1, 1]], mode="reflect"),
        "fills up with copies of other channels",
    ),
    "a split into as many parts as fit": (
        lambda x: ops.concatenate(ops.array_split(dense(x), 3, axis=-1), -1),
        "splits it by its size",
    ),
    "dimensions of heads that are counted": (
        lambda x: L.Reshape((6, 4))(
            ops.dot_product_attention(*[ops.expand_dims(dense(x, 4), 2)] * 3)
        ),
        "divides by the square root of their number",
    ),
    "a triangle of channels": (
        lambda x: ops.tril(dense(x)),
        "chooses elements by their place",
    ),
    "an operation without a rule": (
        lambda x: ops.diff(dense(x)),
        "has no coupling rule",
    ),
    "convolution with a constant kernel": (
        lambda x: ops.conv(dense(x), np.ones((2, 8, 4), "float32")),
        "has no coupling rule",
    ),
    "an exponent that makes no number": (
        lambda x: ops.power(dense(x), -1.0),
        "does not give a number for zero",
    ),
    "all elements in a row": (
        lambda x: ops.cumsum(ops.expand_dims(dense(x), 1), axis=-1)[:, 0],
        "mixes this axis",
    ),
    "an equation with dots": (
        lambda x: ops.einsum("...c,...c->...c", dense(x), dense(x)),
        "write out all axes",
    ),
}


@pytest.mark.parametrize("claim", PASSING)
def test_channels_pass(claim):
    function, shape, expected = PASSING[claim]
    model = built(function, shape)
    coupling = analyse(model)
    assert sizes(coupling) == sorted(expected), refusals(coupling)
    assert_masked_equals_shrunk(model, coupling, shape)


@pytest.mark.parametrize("claim", STAYING)
def test_channels_stay_because_of(claim):
    function, reason = STAYING[claim]
    model = built(function, SEQUENCE)
    coupling = analyse(model)
    assert 8 not in sizes(coupling)
    assert any(reason in text for text in refusals(coupling)), refusals(coupling)


def test_slices_of_a_nested_model_fit_each_of_its_calls():
    inside = keras.Input((8,))
    cut = keras.Model(inside, inside[..., 2:])

    def twice(x):
        return L.Concatenate()([cut(dense(x)), cut(dense(x))])

    model = built(twice, FEATURES)
    coupling = analyse(model)
    assert sizes(coupling) == [2, 6]
    assert_masked_equals_shrunk(model, coupling, FEATURES)


KNOWN_BATCH = {
    "a box takes all channels": (
        lambda x: ops.slice(dense(x), (0, 1, 0), (3, 4, 8)),
        [8],
    ),
    "a box takes a part of the channels": (
        lambda x: ops.slice(dense(x), (0, 1, 2), (3, 4, 4)),
        [],
    ),
    "channels are spread over a new axis": (
        lambda x: ops.broadcast_to(ops.expand_dims(dense(x), 1), (3, 2, 6, 8)),
        [8],
    ),
    "all axes are merged": (
        lambda x: ops.reshape(ops.ravel(dense(x)), (3, 48)),
        [],
    ),
    "a number per sample divides all its channels": (
        lambda x: ops.divide(dense(x), 2.0 + ops.exp(ops.mean(dense(x), (1, 2), True))),
        [8],
    ),
}


@pytest.mark.parametrize("claim", KNOWN_BATCH)
def test_where_the_batch_is_known(claim):
    function, expected = KNOWN_BATCH[claim]
    model = built(function, SEQUENCE, batch=3)
    coupling = analyse(model)
    assert sizes(coupling) == expected, refusals(coupling)
    assert_masked_equals_shrunk(model, coupling, SEQUENCE)


def test_the_model_may_leave_sizes_open_that_its_caller_knows():
    inside = keras.Input((None, 8))
    y = L.Permute((2, 1))(L.Dense(4)(ops.relu(inside)))
    nested = keras.Model(inside, y)
    model = built(lambda x: nested(dense(x)), SEQUENCE)
    coupling = analyse(model)
    assert sizes(coupling) == [4, 8]
    assert_masked_equals_shrunk(model, coupling, SEQUENCE)


def test_products_of_activations_count_their_work():
    model = built(
        lambda x: ops.matmul(dense(x), ops.transpose(dense(x), (0, 2, 1))), SEQUENCE
    )
    coupling = analyse(model)
    layers = 2 * 6 * 3 * 8 + 36 * 2
    assert coupling.macs(coupling.nothing()) == layers + 6 * 6 * 8
    removed = coupling.nothing()
    removed[coupling.groups[0].units[:4]] = True
    assert coupling.macs(removed) == 2 * 6 * 3 * 4 + 36 * 2 + 6 * 6 * 4


def test_operations_that_keras_does_not_have_are_left_out():
    assert operations("Relu NoSuchOperation Exp") == operations("Relu Exp")
