"""How time and memory of pruning grow with the number of weights, and of layers.

    python -m benchmarks.scaling --out benchmarks/results/scaling.json

Networks of square dense layers without biases: four of growing width, from 10,000
weights to 100 million; and one to 500 layers of 64 units. Each point is measured in a
fresh process, in CPU time, which other work on the machine moves least:

- a training step with pruning and without, in turns and in batches of 32, between mask
  updates; up to ten million weights;
- an update of all masks by the default, LAMP, first to 0.8 and then to 0.82, and how
  far it raises the memory of the process, over the bytes of the weights: of large
  networks, since small ones fit into memory that the process has anyway.

The file is written after each point, and the same command goes on where it was stopped.
Six minutes on two free cores. This module changes when other sizes are to be measured.
"""

import json
import os
import statistics
import subprocess
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks import protocol, step_timing  # noqa: E402

STEPS = step_timing.STEPS_PER_TURN  # Per round.
STEPS_UP_TO, MEMORY_FROM = 20_000_000, 5_000_000  # Weights.
# What grows, width and number of the layers; the long ones last.
POINTS = (
    ("weights", 50, 4),
    ("layers", 64, 1),
    ("weights", 158, 4),
    ("layers", 64, 5),
    ("weights", 500, 4),
    ("layers", 64, 20),
    ("layers", 64, 100),
    ("weights", 1581, 4),
    ("layers", 64, 500),
    ("weights", 5000, 4),
)


def steps(width: int, layers: int, rounds: int) -> dict[str, Any]:
    """Returns milliseconds of steps with pruning and without, and their ratio."""
    import keras
    import numpy as np

    import kprune

    random = np.random.default_rng(0)
    data = tuple(random.normal(size=(1024, width)).astype("float32") for _ in range(2))

    def lane(callbacks: list[Any]) -> step_timing.Lane:
        keras.utils.set_random_seed(0)
        made = [keras.layers.Dense(width, use_bias=False) for _ in range(layers)]
        model = keras.Sequential([keras.Input((width,)), *made])
        model.compile("adam", "mse")
        return step_timing.Lane(keras, model, data, STEPS * (rounds + 1), callbacks)

    # Pruned at the first step, before anything is measured.
    pruning = kprune.PruningCallback(schedule=kprune.ConstantSparsity(0.8))
    lanes = {"dense": lane([]), "pruned": lane([pruning])}
    times = step_timing.compare(lanes, STEPS, rounds)
    return {**protocol.ratio(times["pruned"], times["dense"]), "milliseconds": times}


def child(width: int, layers: int, rounds: int) -> dict[str, Any]:
    """Measures one point in this process."""
    from benchmarks import model_update

    seconds, memory = model_update.updates({}, width, layers, rounds + 1)
    weights = width**2 * layers
    result: dict[str, Any] = {"weights": weights}
    # The first round warms up.
    result["update_milliseconds"] = {
        name: [round(1000 * s, 3) for s in values[1:]]
        for name, values in seconds.items()
    }
    if weights >= MEMORY_FROM:
        highest = max(value for values in memory.values() for value in values[1:])
        result["copies"] = round(highest, 3)
    if weights <= STEPS_UP_TO:
        result["step"] = steps(width, layers, rounds)
    return result


def measure(width: int, layers: int, rounds: int) -> dict[str, Any]:
    """Measures one point in a fresh process, and prints it."""
    command = [sys.executable, "-m", "benchmarks.scaling", "--child"]
    done = subprocess.run(
        [*command, json.dumps([width, layers, rounds])],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    update = statistics.median(result["update_milliseconds"]["first"])
    ratio = result.get("step", {}).get("ratio", "not measured")
    print(
        f"{result['weights']:>11,} weights in {layers} layers: update {update:.1f} ms, "
        f"step pruned / dense {ratio}",
        flush=True,
    )
    return result


def main() -> None:
    args = protocol.options(__doc__, rounds=7)
    rounds = 2 if args.quick else args.rounds
    rows = protocol.written(args).get("rows", [])
    for what, width, layers in POINTS[: 2 if args.quick else None]:
        key = {"grows": what, "width": width, "layers": layers}
        if any({**row, **key} == row for row in rows):
            continue
        rows.append({**key, **measure(width, layers, rounds)})
        protocol.write("scaling", {}, args, steps=STEPS, rows=rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(*json.loads(sys.argv[2]))))
    else:
        main()
