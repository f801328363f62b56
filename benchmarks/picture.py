"""Draws the pictures of README, docs and the page on benchmarks.

    python -m benchmarks.picture    # draws all anew, with the plan of docs/shrink.png

Each picture but that plan, which is one for the residual network of MLPerf Tiny, is
drawn from results: it bears a digest of what it shows, by which `python -m
benchmarks.tables` finds out that it is no longer up to date. Matplotlib draws other
pixels with other fonts, so that pixels are not compared.

    kprune demo
    python -m benchmarks.picture --page kprune-demo/report.html    # docs/report.png

That is the top of the demo's page, as Chromium shows it. This module changes when
something else is to be drawn.
"""

import argparse
import dataclasses
import hashlib
import json
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import comparison

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
PLAN = DOCS / "shrink.png"
PAGE = DOCS / "report.png"
KIB = 1 / 1024

# Colours that readers with any colour vision tell apart (Okabe and Ito, 2008).
BLUE, ORANGE, GREY, GREEN, SKY, PURPLE, YELLOW, BLACK = (
    *("#0072B2", "#D55E00", "#555555", "#009E73"),
    *("#56B4E9", "#CC79A7", "#E69F00", "#000000"),
)
# Methods that the curves show, each with its colour and line: peers are dotted, what
# has to be beaten is dashed.
CURVES = {
    "magnitude, LAMP": (BLUE, "-"),
    "magnitude, ERK": (SKY, "-"),
    "Taylor": (GREEN, "-"),
    comparison.RIGL: (YELLOW, "-"),
    comparison.TFMOT: (ORANGE, ":"),
    comparison.PQUANT: (PURPLE, ":"),
    comparison.STATIC: (GREY, "--"),
    comparison.SMALL: (BLACK, "--"),
}


def document(name: str) -> dict[str, Any]:
    """Returns a result file; nothing if that benchmark was not run."""
    path = HERE / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def overview() -> dict[str, Any]:
    """Returns accuracies by sparsity, every seed's, and the bytes of files."""
    ours = document("accuracy_cnn")["rows"]
    theirs = document("tfmot_accuracy").get("rows", [])
    ways: dict[str, list[float]] = {}
    for row in ours:
        if row["net"] == "cnn" and not row["sparsity"]:
            ways.setdefault(repr(row["epochs"]), []).append(row["accuracy"])
    sizes = next(row for row in ours if "int8_bytes" in row)
    return {
        "dense": max(map(statistics.fmean, ways.values())),
        "kprune": _by_sparsity(ours),
        "tfmot": _by_sparsity(theirs),
        "bytes": {key: sizes[key] for key in sizes if key.endswith("_bytes")},
    }


def _by_sparsity(rows: list[dict[str, Any]]) -> list[Any]:
    """Returns pairs of sparsity and the seeds' accuracies, of kernels pruned."""
    found: dict[float, list[float]] = {}
    for row in rows:
        if row["net"] == "cnn" and row["sparsity"]:
            found.setdefault(row["sparsity"], []).append(row["accuracy"])
    return sorted(found.items())


def draw_overview(facts: dict[str, Any], figure: Any) -> None:
    """Draws accuracy against sparsity, and the bytes of the files."""
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    left.axhline(facts["dense"], color=GREY, linestyle="--", linewidth=1)
    left.text(0.955, facts["dense"], " dense", color=GREY, va="bottom", ha="right")
    for name, colour in (("kprune", BLUE), ("tfmot", ORANGE)):
        means = [(x, statistics.fmean(values)) for x, values in facts[name]]
        left.plot(*zip(*means, strict=True), color=colour, linewidth=2, label=name)
        for x, values in facts[name]:
            left.plot([x] * len(values), values, "o", color=colour, alpha=0.6)
    left.set(
        xlabel="share of zeros in all kernels",
        ylabel="test accuracy, %",
        title="Fashion-MNIST, 225k-parameter CNN, 24 epochs",
        xticks=[0.8, 0.9, 0.95],
    )
    left.legend(frameon=False, loc="lower left")
    bars = {
        "dense float32": ("dense_float32_bytes", GREY),
        "dense float32, gzip": ("dense_float32_gzip_bytes", GREY),
        "0.9 sparse int8": ("int8_bytes", BLUE),
        "0.9 sparse int8, gzip": ("int8_gzip_bytes", BLUE),
    }
    sizes = [facts["bytes"][key] * KIB for key, _ in bars.values()]
    colours = [colour for _, colour in bars.values()]
    drawn = right.barh(list(bars), sizes, color=colours, height=0.6)
    right.bar_label(drawn, [f"{size:,.0f} KiB" for size in sizes], padding=4)
    right.invert_yaxis()
    right.margins(x=0.18)
    right.set(xlabel="KiB", title="The exported .tflite file")


def curves() -> dict[str, Any]:
    """Returns mean and range by sparsity, per network and method."""
    found: dict[str, Any] = {}
    for net in comparison.NETWORKS:
        summary = document(f"methods_{net}").get("summary", [])
        rows = [row for row in summary if "accuracy" in row]
        found[net] = {
            method: sorted(
                [row["sparsity"], row["accuracy"], *row["range"]]
                for row in rows
                if row["method"] == method
            )
            for method in (comparison.DENSE, *CURVES)
        }
    return found


