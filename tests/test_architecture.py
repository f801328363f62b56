"""The public names, and the one direction that imports point in."""

import ast
import pathlib
import subprocess
import sys

import kprune

PACKAGE = pathlib.Path(kprune.__file__).parent

# Lower modules first: each may import only from those above it in this list.
LAYERS = [
    [
        *("axes", "data_file", "foreign", "model_file", "naming", "notices"),
        *("ranking", "report"),
    ],
    ["config"],
    ["schedules", "allocation", "clustering", "prunable"],
    ["criteria", "granularity", "histograms", "regularization"],
    ["regrowth"],
    ["plan"],
    ["layers"],
    ["evidence", "rebuild", "slots", "steps"],
    ["distillation", "held", "shared"],
    ["coupling", "transform"],
    ["moments", "sharing"],
    ["quantization"],
    ["channels", "workers"],
    ["groups", "penalties"],
    ["updates"],
    ["judges", "snapshots"],
    ["guards"],
    ["callbacks", "clustering_callback", "pruner"],
    ["at_target", "rewinding", "summaries"],
    ["export"],
    ["charts", "page"],
    ["curves", "inspection", "sensitivity", "structure", "preparation"],
    ["advice", "recipe"],
    ["overview", "sweep"],
    ["demo"],
    ["demo_view"],
    ["compat"],
    ["__init__"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

HEAVY = {
    "tensorflow",
    "ai_edge_litert",
    "ai_edge_quantizer",
    "tflite_micro",
    "matplotlib",
    "jinja2",
    "optuna",
    "flatbuffers",
    "sklearn",
    "rich",
    "scipy",
    "typer",
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, path.relative_to(PACKAGE).with_suffix("").parts


def test_every_module_has_its_place():
    assert {parts[0] for _, parts in modules()} == set(RANK)


def test_imports_point_one_way():
    back_edges = []
    for path, parts in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "kprune."
            ):
                target = node.module.split(".")[1]
                if target != parts[0] and RANK[target] >= RANK[parts[0]]:
                    back_edges.append(f"{'.'.join(parts)} -> {node.module}")
    assert back_edges == []


def test_devices_and_plots_are_imported_by_functions_only():
    at_top = []
    for path, parts in modules():
        if parts[0] in ("demo", "demo_view"):
            continue  # Never imported by `import kprune`.
        for node in ast.parse(path.read_text()).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            at_top += [
                f"{'.'.join(parts)}: {name}"
                for name in names
                if name.split(".")[0] in HEAVY
            ]
    assert at_top == []


def test_import_brings_in_nothing_heavy():
    code = (
        "import sys, keras; before = set(sys.modules); import kprune; "
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == "['kprune']"


def test_public_names():
    assert sorted(kprune.__all__) == [
        "AccuracyGuard",
        "Advice",
        "Allocation",
        "AtTarget",
        "BatchNormL1",
        "BatchNormScale",
        "BenchReport",
        "Block",
        "Budget",
        "Channel",
        "ClusteringCallback",
        "ClusteringReport",
        "ConstantSparsity",
        "CosineRamp",
        "Criterion",
        "CyclicRamp",
        "Element",
        "Epochs",
        "Erk",
        "Explicit",
        "ExponentialRamp",
        "FitFraction",
        "GeometricMedian",
        "Global",
        "Granularity",
        "GroupLasso",
        "Inspection",
        "Kernel",
        "Lamp",
        "Magnitude",
        "Movement",
        "NofM",
        "Overview",
        "PiecewiseSparsity",
        "Plan",
        "PolynomialDecay",
        "PrepareReport",
        "Pruned",
        "Pruner",
        "PruningCallback",
        "PruningReport",
        "PruningSensitivityReport",
        "PruningSummaries",
        "PruningWarning",
        "QuantizationCallback",
        "QuantizationReport",
        "Random",
        "Recipe",
        "Regrowth",
        "Regularization",
        "Report",
        "RewindCallback",
        "RigL",
        "Rule",
        "SET",
        "Schedule",
        "SensitivityReport",
        "Shard",
        "ShrinkPlan",
        "ShrinkReport",
        "Snip",
        "SparsityFunction",
        "SweepReport",
        "SynFlow",
        "Taylor",
        "Threshold",
        "Uniform",
        "Wanda",
        "advise",
        "bench",
        "cluster",
        "distill",
        "export",
        "hold_zeros",
        "inspect",
        "overview",
        "plan_shrink",
        "plot_fit",
        "prepare",
        "prune",
        "quantization_sensitivity",
        "quantize_aware",
        "register_coupling",
        "register_prunable",
        "release",
        "sensitivity",
        "sharded_masks",
        "shrink",
        "strip",
        "sweep",
    ]
    assert all(hasattr(kprune, name) for name in kprune.__all__)
