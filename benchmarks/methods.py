"""Which pruning method keeps most accuracy, from scratch and with the same training.

    python -m benchmarks.methods --suite lenet \
        --out benchmarks/results/methods_lenet.json
    python -m benchmarks.methods --suite gru --out benchmarks/results/methods_gru.json

LeNet-300-100 on Fashion-MNIST, and a GRU on MNIST-1D, which takes the package of
kprune's extra `bench`. Methods, networks and verdicts are those of
`benchmarks/comparison.py`; tfmot is run by `benchmarks/peers/tfmot_accuracy.py`, and
its results, where there are any, are judged here. Results are written after each run;
the same command goes on where it was stopped. An hour for each suite, with three seeds
on half of a core, which is what there was.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import dataclasses  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import keras  # noqa: E402
import numpy as np  # noqa: E402

import kprune  # noqa: E402
from benchmarks import comparison, fashion_mnist, tables  # noqa: E402
from benchmarks.comparison import NETWORKS, MethodRun  # noqa: E402
from benchmarks.fashion_mnist import Trainer  # noqa: E402

Pruning = Callable[[Trainer, float, int], kprune.PruningCallback]


def gradual(criterion: str = "magnitude", **rule: Any) -> Pruning:
    """Returns what makes a callback with the default schedule."""

    def pruning(trainer: Trainer, sparsity: float, seed: int) -> kprune.PruningCallback:
        return kprune.PruningCallback(
            sparsity, criterion=criterion, data=(trainer.x, trainer.y), **rule
        )

    return pruning


def regrowing(way: str) -> Pruning:
    """Returns what makes a callback that is sparse throughout, by ERK."""

    def pruning(trainer: Trainer, sparsity: float, seed: int) -> kprune.PruningCallback:
        return kprune.PruningCallback(
            sparsity, regrowth=way, data=(trainer.x, trainer.y)
        )

    return pruning


def by_lot(trainer: Trainer, sparsity: float, seed: int) -> kprune.PruningCallback:
    """Returns gradual random pruning, with other lots for each seed."""
    return kprune.PruningCallback(sparsity, criterion=kprune.Random(seed))


def static(trainer: Trainer, sparsity: float, seed: int) -> kprune.PruningCallback:
    """Returns random masks by ERK that are held from the first step."""
    return kprune.PruningCallback(
        schedule=kprune.ConstantSparsity(sparsity),
        criterion=kprune.Random(seed),
        allocation="erk",
    )


def since_start(trainer: Trainer, run: MethodRun, seed: int) -> kprune.PruningCallback:
    """Returns gradual pruning by all movement since the seed's initial weights."""
    network = NETWORKS[run.net]
    keras.utils.set_random_seed(seed)
    file = trainer.folder / f"start_{run.net}_seed{seed}.weights.h5"
    file.parent.mkdir(parents=True, exist_ok=True)
    network.build(keras, network.widths).save_weights(file)
    return kprune.PruningCallback(run.sparsity, criterion=kprune.Movement(file))


PRUNING: dict[str, Pruning] = {
    comparison.GLOBAL: gradual(allocation="global"),
    "magnitude, uniform": gradual(allocation="uniform"),
    "magnitude, ERK": gradual(allocation="erk"),
    "magnitude, LAMP": gradual(),
    "Taylor": gradual("taylor"),
    "movement": gradual("movement"),
    comparison.RANDOM: by_lot,
    comparison.STATIC: static,
    comparison.RIGL: regrowing("rigl"),
    comparison.SET: regrowing("set"),
}
SUITES = comparison.suites(
    (
        comparison.DENSE,
        comparison.SMALL,
        *PRUNING,
        comparison.SINCE,
        comparison.SHUFFLED,
    )
)


def train(trainer: Trainer, run: MethodRun, seed: int) -> keras.Model:
    """Returns the network that one run trains."""
    network = NETWORKS[run.net]
    if run.method == comparison.SMALL:
        return fitted(trainer, run, seed, network.small_widths(run.sparsity))
    if run.method == comparison.SHUFFLED:
        masks = comparison.shuffled(masks_of_global(trainer, run, seed), seed)
        return fitted(trainer, run, seed, network.widths, masks=masks)
    callbacks = []
    if run.method == comparison.SINCE:
        callbacks = [since_start(trainer, run, seed)]
    elif run.method in PRUNING:
        callbacks = [PRUNING[run.method](trainer, run.sparsity, seed)]
    model = fitted(trainer, run, seed, network.widths, callbacks)
    if run.method == comparison.GLOBAL:
        path = _masks_path(trainer, run, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, *[np.asarray(kernel) != 0 for kernel in _kernels(model)])
    return model


def fitted(
    trainer: Trainer,
    run: MethodRun,
    seed: int,
    widths: tuple[int, ...],
    callbacks: Any = None,
    masks: list[np.ndarray] | None = None,
) -> keras.Model:
    """Returns a network of the seed's initial weights, trained; masks hold if given."""
    keras.utils.set_random_seed(seed)
    model = NETWORKS[run.net].build(keras, widths)
    if masks is not None:
        for kernel, mask in zip(_kernels(model), masks, strict=True):
            kernel.assign(kernel * mask)
        kprune.hold_zeros(model)
    (phase,) = run.phases
    trainer.fit(model, phase, seed, callbacks)
    return model


def masks_of_global(trainer: Trainer, run: MethodRun, seed: int) -> list[np.ndarray]:
    """Returns the masks that global magnitude pruning ended with, run if need be."""
    path = _masks_path(trainer, run, seed)
    if not path.exists():
        train(trainer, dataclasses.replace(run, method=comparison.GLOBAL), seed)
    with np.load(path) as kept:
        return [kept[name] for name in kept.files]


def _masks_path(trainer: Trainer, run: MethodRun, seed: int) -> Path:
    split = "_validation" if trainer.validation else ""
    return trainer.folder / f"masks_{run.net}_{run.sparsity}_seed{seed}{split}.npz"


def _kernels(model: keras.Model) -> list[keras.Variable]:
    """Returns what is pruned: kernels, and not the matrix of a GRU's biases."""
    return [v for v in model.weights if "kernel" in v.name]


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns means and verdicts, with the peers' rows on the same suite."""
    if not rows:
        return []
    files = (tables.load(f"{peer}_{rows[0]['suite']}") for peer in tables.PEERS)
    peers = [row for file in files if file for row in file["rows"]]
    return comparison.summarise([*rows, *peers])


def main() -> None:
    fashion_mnist.run_suite(
        keras,
        "methods",
        __doc__,
        SUITES,
        train,
        summarise,
        tasks=comparison.TASKS,
    )


if __name__ == "__main__":
    main()
