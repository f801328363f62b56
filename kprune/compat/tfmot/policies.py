"""tfmot's policies: which layers are worth pruning, for whom.

This module changes when tfmot's policies do.
"""

import abc

import keras

from kprune.export.xnnpack import Outcome
from kprune.foreign import received
from kprune.preparation import foresee, in_words
from kprune.rebuild import graph_of, has_graph


class PruningPolicy(abc.ABC):
    """Says which layers of a model are pruned, and which models may be at all."""

    @abc.abstractmethod
    def allow_pruning(self, layer: keras.layers.Layer) -> bool:
        """Returns whether a layer is pruned."""

    @abc.abstractmethod
    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raises ValueError if pruning a model would be of no use."""


class PruneForLatencyOnXNNPack(PruningPolicy):
    """Prunes 1x1 convolutions only, in models in which XNNPACK skips their zeros.

    XNNPACK computes with sparse weights on phones. Whether it would is asked of its own
    decision on the converted model, as `kprune.prepare` does; `kprune.prepare(model)`
    also makes the form that XNNPACK needs out of many models that do not have it.
    """

    def allow_pruning(self, layer: keras.layers.Layer) -> bool:
        """Returns whether a layer is a `Conv2D` with a window of 1x1."""
        return isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (1, 1)

    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raises ValueError if XNNPACK would not skip zeros in a model.

        Raises:
            ValueError: If it is subclassed, not built, or has 1x1 convolutions whose
                zeros would be multiplied; the message says what is in the way.
        """
        owner = type(self).__name__
        if not isinstance(model, keras.Model):
            raise ValueError(f"{owner}: expected a Keras 3 model. {received(model)}")
        if not has_graph(model):
            raise ValueError(
                f"{owner}: {model.name!r} is a subclassed model "
                f"({type(model).__name__}). Build it with the functional API."
            )
        if graph_of(model) is None:
            raise ValueError(
                f"{owner}: {model.name!r} is not built, so that nobody knows what "
                "XNNPACK would do with it. Begin it with keras.Input(shape)."
            )
        verdict = foresee(model)
        candidates = [layer for layer in verdict.layers if layer.candidate]
        if verdict.outcome is Outcome.SKIPS or not (candidates or verdict.mistakes):
            return
        outlook, remaining = in_words(verdict)
        reasons = "".join(f"\n- {reason}" for reason in remaining)
        raise ValueError(
            f"{owner}: {outlook} In the way:{reasons}\nkprune.prepare(model) changes "
            "what can be changed, and says so."
        )
