"""Runs the tutorials' scripts: as they are, or with tfmot in the place of kprune.

    python tutorial_runs.py FOLDER

runs all of them on the real tfmot in FOLDER, and writes what they found as JSON.
"""

import json
import os
import pathlib
import sys
import warnings

HERE = pathlib.Path(__file__).parent
NAMES = (
    "train_sparse_models",
    "pruning_with_keras",
    "pruning_with_sparsity_2_by_4",
    "pruning_for_on_device_inference",
    "comprehensive_guide",
)
# The line that is changed.
OURS = "import kprune.compat.tfmot as sparsity\n"
THEIRS = "from tensorflow_model_optimization.sparsity import keras as sparsity\n"


def run(name, on_tfmot=False):
    """Returns what a script leaves in `found`; it writes files where it runs."""
    path = HERE / f"{name}.py"
    text = path.read_text()
    assert text.count(OURS) == 1
    if on_tfmot:
        text = text.replace(OURS, THEIRS)
    names = {"__name__": "tutorial"}
    exec(compile(text, str(path), "exec"), names)
    return names["found"]


if __name__ == "__main__":
    os.environ |= {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    warnings.simplefilter("ignore")
    os.chdir(sys.argv[1])
    answers = {name: run(name, on_tfmot=True) for name in NAMES}
    pathlib.Path("found.json").write_text(json.dumps(answers))
