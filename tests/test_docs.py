"""The code in docs/pruning.md runs as it stands, and prunes."""

import pathlib
import re

import numpy as np
import pytest

DOCS = pathlib.Path(__file__).parent.parent / "docs"


def test_the_code_of_the_page_on_pruning_runs():
    page = (DOCS / "pruning.md").read_text()
    names = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, names)
    model, callback = names["model"], names["callback"]
    model.compile("sgd", "mse")
    x, y = np.zeros((8, 16, 16, 3)), np.zeros((8, 10))
    model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
    sparsities = {w.path.split("/")[-2]: w.sparsity for w in callback.report.weights}
    assert sparsities == pytest.approx(
        {"conv": 0.8, "hidden": 0.5, "head": 0.5}, abs=1e-3
    )
