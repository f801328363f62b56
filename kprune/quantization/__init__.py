"""Training a model to be an int8 file: fake quantisation in its graph."""

import kprune.quantization.channels  # noqa: F401  (registers a coupling rule)
from kprune.quantization.aware import quantize_aware
from kprune.quantization.callback import QuantizationCallback

__all__ = ["QuantizationCallback", "quantize_aware"]
