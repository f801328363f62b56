"""What training for int8 adds to a training step in kprune.

    python -m benchmarks.quantization_aware_step \
        --out benchmarks/results/quantization_aware_step.json

Trains a network twice, in float32 and as `kprune.quantize_aware` makes it, in short
turns, and compares their process CPU time. About six minutes on two cores.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402

import kprune  # noqa: E402
from benchmarks import networks, protocol, step_timing  # noqa: E402


def measure(name: str, steps: int, rounds: int) -> dict:
    """Returns the ratio int8 / float32 of one network."""

    def lane(aware: bool) -> step_timing.Lane:
        keras.utils.set_random_seed(0)
        model = networks.NETWORKS[name](keras)
        data = networks.random_data(model)
        if aware:
            model = kprune.quantize_aware(model)
        model.compile("adam", "sparse_categorical_crossentropy")
        return step_timing.Lane(keras, model, data, steps * (rounds + 1), [])

    lanes = {"float32": lane(False), "int8": lane(True)}
    times = step_timing.compare(lanes, steps, rounds)
    return {**protocol.ratio(times["int8"], times["float32"]), "milliseconds": times}


def main() -> None:
    args = protocol.options(__doc__, steps=300, rounds=9)
    steps, rounds = (100, 3) if args.quick else (args.steps, args.rounds)
    results = {"resnet8": measure("resnet8", steps, rounds)}
    protocol.finish("quantization_aware_step", results, args, steps=steps)


if __name__ == "__main__":
    main()
