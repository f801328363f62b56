"""Each public name is on one page of the reference, which `make docs` renders."""

import importlib
import pathlib
import re

import kprune

ROOT = pathlib.Path(kprune.__file__).parent.parent


def find(name):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def public():
    """Yields the names that packages say they export."""
    for path in sorted(ROOT.glob("kprune/**/__init__.py")):
        if "\n__all__ = " in path.read_text():
            package = ".".join(path.relative_to(ROOT).parent.parts)
            for name in importlib.import_module(package).__all__:
                yield f"{package}.{name}"


def test_each_public_name_is_documented_once():
    text = "".join(page.read_text() for page in ROOT.glob("docs/api/*.md"))
    documented = [find(n) for n in re.findall(r"^\.\. auto\w+:: (\S+)$", text, re.M)]
    wrong = [name for name in public() if documented.count(find(name)) != 1]
    assert wrong == [], "say `.. autoclass::` of each on a page in docs/api, once"
