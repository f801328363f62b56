"""Every model of the tests' zoos as a file: it computes rightly, or is refused by name.

Each file is loaded afresh here, without kprune's own sessions, and compared with Keras
on inputs that the export has not seen. All quantisations take some minutes on one
core; without KPRUNE_ALL_APPLICATIONS=1 only int8 for microcontrollers is tested.
"""

import os

import keras
import layer_kinds
import numpy as np
import pytest
from coupling import zoo

from kprune.export import export, tflite

MICRO = "microcontroller"

MODELS = {
    **{name: (zoo.built, name) for name in zoo.FACTORIES},
    **{f"layer_{kind}": (layer_kinds.built, kind) for kind in layer_kinds.KINDS},
}

# How far outputs may be from Keras's, relative to their size, on fresh inputs.
LIMITS = {"none": 1e-4, "dynamic": 0.02, "int8": 0.1}
LOOSER = {
    ("mobilenet", "dynamic"): 0.3,  # Random weights of 27 layers quantise badly.
    # Fresh inputs go beyond the calibrated range.
    ("siamese", "int8"): 0.2,
    ("autoencoder", "int8"): 0.2,
}

# What is refused, and why; everything else must come out, and right.
DRIFTS = "differs from Keras by .* of its size"
NO_EMBEDDING = "no operator for: SELECT .*Embedding"
REFUSED = {
    ("vit", MICRO, "int8"): NO_EMBEDDING,
    ("causal", MICRO, "int8"): NO_EMBEDDING,
    ("lstm", MICRO, "int8"): NO_EMBEDDING,
    ("causal", "android", "int8"): DRIFTS,
    ("mobilenet", "android", "int8"): DRIFTS,
    ("mobilenet", MICRO, "int8"): DRIFTS,
}

ALWAYS = [(MICRO, "int8")]
REST = [("android", "none"), ("android", "dynamic"), ("android", "int8")]
TESTED = ALWAYS + (REST if os.environ.get("KPRUNE_ALL_APPLICATIONS") else [])


def inputs(model, count, seed):
    """Returns an array for each input, by the names of the model's inputs."""
    rng = np.random.default_rng(seed)
    found = {}
    for tensor in model.inputs:
        shape = (count, *tensor.shape[1:])
        if "int" in tensor.dtype:
            found[tensor.name] = rng.integers(0, 16, shape).astype(tensor.dtype)
        else:
            found[tensor.name] = rng.random(shape).astype(tensor.dtype)
    return found


def as_stored(values, scale, zero_point, dtype):
    if not scale:
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    steps = np.rint(values / scale) + zero_point
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def as_meant(values, scale, zero_point):
    return (values.astype("float64") - zero_point) * (scale or 1)


def in_litert(path, rows):
    """Runs rows of arrays in the order of the signature's inputs; outputs by name."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(path)).get_signature_runner()
    ends = runner.get_input_details(), runner.get_output_details()
    collected = []
    for row in rows:
        stored = {
            name: as_stored(row[name], *details["quantization"], details["dtype"])
            for name, details in ends[0].items()
        }
        collected.append(runner(**stored))
    return {
        name: np.concatenate(
            [as_meant(row[name], *details["quantization"]) for row in collected]
        )
        for name, details in ends[1].items()
    }


def in_tflm(path, rows):
    from tflite_micro.python.tflite_micro import runtime

    file = tflite.parse(path.read_bytes())
    graph, (signature,) = file.subgraphs[0], file.signatures
    interpreter = runtime.Interpreter.from_file(str(path), arena_size=8 << 20)
    collected = {name: [] for name in signature.outputs}
    for row in rows:
        for name, index in signature.inputs.items():
            tensor, place = graph.tensors[index], graph.inputs.index(index)
            dtype = interpreter.get_input_details(place)["dtype"]
            stored = as_stored(row[name], *scale_of(tensor), dtype)
            interpreter.set_input(stored, place)
        interpreter.invoke()
        for name, index in signature.outputs.items():
            found = interpreter.get_output(graph.outputs.index(index))
            collected[name].append(as_meant(found, *scale_of(graph.tensors[index])))
    return {name: np.concatenate(found) for name, found in collected.items()}


def scale_of(tensor):
    if not tensor.scale.size:
        return 0.0, 0
    return float(tensor.scale[0]), int(tensor.zero_point[0])


def error(model, names, found, given):
    """Returns the largest relative difference of an output from Keras's."""
    expected = keras.tree.flatten(model(given))
    assert len(expected) == len(found) == len(names)
    worst = 0.0
    for name, right in zip(names, expected, strict=True):
        right = keras.ops.convert_to_numpy(right).astype("float64")
        distance = np.linalg.norm(found[name].reshape(right.shape) - right)
        worst = max(worst, float(distance / np.linalg.norm(right)))
    return worst


@pytest.mark.slow
@pytest.mark.parametrize(("target", "quantization"), TESTED)
@pytest.mark.parametrize("name", MODELS)
def test_a_file_computes_rightly_or_is_refused(tmp_path, name, target, quantization):
    make, argument = MODELS[name]
    model = make(argument)
    path = tmp_path / "m.tflite"
    seen, fresh = inputs(model, 64, seed=0), inputs(model, 8, seed=1)
    settings = {"representative_data": seen, "benchmark": False, "c_source": False}
    refusal = REFUSED.get((name, target, quantization))
    if refusal is not None:
        with pytest.raises(ValueError, match=refusal):
            export(model, path, target, quantization, **settings)
        assert os.listdir(tmp_path) == []
        return
    report = export(model, path, target, quantization, **settings)
    given = list(fresh.values())
    if len(given) == 1:
        (given,) = given
    elif isinstance(model.input, dict):
        given = fresh
    flat = dict(zip([n for n, _, _ in report.inputs], fresh.values(), strict=True))
    rows = [{n: x[i : i + 1] for n, x in flat.items()} for i in range(8)]
    names = [n for n, _, _ in report.outputs]
    limit = LOOSER.get((name, quantization), LIMITS[quantization])
    for run in (in_litert, in_tflm) if target == MICRO else (in_litert,):
        assert error(model, names, run(path, rows), given) < limit


def test_a_wrong_file_would_be_noticed():
    model = layer_kinds.built("dense")
    given = inputs(model, 4, seed=1)
    (values,) = given.values()
    right = {"output": keras.ops.convert_to_numpy(model(values))}
    assert error(model, ["output"], right, values) == 0
    wrong = {"output": np.roll(right["output"], 1, axis=1)}
    assert error(model, ["output"], wrong, values) > max(LIMITS.values())
