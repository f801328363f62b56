"""Runs the notebooks from top to bottom, and fails where one fails.

python notebooks/run.py           # a short setting, nothing is written
python notebooks/run.py --write   # the full setting; outputs go into the notebooks
python notebooks/run.py 03 05     # only those whose names begin so
"""

import argparse
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def main() -> None:
    """Runs each notebook in this folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="how the notebooks' names begin")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    write, names = arguments.write, tuple(arguments.names) or ("",)
    os.environ["KPRUNE_QUICK"] = "0" if write else "1"
    notebooks = [
        path
        for path in sorted(Path(__file__).parent.glob("*.ipynb"))
        if path.name.startswith(names)
    ]
    if not notebooks:
        sys.exit("There are no such notebooks here.")
    for path in notebooks:
        start = time.perf_counter()
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=3600, kernel_name="python3").execute()
        if write:
            for cell in notebook.cells:
                cell.get("metadata", {}).pop("execution", None)
                cell["outputs"] = [
                    output
                    for output in cell.get("outputs", [])
                    # What TensorFlow says when it is imported is of this machine.
                    if "absl::InitializeLog" not in output.get("text", "")
                ]
                if cell.cell_type != "code":
                    del cell["outputs"]
            nbformat.write(notebook, path)
        print(f"{path.name}: ran in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
