"""`tfmot.sparsity.keras` for Keras 3: change the import, and nothing else.

    import kprune.compat.tfmot as sparsity

    model = sparsity.prune_low_magnitude(
        model, pruning_schedule=sparsity.PolynomialDecay(0.0, 0.8, 0, 1000)
    )
    model.compile(...)
    model.fit(..., callbacks=[sparsity.UpdatePruningStep()])
    model = sparsity.strip_pruning(model)

Names, arguments and what the documents promise are those of tfmot 0.8.1,
https://www.tensorflow.org/model_optimization/api_docs/python/tfmot/sparsity/keras.
Where tfmot itself does something else, this does what they promise.
docs/migrating_from_tfmot.md lists every difference. `load`, which tfmot has not, turns
its files into models of Keras 3. This module changes when tfmot's
public names do.
"""

from kprune.compat.tfmot.callbacks import PruningSummaries, UpdatePruningStep
from kprune.compat.tfmot.policies import PruneForLatencyOnXNNPack, PruningPolicy
from kprune.compat.tfmot.schedules import (
    ConstantSparsity,
    PolynomialDecay,
    PruningSchedule,
)
from kprune.compat.tfmot.wrapping import (
    PrunableLayer,
    prune_low_magnitude,
    prune_scope,
    strip_pruning,
)
from kprune.compat.tfmot_files import load

__all__ = [
    "ConstantSparsity",
    "PolynomialDecay",
    "PrunableLayer",
    "PruneForLatencyOnXNNPack",
    "PruningPolicy",
    "PruningSchedule",
    "PruningSummaries",
    "UpdatePruningStep",
    "load",
    "prune_low_magnitude",
    "prune_scope",
    "strip_pruning",
]
