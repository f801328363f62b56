"""Replicas on two virtual CPUs and in two processes; and a process that is killed."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parent / "distribution"


def start(script, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, str(FOLDER / script), *map(str, arguments)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process):
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(output.splitlines()[-1])


@pytest.mark.slow
def test_replicas_of_mirrored_strategy_have_the_same_masks():
    results = result(start("mirrored.py"))
    sizes = (72, 4608, 48)  # Of the kernels, in the order of the layers.
    for name, shares in results.items():
        if name == "channel":  # Masks of vectors, too; its shares are of channels.
            assert all(0 < share < 1 for share in shares.values())
            continue
        pruned = sum(
            share * size for size, share in zip(sizes, shares.values(), strict=True)
        )
        assert pruned == pytest.approx(0.75 * sum(sizes), abs=2), name
    assert len(results) == 7


@pytest.mark.slow
def test_replicas_learn_from_a_teacher_as_one_machine_does():
    one, two = result(start("distilled.py"))
    assert one["logs"].keys() == two["logs"].keys()
    for name, values in one["logs"].items():
        assert two["logs"][name] == pytest.approx(values, rel=1e-5), name
    assert two["weights"] == pytest.approx(one["weights"], abs=1e-6)


@pytest.mark.slow
def test_replicas_share_the_same_values():
    found = result(start("clustered.py"))
    assert found["clustered"] and len(found["kernels"]) == 3
    assert all(values <= 8 for values, _, _ in found["kernels"])
    zeros, size = (sum(each[i] for each in found["kernels"]) for i in (1, 2))
    assert zeros >= 0.499 * size


@pytest.mark.slow
def test_replicas_round_alike():
    found = result(start("aware.py"))
    zeros, size = map(sum, zip(*found["zeros"], strict=True))
    assert zeros == pytest.approx(size / 2, abs=2)
    assert all(low < high for low, high in found["ranges"])


@pytest.mark.slow
def test_two_workers_make_the_same_masks():
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("localhost", 0))
    addresses = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    workers = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task}
        workers.append(start("multi_worker.py", TF_CONFIG=json.dumps(config)))
    try:
        first, second = map(result, workers)
    finally:
        for worker in workers:
            worker.kill()
    assert first == second
    assert first["sparsity"] == pytest.approx(0.75, abs=2e-3)
    # The first update before training, the last at half of the 24 steps.
    assert [step for step, _ in first["history"]] == list(range(13))
    assert "Pruner: workers made different masks" in first["refused"]


def killed_and_started_again(tmp_path, frequency, step):
    """Returns the weights of a fit whose process was killed and started again."""
    backup, out = tmp_path / "backup", tmp_path / "resumed.npz"
    killed = start("killed.py", backup, frequency, step, out)
    killed.communicate(timeout=500)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    again = start("killed.py", backup, frequency, "never", out)
    _, errors = again.communicate(timeout=500)
    assert again.returncode == 0, errors[-3000:]
    return weights(out)


def weights(path):
    with np.load(path) as arrays:
        return [arrays[name] for name in arrays.files]


@pytest.mark.slow
def test_a_killed_process_goes_on_with_backups_of_epochs(tmp_path):
    step = int(np.random.default_rng().integers(1, 60))  # Another one in each run.
    whole = start("killed.py", tmp_path / "whole", "epoch", "never", tmp_path / "w.npz")
    resumed = killed_and_started_again(tmp_path, "epoch", step)
    _, errors = whole.communicate(timeout=500)
    assert whole.returncode == 0, errors[-3000:]
    for a, b in zip(weights(tmp_path / "w.npz"), resumed, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=f"killed after step {step}")


@pytest.mark.slow
def test_a_killed_process_reaches_the_target_with_backups_within_epochs(tmp_path):
    # Keras begins the epoch anew, so that there are more steps than without.
    step = int(np.random.default_rng().integers(1, 60))
    kernels = killed_and_started_again(tmp_path, 5, step)[::2]
    zeros = sum(np.count_nonzero(kernel == 0) for kernel in kernels)
    sizes = sum(kernel.size for kernel in kernels)
    assert zeros == round(0.8 * sizes), f"killed after step {step}"
