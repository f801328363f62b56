import nets
import numpy as np
import pytest

from kprune.export.ends import of_file
from kprune.export.interface import of_model
from kprune.export.litert import Session, times
from kprune.export.samples import collect


def test_a_session_runs_all_samples(cnn_files):
    interface = of_model(nets.cnn())
    samples = collect(nets.images(5), interface.inputs, 5)
    exact = Session(cnn_files["none"], of_file(cnn_files["none"], interface))
    rounded = Session(cnn_files["int8"], of_file(cnn_files["int8"], interface))
    assert exact.steps == [None] and rounded.steps[0] > 0
    (first,), (second,) = exact.run(samples), rounded.run(samples)
    assert first.shape == second.shape == (5, 3)
    assert 0 < np.abs(first - second).max() < 0.1 * np.abs(first).max()


def test_timing_takes_turns(cnn_files):
    interface = of_model(nets.cnn())
    sessions = [
        Session(cnn_files[name], of_file(cnn_files[name], interface))
        for name in ("none", "int8")
    ]
    row = next(collect(nets.images(), interface.inputs, 1).rows())
    first, second = times(sessions, row, seconds=0.1)
    assert len(first) == len(second) >= 15
    assert all(time > 0 for time in first + second)


def test_a_file_that_does_not_load_is_refused(cnn_files):
    with pytest.raises(ValueError, match="LiteRT cannot load"):
        Session(cnn_files["none"][:-5000], of_file(cnn_files["none"]))
