import compilers
import pytest

from kprune.export.encoding import DECODE
from kprune.export.resolver import methods
from kprune.export.targets import TARGETS
from kprune.export.vela import OPERATOR

OPERATORS = sorted(TARGETS["microcontroller"].operators)

PROGRAM = """
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
bool all(tflite::micro::MicroMutableOpResolver<200>& resolver) {{
  return {calls};
}}
"""


def test_the_runtimes_resolver_has_every_method(tmp_path):
    """The stand-in lists what the runtime's header has; names come from neither."""
    found = methods([*OPERATORS, DECODE, OPERATOR])
    calls = " && ".join(f"resolver.{method}() == 0" for method in found)
    source = tmp_path / "all.cc"
    source.write_text(PROGRAM.format(calls=calls))
    compilers.host("-fsyntax-only", "-I", compilers.STAND_IN, source)
    assert len(set(found)) == len(OPERATORS) + 2


def test_names_that_are_irregular():
    found = methods(["CONV_2D", "PADV2", "RELU6", "LOG_SOFTMAX", DECODE, OPERATOR])
    assert found == (
        *("AddConv2D", "AddPadV2", "AddRelu6", "AddLogSoftmax"),
        *("AddDecode", "AddEthosU"),
    )


def test_a_custom_operator_without_a_method_is_refused():
    with pytest.raises(ValueError, match="no method for the operator 'CUSTOM:mine'"):
        methods(["ADD", "CUSTOM:mine"])
