"""What pruning adds to a training step in tensorflow-model-optimization.

    python -m benchmarks.peers.tfmot_training_step \
        --out benchmarks/results/tfmot_training_step.json

The protocol of `benchmarks/training_step.py` with `prune_low_magnitude` on tf_keras.
Needs an environment with the packages of kprune's extra `tfmot`; not kprune itself.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import tensorflow_model_optimization as tfmot  # noqa: E402
import tf_keras  # noqa: E402

from benchmarks import networks, protocol, step_timing  # noqa: E402

FREQUENCY = 100


def measure(name: str, steps: int, rounds: int) -> dict:
    """Returns the ratio pruned / dense of one network."""

    def lane(pruned: bool) -> step_timing.Lane:
        tf_keras.utils.set_random_seed(0)
        model = networks.NETWORKS[name](tf_keras)
        data = networks.random_data(model)
        callbacks = []
        if pruned:
            schedule = tfmot.sparsity.keras.PolynomialDecay(
                0.0,
                0.9,
                begin_step=steps,
                end_step=steps * (rounds + 1),
                frequency=FREQUENCY,
            )
            model = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
            callbacks = [tfmot.sparsity.keras.UpdatePruningStep()]
        model.compile("adam", "sparse_categorical_crossentropy")
        return step_timing.Lane(tf_keras, model, data, steps * (rounds + 1), callbacks)

    lanes = {"dense": lane(False), "pruned": lane(True)}
    times = step_timing.compare(lanes, steps, rounds)
    return {**protocol.ratio(times["pruned"], times["dense"]), "milliseconds": times}


def main() -> None:
    args = protocol.options(__doc__, steps=300, rounds=9)
    steps, rounds = (100, 3) if args.quick else (args.steps, args.rounds)
    results = {}
    for name in networks.NETWORKS:
        print(f"{name}: CPU milliseconds per step", flush=True)
        results[name] = measure(name, steps, rounds)
    protocol.finish(
        "tfmot_training_step", results, args, steps=steps, frequency=FREQUENCY
    )


if __name__ == "__main__":
    main()
