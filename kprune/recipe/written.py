"""Settings as YAML that people write, and back, with the line of each mistake.

A setting with a family, such as a criterion, is its name, or its name with arguments:
`magnitude`, `{magnitude: {order: 1}}`. One with a single argument takes it directly:
`{fit_fraction: 0.5}`. All others, such as a rule, are their arguments by name; a text
alone is the only one that has to be there. What has its default value is left out.
This module changes when the form of that text does.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from kprune.allocation import Allocation
from kprune.config import Config, concrete_subclasses, get
from kprune.criteria import Criterion
from kprune.granularity import Granularity
from kprune.naming import nearest
from kprune.plan import Rule
from kprune.recipe.stages import Stage
from kprune.regrowth import Regrowth
from kprune.regularization import Regularization
from kprune.schedules import Epochs, FitFraction, Schedule, SparsityFunction

T = TypeVar("T", bound=Config)

_FAMILIES: list[type[Config]] = [
    Schedule,
    Criterion,
    Granularity,
    Allocation,
    Regrowth,
    Regularization,
    Stage,
]
_MOMENTS: list[type[Config]] = [Epochs, FitFraction]


def write(setting: Config) -> str:
    """Returns a setting as YAML.

    Raises:
        ValueError: If it holds what is no text, such as a function or a layer.
    """
    import yaml

    plain = _plain(setting)
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    if "\x85" in text:  # A line break that PyYAML writes as it is and reads as a space.
        text = yaml.safe_dump(plain, sort_keys=False)
    return text


def read(cls: type[T], text: str, source: str) -> T:
    """Returns the setting of a class that a YAML text describes.

    Args:
        cls: The class.
        text: The text. Nothing but plain values is made of it.
        source: Where it is from, for messages.

    Raises:
        ValueError: If it is no YAML, a key is unknown, missing or there twice, or a
            value is not what is expected; with the line.
    """
    reader = _Reader(source, text)
    return reader.of_class(cls, reader.root, cls.__name__.lower())


def _plain(value: Any) -> Any:
    if isinstance(value, SparsityFunction) or not isinstance(
        value, Config | list | tuple | Mapping | str | int | float | None
    ):
        raise ValueError(
            "A recipe is a text, and cannot hold functions, layers and classes. "
            f"Received {value!r}. Name layers by patterns such as 'dense*', and take a "
            "schedule such as PiecewiseSparsity."
        )
    if isinstance(value, Config):
        return _named(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value) if isinstance(value, int) else float(value)
    return value


def _named(setting: Config) -> Any:
    fields = dataclasses.fields(setting)  # type: ignore[arg-type]
    given = {
        field.name: _plain(value)
        for field in fields
        if not _is(value := getattr(setting, field.name), field.default)
    }
    if isinstance(setting, Rule):
        given["schedule"] = _schedule(setting)
    content: Any = given
    if given and len(fields) == 1:
        (content,) = given.values()
    elif list(given) == _needed(type(setting)) and _is_text(*given.values()):
        (content,) = given.values()
    if not isinstance(setting, (*_FAMILIES, *_MOMENTS)):
        return content
    content = given if len(fields) > 1 else content
    name = snake(type(setting).__name__)
    return {name: content} if given else name


def _schedule(rule: Rule) -> Any:
    """Returns a rule's schedule, the default one as the sparsity alone."""
    final = rule.schedule.final_sparsity
    if isinstance(final, float) and rule == dataclasses.replace(
        rule,
        schedule=final,  # type: ignore[arg-type]
    ):
        return final
    return _plain(rule.schedule)


def _is(value: Any, default: Any) -> bool:
    return type(value) is type(default) and value == default


