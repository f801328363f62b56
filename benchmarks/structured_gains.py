"""What half the multiply-accumulates gain on the runtimes, in int8 files.

    python -m benchmarks.structured_gains --out benchmarks/results/structured_gains.json

Three int8 files of each architecture: dense; shrunk by `kprune.shrink` to half the
multiply-accumulates; and built narrow from scratch, every width scaled alike to at most
half. Weights are random: they do not matter to sizes and times. The files take turns in
LiteRT, on one thread, and in TensorFlow Lite Micro; ratios are taken within each round.
The target is on the time that shrinking saves, as a share of what narrow saves. About
two minutes on one core.
"""

import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402

import kprune  # noqa: E402
from benchmarks import protocol  # noqa: E402
from kprune.coupling.graph import analyse  # noqa: E402
from kprune.export.convert import convert  # noqa: E402
from kprune.export.ends import of_file  # noqa: E402
from kprune.export.interface import of_model  # noqa: E402
from kprune.export.litert import Session  # noqa: E402
from kprune.export.samples import Samples, random_samples  # noqa: E402
from kprune.export.tflm import run as run_in_tflm  # noqa: E402

SHARE = 0.5
LEAST = 0.8
# The target that decides what channel counts are rounded to, and that a file is for.
RUNTIMES = {"LiteRT": "android", "TFLM": "microcontroller"}
L = keras.layers


def resnet8(width: Callable[[int], int]) -> keras.Model:
    """Returns the residual CNN of MLPerf Tiny, with widths scaled."""
    inputs = keras.Input((32, 32, 3))

    def convolve(x: Any, filters: int, strides: int = 1) -> Any:
        x = L.Conv2D(width(filters), 3, strides=strides, padding="same")(x)
        return L.BatchNormalization()(x)

    x = L.ReLU()(convolve(inputs, 16))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = convolve(L.ReLU()(convolve(x, filters, strides)), filters)
        if strides > 1:
            x = L.Conv2D(width(filters), 1, strides=strides, padding="same")(x)
        x = L.ReLU()(L.Add()([x, y]))
    x = L.Flatten()(L.AveragePooling2D(8)(x))
    return keras.Model(inputs, L.Dense(10)(x), name="resnet8")


def mobilenet(width: Callable[[int], int]) -> keras.Model:
    """Returns MobileNetV1 0.25 for 96x96x3, as in MLPerf Tiny, with widths scaled."""
    inputs = keras.Input((96, 96, 3))

    def after(x: Any) -> Any:
        return L.ReLU()(L.BatchNormalization()(x))

    x = after(L.Conv2D(width(8), 3, strides=2, padding="same", use_bias=False)(inputs))
    blocks = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2)]
    for filters, strides in [*blocks, *[(128, 1)] * 5, (256, 2), (256, 1)]:
        x = L.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(x)
        x = L.Conv2D(width(filters), 1, use_bias=False)(after(x))
        x = after(x)
    outputs = L.Dense(2)(L.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs, name="mobilenet")


NETWORKS = {"resnet8": resnet8, "mobilenet_v1_0.25": mobilenet}


def macs(model: keras.Model) -> int:
    coupling = analyse(model)
    return coupling.macs(coupling.nothing())


def narrow(build: Any, most: float, multiple: int) -> keras.Model:
    """Returns the widest scaled copy that has at most so many multiply-accumulates."""
    for percent in range(99, 0, -1):

        def width(filters: int, share: float = percent / 100) -> int:
            steps = max(1, round(filters * share / multiple))
            return min(filters, steps * multiple)

        model = build(width)
        if macs(model) <= most:
            return model
    raise ValueError("Not even the narrowest model is small enough.")


def exported(model: keras.Model, target: str) -> tuple[bytes, Session, Samples]:
    """Returns the int8 file, loaded, and one input."""
    interface = of_model(model)
    samples = random_samples(interface.inputs)
    content = convert(interface, model, "int8", samples, target == "microcontroller")
    one = Samples(tuple(array[:1] for array in samples.arrays), True)
    return content, Session(content, of_file(content, interface)), one


