"""What each target's runtime can run and what pays on it, as data with sources.

This module changes when a runtime does, or when we measure something new about one. It
decides nothing: `kprune.export` and `kprune.advise` read these facts. Numbers marked
"measured" are kprune's own, taken with TensorFlow 2.21.0, ai-edge-litert 2.3.0 and
tflite-micro 0.dev20261023.
"""

import dataclasses
from collections.abc import Mapping

NEEDS_DATA = ("int8", "int16x8")
"""Quantisations whose activation ranges are calibrated on representative data."""

QUANTIZATIONS: Mapping[str, str] = {
    "none": "float32 weights and arithmetic",
    "float16": "float16 weights, unpacked to float32 when the model loads",
    "dynamic": "int8 weights, activations quantised while the model runs",
    "int4": "int4 weights, activations quantised while the model runs",
    "int8": "int8 weights and activations, fixed by representative data",
    "int16x8": "int8 weights and int16 activations, fixed by representative data",
}
"""Every quantisation and what it stores.

Source: https://ai.google.dev/edge/litert/models/post_training_quantization
"""


@dataclasses.dataclass(frozen=True)
class Fact:
    """One sentence about a runtime, and where it is from.

    Args:
        text: The sentence.
        source: A URL, or "measured" with the versions named in this module.
    """

    text: str
    source: str


@dataclasses.dataclass(frozen=True)
class Pattern:
    """One way to prune, and what it saves on a runtime.

    Args:
        pruning: `"element"` (scattered zeros), `"2:4"` (two zeros in each four
            consecutive input channels), `"1x4"` (blocks of four inputs of one output)
            or `"channel"` (whole channels, removed).
        saves: What it saves there: `"time"`, `"flash"` (bytes of the file),
            `"memory"` (activations), `"download"` (compressed bytes).
        least: The share of zeros, or of channels, from which on it pays, in [0, 1).
        needs: What else must hold, as a sentence; empty for nothing.
        source: A URL, or "measured".
    """

    pruning: str
    saves: tuple[str, ...]
    least: float
    needs: str
    source: str


@dataclasses.dataclass(frozen=True)
class Npu:
    """An NPU, and the system in which its compiler assumes it.

    Args:
        accelerator: Vela's name of the NPU.
        system: Vela's name of the system: clocks and memories.
        memory: Vela's name of what is kept in which memory.
    """

    accelerator: str
    system: str
    memory: str


@dataclasses.dataclass(frozen=True)
class Target:
    """A device runtime.

    Args:
        name: What users write as `target=`.
        runtime: The runtime that the file is for, and that proves it here.
        default_quantization: What `quantization=None` means.
        refused: Quantisations that the runtime cannot run, each with the reason.
        integer_io: Whether "int8" and "int16x8" files take and return integers
            (int8, int16); otherwise their inputs and outputs stay float32.
        slim: Whether files leave out what no runtime reads, unless the user says: each
            byte is flash.
        operators: Names of the operators that the runtime has a kernel for; `None`
            where the runtime is the converter's own and has all that it emits.
        operators_source: Where `operators` is from.
        channel_multiple: Channel counts that are multiples of it fill the blocks that
            the runtime's kernels compute at a time.
        channel_multiple_source: Where that is from.
        patterns: The ways to prune that pay, and from where on.
        facts: What else is to be known, for every report.
        encoding: How `encode=True` stores zeros in fewer bytes, in a word; empty if the
            runtime reads dense weights only.
        npu: The NPU that files are compiled for; `None` for none.
        flash: The most bytes that a file may have; `None` for any number.
        arena: The most bytes of memory that TensorFlow Lite Micro may need to run it;
            `None` for any number.
    """

    name: str
    runtime: str
    default_quantization: str
    refused: Mapping[str, str]
    integer_io: bool
    slim: bool
    operators: frozenset[str] | None
    operators_source: str
    channel_multiple: int
    channel_multiple_source: str
    patterns: tuple[Pattern, ...]
    facts: tuple[Fact, ...]
    encoding: str = ""
    npu: Npu | None = None
    flash: int | None = None
    arena: int | None = None

    @property
    def micro(self) -> bool:
        """Whether files run in TensorFlow Lite Micro."""
        return self.runtime == _TFLM

    @property
    def quantizations(self) -> tuple[str, ...]:
        """The quantisations that the runtime can run."""
        return tuple(name for name in QUANTIZATIONS if name not in self.refused)


