"""A mask update against sorting the whole weight, as `tf.math.top_k` does.

    python -m benchmarks.mask_update --out benchmarks/results/mask_update.json

Times, on one kernel, all that kprune does in an update (reading the variable, scoring,
finding the threshold, storing the mask and applying it), against the descending
`tf.math.top_k(tf.abs(w), k=w.size)` of the same tensor alone: what
tensorflow-model-optimization finds its threshold by. Wall time, in turns; once for the
first update, on a dense kernel, and once for a later one, on a kernel that is pruned to
0.8 and was trained on. CPU time is recorded too: it is less moved by other work on the
machine. About five minutes.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import statistics  # noqa: E402

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import kprune  # noqa: E402
from benchmarks import protocol  # noqa: E402
from kprune.groups import Group  # noqa: E402
from kprune.held import HeldWeight  # noqa: E402

SHAPES = {"2.4M": (1536, 1536), "25M": (5000, 5000)}
AT_LEAST = 20


def measure(shape: tuple[int, int], later: bool, rounds: int) -> dict:
    """Returns the ratio top_k / kprune for one kernel."""
    random = np.random.default_rng(0)
    weight = HeldWeight(keras.Variable(random.normal(0, 0.05, shape), name="kernel"))
    weight.attach(None)
    rule = kprune.Rule(schedule=kprune.ConstantSparsity(0.8))
    group = Group([weight], rule)
    if later:
        group.update(0.8)
    kernel = keras.ops.convert_to_numpy(weight.variable).copy()
    kernel += random.normal(0, 0.005, shape).astype("float32") * (kernel != 0)
    mask = keras.ops.convert_to_numpy(weight.constraint.mask).copy()

    def restore() -> None:
        weight.variable.assign(kernel)
        weight.set_mask(mask)

    flat = tf.constant(kernel.reshape(-1))
    contenders = {
        "top_k": lambda: tf.math.top_k(tf.abs(flat), k=kernel.size).values[0],
        "kprune": lambda: group.update(0.82 if later else 0.8),
    }
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for index, order in enumerate(protocol.rounds(list(contenders), rounds + 1)):
        for name in order:
            # Once untimed: or else each pays for memory that the other gave back.
            restore()
            contenders[name]()
            restore()
            wall_seconds, cpu_seconds = protocol.timed(contenders[name])
            if index:  # The first round warms up.
                wall[name].append(wall_seconds * 1000)
                cpu[name].append(cpu_seconds * 1000)
    result = protocol.judged(
        protocol.ratio(wall["top_k"], wall["kprune"]), at_least=AT_LEAST
    )
    cpu_ratio = protocol.ratio(cpu["top_k"], cpu["kprune"])["ratio"]
    return {**result, "cpu_ratio": cpu_ratio, "milliseconds": wall}


def main() -> None:
    args = protocol.options(__doc__, rounds=9)
    rounds = 2 if args.quick else args.rounds
    results = {}
    for size, shape in SHAPES.items():
        for later in (False, True):
            name = f"{size}, {'later' if later else 'first'} update"
            results[name] = measure(shape, later, rounds)
            medians = {
                side: statistics.median(times)
                for side, times in results[name]["milliseconds"].items()
            }
            shown = ", ".join(f"{k} {v:.1f} ms" for k, v in medians.items())
            cpu_ratio = results[name]["cpu_ratio"]
            print(f"{name}: {shown}; ratio in CPU time {cpu_ratio:.1f}", flush=True)
    protocol.finish("mask_update", results, args)


if __name__ == "__main__":
    main()
