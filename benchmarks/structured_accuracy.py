"""What accuracy is left after channels are removed with kprune, on Fashion-MNIST.

    python -m benchmarks.structured_accuracy --suite dense \
        --out benchmarks/results/structured_accuracy.json
    python -m benchmarks.structured_accuracy --suite pruned \
        --out benchmarks/results/structured_accuracy.json

Results are written after each run; the same command goes on where it was stopped.
Suites, with their time for three seeds on one free core:

- `dense`: ResNet-8, and narrower ones trained from scratch, with a half and a quarter
  of its multiplications (MACs), for 8 + 8 and for 4 + 4 epochs. Two and a half hours.
- `pruned`: ResNet-8 shrunk to a half and a quarter of its MACs, for the same epochs.
  40 minutes.
- `choice`: three ways to get there, for choosing between them with `--validation`
  and another `--out`.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from typing import Any  # noqa: E402

import keras  # noqa: E402

import kprune  # noqa: E402
from benchmarks import fashion_mnist  # noqa: E402
from benchmarks.fashion_mnist import Phase, StructuredRun, Trainer  # noqa: E402

LONG = (Phase(8, 2e-3), Phase(8, 2e-3))
SHORT = (Phase(4, 2e-3), Phase(4, 2e-3))
# Channels go early, and what is left trains longer.
EARLY = (Phase(2, 2e-3), Phase(6, 2e-3))
# The second phase, cut in two: until the channels are removed, and after.
GRADUAL = (Phase(4, 2e-3), Phase(2, 2e-3), Phase(2, 2e-3))
NARROW = {0.5: "resnet8 half", 0.25: "resnet8 quarter"}
SUITES = {
    "dense": tuple(
        StructuredRun(net, phases)
        for phases in (LONG, SHORT)
        for net in ("resnet8", *NARROW.values())
    ),
    "pruned": tuple(
        StructuredRun("resnet8", phases, macs=share, how="shrink")
        for phases in (LONG, SHORT)
        for share in NARROW
    ),
    "choice": tuple(
        StructuredRun("resnet8", phases, macs=0.5, how=how)
        for how, phases in (
            ("shrink", SHORT),
            ("gradual", GRADUAL),
            ("shrink", EARLY),
        )
    ),
}
# Points that may be lost against the dense network, by the share of MACs left.
MOST_LOST = {0.5: 0.5, 0.25: 1.2}
NO_WORSE_THAN_NARROW = (0.5,)


def train(trainer: Trainer, run: StructuredRun, seed: int) -> keras.Model:
    """Returns the network that one run trains."""
    model = trainer.first_phase(run, seed)
    if run.how == "gradual":
        # As many channels everywhere as the narrow network has fewer.
        narrow = fashion_mnist.narrow_widths(run.macs)
        sparsity = 1 - narrow[-1] / fashion_mnist.RESNET8_WIDTHS[-1]
        pruning = kprune.PruningCallback(
            sparsity, granularity="channel", allocation="uniform"
        )
        trainer.fit(model, run.phases[1], seed + 1000, [pruning])
    if run.how:
        model = kprune.shrink(model, budget=kprune.Budget(macs=run.macs))
    trainer.fit(model, run.phases[-1], seed + 1000 * (len(run.phases) - 1))
    return model


def more_facts(
    trainer: Trainer, run: StructuredRun, model: keras.Model
) -> dict[str, Any]:
    """Counts the multiplications, and the filters of each convolution in turn."""
    count, filters = 0, []
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            height, width = layer.output.shape[1:3]
            count += height * width * layer.kernel.shape.num_elements()
            filters.append(layer.filters)
        elif isinstance(layer, keras.layers.Dense):
            count += layer.kernel.shape.num_elements()
    dense = fashion_mnist.resnet8_macs(fashion_mnist.RESNET8_WIDTHS)
    return {"mac_count": count, "macs_left": round(count / dense, 4), "widths": filters}


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns means over the seeds, with targets and whether they are met."""
    result = fashion_mnist.structured_means(rows)
    for row in result:
        if "lost" not in row:
            continue
        row["target"] = {"at_most": MOST_LOST[row["macs"]]}
        row["met"] = row["lost"] <= MOST_LOST[row["macs"]]
        narrow = fashion_mnist.from_scratch(result, NARROW[row["macs"]], row["epochs"])
        if narrow is not None:
            lead = fashion_mnist.mean_lead(row, narrow)
            row |= {} if lead is None else {"above_narrow": lead}
        if row["macs"] in NO_WORSE_THAN_NARROW and "above_narrow" in row:
            row["no_worse"] = row["above_narrow"] >= 0
    return result


def main() -> None:
    fashion_mnist.run_suite(
        keras, "structured_accuracy", __doc__, SUITES, train, summarise, more_facts
    )


if __name__ == "__main__":
    main()
