"""What a smaller model costs: counted on the coupling, or measured on a file.

This module changes when another cost can be counted or measured.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from kprune.coupling.graph import analyse
from kprune.coupling.groups import Coupling
from kprune.export.convert import check_backend, convert
from kprune.export.ends import of_file
from kprune.export.interface import Interface, of_model
from kprune.export.latency import summarise
from kprune.export.litert import Session, times
from kprune.export.precision import in_float32
from kprune.export.samples import Samples, collect, random_samples
from kprune.export.slim import slim
from kprune.export.targets import Target
from kprune.export.tflm import check_installed, check_operators, run
from kprune.export.unrolling import without_loops
from kprune.report import Latency
from kprune.structure.budget import Budget, Cost
from kprune.structure.removal import Cut, remove

# Sizes and times do not depend on how well ranges are calibrated.
_SAMPLES = 32


def of(
    budget: Budget, coupling: Coupling, bypass: Mapping[int, int], data: Any
) -> Cost:
    """Returns the cost that a budget limits.

    Args:
        budget: The budget.
        coupling: The analysed model, without the blocks that go.
        bypass: Which ones these are, by the id of an operation the position of the
            input that stands for it.
        data: What exported files are calibrated on; random inputs if `None`.

    Raises:
        ValueError: If the cost cannot be measured: tflite-micro is not installed, or
            the model cannot be exported.
    """
    if budget.name in _COUNTS:
        return Counted(_COUNTS[budget.name], coupling, bool(bypass))
    device = budget.device
    if device is None:
        raise ValueError(f"{budget} needs a target to be measured on.")
    if device.name == "microcontroller" and budget.name != "flash_bytes":
        check_installed()
    files = Files(coupling, bypass, device, data)
    return _MEASURES[budget.name](files)


_COUNTS: dict[str, Callable[[Coupling, np.ndarray], int]] = {
    "params": Coupling.parameters,
    "macs": Coupling.macs,
}


@dataclasses.dataclass(frozen=True)
class Counted(Cost):
    """A number that follows from the sizes of weights.

    Args:
        count: From the analysed model and what is removed to the number.
        coupling: The analysed model.
        bypassed: Whether it was analysed without some blocks.
    """

    count: Callable[[Coupling, np.ndarray], int]
    coupling: Coupling
    bypassed: bool

    @property
    def before(self) -> float:
        """The number for the whole model."""
        whole = analyse(self.coupling.model) if self.bypassed else self.coupling
        return self.count(whole, whole.nothing())

    def after(self, removed: np.ndarray) -> float:
        """Returns the number without the removed units."""
        return self.count(self.coupling, removed)


@dataclasses.dataclass(frozen=True)
class File:
    """An exported int8 file, with what it takes to run it.

    Args:
        content: The `.tflite` bytes.
        interface: The model's inputs and outputs.
        samples: What it was calibrated on.
    """

    content: bytes
    interface: Interface
    samples: Samples

    @functools.cached_property
    def session(self) -> Session:
        """The file, loaded in LiteRT."""
        return Session(self.content, of_file(self.content, self.interface))


class Files:
    """Exports a model to int8, whole or without some of its units.

    Args:
        coupling: The analysed model, without the blocks that go.
        bypass: Which ones these are.
        device: What to export for.
        data: What to calibrate on; random inputs if `None`.

    Raises:
        ValueError: If the model cannot be exported.
    """

    def __init__(
        self, coupling: Coupling, bypass: Mapping[int, int], device: Target, data: Any
    ) -> None:
        check_backend()
        self.coupling, self.bypass, self.device = coupling, bypass, device
        inputs = of_model(coupling.model).inputs
        if data is None:
            self.samples = random_samples(inputs)
        else:
            self.samples = collect(data, inputs, _SAMPLES)

    @functools.cached_property
    def before(self) -> File:
        """The file of the model as it is."""
        return self._export(self.coupling.model)

    def after(self, removed: np.ndarray) -> File:
        """Returns the file of the model without the removed units."""
        if not self.bypass and not removed.any():
            return self.before
        cut = Cut(self.coupling, removed, self.bypass)
        return self._export(remove(self.coupling, cut)[0])

    def _export(self, model: keras.Model) -> File:
        model, _ = without_loops(in_float32(model), "int8", self.device)
        interface = of_model(model)
        integers = self.device.integer_io
        content = convert(interface, model, "int8", self.samples, integers)
        check_operators(content, self.device)
        if self.device.slim:
            content = slim(content)
        return File(content, interface, self.samples)


class Measured(Cost):
    """Something that is read off an exported file.

    Args:
        files: Makes the files.
    """

    measured = True

    def __init__(self, files: Files) -> None:
        self.files = files

    @functools.cached_property
    def before(self) -> float:
        """What the whole model's file costs."""
        return self.read(self.files.before)

    def after(self, removed: np.ndarray) -> float:
        """Returns what the file without the removed units costs."""
        file = self.files.after(removed)
        return self.before if file is self.files.before else self.read(file)

    @abc.abstractmethod
    def read(self, file: File) -> float:
        """Returns what a file costs."""

    def notes(self, said: str) -> tuple[str, ...]:
        """Returns what was measured, how, and on which inputs."""
        found = [f"{said}, {self.how}."]
        if self.files.samples.random:
            found.append(
                "The files for it were calibrated on random inputs, since no `data` "
                "was given."
            )
        return tuple(found)

    @property
    @abc.abstractmethod
    def how(self) -> str:
        """How it was measured, as a phrase."""


class Flash(Measured):
    """Bytes of the file."""

    def read(self, file: File) -> float:
        """Returns the bytes of a file."""
        return len(file.content)

    @property
    def how(self) -> str:
        """Says that these are bytes of a file."""
        return (
            f"measured on the int8 file exported for {self.files.device.runtime}; the "
            f"model as it is has {self.told(self.before)}"
        )


class Arena(Measured):
    """Bytes of the smallest arena that TensorFlow Lite Micro runs the file in."""

    def read(self, file: File) -> float:
        """Returns the bytes that a file needs."""
        one = Samples(tuple(array[:1] for array in file.samples.arrays), True)
        return run(file.content, file.session.ends, one).arena_bytes

    @property
    def how(self) -> str:
        """Says where the arena was."""
        return (
            f"measured by running the int8 file in {self.files.device.runtime}; the "
            f"model as it is needs {self.told(self.before)}"
        )


class Time(Measured):
    """The share of the time that the file of the model as it is takes."""

    @functools.cached_property
    def before(self) -> float:
        """The whole of the time, 1."""
        return 1.0

    def read(self, file: File) -> float:
        """Returns the share of the time, both files taking turns."""
        return 1 / race(self.files.before, file, self.files.device).ratio

    def told(self, value: float) -> str:
        """Returns how many times as fast a share of the time is."""
        return f"{1 / value:.2f}"

    @property
    def how(self) -> str:
        """Says against what, and where."""
        return (
            f"measured in {self.files.device.runtime} on this machine, in turns with "
            "the int8 file of the model as it is"
        )


def race(before: File, file: File, device: Target) -> Latency:
    """Times two files in turns on a target's runtime."""
    row = next(file.samples.rows())
    if device.name == "microcontroller":
        one = Samples(tuple(row), True)
        pair = run(file.content, file.session.ends, one, before.content).times
    else:
        pair = tuple(times([before.session, file.session], row))
    return summarise(device.runtime, "the model as it is", *pair)


_MEASURES: dict[str, Callable[[Files], Measured]] = {
    "flash_bytes": Flash,
    "arena_bytes": Arena,
    "latency_ratio": Time,
}
