"""Overviews: what pages hold, in which colours, and what a browser makes of them."""

import html
import itertools
import json
import re
import shutil
import subprocess

import jsonschema
import keras
import models
import numpy as np
import overviews
import pytest
from pages import Page
from tools import need

import kprune
from kprune.page import charts, facts, render, weights
from kprune.report import FileSize

SCHEMA = jsonschema.Draft202012Validator(json.loads(facts.SCHEMA.read_text()))


def in_page(page):
    return json.loads(Page(page).data)


def test_a_page_holds_its_data_as_the_schema_says():
    overview = overviews.example()
    SCHEMA.check_schema(SCHEMA.schema)
    data = in_page(overview.to_html())
    SCHEMA.validate(data)
    assert data == overview.to_dict() == json.loads(overview.to_json())


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("machines"),
        lambda data: data.update(more=1),
        lambda data: data["files"][0].update(sparsity=80),
        lambda data: data["files"][0]["sections"].update(
            other=data["files"][0]["size"]
        ),
        lambda data: data["fits"][0]["sparsity"].append([1]),
    ],
)
def test_the_schema_finds_what_is_wrong(change):
    data = overviews.example().to_dict()
    change(data)
    assert not SCHEMA.is_valid(data)


def test_a_page_is_whole_loads_nothing_and_takes_no_name_for_markup():
    page = Page(overviews.example().to_html())
    assert not page.open and not page.loads
    assert page.elements.count("script") == 1
    assert page.text.count(overviews.NAME) >= 5
    for said in (
        "13.0 times smaller",
        "-0.67 points",
        "3.00 times as fast",
        "16 → 13 channels",
        "64 channels, 9,216 weights,\ngone",
        "312,464",
        "sparsity metadata",
        "a bias: few elements",
        "stem/bias, head/bias",
        "Zeros are multiplied like other numbers.",
        "- prune: {epochs: 3, sparsity: 0.8}",
        "Intel(R) Xeon(R) Processor, 2 cores",
        "8.0 GiB",
        "keras 3.15.1",
    ):
        assert said in page.text
    assert page.elements.count("title") == page.elements.count("h1") == 1


def test_what_grew_is_not_called_smaller():
    assert render._pair(100, 50) == ("100", "50", "2.0 times smaller")
    assert render._pair(50, 100) == ("50", "100", "2.0 times larger")


def test_numbers_that_json_lacks_do_no_harm():
    diverged = overviews.fit("1 train", 10, ((0, 0.0),), float("nan"), float("nan"))
    overview = facts.Overview("net", "", ("", "net"), (), (), (diverged,))
    data = in_page(overview.to_html())
    SCHEMA.validate(data)
    assert data["fits"][0]["epochs"][0]["logs"]["accuracy"] == "nan"


# Colours.


def schemes():
    """Returns the page's colours by name, in light and in dark."""
    style = (facts.SCHEMA.parent / "base.html").read_text()
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(blocks) == 2
    return [dict(re.findall(r"--(\w+): (#\w{6});", block)) for block in blocks]


