import re

import keras
import nets
import numpy as np
import pytest
from files import in_tflm

from kprune.export import export, mixed, tflite
from kprune.export.ends import of_file
from kprune.export.interface import of_model
from kprune.export.litert import Session
from kprune.export.samples import collect

L = keras.layers

CONV, DEPTHWISE, POINTWISE, FLATTEN, HEAD = range(5)


@pytest.fixture(scope="module")
def made():
    """The network, its float32 file, and its quantised ones by kind and ends."""
    keras.utils.set_random_seed(0)
    model, data = nets.cnn(), nets.images()
    files = {
        (kind, ends): nets.converted(model, kind, data, integer_io=ends)
        for kind in ("int8", "int16x8")
        for ends in (False, True)
    }
    return model, nets.converted(model, "none"), files


def error(model, data):
    interface = of_model(model)
    samples = collect(nets.images(), interface.inputs, 24)
    (found,) = Session(data, of_file(data, interface)).run(samples)
    right = np.asarray(model(nets.images()))
    return np.linalg.norm(found - right) / np.linalg.norm(right)


def names(data):
    return [operator.name for operator in tflite.parse(data).subgraphs[0].operators]


def test_a_layer_between_others_is_cast_before_and_after(made):
    _, plain, files = made
    file = mixed.with_float(files["int8", True], plain, [DEPTHWISE])
    assert names(file) == [
        "CONV_2D",
        "DEQUANTIZE",
        "DEPTHWISE_CONV_2D",
        "QUANTIZE",
        "CONV_2D",
        "RESHAPE",
        "FULLY_CONNECTED",
    ]
    graph = tflite.parse(file).subgraphs[0]
    types = [graph.tensors[op.outputs[0]].type for op in graph.operators]
    assert types == ["INT8", "FLOAT32", "FLOAT32", *["INT8"] * 4]


def test_neighbours_and_ends_in_float32_are_not_cast(made):
    _, plain, files = made
    first = mixed.with_float(files["int8", False], plain, [CONV, DEPTHWISE])
    assert names(first)[:3] == ["CONV_2D", "DEPTHWISE_CONV_2D", "QUANTIZE"]
    last = mixed.with_float(files["int8", False], plain, [HEAD])
    assert names(last)[-2:] == ["DEQUANTIZE", "FULLY_CONNECTED"]


@pytest.mark.parametrize("kind", ["int8", "int16x8"])
def test_all_layers_in_float32_are_the_float32_file(made, kind):
    model, plain, files = made
    whole = mixed.with_float(files[kind, False], plain, range(5))
    assert names(whole) == names(plain)
    assert error(model, whole) == pytest.approx(error(model, plain))
    # Nothing of the integers is left in it, but entries of tables.
    assert len(whole) < len(plain) + 600


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("kind", ["int8", "int16x8"])
def test_more_float32_is_nearer_to_keras_with_any_ends(made, kind, ends):
    model, plain, files = made
    data = files[kind, ends]
    most = mixed.with_float(data, plain, [CONV, DEPTHWISE, POINTWISE, FLATTEN])
    # What the last layer makes is rounded still.
    assert error(model, most) < error(model, data)
    assert error(model, most) > error(model, plain)


@pytest.mark.parametrize("kind", ["int8", "int16x8"])
def test_tensorflow_lite_micro_runs_them(made, kind):
    model, plain, files = made
    data = files[kind, True]
    mixture = mixed.with_float(data, plain, [CONV, POINTWISE])
    interface = of_model(model)
    (end,), (out,) = (ends := of_file(mixture, interface)).inputs, ends.outputs
    images = nets.images(4)
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(mixture, arena_size=1 << 20)
    for image, right in zip(images, np.asarray(model(images)), strict=True):
        interpreter.set_input(end.quantize(image[None]), 0)
        interpreter.invoke()
        found = out.dequantize(interpreter.get_output(0))[0]
        assert np.linalg.norm(found - right) < 0.05 * np.linalg.norm(right)


def test_nothing_to_keep_is_the_file_itself(made):
    _, plain, files = made
    data = files["int8", False]
    assert mixed.with_float(data, plain, []) is data
    # Weights of less than 1024 elements are not quantised.
    assert mixed.with_float(plain, plain, range(5)) is plain


def test_files_of_different_models_are_refused(made):
    _, _, files = made
    other = nets.converted(keras.Sequential([L.Input((4,)), L.Dense(2)]), "none")
    with pytest.raises(ValueError, match="does not have the operators"):
        mixed.with_float(files["int8", False], other, [0])