def snake(name: str) -> str:
    """Returns the name of a class as it is written: `polynomial_decay`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z0-9])", "_", name).lower()


class _Reader:
    """Reads one text.

    Args:
        source: Where it is from.
        text: The text.

    Attributes:
        root: The node of the whole.
    """

    def __init__(self, source: str, text: str) -> None:
        import yaml

        class Loader(yaml.SafeLoader):
            def compose_node(self, parent: Any, index: Any) -> Any:
                if self.check_event(yaml.AliasEvent):
                    mark = self.peek_event().start_mark
                    told = "write out what the alias stands for"
                    raise yaml.MarkedYAMLError(None, None, told, mark)
                return super().compose_node(parent, index)

        # YAML 1.1, which PyYAML reads, takes 1e-3 for a text.
        Loader.add_implicit_resolver(
            "tag:yaml.org,2002:float",
            re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
            list("-+0123456789"),
        )
        self._source, self._yaml = source, yaml
        try:
            self._loader = Loader(text)
            root = self._loader.get_single_node()
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 1}" if mark else ""
            told = getattr(error, "problem", None) or error
            raise ValueError(f"{source}{where}: this is no plain YAML: {told}.") from (
                error
            )
        except RecursionError:
            raise ValueError(f"{source}: it is nested too deeply.") from None
        if root is None:
            raise ValueError(f"{source}: it is empty.")
        self.root = root

    def fail(self, node: Any, message: str) -> NoReturn:
        raise ValueError(f"{self._source}, line {node.start_mark.line + 1}: {message}")

    def of_class(self, cls: type[T], node: Any, called: str) -> T:
        """Returns an instance of a class from its arguments by name."""
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        hints = typing.get_type_hints(cls)
        if len(fields) == 1 and not self._names(node, *fields):
            (name,) = fields
            return self._made(
                cls, {name: self._value(hints[name], node, called)}, {}, node, called
            )
        keys, values = {}, {}
        for name, key, value in self._entries(node, called):
            if name not in fields:
                self.fail(
                    key,
                    f"unknown key {name!r} of {called!r}.{_hint(name, fields)} "
                    f"Expected some of {', '.join(fields)}.",
                )
            keys[name] = key
            values[name] = self._value(hints[name], value, name)
        for name in _needed(cls):
            if name not in values:
                self.fail(node, f"{called!r} needs the key {name!r}.")
        return self._made(cls, values, keys, node, called)

    def _names(self, node: Any, key: str) -> bool:
        """Returns whether a node is a mapping of one key."""
        mapping = isinstance(node, self._yaml.MappingNode) and len(node.value) == 1
        return mapping and self._plain(node.value[0][0]) == key

    def _made(
        self,
        cls: type[T],
        values: dict[str, Any],
        keys: dict[str, Any],
        node: Any,
        called: str,
    ) -> T:
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            said = str(error)
            key = next((n for n in keys if f"`{n}`" in said or f"{n}:" in said), None)
            self.fail(keys[key] if key else node, f"{key or called!r}: {said}")

    def _entries(self, node: Any, called: str) -> list[tuple[str, Any, Any]]:
        if not isinstance(node, self._yaml.MappingNode):
            self.fail(
                node,
                f"{called!r} is written as keys and values. Received "
                f"{self._said(node)}.",
            )
        found: list[tuple[str, Any, Any]] = []
        for key, value in node.value:
            name = self._plain(key)
            if not isinstance(name, str):
                self.fail(key, f"a key of {called!r} is no name: {self._said(key)}.")
            if name in [other for other, _, _ in found]:
                self.fail(key, f"the key {name!r} of {called!r} is there twice.")
            found.append((name, key, value))
        return found

    def _value(self, hint: Any, node: Any, called: str) -> Any:
        """Returns what a node says where a hint says of what type it is."""
        union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is (
            typing.Union
        )
        for option in typing.get_args(hint) if union else (hint,):
            if self._is_null(node):
                break
            if typing.get_origin(option) is tuple:
                inner = typing.get_args(option)[0]
                several = isinstance(node, self._yaml.SequenceNode)
                if several or inner is not str:
                    nodes = node.value if several else [node]
                    return tuple(self._value(inner, item, called) for item in nodes)
                continue
            if inspect.isclass(option) and issubclass(option, Config):
                if option in _FAMILIES:
                    return self._of_family(option, node, called)
                return self._of_one(option, node, called)
        if hint is Any and isinstance(node, self._yaml.MappingNode):
            entries = self._entries(node, called)
            if [name for name, _, _ in entries] in (["epochs"], ["fit_fraction"]):
                return self._chosen(_MOMENTS, node, called)
        return self._plain(node)

    def _of_one(self, cls: type[Config], node: Any, called: str) -> Any:
        """Returns what a node says of a class without a family."""
        needed = _needed(cls)
        if len(needed) == 1 and isinstance(node, self._yaml.ScalarNode):
            if len(dataclasses.fields(cls)) > 1:  # type: ignore[arg-type]
                values = {needed[0]: self._plain(node)}
                return self._made(cls, values, {}, node, called)
        return self.of_class(cls, node, called)

    def _of_family(self, base: type[Config], node: Any, called: str) -> Any:
        if isinstance(node, self._yaml.MappingNode):
            return self._chosen(concrete_subclasses(base), node, called)
        value = self._plain(node)
        if not isinstance(value, str):
            return value  # A schedule may be a sparsity.
        for cls in concrete_subclasses(base):
            if snake(cls.__name__) == value and (missing := _needed(cls)):
                self.fail(node, f"{value!r} needs the key {missing[0]!r}.")
        try:
            return get(base, value)
        except ValueError as error:
            self.fail(node, f"{called!r}: {error}")

    def _chosen(self, classes: list[type[Config]], node: Any, called: str) -> Any:
        """Returns what a mapping of one name to its arguments describes."""
        entries = self._entries(node, called)
        known = {snake(cls.__name__): cls for cls in classes}
        name, key, value = entries[0] if entries else ("", node, node)
        folded = {each.replace("_", ""): each for each in known}
        name = folded.get(str(name).replace("_", "").lower(), name)
        if len(entries) != 1 or name not in known:
            self.fail(
                key,
                f"{called!r} takes one name with its arguments."
                f"{_hint(name, known)} Received {', '.join(n for n, _, _ in entries)}. "
                f"Expected one of {', '.join(sorted(known))}.",
            )
        return self.of_class(known[name], value, name)

    def _is_null(self, node: Any) -> bool:
        return bool(node.tag == "tag:yaml.org,2002:null")

    def _plain(self, node: Any) -> Any:
        """Returns a node's value: text, number, bool, `None`, tuple or dict."""
        if isinstance(node, self._yaml.SequenceNode):
            return tuple(self._plain(item) for item in node.value)
        if isinstance(node, self._yaml.MappingNode):
            return {n: self._plain(value) for n, _, value in self._entries(node, "it")}
        try:
            return self._loader.construct_object(node)
        # PyYAML takes what is tagged by hand, such as `!!bool x`, for what it says.
        except (
            *(self._yaml.YAMLError, ValueError),
            *(AttributeError, KeyError, TypeError),
        ) as error:
            told = getattr(error, "problem", None) or error
            self.fail(node, f"this is no plain value: {told}.")

    def _said(self, node: Any) -> str:
        if isinstance(node, self._yaml.SequenceNode):
            return f"a list of {len(node.value)}"
        return repr(self._plain(node))


def _hint(name: Any, known: Any) -> str:
    near = nearest(str(name), known)
    return f" Did you mean {near!r}?" if near else ""


def _needed(cls: type[Config]) -> list[str]:
    """Returns the names of the arguments that have no default."""
    missing = dataclasses.MISSING
    return [
        field.name
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
        if field.default is missing and field.default_factory is missing
    ]


def _is_text(*values: Any) -> bool:
    return len(values) == 1 and isinstance(values[0], str)
