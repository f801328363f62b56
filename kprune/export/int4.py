"""Weights in four bits, by ai-edge-quantizer: TensorFlow's converter has none.

This module changes when ai-edge-quantizer does.

Operators read the four-bit weights themselves, and quantise activations while they run.
The other forms that ai-edge-quantizer has lose here (measured with its 0.10 and
ai-edge-litert 2.3.0): in "weight only" files LiteRT unpacks the same weights in each
run, so that convolutions take five times as long as in float32; where weights are in
blocks, a block of zeros gets the scale 0, with which XNNPACK does not load the file
(https://github.com/google-ai-edge/ai-edge-quantizer/issues/678); and rotated weights
(Hadamard) are zero no more.
"""

import importlib.util

from kprune.export.quiet import captured_output

# What it has four-bit weights for, and LiteRT kernels that read them; other operators
# that it knows, such as depthwise convolutions, get int8 weights.
_OPERATORS = ("CONV_2D", "FULLY_CONNECTED")


def check_installed() -> None:
    """Raises a `ValueError` with the cure if ai-edge-quantizer is not installed."""
    if importlib.util.find_spec("ai_edge_quantizer") is None:
        raise ValueError(
            "quantization='int4' needs ai-edge-quantizer, which is not installed. "
            "Install it: pip install 'kprune[int4]'"
        )


def quantize(data: bytes) -> bytes:
    """Returns a float32 file with weights of int4, and of int8 where there is no int4.

    Each output channel has a scale, its largest absolute value over 7, and the zero
    point 0: zeros stay zeros. A channel of zeros has a scale above 0, and only zeros.

    Args:
        data: A float32 `.tflite` file.

    Raises:
        ValueError: If ai-edge-quantizer fails.
    """
    from ai_edge_quantizer import quantizer, recipe

    eight, four = recipe.dynamic_wi8_afp32(), recipe.dynamic_wi4_afp32()
    rules = [
        *eight,
        *({**rule, "operation": name} for rule in four for name in _OPERATORS),
    ]
    failure: Exception | None = None
    with captured_output():
        try:
            made = quantizer.Quantizer(bytearray(data))
            made.load_quantization_recipe(rules)
            found = made.quantize().quantized_model
        except Exception as error:  # It raises errors of any type.
            failure = error
    if failure is not None:
        raise ValueError(
            f"ai-edge-quantizer fails on the model: {failure}. Use "
            "quantization='dynamic', whose weights are int8."
        ) from failure
    return bytes(found)
