"""Pictures of plans: files that are whole, name what changes, and leave out little."""

import builtins
import os

import pytest
from pictures import texts

import kprune
from kprune.structure import picture
from kprune.structure.plan import LayerWidth, ShrinkPlan


def plan(widths=None, **kwargs):
    widths = widths or (
        LayerWidth("stem", "filters", 16, 8, "stem filters"),
        LayerWidth("body/inner", "filters", 32, 11, "body/inner filters"),
        LayerWidth("outer_$x$", "filters", 16, 8, "stem filters"),
        LayerWidth("attention", "heads", 4, 2, "attention heads"),
        LayerWidth("removed", "units", 24, 0),
        LayerWidth("head", "units", 10, 10),
    )
    values = {
        "model": "small <net>",
        "asked": "half of it removed",
        "groups": (),
        "refusals": (),
        "blocks": ("add_1",),
        "widths": tuple(widths),
        "parameters": 78_666,
        "parameters_after": 20_321,
        "macs": 12_501_632,
        "macs_after": 6_213_000,
    }
    return ShrinkPlan(**{**values, **kwargs})


def test_a_png_is_a_png(tmp_path):
    path = tmp_path / "plan.png"
    assert plan().draw(path) == path
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n") and content.rstrip().endswith(
        b"\x82"
    )


def test_an_svg_names_every_layer_and_its_widths(tmp_path):
    found = texts(plan().draw(tmp_path / "plan.svg"))
    for name in (
        "stem",
        "body/inner",
        "outer_$x$",
        "attention (heads)",
        "removed",
        "head",
    ):
        assert name in found
    for label in ("16 -> 8", "32 -> 11", "4 -> 2", "24 -> gone", "10"):
        assert label in found
    assert "small <net>: MACs 12.5 M -> 6.21 M (0.50)" in found
    assert "parameters  78.7 k -> 20.3 k (0.26)" in found
    assert "half of it removed; blocks: add_1" in found


def test_the_same_plan_gives_the_same_file(tmp_path):
    for suffix in ("svg", "png"):
        first, second = (tmp_path / f"{name}.{suffix}" for name in "ab")
        assert plan().draw(first).read_bytes() == plan().draw(second).read_bytes()


def test_layers_of_a_group_have_its_colour_and_others_none(tmp_path):
    rows = picture._rows(plan())
    assert list(rows.colours) == ["stem filters"]
    svg = plan().draw(tmp_path / "plan.svg").read_text().lower()
    (colour,) = rows.colours.values()
    assert colour.lower() in svg and picture._COLOURS[1].lower() not in svg


def test_a_model_without_coupled_layers_can_be_drawn(tmp_path):
    row = LayerWidth("dense", "units", 8, 4, "dense units")
    assert "dense" in texts(plan([row], blocks=()).draw(tmp_path / "plan.svg"))


def test_of_many_layers_those_that_change_are_drawn_and_the_others_counted(tmp_path):
    rows = [LayerWidth(f"fixed_{i}", "units", 9, 9) for i in range(200)]
    rows += [LayerWidth(f"changed_{i}", "units", 9, 3, f"g{i}") for i in range(100)]
    found = texts(plan(rows).draw(tmp_path / "plan.svg"))
    assert {f"changed_{i}" for i in range(100)} <= set(found)
    assert not any(name.startswith("fixed") for name in found)
    assert any("100 of 300 layers are drawn, without 200 unchanged" in x for x in found)


def test_of_very_many_that_change_those_that_lose_most_are_drawn(tmp_path):
    rows = [
        LayerWidth(f"layer_{i}", "units", 500, 500 - i, f"g{i}") for i in range(400)
    ]
    found = texts(plan(rows).draw(tmp_path / "plan.svg"))
    assert "layer_399" in found and "layer_250" in found and "layer_249" not in found
    assert any("1 unchanged and 249 with the smallest losses" in text for text in found)


def test_the_plan_in_a_report_can_be_drawn(tmp_path):
    from models import functional

    small = kprune.shrink(functional(), sparsity=0.5)
    report = small.shrink_report
    found = texts(report.plan.draw(tmp_path / "plan.svg"))
    changed = [row for row in report.plan.widths if row.before != row.after]
    assert changed and all(row.layer in found for row in changed)
    assert len({row.group for row in changed}) == 1  # Added to each other.


def test_the_users_settings_of_matplotlib_are_left_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    plan().draw(tmp_path / "plan.png")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", ["plan.pdf", "plan", "plan.svg.txt"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"must end in \.png or \.svg"):
        plan().draw(tmp_path / name)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        plan().draw(tmp_path / "nowhere" / "plan.png")


def test_a_failure_leaves_no_file_and_an_old_one_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "plan.png"
    path.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ValueError, match="disk full"):
        plan().draw(path)
    assert [item.name for item in tmp_path.iterdir()] == ["plan.png"]
    assert path.read_text() == "old"


def test_a_missing_matplotlib_is_said_with_what_to_do(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plan().draw(tmp_path / "plan.png")
    assert list(tmp_path.iterdir()) == []
