"""What training for int8 adds to a training step in kprune.

    python -m benchmarks.quantization_aware_step \
        --out benchmarks/results/quantization_aware_step.json

Trains ResNet-8 and a network of depthwise separable convolutions twice, in float32 and
as `kprune.quantize_aware` makes it, in short turns, and compares their CPU time.
About ten minutes on two cores.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from typing import Any  # noqa: E402

import keras  # noqa: E402

import kprune  # noqa: E402
from benchmarks import step_timing  # noqa: E402


def aware(model: Any, data: Any, steps: range) -> tuple[Any, list[Any]]:
    """Returns the model that rounds; it takes no callback."""
    return kprune.quantize_aware(model), []


def main() -> None:
    step_timing.int8_main(keras, "quantization_aware_step", __doc__, aware)


if __name__ == "__main__":
    main()
