import subprocess
import sys

from kprune.export.targets import QUANTIZATIONS, TARGETS


def test_every_refusal_names_a_quantisation():
    for target in TARGETS.values():
        assert set(target.refused) < set(QUANTIZATIONS)
        assert target.default_quantization in target.quantizations


def test_every_pattern_and_fact_has_its_source():
    for target in TARGETS.values():
        assert {pattern.pruning for pattern in target.patterns} >= {"channel"}
        for pattern in target.patterns:
            assert pattern.pruning in ("element", "2:4", "1x4", "channel")
            assert set(pattern.saves) <= {"time", "flash", "memory", "download"}
            assert pattern.saves and 0 <= pattern.least < 1
            assert pattern.source
        assert all(fact.source and fact.text for fact in target.facts)


# Asks the installed runtime for each operator, with one after it that no version has:
# the operator which the complaint names is the missing one.
PROBE = """
import os, sys, tempfile, flatbuffers
from tflite_micro.python.tflite_micro import runtime
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as s
LACKING = s.BuiltinOperator.CONV_3D

def model(numbers):
    tensor = s.TensorT(); tensor.shape = [1]; tensor.name = b"x"
    graph = s.SubGraphT(); graph.tensors = [tensor]
    graph.inputs, graph.outputs, graph.operators = [0], [0], []
    whole = s.ModelT(); whole.version = 3; whole.buffers = [s.BufferT()]
    whole.subgraphs, whole.operatorCodes = [graph], []
    for index, number in enumerate(numbers):
        code = s.OperatorCodeT(); code.builtinCode = number
        code.deprecatedBuiltinCode = min(number, 127)
        whole.operatorCodes.append(code)
        operator = s.OperatorT(); operator.opcodeIndex = index
        operator.inputs = operator.outputs = [0]
        if number == s.BuiltinOperator.VAR_HANDLE:
            operator.builtinOptionsType = s.BuiltinOptions.VarHandleOptions
            operator.builtinOptions = s.VarHandleOptionsT()
            operator.builtinOptions.sharedName = b"v"
        graph.operators.append(operator)
    builder = flatbuffers.Builder(1024)
    builder.Finish(whole.Pack(builder), b"TFL3")
    return bytes(builder.Output())

for name, number in sorted(vars(s.BuiltinOperator).items()):
    if not isinstance(number, int) or name == "CUSTOM" or number == LACKING:
        continue
    with tempfile.TemporaryFile() as file:
        old = os.dup(2); os.dup2(file.fileno(), 2)
        try:
            runtime.Interpreter.from_bytes(model([number, LACKING]), arena_size=100000)
        except RuntimeError:
            pass
        os.dup2(old, 2); os.close(old); file.seek(0)
        if b"opcode 'CONV_3D'" in file.read():
            print(name)
"""


def test_the_list_of_operators_is_the_installed_runtimes():
    found = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True
    )
    installed = set(found.stdout.split())
    assert len(installed) > 90
    assert TARGETS["microcontroller"].operators == installed
