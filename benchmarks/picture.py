"""Draws the pictures of README and docs.

python -m benchmarks.picture    # writes docs/overview.png and docs/shrink.png

The first is from the results of the accuracy benchmarks, the second is a plan for the
residual network of MLPerf Tiny.

kprune demo
python -m benchmarks.picture --page kprune-demo/report.html    # writes docs/report.png

That is the top of the demo's page, as Chromium shows it.
"""

import argparse
import dataclasses
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
PICTURE = HERE.parent / "docs" / "overview.png"
PLAN = HERE.parent / "docs" / "shrink.png"
PAGE = HERE.parent / "docs" / "report.png"

# Colours that readers with any colour vision tell apart (Okabe and Ito, 2008).
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#555555"


def rows(name: str) -> list[dict[str, Any]]:
    """Returns the rows of a result file; none if that benchmark was not run."""
    path = HERE / "results" / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def accuracies(results: list[dict[str, Any]]) -> dict[float, list[float]]:
    """Returns the accuracies over seeds by sparsity, of kernels pruned by default."""
    found: dict[float, list[float]] = {}
    for row in results:
        if row["net"] == "cnn" and row["sparsity"]:
            found.setdefault(row["sparsity"], []).append(row["accuracy"])
    return dict(sorted(found.items()))


def dense_accuracy(results: list[dict[str, Any]]) -> float:
    """Returns the mean of the better way to train the dense network."""
    ways: dict[tuple[int, ...], list[float]] = {}
    for row in results:
        if row["net"] == "cnn" and not row["sparsity"]:
            ways.setdefault(tuple(row["epochs"]), []).append(row["accuracy"])
    return max(sum(way) / len(way) for way in ways.values())


def draw_accuracy(axis: Any, ours: list[dict[str, Any]]) -> None:
    """Draws accuracy against sparsity, every seed a dot and the mean a line."""
    dense = dense_accuracy(ours)
    axis.axhline(dense, color=GREY, linestyle="--", linewidth=1)
    axis.text(0.955, dense, " dense", color=GREY, va="bottom", ha="right")
    sides = (("kprune", BLUE, ours), ("tfmot", ORANGE, rows("tfmot_accuracy")))
    for name, colour, results in sides:
        found = accuracies(results)
        if not found:
            continue
        means = [sum(values) / len(values) for values in found.values()]
        axis.plot(list(found), means, color=colour, linewidth=2, label=name)
        for sparsity, values in found.items():
            axis.plot([sparsity] * len(values), values, "o", color=colour, alpha=0.6)
    axis.set(
        xlabel="share of zeros in all kernels",
        ylabel="test accuracy, %",
        title="Fashion-MNIST, 225k-parameter CNN, 24 epochs",
        xticks=[0.8, 0.9, 0.95],
    )
    axis.legend(frameon=False, loc="lower left")


def draw_sizes(axis: Any, ours: list[dict[str, Any]]) -> None:
    """Draws the bytes of the .tflite files, raw and compressed."""
    row = next(row for row in ours if "int8_bytes" in row)
    kib = 1 / 1024
    bars = {
        "dense float32": ("dense_float32_bytes", GREY),
        "dense float32, gzip": ("dense_float32_gzip_bytes", GREY),
        "0.9 sparse int8": ("int8_bytes", BLUE),
        "0.9 sparse int8, gzip": ("int8_gzip_bytes", BLUE),
    }
    sizes = [row[key] * kib for key, _ in bars.values()]
    colours = [colour for _, colour in bars.values()]
    drawn = axis.barh(list(bars), sizes, color=colours, height=0.6)
    axis.bar_label(drawn, [f"{size:,.0f} KiB" for size in sizes], padding=4)
    axis.invert_yaxis()
    axis.margins(x=0.18)
    axis.set(xlabel="KiB", title="The exported .tflite file")


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, help="take a picture of this page instead")
    page = parser.parse_args().page
    if page is not None:
        take(page)
        return
    ours = rows("accuracy_cnn")
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 3.8), layout="constrained", width_ratios=(1.1, 1)
    )
    draw_accuracy(left, ours)
    draw_sizes(right, ours)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=120)
    print(f"wrote {PICTURE}")
    draw_plan()


if __name__ == "__main__":
    main()
