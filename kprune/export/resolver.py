"""What TensorFlow Lite Micro's operator resolver calls each operator.

This module changes when `MicroMutableOpResolver` gets or renames a method.

Source: tensorflow/lite/micro/micro_mutable_op_resolver.h of
https://github.com/tensorflow/tflite-micro
"""

from collections.abc import Iterable, Mapping

from kprune.export.encoding import DECODE
from kprune.export.vela import OPERATOR as ETHOS_U

# Methods whose names are not the operator's in capitals and small letters.
_IRREGULAR: Mapping[str, str] = {
    "BATCH_MATMUL": "AddBatchMatMul",
    "CUMSUM": "AddCumSum",
    "PADV2": "AddPadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
    DECODE: "AddDecode",
    ETHOS_U: "AddEthosU",
}


def methods(operators: Iterable[str]) -> tuple[str, ...]:
    """Returns the methods that add operators to the resolver, in their order.

    Args:
        operators: Operators as `kprune.export.tflite` names them, such as "CONV_2D" or
            "CUSTOM:ethos-u": those of a target's `operators`, and those that encoding
            and Vela bring in.

    Raises:
        ValueError: If a custom operator has no method.
    """
    return tuple(map(_method, operators))


def _method(operator: str) -> str:
    if operator in _IRREGULAR:
        return _IRREGULAR[operator]
    if operator.startswith("CUSTOM:"):
        raise ValueError(
            f"TensorFlow Lite Micro's resolver has no method for the operator "
            f"{operator!r}. Pass c_source=False, and add it with AddCustom()."
        )
    return "Add" + operator.title().replace("_", "")
