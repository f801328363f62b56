"""The machine that numbers depend on."""

import importlib.metadata
import json
import os
import subprocess
import sys

import kprune_machine


def test_what_is_recorded():
    found = kprune_machine.machine()
    assert found == json.loads(json.dumps(found))
    assert found["cores"] == os.cpu_count() and found["processor"]
    assert found["memory_bytes"] > 2**28
    assert found["versions"]["keras"] == importlib.metadata.version("keras")
    assert "torch-pruning" not in found["versions"]


def test_it_loads_no_keras():
    code = "import sys, kprune_machine; kprune_machine.machine(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not {"keras", "kprune", "tensorflow"} & set(done.stdout.split())
    assert "kprune_machine" in done.stdout
