import json
import zipfile

import keras
import numpy as np
import pytest

from kprune.export import export
from kprune.inspection import inspect

L = keras.layers


def zeroed(model, sparsity=0.75):
    for variable in model.weights:
        if len(variable.shape) > 1:
            value = variable.numpy()
            flat = value.reshape(-1)
            flat[np.argsort(np.abs(flat))[: round(sparsity * flat.size)]] = 0
            variable.assign(value)
    return model


def network():
    return zeroed(
        keras.Sequential(
            [
                L.Input((8, 8, 2)),
                L.Conv2D(8, 3, name="conv"),
                L.DepthwiseConv2D(3, name="depthwise"),
                L.Conv2DTranspose(4, 2, strides=2, name="up"),
                L.Flatten(),
                L.Dense(16, name="hidden"),
            ],
            name="network",
        )
    )


MACS = 36 * 144 + 16 * 72 + 16 * 128 + 256 * 16


def test_a_model_is_described_weight_by_weight():
    model = network()
    found = inspect(model)
    assert [(w.name, w.shape, w.zeros) for w in found.weights] == [
        ("network/conv/kernel", (3, 3, 2, 8), 108),
        ("network/depthwise/kernel", (3, 3, 8, 1), 54),
        ("network/up/kernel", (2, 2, 4, 8), 96),
        ("network/hidden/kernel", (256, 16), 3072),
    ]
    assert found.sparsity == 0.75
    assert found.parameters == model.count_params()
    assert found.macs == MACS
    assert found.nonzero_macs == MACS / 4
    assert found.size is None


def test_a_model_and_its_files_agree(tmp_path):
    model = network()
    model.save(tmp_path / "m.keras")
    data = np.random.default_rng(0).random((8, 8, 8, 2), dtype="float32")
    for quantization in ("none", "int8"):
        path = tmp_path / f"{quantization}.tflite"
        export(model, path, "android", quantization, data, benchmark=False)
    exact, keras_file, none, int8 = (
        inspect(model),
        *(inspect(tmp_path / n) for n in ("m.keras", "none.tflite", "int8.tflite")),
    )
    assert [(w.shape, w.zeros, w.pattern) for w in keras_file.weights] == [
        (w.shape, w.zeros, w.pattern) for w in exact.weights
    ]
    assert keras_file.kind == "Keras file" and keras_file.size.raw > 0
    for found in (none, int8):
        assert found.kind == "TFLite file"
        assert found.macs == MACS
        assert sorted(w.size for w in found.weights) == [72, 128, 144, 4096]
        assert found.size.gzip < found.size.raw
    assert none.sparsity == 0.75 and 0.75 <= int8.sparsity < 0.78
    assert {w.dtype for w in int8.weights} == {"int8"}
    assert none.nonzero_macs == MACS / 4


def test_patterns_are_the_same_in_keras_and_in_the_file(tmp_path):
    model = keras.Sequential([L.Input((4, 4, 16)), L.Conv2D(32, 1, name="conv")])
    kernel = model.layers[0].kernel
    value = kernel.numpy().reshape(1, 1, 4, 4, 32)
    value[:, :, :, [0, 3]] = 0  # 2:4 along the input channels.
    value[..., :4] = 0
    kernel.assign(value.reshape(kernel.shape))
    export(model, tmp_path / "m.tflite", quantization="none", benchmark=False)
    words = "4 of 32 output channels + 8 of 16 input channels"
    assert inspect(model).weights[0].pattern == words
    assert inspect(tmp_path / "m.tflite").weights[0].pattern == words


def test_depthwise_channels_are_outputs():
    model = keras.Sequential([L.Input((8, 8, 8)), L.DepthwiseConv2D(3)])
    value = model.layers[0].kernel.numpy()
    value[:, :, :3] = 0
    model.layers[0].kernel.assign(value)
    assert inspect(model).weights[0].pattern == "3 of 8 output channels"


def test_values_are_drawn_from_the_least_to_the_largest():
    model = keras.Sequential([L.Input((4,)), L.Dense(4, name="dense")], name="m")
    kernel = np.zeros((4, 4), np.float32)
    kernel[0] = [-8, 8, 8, 8]  # Bins are 1 wide, from -8 to 8.
    kernel[1] = [0.5, 0.5, np.inf, np.nan]
    model.layers[0].kernel.assign(kernel)
    (weight,) = inspect(model).weights
    assert weight.largest == 8
    assert weight.histogram == (1, *7 * [0], 2, *6 * [0], 3)
    row = next(line for line in str(inspect(model)).splitlines() if "kernel" in line)
    assert "8        ▃       ▆      █  " in row
    model.layers[0].kernel.assign(np.zeros((4, 4)))
    (weight,) = inspect(model).weights
    assert (weight.largest, sum(weight.histogram)) == (0, 0)
    assert "1.0000  0                          " in str(inspect(model))


