import json

import keras
import nets
import numpy as np
import pytest
from files import edited, with_sparsity, without_signatures

import kprune
from kprune.export import bench as module
from kprune.export.bench import bench
from kprune.export.encoding import encode
from kprune.export.ends import of_file
from kprune.export.vela import OPERATOR
from kprune.report import FileSize

L = keras.layers
QUICK = 0.05


@pytest.fixture
def paths(cnn_files, tmp_path):
    """The files of the small network, and one of it with other weights."""
    contents = {
        "float": cnn_files["none"],
        "int8": cnn_files["int8"],
        "other": with_sparsity(cnn_files["int8"], 0.9),
        "nameless": without_signatures(cnn_files["int8"]),
        "encoded": encode(with_sparsity(cnn_files["int8"], 0.9)),
    }
    found = {}
    for name, content in contents.items():
        found[name] = tmp_path / f"{name}.tflite"
        found[name].write_bytes(content)
    return found


def test_a_file_alone(paths):
    report = bench(paths["int8"], seconds=QUICK)
    assert report.baseline is report.latency is None
    assert report.differences == ()
    assert report.runtime == "LiteRT, 1 thread"
    assert report.reason.startswith("by default")
    assert report.file.size == FileSize.of(paths["int8"].read_bytes())
    assert report.file.arena is None
    timing = report.file.timing
    assert timing.rounds >= 5
    assert 0 < timing.low <= timing.milliseconds <= timing.high
    assert report.inputs == (("image", (1, 8, 8, 1), "int8"),)
    assert report.ran_on == "32 random inputs"
    text = str(report)
    assert "give a baseline" in text and "--device android" in text
    assert "speed" not in text and "difference" not in text


@pytest.mark.parametrize("runtime", ["litert", "tflm"])
def test_a_file_beside_itself_and_beside_another(paths, runtime):
    same = bench(paths["int8"], paths["int8"], seconds=QUICK, runtime=runtime)
    (difference,) = same.differences
    assert difference.max_abs == 0.0 and difference.samples == 32
    assert difference.same_top == 1.0
    assert any("same bytes" in note for note in same.notes)
    assert same.reason == "as asked for"
    other = bench(paths["other"], paths["int8"], seconds=QUICK, runtime=runtime)
    (difference,) = other.differences
    assert difference.max_abs > difference.step > 0
    assert other.latency.rounds == other.file.timing.rounds >= 5
    assert other.latency.baseline == other.baseline.path == str(paths["int8"])
    assert not any("same bytes" in note for note in other.notes)
    if runtime == "tflm":
        assert other.file.arena == other.baseline.arena == same.file.arena
        assert other.file.arena.bytes > other.file.arena.head > 0


def test_the_ratio_is_the_median_over_rounds(paths, monkeypatch):
    monkeypatch.setattr(
        module,
        "times",
        lambda sessions, row, seconds: [[2e-3, 6e-3, 8e-3], [1e-3, 2e-3, 2e-3]],
    )
    report = bench(paths["int8"], paths["float"])
    assert (report.latency.ratio, report.latency.low, report.latency.high) == (
        pytest.approx((3.0, 2.5, 3.5))
    )
    assert report.latency.rounds == 3
    assert report.baseline.timing.milliseconds == pytest.approx(6.0)
    assert report.file.timing.milliseconds == pytest.approx(2.0)
    assert "speed    3.000x" in str(report)


def test_both_sides_get_what_the_quantised_input_can_store(paths):
    # In [0, 1) or beyond, the float file and the int8 file must see the same.
    report = bench(paths["int8"], paths["float"], seconds=QUICK)
    (difference,) = report.differences
    assert 0 < difference.relative < 0.2
    mirrored = bench(paths["float"], paths["int8"], seconds=QUICK)
    assert mirrored.differences[0].max_abs == pytest.approx(difference.max_abs)
    (samples,) = module._samples(
        [module._load("file", paths[name]) for name in ("float", "int8")], None, 500
    ).arrays
    (end,) = of_file(paths["int8"].read_bytes()).inputs
    low, high = end.dequantize(np.array([-128, 127]))
    assert low <= samples.min() < low + 0.1 * (high - low)
    assert high >= samples.max() > high - 0.1 * (high - low)


def test_data_of_ones_own(paths):
    report = bench(paths["int8"], paths["float"], nets.images(9), seconds=QUICK)
    assert report.ran_on == "9 samples of representative_data"
    assert report.differences[0].samples == 9
    report = bench(
        paths["int8"], None, {"image": nets.images(9)}, num_samples=4, seconds=QUICK
    )
    assert report.ran_on == "4 samples of representative_data"


