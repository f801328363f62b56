"""`kprune doctor`: what is installed, whether it loads, and what extras would bring.

It lies beside the package because it has to work where `import kprune` fails. What is
needed is read from kprune's own metadata, so that it is said once, in pyproject.toml.
This module changes when something else can be wrong with an installation.
"""

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

EXTRAS: Mapping[str, str] = {
    "micro": "running, proving and timing files for microcontrollers",
    "ethos": "files for Ethos-U NPUs, compiled with Vela",
    "int4": "quantization int4, for android",
    "report": "plots, and pictures of plans to shrink",
    "search": "kprune.sweep, which searches over recipes",
    "tfmot": "reading files that tfmot pruned, and proving the result",
}
"""What users get from each extra; those that are missing here are for developers."""

# Where a distribution's modules have another name, or one that says more is to be had.
_MODULES = {
    "ai-edge-litert": "ai_edge_litert.interpreter",
    "ethos-u-vela": "ethosu.vela",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "tensorflow-model-optimization": "tensorflow_model_optimization",
    "tflite-micro": "tflite_micro.python.tflite_micro.runtime",
}
_SECONDS = 120


@dataclasses.dataclass(frozen=True)
class Package:
    """A package that kprune, or an extra, needs.

    Args:
        name: Its name on PyPI.
        needed: The versions that are needed, such as `">=3.15,<4"`.
        installed: The version that is there; `None` for none.
        problem: What is wrong, in a few words; empty for nothing.
    """

    name: str
    needed: str
    installed: str | None
    problem: str


@dataclasses.dataclass(frozen=True)
class Extra:
    """An extra, and what is there of it.

    Args:
        name: Its name.
        enables: What it is for.
        packages: What it needs.
    """

    name: str
    enables: str
    packages: tuple[Package, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with its packages; empty if it works."""
        return tuple(f"{p.name} {p.problem}" for p in self.packages if p.problem)


@dataclasses.dataclass(frozen=True)
class Checkup:
    """What was found. `print` it.

    Args:
        version: kprune's.
        python: Python's.
        system: Operating system and processor.
        packages: What kprune always needs.
        extras: What it can make use of.
    """

    version: str
    python: str
    system: str
    packages: tuple[Package, ...]
    extras: tuple[Extra, ...]

    @property
    def healthy(self) -> bool:
        """Whether all that kprune always needs is there and loads."""
        return not any(package.problem for package in self.packages)

    def to_json(self) -> str:
        """Returns the findings as JSON text."""
        values = dataclasses.asdict(self) | {"healthy": self.healthy}
        for entry, extra in zip(values["extras"], self.extras, strict=True):
            entry["works"] = not extra.problems
        return json.dumps(values, indent=2)

    def __str__(self) -> str:
        lines = [
            f"kprune {self.version}, Python {self.python}, {self.system}",
            "",
            *(
                f"{package.name:<16}{package.installed or '-':<22}"
                f"{package.problem or 'ok'}"
                for package in self.packages
            ),
        ]
        if not self.healthy:
            lines.append("Install what is missing: pip install --upgrade kprune")
        lines += ["", "Extras:"]
        for extra in self.extras:
            state = "; ".join(extra.problems) or "ok"
            lines.append(f"{extra.name:<8}{state}: {extra.enables}")
            if extra.problems:
                lines.append(f"        pip install 'kprune[{extra.name}]'")
        return "\n".join(lines)


def checkup() -> Checkup:
    """Looks at this installation, which takes seconds: each package is imported.

    Imports run in processes of their own, since one that fails may end its process.

    Raises:
        ValueError: If kprune is not installed, so that its needs are not known.
    """
    try:
        version = importlib.metadata.version("kprune")
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(
            "kprune runs from its source folder and is not installed, so that what it "
            "needs is not known. Install it: pip install -e FOLDER."
        ) from error
    known = importlib.metadata.metadata("kprune").get_all("Provides-Extra") or []
    extras = [name for name in EXTRAS if name in known]
    needs = {extra: dict(_needs(extra)) for extra in ("", *extras)}
    every = {name: needed for each in needs.values() for name, needed in each.items()}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        seen = dict(zip(every, pool.map(_look, every, every.values()), strict=True))
    return Checkup(
        version=version,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages=tuple(seen[name] for name in needs[""]),
        extras=tuple(
            Extra(extra, EXTRAS[extra], tuple(seen[name] for name in needs[extra]))
            for extra in extras
        ),
    )


def _needs(extra: str) -> Iterator[tuple[str, str]]:
    """Yields name and versions of what an extra needs, or kprune itself if empty."""
    from packaging.requirements import Requirement

    for line in importlib.metadata.requires("kprune") or ():
        found = Requirement(line)
        if found.marker is None:
            wanted = not extra
        else:
            wanted = bool(extra) and found.marker.evaluate({"extra": extra})
        if not wanted:
            continue
        if found.name == "kprune":
            for other in sorted(found.extras):
                yield from _needs(other)
        else:
            yield found.name, str(found.specifier)


def _look(name: str, needed: str) -> Package:
    from packaging.specifiers import SpecifierSet

    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Package(name, needed, None, "is not installed")
    if not SpecifierSet(needed).contains(installed, prereleases=True):
        return Package(name, needed, installed, f"must be {needed}")
    failure = _import_failure(_MODULES.get(name, name.replace("-", "_")))
    return Package(name, needed, installed, failure)


def _import_failure(module: str) -> str:
    """Returns why a module cannot be imported; empty if it can."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"was not imported within {_SECONDS} seconds"
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"ends its process when imported, with signal {-done.returncode}"
    return "cannot be imported: " + (done.stderr.strip().splitlines() or ["?"])[-1]
