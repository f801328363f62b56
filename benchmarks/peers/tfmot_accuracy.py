"""What accuracy is left after pruning with tensorflow-model-optimization.

    python -m benchmarks.peers.tfmot_accuracy \
        --out benchmarks/results/tfmot_accuracy.json

The protocol of `benchmarks/accuracy.py` in tf_keras, with `prune_low_magnitude` and
its `PolynomialDecay` in the second phase: from sparsity 0 at the first step to the
half of the phase, every 100 steps. Needs an environment with the packages of kprune's
extra `tfmot`; not kprune itself. About 35 minutes on one core.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["TF_USE_LEGACY_KERAS"] = "1"

from typing import Any  # noqa: E402

import tensorflow_model_optimization as tfmot  # noqa: E402
import tf_keras  # noqa: E402

from benchmarks import fashion_mnist  # noqa: E402
from benchmarks.fashion_mnist import Phase, Run, Trainer  # noqa: E402

FREQUENCY = 100
PHASES = (Phase(12, 1e-3), Phase(12, 2e-3))
SUITES = {
    "cnn": (
        Run("cnn", PHASES, 0.9, "uniform"),
        Run("cnn", PHASES, 0.95, "uniform"),
        Run("cnn", PHASES, 0.8, "uniform"),
    )
}


def train(trainer: Trainer, run: Run, seed: int) -> Any:
    """Returns the network that one run trains, its wrappers taken off."""
    model = trainer.first_phase(run, seed)
    # The final sparsity is reached only if the frequency divides the ramp.
    half = trainer.steps * run.phases[1].epochs // 2
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        0.0,
        run.sparsity,
        begin_step=0,
        end_step=half // FREQUENCY * FREQUENCY,
        frequency=FREQUENCY,
    )
    pruned = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
    callbacks = [tfmot.sparsity.keras.UpdatePruningStep()]
    trainer.fit(pruned, run.phases[1], seed + 1000, callbacks)
    return tfmot.sparsity.keras.strip_pruning(pruned)


def main() -> None:
    fashion_mnist.run_suite(
        tf_keras, "peers.tfmot_accuracy", __doc__, SUITES, train, fashion_mnist.means
    )


if __name__ == "__main__":
    main()
