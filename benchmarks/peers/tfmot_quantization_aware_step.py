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

from typing import Any  # noqa: E402

import tensorflow_model_optimization as tfmot  # noqa: E402
import tf_keras  # noqa: E402

from benchmarks import step_timing  # noqa: E402


def aware(model: Any, data: Any, steps: range) -> tuple[Any, list[Any]]:
    """Returns the model that rounds; it takes no callback."""
    annotated = tfmot.quantization.keras.quantize_annotate_model(model)
    scheme = tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme
    return tfmot.quantization.keras.quantize_apply(annotated, scheme()), []


def main() -> None:
    step_timing.int8_main(tf_keras, "tfmot_quantization_aware_step", __doc__, aware)


if __name__ == "__main__":
    main()
