"""The comparison of pruning methods: networks, data, runs and verdicts.

What kprune, in `benchmarks/methods.py`, and its peers, in
`benchmarks/peers/tfmot_accuracy.py` and `pquant_accuracy.py`, share. Nothing here
imports Keras: it is an argument, Keras 3 or tf_keras.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import fashion_mnist
from benchmarks.fashion_mnist import Data, Phase, Run, Task

# In this order, since a run that is stopped should have the most telling ones.
SPARSITIES = (0.9, 0.95, 0.98, 0.5, 0.8)
# From here on the best method has to beat the baselines.
HIGH = 0.9

DENSE, SMALL = "dense", "small dense"
RANDOM, STATIC, SHUFFLED = "random", "static random", "shuffled masks"
GLOBAL, RIGL, SET = "magnitude, global", "RigL", "SET"
SINCE = "movement, since start"
TFMOT, PQUANT = "tfmot", "PQuantML"
# The methods of kprune that are meant to be good; the best of them is judged.
OURS = (
    GLOBAL,
    "magnitude, uniform",
    "magnitude, ERK",
    "magnitude, LAMP",
    "Taylor",
    "movement",
    SINCE,
    RIGL,
    SET,
)
BASELINES = (RANDOM, STATIC, SHUFFLED, SMALL)
PEERS = (TFMOT, PQUANT)
METHODS = (DENSE, *OURS, *PEERS, *BASELINES)  # The order of tables.

ABOUT = (
    "{data} Accuracy in percent on the test set after the last epoch. All networks are "
    "trained from scratch with the same batches in the same order per seed: {epochs} "
    "epochs of batch 128, Adam, whose learning rate rises over half an epoch to {peak} "
    "and falls to zero along a cosine. Gradual methods ramp up along a cubic over the "
    "first half; PQuantML's, in that half, is linear and rises by the epoch. RigL, "
    "SET, static random and shuffled masks are sparse from the first step; so is the "
    "small dense network, which has as many parameters as are left. "
    "The learning rate was chosen for the dense network on a held-out part of the "
    "training set."
)


@dataclasses.dataclass(frozen=True)
class MethodRun(Run):
    """One training from scratch by one method."""

    method: str = DENSE

    def key(self) -> dict[str, Any]:
        """Returns what tells the run's rows from others in a result file."""
        return super().key() | {"method": self.method}


@dataclasses.dataclass(frozen=True)
class Network:
    """A network whose hidden layers can be scaled.

    Args:
        build: Returns it with these widths, given `keras` or `tf_keras`.
        parameters: Returns how many parameters it has with these widths.
        widths: Of the network that is pruned.
        biases: How many of its parameters are not pruned.
        shrunk: Returns widths with at least so many parameters, and hardly more.
    """

    build: Callable[[Any, Sequence[int]], Any]
    parameters: Callable[[Sequence[int]], int]
    widths: tuple[int, ...]
    biases: int
    shrunk: Callable[[int], tuple[int, ...]]

    def small_widths(self, sparsity: float) -> tuple[int, ...]:
        """Returns the widths of the small dense network for a sparsity."""
        kernels = self.parameters(self.widths) - self.biases
        return self.shrunk(self.biases + kernels - round(sparsity * kernels))


def lenet(keras: Any, widths: Sequence[int]) -> Any:
    """Returns LeNet-300-100 for 28x28x1 images, with other widths if need be."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            *(layers.Dense(width, activation="relu") for width in widths),
            layers.Dense(10),
        ]
    )


def lenet_parameters(widths: Sequence[int]) -> int:
    """Returns the number of `lenet`'s parameters."""
    sizes = (784, *widths, 10)
    return sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(sizes))


def shrunk_lenet(parameters: int) -> tuple[int, ...]:
    """Returns the widest first layer in proportion, then as wide a second as needed.

    The second layer is never narrower than the ten classes: in proportion it would have
    two units at sparsity 0.98, and be a bottleneck that no one would build.
    """

    def second(first: int) -> int:
        return max(10, round(first / 3))

    first = 1
    while lenet_parameters((first + 1, second(first + 1))) <= parameters:
        first += 1
    width = second(first)
    while lenet_parameters((first, width)) < parameters:
        width += 1
    return first, width


def gru(keras: Any, widths: Sequence[int]) -> Any:
    """Returns a classifier with one GRU over 10 steps of 4 samples."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((10, 4)),
            layers.GRU(widths[0], unroll=True),
            layers.Dense(10),
        ]
    )


def gru_parameters(widths: Sequence[int]) -> int:
    """Returns the number of `gru`'s parameters: the GRU has two biases per gate."""
    (units,) = widths
    return 3 * units * (4 + units + 2) + (units + 1) * 10


