"""How small and fast a network gets on the whole road of `kprune.Recipe`.

    python -m benchmarks.recipe --suite cnn --out benchmarks/results/recipe.json
    python -m benchmarks.recipe --suite resnet8 --out benchmarks/results/recipe.json

Each network is trained dense, loses channels, has single weights pruned where that
pays, and is trained for int8, with the dense one as the teacher after the first stage.
The file's accuracy is that of the file in LiteRT on all test images. It is compared
with the dense network of the first stage as a float32 file for the same target, in
bytes and times, and in accuracy with the better of that and of one that was trained
dense for as many epochs as the whole recipe.

Results are written after each run; the same command goes on where it was stopped, with
the stage that is not done yet.

Times and bytes hardly depend on training: the shares that are left were chosen by
them, on networks with random weights. The teacher's weight and temperature are the
defaults: on a validation split, once, a weight of 0.9 at a temperature of 4 did worse.

Suites:

- `cnn`: the tutorial network, with encoded weights, for its bytes.
- `resnet8`: MLPerf Tiny's residual network, without, for its bytes and its times.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import dataclasses  # noqa: E402
from typing import Any  # noqa: E402

import keras  # noqa: E402

import kprune  # noqa: E402
from benchmarks import fashion_mnist  # noqa: E402
from benchmarks.fashion_mnist import (  # noqa: E402
    BATCH_SIZE,
    NETWORKS,
    Phase,
    Run,
    Trainer,
)
from kprune.recipe import (  # noqa: E402
    Export,
    Prune,
    QuantizeAware,
    Recipe,
    Shrink,
    Stage,
    Train,
)

PEAK = 2e-3


@dataclasses.dataclass(frozen=True)
class RecipeRun(Run):
    """One network on one road; without `stages` it is trained dense alone.

    `stages` come after the dense phase, which is `phases`.
    """

    stages: tuple[Stage, ...] = ()
    encode: bool = False

    def key(self) -> dict[str, Any]:
        """Returns what tells the run's rows from others in a result file."""
        return super().key() | {"recipe": self.recipe(0).to_yaml()}

    def short(self) -> "RecipeRun":
        """Returns the run with one epoch per phase and stage."""
        stages = tuple(dataclasses.replace(stage, epochs=1) for stage in self.stages)
        (phase,) = self.phases
        phases = (dataclasses.replace(phase, epochs=1),)
        return dataclasses.replace(self, phases=phases, stages=stages)

    def recipe(self, seed: int) -> Recipe:
        """Returns the recipe with a seed."""
        (phase,) = self.phases
        first = Train(epochs=phase.epochs, learning_rate=phase.peak)
        export = Export("microcontroller", encode=self.encode)
        return Recipe((first, *self.stages), export, BATCH_SIZE, 1000 * seed)


def _pair(net: str, dense: int, *stages: Stage, encode: bool = False) -> Any:
    """Returns a dense run of as many epochs, and the recipe's."""
    total = dense + sum(stage.epochs for stage in stages)
    return (
        RecipeRun(net, (Phase(total, PEAK),)),
        RecipeRun(net, (Phase(dense, PEAK),), stages=stages, encode=encode),
    )


def _shrink(epochs: int, **budget: float) -> Shrink:
    # Channels in multiples of 4.
    limit = kprune.Budget(**budget, target="microcontroller")
    return Shrink(budget=limit, epochs=epochs, learning_rate=PEAK)


def _last(epochs: int) -> QuantizeAware:
    return QuantizeAware(epochs=epochs, learning_rate=5e-4)


SUITES = {
    "cnn": _pair(
        "cnn",
        8,
        _shrink(4, params=0.25),
        Prune(0.75, epochs=8, learning_rate=PEAK),
        _last(4),
        encode=True,
    ),
    "resnet8": _pair("resnet8", 8, _shrink(28, macs=0.13), _last(4)),
}
# What each network is to reach: (times smaller, points lost, times faster).
TARGETS = {"cnn": (30, 0.6, None), "resnet8": (15, 1.0, 4)}


def train(trainer: Trainer, run: RecipeRun, seed: int) -> keras.Model:
    """Returns the network that a recipe makes, with its report."""
    keras.utils.set_random_seed(seed)
    model = NETWORKS[run.net](keras)
    model.compile(
        keras.optimizers.Adam(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    kind = "road" if run.stages else "dense"
    split = "_validation" if trainer.validation else ""
    size = f"{run.phases[0].epochs}_{len(trainer.x)}"
    result = run.recipe(seed).run(
        model,
        (trainer.x, trainer.y),
        (trainer.x_test, trainer.y_test),
        trainer.folder / f"recipe_{run.net}_{kind}_{size}_seed{seed}{split}",
        benchmark=bool(run.stages),
        verbose=2,
    )
    print(result.report, flush=True)
    result.model.recipe_report = result.report
    return result.model


def more_facts(trainer: Trainer, run: RecipeRun, model: keras.Model) -> dict[str, Any]:
    """Returns what the recipe measured of its first and its last file."""
    report = model.recipe_report
    dense, file = report.rows[0], report.rows[-1]
    return {
        "dense_accuracy": round(100 * dense.metrics["accuracy"], 2),
        "file_accuracy": round(100 * file.metrics["accuracy"], 2),
        "dense_bytes": dense.size.raw,
        "bytes": file.size.raw,
        "gzip_bytes": file.size.gzip,
        "dense_arena_bytes": dense.arena,
        "arena_bytes": file.arena,
        "times_faster": {i.runtime: round(i.ratio, 3) for i in file.latency},
        "rows": report.to_dict()["rows"],
    }


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns per network how small, fast and right its file is, by seed."""
    result = []
    for net in dict.fromkeys(row["net"] for row in rows):
        mine = [row for row in rows if row["net"] == net]
        longer = {r["seed"]: r["dense_accuracy"] for r in mine if not _is_road(r)}
        road = [row for row in mine if _is_road(row)]
        if not road:
            continue
        accuracies = {row["seed"]: row["file_accuracy"] for row in road}
        dense = {
            row["seed"]: max(row["dense_accuracy"], longer.get(row["seed"], 0.0))
            for row in road
        }
        smaller, lost, faster = TARGETS[net]
        found = {
            "net": net,
            **fashion_mnist.spread(list(accuracies.values())),
            "by_seed": {str(seed): value for seed, value in accuracies.items()},
            "dense_accuracy": round(sum(dense.values()) / len(dense), 3),
            "lost": round(
                sum(dense[seed] - accuracies[seed] for seed in dense) / len(dense), 3
            ),
            "dense_bytes": road[0]["dense_bytes"],
            "bytes": [row["bytes"] for row in road],
            "arena_bytes": [row["arena_bytes"] for row in road],
            "times_smaller": [round(r["dense_bytes"] / r["bytes"], 2) for r in road],
            "times_faster": {
                runtime: [row["times_faster"][runtime] for row in road]
                for runtime in road[0]["times_faster"]
            },
            "targets": {"smaller": smaller, "lost": lost, "faster": faster},
        }
        found["met"] = min(found["times_smaller"]) >= smaller and found["lost"] <= lost
        if faster is not None:
            ratios = [min(each) for each in found["times_faster"].values()]
            found["met"] = found["met"] and min(ratios) >= faster
        result.append(found)
    return result


def _is_road(row: dict[str, Any]) -> bool:
    return len(Recipe.from_yaml(row["recipe"]).stages) > 1


def main() -> None:
    fashion_mnist.run_suite(
        keras,
        "recipe",
        __doc__,
        SUITES,
        train,
        summarise,
        more_facts,
    )


if __name__ == "__main__":
    main()
