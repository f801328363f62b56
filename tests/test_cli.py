"""The command as users meet it: exit codes, messages, and nothing left behind."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import typer.main
from models import sequential
from pages import Page
from typer.testing import CliRunner

import kprune_cli
from kprune.data_file import read_inputs
from kprune.export.targets import TARGETS

SOURCE = pathlib.Path(kprune_cli.__file__)
GROUP = typer.main.get_command(kprune_cli.app)


def run(*arguments):
    return CliRunner().invoke(kprune_cli.app, list(map(str, arguments)))


def process(*arguments, **environment):
    return subprocess.run(
        [sys.executable, SOURCE, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
        | {"PYTHONPATH": str(SOURCE.parent)}
        | environment,
    )


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.keras"
    sequential().save(path)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 8, 8, 1), "f4"))
    return path


def refused(result, *words):
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
    return True


def test_help_is_fast_and_imports_no_tensorflow():
    code = (
        "import sys, kprune_cli\n"
        "try: kprune_cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('kprune', 'keras', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SOURCE.parent), "NO_COLOR": "1"},
    )
    assert done.stdout.splitlines()[-1] == "[]"
    for command in ("demo", "compare", "targets", "doctor", "bench", "--version"):
        assert command in done.stdout


@pytest.mark.parametrize("command", GROUP.commands)
def test_help_is_whole_on_a_narrow_terminal(command):
    narrow = process(command, "--help", COLUMNS="40", NO_COLOR="1").stdout
    assert "…" not in narrow
    for parameter in GROUP.commands[command].params:
        assert parameter.name in narrow or parameter.opts[0] in narrow


@pytest.mark.parametrize("command", GROUP.commands)
def test_examples_of_the_help_are_commands(command):
    described = GROUP.commands[command]
    examples = re.findall(r"\[bold\]kprune (.+?)\[/bold\]", described.epilog)
    assert examples
    for example in examples:
        name, *arguments = shlex.split(example)
        assert name == command
        described.make_context(name, arguments)  # Parses, and runs nothing.


def test_a_process_inspects_without_tensorflows_chatter(saved):
    done = process("inspect", saved)
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.startswith(f"{saved}: Keras file")
    assert "\x1b" not in done.stdout


def test_what_the_screen_cannot_show_is_replaced(saved):
    done = process("inspect", saved, PYTHONIOENCODING="latin-1")
    assert done.returncode == 0 and done.stderr == ""
    assert "????" in done.stdout and done.stdout.isascii()


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_closed_stream_is_no_error(closed):
    line = f"exec {sys.executable} {SOURCE} --version {closed}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("kprune 0.") == (closed == "2>&-")


def test_colours_come_and_go():
    coloured = process("inspect", "nothing.keras", FORCE_COLOR="1", NO_COLOR="")
    assert "\x1b[" in coloured.stderr and coloured.returncode == 1
    plain = process("inspect", "nothing.keras", FORCE_COLOR="1", NO_COLOR="1")
    assert "\x1b[1;31m" not in plain.stderr
    assert "There is no file 'nothing.keras'" in plain.stderr


def test_warnings_come_without_a_line_of_code(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with kprune_cli._refusals():
            warnings.warn("Train longer.", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: Train longer.\n"


def test_version():
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("kprune 0.")


@pytest.mark.parametrize("arguments", [["inspekt"], ["inspect"], ["demo", "--sparse"]])
def test_wrong_usage_is_2(arguments):
    assert run(*arguments).exit_code == 2


def test_inspect_prints_json(saved):
    result = run("inspect", saved, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["kind"] == "Keras file"


def test_export_reports_what_it_wrote(saved, tmp_path):
    out = tmp_path / "model.tflite"
    page = tmp_path / "page.html"
    result = run("export", saved, out, "--no-benchmark", "--html", page)
    assert out.name in Page(page.read_text()).text
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{out}: target android (LiteRT)")
    assert out.stat().st_size > 1000


def test_export_for_a_microcontroller(saved, tmp_path):
    out = tmp_path / "model.tflite"
    result = run(
        *("export", saved, out, "--target", "microcontroller"),
        *("--data", tmp_path / "x.npy", "--samples", 10),
        *("--no-benchmark", "--no-c-source", "--json"),
    )
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["quantization"] == "int8" and report["arena"]["bytes"] > 0
    assert report["compared_on"].startswith("10 samples")
    assert report["files"] == [str(out)]


def test_advice_is_shown_as_text_and_as_json(saved):
    result = run("advise", saved, "--target", "microcontroller")
    assert result.exit_code == 0
    assert "on microcontroller (TensorFlow Lite Micro), at 0.8" in result.stdout
    result = run("advise", saved, "--sparsity", "0.5", "--json")
    found = json.loads(result.stdout)
    assert (found["target"], found["sparsity"]) == ("android", 0.5)
    assert refused(run("advise", saved, "--sparsity", "50"), "advise: `sparsity`")


def test_labels_are_read_from_a_file_and_shown(saved, tmp_path):
    out, labels = tmp_path / "model.tflite", tmp_path / "classes.txt"
    count = keras.models.load_model(saved).output_shape[-1]
    labels.write_text("".join(f"class {i}\n" for i in range(count)))
    result = run("export", saved, out, "--labels", labels, "--no-benchmark")
    assert result.exit_code == 0, result.stderr
    assert f"note: The {count} labels of output" in result.stdout
    result = run("inspect", out)
    assert f"labels      {count}: class 0, class 1, " in result.stdout
    labels.write_text("one\n")
    result = run("export", saved, tmp_path / "m.tflite", "--labels", labels)
    assert refused(result, "1 names", f"has {count} entries")


def test_weights_are_encoded_and_names_kept_where_wanted(saved, tmp_path):
    model = keras.models.load_model(saved)
    for variable in model.weights:
        if len(variable.shape) > 1:
            variable.assign(np.where(variable.numpy() > 0, variable, 0))
    model.save(saved)
    arguments = (
        *("export", saved, tmp_path / "model.tflite", "--target", "microcontroller"),
        *("--data", tmp_path / "x.npy", "--no-benchmark", "--no-c-source"),
    )
    result = run(*arguments, "--encode", "--json")
    assert result.exit_code == 0, result.stderr
    encoded = json.loads(result.stdout)
    assert encoded["encoding"]["plain_size"]["raw"] > encoded["size"]["raw"]
    result = run(*arguments, "--no-slim", "--json")
    named = json.loads(result.stdout)
    assert named["encoding"] is None
    assert named["size"]["raw"] > encoded["encoding"]["plain_size"]["raw"]


def test_named_arrays_are_taken_by_the_inputs_name(tmp_path):
    x = np.zeros((4, 8, 8, 1), "f4")
    np.savez(tmp_path / "one.npz", anything=x)
    np.savez(tmp_path / "two.npz", image=x, other=x)
    assert read_inputs(tmp_path / "one.npz").shape == x.shape
    assert sorted(read_inputs(tmp_path / "two.npz")) == ["image", "other"]


def corrupt(path):
    path.write_bytes(b"PK no archive")
    return path


def test_bad_models_are_refused(tmp_path):
    out = tmp_path / "m.tflite"
    assert refused(run("inspect", tmp_path / "no.keras"), "There is no file")
    assert refused(run("inspect", tmp_path), "is a folder")
    assert refused(run("inspect", corrupt(tmp_path / "m.h5")), "must end in '.keras'")
    assert refused(run("inspect", corrupt(tmp_path / "m.keras")), "no zip archive")
    assert refused(run("inspect", corrupt(tmp_path / "m.tflite")), "Not a TFLite")
    assert refused(run("export", tmp_path / "no.keras", out), "There is no file")
    assert refused(run("export", tmp_path, out), "is a folder")
    assert refused(run("export", tmp_path / "m.h5", out), "Expected a '.keras' file")
    assert refused(run("export", tmp_path / "m.keras", out), "no zip archive")
    assert out.read_bytes() == b"PK no archive"


def test_a_damaged_archive_is_refused(saved, tmp_path):
    data = saved.read_bytes()
    saved.write_bytes(data[:200] + bytes(100) + data[300:])
    assert refused(run("export", saved, tmp_path / "m.tflite"), "cannot load")


def test_unknown_classes_are_named_with_the_cure(tmp_path):
    @keras.saving.register_keras_serializable("here")
    class Mine(keras.layers.Dense):
        pass

    path = tmp_path / "mine.keras"
    keras.Sequential([keras.Input((4,)), Mine(2)]).save(path)
    keras.saving.get_custom_objects().pop("here>Mine")
    result = run("export", path, tmp_path / "m.tflite")
    assert refused(result, "Mine", "load it in Python, where they are defined")
    assert "Full object config" not in result.stderr
    assert not (tmp_path / "m.tflite").exists()


def test_code_in_a_file_is_not_run(tmp_path):
    path = tmp_path / "lambda.keras"
    layers = [keras.Input((4,)), keras.layers.Lambda(lambda x: x)]
    keras.Sequential(layers).save(path)
    assert refused(run("export", path, tmp_path / "m.tflite"), "cannot load")


@pytest.mark.parametrize(
    "options, words",
    [
        (["--target", "microcontroler"], ["Did you mean 'microcontroller'"]),
        (["--quantization", "int"], ["Unknown `quantization`"]),
        (["--quantization", "int8"], ["needs `representative_data`"]),
        (["--samples", "0"], ["num_samples"]),
        (["--encode"], ["encode=True for 'android' needs a quantization of"]),
        (["--encode", "--target", "generic"], ["may be any runtime"]),
        (["--flash", "0"], ["`flash` must be a whole number of bytes"]),
        (["--arena", "9"], ["`arena` is for microcontrollers"]),
        (["--target", "board.yaml"], ["Cannot read the description", "board.yaml"]),
        (["--labels", "no.txt"], ["Cannot read `labels`, 'no.txt'"]),
        (["--data", "no.npy"], ["There is no file 'no.npy'"]),
        (["--data", "x.csv"], ["must be a '.npy' or '.npz' file", "numpy.save"]),
        (["--data", "flat.npy"], ["does not fit input", "(20, 64)"]),
        (["--data", "object.npy"], ["NumPy cannot read"]),
        (["--data", "broken.npz"], ["NumPy cannot read"]),
        (["--data", "pair.npz"], ["one entry for each input"]),
    ],
)
def test_bad_options_are_refused(saved, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    np.save("flat.npy", np.zeros((20, 64), "f4"))
    np.save("object.npy", np.array([None, {}], dtype=object), allow_pickle=True)
    corrupt(pathlib.Path("broken.npz"))
    np.savez("pair.npz", x=np.zeros(3), y=np.zeros(3))
    before = sorted(tmp_path.iterdir())
    assert refused(run("export", saved, "out.tflite", *options), *words)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "out, word",
    [("none/m.tflite", "does not exist"), ("m.txt", "'.tflite'"), (".", "'.tflite'")],
)
def test_bad_destinations_are_refused(saved, tmp_path, monkeypatch, out, word):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert refused(run("export", saved, out), word)
    assert sorted(tmp_path.iterdir()) == before


def test_the_demo_refuses_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(run("demo", "--dataset", "mnist"), "fashion-mnist")
    assert refused(run("demo", "--sparsity", "90"), "Did you mean 0.9?")
    (tmp_path / "taken").write_text("mine")
    assert refused(run("demo", "--out", "taken"), "is a file, not a folder")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_interruption_is_no_traceback(saved, monkeypatch):
    import kprune

    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(kprune, "inspect", interrupt)
    result = run("inspect", saved)
    assert (result.exit_code, result.stderr) == (130, "Stopped.\n")


def test_a_failing_import_shows_what_was_held_back(capfd):
    with pytest.raises(ImportError), kprune_cli._loading():
        os.write(2, b"the reason\n")
        raise ImportError
    with kprune_cli._loading():
        os.write(2, b"chatter\n")
    assert capfd.readouterr().err == "the reason\n"


def test_targets_are_listed_and_told_with_sources(tmp_path):
    result = run("targets")
    assert result.exit_code == 0, result.stderr
    for name in TARGETS:
        assert f"\n{name} " in result.stdout
    for name, target in TARGETS.items():
        told = run("targets", name).stdout
        assert told.startswith(f"{name}: {target.runtime}\n")
        sources = [item.source for item in (*target.patterns, *target.facts)]
        assert all(f"source: {source}\n" in told for source in sources)
    (tmp_path / "board.yaml").write_text("{name: b, like: ethos-u55-128, flash: 4096}")
    assert "at most 4,096 bytes" in run("targets", tmp_path / "board.yaml").stdout
    assert refused(run("targets", "androit"), "Did you mean 'android'?")


def test_targets_are_json():
    found = json.loads(run("targets", "--json").stdout)
    assert [entry["name"] for entry in found] == list(TARGETS)
    [micro] = json.loads(run("targets", "microcontroller", "--json").stdout)
    assert "CONV_2D" in micro["operators"] and micro["quantizations"] == [
        "none",
        "int8",
        "int16x8",
    ]
    assert micro["patterns"][0]["pruning"] == "channel"


@pytest.fixture
def converted(saved, tmp_path):
    path = tmp_path / "float.tflite"
    result = run("export", saved, path, "--quantization", "none", "--no-benchmark")
    assert result.exit_code == 0, result.stderr
    return path


def test_files_are_compared(saved, converted):
    result = run("compare", saved, converted)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    assert lines[2].startswith(f"{saved} ") and lines[3].startswith(f"{converted} ")
    sizes = [path.stat().st_size for path in (saved, converted)]
    assert f"{sizes[1]:,}  {sizes[0] / sizes[1]:.2f}" in lines[3]
    items = json.loads(run("compare", converted, saved, "--json").stdout)["items"]
    assert [item["times_smaller"] for item in items] == [1.0, sizes[1] / sizes[0]]
    assert items[0]["macs"] == items[1]["macs"] > 0
    assert refused(run("compare", saved, "no.tflite"), "no file 'no.tflite'")


def test_channels_are_removed_and_the_plan_is_shown_first(saved, tmp_path):
    out = tmp_path / "small.keras"
    plan = run("shrink", saved, out, "--budget", "macs=0.6", "--dry-run", "--json")
    assert plan.exit_code == 0, plan.stderr
    assert not out.exists()
    result = run("shrink", saved, out, "--budget", "macs=0.6", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["plan"] == json.loads(plan.stdout)
    assert report["equality"]["relative"] < 1e-4
    before, after = (keras.models.load_model(path) for path in (saved, out))
    assert after.count_params() < before.count_params()
    assert after.output_shape == before.output_shape
    result = run("shrink", saved, out, "--sparsity", 0.5, "--data", tmp_path / "x.npy")
    assert result.exit_code == 0, result.stderr
    assert "masked and smaller model differ by at most" in result.stdout
    assert keras.models.load_model(out).count_params() < before.count_params()


def test_a_report_is_a_page(saved, converted, tmp_path):
    out = tmp_path / "page.html"
    result = run("report", saved, converted, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"Written: {out}\n"
    data = json.loads(Page(out.read_text()).data)
    assert data["title"] == converted.name and len(data["files"]) == 2
    printed = json.loads(run("report", saved, converted, "--json").stdout)
    assert printed | {"machines": []} == data | {"machines": []}
    assert refused(run("report", tmp_path), "holds no run of a recipe")
    assert refused(run("report", saved, "--out", "page.pdf"), "a '.html' file")
    assert refused(run("report", "no.tflite"), "no file 'no.tflite'")


@pytest.mark.parametrize(
    "options, words",
    [
        ([], ["zero"]),
        (["--sparsity", "50"], ["Did you mean 0.5?"]),
        (["--budget", "mac=0.5"], ["Did you mean 'macs'?"]),
        (["--budget", "macs=half"], ["such as 'macs=0.5'", "'macs=half'"]),
        (["--budget", "macs"], ["such as 'macs=0.5'"]),
        (["--budget", "macs=0.5", "--sparsity", "0.5"], ["not both"]),
        (["--target", "android"], ["--target goes with --budget"]),
        (["--budget", "macs=0.5", "--target", "androit"], ["Did you mean 'android'?"]),
        (["--sparsity", "0.5", "--data", "no.npy"], ["There is no file 'no.npy'"]),
        (["--blocks", "1"], ["block"]),
    ],
)
def test_what_cannot_be_shrunk_is_refused(saved, tmp_path, options, words):
    assert refused(run("shrink", saved, tmp_path / "small.keras", *options), *words)
    assert not (tmp_path / "small.keras").exists()


def test_shrink_refuses_bad_files(saved, tmp_path):
    out = tmp_path / "small.keras"
    assert refused(run("shrink", saved, tmp_path / "s.tflite"), "a '.keras' file")
    assert refused(run("shrink", saved, tmp_path / "no" / "s.keras"), "does not exist")
    assert refused(run("shrink", tmp_path, out), "is a folder")
    assert refused(run("shrink", tmp_path / "m.h5", out), "Expected a '.keras' file")
    assert refused(run("shrink", corrupt(tmp_path / "m.keras"), out), "no zip archive")


def test_bench_times_a_file_alone_and_beside_another(converted, tmp_path):
    result = run("bench", converted, "--seconds", 0.05)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{converted}: LiteRT, 1 thread")
    result = run(
        *("bench", converted, "--baseline", converted, "--runtime", "tflm"),
        *("--data", tmp_path / "x.npy", "--samples", 3, "--seconds", 0.05, "--json"),
    )
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["runtime"].startswith("TensorFlow Lite Micro")
    assert report["ran_on"].startswith("3 samples")
    assert report["latency"]["rounds"] == report["file"]["timing"]["rounds"] >= 5
    assert report["differences"][0]["max_abs"] == 0.0
    assert report["file"]["arena"]["bytes"] > 0


def test_bench_shows_how_to_time_on_devices(converted):
    result = run("bench", converted, "--device", "android", "--baseline", converted)
    assert result.exit_code == 0, result.stderr
    assert "benchmark_model --graph=" in result.stdout
    result = run("bench", converted, "--device", "board")
    assert result.exit_code == 0 and "GetCurrentTimeTicks" in result.stdout
    assert refused(run("bench", converted, "--device", "phone"), "Unknown `device`")
    both = run("bench", converted, "--device", "board", "--json")
    assert refused(both, "Leave --json out")


def test_bench_refuses_what_it_cannot_time(converted, tmp_path):
    assert refused(run("bench", tmp_path / "no.tflite"), "Cannot read `file`")
    assert refused(run("bench", tmp_path), "Is a directory")
    assert refused(run("bench", corrupt(tmp_path / "m.tflite")), "Not a TFLite model")
    assert refused(
        run("bench", converted, "--baseline", corrupt(tmp_path / "m.tflite")),
        "`baseline`",
        "Not a TFLite model",
    )
    assert refused(run("bench", converted, "--seconds", 0), "`seconds` must be")
    assert refused(run("bench", converted, "--samples", 0), "at least 1")
    assert refused(
        run("bench", converted, "--runtime", "lite"), "Did you mean 'litert'?"
    )
    np.save(tmp_path / "wrong.npy", np.zeros((4, 9, 9, 1), "f4"))
    assert refused(
        run("bench", converted, "--data", tmp_path / "wrong.npy"), "does not fit"
    )
    assert run("bench", converted, "--seconds", "long").exit_code == 2
