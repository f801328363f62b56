"""Times pairs of `.tflite` files in LiteRT; a process of its own, which may lack AVX.

Usage: xnnpack_worker.py DENSE SPARSE. Prints one line of JSON: the seconds per run of
both in each round, and how far the sparse file's outputs are from those of LiteRT's
built-in kernels. TensorFlow would abort without AVX: nothing here imports it.
"""

import json
import sys
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

ROUNDS = 21
SECONDS = 0.05  # Of each file in each round, at least.


def load(path: str, resolver: OpResolverType = OpResolverType.AUTO) -> Interpreter:
    interpreter = Interpreter(
        model_path=path, num_threads=1, experimental_op_resolver_type=resolver
    )
    interpreter.allocate_tensors()
    (details,) = interpreter.get_input_details()
    values = np.random.default_rng(0).random(details["shape"], dtype="float32")
    interpreter.set_tensor(details["index"], values)
    interpreter.invoke()
    return interpreter


def output(interpreter: Interpreter) -> np.ndarray:
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def main(dense: str, sparse: str) -> None:
    built_in = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    right, loaded = output(load(sparse, built_in)), [load(dense), load(sparse)]
    error = float(np.abs(output(loaded[1]) - right).max() / np.abs(right).max())
    times: list[list[float]] = [[], []]
    for index in range(ROUNDS):
        for which in (0, 1) if index % 2 else (1, 0):
            count, start = 0, time.process_time()
            while (elapsed := time.process_time() - start) < SECONDS:
                loaded[which].invoke()
                count += 1
            times[which].append(elapsed / count)
    print(json.dumps({"times": times, "error": error}))


if __name__ == "__main__":
    main(*sys.argv[1:])
