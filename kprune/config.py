"""How kprune's settings are written down and found again by name.

This module changes when the way of serialising changes, for all settings at once.
"""

import dataclasses
from typing import Any, Self, TypeVar

import keras

from kprune.naming import nearest

T = TypeVar("T", bound="Config")


class Config:
    """Base of all settings: frozen dataclasses that survive a round trip.

    The configuration is derived from the dataclass fields, so that no setting can be
    forgotten. Subclasses are decorated with `@dataclasses.dataclass(frozen=True)` and
    `@keras.saving.register_keras_serializable("kprune")`.
    """

    def get_config(self) -> dict[str, Any]:
        """Returns the fields as values that JSON can hold."""
        return {
            field.name: keras.saving.serialize_keras_object(getattr(self, field.name))
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Returns the setting that `get_config` described."""
        return cls(
            **{
                name: keras.saving.deserialize_keras_object(value)
                for name, value in config.items()
            }
        )


def get(base: type[T], identifier: Any) -> T:
    """Returns an instance of `base` from an instance, a name or a configuration.

    Args:
        base: The abstract class that the result belongs to, e.g. `Criterion`.
        identifier: An instance of `base`; or the name of a subclass that needs no
            arguments, in any case, with or without underscores (`"magnitude"`); or
            what `keras.saving.serialize_keras_object` made of an instance.

    Raises:
        ValueError: If no subclass has that name; the known names are listed.
        TypeError: If `identifier` is of none of these types.
    """
    if isinstance(identifier, base):
        return identifier
    if isinstance(identifier, dict):
        return get(base, keras.saving.deserialize_keras_object(identifier))
    if isinstance(identifier, str):
        every = {cls.__name__.lower(): cls for cls in concrete_subclasses(base)}
        named = {
            name: cls
            for name, cls in every.items()
            if all(_has_default(field) for field in dataclasses.fields(cls))  # type: ignore[arg-type]
        }
        name = identifier.replace("_", "").lower()
        if name in named:
            return named[name]()
        near = nearest(name, every)
        hint = ""
        if near in named:
            hint = f" Did you mean {near!r}?"
        elif near:
            hint = f" kprune.{every[near].__name__}(...) needs arguments."
        raise ValueError(
            f"Unknown {base.__name__.lower()} {identifier!r}.{hint} "
            f"Use one of {sorted(named)}, or an instance of {base.__name__}."
        )
    raise TypeError(
        f"Expected a {base.__name__}, or its name as a string. "
        f"Received {identifier!r} of type {type(identifier).__name__}."
    )


def concrete_subclasses(base: type[T]) -> list[type[T]]:
    """Returns the subclasses of `base`, at any depth, that can be instantiated."""
    found = []
    for cls in base.__subclasses__():
        if not getattr(cls, "__abstractmethods__", None):
            found.append(cls)
        found.extend(concrete_subclasses(cls))
    return found


def _has_default(field: "dataclasses.Field[Any]") -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def check_fraction(name: str, value: Any, owner: str) -> None:
    """Raises unless `value` is a sparsity, a number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            f"{owner}: `{name}` must be a number in [0, 1), the fraction of zeros. "
            f"Received {value!r} of type {type(value).__name__}."
        )
    if not 0 <= value < 1:
        hint = f" Did you mean {value / 100:g}?" if 1 < value < 100 else ""
        raise ValueError(
            f"{owner}: `{name}` is the fraction of zeros and must lie in [0, 1). "
            f"Received {value!r}.{hint}"
        )


def check_seed(owner: str, seed: Any) -> None:
    """Raises ValueError unless it is an integer of at least 0."""
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(
            f"{owner}: `seed` must be an integer of at least 0. Received {seed!r}."
        )
