"""What accuracy is left after pruning with tensorflow-model-optimization.

    python -m benchmarks.peers.tfmot_accuracy \
        --out benchmarks/results/tfmot_accuracy.json

    python -m benchmarks.peers.tfmot_accuracy --suite lenet \
        --out benchmarks/results/tfmot_lenet.json
    python -m benchmarks.peers.tfmot_accuracy --suite gru \
        --out benchmarks/results/tfmot_gru.json

Suite `cnn`: the protocol of `benchmarks/accuracy.py` in tf_keras, with
`prune_low_magnitude` and its `PolynomialDecay` in the second phase: from sparsity 0 at
the first step to the half of the phase, every 100 steps. About 35 minutes on one core.

Suites `lenet` and `gru`: the networks, data and training of `benchmarks/methods.py`,
with the same ramp in as many updates as kprune's default, 50. Three minutes each.

Needs an environment with the packages of kprune's extra `tfmot`, and for `gru` the one
of `bench`; not kprune itself.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["TF_USE_LEGACY_KERAS"] = "1"

from typing import Any  # noqa: E402

import tensorflow_model_optimization as tfmot  # noqa: E402
import tf_keras  # noqa: E402

from benchmarks import comparison, fashion_mnist  # noqa: E402
from benchmarks.comparison import NETWORKS, MethodRun  # noqa: E402
from benchmarks.fashion_mnist import Phase, Run, Trainer  # noqa: E402

FREQUENCY = 100
UPDATES = 50  # Of the suites that compare methods.
PHASES = (Phase(12, 1e-3), Phase(12, 2e-3))
SUITES = {
    "cnn": (
        Run("cnn", PHASES, 0.9, "uniform"),
        Run("cnn", PHASES, 0.95, "uniform"),
        Run("cnn", PHASES, 0.8, "uniform"),
    ),
    **comparison.suites((comparison.TFMOT,)),
}


def train(trainer: Trainer, run: Run, seed: int) -> Any:
    """Returns the network that one run trains, its wrappers taken off."""
    if isinstance(run, MethodRun):
        tf_keras.utils.set_random_seed(seed)
        network = NETWORKS[run.net]
        model, seed_of_fit = network.build(tf_keras, network.widths), seed
    else:
        model, seed_of_fit = trainer.first_phase(run, seed), seed + 1000
    phase = run.phases[-1]
    # The final sparsity is reached only if the frequency divides the ramp.
    half = trainer.steps * phase.epochs // 2
    frequency = half // UPDATES if isinstance(run, MethodRun) else FREQUENCY
    frequency = max(1, min(frequency, half))  # Short runs have few steps.
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        0.0,
        run.sparsity,
        begin_step=0,
        end_step=half // frequency * frequency,
        frequency=frequency,
    )
    pruned = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
    callbacks = [tfmot.sparsity.keras.UpdatePruningStep()]
    trainer.fit(pruned, phase, seed_of_fit, callbacks)
    return tfmot.sparsity.keras.strip_pruning(pruned)


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns means and ranges over the seeds."""
    compared = bool(rows) and "method" in rows[0]
    return (comparison.summarise if compared else fashion_mnist.means)(rows)


def main() -> None:
    fashion_mnist.run_suite(
        tf_keras,
        "peers.tfmot_accuracy",
        __doc__,
        SUITES,
        train,
        summarise,
        tasks=comparison.TASKS,
    )


if __name__ == "__main__":
    main()
