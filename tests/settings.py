"""One example of each setting that kprune has, for what holds for all of them.

A class that is missing here breaks the suite.
"""

import keras

import kprune
import kprune.compat.tfmot
from kprune.allocation import Allocation
from kprune.compat.tfmot.schedules import Called
from kprune.config import concrete_subclasses
from kprune.criteria import Criterion
from kprune.granularity import Granularity
from kprune.regrowth import Regrowth
from kprune.regularization import Regularization
from kprune.schedules import Schedule


@keras.saving.register_keras_serializable("tests")
def halves(step):
    """A schedule of the user's own: half of what is missing, every three steps."""
    return 0.75 * (1 - 0.5 ** (step // 3)) if step < 9 else 0.75


SCHEDULES = [
    kprune.PolynomialDecay(0.1, 0.75, 2, 9, frequency=3),
    kprune.ConstantSparsity(0.75, 4),
    kprune.CosineRamp(0.1, 0.75, 2, 9, frequency=3),
    kprune.ExponentialRamp(0.1, 0.75, 2, 9, frequency=3),
    kprune.CyclicRamp(0.1, 0.75, 2, 9, rounds=2, recovery=0.5, frequency=1),
    kprune.PiecewiseSparsity((2, 4, 9), (0.2, 0.5, 0.75)),
    kprune.SparsityFunction(halves, 1, 10, frequency=1),
    Called(kprune.compat.tfmot.PolynomialDecay(0.1, 0.75, 2, 9, frequency=3)),
]
CRITERIA = [
    kprune.Magnitude(order=1),
    kprune.Random(seed=3),
    kprune.Taylor(),
    kprune.Movement(),
    kprune.Wanda(),
    kprune.BatchNormScale(),
    kprune.GeometricMedian(),
    kprune.Snip(),
    kprune.SynFlow(rounds=2),
]
GRANULARITIES = [
    kprune.Element(),
    kprune.Block((2, 1)),
    kprune.Kernel(),
    kprune.NofM(1, 4, remainder="dense"),
    kprune.Channel(),
]
ALLOCATIONS = [
    kprune.Uniform(),
    kprune.Global(),
    kprune.Lamp(),
    kprune.Erk(),
    kprune.Explicit({"*dense_1*": 0.5, "*group*": 0.5}),
    kprune.Threshold(0.05),
]
REGROWTHS = [kprune.RigL(), kprune.SET(seed=3)]
REGULARIZATIONS = [
    kprune.BatchNormL1(0.01, 1, 3),
    kprune.GroupLasso(0.01, 1, 3),
]
ALL = {
    Schedule: SCHEDULES,
    Criterion: CRITERIA,
    Granularity: GRANULARITIES,
    Allocation: ALLOCATIONS,
    Regrowth: REGROWTHS,
    Regularization: REGULARIZATIONS,
}


def missing(base):
    """Returns the classes of kprune without an example; tests define some, too."""
    every = concrete_subclasses(base)
    ours = {cls for cls in every if cls.__module__.startswith("kprune")}
    return ours - {type(example) for example in ALL[base]}


def name(example):
    return type(example).__name__
