"""What zeros save on phones: float32 networks in LiteRT on a CPU without AVX.

    python -m benchmarks.xnnpack --out benchmarks/results/xnnpack.json

XNNPACK skips zeros on Arm, and on x86 without AVX; `without_avx.c` hides AVX from the
process that is timed, which needs gcc and a CPU with CPUID faulting. Networks of
keras.applications with random weights, as they come and after `kprune.prepare`, the
smallest of each kernel set to zero (those of depthwise convolutions aside), stored
densely and sparsely by `kprune.export`: CPU time of one thread, ratios taken within
rounds in which the two take turns. About five minutes on one core.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402

import kprune  # noqa: E402
from benchmarks import protocol  # noqa: E402
from benchmarks.flash import zeroed  # noqa: E402

HERE = Path(__file__).parent
NETWORKS = ("MobileNet", "MobileNetV2", "EfficientNetB0")
SPARSITIES = (0.8, 0.9)
# The least that zeros must save in time where XNNPACK is said to skip them.
AT_LEAST = 1.5


def time_pair(dense: Path, sparse: Path, folder: Path) -> dict[str, Any]:
    """Times two files in a process that does not see AVX."""
    library = folder / "without_avx.so"
    if not library.exists():
        source = HERE / "without_avx.c"
        command = ["gcc", "-O1", "-shared", "-fPIC", "-o", library, source]
        subprocess.run(command, check=True)
    done = subprocess.run(
        [sys.executable, HERE / "xnnpack_worker.py", dense, sparse],
        env={**os.environ, "LD_PRELOAD": str(library)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(network: str, prepared: bool, sparsity: float, size: int) -> dict[str, Any]:
    """Exports one network densely and sparsely, and times both."""
    keras.utils.set_random_seed(0)
    make = getattr(keras.applications, network)
    model = make(weights=None, input_shape=(size, size, 3))
    if prepared:
        model = kprune.prepare(model)
    zeroed(model, sparsity)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes, reports = {}, {}
        for kind, encode in (("dense", False), ("sparse", True)):
            path = folder / f"{kind}.tflite"
            reports[kind] = kprune.export(
                model, path, "android", "none", benchmark=False, encode=encode
            )
            sizes[kind] = path.stat().st_size
        found = time_pair(folder / "dense.tflite", folder / "sparse.tflite", folder)
    skips = any("XNNPACK skips them" in note for note in reports["sparse"].notes)
    result = {
        **protocol.ratio(*found["times"]),
        "bytes": sizes,
        "milliseconds": {
            kind: round(1e3 * sorted(times)[len(times) // 2], 3)
            for kind, times in zip(sizes, found["times"], strict=True)
        },
        "relative_error": found["error"],
        "said_to_skip": skips,
    }
    if not skips:
        return protocol.judged(result, at_most=1.1)
    return protocol.judged(result, at_least=AT_LEAST)


def main() -> None:
    args = protocol.options(__doc__, size=224)
    results = {}
    for network in NETWORKS[: 1 if args.quick else None]:
        for prepared in (False, True):
            for sparsity in SPARSITIES[: 1 if args.quick else None]:
                kind = "prepared" if prepared else "as it comes"
                name = f"{network} {kind}, {sparsity}"
                results[name] = measure(network, prepared, sparsity, args.size)
                print(protocol.line(name, results[name]), flush=True)
    protocol.finish("xnnpack", results, args, input_size=args.size)


if __name__ == "__main__":
    main()
