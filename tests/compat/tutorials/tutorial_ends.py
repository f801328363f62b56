"""What the tutorials do with a model at their ends: convert, zip and run files."""

import os
import zipfile

import numpy as np
import tensorflow as tf


def convert(model, *optimizations):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = list(optimizations)
    return converter.convert()


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)
    return path


def zipped_size(path):
    with zipfile.ZipFile("file.zip", "w", compression=zipfile.ZIP_DEFLATED) as file:
        file.write(path)
    return os.path.getsize("file.zip")


def interpreter_for(content):
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    return interpreter


def evaluate(content, images, labels):
    """Returns the accuracy of a TFLite file, an image at a time."""
    interpreter = interpreter_for(content)
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]
    digits = []
    for image in images:
        interpreter.set_tensor(source, np.expand_dims(image, 0).astype(np.float32))
        interpreter.invoke()
        digits.append(np.argmax(interpreter.tensor(target)()[0]))
    return float(np.mean(np.array(digits) == labels))


def zeros(model):
    """Returns the share of zeros in each kernel."""
    names = [w.name.split("/")[-1].split(":")[0] for w in model.weights]
    shares = [float(np.mean(np.array(w) == 0)) for w in model.get_weights()]
    return [s for n, s in zip(names, shares, strict=True) if n == "kernel"]