_LITERT = "LiteRT"
_TFLM = "TensorFlow Lite Micro"

DECODED, UNPACKED = "decoded while it runs", "unpacked when it is loaded"
"""How the two runtimes read weights that are stored without their zeros."""

_CHANNELS = Pattern(
    "channel",
    ("time", "flash", "memory", "download"),
    0.0,
    "",
    "measured",
)
_COMPRESSES = Pattern("element", ("download",), 0.0, "", "measured")
_TFLM_REFUSED = {
    "float16": "TensorFlow Lite Micro has no float16 weights",
    "dynamic": (
        "TensorFlow Lite Micro has no kernels that mix int8 weights with float "
        "activations"
    ),
    "int4": (
        "TensorFlow Lite Micro has no kernels that mix int4 weights with float "
        "activations"
    ),
}
_TFLM_OPERATORS_SOURCE = (
    "https://github.com/tensorflow/tflite-micro/blob/main/"
    "python/tflite_micro/python_ops_resolver.cc"
)
# One operator per word. Found by asking the installed wheel for each builtin operator
# of the TFLite schema; tests/export/test_targets.py asks it again.
_TFLM_OPERATORS = frozenset(
    """
    ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL
    BATCH_TO_SPACE_ND BROADCAST_ARGS BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION
    CONV_2D COS CUMSUM DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV
    DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL FLOOR
    FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND GREATER GREATER_EQUAL
    HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG
    LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN
    MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE
    REDUCE_ALL REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE RESIZE_BILINEAR
    RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX
    SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE
    SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE TRANSPOSE_CONV
    UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE ZEROS_LIKE
    """.split()
)


def _ethos_u(
    name: str, system: str, memory: str, fact: Fact, *patterns: Pattern
) -> Target:
    """Returns an Ethos-U NPU beside a Cortex-M or Cortex-A."""
    return Target(
        name=name,
        runtime=_TFLM,
        default_quantization="int8",
        refused={
            **_TFLM_REFUSED,
            "none": "Ethos-U computes in integers; a float32 file would run on the CPU",
        },
        integer_io=True,
        slim=True,
        operators=_TFLM_OPERATORS,
        operators_source=_TFLM_OPERATORS_SOURCE,
        channel_multiple=16,
        channel_multiple_source=(
            "measured with Vela 5.2: of convolutions with 8 to 48 filters, 17 to 31 "
            "take about the cycles of 32"
        ),
        patterns=(
            _CHANNELS,
            *patterns,
            Pattern(
                "element",
                ("flash", "download"),
                0.0,
                "Vela encodes weights, and zeros take fewest bits.",
                "measured",
            ),
        ),
        facts=(
            fact,
            Fact(
                "Cycles, memory and traffic are Vela's estimates for the system that "
                "is named. The file before compilation was run in TensorFlow Lite "
                "Micro and LiteRT; the compiled one needs the NPU and was not run.",
                "https://pypi.org/project/ethos-u-vela/",
            ),
        ),
        npu=Npu(name, system, memory),
    )


_WEIGHTS_ONLY = Fact(
    "Scattered zeros save flash and the time in which weights are read on this NPU, "
    "since Vela encodes weights; multiplications by zero are computed. What saves "
    "those is fewer channels, in multiples of 16.",
    "measured",
)
_TWO_OF_FOUR = Fact(
    "Two zeros in each four consecutive input channels halve the multiplications on "
    "this NPU; other scattered zeros save only the reading of weights.",
    "measured",
)

