"""What one threshold for sharded weights costs: bytes that are sent, time, memory.

    python -m benchmarks.histograms --out benchmarks/results/histograms.json

The first part is arithmetic for a model of 100 billion weights; the second is measured
on this machine: one worker's part of it, 100 million scores, ranked by
`kprune.sharded_masks`.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import json  # noqa: E402
import statistics  # noqa: E402
import tracemalloc  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

import kprune  # noqa: E402
from benchmarks import protocol  # noqa: E402

WEIGHTS = 100_000_000_000
WORKERS = 1000


def main() -> None:
    args = protocol.options(__doc__, scores=100_000_000, rounds=7)
    num_scores = args.scores // 100 if args.quick else args.scores
    rng = np.random.default_rng(0)
    scores = np.abs(rng.standard_normal(num_scores, dtype=np.float32))
    sent: list[int] = []

    def all_reduce(counts: np.ndarray) -> np.ndarray:
        sent.append(counts.nbytes)
        return counts

    def work() -> Any:
        shard = kprune.Shard("w", scores)
        return kprune.sharded_masks([shard], {"w": scores.shape}, 0.9, all_reduce)

    work()  # Fresh memory costs more than the work on it.
    calls, per_update = len(sent), sum(sent)
    times = [protocol.timed(work) for _ in range(args.rounds)]
    wall, cpu = map(statistics.median, zip(*times, strict=True))
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    results = {
        "weights": WEIGHTS,
        "workers": WORKERS,
        "weights_per_worker": WEIGHTS // WORKERS,
        "gathered_gigabytes": WEIGHTS * 4 / 1e9,
        "gathered_per_worker_megabytes": WEIGHTS // WORKERS * 4 / 1e6,
        "sent_per_worker_kib": round(per_update / 1024, 1),
        "calls": calls,
        "times_less": round(WEIGHTS // WORKERS * 4 / per_update),
        "scores": num_scores,
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        # The mask itself is a byte per score.
        "memory_beyond_scores_and_mask_mib": round((peak - num_scores) / 2**20, 1),
    }
    for name, value in results.items():
        print(f"{name:<36} {value:>16,}")
    if args.out:
        document = {
            "benchmark": "histograms",
            "quick": args.quick,
            "machine": protocol.machine(),
            "results": results,
        }
        args.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
