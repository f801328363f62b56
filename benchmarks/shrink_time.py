"""How long `kprune.shrink` takes on large networks, and how much memory.

    python -m benchmarks.shrink_time --out benchmarks/results/shrink_time.json

Each network is built with random weights and shrunk by half in a fresh process, without
the proof's forward pass. Memory: the process's resident set is read every 5 ms while
`shrink` runs; its highest value less the one before, over the bytes of the weights, is
how many copies of them there were beside the model itself. The smaller model, which is
one of them in part, is counted. About three minutes on one core.
"""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks import protocol

NETWORKS = ("ResNet152", "NASNetLarge", "EfficientNetV2L")
SECONDS = 10.0
COPIES = 2.0


class Peak(threading.Thread):
    """Samples the resident set until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.highest = resident()
        self._over = threading.Event()

    def run(self) -> None:
        """Samples until it is over."""
        while not self._over.wait(0.005):
            self.highest = max(self.highest, resident())

    def stop(self) -> int:
        """Returns by how many bytes the resident set grew at most."""
        self._over.set()
        self.join()
        return max(self.highest, resident()) - self.before


def resident() -> int:
    """Returns the bytes of the process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Returns what some work returns, its seconds, and the bytes it took at most."""
    peak = Peak()
    peak.start()
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    seconds = time.perf_counter() - wall
    cpu_seconds = time.process_time() - cpu
    return result, {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "bytes": peak.stop(),
    }


def child(name: str) -> dict[str, Any]:
    """Measures one network in this process."""
    import keras

    import kprune

    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None)
    weights = sum(variable.value.numpy().nbytes for variable in model.variables)
    _, found = measured(lambda: kprune.shrink(model, sparsity=0.5, prove=False))
    return {"parameters": model.count_params(), "weight_bytes": weights, **found}


def measure(name: str, runs: int) -> dict[str, Any]:
    """Returns seconds and copies of one network, the medians of several processes."""
    found = []
    for _ in range(runs):
        command = [sys.executable, "-m", "benchmarks.shrink_time", "--child", name]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(name, found[-1], flush=True)
    return {
        "parameters": found[0]["parameters"],
        "seconds": [row["seconds"] for row in found],
        "cpu_seconds": [row["cpu_seconds"] for row in found],
        "copies": [row["bytes"] / row["weight_bytes"] for row in found],
    }


def summary(values: list[float]) -> dict[str, Any]:
    """Returns the median of a few values, under the name that `judged` looks for."""
    low, high = round(min(values), 3), round(max(values), 3)
    middle = round(statistics.median(values), 3)
    # Of so few runs the range stands for the quartiles.
    return {"ratio": middle, "quartiles": [low, high], "runs": len(values)}


def main() -> None:
    args = protocol.options(__doc__, runs=3)
    runs = 1 if args.quick else args.runs
    results: dict[str, Any] = {}
    for name in NETWORKS:
        row = measure(name, runs)
        for kind, most in (("seconds", SECONDS), ("copies", COPIES)):
            value = protocol.judged(summary(row[kind]), at_most=most)
            value["parameters"] = row["parameters"]
            if kind == "seconds":
                value["cpu_seconds"] = statistics.median(row["cpu_seconds"])
            results[f"{name}, {kind}"] = value
    protocol.finish("shrink_time", results, args, sparsity=0.5)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(sys.argv[2])))
    else:
        main()
