"""Writes the tables and pictures of READMEs and docs from the files in `results/`.

    python -m benchmarks.tables          # rewrites what is not up to date
    python -m benchmarks.tables --check  # only says what that is

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; NAME is a function of
this module that stands in `PAGES` and returns Markdown. To show a new result,
add a function and a pair of markers. Pictures are those of `benchmarks/picture.py`.
"""

import functools
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import comparison, picture, run

HERE = Path(__file__).parent
RESULTS = HERE / "results"
NOT_RUN = "*Not run yet.*"
# Whose results stand beside those of `benchmarks/methods.py`: their files' names.
PEERS = ("tfmot", "pquant")


def load(name: str) -> dict[str, Any] | None:
    """Returns a result file, or `None` if that benchmark was not run yet."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def table(head: list[str], rows: list[list[str]], source: dict[str, Any]) -> str:
    """Returns a Markdown table with a line below that says where it was measured."""
    text = markdown(head, rows)
    machine = source["machine"]
    quick = " A quick run, not for quoting." if source.get("quick") else ""
    return (
        f"{text}\n\n{machine['date']}, {machine['processor']}, {machine['cores']} "
        f"cores, {versions(machine)}.{quick}"
    )


def versions(machine: dict[str, Any]) -> str:
    """Returns the versions of Python and of the packages that took part."""
    packages = [f"{name} {version}" for name, version in machine["versions"].items()]
    return ", ".join([f"Python {machine['python']}", *packages])


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def spread(result: dict[str, Any]) -> str:
    """Returns a ratio with its quartiles."""
    low, high = result["quartiles"]
    return f"{result['ratio']:.3f} ({low:.3f} to {high:.3f})"


def goal(result: dict[str, Any]) -> str:
    """Returns the target, and whether it is met."""
    ((kind, value),) = result["target"].items()
    verdict = "met" if result["met"] else "**missed**"
    return f"{kind.replace('_', ' ')} {round(value, 2):g}: {verdict}"


def suites() -> str:
    """Returns what `benchmarks.run` can run, by suite."""
    rows = []
    for suite in run.SUITES:
        mine = [b for b in run.BENCHMARKS if b.suite == suite]
        results = ", ".join(dict.fromkeys(f"`{b.result}`" for b in mine))
        peers = dict.fromkeys(name for b in mine for name in sorted(b.environments()))
        minutes = f"{sum(b.minutes for b in mine):g}"
        rows.append([f"`{suite}`", results, ", ".join(peers), minutes])
    head = ["suite", "results", "peers", "minutes"]
    return markdown(head, rows)


def scaling() -> str:
    """Returns time and memory of updates and steps, by weights and by layers."""
    document = load("scaling")
    if document is None:
        return NOT_RUN
    rows = []
    for point in sorted(document["rows"], key=lambda p: (p["grows"], p["weights"])):
        times = [
            f"{statistics.median(point['update_milliseconds'][name]):.1f} ms"
            for name in ("first", "later")
        ]
        step = point.get("step")
        dense = statistics.median(step["milliseconds"]["dense"]) if step else 0
        rows.append(
            [
                f"{point['weights']:,}",
                str(point["layers"]),
                *times,
                f"{point['copies']:.2f}" if "copies" in point else "",
                f"{dense:.2f} ms" if step else "",
                spread(step) if step else "",
            ]
        )
    head = ["weights", "layers", "first update", "later update"]
    head += ["memory, of the weights'", "dense step", "step, pruned / dense"]
    return table(head, rows, document)


def training_step() -> str:
    ours, theirs = load("training_step"), load("tfmot_training_step")
    if ours is None:
        return NOT_RUN
    rows = []
    for name, result in ours["results"].items():
        dense = statistics.median(result["milliseconds"]["dense"])
        peer = (theirs or {"results": {}})["results"].get(name)
        cells = [name, f"{dense:.1f} ms", spread(result), goal(result)]
        rows.append([*cells, spread(peer) if peer else ""])
    head = ["network", "dense step, CPU", "kprune / dense", "target", "tfmot / dense"]
    measured = f" tfmot: {theirs['machine']['date']}." if theirs else ""
    return table(head, rows, ours) + measured


def mask_update() -> str:
    document = load("mask_update")
    if document is None:
        return NOT_RUN
    rows = []
    for name, result in document["results"].items():
        times = [
            f"{statistics.median(result['milliseconds'][side]):.1f} ms"
            for side in ("top_k", "kprune")
        ]
        ratios = [f"{result['ratio']:.1f}", f"{result['cpu_ratio']:.1f}"]
        rows.append([name, *times, *ratios, goal(result)])
    head = ["kernel", "top_k alone", "kprune, all", "ratio", "in CPU time", "target"]
    return table(head, rows, document)


def model_update() -> str:
    document = load("model_update")
    if document is None:
        return NOT_RUN
    results = document["results"]
    rows = []
    for name in dict.fromkeys(key.partition(";")[0] for key in results):
        cells = []
        for update in ("first", "later"):
            for what, unit in (("seconds", " s"), ("memory", "")):
                result = results[f"{name}; {update} update, {what}"]
                missed = "" if result["met"] else " **missed**"
                cells.append(f"{result['ratio']:.2f}{unit}{missed}")
        rows.append([name, *cells])
    head = ["pruned", "first update", "its memory", "later update", "its memory"]
    return table(head, rows, document)


def histograms() -> str:
    document = load("histograms")
    if document is None:
        return NOT_RUN
    facts = document["results"]
    rows = [
        ["weights", f"{facts['weights']:,}"],
        [
            "workers, with weights each",
            f"{facts['workers']:,} x {facts['weights_per_worker']:,}",
        ],
        [
            "to gather as float32; sent by each worker",
            f"{facts['gathered_gigabytes']:g} GB; "
            f"{facts['gathered_per_worker_megabytes']:g} MB",
        ],
        [
            "sent by each worker as histograms",
            f"{facts['sent_per_worker_kib']:,} KiB in {facts['calls']} calls",
        ],
        ["that is less by a factor of", f"{facts['times_less']:,}"],
        [f"time for {facts['scores']:,} scores, one core", f"{facts['cpu_seconds']} s"],
        [
            "memory beyond scores and mask",
            f"{facts['memory_beyond_scores_and_mask_mib']} MiB",
        ],
    ]
    return table(["", "one update to 0.9"], rows, document)


def methods(net: str) -> str:
    """Returns the accuracy of every pruning method on one network, per sparsity."""
    document = load(f"methods_{net}")
    if document is None:
        return NOT_RUN
    means = {
        (row["method"], row["sparsity"]): row
        for row in document["summary"]
        if "accuracy" in row
    }
    best = {row["sparsity"]: row["method"] for row in _checks(document)["best"]}
    sparsities = sorted({sparsity for _, sparsity in means})
    seeds = max(row["seeds"] for row in means.values())

    def cell(method: str, sparsity: float) -> str:
        row = means.get((method, sparsity))
        if row is None:
            return ""
        text = f"{row['accuracy']:.2f}"
        if best.get(sparsity) == method:
            text = f"**{text}**"
        low, high = row["range"]
        few = f", {row['seeds']} of {seeds} seeds" if row["seeds"] < seeds else ""
        return f"{text} ({low:.2f} to {high:.2f}{few})"

    found = {method for method, _ in means}
    rows = [
        [method, *(cell(method, sparsity) for sparsity in sparsities)]
        for method in comparison.METHODS
        if method in found
    ]
    text = table(["accuracy, %", *map(str, sparsities)], rows, document)
    return text + "".join(peer(f"{name}_{net}") for name in PEERS)


def peer(name: str) -> str:
    """Returns what the line below a table says of a peer's results; "" without any."""
    document = load(name)
    if document is None:
        return ""
    machine, method = document["machine"], document["rows"][0]["method"]
    return f" {method}: {machine['date']}, {versions(machine)}."


