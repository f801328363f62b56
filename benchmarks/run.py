"""Runs benchmarks: one entry for all of them, and for the peers.

    python -m benchmarks.run --list                # suites, and how long they take
    python -m benchmarks.run training mask-update  # these suites
    python -m benchmarks.run training_step         # or single results, by their names
    python -m benchmarks.run --quick               # all, in short runs: do they work?

Each benchmark is a script in a process of its own that writes one JSON file; afterwards
tables and plots are made anew. A result that is there is not measured again, so that
the same command goes on where it was stopped: scripts that train go on within their
file, others begin again. To measure anew, name an empty folder with `--results`, and
copy what is good to `benchmarks/results`; or `--again` removes the named results first.

Quick runs write to `build/benchmarks-quick`, which they empty first, and never to
`benchmarks/results`. Peers run in environments of their own, which are made in
`.venv-peers` when they are needed. What cannot run here is said, and the rest runs.
This module changes when a benchmark comes or goes.
"""

import argparse
import dataclasses
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
QUICK = ROOT / "build" / "benchmarks-quick"
PEERS = ROOT / ".venv-peers"
OURS = "kprune"
# What is installed for each peer; kprune's own environment is the one that runs this.
ENVIRONMENTS = {
    "tfmot": (
        "tensorflow-model-optimization>=0.8.1",
        "tf_keras>=2.21",
        "mnist1d==0.0.2.post1",
    ),
    "torch_pruning": ("torch", "torch-pruning", "numpy"),
    # The extra is theirs, and ends before the TensorFlow that kprune needs.
    "pquant": ("pquant-ml[tensorflow]==0.1.0",),
}
CPUINFO = Path("/proc/cpuinfo")
# Programs, modules and CPU flags that some benchmarks need, and what brings them.
NEEDS = {
    "cpuid_fault": "an Intel CPU whose CPUID can be made to fault, in Linux",
    "gcc": "a C compiler",
    "mnist1d": 'pip install -e ".[bench]"',
    "tflite_micro": 'pip install -e ".[micro]"',
    "ethosu": 'pip install -e ".[ethos]"',
}


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One script with its arguments, and the result that it writes.

    Args:
        suite: What it belongs to.
        result: Name of its file in `results`.
        module: Name of the script's module in `benchmarks`.
        minutes: How long it takes on two free cores, roughly.
        arguments: Beside `--out`; `{tfmot}` stands for the interpreter of that peer.
        environment: Whose packages it runs with, `OURS` or one of `ENVIRONMENTS`.
        needs: Which of `NEEDS`.
    """

    suite: str
    result: str
    module: str
    minutes: float
    arguments: str = ""
    environment: str = OURS
    needs: tuple[str, ...] = ()

    def environments(self) -> set[str]:
        """Returns the peers whose environments it uses."""
        named = {name for name in ENVIRONMENTS if f"{{{name}}}" in self.arguments}
        return named | ({self.environment} - {OURS})


# Names that stand in several rows below.
NETS = ("cnn", "lenet", "gru", "resnet8")
CNN, LENET, GRU, RESNET = (f"--suite {net}" for net in NETS)
DENSE, PRUNED, BOTH = "--suite dense", "--suite pruned", "--peer-python {tfmot}"
INT8, INT8_STEP = "quantization_aware", "quantization_aware_step"
CHANNELS, IN_TORCH = "structured_accuracy", "torch_pruning_accuracy"
TFMOT, TORCH, PQUANT = ENVIRONMENTS
TFLM = ("tflite_micro",)
# In the order in which they run: peers come first where their results are judged.
BENCHMARKS = tuple(
    Benchmark(*row)
    for row in (
        ("training", "training_step", "training_step", 50),
        ("training", "tfmot_training_step", "peers.tfmot_training_step", 10, "", TFMOT),
        ("training", INT8_STEP, INT8_STEP, 10),
        ("training", f"tfmot_{INT8_STEP}", f"peers.tfmot_{INT8_STEP}", 10, "", TFMOT),
        ("mask-update", "mask_update", "mask_update", 5),
        ("mask-update", "model_update", "model_update", 4),
        ("mask-update", "histograms", "histograms", 2),
        ("scaling", "scaling", "scaling", 6),
        ("accuracy", "tfmot_accuracy", "peers.tfmot_accuracy", 35, CNN, TFMOT),
        ("accuracy", "accuracy_cnn", "accuracy", 60, CNN),
        ("accuracy", "accuracy_allconv", "accuracy", 40, "--suite allconv"),
        ("curves", "tfmot_lenet", "peers.tfmot_accuracy", 12, LENET, TFMOT),
        ("curves", "tfmot_gru", "peers.tfmot_accuracy", 12, GRU, TFMOT),
        ("curves", "pquant_lenet", "peers.pquant_accuracy", 60, LENET, PQUANT),
        ("curves", "methods_lenet", "methods", 120, LENET),
        ("curves", "methods_gru", "methods", 120, GRU, OURS, ("mnist1d",)),
        ("structured", CHANNELS, CHANNELS, 150, DENSE),
        ("structured", CHANNELS, CHANNELS, 40, PRUNED),
        ("structured", IN_TORCH, f"peers.{IN_TORCH}", 40, DENSE, TORCH),
        ("structured", IN_TORCH, f"peers.{IN_TORCH}", 40, PRUNED, TORCH),
        ("structured", "shrink_time", "shrink_time", 3),
        ("distillation", "distillation", "distillation", 20, "--suite sparse"),
        ("distillation", "distillation", "distillation", 60, "--suite channels"),
        ("distillation", "distillation", "distillation", 90, "--suite long"),
        ("int8", INT8, INT8, 50, RESNET),
        ("int8", INT8, INT8, 40, "--suite dscnn"),
        ("int8", f"tfmot_{INT8}", f"peers.tfmot_{INT8}", 50, RESNET, TFMOT),
        ("int8", f"tfmot_{INT8}", f"peers.tfmot_{INT8}", 40, "--suite dscnn", TFMOT),
        ("export", "flash", "flash", 5, "", OURS, TFLM),
        ("export", "clustering", "clustering", 3),
        ("export", "quantization", "quantization", 3),
        ("export", "combined", "combined", 45, "", OURS, TFLM),
        ("device", "structured_gains", "structured_gains", 2, "", OURS, TFLM),
        ("device", "xnnpack", "xnnpack", 5, "", OURS, ("gcc", "cpuid_fault")),
        ("device", "npu", "npu", 1, "", OURS, ("ethosu",)),
        ("recipe", "recipe", "recipe", 60, CNN, OURS, TFLM),
        ("recipe", "recipe", "recipe", 60, RESNET, OURS, TFLM),
        ("import", "import_time", "import_time", 5),
        ("side-by-side", "tfmot_side_by_side", "peers.tfmot", 7, BOTH),
    )
)
SUITES = tuple(dict.fromkeys(benchmark.suite for benchmark in BENCHMARKS))


def chosen(
    names: Sequence[str], benchmarks: Iterable[Benchmark] = BENCHMARKS
) -> list[Benchmark]:
    """Returns the benchmarks of these suites and results; of all, if there are none.

    Raises:
        ValueError: A name is of neither.
    """
    benchmarks = list(benchmarks)
    known = {name for b in benchmarks for name in (b.suite, b.result)}
    if unknown := set(names) - known:
        raise ValueError(
            f"Received {', '.join(sorted(unknown))}, expected suites or results: "
            f"{', '.join(sorted(known))}."
        )
    return [b for b in benchmarks if not names or {b.suite, b.result} & set(names)]


def python_of(environment: str) -> str:
    """Returns the interpreter of an environment, which is made if it is not there."""
    if environment == OURS:
        return sys.executable
    folder = PEERS / environment
    python, ready = folder / "bin" / "python", folder / "ready"
    packages = ENVIRONMENTS[environment]
    if ready.exists() and ready.read_text() == "\n".join(packages):
        return str(python)
    print(f"Installing {', '.join(packages)} into {folder} ...", flush=True)
    if uv := shutil.which("uv"):
        make = [uv, "venv", "--clear", "--python", sys.executable, str(folder)]
        install = [uv, "pip", "install", "--python", str(python), *packages]
    else:
        make = [sys.executable, "-m", "venv", "--clear", str(folder)]
        install = [str(python), "-m", "pip", "install", "--quiet", *packages]
    for command in (make, install):
        subprocess.run(command, check=True)
    ready.write_text("\n".join(packages))
    return str(python)


def missing(benchmark: Benchmark) -> str:
    """Returns what the machine or kprune's environment lacks for it; "" if nothing."""
    lacking = [
        f"{need} ({NEEDS[need]})" for need in benchmark.needs if not _is_here(need)
    ]
    return f"needs {', '.join(lacking)}" if lacking else ""