def in_litert(files: dict[str, Any], count: int) -> dict[str, list[float]]:
    """Returns the CPU seconds per run of each file in each round."""
    for _, session, one in files.values():
        session.set_inputs(one.arrays)
        for _ in range(10):
            session.invoke()
    times: dict[str, list[float]] = {name: [] for name in files}
    for order in protocol.rounds(list(files), count):
        for name in order:
            session = files[name][1]
            runs, start = 0, time.process_time()
            while (seconds := time.process_time() - start) < 0.02:
                for _ in range(10):
                    session.invoke()
                runs += 10
            times[name].append(seconds / runs)
    return times


def in_tflm(files: dict[str, Any], count: int) -> dict[str, list[float]]:
    """Returns the CPU seconds per run of each file in each round."""
    from tflite_micro.python.tflite_micro import runtime

    loaded = {}
    for name, (content, session, one) in files.items():
        value = session.ends.inputs[0].quantize(one.arrays[0])
        arena = max(20 * len(content), 4 << 20)
        interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena)
        loaded[name] = (interpreter, value)
    times: dict[str, list[float]] = {name: [] for name in files}
    for index, order in enumerate(protocol.rounds(list(files), count + 1)):
        for name in order:
            interpreter, value = loaded[name]
            interpreter.set_input(value, 0)
            start = time.process_time()
            interpreter.invoke()
            if index:
                times[name].append(time.process_time() - start)
    return times


def measure(name: str, runtime: str, rounds: int) -> dict[str, Any]:
    """Returns what pruned and narrow gain over dense, and what the files cost."""
    keras.utils.set_random_seed(0)
    target, build = RUNTIMES[runtime], NETWORKS[name]
    dense = build(lambda filters: filters)
    budget = kprune.Budget(macs=SHARE, target=target)
    models = {
        "dense": dense,
        "pruned": kprune.shrink(dense, budget=budget, prove=False),
        "narrow": narrow(build, SHARE * macs(dense), budget.multiple),
    }
    files = {key: exported(model, target) for key, model in models.items()}
    times = (in_litert if runtime == "LiteRT" else in_tflm)(files, rounds)
    gains = {
        key: protocol.ratio(times["dense"], times[key]) for key in ("pruned", "narrow")
    }
    # Of the times that the two save: a ratio of speedups would call no gain at all 0.8
    # where narrow is 1.25 times as fast.
    saved = {
        key: [a - b for a, b in zip(times["dense"], times[key], strict=True)]
        for key in gains
    }
    share = protocol.ratio(saved["pruned"], saved["narrow"])
    facts: dict[str, dict[str, Any]] = {
        key: {
            "macs": macs(models[key]),
            "parameters": models[key].count_params(),
            "file_bytes": len(content),
            "milliseconds": round(float(np.median(times[key])) * 1e3, 4),
        }
        for key, (content, _, _) in files.items()
    }
    if runtime == "TFLM":
        for key, (content, session, one) in files.items():
            needed = run_in_tflm(content, session.ends, one).arena_bytes
            facts[key]["arena_bytes"] = needed
    judged = protocol.judged(share, at_least=LEAST)
    return {**judged, "multiple": budget.multiple, "gains": gains, "files": facts}


def main() -> None:
    args = protocol.options(__doc__, rounds=51)
    rounds = 7 if args.quick else args.rounds
    results = {}
    for name in NETWORKS:
        for runtime in RUNTIMES:
            found = results[f"{name}, {runtime}"] = measure(name, runtime, rounds)
            print(f"{name}, {runtime}: {found['gains']}", flush=True)
            for key, facts in found["files"].items():
                print(f"  {key}: {facts}", flush=True)
    protocol.finish("structured_gains", results, args, share=SHARE)


if __name__ == "__main__":
    main()
