"""Runs `.tflite` files in LiteRT and says what their zeros do: a script of its own.

Usage: emulated_litert.py FOLDER. For each NAME.sparse.tflite there it prints a line of
JSON: "fails", or how far outputs are from those of the built-in kernels, and whether
they have the very bits of those of a NAME.dense.tflite beside it, as they have if the
same kernels ran.
"""

import json
import pathlib
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

PLAIN = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


def outputs(path, resolver=OpResolverType.AUTO):
    interpreter = Interpreter(
        model_path=str(path), num_threads=1, experimental_op_resolver_type=resolver
    )
    interpreter.allocate_tensors()
    generator = np.random.default_rng(0)
    for details in interpreter.get_input_details():
        values = generator.normal(size=details["shape"]).astype(np.float32)
        interpreter.set_tensor(details["index"], values)
    interpreter.invoke()
    return [
        interpreter.get_tensor(details["index"]).copy()
        for details in interpreter.get_output_details()
    ]


def main(folder):
    for sparse in sorted(pathlib.Path(folder).glob("*.sparse.tflite")):
        name = sparse.name.removesuffix(".sparse.tflite")
        dense = sparse.with_name(f"{name}.dense.tflite")
        right = outputs(sparse, PLAIN)
        try:
            found = outputs(sparse)
        except RuntimeError as error:
            print(json.dumps({"name": name, "fails": str(error)}), flush=True)
            continue
        same = dense.exists() and all(map(np.array_equal, outputs(dense), found))
        error = max(
            float(np.abs(a - b).max() / np.abs(a).max())
            for a, b in zip(right, found, strict=True)
        )
        print(json.dumps({"name": name, "same_bits": same, "error": error}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
