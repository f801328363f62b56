"""From a Keras model to the bytes of a `.tflite` file.

This module changes when TensorFlow's converter does.

The way through `keras.export.ExportArchive` with a batch of 1 and no TensorFlow
("Flex") operators is the one whose files LiteRT and TensorFlow Lite Micro both load
(measured with TensorFlow 2.21.0 and Keras 3.15.1: a free batch dimension adds SHAPE,
PACK and GATHER operators that microcontrollers lack, and fails for recurrent layers).
"""

import re
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import keras

from kprune.export import tflite
from kprune.export.interface import Interface
from kprune.export.quiet import captured_output
from kprune.export.samples import Samples
from kprune.export.targets import NEEDS_DATA


def check_backend() -> None:
    """Raises a `ValueError` unless Keras runs on TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Exporting needs Keras on TensorFlow, whose converter writes the file. "
            f"Received: backend {keras.backend.backend()!r}. Save the model as .keras "
            "and export it in a process started with KERAS_BACKEND=tensorflow."
        )


def convert(
    interface: Interface,
    model: keras.Model,
    quantization: str,
    samples: Samples | None,
    integer_io: bool,
    sparse: bool = False,
) -> bytes:
    """Returns the `.tflite` bytes of a model.

    Args:
        interface: The model's inputs, outputs and call.
        model: The model, which owns the variables. It is not changed.
        quantization: A key of `targets.QUANTIZATIONS`.
        samples: What to calibrate on; needed by "int8" and "int16x8" only.
        integer_io: Whether a file with integer activations also has integer inputs and
            outputs.
        sparse: Whether weights of which at least three in ten are zero are stored
            without their zeros. LiteRT alone can load them, and of "none" and
            "float16" only.

    Raises:
        ValueError: If the converter fails; names the operators and layers it blames.
    """
    import tensorflow as tf

    specs = {
        item.name: tf.TensorSpec((1, *item.shape), item.dtype, name=item.name)
        for item in interface.inputs
    }

    def serve(inputs: dict[str, Any]) -> dict[str, Any]:
        flat = [inputs[item.name] for item in interface.inputs]
        outputs = interface.call(flat)
        return dict(zip(interface.output_names, outputs, strict=True))

    failure: Exception | None = None
    with captured_output() as printed, tempfile.TemporaryDirectory() as folder:
        with warnings.catch_warnings():
            # The converter's calibrator itself uses the class it calls deprecated.
            warnings.filterwarnings(
                "ignore", message=r"(?s).*tf\.lite\.Interpreter is deprecated"
            )
            try:
                archive = keras.export.ExportArchive()
                archive.track(model)
                archive.add_endpoint("serve", serve, input_signature=[specs])
                archive.write_out(folder, verbose=False)
                converter = tf.lite.TFLiteConverter.from_saved_model(folder)
                _configure(converter, quantization, samples, interface, integer_io)
                if sparse:
                    converter.optimizations = [
                        *converter.optimizations,
                        tf.lite.Optimize.EXPERIMENTAL_SPARSITY,
                    ]
                data = converter.convert()
            # Whatever it raises (its own error types, RuntimeError, TypeError ...) is
            # told below in one form.
            except Exception as error:
                failure = error
    if failure is not None:
        raise _explained(failure, printed.text, model, quantization) from failure
    flex = [name for name in tflite.parse(data).operator_counts() if "Flex" in name]
    if flex:
        raise ValueError(
            f"The converted model needs the TensorFlow operators {flex}, which neither "
            "LiteRT nor TensorFlow Lite Micro have. Replace the layers that use them."
        )
    return data


def _configure(
    converter: Any,
    quantization: str,
    samples: Samples | None,
    interface: Interface,
    integer_io: bool,
) -> None:
    import tensorflow as tf

    if quantization == "none":
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization not in NEEDS_DATA or samples is None:
        return
    names = [item.name for item in interface.inputs]

    def representative_dataset() -> Iterator[dict[str, Any]]:
        for row in samples.rows():
            yield dict(zip(names, row, strict=True))

    converter.representative_dataset = representative_dataset
    ops = tf.lite.OpsSet
    integer, io_type = {
        "int8": (ops.TFLITE_BUILTINS_INT8, tf.int8),
        "int16x8": (
            ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
            tf.int16,
        ),
    }[quantization]
    # Second choice for operators without an integer kernel, instead of a failure; the
    # report names them.
    converter.target_spec.supported_ops = [integer, ops.TFLITE_BUILTINS]
    if integer_io:
        converter.inference_input_type = io_type
        converter.inference_output_type = io_type


def _explained(
    error: Exception, printed: str, model: keras.Model, quantization: str
) -> ValueError:
    """Returns the converter's failure in the user's words, its own at the end."""
    text = f"{error}\n{printed}"
    operators = sorted(set(re.findall(r"\btf\.([A-Z]\w+)", text)))
    layers = [
        layer.name
        for layer in model._flatten_layers(include_self=False)
        if re.search(rf"[/\"]{re.escape(layer.name)}(_\d+)?/", text)
    ]
    blamed = ""
    if operators:
        blamed += f" It blames the operators {', '.join(operators)}."
    if layers:
        blamed += f" They come from the layers {', '.join(map(repr, layers))}."
    cure = "Replace them by layers that TFLite has operators for"
    if quantization != "none":
        cure += ", or try quantization='none' to see whether quantising is the problem"
    lines = [
        line.strip()
        for line in str(error).splitlines()
        if line.strip() and ": note: " not in line
    ]
    own_words = "\n  ".join(line[:300] for line in lines[:8])
    return ValueError(
        f"TensorFlow's converter cannot convert model {model.name!r} with "
        f"quantization={quantization!r}.{blamed} {cure}.\n"
        f"The converter's own words:\n  {own_words or type(error).__name__}"
    )