def shrunk_gru(parameters: int) -> tuple[int, ...]:
    """Returns the least number of units that has so many parameters."""
    return next((n,) for n in itertools.count(1) if gru_parameters((n,)) >= parameters)


NETWORKS = {
    "lenet": Network(lenet, lenet_parameters, (300, 100), 410, shrunk_lenet),
    "gru": Network(gru, gru_parameters, (96,), 6 * 96 + 10, shrunk_gru),
}


def mnist1d(keras: Any) -> Data:
    """Returns MNIST-1D as 10 steps of 4 samples, 10,000 examples each.

    Source: Greydanus and Kobak, "Scaling down deep learning with MNIST-1D", 2020,
    https://arxiv.org/abs/2011.14439. Deviation: 20,000 examples in the place of 5,000,
    made by the authors' package with their other settings, so that the test set tells
    methods apart.
    """
    import mnist1d.data

    args = mnist1d.data.get_dataset_args()
    args.num_samples, args.train_split = 20_000, 0.5
    made = mnist1d.data.make_dataset(args)
    train, test = (
        (
            made[f"x{part}"].reshape(-1, 10, 4).astype("float32"),
            made[f"y{part}"].astype("int32"),
        )
        for part in ("", "_test")
    )
    return train, test


PHASES = {"lenet": (Phase(10, 2e-3),), "gru": (Phase(30, 2e-2),)}
DATA = {
    "lenet": ("Fashion-MNIST, all 60,000 training images.", fashion_mnist.images),
    "gru": ("MNIST-1D, 10,000 training and 10,000 test examples.", mnist1d),
}
TASKS = {
    net: Task(
        ABOUT.format(data=data, epochs=PHASES[net][0].epochs, peak=PHASES[net][0].peak),
        load,
    )
    for net, (data, load) in DATA.items()
}


def suites(methods: Sequence[str]) -> dict[str, tuple[Run, ...]]:
    """Returns the runs of these methods per network, by the name for `--suite`."""
    return {
        net: tuple(
            MethodRun(net, phases, 0.0 if method == DENSE else sparsity, method=method)
            for sparsity in SPARSITIES
            for method in methods
            if method != DENSE or sparsity == SPARSITIES[0]
        )
        for net, phases in PHASES.items()
    }


def shuffled(masks: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """Returns masks that keep as many weights of each kernel, drawn by lot."""
    lots = np.random.default_rng(seed)
    return [lots.permuted(mask.ravel()).reshape(mask.shape) for mask in masks]


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns means and ranges over the seeds, and then the verdicts."""
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["sparsity"]), []).append(row)
    means = [
        {
            "net": group[0]["net"],
            "method": method,
            "sparsity": sparsity,
            "parameters_left": round(
                sum(row["parameters_left"] for row in group) / len(group)
            ),
            **fashion_mnist.spread([row["accuracy"] for row in group]),
        }
        for (method, sparsity), group in groups.items()
    ]
    return means + verdicts(means)


def verdicts(means: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns per sparsity what is ahead of what, by how much, and if that is enough.

    The best method of kprune must be ahead of the baselines by more than the spread
    from sparsity `HIGH` on, and of the peers by nothing; RigL must be ahead of static
    random by more than the spread at `HIGH`. The spread is the larger of the two
    ranges, greatest less least, over the seeds; a single seed has none, and no verdict.
    """
    found = {(row["method"], row["sparsity"]): row for row in means}
    result = []
    for sparsity in sorted({row["sparsity"] for row in means} - {0.0}):
        ours = [found[m, sparsity] for m in OURS if (m, sparsity) in found]
        if not ours:
            continue
        best = max(ours, key=lambda row: row["accuracy"])
        pairs = [(best, "best", other) for other in (*BASELINES, *PEERS)]
        if (RIGL, sparsity) in found:
            pairs.append((found[RIGL, sparsity], RIGL, STATIC))
        for row, name, against in pairs:
            if (against, sparsity) in found:
                other = found[against, sparsity]
                result.append(_verdict(name, row, other, sparsity))
    return result


def _verdict(
    name: str, row: dict[str, Any], other: dict[str, Any], sparsity: float
) -> dict[str, Any]:
    lead = round(row["accuracy"] - other["accuracy"], 3)
    spread = round(max(r["range"][1] - r["range"][0] for r in (row, other)), 2)
    verdict = {
        "check": name,
        "method": row["method"],
        "against": other["method"],
        "sparsity": sparsity,
        "lead": lead,
        "spread": spread,
    }
    if min(row["seeds"], other["seeds"]) < 2:
        return verdict
    if other["method"] in PEERS:
        verdict["met"] = lead >= 0
    elif sparsity == HIGH or (name == "best" and sparsity > HIGH):
        verdict["met"] = lead > spread
    return verdict
