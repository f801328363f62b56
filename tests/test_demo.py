import io
import json

import pytest
from rich.console import Console

from kprune import demo, demo_view, inspect
from kprune.report import FileSize, Latency


class Recorder:
    def __init__(self):
        self.said = []
        self.stages = {}

    def say(self, text):
        self.said.append(text)

    def progress(self, stage, done, total, facts):
        self.stages.setdefault(stage, []).append((done, total, facts))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    listener = Recorder()
    return demo.run(out, listener, epochs=4, sparsity=0.8), listener, out


@pytest.mark.slow
def test_every_number_is_that_of_its_file(finished):
    result, *_ = finished
    assert [row.name for row in result.rows] == [
        demo.DENSE,
        demo.PRUNED,
        demo.DENSE_INT8,
        demo.PRUNED_INT8,
        demo.ENCODED_INT8,
    ]
    for row in result.rows:
        found = inspect(row.path)
        assert (row.sparsity, row.size) == (found.sparsity, found.size)
        assert row.accuracy > 0.8
        assert row.arena > 1000
    assert all(row.latency.file_ms > 0 for row in result.rows[:-1])
    dense, pruned, dense_int8, pruned_int8, encoded_int8 = result.rows
    assert encoded_int8.size.raw < 0.6 * pruned_int8.size.raw
    assert encoded_int8.accuracy == pruned_int8.accuracy
    assert encoded_int8.latency is None and 0.5 < result.decoding.ratio < 1.5
    assert dense.sparsity == 0 and pruned.sparsity == pytest.approx(0.8, abs=1e-4)
    assert pruned_int8.sparsity >= pruned.sparsity
    assert pruned.size.raw == dense.size.raw
    assert pruned.size.gzip < dense.size.gzip / 2
    assert pruned_int8.size.gzip < dense_int8.size.gzip / 2


@pytest.mark.slow
def test_what_is_listed_is_what_was_written(finished):
    result, _, out = finished
    assert sorted(result.files) == sorted(str(path) for path in out.iterdir())
    stored = json.loads((out / "results.json").read_text())
    assert stored == json.loads(result.to_json())
    assert stored["asked"] == 0.8 and stored["rows"][1]["path"] in result.files
    header = (out / "pruned-int8.h").read_text()
    assert "pruned_int8" in header


@pytest.mark.slow
def test_progress_is_told_to_the_end(finished):
    _, listener, _ = finished
    assert list(listener.stages) == ["train dense", "stay dense", "prune", "measure"]
    for stage in listener.stages.values():
        done = [entry[0] for entry in stage]
        assert done == sorted(done) and done[-1] == stage[-1][1]
    assert "epoch 4/4" in listener.stages["prune"][-1][2]
    assert "sparsity 0.8000" in listener.stages["prune"][-1][2]
    assert "1,198 images of 8x8" in listener.said[0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"dataset": "digit"}, "Did you mean 'digits'"),
        ({"sparsity": 90.0}, "Did you mean 0.9"),
        ({"epochs": 1}, "at least 2"),
        ({"seed": -1}, "at least 0"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(tmp_path, arguments, message):
    listener = Recorder()
    with pytest.raises(ValueError, match=message):
        demo.run(tmp_path / "out", listener, **arguments)
    assert not listener.said and not any(tmp_path.iterdir())


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file, not a folder"):
        demo.run(tmp_path / "file" / "out", Recorder())


def test_c_files_of_others_are_not_overwritten(tmp_path):
    (tmp_path / "pruned-int8.cc").write_text("mine")
    with pytest.raises(ValueError, match="was not written by kprune"):
        demo.run(tmp_path, Recorder())


def test_no_network_is_said(tmp_path, monkeypatch):
    def fail():
        raise Exception("URL fetch failure")

    monkeypatch.setattr(demo.keras.datasets.fashion_mnist, "load_data", fail)
    with pytest.raises(ValueError, match="URL fetch failure.*'digits'"):
        demo.run(tmp_path / "out", Recorder(), dataset="fashion-mnist")
    assert not any(tmp_path.iterdir())


def result(arena):
    def row(name, accuracy, sparsity, size, ms):
        latency = Latency("LiteRT, 1 thread", demo.DENSE, 0.2, ms, 0.2 / ms, 1, 1, 99)
        return demo.Row(
            name, f"{name}.tflite", accuracy, sparsity, size, arena, latency
        )

    rows = (
        row(demo.DENSE, 0.99, 0.0, FileSize(400_000, 360_000), 0.2),
        row(demo.PRUNED, 0.98, 0.9, FileSize(400_000, 60_000), 0.2),
        row(demo.DENSE_INT8, 0.985, 0.01, FileSize(100_000, 90_000), 0.1),
        row(demo.PRUNED_INT8, 0.98, 0.9, FileSize(100_000, 20_000), 0.1),
    )
    decoding = None
    if arena is not None:
        encoded = FileSize(25_000, 18_000)
        rows += (demo.Row(demo.ENCODED_INT8, "e", 0.98, 0.9, encoded, arena, None),)
        decoding = Latency("TFLM", "plain", 0.2, 0.25, 0.8, 0.7, 0.9, 99)
    facts, written = ("A fact.",), ("a.tflite", "out/report.html")
    return demo.Result(
        "digits", 0.9, 40, 20, 0, 100_000, 500, rows, decoding, facts, written
    )


def shown(result, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    demo_view.show(result, console)
    return console.export_text()


def test_tables_show_what_was_measured_and_what_changed_it():
    lines = shown(result(arena=14_640)).splitlines()
    cells = {line[:17].strip(): line[17:].split() for line in lines}
    assert cells["pruned float32"] == (
        "98.00% 0.9000 400,000 60,000 14,640 0.2000 ms".split()
    )
    assert cells["zeros, in float32"] == (
        "-1.00 points 1.00x 6.00x 1.00x 1.00x".split()
    )
    assert cells["zeros and int8"] == "-1.00 points 4.00x 18.00x 1.00x 2.00x".split()
    assert cells["encoded int8"] == "98.00% 0.9000 25,000 18,000 14,640 [2]".split()
    assert cells["zeros, encoded"] == "-0.50 points 4.00x 5.00x 1.00x -".split()
    assert cells["all of it"] == "-1.00 points 16.00x 20.00x 1.00x -".split()
    text = " ".join(" ".join(lines).split())
    assert "same outputs bit for bit, in 1.25 times the time" in text
    assert "note: A fact." in lines
    assert "As a page:      open out/report.html in a browser" in lines
    # Nothing is cut on an ordinary terminal.
    assert not any("…" in line for line in lines)


def test_a_missing_runtime_is_said_with_its_cure():
    text = shown(result(arena=None))
    assert "not run [1]" in text
    assert "pip install 'kprune[micro]'" in text
    assert "encoded" not in text and "[2]" not in text


@pytest.mark.parametrize("terminal", [True, False])
def test_the_screen_shows_each_stage(terminal):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=80)
    with demo_view.Screen(console) as screen:
        screen.say("data")
        for done in (1, 2):
            screen.progress("prune", done, 2, f"epoch {done}/2")
    text = file.getvalue()
    assert "data" in text and "prune" in text and "epoch 2/2" in text
    if not terminal:
        assert text.splitlines() == ["data", "prune       epoch 2/2"]
