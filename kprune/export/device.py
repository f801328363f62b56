"""How to time a file where it will run: commands and code, for a person to use.

This module changes when LiteRT's benchmark tool, adb or TensorFlow Lite Micro's timer
do. Nothing is run on a device from here.

Sources: https://ai.google.dev/edge/litert/models/measurement (benchmark_model and its
options), https://developer.android.com/tools/adb, and for boards
https://github.com/tensorflow/tflite-micro/blob/main/tensorflow/lite/micro/micro_time.h
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from kprune.export import tflite
from kprune.export.choosing import known
from kprune.export.encoding import DECODE
from kprune.export.files import read_tflite

DEVICES = ("android", "board")

_ADB_SECONDS = 20.0
_FOLDER = "/data/local/tmp"
_TOOL = f"{_FOLDER}/benchmark_model"

_ANDROID = """\
{found}

Once, get LiteRT's benchmark_model for the device's processor (for 64-bit Arm that is
android_aarch64_benchmark_model), from
https://ai.google.dev/edge/litert/models/measurement, and put it on the device:

  {adb} push android_aarch64_benchmark_model {tool}
  {adb} shell chmod +x {tool}

Then:

{push}
{run}

Read "Inference (avg)", in microseconds. Let the device cool between runs, and keep it
unlocked. On most devices with eight cores, `taskset f0` before benchmark_model's path
keeps it on the fast ones."""

_TURNS = """\
  for round in 1 2 3 4 5; do
{runs}
  done

Take the ratio within each round, and of the ratios the median."""

_BOARD = """\
The file must be in the firmware as an aligned constant array.
{array}

Around Invoke(), in the firmware:

  #include "tensorflow/lite/micro/micro_log.h"
  #include "tensorflow/lite/micro/micro_time.h"

  for (int round = 0; round < 20; ++round) {{
    // Fill the inputs here, each time: they share memory with activations.
    const uint32_t begin = tflite::GetCurrentTimeTicks();
    interpreter.Invoke();
    const uint32_t ticks = tflite::GetCurrentTimeTicks() - begin;
    MicroPrintf("%u ticks of 1/%u s", ticks, tflite::ticks_per_second());
  }}

If that prints 1/0 s, the platform has no timer: write ticks_per_second() and
GetCurrentTimeTicks() for it, from the cycle counter (DWT->CYCCNT on Cortex-M) and the
core's clock. Build with optimised kernels (OPTIMIZED_KERNEL_DIR=cmsis_nn on Cortex-M),
with -O2 or -Os as in the product, and read the median.
`kprune bench {file} --runtime tflm` says how large the tensor arena must be.{decode}"""

_DECODE = """

Weights of this file are decoded while it runs: resolver.AddDecode(), of a TensorFlow
Lite Micro of 2025 or later."""


def instructions(
    device: str,
    file: str | os.PathLike[str],
    baseline: str | os.PathLike[str] | None = None,
) -> str:
    """Returns what to type or write to time a file on a device.

    Args:
        device: `"android"`, for a device at adb, or `"board"`, for a microcontroller.
        file: The `.tflite` file.
        baseline: Another one to take turns with; for Android.

    Raises:
        ValueError: If the device is unknown, or a file cannot be read.
    """
    device = known("device", device, DEVICES)
    data = read_tflite("file", file)
    paths = [Path(file)]
    if baseline is not None:
        read_tflite("baseline", baseline)
        paths.insert(0, Path(baseline))
    return _for_android(paths) if device == "android" else _for_board(paths[-1], data)


def _for_android(files: Sequence[Path]) -> str:
    serials = _serials()
    if serials is None:
        found = "There is no adb here: https://developer.android.com/tools/adb"
    elif not serials:
        found = "adb finds no device: connect one, and allow USB debugging on it."
    else:
        found = f"adb finds {', '.join(serials)}. Nothing is run on it by kprune."
    adb = f"adb -s {shlex.quote(serials[0])}" if serials else "adb"
    # Files of the same name, from two folders, must not meet on the device.
    names = [file.name for file in files]
    if len(set(names)) < len(names):
        names = [f"{index}-{name}" for index, name in enumerate(names)]
    targets = [f"{_FOLDER}/{name}" for name in names]
    pushes = [
        f"  {adb} push {shlex.quote(str(file))} {shlex.quote(target)}"
        for file, target in zip(files, targets, strict=True)
    ]
    # The device's shell splits words once more.
    runs = [
        f"{adb} shell "
        + shlex.quote(
            f"{_TOOL} --graph={shlex.quote(target)} --num_threads=1 --use_xnnpack=true"
        )
        for target in targets
    ]
    if len(runs) == 1:
        run = f"  {runs[0]}"
    else:
        run = _TURNS.format(runs="\n".join(f"    {line}" for line in runs))
    return _ANDROID.format(
        found=found, adb=adb, tool=_TOOL, push="\n".join(pushes), run=run
    )


def _serials() -> list[str] | None:
    """Returns the serial numbers of devices that adb may use; `None` without adb."""
    adb = shutil.which("adb")
    if adb is None:
        return None
    try:
        done = subprocess.run(
            [adb, "devices"], capture_output=True, text=True, timeout=_ADB_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    return [row[0] for row in rows if len(row) == 2 and row[1] == "device"]


def _for_board(file: Path, data: bytes) -> str:
    source = file.with_suffix(".c")
    if source.is_file():
        array = f"There is one in {source}."
    else:
        array = (
            "kprune.export(..., target='microcontroller') writes one beside its file; "
            "make it from\nany other with\n\n"
            f"  xxd -i {shlex.quote(str(file))} > model.cc\n\n"
            "and write `alignas(16) const` in front of the array."
        )
    encoded = DECODE in tflite.parse(data).operator_counts()
    return _BOARD.format(
        array=array,
        file=shlex.quote(str(file)),
        decode=_DECODE if encoded else "",
    )