@pytest.mark.parametrize(
    ("layers", "kept"),
    [
        ("conv", ("conv",)),
        (["*wise", "head"], ("depthwise", "pointwise", "head")),
        (L.Conv2D, ("conv", "pointwise")),
        (lambda layer: layer.name == "head", ("head",)),
        (["re_lu*"], ("conv",)),  # It is a part of it.
        (L.Layer, ("conv", "depthwise", "pointwise", "flatten", "head")),
        ((), ()),
    ],
)
def test_layers_are_chosen_as_for_pruning(made, tmp_path, layers, kept):
    model, _, _ = made
    before = [weight.numpy() for weight in model.weights]
    settings = {"float_layers": layers, "benchmark": False}
    report = export(
        model, tmp_path / "m.tflite", "android", "int8", nets.images(), **settings
    )
    # Keras numbers layers without a name by a counter of the process.
    numbers = {layer.name: re.sub(r"_\d+$", "", layer.name) for layer in model.layers}
    assert tuple(numbers[name] for name in report.float_layers) == kept
    graph = tflite.parse((tmp_path / "m.tflite").read_bytes()).subgraphs[0]
    floating = [
        operator.name
        for operator in graph.operators
        if operator.name not in ("QUANTIZE", "DEQUANTIZE")
        and graph.tensors[operator.outputs[0]].type == "FLOAT32"
    ]
    assert len(floating) == len(kept)
    assert {weight.sparsity for weight in report.weights} == {0.75}
    assert ("in float32: " in str(report)) == bool(kept)
    assert any("`float_layers`" in note for note in report.notes) == bool(kept)
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, new.numpy())


def test_a_layer_itself_is_one_too(made, tmp_path):
    model, _, _ = made
    head = model.get_layer("head")
    report = export(
        model, tmp_path / "m.tflite", "microcontroller", "int16x8", nets.images(),
        float_layers=head, benchmark=False, c_source=False, encode=True,
    )  # fmt: skip
    assert report.float_layers == ("head",)
    found = in_tflm((tmp_path / "m.tflite").read_bytes(), nets.images(1))
    assert found.dtype == np.int16


def test_layers_inside_of_layers_and_ends_have_names(tmp_path):
    block = keras.Sequential([L.Input((40,)), L.Dense(40, name="wide")], name="block")
    model = keras.Sequential(
        [L.Input((40,)), block, L.Dense(40, name="last"), L.Softmax(name="chances")]
    )
    x = np.random.default_rng(0).random((8, 40), dtype="float32")
    for named, kept in {
        "block": "block/wide",
        "block/wide": "block/wide",
        "wide": "block/wide",
        "chances": "chances",
    }.items():
        report = export(
            model, tmp_path / "m.tflite", "android", "dynamic", x,
            float_layers=named, benchmark=False,
        )  # fmt: skip
        assert report.float_layers == (kept,)


@pytest.mark.parametrize(
    ("settings", "error_type", "words"),
    [
        ({"float_layers": "haed"}, ValueError, "Did you mean 'head'"),
        ({"float_layers": L.Dense(3)}, ValueError, "is no layer of the model"),
        ({"float_layers": L.LSTM}, ValueError, "is no layer of the model"),
        (
            {"float_layers": 3},
            TypeError,
            "takes layers.*Received 3 of type .*int",
        ),
        ({"float_layers": "drop"}, ValueError, "'drop' has no operator in the file"),
        (
            {"float_layers": "head", "quantization": "float16"},
            ValueError,
            "everything computes in float32",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path, settings, error_type, words):
    layers = [L.Input((40,)), L.Dropout(0.5, name="drop"), L.Dense(3, name="head")]
    settings = {"quantization": "dynamic", "benchmark": False} | settings
    with pytest.raises(error_type, match=words):
        export(keras.Sequential(layers), tmp_path / "m.tflite", "android", **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_is_an_output_twice_and_used_inside(tmp_path):
    inputs = L.Input((16,))
    middle = L.Dense(16, name="middle")(inputs)
    outputs = {"one": middle, "two": middle, "end": L.Dense(4, name="end")(middle)}
    model = keras.Model(inputs, outputs)
    data = np.random.default_rng(0).random((8, 16), dtype="float32")
    for target in ("android", "microcontroller"):
        report = export(
            model, tmp_path / "m.tflite", target, "int8", data,
            float_layers="middle", benchmark=False, c_source=False,
        )  # fmt: skip
        assert report.float_layers == ("middle",)
        assert max(item.relative for item in report.differences) < 0.02
