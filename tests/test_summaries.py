"""What TensorBoard is given, read back from the files."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from models import compiled, sequential

import kprune
from kprune.layers import mask_constraints, values


def events(folder):
    """Tags to their plugin and to steps and values, in the order of the file."""
    found = {}
    for path in sorted(folder.iterdir()):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                plugin = value.metadata.plugin_data.plugin_name
                _, points = found.setdefault(value.tag, (plugin, []))
                points.append((event.step, tf.make_ndarray(value.tensor)))
    return found


def fit(data, tmp_path, epochs=2, **kwargs):
    model = compiled(sequential())
    pruning = kprune.PruningCallback(
        schedule=kprune.PolynomialDecay(0.1, 0.6, 2, 9, frequency=3)
    )
    summaries = kprune.PruningSummaries(pruning, tmp_path / "logs", **kwargs)
    model.fit(
        *data,
        batch_size=16,
        epochs=epochs,
        verbose=0,
        callbacks=[pruning, summaries],
    )
    return model, pruning.report, events(tmp_path / "logs" / "pruning")


def test_sparsity_is_written_per_update_and_per_weight(data, tmp_path):
    _, report, found = fit(data, tmp_path)
    plugin, total = found["pruning_sparsity/total"]
    assert plugin == "scalars"
    assert [step for step, _ in total] == [2, 5, 8, 9]
    assert [v.item() for _, v in total] == pytest.approx([s for _, s in report.history])
    assert len(found) == 1 + len(report.weights)
    for weight in report.weights:
        plugin, points = found[f"pruning_sparsity/{weight.path}"]
        assert plugin == "scalars" and [step for step, _ in points] == [6, 12]
        assert points[-1][1] == pytest.approx(weight.sparsity)


def test_histograms_count_outputs_by_what_they_keep(data, tmp_path):
    model, report, found = fit(data, tmp_path, histograms=True)
    conv = model.layers[0].kernel
    plugin, points = found[f"pruning_density/{conv.path}"]
    assert plugin == "histograms" and [step for step, _ in points] == [6, 12]
    rows = points[-1][1]
    mask = values(mask_constraints(model)[conv.path].mask)
    kept = mask.reshape(-1, 6).mean(0)
    assert rows.shape == (30, 3) and rows[:, 2].sum() == 6
    for left, right, count in rows:
        last = right == rows[-1, 1]
        inside = (kept >= left) & ((kept <= right) if last else (kept < right))
        assert inside.sum() == count
    assert len(found) == 1 + 2 * len(report.weights)


def test_outputs_are_found_where_they_are_not_the_last_axis(data, tmp_path):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2DTranspose(5, 3, name="up")(inputs)
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(x))
    model = compiled(keras.Model(inputs, outputs))
    pruning = kprune.PruningCallback(schedule=kprune.ConstantSparsity(0.5))
    summaries = kprune.PruningSummaries(pruning, tmp_path, histograms=True)
    model.fit(*data, verbose=0, callbacks=[pruning, summaries])
    (_, rows), *_ = events(tmp_path / "pruning")["pruning_density/up/kernel"][1]
    assert rows[:, 2].sum() == 5 and np.shape(model.layers[1].kernel)[-1] == 1


def test_what_is_no_pruning_callback_is_refused():
    with pytest.raises(TypeError, match="PruningCallback"):
        kprune.PruningSummaries("logs", "logs")
