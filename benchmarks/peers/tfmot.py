"""kprune and tensorflow-model-optimization side by side, in one run.

    python -m benchmarks.peers.tfmot --out benchmarks/results/tfmot_side_by_side.json

Each side runs in a process of its own, since tfmot turns a process to Keras 2; what
they measure is the same code, and they take turns. `--peer-python` names an interpreter
with the packages of kprune's extra `tfmot`; the default is this one, which has both
sides after `pip install -e ".[test]"`.

- Time of a training step over that of the same network without pruning, in CPU time,
  with `step_timing`: updates every 100 steps, on a ramp from 0 to 0.9, are included;
  and once without them, since what is gained there depends on the frequency.
- CPU time of a mask update of all kernels of `dense5m`: the first, of dense kernels to
  0.8, and a later one to 0.82.
- Sparsity of the kernels in a checkpoint that `ModelCheckpoint` writes at a random step
  after a ramp to 0.8: the one farthest from 0.8.
- Sparsity after a ramp to 0.8 of 150 steps with updates every 100 steps, the default.
- Test accuracy of a small CNN on scikit-learn's digits at 0.5, 0.8 and 0.9: trained
  dense, then pruned on one and the same ramp.
- The layers with weights that both Kerases have: pruned, skipped (trained, with dense
  kernels), or refused with an error.

Each side has its default settings elsewhere: kprune spreads zeros by what each kernel
can spare, but for the layers, and tfmot prunes each kernel alike. A row is equal where
the difference is within the larger spread, of the quartiles for times, of the seeds for
accuracy; or within 0.001, for sparsities.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from benchmarks import protocol

SIDES = ("kprune", "tfmot")
# Of training steps: the network, which steps, and how often masks are updated.
STEPS = (
    ("resnet8", "", 100),
    ("dense5m", "", 100),
    ("dense5m", " between mask updates", 1_000_000),
)
SPARSITIES = ("0.5", "0.8", "0.9")
ASKED = 0.8
TOLERANCE = 0.001  # Of sparsities.
# A ramp of 20 steps, in a fit of 60.
CHECKPOINT_AFTER, CHECKPOINT_BEFORE = 31, 60


class Process:
    """One side in a process of its own, asked by the names of `Measured`'s methods.

    Args:
        python: Its interpreter.
        side: One of `SIDES`.
        digits: The file of the digits.
    """

    def __init__(self, python: str, side: str, digits: str) -> None:
        legacy = {"TF_USE_LEGACY_KERAS": "1"} if side == "tfmot" else {}
        self._process: Any = subprocess.Popen(
            [python, "-m", "benchmarks.peers.tfmot_sides", side, digits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **legacy},
        )

    def ask(self, name: str, *arguments: Any) -> Any:
        """Returns what the method measures; its errors are on the terminal."""
        print(json.dumps([name, arguments]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"{self._process.args} ended while it measured {name}.")
        return json.loads(answer)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def row(
    kind: str,
    better: str | float,
    values: tuple[float, float],
    ranges: tuple[Any, Any] | None = None,
    margin: float = 0.0,
    **facts: Any,
) -> dict[str, Any]:
    """Returns one row: what both sides reach, and what kprune is.

    Args:
        kind: What is measured; the table shows the values by it.
        better: `"less"` or `"more"`; or what is asked for, to be near to.
        values: kprune's and tfmot's.
        ranges: Lowest and highest of each; a lead that is no larger than the wider one
            is none.
        margin: Without `ranges`, the largest difference that is none.
        **facts: What else the table shows.
    """
    ours, theirs = values
    if not isinstance(better, str):
        lead = abs(theirs - better) - abs(ours - better)
    else:
        lead = theirs - ours if better == "less" else ours - theirs
    if ranges:
        margin = max(high - low for low, high in ranges)
        facts["ranges"] = dict(zip(SIDES, ranges, strict=True))
    # Sums of rounded numbers are not exact.
    equal = abs(lead) <= margin + 1e-9
    return {
        "kind": kind,
        "values": dict(zip(SIDES, (ours, theirs), strict=True)),
        **facts,
        "lead": round(lead, 4),
        "margin": round(margin, 4),
        "kprune_is": "equal" if equal else "ahead" if lead > 0 else "behind",
    }


def times(measured: dict[str, list[float]]) -> dict[str, Any]:
    """Returns the row of times in milliseconds."""
    quartiles = [
        tuple(round(float(np.quantile(measured[side], q)), 2) for q in (0.25, 0.75))
        for side in SIDES
    ]
    medians = [round(statistics.median(measured[side]), 2) for side in SIDES]
    return row("ms", "less", tuple(medians), tuple(quartiles))


def layers(found: dict[str, dict[str, str]]) -> dict[str, dict[str, Any]]:
    """Returns the rows of layers, of those that both Kerases have."""
    both = [name for name in found["kprune"] if name in found["tfmot"]]

    def counts(outcome: str) -> tuple[int, int]:
        ours, theirs = (
            sum(found[side][name].startswith(outcome) for name in both)
            for side in SIDES
        )
        return ours, theirs

    skipped = dict(zip(SIDES, counts("skipped"), strict=True))
    return {
        f"layers of Keras pruned, of {len(both)}": row(
            "layers", "more", counts("pruned"), skipped=skipped
        ),
        f"layers of Keras refused, of {len(both)}": row(
            "layers", "less", counts("refused")
        ),
    }


def measure(
    sides: dict[str, Process], steps: int, rounds: int, seeds: int, epochs: int
) -> dict[str, Any]:
    """Returns all rows, and what they are made of."""

    def both(name: str, *arguments: Any) -> dict[str, Any]:
        answers = {side: sides[side].ask(name, *arguments) for side in SIDES}
        print(name, *arguments, answers, flush=True)
        return answers

    rows: dict[str, Any] = {}
    for net, where, frequency in STEPS:
        found = both("step", net, steps, rounds, frequency)
        rows[f"training step of {net}{where}, pruned / dense"] = row(
            "ratio",
            "less",
            tuple(found[side]["ratio"] for side in SIDES),
            tuple(found[side]["quartiles"] for side in SIDES),
        )
    updates: dict[str, list[list[float]]] = {side: [] for side in SIDES}
    for order in protocol.rounds(SIDES, rounds):
        for side in order:
            updates[side].append(sides[side].ask("mask_update"))
    for index, name in enumerate(("first", "later")):
        rows[f"{name} mask update of dense5m"] = times(
            {side: [pair[index] for pair in updates[side]] for side in SIDES}
        )
    random = np.random.default_rng(0)
    moments = random.integers(CHECKPOINT_AFTER, CHECKPOINT_BEFORE, 3).tolist()
    written = [both("checkpoint", moment) for moment in moments]
    rows["sparsity of a checkpoint at a random step, 0.8 asked"] = row(
        "sparsity",
        ASKED,
        tuple(
            max((w[side] for w in written), key=lambda s: abs(s - ASKED))
            for side in SIDES
        ),
        margin=TOLERANCE,
        steps=moments,
    )
    found = both("achieved")
    rows["sparsity after a ramp that the frequency does not divide, 0.8 asked"] = row(
        "sparsity", ASKED, tuple(found[side] for side in SIDES), margin=TOLERANCE
    )
    accuracies = [both("accuracy", seed, epochs) for seed in range(seeds)]
    for sparsity in ("dense", *SPARSITIES):
        reached = [[a[side][sparsity] for a in accuracies] for side in SIDES]
        name = "dense" if sparsity == "dense" else f"at {sparsity}"
        rows[f"accuracy on the digits, {name}"] = row(
            "%",
            "more",
            tuple(round(statistics.mean(values), 2) for values in reached),
            tuple((round(min(v), 2), round(max(v), 2)) for v in reached),
        )
    tried = both("layers")
    rows |= layers(tried)
    return {"rows": rows, "accuracies": accuracies, "layers": tried}


def save_digits(path: str) -> None:
    """Writes scikit-learn's digits, which kprune installs, for both sides."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8, 1) / 16).astype("float32")
    parts = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
    names = ("x_train", "x_test", "y_train", "y_test")
    np.savez(path, **dict(zip(names, parts, strict=True)))


def main() -> None:
    parser = protocol.parser(__doc__, steps=100, rounds=5, seeds=3, epochs=15)
    parser.add_argument(
        "--peer-python", default=sys.executable, help="runs tfmot; %(default)s"
    )
    args = parser.parse_args()
    sizes = (args.steps, args.rounds, args.seeds, args.epochs)
    if args.quick:
        sizes = (25, 2, 1, 2)
    pythons = {"kprune": sys.executable, "tfmot": args.peer_python}
    with tempfile.TemporaryDirectory() as folder:
        digits = f"{folder}/digits.npz"
        save_digits(digits)
        sides = {side: Process(pythons[side], side, digits) for side in SIDES}
        results = measure(sides, *sizes)
        versions = sides["tfmot"].ask("machine")["versions"]
        for side in sides.values():
            side.close()
    print()
    for name, found in results["rows"].items():
        ours, theirs = found["values"].values()
        print(f"{name:<68} {ours:10.4f} {theirs:10.4f}  {found['kprune_is']}")
    protocol.write(
        "peers.tfmot",
        results,
        args,
        **dict(zip(("steps", "rounds", "seeds", "epochs"), sizes, strict=True)),
        peer_versions=versions,
    )


if __name__ == "__main__":
    main()