def draw_curves(facts: dict[str, Any], figure: Any) -> None:
    """Draws accuracy against the share that is left, bars over the range of seeds."""
    names = {"lenet": "LeNet-300-100, Fashion-MNIST", "gru": "GRU, MNIST-1D"}
    axes = figure.subplots(1, len(facts))
    for axis, (net, methods) in zip(axes, facts.items(), strict=True):
        for _, dense, *_ in methods[comparison.DENSE]:
            axis.axhline(dense, color=GREY, linewidth=1)
            axis.text(0.02, dense, "dense", color=GREY, va="bottom", ha="right")
        for method, (colour, line) in CURVES.items():
            if not (points := methods[method]):
                continue
            x, y, low, high = map(list, zip(*points, strict=True))
            spread = [
                [a - b for a, b in zip(y, low, strict=True)],
                [b - a for a, b in zip(y, high, strict=True)],
            ]
            left = [1 - sparsity for sparsity in x]
            style = {"color": colour, "linestyle": line, "marker": "o"}
            axis.errorbar(left, y, spread, **style, markersize=4, label=method)
        axis.set(title=names[net], xscale="log", xlabel="share of zeros")
        axis.invert_xaxis()
        ticks = sorted({1 - x for points in methods.values() for x, *_ in points} - {1})
        axis.set_xticks(ticks, [f"{1 - tick:g}" for tick in ticks], minor=False)
        axis.minorticks_off()
    axes[0].set(ylabel="test accuracy, %")
    axes[0].legend(frameon=False, loc="lower left")


def scaling() -> dict[str, Any]:
    """Returns per sweep the sizes, milliseconds of updates, and ratios of steps."""
    rows = document("scaling").get("rows", [])
    return {
        what: [
            {
                "size": point[what],
                **{
                    name: statistics.median(times)
                    for name, times in point["update_milliseconds"].items()
                },
                "step": point.get("step", {}).get("ratio"),
                "quartiles": point.get("step", {}).get("quartiles"),
            }
            for point in sorted(rows, key=lambda point: point["weights"])
            if point["grows"] == what
        ]
        for what in dict.fromkeys(point["grows"] for point in rows)
    }


def draw_scaling(facts: dict[str, Any], figure: Any) -> None:
    """Draws updates and steps against weights in one row, and layers in another."""
    names = {"weights": "weights, in four layers", "layers": "layers of 64 x 64"}
    rows = figure.subplots(len(facts), 2, squeeze=False)
    for (update, step), (what, points) in zip(rows, facts.items(), strict=True):
        sizes = [point["size"] for point in points]
        for name, colour in (("first", BLUE), ("later", SKY)):
            times = [point[name] for point in points]
            update.plot(sizes, times, "o-", color=colour, label=f"{name} update")
        update.set(yscale="log", ylabel="CPU ms")
        timed = [point for point in points if point["step"]]
        ratios = [point["step"] for point in timed]
        errors = [
            [r - p["quartiles"][0] for r, p in zip(ratios, timed, strict=True)],
            [p["quartiles"][1] - r for r, p in zip(ratios, timed, strict=True)],
        ]
        at = [point["size"] for point in timed]
        step.errorbar(at, ratios, errors, color=BLUE, marker="o")
        step.axhline(1, color=GREY, linestyle="--", linewidth=1)
        step.set(ylabel="training step, pruned / dense")
        for axis in (update, step):
            axis.set(xscale="log", xlabel=names[what])
    rows[0][0].legend(frameon=False)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that is drawn from results.

    Args:
        path: Its file.
        facts: Returns what it shows, fit for JSON; empty if that was not measured yet.
        draw: Draws them into a figure.
        size: Of the figure, in inches.
    """

    path: Path
    facts: Callable[[], dict[str, Any]]
    draw: Callable[[dict[str, Any], Any], None]
    size: tuple[float, float]

    def digest(self) -> str:
        """Returns what tells other facts from these."""
        text = json.dumps(self.facts(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def stale(self) -> bool:
        """Whether the file is missing or shows other facts; not if there are none."""
        if not self.facts():
            return False
        written = self.path.read_bytes() if self.path.exists() else b""
        return self.digest().encode() not in written

    def write(self) -> None:
        """Draws the picture, with the digest among the file's texts."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=self.size, layout="constrained")
        self.draw(self.facts(), figure)
        for axis in figure.axes:
            axis.spines[["top", "right"]].set_visible(False)
        self.path.parent.mkdir(exist_ok=True)
        figure.savefig(self.path, dpi=120, metadata={"Description": self.digest()})
        print(f"wrote {self.path}")


PICTURES = (
    Picture(DOCS / "overview.png", overview, draw_overview, (11, 3.8)),
    Picture(HERE / "plots" / "curves.png", curves, draw_curves, (11, 4.6)),
    Picture(HERE / "plots" / "scaling.png", scaling, draw_scaling, (9, 6)),
)


def draw_plan() -> None:
    """Draws what half of all channels means for the residual network."""
    import keras

    import kprune
    from benchmarks.networks import resnet8

    keras.utils.set_random_seed(0)
    keras.backend.clear_session()
    plan = kprune.plan_shrink(resnet8(keras), sparsity=0.5)
    dataclasses.replace(plan, model="ResNet-8").draw(PLAN)
    print(f"wrote {PLAN}")


def take(page: Path) -> None:
    """Takes a picture of a page's top, in light colours."""
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                *("chromium", "--headless", "--no-sandbox", "--hide-scrollbars"),
                *("--window-size=900,1010", "--blink-settings=preferredColorScheme=1"),
                *(f"--user-data-dir={profile}", f"--screenshot={PAGE}"),
                page.resolve().as_uri(),
            ],
            check=True,
        )
    print(f"wrote {PAGE}")


def main() -> None:
    """Draws and writes the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", type=Path, help="take a picture of this page instead")
    page = parser.parse_args().page
    if page is not None:
        take(page)
        return
    for picture in PICTURES:
        if picture.facts():
            picture.write()
    draw_plan()


if __name__ == "__main__":
    main()
