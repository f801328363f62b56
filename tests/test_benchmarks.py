"""What the benchmarks compute, beside running and timing things."""

import argparse
import json
import re
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
from test_layers_of_keras import EXAMPLES

from benchmarks import comparison, fashion_mnist, keras_layers, picture, run, tables
from benchmarks.comparison import NETWORKS, SPARSITIES
from benchmarks.fashion_mnist import Phase, StructuredRun
from benchmarks.peers import tfmot


@pytest.mark.parametrize("net", NETWORKS)
def test_networks_have_the_parameters_that_are_counted(net: str) -> None:
    network = NETWORKS[net]
    model = network.build(keras, network.widths)
    assert model.count_params() == network.parameters(network.widths)
    kernels = [v for v in model.weights if "bias" not in v.name]
    sizes = sum(int(np.prod(kernel.shape)) for kernel in kernels)
    assert model.count_params() - sizes == network.biases


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("net", NETWORKS)
def test_small_networks_are_no_smaller_and_hardly_larger_than_what_is_left(
    net: str, sparsity: float
) -> None:
    network = NETWORKS[net]
    kernels = network.parameters(network.widths) - network.biases
    left = network.biases + kernels * (1 - sparsity)
    small = network.parameters(network.small_widths(sparsity))
    # One unit of the GRU, the coarser of the two, is 6 % of the smallest.
    assert left - 1 < small < 1.06 * left


def test_shuffled_masks_keep_as_many_of_each_kernel_elsewhere() -> None:
    masks = [np.arange(600).reshape(20, 30) < 60, np.ones((3, 4), bool)]
    shuffled = comparison.shuffled(masks, seed=1)
    assert [m.sum() for m in shuffled] == [60, 12]
    assert [m.shape for m in shuffled] == [(20, 30), (3, 4)]
    assert (shuffled[0] != masks[0]).any()
    again = comparison.shuffled(masks, seed=1)
    other = comparison.shuffled(masks, seed=2)
    assert (again[0] == shuffled[0]).all() and (other[0] != shuffled[0]).any()


def row(method: str, sparsity: float, *accuracies: float) -> list[dict[str, object]]:
    return [
        {
            "net": "lenet",
            "method": method,
            "sparsity": sparsity,
            "parameters_left": 100,
            "accuracy": accuracy,
        }
        for accuracy in accuracies
    ]


def checks(rows: list[dict[str, object]]) -> dict[tuple[str, float], dict[str, object]]:
    return {
        (f"{r['check']} {r['against']}", r["sparsity"]): r
        for r in comparison.summarise(rows)
        if "check" in r
    }


def test_the_best_has_to_lead_by_more_than_the_larger_spread() -> None:
    rows = [
        *row("dense", 0.0, 95.0),
        *row("magnitude, global", 0.9, 90.0, 91.0, 92.0),
        *row("Taylor", 0.9, 80.0, 80.0, 80.0),
        *row("random", 0.9, 88.0, 88.5, 89.5),  # 2.33 behind.
        *row("shuffled masks", 0.9, 87.0, 89.5, 89.0),  # 2.5 behind, 2.5 wide.
        *row("tfmot", 0.9, 91.0, 91.0, 91.0),
    ]
    found = checks(rows)
    assert {r["method"] for r in found.values()} == {"magnitude, global"}
    lead = found["best random", 0.9]
    assert (lead["lead"], lead["spread"], lead["met"]) == (2.333, 2.0, True)
    assert not found["best shuffled masks", 0.9]["met"]
    assert found["best tfmot", 0.9]["met"]  # As good will do.
    assert not checks([*rows, *row("tfmot", 0.9, 91.1)])["best tfmot", 0.9]["met"]


def test_below_the_high_sparsities_only_peers_are_targets() -> None:
    found = checks(
        [
            *row("RigL", 0.5, 90.0, 90.0),
            *row("random", 0.5, 89.0, 89.0),
            *row("static random", 0.5, 89.0, 89.0),
            *row("tfmot", 0.5, 91.0, 91.0),
            *row("PQuantML", 0.5, 91.0),
            *row("RigL", 0.95, 89.0, 89.1),
            *row("static random", 0.95, 88.0, 88.1),
            *row("random", 0.95, 80.0),
        ]
    )
    assert "met" not in found["best random", 0.5]
    assert not found["best tfmot", 0.5]["met"]
    assert "met" not in found["best PQuantML", 0.5]  # One seed.
    assert found["best static random", 0.95]["met"]
    assert "met" not in found["RigL static random", 0.95]
    assert "met" not in found["best random", 0.95]  # One seed has no spread.


