"""A mask update of 100 million weights: CPU seconds, and memory beyond the weights.

    python -m benchmarks.model_update --out benchmarks/results/model_update.json

Six dense kernels of 4096 x 4096, pruned together: all that kprune does in an update
(reading, scoring, allocating, storing and applying masks), for each granularity and for
the allocations. First update: the weights are dense, and 0.8 are to go, or half of what
an N:M pattern takes. Later update: they were trained on, and a little more is to go.
Seconds are CPU time of all threads, which other work on the machine moves least; alone
on a machine it takes no longer by the clock. Memory is the peak of the process during
the update less what it had before, over the 4 bytes per weight. Three or four minutes.
"""

import os
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
import numpy as np  # noqa: E402

import kprune  # noqa: E402
from benchmarks import protocol  # noqa: E402
from kprune.groups import Group, find_groups  # noqa: E402
from kprune.notices import Notices  # noqa: E402

SECONDS_AT_MOST = 3.0
MEMORY_AT_MOST = 2.0
KERNELS, WIDTH = 6, 4096
CASES: dict[str, dict[str, Any]] = {
    "single elements, LAMP": {},
    "single elements, global": {"allocation": "global"},
    "single elements, ERK": {"allocation": "erk"},
    "blocks of 4 inputs, global": {
        "granularity": kprune.Block((1, 4)),
        "allocation": "global",
    },
    "blocks of 4 outputs, global": {
        "granularity": kprune.Block((4, 1)),
        "allocation": "global",
    },
    "2:4, by share of groups": {"granularity": kprune.NofM(2, 4)},
    "2:4, global": {"granularity": kprune.NofM(2, 4), "allocation": "global"},
    "4:8, by share of groups": {"granularity": kprune.NofM(4, 8)},
}


class PeakMemory:
    """Within a `with`: how far the process's memory rose above what it was."""

    def __enter__(self) -> "PeakMemory":
        self.before, self.bytes, self._ended = _resident(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.001):
            self.bytes = max(self.bytes, _resident() - self.before)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def pruned_group(case: dict[str, Any], width: int, kernels: int) -> Group:
    layers = [keras.layers.Dense(width, use_bias=False) for _ in range(kernels)]
    model = keras.Sequential([keras.layers.Input((width,)), *layers])
    fixed = case.get("granularity", kprune.Element()).fixed_sparsity
    rule = kprune.Rule(kprune.ConstantSparsity(fixed or 0.9), **case)
    (group,) = find_groups(model, kprune.Plan(rule), Notices())[0]
    for weight in group.weights:
        weight.attach(None)
    return group


def updates(
    case: dict[str, Any], width: int, kernels: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Returns CPU seconds and memory, over the weights', of first and later updates."""
    seconds: dict[str, list[float]] = {"first": [], "later": []}
    memory: dict[str, list[float]] = {"first": [], "later": []}
    random = np.random.default_rng(0)
    for _ in range(rounds):
        group = pruned_group(case, width, kernels)
        fixed = group.rule.granularity.fixed_sparsity
        first, later = (0.5 * fixed, 0.52 * fixed) if fixed else (0.8, 0.82)
        for name, sparsity in (("first", first), ("later", later)):
            with PeakMemory() as peak:
                start = time.process_time()
                group.update(sparsity)
                seconds[name].append(time.process_time() - start)
            memory[name].append(peak.bytes / (4 * group.size))
            for weight in group.weights:
                noise = random.normal(0, 0.001, weight.shape).astype("float32")
                weight.variable.assign_add(noise)
                weight.apply()
        del group
    return seconds, memory


def measure(case: dict[str, Any], width: int, rounds: int) -> dict[str, dict]:
    """Returns seconds and memory of the first and of a later update, judged."""
    seconds, memory = updates(case, width, KERNELS, rounds)
    return {
        f"{name} update, {what}": protocol.judged(
            {"ratio": float(np.median(values)), "quartiles": _quartiles(values)},
            at_most=most,
        )
        for name in ("first", "later")
        for what, values, most in (
            ("seconds", seconds[name], SECONDS_AT_MOST),
            ("memory", memory[name], MEMORY_AT_MOST),
        )
    }


def _quartiles(values: list[float]) -> list[float]:
    return [float(np.quantile(values, 0.25)), float(np.quantile(values, 0.75))]


def main() -> None:
    args = protocol.options(__doc__, rounds=3)
    width, rounds = (512, 1) if args.quick else (WIDTH, args.rounds)
    results = {}
    for name, case in CASES.items():
        for part, result in measure(case, width, rounds).items():
            results[f"{name}; {part}"] = result
    protocol.finish("model_update", results, args, weights=KERNELS * width**2)


if __name__ == "__main__":
    main()
