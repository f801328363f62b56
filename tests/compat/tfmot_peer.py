"""The real tfmot, in a process of its own: it turns the whole process to Keras 2.

Reads one case per line, as JSON, and answers with a line.
"""

import json
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# What libraries print must not come between the answers.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import numpy as np  # noqa: E402
import tensorflow_model_optimization as tfmot  # noqa: E402
from cases import Case  # noqa: E402
from tensorflow_model_optimization.python.core.keras.compat import keras  # noqa: E402

sparsity = tfmot.sparsity.keras


def wrapper_of(case):
    layer = {"Dense": keras.layers.Dense, "Conv2D": keras.layers.Conv2D}[case.layer]
    return sparsity.prune_low_magnitude(
        layer(*case.arguments, use_bias=False),
        getattr(sparsity, case.schedule[0])(*case.schedule[1]),
        block_size=tuple(case.block),
        block_pooling_type=case.pooling,
        sparsity_m_by_n=case.m_by_n and tuple(case.m_by_n),
    )


def masks(case):
    """Returns mask and threshold after each step, with weights that are given."""
    wrapper = wrapper_of(case)
    model = keras.Sequential([keras.Input(case.input_shape), wrapper])
    callback = sparsity.UpdatePruningStep()
    callback.set_model(model)
    callback.on_train_begin()
    x = np.zeros((1, *case.input_shape), "float32")
    kernel = wrapper.layer.kernel
    _, mask, threshold = wrapper.pruning_vars[0]
    answer = []
    for step in range(1, case.steps + 1):
        kernel.assign(case.weights(step) * mask.numpy())
        model(x, training=True)
        answer.append([mask.numpy().ravel().tolist(), float(threshold.numpy())])
    return answer


def fitted(case):
    """Returns the kernel after a fit that moves no weight."""
    wrapper = wrapper_of(case)
    model = keras.Sequential([keras.Input(case.input_shape), wrapper])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    wrapper.layer.kernel.assign(case.weights(1))
    x = np.zeros((case.steps, *case.input_shape), "float32")
    y = np.zeros((case.steps, *model.output_shape[1:]), "float32")
    callback = sparsity.UpdatePruningStep()
    model.fit(x, y, batch_size=1, verbose=0, callbacks=[callback])
    return sparsity.strip_pruning(model).get_weights()[0].ravel().tolist()


def schedule(name, arguments, steps):
    """Returns what a schedule says of some steps."""
    asked = getattr(sparsity, name)(*arguments)
    answers = [asked(np.int64(step)) for step in steps]
    return [[bool(due), float(amount)] for due, amount in answers]


def names():
    """Returns the public names, and the arguments of each."""
    import inspect

    return {
        name: [str(p) for p in inspect.signature(value).parameters.values()]
        for name, value in vars(sparsity).items()
        if not name.startswith("_") and callable(value)
    }


for line in sys.stdin:
    function, arguments = json.loads(line)
    if function in ("masks", "fitted"):
        arguments = [Case(**arguments[0])]
    print(json.dumps(globals()[function](*arguments)), file=ANSWERS, flush=True)
