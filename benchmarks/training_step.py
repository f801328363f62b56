"""What pruning adds to a training step in kprune.

    python -m benchmarks.training_step --out benchmarks/results/training_step.json

Trains each network twice, dense and with `PruningCallback`, in short turns, and
compares their process CPU time, for each granularity and with masks that move. They
are updated every 100 steps from the first measured turn to the last; these updates are
part of what is measured. About 50 minutes on two cores.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from typing import Any  # noqa: E402

import keras  # noqa: E402

import kprune  # noqa: E402
from benchmarks import networks, protocol, step_timing  # noqa: E402

FREQUENCY = 100


# Per row: the network, what is pruned, how far.
ROWS = {
    "resnet8": ("resnet8", "element", 0.9),
    "resnet8, kernels": ("resnet8", "kernel", 0.9),
    "resnet8, blocks 4x1": ("resnet8", kprune.Block((4, 1)), 0.9),
    "resnet8, 2:4": ("resnet8", kprune.NofM(2, 4, remainder="dense"), 0.5),
    "resnet8, channels": ("resnet8", "channel", 0.5),
    "dense5m": ("dense5m", "element", 0.9),
    "dense5m, blocks 1x4": ("dense5m", kprune.Block((1, 4)), 0.9),
    "dense5m, 2:4": ("dense5m", kprune.NofM(2, 4, remainder="dense"), 0.5),
    "dense5m, SET": ("dense5m", "element", 0.9),
    "dense5m, RigL": ("dense5m", "element", 0.9),
}
REGROWTHS = {"SET": kprune.SET, "RigL": kprune.RigL}


def callback(row: str, data: tuple[Any, Any], steps: range) -> kprune.PruningCallback:
    """Returns what prunes one row, with updates in these steps."""
    _, granularity, sparsity = ROWS[row]
    begin, end = steps.start, steps.stop
    regrowth = REGROWTHS.get(row.partition(", ")[2])
    if regrowth is not None:
        return kprune.PruningCallback(
            schedule=kprune.ConstantSparsity(sparsity),
            granularity=granularity,
            regrowth=regrowth(begin_step=begin, end_step=end, frequency=FREQUENCY),
            data=data,
        )
    schedule = kprune.PolynomialDecay(0.0, sparsity, begin, end, frequency=FREQUENCY)
    return kprune.PruningCallback(schedule=schedule, granularity=granularity)


def measure(row: str, steps: int, rounds: int) -> dict:
    """Returns the ratio pruned / dense of one row."""
    name = ROWS[row][0]

    def pruned(model: Any, data: Any, measured: range) -> tuple[Any, list[Any]]:
        return model, [callback(row, data, measured)]

    network = networks.NETWORKS[name]
    result = step_timing.measure(keras, network, pruned, steps, rounds)
    return protocol.judged(result, at_most=networks.TARGETS[name])


def main() -> None:
    args = step_timing.options(__doc__)
    results = {}
    for row in ROWS:
        print(f"{row}: CPU milliseconds per step", flush=True)
        results[row] = measure(row, args.steps, args.rounds)
    protocol.finish(
        "training_step", results, args, steps=args.steps, frequency=FREQUENCY
    )


if __name__ == "__main__":
    main()
