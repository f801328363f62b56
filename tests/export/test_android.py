"""The file in an app: by name from Python, and in the Kotlin example on the JVM."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import compilers
import keras
import nets
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from kprune.export import export

L = keras.layers
REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "android"
STAND_IN = Path(__file__).with_name("android_stand_in")
DOCUMENTS = (EXAMPLE / "README.md", REPOSITORY / "docs" / "android.md")
LABELS = ["T-shirt", "guinea pig", "weiß", "日本", "e"]
QUANTIZATIONS = ["none", "float16", "dynamic", "int8"]


def classifier():
    image = L.Input((6, 5, 2), name="image")
    x = L.Flatten()(L.Conv2D(12, 3, activation="relu")(image))
    clear = keras.initializers.RandomNormal(stddev=0.5)
    head = L.Dense(len(LABELS), "softmax", kernel_initializer=clear, name="scores")
    scores = head(x)
    return nets.zeroed(keras.Model(image, scores, name="classifier"))


def images(count=16):
    return np.random.default_rng(0).normal(size=(count, 6, 5, 2)).astype("float32")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model, and a folder of its file as an app's assets for each quantisation."""
    keras.utils.set_random_seed(0)
    model, folders = classifier(), {}
    for quantization in QUANTIZATIONS:
        folders[quantization] = tmp_path_factory.mktemp(quantization)
        export(
            *(model, folders[quantization] / "model.tflite", "android", quantization),
            representative_data=images(),
            benchmark=False,
            labels=LABELS,
        )
    return model, folders


def in_litert(path):
    """The scores of all images, by the names that the example uses."""
    runner = Interpreter(model_path=str(path)).get_signature_runner("serving_default")
    return np.concatenate([runner(image=row[None])["scores"] for row in images()])


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_an_app_finds_labels_and_scores_by_name(exported, quantization):
    model, folders = exported
    path = folders[quantization] / "model.tflite"
    with zipfile.ZipFile(path) as archive:
        labels = archive.read("labels.txt").decode().splitlines()
    assert labels == LABELS
    expected, found = model.predict(images(), verbose=0), in_litert(path)
    assert found.dtype == np.float32
    best, second = np.sort(expected)[:, :-3:-1].T
    clear = best > second + 0.05  # What is as good as equal may change places in int8.
    top = [
        [labels[i] for i in scores[clear].argmax(-1)] for scores in (found, expected)
    ]
    assert top[0] == top[1]
    assert len(top[0]) >= 8 and len(set(top[0])) > 2


def test_the_example_has_the_names_of_the_file(exported):
    source = (EXAMPLE / "Classifier.kt").read_text()
    names = dict(re.findall(r'const val (\w+) = "(.*)"', source))
    file = Interpreter(model_path=str(exported[1]["none"] / names.pop("MODEL")))
    expected = {"inputs": [names["INPUT"]], "outputs": [names["OUTPUT"]]}
    assert file.get_signature_list() == {names["SIGNATURE"]: expected}


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The example and all Kotlin of the documents, compiled: how to run it."""
    folder = tmp_path_factory.mktemp("app")
    shown = [
        code
        for document in DOCUMENTS
        for code in re.findall(r"```kotlin\n(.*?)```", document.read_text(), re.S)
        if "Classifier(" in code  # The others are for Gradle.
    ]
    assert len(shown) == len(DOCUMENTS)
    functions = [
        f"fun shown{number}(context: android.content.Context, pixels: FloatArray) {{\n"
        f"{code}}}\n"
        for number, code in enumerate(shown)
    ]
    (folder / "Shown.kt").write_text(
        "import com.example.classifier.Classifier\n" + "".join(functions)
    )
    sources = (EXAMPLE / "Classifier.kt", STAND_IN / "Main.kt", folder / "Shown.kt")
    return compilers.kotlin(STAND_IN, sources, folder / "app.jar")


def run_app(app, folder, rows):
    """What the app prints for rows of numbers, or the error that ends it."""
    lines = "\n".join(" ".join(map(str, row.reshape(-1))) for row in rows)
    done = subprocess.run(
        [
            *(*app, f"-Dstand_in.python={sys.executable}"),
            *(f"-Dstand_in.serve={STAND_IN / 'serve.py'}", "MainKt", folder),
        ],
        input=lines.encode(),
        capture_output=True,
        timeout=120,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    return [line.split("\t") for line in done.stdout.decode().splitlines()]


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_the_kotlin_example_classifies_as_litert_does(exported, app, quantization):
    """From mapping the asset to sorted scores, with LiteRT itself behind it."""
    folder = exported[1][quantization]
    labels, *rows = run_app(app, folder, images())
    assert labels == LABELS
    expected = in_litert(folder / "model.tflite")
    assert len(rows) == len(expected)
    for row, scores in zip(rows, expected, strict=True):
        found = [item.split("=") for item in row]
        values = [float(value) for _, value in found]
        assert values == sorted(values, reverse=True)
        named = {name: np.float32(value) for name, value in found}
        np.testing.assert_array_equal([named[label] for label in LABELS], scores)


def test_the_kotlin_example_says_what_does_not_fit(exported, app, tmp_path):
    with pytest.raises(RuntimeError, match="takes 60 numbers, received 3"):
        run_app(app, exported[1]["none"], [np.zeros(3)])
    model, path = exported[0], tmp_path / "model.tflite"
    export(model, path, benchmark=False)
    with pytest.raises(RuntimeError, match="model.tflite has no labels"):
        run_app(app, tmp_path, images())