def _is_here(need: str) -> bool:
    if shutil.which(need) or importlib.util.find_spec(need):
        return True
    return CPUINFO.exists() and need in CPUINFO.read_text().split()


def finished(path: Path) -> bool:
    """Whether a result is complete: files with rows go on by themselves."""
    return path.exists() and "rows" not in json.loads(path.read_text())


def command(benchmark: Benchmark, out: Path, quick: bool) -> list[str]:
    """Returns the command line; environments that it uses are made."""
    pythons = {name: python_of(name) for name in benchmark.environments()}
    return [
        pythons.get(benchmark.environment, sys.executable),
        "-m",
        f"benchmarks.{benchmark.module}",
        *(argument.format_map(pythons) for argument in benchmark.arguments.split()),
        *(["--quick"] if quick else []),
        "--out",
        str(out.relative_to(ROOT) if out.is_relative_to(ROOT) else out),
    ]


def run(benchmark: Benchmark, folder: Path, quick: bool) -> str:
    """Runs one benchmark if its result is not there; returns how that went."""
    out = folder / f"{benchmark.result}.json"
    if finished(out):
        return "is there"
    if lacking := missing(benchmark):
        return f"not run: {lacking}"
    begin = time.monotonic()
    try:
        line = command(benchmark, out, quick)
        print(f"\n$ {' '.join(line)}", flush=True)
        subprocess.run(line, cwd=ROOT, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"FAILED: {error}"
    return f"done in {(time.monotonic() - begin) / 60:.1f} minutes"


def described(benchmark: Benchmark) -> str:
    """Returns a line: suite, result, minutes, and where it runs."""
    where = "" if benchmark.environment == OURS else f"  in {benchmark.environment}"
    return (
        f"{benchmark.suite:<13} {benchmark.result:<30} {benchmark.minutes:>4g} min  "
        f"benchmarks.{benchmark.module} {benchmark.arguments}".rstrip()
        + where
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SUITES)}, or results")
    parser.add_argument("--list", action="store_true", help="only list them")
    parser.add_argument("--again", action="store_true", help="remove results first")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--quick", action="store_true", help="short runs, to try them")
    where.add_argument("--results", type=Path, default=RESULTS, help="%(default)s")
    args = parser.parse_args(argv)
    try:
        benchmarks = chosen(args.names, BENCHMARKS)
    except ValueError as error:
        parser.error(str(error))
    folder = QUICK if args.quick else args.results.absolute()
    minutes = 0.0
    for benchmark in benchmarks:
        there = finished(folder / f"{benchmark.result}.json")
        there = there and not (args.again or args.quick)
        minutes += 0 if there else benchmark.minutes
        print(described(benchmark) + ("  (is there)" if there else ""))
    print(f"At most {minutes / 60:.1f} hours, or a minute each with --quick.")
    if args.list:
        return 0
    if args.quick:
        shutil.rmtree(folder, ignore_errors=True)
    elif args.again:
        for benchmark in benchmarks:
            (folder / f"{benchmark.result}.json").unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = [run(benchmark, folder, args.quick) for benchmark in benchmarks]
    print()
    for benchmark, outcome in zip(benchmarks, outcomes, strict=True):
        print(f"{benchmark.result:<30} {outcome}")
    if folder == RESULTS:
        subprocess.run(
            [sys.executable, "-m", "benchmarks.tables"], cwd=ROOT, check=True
        )
    return int(any(not o.startswith(("done", "is there")) for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
