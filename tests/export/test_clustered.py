"""What shared values save in files, at 0.8 zeros: measured on what export writes."""

import gzip

import keras
import nets
import numpy as np
import pytest

import kprune
from kprune.export import tflite

L = keras.layers


@pytest.fixture(scope="module")
def pruned():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            L.Input((8, 8, 4), name="image"),
            L.Conv2D(32, 3, activation="relu"),
            L.Conv2D(64, 3, activation="relu"),
            L.Flatten(),
            L.Dense(48),
        ]
    )
    return nets.zeroed(model, 0.8)


def exported(model, folder, **options):
    path = folder / "model.tflite"
    images = np.random.default_rng(0).random((8, 8, 8, 4), dtype="float32")
    report = kprune.export(
        model,
        path,
        "microcontroller",
        "int8",
        images,
        num_samples=8,
        benchmark=False,
        c_source=False,
        **options,
    )
    return path.read_bytes(), report


def packed(content):
    return len(gzip.compress(content, 9, mtime=0))


@pytest.fixture(scope="module")
def gzipped(pruned, tmp_path_factory):
    """Bytes of the gzipped file of the model that is pruned only."""
    return packed(exported(pruned, tmp_path_factory.mktemp("plain"))[0])


def kernels_of(content):
    graph = tflite.parse(content).subgraphs[0]
    return [
        tensor.array.reshape(tensor.array.shape[0], -1)
        for tensor in graph.tensors
        if tensor.array is not None and tensor.type == "INT8" and len(tensor.shape) > 1
    ]


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        (dict(num_clusters=16), 0.85),
        (dict(num_clusters=4), 0.65),
        (dict(num_clusters=4, per_channel=True), 0.8),
    ],
    ids=["16", "4", "4_per_channel"],
)
def test_a_gzipped_file_is_smaller(settings, most, pruned, gzipped, tmp_path):
    clustered, _ = exported(kprune.cluster(pruned, **settings), tmp_path)
    assert packed(clustered) / gzipped < most
    # int8 with scales per channel: so many codes in each channel, and the same zeros.
    for kernel in kernels_of(clustered):
        assert max(len(np.unique(row)) for row in kernel) <= settings["num_clusters"]
        assert (kernel == 0).sum() >= round(0.8 * kernel.size)


def test_look_up_tables_take_less_than_pruning_does(pruned, tmp_path):
    content, report = exported(pruned, tmp_path, encode=True)
    few = kprune.cluster(pruned, 4)
    clustered, with_tables = exported(few, tmp_path, encode=True)
    assert {w.method for w in report.encoding.weights} <= {"pruning", "as it is"}
    methods = [w.method for w in with_tables.encoding.weights]
    assert "look-up table" in methods
    # Two bits an element against a bit and a fifth of a byte; 28 KiB of weights.
    assert len(clustered) / len(content) < 0.85
    assert packed(clustered) / packed(content) < 0.65
