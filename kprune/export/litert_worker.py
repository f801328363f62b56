"""Runs one `.tflite` file in LiteRT once, in a process of its own.

This module changes when LiteRT's Python interface does. It is started as a script by
`kprune.export.litert` and must not import kprune or TensorFlow: it has to start within
a moment, and may crash or hang without harm, as LiteRT does on some damaged files.

Usage: litert_worker.py FILE
"""

import sys


def main(path: str) -> None:
    """Loads a file and runs it once, on whatever its inputs hold."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.invoke()


if __name__ == "__main__":
    main(sys.argv[1])
