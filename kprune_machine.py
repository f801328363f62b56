"""The machine that something is measured on, and the versions that take part.

It lies beside the package because benchmarks of other libraries, in environments where
`import kprune` would load Keras, record the same. This module changes when a
measurement depends on something else.
"""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = (
    "kprune",
    "keras",
    "tf_keras",
    "tensorflow",
    "tensorflow-model-optimization",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "tflite-micro",
    "ethos-u-vela",
    "numpy",
)
"""The distributions whose versions are recorded, where they are installed."""


def machine() -> dict[str, Any]:
    """Returns what numbers depend on: day, processor, memory, load, versions.

    Returns:
        `date` (ISO), `processor`, `cores`, `memory_bytes` (`None` where the system does
        not tell), `load_average` of 1, 5 and 15 minutes (none on Windows), `system`,
        `python`, and `versions` by distribution.
    """
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    load = os.getloadavg() if hasattr(os, "getloadavg") else ()
    return {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory(),
        "load_average": [round(each, 2) for each in load],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        for entry in Path("/proc/cpuinfo").read_text().splitlines():
            if entry.startswith("model name"):
                return entry.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
