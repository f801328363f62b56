"""Several replicas: two virtual CPUs in one process, and two processes."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent / "distribution"


def start(script, **environment):
    return subprocess.Popen(
        [sys.executable, str(FOLDER / script)],
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
