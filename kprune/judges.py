"""Other callbacks of a fit that judge its epochs, and what they do with sparse ones.

An epoch from before the target sparsity is often the best one, and never the one that
was wanted. This module changes when callbacks do that pick epochs, or when Keras holds
callbacks in another way.
"""

import sys
from collections.abc import Sequence
from typing import Any

import keras


def callbacks_of_fit() -> Sequence[Any]:
    """Returns the callbacks of the fit that is calling one of them, in their order.

    Keras does not tell a callback of the others, but the list that holds them is what
    calls it.
    """
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            return caller.callbacks
        frame = frame.f_back  # type: ignore[assignment]
    return ()


def traps(callbacks: Sequence[Any], target_epoch: int | None) -> str:
    """Says which callbacks pick epochs from before the target; nothing if none do.

    Args:
        callbacks: The callbacks of a fit.
        target_epoch: The first epoch, counted from zero, that begins at the target
            sparsity; `None` if that is not known.
    """
    found = {
        type(callback).__name__: f"{_described(callback)} {harm}"
        for callback in callbacks
        if (harm := _harm(callback, target_epoch))
    }
    if not found:
        return ""
    who = "; ".join(found.values())
    return (
        f"Epochs before the target sparsity are judged, too: {who}. "
        "Let them see epochs at the target only: callbacks=[pruning, "
        f"{', '.join(f'kprune.AtTarget({name}(...), pruning)' for name in found)}]."
    )


def _harm(callback: Any, target_epoch: int | None) -> str:
    if isinstance(callback, keras.callbacks.ModelCheckpoint):
        return "may keep one that is less sparse" if callback.save_best_only else ""
    if isinstance(callback, keras.callbacks.EarlyStopping):
        if target_epoch is not None and callback.start_from_epoch >= target_epoch:
            return ""
        if callback.restore_best_weights:
            return "may stop before it, and bring back one that is less sparse"
        return "may stop before it"
    return ""


def _described(callback: Any) -> str:
    return f"{type(callback).__name__}(monitor={callback.monitor!r})"
