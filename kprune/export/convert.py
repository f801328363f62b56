"""From a Keras model to the bytes of a `.tflite` file.

This module changes when Keras traces models, or the converter fails, in another way.

The way through `keras.export.ExportArchive` with a batch of 1 and no TensorFlow
("Flex") operators is the one whose files LiteRT and TensorFlow Lite Micro both load
(measured with TensorFlow 2.21.0 and Keras 3.15.1: a free batch dimension adds SHAPE,
PACK and GATHER operators that microcontrollers lack, and fails for recurrent layers).
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kprune.export import converter, int4, tflite
from kprune.export.files import temporary_folder
from kprune.export.interface import Interface
from kprune.export.quiet import captured_output, last_lines
from kprune.export.samples import Samples
from kprune.export.targets import NEEDS_DATA
from kprune.export.trained import is_trained, traced_for


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
        samples: What to calibrate on; needed by "int8" and "int16x8" only, unless the
            model was trained for int8.
        integer_io: Whether a file with integer activations also has integer inputs and
            outputs.
        sparse: Whether weights of which at least three in ten are zero are stored
            without their zeros. LiteRT alone can load them, and of "none" and
            "float16" only.

    Raises:
        ValueError: If the converter fails, crashes or hangs; names the operators and
            layers that it blames.
    """
    with temporary_folder() as folder:
        converter.start()  # It gets ready while the model is traced.
        failure: Exception | None = None
        with captured_output() as printed:
            try:
                with traced_for(quantization):
                    _trace(interface, model, folder / "saved_model")
            # Whatever it raises (its own error types, RuntimeError, TypeError ...) is
            # told below in one form.
            except Exception as error:
                failure = error
        if failure is not None:
            words = str(failure) or type(failure).__name__
            raise _refused(words, printed.text, model, quantization) from failure
        settings = {
            "quantization": "none" if quantization == "int4" else quantization,
            "trained": is_trained(model),
            "inputs": {item.name: item.dtype for item in interface.inputs},
            "integer_io": integer_io,
            "sparse": sparse,
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        if quantization in NEEDS_DATA and samples is not None:
            np.savez(folder / "samples.npz", *samples.arrays)
        outcome = converter.run(folder)
        if outcome.kind == "failed":
            raise _refused(
                outcome.words, outcome.printed, model, quantization
            ) from RuntimeError(outcome.words)
        if outcome.kind != "done":
            loops = _loops(folder / "saved_model", model)
            raise _stopped(outcome, loops, model, quantization)
        data = (folder / "model.tflite").read_bytes()
    if quantization == "int4":
        data = int4.quantize(data)
    flex = [name for name in tflite.parse(data).operator_counts() if "Flex" in name]
    if flex:
        raise ValueError(
            f"The converted model needs the TensorFlow operators {flex}, which neither "
            "LiteRT nor TensorFlow Lite Micro have. Replace the layers that use them."
        )
    return data


def _trace(interface: Interface, model: keras.Model, folder: Path) -> None:
    """Writes a SavedModel; only the user's own process has the variables."""
    import tensorflow as tf

    specs = {
        item.name: tf.TensorSpec((1, *item.shape), item.dtype, name=item.name)
        for item in interface.inputs
    }

    def serve(inputs: dict[str, Any]) -> dict[str, Any]:
        flat = [inputs[item.name] for item in interface.inputs]
        outputs = interface.call(flat)
        return dict(zip(interface.output_names, outputs, strict=True))

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, input_signature=[specs])
    archive.write_out(folder, verbose=False)


def _loops(folder: Path, model: keras.Model) -> list[str]:
    """Returns the loops in a SavedModel, each with the layer that it belongs to."""
    from tensorflow.core.protobuf import saved_model_pb2

    content = (folder / "saved_model.pb").read_bytes()
    graph = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0].graph_def
    names = {
        node.name
        for function in graph.library.function
        for node in function.node_def
        if node.op in ("While", "StatelessWhile")
    }
    found = []
    for name in sorted(names):
        # Of nested layers the innermost is the one that loops.
        layers = [(match.start(), layer) for layer, match in _mentioned(name, model)]
        found.append(f"layer {max(layers)[1]!r}" if layers else f"operation {name!r}")
    return list(dict.fromkeys(found))


def _mentioned(text: str, model: keras.Model) -> Iterator[tuple[str, re.Match[str]]]:
    """Yields the names of layers whose operations a text names, and where."""
    for layer in model._flatten_layers(include_self=False):
        # Operations are called "scope/layer_1/operation".
        for match in re.finditer(rf"(^|[/\"]){re.escape(layer.name)}(_\d+)?/", text):
            yield layer.name, match


def _stopped(
    outcome: converter.Outcome, loops: list[str], model: keras.Model, quantization: str
) -> ValueError:
    """Returns a crash or a hang in the user's words, with the cure."""
    if outcome.kind == "crashed":
        said = f"crashed with {outcome.words}"
    else:
        said = f"did not finish within {converter.STEP_SECONDS:,.4g} s"
    message = (
        f"TensorFlow's converter {said} while it was {outcome.step} (model "
        f"{model.name!r}, quantization={quantization!r}). It ran in a process of its "
        "own; nothing was written. "
    )
    if loops:
        message += (
            f"The model has loops, which it crashes on: {', '.join(loops)}. Build "
            "recurrent layers with unroll=True: they take the same weights. Write "
            "while_loop, fori_loop, scan and map of keras.ops out, one step after the "
            "other. "
        )
    elif outcome.kind == "hung":
        message += (
            "Where a model is that large: `from kprune.export import converter` and "
            "raise converter.STEP_SECONDS. "
        )
    if outcome.words.startswith("signal 9 "):
        message += "The system ends processes so that take too much memory. "
    if quantization in NEEDS_DATA:
        message += "Without calibration: quantization='none', or 'dynamic' on android."
    if tail := last_lines(outcome.printed, 15):
        message += f"\nIts last words:\n{tail}"
    return ValueError(message.rstrip())


def _refused(
    words: str, printed: str, model: keras.Model, quantization: str
) -> ValueError:
    """Returns the converter's failure in the user's words, its own at the end."""
    text = f"{words}\n{printed}"
    operators = sorted(set(re.findall(r"\btf\.([A-Z]\w+)", text)))
    layers = list(dict.fromkeys(name for name, _ in _mentioned(text, model)))
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
        for line in words.splitlines()
        if line.strip() and ": note: " not in line
    ]
    own_words = "\n  ".join(line[:300] for line in lines[:8])
    return ValueError(
        f"TensorFlow's converter cannot convert model {model.name!r} with "
        f"quantization={quantization!r}.{blamed} {cure}.\n"
        f"The converter's own words:\n  {own_words}"
    )
