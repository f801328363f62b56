"""A fit as a picture: files that are whole, and show what was logged."""

import builtins
import dataclasses
import re

import pytest
from pictures import texts

import kprune
from kprune.report import EpochRecord, GuardRecord, PruningReport, WeightRecord


def report(**changes):
    logs = [
        {"accuracy": 0.8 + 0.01 * n, "loss": 1.0 / (n + 1), "sparsity": 0.1 * n}
        for n in range(4)
    ]
    logs[1]["val_accuracy"] = logs[3]["val_accuracy"] = 0.8  # validation_freq=2
    values = {
        "step": 40,
        "asked": 0.6,
        "weights": (WeightRecord("dense/kernel", (4, 5), 10, 0.5),),
        "history": ((10, 0.1), (20, 0.4), (30, 0.55), (40, 0.4)),
        "epochs": tuple(
            EpochRecord(n, 10 * (n + 1), each) for n, each in enumerate(logs)
        ),
        "guard": GuardRecord("val_accuracy", 0.01, 0.9, 0.8, False, 2, 20, False, 0.4),
    }
    return PruningReport(**{**values, **changes})


def test_a_png_is_a_png(tmp_path):
    path = tmp_path / "fit.png"
    assert kprune.plot_fit(report(), path) == path
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert [*tmp_path.iterdir()] == [path]


def test_what_is_shown_is_named(tmp_path):
    found = texts(kprune.plot_fit(report(), tmp_path / "fit.svg"))
    for text in (
        "Sparsity 0.4 of 0.6 asked for",
        "dense, with tolerance 0.01",
        "accuracy",
        "val_accuracy",
        "sparsity",
        "optimizer step",
        "asked for",
        "back to step 20",
    ):
        assert text in found, text
    assert "loss" not in found


def test_metrics_are_those_that_are_asked_for(tmp_path):
    found = texts(kprune.plot_fit(report(), tmp_path / "fit.svg", "loss"))
    assert found.count("loss") == 2  # the axis and the legend
    assert "accuracy" not in found and "dense, with tolerance 0.01" not in found


def test_without_scores_losses_are_drawn_and_without_a_guard_no_level(tmp_path):
    epochs = tuple(
        dataclasses.replace(e, logs={"loss": e.logs["loss"]}) for e in report().epochs
    )
    path = tmp_path / "fit.svg"
    found = texts(kprune.plot_fit(report(epochs=epochs, guard=None), path))
    assert "loss" in found
    assert not [text for text in found if "back to" in text or "tolerance" in text]


def test_masks_that_are_only_held_and_fits_without_epochs_are_drawn(tmp_path):
    held = report(history=(), asked=None, guard=None)
    assert "Sparsity 0.5" in texts(kprune.plot_fit(held, tmp_path / "fit.svg"))
    loop = report(epochs=(), guard=None)
    assert "sparsity" in texts(kprune.plot_fit(loop, tmp_path / "fit.svg"))


def test_a_second_fit_begins_where_it_begins(tmp_path):
    late = report(
        history=((1015, 0.3),),
        epochs=tuple(
            dataclasses.replace(e, step=1000 + e.step) for e in report().epochs
        ),
        guard=None,
    )
    found = texts(kprune.plot_fit(late, tmp_path / "fit.svg"))
    ticks = [int(text) for text in found if re.fullmatch(r"\d{2,}", text)]
    assert ticks and min(ticks) >= 990


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (dict(path="fit.pdf"), ".png or .svg"),
        (dict(path="nowhere/fit.png"), "folder of `path` does not exist"),
        (dict(path="fit.png", metrics="val_acc"), "Did you mean 'val_accuracy'"),
        (dict(path="fit.png", metrics=["loss"] * 7), "6 at most"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=match):
        kprune.plot_fit(report(), **arguments)
    assert not [*tmp_path.iterdir()]


def test_a_report_without_a_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no fit to draw"):
        kprune.plot_fit(report(history=(), epochs=()), tmp_path / "fit.png")


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    whole = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return whole(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        kprune.plot_fit(report(), tmp_path / "fit.png")
