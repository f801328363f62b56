"""kprune: pruning for Keras 3 that the device feels."""

__version__ = "0.1.0"

from kprune.advice import Advice, advise
from kprune.allocation import (
    Allocation,
    Erk,
    Explicit,
    Global,
    Lamp,
    Threshold,
    Uniform,
)
from kprune.at_target import AtTarget
from kprune.callbacks import PruningCallback
from kprune.clustering_callback import ClusteringCallback
from kprune.coupling.registry import register_coupling
from kprune.criteria import (
    BatchNormScale,
    Criterion,
    GeometricMedian,
    Magnitude,
    Movement,
    Random,
    Snip,
    SynFlow,
    Taylor,
    Wanda,
)
from kprune.curves import plot_fit
from kprune.distillation import distill
from kprune.export import export
from kprune.export.bench import bench
from kprune.export.sensitivity import quantization_sensitivity
from kprune.granularity import (
    Block,
    Channel,
    Element,
    Granularity,
    Kernel,
    NofM,
)
from kprune.guards import AccuracyGuard
from kprune.histograms import Shard, sharded_masks
from kprune.inspection import Inspection, inspect
from kprune.layers import Pruned
from kprune.notices import PruningWarning
from kprune.overview import Overview, overview
from kprune.plan import Plan, Rule
from kprune.preparation import PrepareReport, prepare
from kprune.prunable import register_prunable
from kprune.pruner import Pruner
from kprune.quantization import QuantizationCallback, quantize_aware
from kprune.recipe import Recipe
from kprune.regrowth import SET, Regrowth, RigL
from kprune.regularization import BatchNormL1, GroupLasso, Regularization
from kprune.report import (
    BenchReport,
    ClusteringReport,
    PruningReport,
    QuantizationReport,
    Report,
    SensitivityReport,
)
from kprune.rewinding import RewindCallback
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
from kprune.sensitivity import PruningSensitivityReport, sensitivity
from kprune.sharing import cluster
from kprune.structure import Budget, ShrinkPlan, ShrinkReport, plan_shrink, shrink
from kprune.summaries import PruningSummaries
from kprune.sweep import SweepReport, sweep
from kprune.transform import hold_zeros, prune, release, strip

__all__ = [
    "AccuracyGuard",
    "Advice",
    "Allocation",
    "AtTarget",
    "BatchNormL1",
    "BatchNormScale",
    "BenchReport",
    "Block",
    "Budget",
    "Channel",
    "ClusteringCallback",
    "ClusteringReport",
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
    "GeometricMedian",
    "Global",
    "Granularity",
    "GroupLasso",
    "Inspection",
    "Kernel",
    "Lamp",
    "Magnitude",
    "Movement",
    "NofM",
    "Overview",
    "PiecewiseSparsity",
    "Plan",
    "PolynomialDecay",
    "PrepareReport",
    "Pruned",
    "Pruner",
    "PruningCallback",
    "PruningReport",
    "PruningSensitivityReport",
    "PruningSummaries",
    "PruningWarning",
    "QuantizationCallback",
    "QuantizationReport",
    "Random",
    "Recipe",
    "Regrowth",
    "Regularization",
    "Report",
    "RewindCallback",
    "RigL",
    "Rule",
    "SET",
    "Schedule",
    "SensitivityReport",
    "Shard",
    "ShrinkPlan",
    "ShrinkReport",
    "Snip",
    "SparsityFunction",
    "SweepReport",
    "SynFlow",
    "Taylor",
    "Threshold",
    "Uniform",
    "Wanda",
    "advise",
    "bench",
    "cluster",
    "distill",
    "export",
    "hold_zeros",
    "inspect",
    "overview",
    "plan_shrink",
    "plot_fit",
    "prepare",
    "prune",
    "quantization_sensitivity",
    "quantize_aware",
    "register_coupling",
    "register_prunable",
    "release",
    "sensitivity",
    "sharded_masks",
    "shrink",
    "strip",
    "sweep",
]
