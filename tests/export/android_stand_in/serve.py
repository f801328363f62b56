"""LiteRT behind the stand-in of its Java interface: questions in, answers out."""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def main(path, threads):
    interpreter = Interpreter(model_path=path, num_threads=int(threads))
    inputs, outputs = {}, {}
    for line in sys.stdin:
        word, name, *rest = line.split()
        answer = ""
        if word == "input":
            details = interpreter.get_signature_runner(name).get_input_details()
            answer = np.prod(details[rest[0]]["shape"])
        elif word == "output":
            details = interpreter.get_signature_runner(name).get_output_details()
            answer = np.prod(details[rest[0]]["shape"])
        elif word == "set":
            inputs[name] = np.array(rest, "float32")
        elif word == "run":
            runner = interpreter.get_signature_runner(name)
            shapes = {k: v["shape"] for k, v in runner.get_input_details().items()}
            outputs = runner(**{k: v.reshape(shapes[k]) for k, v in inputs.items()})
        else:
            answer = " ".join(map(str, outputs[name].reshape(-1)))
        print(answer, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
