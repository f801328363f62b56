"""kprune: pruning for Keras 3 that the device feels."""

__version__ = "0.1.0"

from kprune.allocation import (
    Allocation,
    Erk,
    Explicit,
    Global,
    Lamp,
    Threshold,
    Uniform,
)
from kprune.callbacks import PruningCallback
from kprune.coupling.registry import register_coupling
from kprune.criteria import Criterion, Magnitude
from kprune.export import export
from kprune.granularity import (
    Block,
    Channel,
    Element,
    Granularity,
    Kernel,
    NofM,
)
from kprune.held import PruningWarning
from kprune.inspection import Inspection, inspect
from kprune.layers import Pruned
from kprune.plan import Plan, Rule
from kprune.prunable import register_prunable
from kprune.report import PruningReport, Report
from kprune.schedules import (
    ConstantSparsity,
    CosineRamp,
    CyclicRamp,
    Epochs,
    ExponentialRamp,
    FitFraction,
    PiecewiseSparsity,
    PolynomialDecay,
    Schedule,
    SparsityFunction,
)
from kprune.structure import Budget, ShrinkPlan, ShrinkReport, plan_shrink, shrink
from kprune.transform import hold_zeros, prune, release, strip

__all__ = [
    "Allocation",
    "Block",
    "Budget",
    "Channel",
    "ConstantSparsity",
    "CosineRamp",
    "Criterion",
    "CyclicRamp",
    "Element",
    "Epochs",
    "Erk",
    "Explicit",
    "ExponentialRamp",
    "FitFraction",
    "Global",
    "Granularity",
    "Inspection",
    "Kernel",
    "Lamp",
    "Magnitude",
    "NofM",
    "PiecewiseSparsity",
    "Plan",
    "PolynomialDecay",
    "Pruned",
    "PruningCallback",
    "PruningReport",
    "PruningWarning",
    "Report",
    "Rule",
    "Schedule",
    "ShrinkPlan",
    "ShrinkReport",
    "SparsityFunction",
    "Threshold",
    "Uniform",
    "export",
    "hold_zeros",
    "inspect",
    "plan_shrink",
    "prune",
    "register_coupling",
    "register_prunable",
    "release",
    "shrink",
    "strip",
]
