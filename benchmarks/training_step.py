"""What pruning adds to a training step in kprune.

    python -m benchmarks.training_step --out benchmarks/results/training_step.json

Trains each network twice, dense and with `PruningCallback`, in short turns, and
compares their process CPU time; the residual one also with whole channels pruned. The
masks are updated every 100 steps along a ramp as long as all measured turns; these
updates are part of what is measured. About fifteen minutes on two cores.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402

import kprune  # noqa: E402
from benchmarks import networks, protocol, step_timing  # noqa: E402

FREQUENCY = 100


# Per row: the network, what is pruned, how far.
ROWS = {
    "resnet8": ("resnet8", "element", 0.9),
    "resnet8, channels": ("resnet8", "channel", 0.5),
    "dense5m": ("dense5m", "element", 0.9),
}


def measure(row: str, steps: int, rounds: int) -> dict:
    """Returns the ratio pruned / dense of one row."""
    name, granularity, sparsity = ROWS[row]

    def lane(pruned: bool) -> step_timing.Lane:
        keras.utils.set_random_seed(0)
        model = networks.NETWORKS[name](keras)
        model.compile("adam", "sparse_categorical_crossentropy")
        schedule = kprune.PolynomialDecay(
            0.0,
            sparsity,
            begin_step=steps,  # Where the warm-up ends.
            end_step=steps * (rounds + 1),
            frequency=FREQUENCY,
        )
        pruning = kprune.PruningCallback(schedule=schedule, granularity=granularity)
        callbacks = [pruning] if pruned else []
        data = networks.random_data(model)
        return step_timing.Lane(keras, model, data, steps * (rounds + 1), callbacks)

    lanes = {"dense": lane(False), "pruned": lane(True)}
    times = step_timing.compare(lanes, steps, rounds)
    result = protocol.ratio(times["pruned"], times["dense"])
    result = protocol.judged(result, at_most=networks.TARGETS[name])
    return {**result, "milliseconds": times}


def main() -> None:
    args = protocol.options(__doc__, steps=300, rounds=9)
    steps, rounds = (100, 3) if args.quick else (args.steps, args.rounds)
    results = {}
    for row in ROWS:
        print(f"{row}: CPU milliseconds per step", flush=True)
        results[row] = measure(row, steps, rounds)
    protocol.finish("training_step", results, args, steps=steps, frequency=FREQUENCY)


if __name__ == "__main__":
    main()
