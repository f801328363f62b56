"""What training for int8 adds to a step in tensorflow-model-optimization.

    python -m benchmarks.peers.tfmot_quantization_aware_step \
        --out benchmarks/results/tfmot_quantization_aware_step.json

The protocol of `benchmarks/quantization_aware_step.py` on tf_keras, with the scheme
that keeps zeros. Needs an environment with the packages of kprune's extra `tfmot`; not
kprune itself.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import tensorflow_model_optimization as tfmot  # noqa: E402
import tf_keras  # noqa: E402

from benchmarks import networks, protocol, step_timing  # noqa: E402


def measure(name: str, steps: int, rounds: int) -> dict:
    """Returns the ratio int8 / float32 of one network."""

    def lane(aware: bool) -> step_timing.Lane:
        tf_keras.utils.set_random_seed(0)
        model = networks.NETWORKS[name](tf_keras)
        data = networks.random_data(model)
        if aware:
            annotated = tfmot.quantization.keras.quantize_annotate_model(model)
            scheme = tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme
            model = tfmot.quantization.keras.quantize_apply(annotated, scheme())
        model.compile("adam", "sparse_categorical_crossentropy")
        return step_timing.Lane(tf_keras, model, data, steps * (rounds + 1), [])

    lanes = {"float32": lane(False), "int8": lane(True)}
    times = step_timing.compare(lanes, steps, rounds)
    return {**protocol.ratio(times["int8"], times["float32"]), "milliseconds": times}


def main() -> None:
    args = protocol.options(__doc__, steps=300, rounds=9)
    steps, rounds = (100, 3) if args.quick else (args.steps, args.rounds)
    results = {"resnet8": measure("resnet8", steps, rounds)}
    protocol.finish("tfmot_quantization_aware_step", results, args, steps=steps)


if __name__ == "__main__":
    main()
