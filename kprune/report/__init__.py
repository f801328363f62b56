"""Facts that were measured, as data, and their rendering as text and JSON.

A module per kind of report, and `text` for what they share. Nothing here measures, or
imports anything else of kprune, so that every other module may hand its facts over in
these words. This module changes when a module of reports comes or goes.
"""

from kprune.report.bench import BenchReport, TimedFile
from kprune.report.clustering import ClusteringReport, ClusterRecord
from kprune.report.export import Report
from kprune.report.measured import (
    Arena,
    EncodedWeight,
    Encoding,
    FileSize,
    Latency,
    Npu,
    NpuEstimate,
    OutputDifference,
    Timing,
)
from kprune.report.pruning import (
    ChannelRecord,
    EpochRecord,
    FitRecord,
    GuardRecord,
    PruningReport,
    Refusal,
    SkippedWeight,
    WeightRecord,
)
from kprune.report.quantization import (
    LayerSensitivity,
    QuantizationReport,
    QuantizedLayer,
    SensitivityReport,
)

__all__ = [
    "Arena",
    "BenchReport",
    "ChannelRecord",
    "ClusterRecord",
    "ClusteringReport",
    "EncodedWeight",
    "Encoding",
    "EpochRecord",
    "FileSize",
    "FitRecord",
    "GuardRecord",
    "Latency",
    "LayerSensitivity",
    "Npu",
    "NpuEstimate",
    "OutputDifference",
    "PruningReport",
    "QuantizationReport",
    "QuantizedLayer",
    "Refusal",
    "Report",
    "SensitivityReport",
    "SkippedWeight",
    "TimedFile",
    "Timing",
    "WeightRecord",
]
