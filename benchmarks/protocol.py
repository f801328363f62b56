"""What the speed benchmarks share: options, timing in pairs, and the JSON they write.

Machines drift: other work comes and goes, and clocks step. So the two sides of a
comparison take turns, the side that begins changes from round to round, the ratio is
taken within each round, and the median of the ratios is the result. Nothing here
imports Keras: the peers run in another environment.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kprune_machine import machine


def options(docstring: str | None, **defaults: int) -> argparse.Namespace:
    """Reads `--out`, `--quick`, and one integer option per keyword argument."""
    return parser(docstring, **defaults).parse_args()


def parser(docstring: str | None, **defaults: int) -> argparse.ArgumentParser:
    """Returns what reads the options, for scripts that have further ones."""
    reader = argparse.ArgumentParser(
        description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument("--out", type=Path, help="JSON file to write")
    reader.add_argument(
        "--quick", action="store_true", help="a short run, to see that it works"
    )
    for name, default in defaults.items():
        reader.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=default, help="%(default)s"
        )
    return reader


def rounds(names: Sequence[str], count: int) -> Iterator[tuple[str, ...]]:
    """Yields the order of each round: forwards, backwards, forwards, ..."""
    for index in range(count):
        yield tuple(names if index % 2 == 0 else reversed(names))


def timed(function: Callable[[], Any]) -> tuple[float, float]:
    """Returns the wall and the CPU seconds that one call takes."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    seconds = time.perf_counter() - wall, time.process_time() - cpu
    del result
    return seconds


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, Any]:
    """Returns the median of the ratios of each round, and how far they spread."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "ratio": round(statistics.median(ratios), 4),
        "quartiles": [round(low, 4), round(high, 4)],
        "range": [round(min(ratios), 4), round(max(ratios), 4)],
        "rounds": len(ratios),
    }


def judged(result: dict[str, Any], **target: float) -> dict[str, Any]:
    """Adds the target, `at_most=` or `at_least=`, and whether the ratio meets it."""
    met = result["ratio"] <= target.get("at_most", float("inf"))
    met = met and result["ratio"] >= target.get("at_least", 0.0)
    return {**result, "target": target, "met": met}


def line(name: str, result: dict[str, Any]) -> str:
    """Returns one row of a table on the terminal."""
    low, high = result["quartiles"]
    text = f"{name:<34} {result['ratio']:8.3f}  quartiles {low:.3f} to {high:.3f}"
    if target := result.get("target"):
        ((kind, value),) = target.items()
        verdict = "met" if result["met"] else "MISSED"
        text += f"  target {kind.replace('_', ' ')} {value:g}: {verdict}"
    return text


def finish(
    benchmark: str, results: dict[str, Any], args: argparse.Namespace, **facts: Any
) -> None:
    """Prints one line per result, and writes them all if `--out` says where."""
    print()
    for name, result in results.items():
        print(line(name, result))
    write(benchmark, results, args, **facts)


def write(
    benchmark: str, results: dict[str, Any], args: argparse.Namespace, **facts: Any
) -> None:
    """Writes the results if `--out` says where, with what they depend on."""
    if args.out is None:
        return
    document = {
        "benchmark": benchmark,
        "quick": args.quick,
        **facts,
        "machine": machine(),
        "results": results,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\nWritten: {args.out}")


def written(args: argparse.Namespace) -> dict[str, Any]:
    """Returns what `write` wrote before, for scripts that go on; {} if nothing."""
    there = args.out is not None and args.out.exists()
    return json.loads(args.out.read_text()) if there else {}
