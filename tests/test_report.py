import json

import pytest

from kprune.report import (
    Arena,
    FileSize,
    Latency,
    OutputDifference,
    PruningReport,
    Report,
    SkippedWeight,
    WeightRecord,
)
from kprune.report.text import table

WEIGHTS = (
    WeightRecord("a/kernel", (4, 5), 10, 0.5, "file"),
    WeightRecord("b/kernel", (3, 10), 0),
)


def report(**changes):
    values = {
        "path": "m.tflite",
        "files": ("m.tflite", "m.cc", "m.h"),
        "target": "microcontroller",
        "runtime": "TensorFlow Lite Micro",
        "quantization": "int8",
        "inputs": (("x", (1, 4), "int8"),),
        "outputs": (("y", (1, 10), "int8"),),
        "size": FileSize(1000, 250),
        "dense_size": FileSize(4000, 1000),
        "dense_from": "the model 'dense'",
        "weights": WEIGHTS,
        "parameters": 50,
        "nonzero_parameters": 40,
        "macs": 50,
        "nonzero_macs": 40,
        "uncounted": ("MEAN",),
        "operators": {"FULLY_CONNECTED": 2, "MEAN": 1},
        "differences": (
            OutputDifference("y", "LiteRT", 8, 0.5, 0.125, 0.01, 0.25, 1.0),
        ),
        "compared_on": "8 samples",
        "latency": (Latency("LiteRT", "dense", 2.0, 1.0, 2.0, 1.9, 2.1, 15),),
        "arena": Arena(4096, 3000, 1000),
        "notes": ("Something to know.",),
    }
    return Report(**{**values, **changes})


TEXT = """\
m.tflite: target microcontroller (TensorFlow Lite Micro), quantization int8
files    m.tflite, m.cc, m.h
inputs   x 1x4 int8
outputs  y 1x10 int8

file           bytes  smaller  gzip bytes  smaller
-------------  -----  -------  ----------  -------
dense float32  4,000  1.00x    1,000       1.00x
this file      1,000  4.00x    250         4.00x
dense float32: the model 'dense'

weight        shape  asked   zeros   counted in
------------  -----  ------  ------  --------------
a/kernel      4x5    0.5000  0.5000  file
b/kernel      3x10   -       0.0000  Keras variable
all of these         0.5000  0.2000

difference from Keras, on 8 samples
output  run in  samples  largest  in steps  mean   relative  same top class
------  ------  -------  -------  --------  -----  --------  --------------
y       LiteRT  8        0.5      2.00      0.125  0.01      1.0000

time on this machine  compared with  its time  this file  speed  quartiles  rounds
--------------------  -------------  --------  ---------  -----  ---------  ------
LiteRT                dense          2 ms      1 ms       2.00x  1.90-2.10  15

parameters  50, not zero 40
MACs        50, with weights that are not zero 40
  not counted: MEAN
operators   FULLY_CONNECTED 2, MEAN 1
arena       4,096 bytes, the smallest that worked (activations 3,000, structures 1,000)

note: Something to know."""


def test_the_text_of_a_report():
    assert str(report()) == TEXT


def test_what_was_not_measured_is_left_out_of_the_text():
    text = str(report(latency=(), arena=None, notes=(), uncounted=()))
    for words in ("time on", "arena", "note:", "not counted"):
        assert words not in text


def test_sparsities_are_weighted_by_size():
    assert report().sparsity == pytest.approx(10 / 50)
    assert report().asked == 0.5
    assert report(weights=WEIGHTS[1:]).asked is None
    assert report(weights=()).sparsity == 0.0


def test_json_holds_every_field_and_no_infinity():
    infinite = OutputDifference("y", "r", 1, 1.0, 1.0, float("inf"), None, None)
    text = report(differences=(infinite,)).to_json()
    values = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert values["differences"][0]["relative"] == "inf"
    assert values["differences"][0]["max_steps"] is None
    assert values["size"] == {"raw": 1000, "gzip": 250}
    assert values["weights"][0]["sparsity"] == 0.5
    assert values["sparsity"] == 0.2


def test_a_pruning_report_tells_asked_achieved_and_skipped():
    found = PruningReport(
        7, 0.5, WEIGHTS[:1], (SkippedWeight("a/bias", (5,), "a bias"),)
    )
    assert found.sparsity == 0.5
    assert json.loads(found.to_json())["weights"][0]["zeros"] == 10
    for words in ("a/kernel", "0.5000", "left dense", "a bias"):
        assert words in str(found)


def test_tables_align_and_leave_no_trailing_blanks():
    lines = table(("a", "long header"), [("1", "2"), ("333", "4")])
    assert lines == ["a    long header", "---  -----------", "1    2", "333  4"]
    assert table(("a",), []) == ["a", "-"]