def linear(colour):
    value = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """The ratio of WCAG 2.2: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""
    light = [linear(c) @ (0.2126, 0.7152, 0.0722) + 0.05 for c in (one, other)]
    return max(light) / min(light)


@pytest.mark.parametrize("scheme", schemes(), ids=["light", "dark"])
def test_every_colour_is_read_on_both_backgrounds(scheme):
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    inks = set(scheme) - {"page", "card", "rule"}
    assert len(inks) == 8
    for ink, ground in itertools.product(inks, ("page", "card")):
        assert contrast(scheme[ink], scheme[ground]) >= 4.5, (ink, ground)


# What is left of colours without one kind of cones, in linear RGB, at full severity:
# Machado, Oliveira and Fernandes 2009, "A Physiologically-based Model for Simulation of
# Color Vision Deficiency", table 1.
BLIND = {
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
}


def lab(rgb):
    to_xyz = np.array(
        ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    )
    x, y, z = np.cbrt(np.clip(to_xyz @ rgb / (0.9505, 1.0, 1.089), 1e-6, None))
    return np.array((116 * y - 16, 500 * (x - y), 200 * (y - z)))


@pytest.mark.parametrize("kind", BLIND)
@pytest.mark.parametrize("scheme", schemes(), ids=["light", "dark"])
def test_the_colours_of_charts_are_told_apart_without_all_cones(scheme, kind):
    """What lies side by side: lines and points, before and after, and sections."""
    seen = {
        name: lab(np.clip(np.array(BLIND[kind]) @ linear(colour), 0, 1))
        for name, colour in scheme.items()
    }
    order = ("after", "warm", "green", "purple", "ochre", "before")
    for one, other in [*zip(order, order[1:], strict=False), ("after", "before")]:
        assert np.linalg.norm(seen[one] - seen[other]) > 15, (one, other)


# Charts.


def test_ticks_are_round_and_reach_around_the_values():
    assert charts.nice_ticks(0, 1) == [0, 0.5, 1]
    assert charts.nice_ticks(0.71, 0.93) == [0.7, 0.8, 0.9, 1.0]
    assert charts.nice_ticks(0.9, 0.9)[0] < 0.9 < charts.nice_ticks(0.9, 0.9)[-1]
    assert charts.nice_ticks(0, 0) == [-0.5, 0, 0.5]
    for low, high in ((-3.2, 17), (1e-5, 2e-5), (99, 100)):
        ticks = charts.nice_ticks(low, high)
        assert ticks[0] <= low < high <= ticks[-1] and 3 <= len(ticks) <= 7


def test_a_chart_has_its_points_in_its_frame():
    line = charts.Line("zeros", ((0, 0.0), (50, 0.5), (100, float("nan"))), "steps")
    chart = charts.chart("share", [line], 100, within=(0, 1))
    [(name, path, points)] = chart.lines
    middle = (chart.left + chart.right) / 2, (chart.top + chart.bottom) / 2
    assert points == ((chart.left, chart.bottom), middle)
    assert path == f"M{chart.left}.0 {chart.bottom}.0H{middle[0]}V{middle[1]}"
    marks = [(0, "1 train"), (5, "2 shrink"), (99, "3 quantize_aware")]
    begins = charts.chart("share", [line], 100, marks).marks
    assert [row for *_, row in begins] == [0, 1, 0]
    assert begins[0][2] == chart.left + 3 and begins[2][2] < chart.right - 80
    assert charts.chart("nothing", [charts.Line("a", ())], 100) is None
    assert charts.chart("no steps", [line], 0) is None


def test_an_outline_goes_around_the_bars():
    assert (
        charts.outline([0, 2, 1], 2, 30, 10) == "M0 10V10.0H10.0V0.0H20.0V5.0H30.0V10Z"
    )


# Sources.


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A dense and a pruned model, their files, and the report of an export."""
    folder = tmp_path_factory.mktemp("files")
    keras.utils.set_random_seed(0)
    dense = models.sequential()
    dense.save(folder / "dense.keras")
    pruned = keras.models.clone_model(dense)
    pruned.set_weights(dense.get_weights())
    for variable in pruned.weights:
        if len(variable.shape) > 1:
            value = variable.numpy()
            value[np.abs(value) < np.median(np.abs(value))] = 0
            variable.assign(value)
    pruned.save(folder / "pruned.keras")
    report = kprune.export(
        pruned, folder / "pruned.tflite", "generic", "none", benchmark=False
    )
    return folder, report


def test_models_are_compared_layer_by_layer_and_files_listed(files):
    folder, _ = files
    paths = [folder / name for name in ("dense.keras", "pruned.keras", "pruned.tflite")]
    found = kprune.overview(*paths)
    SCHEMA.validate(in_page(found.to_html()))
    models_ = [keras.models.load_model(path) for path in paths[:2]]
    kernels = [v.numpy() for v in models_[1].weights if len(v.shape) > 1]
    assert [layer.after.size for layer in found.layers] == [k.size for k in kernels]
    assert [layer.after.zeros for layer in found.layers] == [
        int((kernel == 0).sum()) for kernel in kernels
    ]
    assert all(layer.before.zeros == 0 for layer in found.layers)
    for state in (s for layer in found.layers for s in (layer.before, layer.after)):
        assert sum(state.histogram) == state.size - state.zeros
    assert [file.name for file in found.files] == [path.name for path in paths]
    assert [file.size.raw for file in found.files] == [p.stat().st_size for p in paths]
    parts = found.files[-1].sections
    assert sum(size.raw for size in parts.values()) == paths[-1].stat().st_size
    assert found.compared == ("before", "after")


def test_a_file_alone_and_a_report_are_shown(files, tmp_path):
    folder, report = files
    alone = kprune.overview(str(folder / "pruned.tflite"))
    assert all(layer.before is None for layer in alone.layers) and alone.layers
    zeros = sum(layer.after.zeros for layer in alone.layers)
    assert zeros == sum(weight.zeros for weight in report.weights)
    model = keras.models.load_model(folder / "pruned.keras")
    found = kprune.overview(model, report)
    assert found.files[0].size == report.dense_size
    assert found.files[1].size == FileSize.of((folder / "pruned.tflite").read_bytes())
    assert found.notes == report.notes and found.notes
    page = found.save(tmp_path / "report.html").read_text()
    assert Page(page).text.count(report.notes[0]) == 1
    assert in_page(page) == found.to_dict()


