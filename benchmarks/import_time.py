"""What `import kprune` costs above `import keras`.

    python -m benchmarks.import_time --out benchmarks/results/import_time.json

Starts a new interpreter for each, in turns, and compares its CPU time; Keras imports
its backend, TensorFlow, too. Prints the modules that kprune imports beyond those of
Keras. About five minutes.
"""

import json
import os
import resource
import subprocess
import sys

from benchmarks import protocol

AT_MOST = 1.10
_LIST = "import json, sys, {}; print(json.dumps(sorted(sys.modules)))"


def cpu_seconds(statement: str) -> float:
    """Returns the CPU time of a new interpreter that runs a statement."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True, env=_environment())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def modules(name: str) -> set[str]:
    """Returns the modules that are there after an import."""
    output = subprocess.run(
        [sys.executable, "-c", _LIST.format(name)],
        check=True,
        env=_environment(),
        capture_output=True,
        text=True,
    ).stdout
    return set(json.loads(output))


def _environment() -> dict[str, str]:
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}


def main() -> None:
    args = protocol.options(__doc__, rounds=15)
    names = ("keras", "kprune")
    times: dict[str, list[float]] = {name: [] for name in names}
    for index, order in enumerate(
        protocol.rounds(names, (2 if args.quick else args.rounds) + 1)
    ):
        for name in order:
            seconds = cpu_seconds(f"import {name}")
            if index:  # The first round fills the disk cache.
                times[name].append(seconds)
        if index:
            print("  ".join(f"{k} {v[-1]:.2f} s" for k, v in times.items()), flush=True)
    extra = sorted(m for m in modules("kprune") - modules("keras"))
    foreign = [name for name in extra if name.partition(".")[0] != "kprune"]
    print(f"kprune imports beyond Keras: {', '.join(foreign) or 'only itself'}")
    result = protocol.judged(
        protocol.ratio(times["kprune"], times["keras"]), at_most=AT_MOST
    )
    protocol.finish(
        "import_time",
        {"import kprune / import keras": {**result, "seconds": times}},
        args,
        modules_beyond_keras=extra,
    )


if __name__ == "__main__":
    main()
