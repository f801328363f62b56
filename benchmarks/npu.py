"""What zeros, patterns of zeros and fewer channels bring on Ethos-U, as Vela estimates.

    python -m benchmarks.npu --out benchmarks/results/npu.json

Int8 files of ResNet-8 with random weights, for each NPU: dense; with 0.5, 0.8 and 0.9
of each kernel zero; with two zeros in each four consecutive input channels; and shrunk
to 0.6 of the multiply-accumulates by `kprune.shrink(model,
budget=kprune.Budget(macs=0.6, target=...))`, which leaves multiples of 16 channels and
could go no further than 0.54. No NPU runs: these are the cycles, traffic and bytes that
Vela states for the systems of `kprune.export.targets`. They are the same on every
machine. A minute.
"""

import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402

import kprune  # noqa: E402
from benchmarks import protocol  # noqa: E402
from benchmarks.flash import SPARSITIES, zeroed  # noqa: E402
from benchmarks.structured_gains import NETWORKS  # noqa: E402
from kprune.export.convert import convert  # noqa: E402
from kprune.export.interface import of_model  # noqa: E402
from kprune.export.samples import random_samples  # noqa: E402
from kprune.export.slim import slim  # noqa: E402
from kprune.export.targets import TARGETS, Target  # noqa: E402
from kprune.export.vela import compile_file  # noqa: E402
from kprune.groups import find_groups  # noqa: E402
from kprune.notices import Notices  # noqa: E402

SHARE = 0.6
# By NPU and file the most of the dense file's bytes, or of its cycles, to be left.
BYTES_AT_MOST = {("ethos-u55-128", "0.9 of zeros"): 0.35}
CYCLES_AT_MOST = {("ethos-u85-256", "two zeros of four"): 1 / 1.25}


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return NETWORKS["resnet8"](lambda width: width)


def two_of_four(model: keras.Model) -> keras.Model:
    """Zeroes the smaller two of each four consecutive input channels of a model."""
    rule = kprune.Rule(granularity=kprune.NofM(2, 4, remainder="dense"))
    groups, _ = find_groups(model, kprune.Plan(rule), Notices())
    for group in groups:
        for weight in group.weights:
            weight.attach(None)
        group.update(rule.schedule.final_sparsity)
    kprune.release(model)
    return model


def files(target: Target) -> dict[str, keras.Model]:
    """Returns the models to compile, by what was done to them."""
    budget = kprune.Budget(macs=SHARE, target=target.name)
    return {
        "dense": network(),
        **{f"{share} of zeros": zeroed(network(), share) for share in SPARSITIES},
        "two zeros of four": two_of_four(network()),
        f"{SHARE} of the MACs": kprune.shrink(network(), budget=budget),
    }


def estimate(model: keras.Model, target: Target) -> dict[str, Any]:
    interface = of_model(model)
    samples = random_samples(interface.inputs)
    data = slim(convert(interface, model, "int8", samples, target.integer_io))
    if target.npu is None:
        raise ValueError(f"{target.name} has no NPU.")
    found = compile_file(data, target.npu)[1]
    return {
        "cycles": found.cycles,
        "macs": found.macs,
        "file_bytes": found.file_bytes,
        "traffic_bytes": found.traffic_bytes,
        "sram_bytes": found.memory_bytes.get("sram", 0),
        "encoded_weight_bytes": found.encoded_weight_bytes,
    }


def main() -> None:
    args = protocol.options(__doc__)
    results: dict[str, Any] = {}
    for target in TARGETS.values():
        if target.npu is None:
            continue
        dense: dict[str, Any] = {}
        for kind, model in files(target).items():
            facts = estimate(model, target)
            dense = dense or facts
            key = (target.name, kind)
            of = "file_bytes" if key in BYTES_AT_MOST else "cycles"
            share = facts[of] / dense[of]
            most = {**BYTES_AT_MOST, **CYCLES_AT_MOST}.get(key)
            result = {
                **facts,
                "of": of,
                "ratio": round(share, 4),
                "quartiles": [round(share, 4)] * 2,
            }
            if most is not None:
                result = protocol.judged(result, at_most=most)
            results[f"{target.name}, {kind}"] = result
    protocol.finish("npu", results, args)


if __name__ == "__main__":
    main()