def methods_checks(net: str) -> str:
    """Returns how far kprune's best method is ahead on one network, per sparsity."""
    document = load(f"methods_{net}")
    if document is None:
        return NOT_RUN
    seeds = {
        (row["method"], row["sparsity"]): row["seeds"]
        for row in document["summary"]
        if "accuracy" in row
    }
    rows: dict[str, dict[float, str]] = {"kprune's best": {}}
    for check, verdicts in _checks(document).items():
        for row in verdicts:
            name = f"{check} less {row['against']}"
            text = f"{row['lead']:+.2f} (spread {row['spread']:.2f})"
            fewest = min(
                seeds[row[side], row["sparsity"]] for side in ("method", "against")
            )
            if fewest < max(seeds.values()):
                text += f", {fewest} of {max(seeds.values())} seeds"
            if "met" in row:
                text += ": met" if row["met"] else ": **missed**"
            rows.setdefault(name, {})[row["sparsity"]] = text
            if check == "best":
                rows["kprune's best"][row["sparsity"]] = row["method"]
    sparsities = sorted({sparsity for cells in rows.values() for sparsity in cells})
    body = [
        [name, *(cells.get(sparsity, "") for sparsity in sparsities)]
        for name, cells in rows.items()
    ]
    return table(["points of accuracy", *map(str, sparsities)], body, document)