def test_rigl_is_held_against_static_random_where_it_is_not_the_best_too() -> None:
    found = checks(
        [
            *row("magnitude, ERK", 0.9, 92.0, 92.2),
            *row("RigL", 0.9, 90.0, 90.4),
            *row("static random", 0.9, 90.0, 90.0),
        ]
    )
    assert found["best static random", 0.9]["met"]
    verdict = found["RigL static random", 0.9]
    assert (verdict["lead"], verdict["met"]) == (0.2, False)


@pytest.mark.parametrize(
    ("better", "values", "expected"),
    [
        ("less", (1.0, 1.2), "ahead"),
        ("less", (1.2, 1.0), "behind"),
        ("more", (1.2, 1.0), "ahead"),
        ("more", (1.0, 1.05), "equal"),
        (0.8, (0.8, 0.7), "equal"),  # The difference is as large as what is none.
        (0.8, (0.8, 1.0), "ahead"),
        (0.8, (0.6, 0.85), "behind"),
    ],
)
def test_a_side_is_ahead_by_more_than_what_is_no_difference(
    better: str | float, values: tuple[float, float], expected: str
) -> None:
    assert tfmot.row("ratio", better, values, margin=0.1)["kprune_is"] == expected


def test_the_wider_range_of_both_sides_is_no_difference() -> None:
    ranges = ((1.0, 1.1), (1.1, 1.4))
    found = tfmot.row("ms", "less", (1.05, 1.3), ranges)
    assert (found["margin"], found["kprune_is"]) == (0.3, "equal")


def test_only_layers_of_both_kerases_are_compared() -> None:
    ours = {"Dense": "pruned", "GRU": "pruned", "PReLU": "skipped", "New": "pruned"}
    theirs = {"Dense": "pruned", "GRU": "refused: why", "PReLU": "skipped"}
    pruned, refused = tfmot.layers({"kprune": ours, "tfmot": theirs}).values()
    assert pruned["values"] == {"kprune": 2, "tfmot": 1}
    assert refused["values"] == {"kprune": 0, "tfmot": 1}
    assert pruned["skipped"] == {"kprune": 1, "tfmot": 1}
    assert pruned["kprune_is"] == refused["kprune_is"] == "ahead"


def test_every_layer_of_keras_is_tried_on_both_sides() -> None:
    ours = {name for name in keras_layers.LAYERS if hasattr(keras.layers, name)}
    assert ours == set(EXAMPLES) - {"Wrapper"}


@pytest.mark.parametrize("name", ["Dense", "Attention", "ReversibleEmbedding"])
def test_a_model_is_built_around_a_layer(name: str) -> None:
    model = keras_layers.build(keras, name)
    assert any(type(layer).__name__ == name for layer in model.layers)
    assert model.output_shape == (None, 3)


def modules() -> dict[str, str]:
    """Returns the text of each module of the benchmarks, by its name there."""
    folder = run.ROOT / "benchmarks"
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts): path.read_text()
        for path in folder.rglob("*.py")
    }


# Scripts that are no benchmarks: the runner, what it calls, and other scripts' helpers.
HELPERS = {"run", "tables", "picture", "sweep", "xnnpack_worker", "peers.tfmot_sides"}
# Made on a validation split, for a choice between settings.
CHOICES = {"structured_choice"}


