"""Pages of plans and reports: whole, self-contained, and names are never markup."""

import json

import keras
import pytest
from pages import Page

import kprune
from kprune.report import Refusal
from kprune.structure.plan import GroupPlan, LayerWidth, ShrinkPlan


def plan():
    return ShrinkPlan(
        model="small </script><b>net",
        asked="half of it removed",
        groups=(GroupPlan("stem filters", "filters", 16, (1, 2, 3), ("stem", "out")),),
        refusals=(Refusal("head units", 10, "it is an output & stays <here>"),),
        blocks=("add_1",),
        widths=(LayerWidth("stem", "filters", 16, 13, "stem filters"),),
        parameters=78_666,
        parameters_after=20_321,
        macs=12_501_632,
        macs_after=6_213_000,
        notes=("A note.",),
    )


@pytest.fixture(scope="module")
def report():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(2)]
    )
    return kprune.shrink(model, 0.5).shrink_report


def test_a_page_is_whole_and_shows_what_the_plan_says():
    page = Page(plan().to_html())
    assert not page.open
    for said in (
        "small </script><b>net",
        "half of it removed",
        "blocks: add_1",
        "12,501,632",
        "0.258",
        "stem filters",
        "stem, out",
        "it is an output & stays <here>",
        "A note.",
    ):
        assert said in page.text
    assert "b" not in page.elements
    assert page.elements.count("svg") == 1


def test_a_page_loads_nothing(report):
    assert Page(plan().to_html()).loads == []
    assert Page(report.to_html()).loads == []


def test_a_page_has_its_data(report):
    given = plan()
    assert ShrinkPlan.from_json(Page(given.to_html()).data) == given
    assert json.loads(Page(report.to_html()).data) == json.loads(report.to_json())


def test_only_the_page_of_a_report_has_a_proof(report):
    page = Page(report.to_html())
    assert f"{report.proof[1:]}." in page.text and report.optimizer in page.text
    assert "Proof" not in Page(report.plan.to_html()).text
