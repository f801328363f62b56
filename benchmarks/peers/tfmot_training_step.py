"""What pruning adds to a training step in tensorflow-model-optimization.

    python -m benchmarks.peers.tfmot_training_step \
        --out benchmarks/results/tfmot_training_step.json

The protocol of `benchmarks/training_step.py` with `prune_low_magnitude` on tf_keras.
Needs an environment with the packages of kprune's extra `tfmot`; not kprune itself.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["TF_USE_LEGACY_KERAS"] = "1"

from typing import Any  # noqa: E402

import tensorflow_model_optimization as tfmot  # noqa: E402
import tf_keras  # noqa: E402

from benchmarks import networks, protocol, step_timing  # noqa: E402

FREQUENCY = 100


def pruned(model: Any, data: Any, steps: range) -> tuple[Any, list[Any]]:
    """Returns the model as tfmot prunes it in these steps, and the callback for it."""
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        0.0, 0.9, begin_step=steps.start, end_step=steps.stop, frequency=FREQUENCY
    )
    model = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
    return model, [tfmot.sparsity.keras.UpdatePruningStep()]


def main() -> None:
    args = step_timing.options(__doc__)
    results = {}
    for name, network in networks.NETWORKS.items():
        print(f"{name}: CPU milliseconds per step", flush=True)
        results[name] = step_timing.measure(
            tf_keras, network, pruned, args.steps, args.rounds
        )
    protocol.finish(
        "tfmot_training_step", results, args, steps=args.steps, frequency=FREQUENCY
    )


if __name__ == "__main__":
    main()