def test_weights_of_subclassed_and_nested_layers_have_names():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a")])
    inner.name = "inner"
    outer = keras.Sequential([inner, keras.layers.Dense(2, name="b")])
    found = weights.of_model(outer)
    assert {name: weight.channels for name, weight in found.items()} == {
        "inner/a": 3,
        "b": 2,
    }
    cell = keras.Sequential([keras.Input((5, 4)), keras.layers.GRU(3, name="gru")])
    names = list(weights.of_model(cell))
    assert names == ["gru/gru_cell/kernel", "gru/gru_cell/recurrent_kernel"]


def test_sources_that_cannot_be_shown_are_refused(tmp_path, files):
    folder, _ = files
    with pytest.raises(ValueError, match="name what to show"):
        kprune.overview()
    with pytest.raises(ValueError, match="holds no run of a recipe"):
        kprune.overview(tmp_path)
    with pytest.raises(ValueError, match="Name it alone, or files only"):
        kprune.overview(tmp_path, folder / "pruned.tflite")
    with pytest.raises(ValueError, match="There is no file"):
        kprune.overview(tmp_path / "no.keras")
    with pytest.raises(TypeError, match="a path or a report of kprune.export"):
        kprune.overview(3)
    with pytest.raises(ValueError, match="must name a '.html' file"):
        overviews.example().save(tmp_path / "report.pdf")
    (tmp_path / "recipe.yaml").write_text("stages:\n- train: {epochs: 1}\n")
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(ValueError, match="is no whole run of a recipe"):
        kprune.overview(tmp_path)


# In a browser.

HARNESS = """<!DOCTYPE html><title>harness</title><body>{frames}<pre id="said"></pre>
<script>
console.info("harness");
addEventListener("load", () => {{
  const said = [...document.querySelectorAll("iframe")].map((frame) => {{
    const inside = frame.contentDocument, root = inside.documentElement;
    const drawn = [...inside.querySelectorAll("svg")].map((svg) => svg.getBBox().width);
    return {{
      width: frame.contentWindow.innerWidth,
      needs: Math.max(root.scrollWidth, inside.body.scrollWidth),
      background: frame.contentWindow.getComputedStyle(inside.body).backgroundColor,
      drawings: drawn.length,
      empty: drawn.filter((width) => width === 0).length,
      loaded: frame.contentWindow.performance.getEntriesByType("resource").length,
      title: inside.title,
      dialogs: inside.querySelectorAll("script:not([type])").length,
    }};
  }});
  document.getElementById("said").textContent = JSON.stringify(said);
}});
</script>"""


def chromium(folder, *arguments):
    """Runs Chromium without a screen and a network; returns its output and its log."""
    path = shutil.which("chromium")
    need("chromium", path)
    done = subprocess.run(
        [
            *(path, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"),
            *("--allow-file-access-from-files", f"--user-data-dir={folder}/profile"),
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
def test_a_browser_shows_the_page_without_errors(tmp_path, scheme):
    """On a desk and on a phone: nothing is wider than the screen, nothing is loaded."""
    (tmp_path / "page.html").write_text(overviews.example().to_html())
    frame = (
        '<iframe src="page.html" width="{}" height="800" style="border: 0"></iframe>'
    )
    frames = "".join(frame.format(width) for width in (390, 1200))
    (tmp_path / "harness.html").write_text(HARNESS.format(frames=frames))
    dom, log = chromium(
        tmp_path,
        f"--blink-settings=preferredColorScheme={scheme}",
        "--dump-dom",
        f"file://{tmp_path}/harness.html",
    )
    assert [line for line in log.splitlines() if "CONSOLE" in line][1:] == []
    assert log.count('"harness"') == 1  # Messages do come here.
    said = json.loads(html.unescape(re.search(r'"said">(.*?)</pre>', dom)[1]))
    ground = [int(schemes()[1 - scheme]["page"][i : i + 2], 16) for i in (1, 3, 5)]
    assert [each["width"] for each in said] == [390, 1200]
    for each in said:
        assert each["needs"] <= each["width"]
        assert each["background"] == f"rgb({', '.join(map(str, ground))})"
        assert each["drawings"] > 8 and not each["empty"]
        assert each["loaded"] == 0 and each["dialogs"] == 0
        assert overviews.NAME in each["title"]
