"""What a file of Keras 2 computes, said by tf_keras itself, in a process of its own.

tf_keras and Keras 3 do not share a process: `TF_USE_LEGACY_KERAS` decides for all of
it. Run as a script with the file, the inputs and where the outputs go; it imports
nothing of kprune. This module changes when tf_keras or tfmot load or run in another
way.
"""

import os
import sys
from typing import Any


def main(path: str, inputs: str, outputs: str) -> None:
    """Runs a model on inputs, and writes what it computes.

    Args:
        path: The file or folder of the model.
        inputs: A `.npz` file with an array per input, in the model's order.
        outputs: The `.npz` file to write: the outputs as they are, `as_is_0` and so
            on, and if there are wrappers of tfmot those without them, `stripped_0`.
    """
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import contextlib

    import numpy as np
    import tensorflow as tf
    import tf_keras

    scope: Any = contextlib.nullcontext()
    strip = None
    try:
        from tensorflow_model_optimization.sparsity import keras as sparsity

        scope, strip = sparsity.prune_scope(), sparsity.strip_pruning
    except ImportError:
        pass  # Not needed for a model without wrappers.
    with scope:
        model = tf_keras.models.load_model(path, compile=False)
    with np.load(inputs) as file:
        arrays = [file[f"arr_{i}"] for i in range(len(file.files))]
    given = model.input
    packed = arrays[0] if len(arrays) == 1 else arrays
    if isinstance(given, dict):
        packed = {
            key: arrays[[id(x) for x in model.inputs].index(id(tensor))]
            for key, tensor in given.items()
        }
    found: dict[str, Any] = {}

    def run(name: str, model: Any) -> None:
        for i, value in enumerate(tf.nest.flatten(model(packed, training=False))):
            found[f"{name}_{i}"] = np.asarray(value)

    run("as_is", model)
    if strip is not None:
        # The run has set to zero what masks prune, which strip_pruning itself omits.
        run("stripped", strip(model))
    np.savez(outputs, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
