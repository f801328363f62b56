"""The targets as text and JSON: what each is, what pays on it, and who says so.

This module changes when targets are to be shown differently; the facts are in
`kprune.export.targets`.
"""

import dataclasses
import json
from collections.abc import Sequence

from kprune.export.targets import Pattern, Target
from kprune.report.text import table


def listing(targets: Sequence[Target]) -> str:
    """Returns a table of targets: runtime, quantisations, and what saves time."""
    header = ("target", "runtime", "file by default", "time is saved by")
    rows = [
        (
            target.name,
            target.runtime if target.npu is None else f"{target.runtime}, NPU",
            target.default_quantization,
            ", ".join(
                dict.fromkeys(
                    _asked(pattern)
                    for pattern in target.patterns
                    if "time" in pattern.saves
                )
            ),
        )
        for target in targets
    ]
    more = "For conditions, other savings and sources: kprune targets NAME"
    return "\n".join([*table(header, rows), "", more])


def details(target: Target) -> str:
    """Returns all that is known of a target, each with its source."""
    default = target.default_quantization
    lines = [
        f"{target.name}: {target.runtime}",
        f"quantizations     {', '.join(target.quantizations)}; {default} by default",
        *(f"  not {name}: {why}" for name, why in target.refused.items()),
        f"channels          in multiples of {target.channel_multiple}",
        f"  source: {target.channel_multiple_source}",
    ]
    if target.encoding:
        lines.append(f"zeros, encoded    {target.encoding}")
    if target.operators is not None:
        lines += [
            f"operators         {len(target.operators)}",
            f"  source: {target.operators_source}",
        ]
    for name in ("flash", "arena"):
        limit = getattr(target, name)
        if limit is not None:
            lines.append(f"{name:<18}at most {limit:,} bytes")
    if target.npu is not None:
        npu = dataclasses.astuple(target.npu)
        lines.append(f"NPU               {', '.join(npu)}, in Vela's words")
    lines += ["", "What pays:"]
    for pattern in target.patterns:
        lines.append(f"- {_asked(pattern)}: {', '.join(pattern.saves)}")
        if pattern.needs:
            lines.append(f"  if: {pattern.needs}")
        lines.append(f"  source: {pattern.source}")
    lines += ["", "What else is known:"]
    for fact in target.facts:
        lines += [f"- {fact.text}", f"  source: {fact.source}"]
    return "\n".join(lines)


def to_json(targets: Sequence[Target]) -> str:
    """Returns all facts of the targets as JSON text: a list, one entry per target."""
    entries = []
    for target in targets:
        operators = target.operators
        entries.append(
            {
                **{
                    field.name: getattr(target, field.name)
                    for field in dataclasses.fields(target)
                },
                "quantizations": target.quantizations,
                "operators": None if operators is None else sorted(operators),
            }
        )
    return json.dumps(entries, indent=2, default=dataclasses.asdict)


def _asked(pattern: Pattern) -> str:
    """Returns a way to prune in words, with the share from which on it pays."""
    name = _WAYS[pattern.pruning]
    return f"{name} from {pattern.least:.0%} on" if pattern.least else name


_WAYS = {
    "element": "scattered zeros",
    "2:4": "two zeros in each four inputs",
    "1x4": "blocks of four zeros",
    "channel": "fewer channels",
}