TARGETS: Mapping[str, Target] = {
    "android": Target(
        name="android",
        runtime=_LITERT,
        # A quarter of the bytes, and no data needed. "int8" is faster.
        default_quantization="dynamic",
        refused={},
        integer_io=False,
        slim=False,
        operators=None,
        operators_source="https://ai.google.dev/edge/litert/models/ops_compatibility",
        # XNNPACK's int8 kernels compute 8 or 16 output channels at a time.
        channel_multiple=8,
        channel_multiple_source=(
            "https://github.com/google/XNNPACK/blob/master/src/configs/gemm-config.c"
        ),
        patterns=(
            _CHANNELS,
            Pattern(
                "element",
                ("time", "flash", "download"),
                2 / 3,
                "The file is in float32 or float16 and stored sparsely, the CPU is Arm "
                "or has no AVX, and the network has the form that XNNPACK computes "
                "sparsely: kprune.prepare() gives it that where it can.",
                "measured; the form: kprune.export.xnnpack",
            ),
            Pattern(
                "1x4",
                ("time", "flash", "download"),
                0.7,
                "Of dense layers, in a float32 file that is stored sparsely.",
                "measured",
            ),
            Pattern(
                "element",
                ("flash", "download"),
                0.3,
                "The file is in float32 or float16 and stored sparsely.",
                "measured",
            ),
            _COMPRESSES,
        ),
        facts=(
            Fact(
                "LiteRT multiplies scattered zeros, but for float32 and float16 files "
                "of the form that kprune.advise() names: they make files compress "
                "better. What runs faster in any case is fewer channels and int8.",
                "measured",
            ),
        ),
        encoding=UNPACKED,
    ),
    "generic": Target(
        name="generic",
        runtime=_LITERT,
        # Every runtime that reads TFLite files computes in float32.
        default_quantization="none",
        refused={
            "int4": "few runtimes but LiteRT, target='android', know int4 weights"
        },
        integer_io=False,
        slim=False,
        operators=None,
        operators_source="https://ai.google.dev/edge/litert/models/ops_compatibility",
        channel_multiple=1,
        channel_multiple_source="no runtime is named that would ask for more",
        patterns=(_CHANNELS, _COMPRESSES),
        facts=(
            Fact(
                "The file was run in LiteRT; of other runtimes nothing is known here. "
                "What helps in each is fewer channels; scattered zeros make files "
                "compress better.",
                "measured",
            ),
        ),
    ),
    "microcontroller": Target(
        name="microcontroller",
        runtime=_TFLM,
        default_quantization="int8",
        refused=_TFLM_REFUSED,
        integer_io=True,
        slim=True,
        operators=_TFLM_OPERATORS,
        operators_source=_TFLM_OPERATORS_SOURCE,
        # CMSIS-NN packs four int8 values into a word; its fast 1x1 convolution takes
        # multiples of four input channels.
        channel_multiple=4,
        channel_multiple_source=(
            "https://arm-software.github.io/CMSIS_5/5.8.0/NN/html/group__NNConv.html"
        ),
        patterns=(
            _CHANNELS,
            Pattern(
                "element",
                ("flash", "download"),
                1 / 8,
                "Weights are encoded (encode=True), and memory is there for the one "
                "that is decoded.",
                "https://github.com/tensorflow/tflite-micro/tree/main/tensorflow/lite/"
                "micro/kernels (decode_state_prune.cc)",
            ),
        ),
        facts=(
            Fact(
                "Scattered zeros save neither time nor arena on TensorFlow Lite Micro, "
                "whose kernels multiply zeros too. They save flash if weights are "
                "encoded (encode=True). What saves all three is fewer channels.",
                "measured",
            ),
            Fact(
                "The arena was measured on a 64-bit host with the reference kernels. "
                "A 32-bit Cortex-M needs about 2 % less, and optimised kernels such as "
                "CMSIS-NN may add scratch memory: check AllocateTensors on the device.",
                "measured",
            ),
        ),
        encoding=DECODED,
    ),
    **{
        target.name: target
        for target in (
            _ethos_u(
                "ethos-u55-128",
                "Ethos_U55_High_End_Embedded",
                "Shared_Sram",
                _WEIGHTS_ONLY,
            ),
            _ethos_u(
                "ethos-u55-256",
                "Ethos_U55_High_End_Embedded",
                "Shared_Sram",
                _WEIGHTS_ONLY,
            ),
            _ethos_u(
                "ethos-u65-256",
                "Ethos_U65_High_End",
                "Dedicated_Sram",
                _WEIGHTS_ONLY,
            ),
            _ethos_u(
                "ethos-u85-256",
                "Ethos_U85_SYS_DRAM_Mid",
                "Dedicated_Sram_384KB",
                _TWO_OF_FOUR,
                Pattern(
                    "2:4",
                    ("time", "flash", "download"),
                    0.5,
                    "The number of input channels is a multiple of 4.",
                    "measured with Vela 5.2",
                ),
            ),
        )
    },
}
"""The targets by name."""
