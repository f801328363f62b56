"""What accuracy is left after pruning with PQuantML, in Keras 3.

    python -m benchmarks.peers.pquant_accuracy --suite lenet \
        --out benchmarks/results/pquant_lenet.json

The network, data and training of `benchmarks/methods.py`. Of PQuantML's methods this is
PDP, which like kprune's is magnitude by a given sparsity: its masks are soft and are
made anew in each step, as sparse in each layer as in the others, with a linear ramp
that rises by the epoch in the first half of them; then masks are fixed. Their softness
is PQuantML's default, and quantisation is turned off. PQuantML walks `model.layers` as
a chain and has no recurrent layers, so that `lenet` is the one of the networks that it
can prune. The weights are put into the plain network that they came from, and that is
what is evaluated and counted.

Needs an environment of its own: PQuantML 0.1.0 asks for TensorFlow below 2.21, which
kprune needs. Not kprune itself. Four minutes per run on one core: each step sorts all
kernels.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from typing import Any  # noqa: E402

import keras  # noqa: E402
import numpy as np  # noqa: E402
import pquant  # noqa: E402
from pquant.core.keras.layers import PQDense  # noqa: E402
from pquant.core.keras.train import PQuantCallback  # noqa: E402

import kprune_machine  # noqa: E402
from benchmarks import comparison, fashion_mnist  # noqa: E402
from benchmarks.comparison import NETWORKS, MethodRun  # noqa: E402
from benchmarks.fashion_mnist import Trainer  # noqa: E402

SUITES = {"lenet": comparison.suites((comparison.PQUANT,))["lenet"]}
# Versions that the results hold.
kprune_machine.PACKAGES = ("pquant-ml", "keras", "tensorflow", "numpy")


class Callback(PQuantCallback):
    """Theirs, without the text that it logs: Keras's progress bar cannot add that."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Does what is due after an epoch."""
        super().on_epoch_end(epoch)


def configured(sparsity: float, epochs: int) -> Any:
    """Returns PQuantML's settings: a ramp over half of the epochs, no quantisation."""
    config = pquant.pdp_config()
    ramp = max(1, epochs // 2)
    config.pruning_parameters.sparsity = sparsity
    config.pruning_parameters.epsilon = 1 / ramp  # Of the sparsity, per epoch.
    config.quantization_parameters.enable_quantization = False
    config.training_parameters.pretraining_epochs = 0
    config.training_parameters.epochs = ramp
    config.training_parameters.fine_tuning_epochs = epochs - ramp
    return config


def train(trainer: Trainer, run: MethodRun, seed: int) -> keras.Model:
    """Returns the plain network with the weights of the pruned one."""
    network, (phase,) = NETWORKS[run.net], run.phases
    keras.utils.set_random_seed(seed)
    model = network.build(keras, network.widths)
    config = configured(run.sparsity, phase.epochs)
    pruned = pquant.add_compression_layers(model, config)
    callback = Callback(config, log_ebops=False, log_keep_ratio=False)
    trainer.fit(pruned, phase, seed, [callback])
    layers = [layer for layer in pruned.layers if isinstance(layer, PQDense)]
    weights = [np.array(w) for layer in layers for w in (layer.kernel, layer.bias)]
    model.set_weights(weights)
    predictions = pruned(trainer.x_test[:100], training=False)
    np.testing.assert_allclose(model(trainer.x_test[:100]), predictions, atol=1e-4)
    return model


def main() -> None:
    fashion_mnist.run_suite(
        keras,
        "peers.pquant_accuracy",
        __doc__,
        SUITES,
        train,
        comparison.summarise,
        tasks=comparison.TASKS,
    )


if __name__ == "__main__":
    main()