@pytest.mark.parametrize("quantization", ["none", "float16", "int8", "sparse"])
def test_values_of_a_file_are_those_of_the_model(tmp_path, quantization):
    model, path = network(), tmp_path / "m.tflite"
    data = np.random.default_rng(0).random((8, 8, 8, 2), dtype="float32")
    encode = quantization == "sparse"
    quantization = "none" if encode else quantization
    export(model, path, "android", quantization, data, benchmark=False, encode=encode)
    files = {weight.size: weight for weight in inspect(path).weights}
    for exact in inspect(model).weights:
        stored = files[exact.size]
        assert ("sparse" in stored.pattern) == encode
        assert stored.largest == pytest.approx(exact.largest, rel=1e-2)
        apart = np.subtract(stored.histogram, exact.histogram)
        assert np.abs(apart).sum() <= 0.1 * exact.size
        if quantization == "none":
            assert not apart.any()


def test_what_cannot_be_counted_is_said():
    model = keras.Sequential([L.Input((4, 3)), L.LSTM(5, name="loopy"), L.Dense(2)])
    found = inspect(model)
    assert found.macs == 10
    assert found.uncounted == ("loopy",) or "lstm_cell" in str(found.uncounted)
    assert "not counted" in str(found)


def test_nested_models_are_looked_into():
    inner = keras.Sequential([L.Input((4,)), L.Dense(3)], name="inner")
    model = keras.Sequential([L.Input((4,)), inner, L.Dense(2)])
    found = inspect(model)
    assert [w.shape for w in found.weights] == [(4, 3), (3, 2)]
    assert found.operators["Dense"] == 2
    assert found.macs == 12 + 6


def test_text_and_json_tell_the_same():
    found = inspect(network())
    values = json.loads(found.to_json())
    assert values["weights"][0]["sparsity"] == 0.75
    assert values["macs"] == MACS
    for words in ("network: Keras model", "conv/kernel", "3x3x2x8", "0.7500"):
        assert words in str(found)


@pytest.mark.parametrize("value", [3, None, [1.0]])
def test_what_is_neither_model_nor_path_is_refused(value):
    with pytest.raises(TypeError, match="must be a Keras 3 model or the path"):
        inspect(value)


def test_an_unbuilt_model_is_refused():
    with pytest.raises(ValueError, match="not built"):
        inspect(keras.Sequential([L.Dense(1)]))


def test_bad_files_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        inspect(tmp_path)
    with pytest.raises(ValueError, match="There is no file .*m.keras"):
        inspect(tmp_path / "m.keras")
    with pytest.raises(ValueError, match="must end in '.keras' or '.tflite'"):
        inspect(tmp_path / "m.h5")
    for name in ("m.keras", "m.tflite"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match="(n|N)ot a "):
            inspect(tmp_path / name)


def test_a_damaged_keras_file_is_refused(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(ValueError, match="m.keras' is not .*of something else"):
        inspect(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", "{}")
    with pytest.raises(ValueError, match="Keras cannot load .*m.keras"):
        inspect(path)
    network().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a '.keras' file"):
        inspect(path)


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("config.json", "w") as entry:
            for _ in range(300):
                entry.write(bytes(2**20))
    with pytest.raises(ValueError, match="unpack to 314,572,800 bytes, more than 100"):
        inspect(path)


def test_what_keras_says_of_a_layer_that_it_does_not_know_is_short(tmp_path):
    @keras.saving.register_keras_serializable("tests")
    class Own(L.Layer):
        pass

    inner = keras.Sequential([L.Input((2,)), Own(), *[L.Dense(1) for _ in range(9)]])
    keras.Sequential([L.Input((2,)), inner]).save(tmp_path / "m.keras")
    del keras.saving.get_custom_objects()["tests>Own"]
    with pytest.raises(ValueError, match="Could not locate class 'Own'") as caught:
        inspect(tmp_path / "m.keras")
    said = str(caught.value)
    assert len(said) < 700 and "\n" not in said and "config" not in said


def test_a_file_with_code_in_it_is_not_run(tmp_path):
    model = keras.Sequential([L.Input((2,)), L.Lambda(lambda x: x), L.Dense(1)])
    model.save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match="Keras cannot load"):
        inspect(tmp_path / "m.keras")


def test_a_model_stays_as_it_was():
    model = network()
    before = [v.numpy() for v in model.weights]
    inspect(model)
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
