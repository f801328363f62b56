"""The doctor: what it says of packages that are there, missing, too old or broken."""

import importlib.metadata
import json
import pathlib
import tomllib

import pytest
from typer.testing import CliRunner

import kprune_cli
import kprune_doctor

PROJECT = pathlib.Path(kprune_doctor.__file__).with_name("pyproject.toml")


@pytest.fixture
def requires(monkeypatch):
    """Sets what kprune needs, in the words of its metadata."""

    def set_to(*lines):
        monkeypatch.setattr(importlib.metadata, "requires", lambda name: list(lines))

    return set_to


def test_only_extras_that_exist_are_told():
    extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]
    developers = {"test", "dev", "docs", "notebook", "bench"}
    assert set(kprune_doctor.EXTRAS) == set(extras) - developers


def test_what_is_there_is_fine(requires):
    requires("numpy>=2.0", "pyyaml", 'jinja2>=3; extra == "report"')
    found = kprune_doctor.checkup()
    assert found.healthy
    assert [package.name for package in found.packages] == ["numpy", "pyyaml"]
    [report] = [extra for extra in found.extras if extra.name == "report"]
    assert [package.name for package in report.packages] == ["jinja2"]
    assert report.problems == ()
    assert f"report  ok: {kprune_doctor.EXTRAS['report']}" in str(found)


def test_problems_are_told_with_the_cure(requires):
    requires(
        "numpy>=99",
        "no-such-package",
        'nothing-here>=1; extra == "micro"',
        'kprune[micro]; extra == "ethos"',
    )
    result = CliRunner().invoke(kprune_cli.app, ["doctor"])
    assert result.exit_code == 1
    assert "must be >=99" in result.stdout
    assert "pip install --upgrade kprune" in result.stdout
    for extra in ("micro", "ethos"):
        assert f"{extra:<8}nothing-here is not installed: " in result.stdout
        assert f"pip install 'kprune[{extra}]'" in result.stdout
    found = json.loads(CliRunner().invoke(kprune_cli.app, ["doctor", "--json"]).stdout)
    assert found["healthy"] is False
    assert found["packages"][1]["installed"] is None
    assert [e["works"] for e in found["extras"] if e["name"] == "micro"] == [False]


@pytest.mark.parametrize(
    "code, said",
    [
        ("raise ImportError('no such symbol')", "ImportError: no such symbol"),
        ("import os; os.kill(os.getpid(), 4)", "with signal 4"),
    ],
)
def test_what_does_not_load_is_said(requires, monkeypatch, tmp_path, code, said):
    (tmp_path / "broken.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(kprune_doctor._MODULES, "numpy", "broken")
    requires("numpy")
    found = kprune_doctor.checkup()
    assert not found.healthy and said in found.packages[0].problem


def test_kprune_that_is_not_installed_is_refused(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    result = CliRunner().invoke(kprune_cli.app, ["doctor"])
    assert result.exit_code == 1 and "pip install -e" in result.stderr
