"""Limits of a device: whether a file keeps them, and what would.

This module changes when another limit can be set, or something else helps to keep it.
"""

from kprune.export.flash import Encoded, gain
from kprune.export.targets import DECODED, Target
from kprune.export.tflm import MicroRun


def check(
    target: Target,
    content: bytes,
    plain: bytes,
    run: MicroRun | None,
    encoded: Encoded | None,
) -> None:
    """Refuses a file that exceeds a limit of its target.

    Args:
        target: The target, with its limits.
        content: What the device stores.
        plain: The file before its weights were encoded or it was compiled.
        run: Its run on a microcontroller's runtime.
        encoded: Its weights encoded, if they are.

    Raises:
        ValueError: By how much, and what would fit.
    """
    if target.flash is not None and len(content) > target.flash:
        raise ValueError(
            _exceeded(target, "flash", target.flash, len(content))
            + _smaller_file(target, plain, encoded)
            + _fewer_channels(f"flash_bytes={target.flash}")
        )
    if target.arena is None or run is None:
        return
    needed = run.arena_bytes if encoded is None else encoded.run.arena_bytes
    if needed <= target.arena:
        return
    hints = ""
    if encoded is not None:
        elsewhere = encoded.elsewhere.arena_bytes
        if run.arena_bytes <= target.arena:
            hints += f" Without encode=True it needs {run.arena_bytes:,}, which fits."
        elif elsewhere <= target.arena:
            hints += (
                f" With {encoded.facts.other_bytes:,} bytes of other memory for "
                f"decoded weights it needs {elsewhere:,}: raise the limit, and give "
                "it that memory."
            )
    raise ValueError(
        _exceeded(target, "arena", target.arena, needed)
        + hints
        + _fewer_channels(f"arena_bytes={target.arena}")
    )


def _exceeded(target: Target, name: str, limit: int, needed: int) -> str:
    return (
        f"target={target.name!r} may take {limit:,} bytes of {name}, and the model "
        f"needs {needed:,}: {needed - limit:,} too many. Nothing was written."
    )


def _smaller_file(target: Target, plain: bytes, encoded: Encoded | None) -> str:
    if target.encoding != DECODED or encoded is not None or target.flash is None:
        return ""
    saved, _ = gain(plain)
    after = len(plain) - saved
    fits = "which fits" if after <= target.flash else "which does not fit either"
    return f" encode=True would store it in about {after:,}, {fits}." if saved else ""


def _fewer_channels(budget: str) -> str:
    return (
        f" Fewer channels would: kprune.shrink(model, budget=kprune.Budget({budget})), "
        "and some training after it."
    )
