"""Compiling a `.tflite` file for an Ethos-U NPU with Arm's Vela, and its estimate.

This module changes when Vela's command line or its summary does. Vela runs in a process
of its own: its native core can end the process that it runs in.

Source: https://pypi.org/project/ethos-u-vela/, version 5.2.
"""

import csv
import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path

from kprune.export import tflite
from kprune.export.files import temporary_folder
from kprune.export.targets import Npu, Target
from kprune.report import NpuEstimate

_TIMEOUT_SECONDS = 600.0
_KIB = 1024
OPERATOR = "CUSTOM:ethos-u"
"""What stands in a compiled file for all that the NPU runs."""
_MEMORIES = ("sram", "dram", "on_chip_flash", "off_chip_flash")


def check_installed(target: Target) -> None:
    """Raises a `ValueError` with the cure if Vela is not installed."""
    if importlib.util.find_spec("ethosu") is None:
        raise ValueError(
            f"target={target.name!r} compiles the file with Arm's Vela, whose package "
            "is not installed. Install it: pip install 'kprune[ethos]'"
        )


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A file for an NPU.

    Args:
        content: The compiled file.
        estimate: What Vela estimates of it.
        filled: What it estimates of the same file without zeros.
    """

    content: bytes
    estimate: NpuEstimate
    filled: NpuEstimate


def compiled(data: bytes, filled: bytes, npu: Npu) -> Compiled:
    """Returns a file compiled for an NPU, beside the estimate of one without zeros.

    Raises:
        ValueError: If Vela fails, crashes or does not end; with its own words.
    """
    return Compiled(*compile_file(data, npu), compile_file(filled, npu)[1])


def compile_file(data: bytes, npu: Npu) -> tuple[bytes, NpuEstimate]:
    """Returns a file compiled for an NPU, and what Vela estimates of it.

    Args:
        data: An int8 or int16x8 `.tflite` file.
        npu: The accelerator, and the system that it is in.

    Raises:
        ValueError: If Vela fails, crashes or does not end; with its own words.
    """
    with temporary_folder() as folder:
        (folder / "model.tflite").write_bytes(data)
        _run(folder, npu)
        content = (folder / "out" / "model_vela.tflite").read_bytes()
        (summary,) = (folder / "out").glob("*_summary_*.csv")
        with summary.open(newline="") as file:
            row = next(csv.DictReader(file))
    return content, _estimate(content, row)


def _run(folder: Path, npu: Npu) -> None:
    command = [
        *(sys.executable, "-m", "ethosu.vela", str(folder / "model.tflite")),
        *("--accelerator-config", npu.accelerator),
        *("--config", "Arm/vela.ini"),
        *("--system-config", npu.system, "--memory-mode", npu.memory),
        *("--output-dir", str(folder / "out")),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            f"Vela did not compile the file for {npu.accelerator} within "
            f"{_TIMEOUT_SECONDS:.0f} s. Nothing was written."
        ) from error
    written = folder / "out" / "model_vela.tflite"
    if done.returncode == 0 and written.exists():
        return
    said = f"{done.stdout}\n{done.stderr}".splitlines()
    words = "\n  ".join(line.strip() for line in said if line.strip())
    ending = (
        f"it crashed with signal {-done.returncode}"
        if done.returncode < 0
        else f"exit code {done.returncode}"
    )
    raise ValueError(
        f"Vela cannot compile the file for {npu.accelerator} ({ending}). Nothing was "
        "written. Export it with target='microcontroller' to see whether it runs "
        f"without an NPU. Vela's own words:\n  {words[-1500:]}"
    )


def _estimate(content: bytes, row: dict[str, str]) -> NpuEstimate:
    counts = tflite.parse(content).operator_counts()
    counts.pop(OPERATOR, None)
    return NpuEstimate(
        cycles=round(float(row["cycles_total"])),
        npu_cycles=round(float(row["cycles_npu"])),
        milliseconds=1e3 * float(row["inference_time"]),
        file_bytes=len(content),
        memory_bytes={
            name: round(_KIB * float(row[f"{name}_memory_used"]))
            for name in _MEMORIES
            if float(row[f"{name}_memory_used"])
        },
        traffic_bytes=sum(int(float(row[f"{name}_total_bytes"])) for name in _MEMORIES),
        macs=round(float(row["nn_macs"])),
        weight_bytes=round(float(row["total_original_weights"])),
        encoded_weight_bytes=round(float(row["total_npu_encoded_weights"])),
        on_cpu=counts,
    )