def test_the_runner_knows_every_script_and_every_result() -> None:
    scripts = {name for name, text in modules().items() if "__main__" in text}
    assert {b.module for b in run.BENCHMARKS} == scripts - HELPERS
    results = {path.stem for path in run.RESULTS.glob("*.json")}
    assert results <= {b.result for b in run.BENCHMARKS} | CHOICES
    for benchmark in run.BENCHMARKS:
        assert benchmark.environment in {run.OURS, *run.ENVIRONMENTS}
        assert set(benchmark.needs) <= set(run.NEEDS)
        if suite := benchmark.arguments.partition("--suite ")[2]:
            text = modules()[benchmark.module]
            assert (
                f'"{suite}"' in text
                or "comparison.suites" in text
                or ("quantized_runs" in text)
            )


def test_the_runner_lists_what_it_would_run(capsys: pytest.CaptureFixture) -> None:
    assert run.main(["--list", "--again", "training", "mask_update"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [
        ["training", "training_step"],
        ["training", "tfmot_training_step"],
        ["training", "quantization_aware_step"],
        ["training", "tfmot_quantization_aware_step"],
        ["mask-update", "mask_update"],
    ]
    assert lines[-1].startswith("At most 1.4 hours")
    assert run.main(["--list", "training_step"]) == 0
    assert re.search(r"\(is there\)\nAt most 0.0 hours", capsys.readouterr().out)
    with pytest.raises(SystemExit):
        run.main(["speed"])
    assert "Received speed, expected suites or results" in capsys.readouterr().err


@pytest.mark.parametrize("flags", ["flags : fpu cpuid_fault sse", "flags : fpu", None])
def test_flags_of_the_processor_are_looked_up(monkeypatch, tmp_path, flags):
    benchmark = run.Benchmark("device", "one", "one", 1, needs=("cpuid_fault",))
    monkeypatch.setattr(run, "CPUINFO", tmp_path / "cpuinfo")
    if flags is not None:
        run.CPUINFO.write_text(f"{flags}\n")
    lacking = run.missing(benchmark)
    assert lacking == "" if flags and "fault" in flags else "CPUID" in lacking


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Three benchmarks whose processes only write their file; the second one fails."""
    monkeypatch.setattr(run, "QUICK", tmp_path / "quick")
    monkeypatch.setattr(run, "PEERS", tmp_path / "peers")
    monkeypatch.setattr(run, "NEEDS", {"no-such-program": "nothing"})
    fake = (
        run.Benchmark("a", "good", "good", 1, "--suite x"),
        run.Benchmark("a", "bad", "bad", 1),
        run.Benchmark("b", "lacking", "lacking", 1, needs=("no-such-program",)),
        run.Benchmark("b", "peer", "peers.one", 1, "", "tfmot"),
    )
    monkeypatch.setattr(run, "BENCHMARKS", fake)
    started: list[list[str]] = []

    def process(line: list[str], **_: object) -> None:
        started.append(line)
        if "--out" in line:
            if "benchmarks.bad" in line:
                raise subprocess.CalledProcessError(1, line)
            Path(line[-1]).write_text("{}")
        elif "venv" in line:
            (run.PEERS / "tfmot").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(subprocess, "run", process)
    return started


def scripts(commands: list[list[str]]) -> list[list[str]]:
    return [line[2:] for line in commands if "--out" in line]


def test_what_fails_or_cannot_run_is_said_and_the_rest_runs(
    commands: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    results = tmp_path / "results"
    assert run.main(["--results", str(results)]) == 1
    out = capsys.readouterr().out
    assert re.search(r"good +done in 0.0 minutes\n", out)
    assert re.search(r"bad +FAILED: .* exit status 1", out)
    assert re.search(r"lacking +not run: needs no-such-program \(nothing\)\n", out)
    good, bad, peer = scripts(commands)
    file = str(results / "good.json")
    assert good == ["benchmarks.good", "--suite", "x", "--out", file]
    assert peer[0] == "benchmarks.peers.one"
    # What is there is not measured again, nor is an environment made again.
    commands.clear()
    assert run.main(["--results", str(results), "good", "peer"]) == 0
    assert commands == []
    # Rows are resumed by the scripts themselves; what is named again goes first.
    (results / "good.json").write_text('{"rows": []}')
    assert run.main(["--results", str(results), "good"]) == 0
    assert run.main(["--results", str(results), "--again", "peer"]) == 0
    assert [line[0] for line in scripts(commands)] == [good[0], peer[0]]
    assert not any("venv" in line for line in commands)


def test_quick_runs_leave_the_results_alone(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    for _ in range(2):  # Each from the beginning.
        assert run.main(["--quick", "good"]) == 0
    file = str(run.QUICK / "good.json")
    quick = ["benchmarks.good", "--suite", "x", "--quick", "--out", file]
    assert scripts(commands) == [quick, quick]
    assert not run.RESULTS.exists()


def test_quick_runs_are_one_short_run_of_each_kind() -> None:
    phases = (Phase(8, 1e-3), Phase(8, 1e-3))
    runs = [
        StructuredRun("net", phases),
        StructuredRun("net", phases[:1]),
        StructuredRun("net", phases, macs=0.5, how="shrink"),
        StructuredRun("net", phases, macs=0.25, how="shrink"),
    ]
    short = fashion_mnist.short(runs)
    assert [run.how for run in short] == [None, "shrink"]
    assert {phase.epochs for run in short for phase in run.phases} == {1}


def test_rows_that_are_only_summed_up_again_keep_their_date(tmp_path: Path) -> None:
    args = argparse.Namespace(
        out=tmp_path / "r.json", suite="s", validation=False, quick=False
    )
    results = fashion_mnist.Results("b", args, list)
    results.write([{"a": 1}])
    document = json.loads(args.out.read_text())
    document["machine"]["date"] = "2020-01-01"
    args.out.write_text(json.dumps(document))
    results.write(results.rows())
    assert json.loads(args.out.read_text())["machine"]["date"] == "2020-01-01"
    results.write([*results.rows(), {"a": 2}])
    assert json.loads(args.out.read_text())["machine"]["date"] != "2020-01-01"


def test_a_picture_is_stale_once_other_facts_are_to_be_shown(tmp_path: Path) -> None:
    facts = {"a": [1.0, 2.0]}
    drawn = picture.Picture(
        tmp_path / "p.png",
        lambda: facts,
        lambda shown, figure: figure.subplots().plot(shown["a"]),
        (1, 1),
    )
    assert drawn.stale()
    drawn.write()
    assert not drawn.stale()
    facts["a"][1] = 3.0
    assert drawn.stale()


def test_tables_and_pictures_show_the_results_that_are_there() -> None:
    assert tables.stale() == []  # Else: python -m benchmarks.tables


FIGURE = re.compile(
    r"\d[\d,.]*\s?(%|(points?|times|ms|s|seconds?|minutes?|hours?|bytes|[KMG]i?B)\b)"
    r"|(?<![\d.])\d+\.\d{3}"
)
# Numbers that are no results: targets, settings, arithmetic.
SETTINGS = {
    "benchmarks/README.md": (
        "at most 0.2 points lost",
        "read every 5 ms",
        "At most 3 seconds",
        "sparsities by no more than 0.001",
    ),
    "docs/distillation.md": ("if they take 1 GiB at most",),
    "docs/microcontrollers.md": ("a dense layer of 64 KiB takes 64 KiB", "27 KiB for"),
    "docs/troubleshooting.md": ("80 % were asked for, and one layer has 60 %",),
}


def test_figures_in_prose_name_what_they_are_from() -> None:
    pages = [run.ROOT / "README.md", run.ROOT / "benchmarks" / "README.md"]
    pages += sorted((run.ROOT / "docs").glob("*.md"))
    for page in pages:
        text = page.read_text()
        # Tables are made by benchmarks.tables, code runs in tests/test_docs.py.
        for made in (r"<!-- table: .*?<!-- end -->", r"```.*?```", r"https?://\S+"):
            text = re.sub(made, "", text, flags=re.DOTALL)
        text = re.sub(r"[^\S\n]*\n(?!\n)", " ", text)
        for setting in SETTINGS.get(str(page.relative_to(run.ROOT)), ()):
            assert setting in text, f"{page}: {setting!r} is gone, here too then."
            text = text.replace(setting, "")
        for paragraph in text.split("\n"):
            if found := FIGURE.search(paragraph):
                assert "benchmarks" in paragraph, (
                    f"{page}: {found.group()!r} is in no generated table, and its "
                    f"paragraph names no script or result:\n{paragraph}"
                )
