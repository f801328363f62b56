"""Whether all workers of a distributed training make the same masks.

This module changes when workers can differ in another way, or be asked in another way.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.held import HeldWeight
from kprune.layers import values


def check_agreement(
    owner: str, model: keras.Model, weights: Sequence[HeldWeight]
) -> None:
    """Compares the masks of all workers; does nothing where there is one only.

    Four bytes of each worker are gathered: every one has to call this at the same step.

    Raises:
        ValueError: If they differ.
    """
    strategy: Any = getattr(model, "distribute_strategy", None)
    if not _has_workers(strategy):
        return
    import tensorflow as tf

    digest = 0
    for weight in weights:
        bits = np.packbits(values(weight.constraint.mask))
        digest = zlib.crc32(bits.tobytes(), digest)
    given = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant([digest], tf.int64)
    )
    found = strategy.gather(given, axis=0).numpy()
    if len(set(found.tolist())) > 1:
        raise ValueError(
            f"{owner}: workers made different masks, so that their weights would drift "
            "apart. Criteria and regrowths that look at data need the same data, in "
            "the same order, on each worker; others need the same weights: set one "
            "seed on all workers before the model is made."
        )


def _has_workers(strategy: Any) -> bool:
    if strategy is None:
        return False
    import tensorflow as tf

    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return False
    tasks = strategy.cluster_resolver.cluster_spec().as_dict().values()
    return sum(map(len, tasks)) > 1