def _checks(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Returns the verdicts of a comparison of methods, by what is checked."""
    checks: dict[str, list[dict[str, Any]]] = {"best": []}
    for row in document["summary"]:
        if "check" in row:
            checks.setdefault(row["check"], []).append(row)
    return checks


def import_time() -> str:
    document = load("import_time")
    if document is None:
        return NOT_RUN
    rows = []
    for result in document["results"].values():
        times = [
            f"{statistics.median(result['seconds'][side]):.2f} s"
            for side in ("keras", "kprune")
        ]
        rows.append([*times, spread(result), goal(result)])
    return table(["import keras", "import kprune", "ratio", "target"], rows, document)


def accuracy() -> str:
    """Returns every network of the accuracy benchmarks, means over the seeds."""
    rows, source = [], None
    for name, library in ACCURACY.items():
        document = load(name)
        if document is None:
            continue
        source = source or document
        for row in sorted(document["summary"], key=lambda row: row["sparsity"]):
            rows.append(
                [
                    row["net"],
                    described(row, library),
                    "+".join(map(str, row["epochs"])) if "epochs" in row else "",
                    f"{row['accuracy']:.2f}",
                    f"{row['range'][0]:.2f} to {row['range'][1]:.2f}",
                    str(row["seeds"]),
                    f"{row['lost']:+.2f}" if "lost" in row else "",
                    goal(row) if "target" in row else "",
                ]
            )
    if source is None:
        return NOT_RUN
    head = [
        "network",
        "trained how",
        "epochs",
        "accuracy, %",
        "seeds' range",
        "seeds",
        "points lost",
        "target",
    ]
    return table(head, rows, source)


def structured_accuracy() -> str:
    """Returns ResNet-8 dense, narrow, and with channels removed by either library."""
    rows, source = [], None
    for name in ("structured_accuracy", "torch_pruning_accuracy"):
        document = load(name)
        if document is None:
            continue
        source = source or document
        for row in sorted(
            document["summary"],
            key=lambda row: (-sum(row["epochs"]), -row["macs_left"][0]),
        ):
            how = {None: "from scratch", "shrink": "kprune.shrink"}
            library = "Keras" if name == "structured_accuracy" else "PyTorch"
            above = f"{row['above_narrow']:+.2f}" if "above_narrow" in row else ""
            if "no_worse" in row:
                above += ", at least 0: " + ("met" if row["no_worse"] else "**missed**")
            rows.append(
                [
                    f"{row['net']}, {library}",
                    how.get(row["how"], row["how"]),
                    "+".join(map(str, row["epochs"])),
                    f"{row['macs_left'][0]:.3f}",
                    f"{row['parameters'][0]:,}",
                    f"{row['accuracy']:.2f}",
                    f"{row['range'][0]:.2f} to {row['range'][1]:.2f}",
                    str(row["seeds"]),
                    f"{row['lost']:+.2f}" if "lost" in row else "",
                    goal(row) if "target" in row else "",
                    above,
                ]
            )
    if source is None:
        return NOT_RUN
    head = [
        "network",
        "trained how",
        "epochs",
        "MACs left",
        "parameters",
        "accuracy, %",
        "seeds' range",
        "seeds",
        "points lost",
        "target",
        "above narrow",
    ]
    return table(head, rows, source)


def distillation() -> str:
    """Returns pruned networks fine-tuned with a teacher and without."""
    document = load("distillation")
    if document is None:
        return NOT_RUN
    rows = []
    for row in document["summary"]:
        taught = f"alpha {row['alpha']:g}, temperature {row['temperature']}"
        left = f"sparsity {row['sparsity']:g}" if row["sparsity"] else ""
        rows.append(
            [
                row["net"],
                left or f"{row['macs']:g} of the MACs",
                "+".join(map(str, row["epochs"])),
                taught if row["alpha"] else "none",
                f"{row['accuracy']:.2f}",
                f"{row['range'][0]:.2f} to {row['range'][1]:.2f}",
                str(row["seeds"]),
                f"{row['gain']:+.2f}" if "gain" in row else "",
                goal(row) if "target" in row else "",
            ]
        )
    head = ["network", "pruned to", "epochs", "teacher", "accuracy, %"]
    head += ["seeds' range", "seeds", "gain, points", "target"]
    return table(head, rows, document)


def quantization_aware() -> str:
    """Returns what int8 costs, trained for and afterwards, for kprune and tfmot."""
    document = load("quantization_aware")
    if document is None:
        return NOT_RUN
    peer = load("tfmot_quantization_aware")
    rows = []
    for name, source in (("kprune", document), ("tfmot", peer)):
        for row in source["summary"] if source else ():
            if "accuracy" not in row:
                continue
            above = row.get("above_afterwards")
            rows.append(
                [
                    row["net"],
                    f"{row['how']} ({name})",
                    f"{row['accuracy']:.2f}",
                    f"{row['range'][0]:.2f} to {row['range'][1]:.2f}",
                    str(row["seeds"]),
                    f"{row['lost']:+.2f}" if "lost" in row else "",
                    goal(row) if "target" in row and name == "kprune" else "",
                    f"{above:+.2f}" if above is not None else "",
                ]
            )
    head = ["network", "file", "accuracy, %", "seeds' range", "seeds", "points lost"]
    head += ["target", "above int8 afterwards"]
    zeros = [r["zeros"] for r in document["summary"] if r["how"] == "zeros lost"]
    return (
        table(head, rows, document)
        + f" Zeros that files lost: {max(zeros, default=0)}."
    )


def quantization_aware_step() -> str:
    """Returns what rounding adds to a training step, for kprune and tfmot."""
    document = load("quantization_aware_step")
    if document is None:
        return NOT_RUN
    peer = load("tfmot_quantization_aware_step")
    rows = [
        [
            name,
            spread(result),
            spread(peer["results"][name]) if peer else "",
        ]
        for name, result in document["results"].items()
    ]
    head = ["network", "kprune, int8 / float32", "tfmot, int8 / float32"]
    return table(head, rows, document)


def tfmot_side_by_side() -> str:
    """Returns kprune and tfmot in one run, row by row."""
    document = load("tfmot_side_by_side")
    if document is None:
        return NOT_RUN

    def cell(result: dict[str, Any], side: str) -> str:
        form = FORMS[result["kind"]]
        text = form.format(result["values"][side])
        if ends := result.get("ranges"):
            text += f" ({' to '.join(form.format(end) for end in ends[side])})"
        if skipped := result.get("skipped"):
            text += f" ({skipped[side]} skipped)"
        return text

    rows = [
        [name, cell(result, "kprune"), cell(result, "tfmot"), result["kprune_is"]]
        for name, result in document["results"]["rows"].items()
    ]
    return table(["", "kprune", "tfmot", "kprune is"], rows, document)


# How the values of a row of `tfmot_side_by_side` are written.
FORMS = {
    "ratio": "{:.3f}",
    "ms": "{:.1f} ms",
    "sparsity": "{:.4f}",
    "%": "{:.2f} %",
    "layers": "{}",
}


def described(row: dict[str, Any], library: str) -> str:
    """Returns in words how a network was trained."""
    if not row["sparsity"]:
        return f"dense ({library})" if library != "kprune" else "dense"
    text = f"{library}, {row['sparsity']:g}"
    if library == "kprune" and row["allocation"] != "lamp":
        text += f", {row['allocation']}"
    return f"{text}, then int8" if "quantization" in row else text


def overview() -> str:
    """Returns the README's table: dense, kprune and tfmot on the tutorial network."""
    ours, theirs = load("accuracy_cnn"), load("tfmot_accuracy")
    if ours is None:
        return NOT_RUN
    peer = {
        row["sparsity"]: row
        for row in (theirs["summary"] if theirs else ())
        if row["sparsity"]
    }
    nets = [row for row in ours["summary"] if row["net"] == "cnn"]
    dense = max((r for r in nets if not r["sparsity"]), key=lambda r: r["accuracy"])
    rows = [["dense", f"{dense['accuracy']:.2f} %", "", ""]]
    pruned = [r for r in nets if r["sparsity"] and r["allocation"] == "lamp"]
    for row in sorted(pruned, key=lambda r: (r["sparsity"], "quantization" in r)):
        other = None if "quantization" in row else peer.get(row["sparsity"])
        rows.append(
            [
                f"{row['sparsity']:g} of all kernel weights zero"
                + (", int8 in LiteRT" if "quantization" in row else ""),
                f"{row['accuracy']:.2f} %",
                f"{dense['accuracy'] - row['accuracy']:+.2f}",
                f"{other['accuracy']:.2f} %" if other else "",
            ]
        )
    sizes = next(row for row in ours["rows"] if "int8_bytes" in row)
    head = ["Fashion-MNIST, 225k-parameter CNN", "kprune", "points lost", "tfmot"]
    seeds = min(row["seeds"] for row in [dense, *pruned])
    others = min((row["seeds"] for row in peer.values()), default=0)
    return (
        table(head, rows, ours)
        + f"\n\nMean test accuracy, seeds of kprune: {seeds}, of tfmot: {others}; 24 "
        f"epochs each. The dense "
        f"float32 file has {sizes['dense_float32_bytes']:,} bytes "
        f"({sizes['dense_float32_gzip_bytes']:,} compressed with gzip); the int8 file "
        f"at 0.9 has {sizes['int8_bytes']:,} ({sizes['int8_gzip_bytes']:,})."
    )


def channels() -> str:
    """Returns what removing half of the multiplications brings on the runtimes."""
    document = load("structured_gains")
    if document is None:
        return NOT_RUN

    def change(files: dict[str, Any], name: str) -> str:
        if name not in files["dense"]:
            return ""
        return f"{files['dense'][name]:,} to {files['pruned'][name]:,}"

    rows = [
        [
            name,
            change(result["files"], "macs"),
            change(result["files"], "file_bytes"),
            change(result["files"], "arena_bytes"),
            f"{result['gains']['pruned']['ratio']:.2f} times as fast",
        ]
        for name, result in document["results"].items()
    ]
    head = ["int8, runtime", "MACs", "bytes of the file", "arena bytes", "CPU time"]
    return table(head, rows, document)


def encoded() -> str:
    """Returns the README's table: what encoded weights take of flash."""
    document = load("flash")
    if document is None:
        return NOT_RUN
    rows = [
        [
            f"{name} of each kernel zero",
            f"{result['bytes']['slimmed']:,}",
            f"{result['bytes']['encoded']:,}",
            f"{result['ratio']:.2f}",
            f"{result['arena']['slimmed']:,} to {result['arena']['encoded']:,}",
            f"{result['time']['arena']['ratio']:.2f}",
        ]
        for name, result in document["results"].items()
    ]
    head = ["int8, TFLM", "bytes", "encoded", "ratio", "arena bytes", "time"]
    return table(head, rows, document)


def phones() -> str:
    """Returns the README's table: what zeros save where LiteRT skips them."""
    document = load("xnnpack")
    if document is None:
        return NOT_RUN
    rows = [
        [
            f"{name.removesuffix(' prepared')}, {sparsity} of each kernel zero",
            f"{result['bytes']['dense']:,} to {result['bytes']['sparse']:,}",
            f"{result['ratio']:.1f} times as fast",
        ]
        for (name, sparsity), result in _named(document)
        if result["said_to_skip"]
    ]
    return table(["float32, LiteRT without AVX", "bytes", "CPU time"], rows, document)


def xnnpack() -> str:
    """Returns per network the time of the sparse file beside the dense one's."""
    document = load("xnnpack")
    if document is None:
        return NOT_RUN
    rows = [
        [
            name,
            sparsity,
            f"{result['bytes']['dense']:,} to {result['bytes']['sparse']:,}",
            f"{result['milliseconds']['dense']:.2f} to "
            f"{result['milliseconds']['sparse']:.2f}",
            spread(result),
            f"{result['relative_error']:.1e}",
            "skipped" if result["said_to_skip"] else "multiplied",
            goal(result),
        ]
        for (name, sparsity), result in _named(document)
    ]
    head = ["network", "zeros", "bytes", "ms", "speed", "error", "verdict", "target"]
    return table(head, rows, document)


def _named(document: dict[str, Any]) -> list[tuple[list[str], dict[str, Any]]]:
    """Returns results with their names taken apart: the network, and its sparsity."""
    return [(name.split(", "), result) for name, result in document["results"].items()]


def structured_gains() -> str:
    """Returns per network and runtime the dense, pruned and narrow files."""
    document = load("structured_gains")
    if document is None:
        return NOT_RUN
    rows = []
    for name, result in document["results"].items():
        for kind, facts in result["files"].items():
            gain = result["gains"].get(kind)
            arena = facts.get("arena_bytes")
            rows.append(
                [
                    f"{name}: {kind}",
                    f"{facts['macs'] / 1e6:.2f} M",
                    f"{facts['file_bytes']:,}",
                    f"{arena:,}" if arena else "",
                    f"{facts['milliseconds']:.3f} ms",
                    spread(gain) if gain else "",
                    f"{spread(result)}, {goal(result)}" if kind == "pruned" else "",
                ]
            )
    head = [
        "int8 file",
        "MACs",
        "bytes",
        "arena bytes",
        "CPU time",
        "dense / this",
        "saved, pruned / narrow",
    ]
    return table(head, rows, document)


def flash() -> str:
    """Returns what encoded weights take of flash, arena and time."""
    document = load("flash")
    if document is None:
        return NOT_RUN
    rows = []
    for name, result in document["results"].items():
        size, arena, time = result["bytes"], result["arena"], result["time"]
        weights = result["weights"]
        target = f", {goal(result)}" if "target" in result else ""
        rows.append(
            [
                f"{name} zeros",
                f"{size['converter']:,}",
                f"{size['slimmed']:,}",
                f"{size['encoded']:,}",
                f"{result['ratio']:.2f}{target}",
                f"{weights['encoded']:,} ({weights['entropy']:,})",
                f"{arena['slimmed']:,} to {arena['encoded']:,}",
                f"{arena['elsewhere']:,} and {arena['other_memory']:,}",
                f"{time['arena']['ratio']:.2f}",
                f"{result['samples']:,}",
            ]
        )
    head = [
        "int8 network",
        "bytes, as converted",
        "slimmed",
        "encoded",
        "encoded / slimmed",
        "encoded weights (entropy)",
        "arena bytes",
        "arena and other memory",
        "time, encoded / slimmed",
        "same bits on inputs",
    ]
    return table(head, rows, document)


def combined() -> str:
    """Returns the smallest file and the dense one that it is compared with."""
    document = load("combined")
    if document is None or not document["summary"]:
        return NOT_RUN
    first = document["summary"][0]
    dense = first["dense_float32_bytes"]
    rows = [
        [
            "dense, float32, in Keras",
            f"{dense['microcontroller']:,} (for Android {dense['android']:,})",
            "1",
            f"{first['dense_accuracy']:.2f}" if "dense_accuracy" in first else "",
            *[""] * 4,
        ]
    ]
    for row in document["summary"]:
        rows.append(
            [
                f"{row['macs']:g} of the MACs, {row['sparsity']:g} of these weights "
                "zero, int8, encoded",
                _range(row["bytes"], ","),
                _range(row["times_smaller"], ".1f"),
                f"{row['accuracy']:.2f}",
                f"{row['range'][0]:.2f} to {row['range'][1]:.2f}",
                str(row["seeds"]),
                f"{row['lost']:+.2f}" if "lost" in row else "",
                goal(row),
            ]
        )
    head = [
        "resnet8",
        "bytes of the file",
        "times smaller",
        "accuracy, %",
        "seeds' range",
        "seeds",
        "points lost",
        "target",
    ]
    return table(head, rows, document)


def recipe() -> str:
    """Returns what the whole road brings, by network."""
    document = load("recipe")
    if document is None or not document["summary"]:
        return NOT_RUN
    rows = []
    for row in document["summary"]:
        goals = row["targets"]
        asked = f"{goals['smaller']} times smaller, {goals['lost']:g} points"
        if goals["faster"]:
            asked += f", {goals['faster']} times faster"
        ratios = [
            f"{runtime.partition(',')[0]}: {_range(values, '.1f')}"
            for runtime, values in row["times_faster"].items()
        ]
        rows.append(
            [
                row["net"],
                f"{row['dense_bytes']:,}",
                _range(row["bytes"], ","),
                _range(row["times_smaller"], ".1f"),
                "; ".join(ratios),
                f"{row['dense_accuracy']:.2f}",
                f"{row['accuracy']:.2f}",
                f"{row['lost']:+.2f}",
                str(row["seeds"]),
                f"{asked}: {'met' if row['met'] else 'MISSED'}",
            ]
        )
    head = [
        "network",
        "dense float32, bytes",
        "int8, bytes",
        "times smaller",
        "times faster",
        "dense, %",
        "file, %",
        "points lost",
        "seeds",
        "target",
    ]
    return table(head, rows, document)


def road() -> str:
    """Returns the README's sentences on what a whole recipe brings."""
    document = load("recipe")
    if document is None or not document["summary"]:
        return NOT_RUN
    lines = []
    for row in document["summary"]:
        faster = [
            f"{_range(values, '.1f')} times as fast in {runtime.partition(',')[0]}"
            for runtime, values in row["times_faster"].items()
        ]
        lines.append(
            f"- {row['net']}: {_range(row['bytes'], ',')} bytes instead of "
            f"{row['dense_bytes']:,}, {_range(row['times_smaller'], '.1f')} times "
            "smaller; "
            f"{', '.join(faster)}; {row['dense_accuracy']:.2f} % dense, "
            f"{row['accuracy']:.2f} % in the file (mean of {row['seeds']} seeds)."
        )
    return "\n".join(lines)


def smallest() -> str:
    """Returns the README's sentence on the smallest file."""
    document = load("combined")
    if document is None or not document["summary"]:
        return NOT_RUN
    row = min(document["summary"], key=lambda row: max(row["bytes"]))
    dense = min(row["dense_float32_bytes"].values())
    text = (
        f"{_range(row['bytes'], ',')} bytes in the place of the dense float32 file's "
        f"{dense:,}: {_range(row['times_smaller'], '.1f')} times smaller. On "
        f"Fashion-MNIST the file has {row['accuracy']:.2f} % in TensorFlow Lite Micro"
    )
    if "lost" in row:
        text += (
            f", the dense network, trained as long, {row['dense_accuracy']:.2f} % in "
            f"Keras: {row['lost']:.2f} points lost"
        )
    seeds = "one seed" if row["seeds"] == 1 else f"mean of {row['seeds']} seeds"
    return f"{text} ({seeds})."


def _range(values: list[float], form: str) -> str:
    """Returns the least and the greatest, or the one number that all are."""
    ends = [format(end(values), form) for end in (min, max)]
    return " to ".join(dict.fromkeys(ends))


def npu() -> str:
    """Returns what Vela estimates per NPU and file."""
    document = load("npu")
    if document is None:
        return NOT_RUN
    rows, dense = [], {}
    for name, facts in document["results"].items():
        target, kind = name.split(", ")
        if kind == "dense":
            dense = facts

        def part(key: str, facts: Any = facts, dense: Any = dense) -> str:
            return f"{facts[key]:,} ({facts[key] / dense[key]:.2f})"

        verdict = ""
        if "target" in facts:
            verdict = f"{facts['of'].replace('_', ' ')} {goal(facts)}"
        keys = ("cycles", "macs", "file_bytes", "traffic_bytes", "sram_bytes")
        rows.append([f"{target}, {kind}", *map(part, keys), verdict])
    head = [
        "resnet8, int8",
        "cycles (of dense)",
        "MACs",
        "bytes, compiled",
        "bytes over buses",
        "bytes of SRAM",
        "target",
    ]
    return table(head, rows, document)


def shrink_time() -> str:
    """Returns seconds and copies of the weights per network."""
    document = load("shrink_time")
    if document is None:
        return NOT_RUN
    rows = []
    for name, result in document["results"].items():
        size = f"{result['parameters']:,}"
        cpu = f"{result['cpu_seconds']:.1f} s" if "cpu_seconds" in result else ""
        rows.append([name, size, spread(result), cpu, goal(result)])
    head = ["network", "parameters", "median (range)", "CPU time", "target"]
    return table(head, rows, document)


def clustering() -> str:
    """Returns what shared values save in int8 files, and cost in accuracy."""
    document = load("clustering")
    if document is None:
        return NOT_RUN
    rows = []
    for name, result in document["results"].items():
        target = f", {goal(result)}" if "target" in result else ""
        at_once = f"{result['at once']:.1f}" if "at once" in result else ""
        rows.append(
            [
                name,
                f"{result['plain']:,.0f}",
                f"{result['plain, gzip']:,.0f}",
                f"{result['ratio']:.2f}{target}",
                f"{result['encoded']:,.0f}",
                f"{result['encoded, gzip']:,.0f}",
                f"{result['accuracy']:.1f}",
                at_once,
            ]
        )
    head = [
        "int8, 0.8 zeros",
        "bytes",
        "gzip",
        "gzip / pruned only",
        "encoded",
        "encoded, gzip",
        "accuracy, trained",
        "clustered at once",
    ]
    return table(head, rows, document)


ACCURACY = {
    "accuracy_cnn": "kprune",
    "accuracy_allocation": "kprune",
    "accuracy_allconv": "kprune",
    "tfmot_accuracy": "tfmot",
}


def quantization() -> str:
    """Returns what each quantisation takes, and costs in accuracy."""
    document = load("quantization")
    if document is None:
        return NOT_RUN
    rows = []
    for name, result in document["results"].items():
        kept = f" ({result['kept']:g} of 7)" if "kept" in result else ""
        rows.append(
            [
                f"{name}{kept}",
                f"{result['bytes']:,.0f}",
                f"{result['gzip']:,.0f}",
                f"{result['ratio']:.2f}",
                f"{result['error']:.2g}",
                f"{result['accuracy']:.1f}",
                f"{result['zeros']:.3f}",
            ]
        )
    head = [
        "0.8 zeros",
        "bytes",
        "gzip",
        "gzip / float32",
        "output off by",
        "accuracy",
        "zeros in the file",
    ]
    return table(head, rows, document)


PAGES: dict[Path, dict[str, Callable[[], str]]] = {
    HERE / "README.md": {
        "suites": suites,
        "accuracy": accuracy,
        "methods_lenet": functools.partial(methods, "lenet"),
        "methods_lenet_checks": functools.partial(methods_checks, "lenet"),
        "methods_gru": functools.partial(methods, "gru"),
        "methods_gru_checks": functools.partial(methods_checks, "gru"),
        "structured_accuracy": structured_accuracy,
        "structured_gains": structured_gains,
        "distillation": distillation,
        "quantization_aware": quantization_aware,
        "quantization_aware_step": quantization_aware_step,
        "flash": flash,
        "combined": combined,
        "recipe": recipe,
        "npu": npu,
        "xnnpack": xnnpack,
        "shrink_time": shrink_time,
        "tfmot_side_by_side": tfmot_side_by_side,
        "training_step": training_step,
        "mask_update": mask_update,
        "model_update": model_update,
        "scaling": scaling,
        "import_time": import_time,
    },
    HERE.parent / "docs" / "beyond_one_machine.md": {"histograms": histograms},
    HERE.parent / "docs" / "clustering.md": {"clustering": clustering},
    HERE.parent / "docs" / "distillation.md": {"distillation": distillation},
    HERE.parent / "docs" / "migrating_from_tfmot.md": {
        "tfmot_side_by_side": tfmot_side_by_side
    },
    HERE.parent / "docs" / "quantization_aware_training.md": {
        "quantization_aware": quantization_aware
    },
    HERE.parent / "docs" / "quantization.md": {"quantization": quantization},
    HERE.parent / "README.md": {
        "overview": overview,
        "channels": channels,
        "encoded": encoded,
        "phones": phones,
        "road": road,
        "smallest": smallest,
    },
}


def rendered(page: Path) -> str:
    """Returns a page with every table between its markers made anew."""
    text = page.read_text()
    for name, render in PAGES[page].items():
        before, marker, rest = text.partition(f"<!-- table: {name} -->\n")
        if not marker:
            raise ValueError(f"{page} has no marker for the table {name!r}.")
        _, end, after = rest.partition("<!-- end -->")
        if not end:
            raise ValueError(f"{page}: the table {name!r} has no end marker.")
        text = f"{before}{marker}\n{render()}\n\n{end}{after}"
    return text


def stale() -> list[str]:
    """Returns the pages and pictures that do not show the results as they are."""
    pages = [page for page in PAGES if page.read_text() != rendered(page)]
    pictures = [drawn.path for drawn in picture.PICTURES if drawn.stale()]
    return [str(path.relative_to(HERE.parent)) for path in (*pages, *pictures)]


def main() -> None:
    if "--check" in sys.argv[1:]:
        old = stale()
        sys.exit(f"Not up to date: {', '.join(old)}." if old else 0)
    for page in PAGES:
        page.write_text(rendered(page))
    for drawn in picture.PICTURES:
        if drawn.stale():
            drawn.write()


if __name__ == "__main__":
    main()
