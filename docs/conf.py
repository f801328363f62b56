"""How Sphinx makes a site of these pages: `make docs`.

Its source is the root of the repository and not this folder, so that links between
docs, README, benchmarks and examples are the ones that GitHub follows, and are checked.
"""

import re
from typing import Any

from sphinx.application import Sphinx

project = "kprune"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "benchmarks/*.md", "examples/*/*.md"]
exclude_patterns = [".*", "build"]

myst_heading_anchors = 4

# Words in single backticks: a link if they name something, else as they are.
default_role = "py:obj"
autodoc_default_options = {
    "members": True,
    # What Keras calls, and users do not.
    "exclude-members": "set_model, on_train_begin, on_train_end, on_epoch_begin, "
    "on_epoch_end, on_train_batch_begin, on_train_batch_end",
}
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # Their docstrings say more, and shorter.
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = "kprune"
html_show_copyright = False
html_copy_source = False


def navigation(app: Sphinx, docname: str, source: list[str]) -> None:
    """Makes the sidebar of the lists in index.md: a page in none is an error."""
    if docname != root_doc:
        return
    for part in re.split(r"^## ", source[0], flags=re.MULTILINE)[1:]:
        title, _, text = part.partition("\n")
        pages = re.findall(r"^- \[([^]]*)\]\(([^)#]*)\.md\)", text, re.MULTILINE)
        entries = "\n".join(f"{name} <{page}>" for name, page in pages)
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n{entries}\n```\n"


def from_markdown(
    app: Sphinx, what: str, name: str, item: Any, options: Any, lines: list[str]
) -> None:
    """Turns what docstrings have of Markdown into what Sphinx reads.

    A paragraph that is indented is code, bars and stars are themselves, and words in
    backticks are literal unless they are names.
    """
    text, before, code = list(lines), 0, None
    lines.clear()
    for line in text:
        indent = len(line) - len(line.lstrip())
        if line and code is not None and indent <= code:
            code = None
        if line and code is None and indent > before and lines[-1:] == [""]:
            lines += [" " * before + "::", ""]
            code = before
        if code is None and not line.lstrip().startswith((">>>", "...")):
            parts = re.split("`([^`]*)`", line)
            parts[::2] = [re.sub(r"([|*])", r"\\\1", part) for part in parts[::2]]
            parts[1::2] = [
                f"`{part}`" if re.fullmatch(r"[A-Za-z_][\w.]*", part) else f"``{part}``"
                for part in parts[1::2]
            ]
            line = "".join(parts)
        lines.append(line)
        if line and code is None:
            before = indent


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", navigation)
    app.connect("autodoc-process-docstring", from_markdown, priority=400)