def test_a_file_without_signatures_goes_by_the_order_of_its_inputs(paths):
    report = bench(paths["nameless"], paths["int8"], seconds=QUICK)
    assert report.differences[0].max_abs == 0.0
    assert report.inputs[0][1:] == ((1, 8, 8, 1), "int8")
    report = bench(paths["nameless"], seconds=QUICK, runtime="tflm")
    assert report.file.timing.rounds >= 5


def test_several_inputs_and_outputs_go_by_their_names(tmp_path):
    model, data = nets.two_inputs(), nets.two_inputs_data()
    first, second = tmp_path / "int8.tflite", tmp_path / "float.tflite"
    first.write_bytes(nets.converted(model, "int8", data, integer_io=True))
    turned = {
        "facts": model.input["facts"],
        "pixels": model.input["pixels"],
    }
    second.write_bytes(nets.converted(keras.Model(turned, model.output), "none"))
    for runtime in ("litert", "tflm"):
        report = bench(first, second, data, seconds=QUICK, runtime=runtime)
        assert {item.output for item in report.differences} == {"price", "kind"}
        assert all(item.relative < 0.1 for item in report.differences)


def test_encoded_weights_run_where_they_can_be_decoded(paths):
    report = bench(paths["encoded"], paths["other"], seconds=QUICK)
    assert report.runtime.startswith("TensorFlow Lite Micro")
    assert "decodes" in report.reason
    assert report.differences[0].max_abs == 0.0
    assert report.file.size.raw < report.baseline.size.raw
    with pytest.raises(ValueError, match="TFLM_DECODE.*Use runtime='tflm'"):
        bench(paths["encoded"], runtime="litert")
    with pytest.raises(ValueError, match="`baseline`.*Use runtime='tflm'"):
        bench(paths["other"], paths["encoded"], runtime="litert")


def test_a_free_batch_is_one_and_inputs_need_no_batch(tmp_path, cnn_files):
    def free(model):
        tensor = model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]]
        tensor.shapeSignature = [-1, *tensor.shape[1:]]

    path = tmp_path / "m.tflite"
    path.write_bytes(edited(cnn_files["none"], free))
    assert bench(path, seconds=QUICK).inputs[0][1] == (1, 8, 8, 1)

    # Ten numbers without a batch, as models of audio have them.
    plain = keras.Sequential([L.Input((10,)), L.ReLU()])

    def flat(model):
        for tensor in model.subgraphs[0].tensors:
            tensor.shape, tensor.shapeSignature = [10], None

    path.write_bytes(edited(nets.converted(plain, "none"), flat))
    for runtime in ("litert", "tflm"):
        report = bench(path, path, seconds=QUICK, runtime=runtime)
        assert report.inputs[0][1] == (10,)
        assert report.differences[0].max_abs == 0.0


def test_a_baseline_that_computes_something_else_is_told(paths, tmp_path):
    path = tmp_path / "wild.tflite"
    content = bytearray(paths["int8"].read_bytes())
    for tensor in module.tflite.parse(content).weights():
        if len(tensor.shape) > 1:
            tensor.values[:] = -tensor.values[::-1]
    path.write_bytes(content)
    report = bench(path, paths["int8"], seconds=QUICK)
    assert any("computes something else" in note for note in report.notes)


def test_values_that_are_not_finite_are_told_and_are_json(paths, tmp_path):
    path = tmp_path / "nan.tflite"
    content = bytearray(paths["float"].read_bytes())
    for tensor in module.tflite.parse(content).weights():
        tensor.values[:] = np.nan
    path.write_bytes(content)
    report = bench(path, paths["float"], seconds=QUICK)
    assert any("NaN" in note for note in report.notes)
    json.loads(report.to_json(), parse_constant=pytest.fail)


def test_json_has_everything(paths):
    report = bench(paths["int8"], paths["float"], seconds=QUICK)
    values = json.loads(report.to_json())
    assert values["file"]["size"]["raw"] == report.file.size.raw
    assert values["latency"]["ratio"] == report.latency.ratio
    assert values["differences"][0]["max_steps"] == pytest.approx(
        report.differences[0].max_abs / report.differences[0].step
    )
    assert kprune.bench is bench and isinstance(report, kprune.BenchReport)


def test_files_that_cannot_be_read_are_refused(paths, tmp_path):
    corrupt = tmp_path / "corrupt.tflite"
    corrupt.write_bytes(paths["float"].read_bytes()[:-3000])
    text = tmp_path / "text.tflite"
    text.write_text("no model at all")
    for path, words in (
        (tmp_path / "no.tflite", "Cannot read `file`.*No such file"),
        (tmp_path, "Cannot read `file`.*Is a directory"),
        (corrupt, "`file`.*is damaged"),
        (text, "`file`.*Not a TFLite model"),
    ):
        with pytest.raises(ValueError, match=words):
            bench(path)
    with pytest.raises(ValueError, match="Cannot read `baseline`"):
        bench(paths["int8"], tmp_path / "no.tflite")
    with pytest.raises(TypeError, match="`file` must be the path.*Sequential"):
        bench(nets.cnn())


