"""From what users write as `target=` and `quantization=` to the facts of a target.

This module changes when users may say in another way what device they have.
"""

import dataclasses
import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from kprune.export.targets import QUANTIZATIONS, TARGETS, Target

Device = str | os.PathLike[str] | Mapping[str, Any] | Target
"""What `target=` may be: a name, a description, or the path of one in YAML."""


def choose(device: Device, quantization: str | None) -> tuple[Target, str]:
    """Returns the target and the quantisation that the user's words mean.

    Args:
        device: A key of `TARGETS`; a description of a target as `described` takes it;
            or the path of a `.yaml` file that holds one.
        quantization: A key of `QUANTIZATIONS`; `None` for the target's default.

    Raises:
        TypeError: If the device is of none of these types.
        ValueError: If either is unknown or badly described, or the target cannot run
            the quantisation.
    """
    found = target_of(device)
    if quantization is None:
        return found, found.default_quantization
    quantization = known("quantization", quantization, QUANTIZATIONS)
    if quantization in found.refused:
        raise ValueError(
            f"target={found.name!r} cannot run quantization={quantization!r}: "
            f"{found.refused[quantization]}. Use one of {found.quantizations}."
        )
    return found, quantization


def target_of(device: Device) -> Target:
    """Returns the target that the user's word, description or file means."""
    if isinstance(device, Target):
        return device
    if isinstance(device, Mapping):
        return described(device)
    if isinstance(device, os.PathLike) or (
        isinstance(device, str) and device.endswith((".yaml", ".yml"))
    ):
        return _read(Path(device))
    return TARGETS[known("target", device, TARGETS)]


def described(description: Mapping[str, Any], source: str = "target") -> Target:
    """Returns a target of the user's own.

    Args:
        description: `"name"`, and `"like"`, the name of the target that it is like but
            for what else is said: `"flash"` and `"arena"`, the most bytes of the file
            and of memory; `"operators"`, a list of the operators that the firmware
            has, in the words of the TFLite schema; `"channel_multiple"`;
            `"quantization"`, the default; `"slim"` and `"integer_io"`, whether; and
            for an Ethos-U `"system"` and `"memory"`, Vela's words for the system and
            its memory mode.
        source: Where it is from, for messages.

    Raises:
        ValueError: If an entry is missing, unknown, or not what is expected.
    """
    for name in ("name", "like"):
        if not isinstance(description.get(name), str) or not description[name]:
            raise ValueError(
                f"{source}: needs {name!r}, a text. Received: {dict(description)!r}. "
                "For instance {'name': 'my-board', 'like': 'microcontroller', "
                "'flash': 262144, 'arena': 65536}."
            )
    base = TARGETS[known(f"{source}: like", description["like"], TARGETS)]
    changes: dict[str, Any] = {"name": description["name"]}
    npu = base.npu
    for key, value in description.items():
        if key in ("name", "like"):
            continue
        read = _ENTRIES[known(f"{source}: entry", key, _ENTRIES)]
        found = read(f"{source}: {key!r}", value)
        if key in ("system", "memory"):
            if npu is None:
                raise ValueError(
                    f"{source}: {key!r} is for Vela, and {base.name!r} has no NPU. "
                    "Leave it out, or be like an Ethos-U."
                )
            npu = dataclasses.replace(npu, **{key: found})
        elif key == "quantization":
            choose(base, found)
            changes["default_quantization"] = found
        else:
            changes[key] = found
    if changes.get("arena") is not None and not base.micro:
        raise ValueError(
            f"{source}: {base.runtime} has no arena. Leave 'arena' out, or be like a "
            "microcontroller."
        )
    if "operators" in changes:
        _check_operators(source, base, changes["operators"])
        changes["operators_source"] = source
    return dataclasses.replace(base, **changes, npu=npu)


def limited(target: Target, flash: int | None, arena: int | None) -> Target:
    """Returns a target with the limits that the user gives beside it."""
    changes: dict[str, Any] = {
        name: _bytes(f"`{name}`", value)
        for name, value in (("flash", flash), ("arena", arena))
        if value is not None
    }
    if "arena" in changes and not target.micro:
        raise ValueError(
            f"`arena` is for microcontrollers: {target.runtime}, the runtime of "
            f"target={target.name!r}, has none."
        )
    return dataclasses.replace(target, **changes) if changes else target


def known(argument: str, value: object, allowed: Iterable[str]) -> str:
    """Returns `value` if allowed; otherwise raises, naming the nearest allowed one."""
    names = tuple(allowed)
    if isinstance(value, str) and value in names:
        return value
    folded = {name.lower(): name for name in names}
    near = difflib.get_close_matches(str(value).lower(), folded, n=1, cutoff=0.5)
    hint = f" Did you mean {folded[near[0]]!r}?" if near else ""
    raise ValueError(
        f"Unknown `{argument}`. Received: {value!r}.{hint} "
        f"Expected one of {', '.join(map(repr, names))}."
    )


def _read(path: Path) -> Target:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        # Of a few lines of aliases a value can be made that is too long to be shown.
        aliased = any(isinstance(e, yaml.AliasEvent) for e in yaml.parse(text))
        content = None if aliased else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Cannot read the description of a target, {str(path)!r}: {error}."
        ) from error
    # The others are of values that are tagged by hand, such as `!!bool x`.
    except (
        *(yaml.YAMLError, RecursionError),
        *(AttributeError, KeyError, TypeError, ValueError),
    ) as error:
        raise ValueError(f"{str(path)!r} is no YAML: {error}") from error
    if aliased:
        raise ValueError(f"{str(path)!r} has aliases: write out what they stand for.")
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{str(path)!r} must hold 'name: ...', 'like: ...' and so on. "
            f"Received: {type(content).__name__}."
        )
    return described(content, str(path))


def _whole(what: str, value: Any, unit: str, example: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            f"{what} must be a whole number of {unit}, at least 1, such as {example}. "
            f"Received: {value!r}."
        )
    return value


def _bytes(what: str, value: Any) -> int:
    return _whole(what, value, "bytes", 262144)


def _multiple(what: str, value: Any) -> int:
    return _whole(what, value, "channels", 8)


def _flag(what: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{what} must be true or false. Received: {value!r}.")
    return value


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a text. Received: {value!r}.")
    return value


def _names(what: str, value: Any) -> frozenset[str]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(
            f"{what} must be a list of operators, such as ['CONV_2D', 'SOFTMAX']. "
            f"Received: {value!r}."
        )
    return frozenset(_text(what, item) for item in value)


_ENTRIES: Mapping[str, Callable[[str, Any], Any]] = {
    "flash": _bytes,
    "arena": _bytes,
    "operators": _names,
    "channel_multiple": _multiple,
    "quantization": _text,
    "slim": _flag,
    "integer_io": _flag,
    "system": _text,
    "memory": _text,
}


def _check_operators(source: str, base: Target, names: frozenset[str]) -> None:
    """Raises if the user names operators that nobody has."""
    allowed = base.operators
    if allowed is None:
        from ai_edge_litert.schema_py_generated import BuiltinOperator

        allowed = frozenset(name for name in vars(BuiltinOperator) if name.isupper())
    for name in sorted(names - allowed):
        known(f"{source}: operators", name, sorted(allowed))
