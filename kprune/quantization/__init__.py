"""Training a model to be an int8 file: fake quantisation in its graph."""

from kprune.quantization.aware import quantize_aware
from kprune.quantization.callback import QuantizationCallback

__all__ = ["QuantizationCallback", "quantize_aware"]