def test_a_baseline_of_another_interface_is_refused(paths, tmp_path):
    path = tmp_path / "other.tflite"
    inputs = L.Input((8, 8, 2), name="image")
    model = keras.Model(inputs, L.Dense(3)(L.Flatten()(inputs)))
    path.write_bytes(nets.converted(model, "none"))
    with pytest.raises(ValueError, match=r"has other inputs.*8, 8, 2.*8, 8, 1"):
        bench(paths["int8"], path)
    inputs = L.Input((8, 8, 1), name="image")
    model = keras.Model(inputs, L.Dense(4)(L.Flatten()(inputs)))
    path.write_bytes(nets.converted(model, "none"))
    with pytest.raises(ValueError, match=r"has other outputs.*\(1, 4\).*\(1, 3\)"):
        bench(paths["int8"], path)


def test_bad_arguments_are_refused(paths):
    file = paths["int8"]
    with pytest.raises(ValueError, match="Unknown `runtime`.*Did you mean 'tflm'"):
        bench(file, runtime="tfml")
    with pytest.raises(ValueError, match="`seconds` must be a positive number"):
        bench(file, seconds=0)
    with pytest.raises(TypeError, match="`seconds` must be a number"):
        bench(file, seconds="long")
    with pytest.raises(ValueError, match=r"does not fit input 'image'.*8, 8, 1"):
        bench(file, None, np.zeros((4, 9, 9, 1), "float32"))
    for data in (None, nets.images(3)):
        with pytest.raises(ValueError, match="`num_samples` must be at least 1"):
            bench(file, None, data, num_samples=0)


def test_files_that_nothing_here_can_time_are_refused(cnn_files, tmp_path):
    path = tmp_path / "m.tflite"

    def compiled(model):
        code = model.operatorCodes[0]
        code.builtinCode = 32  # CUSTOM
        code.deprecatedBuiltinCode = 32
        code.customCode = OPERATOR.removeprefix("CUSTOM:")

    path.write_bytes(edited(cnn_files["int8"], compiled))
    with pytest.raises(ValueError, match="Ethos-U.*Vela estimates"):
        bench(path)

    def free_height(model):
        graph = model.subgraphs[0]
        tensor = graph.tensors[graph.inputs[0]]
        tensor.shapeSignature = [1, -1, 8, 1]

    path.write_bytes(edited(cnn_files["int8"], free_height))
    with pytest.raises(ValueError, match=r"\(1, -1, 8, 1\).*fixed shape"):
        bench(path)

    def text(model):
        graph = model.subgraphs[0]
        graph.tensors[graph.inputs[0]].type = 5  # STRING

    path.write_bytes(edited(cnn_files["int8"], text))
    with pytest.raises(ValueError, match="'image' is of type STRING"):
        bench(path)

    def without_outputs(model):
        model.subgraphs[0].outputs = []

    path.write_bytes(edited(without_signatures(cnn_files["int8"]), without_outputs))
    with pytest.raises(ValueError, match="no inputs or no outputs"):
        bench(path)


def test_sparse_files_are_kept_from_the_runtime_that_misreads_them(tmp_path):
    import tensorflow as tf

    model = nets.zeroed(keras.Sequential([L.Input((64,)), L.Dense(64)]), 0.9)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    path = tmp_path / "sparse.tflite"
    path.write_bytes(converter.convert())
    assert bench(path, seconds=QUICK).file.timing.rounds >= 5
    with pytest.raises(ValueError, match="stored sparsely.*misreads"):
        bench(path, runtime="tflm")


def test_the_runtimes_own_refusals_name_the_file(tmp_path):
    model = keras.Sequential([L.Input((64,)), L.Dense(64)])
    path = tmp_path / "dynamic.tflite"
    path.write_bytes(nets.converted(model, "dynamic"))
    with pytest.raises(ValueError, match=r"`file`.*dynamic.tflite.*FULLY_CONNECTED"):
        bench(path, runtime="tflm")

    def unknown(model):
        code = model.operatorCodes[0]
        code.builtinCode = code.deprecatedBuiltinCode = 32
        code.customCode = "Mine"

    path.write_bytes(edited(path.read_bytes(), unknown))
    with pytest.raises(ValueError, match=r"`file`.*LiteRT cannot load.*Mine"):
        bench(path)


def test_tflm_not_installed_is_named_with_the_command(paths, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="runtime='tflm'.*kprune\\[micro\\]"):
        bench(paths["int8"], runtime="tflm")
    with pytest.raises(ValueError, match="encoded.tflite.*kprune\\[micro\\]"):
        bench(paths["encoded"])
