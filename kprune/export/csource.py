"""A `.tflite` file as C++ source, for firmware without a file system.

This module changes when the text that firmware compiles does.
"""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from kprune.export.firmware import Firmware, Memory, Port

# https://en.cppreference.com/w/cpp/keyword and https://en.cppreference.com/w/c/keyword
_RESERVED = frozenset(
    """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char class
    compl concept const consteval constexpr constinit const_cast continue co_await
    co_return co_yield decltype default delete do double dynamic_cast else enum explicit
    export extern false float for friend goto if inline int long main mutable namespace
    new noexcept not not_eq nullptr operator or or_eq private protected public register
    reinterpret_cast requires restrict return short signed sizeof static static_assert
    static_cast struct switch template this thread_local throw true try typedef typeid
    typename typeof union unsigned using virtual void volatile wchar_t while xor xor_eq
    """.split()
)

_TYPES: Mapping[str, str] = {
    "FLOAT32": "float",
    "INT8": "int8_t",
    "UINT8": "uint8_t",
    "INT16": "int16_t",
    "UINT16": "uint16_t",
    "INT32": "int32_t",
    "UINT32": "uint32_t",
    "INT64": "int64_t",
    "BOOL": "bool",
}

_COLUMNS = 88

_TRIED = (
    "Bytes of tensor arena that worked on a 64-bit host with the reference kernels. "
    "Optimised kernels may need more: check AllocateTensors on the device."
)
_PLANNED = (
    "Bytes of SRAM that Vela plans for activations. TensorFlow Lite Micro's own "
    "structures come on top, some thousand bytes: check AllocateTensors on the device."
)
_DECODING = (
    "Weights are decoded while the model runs, into the arena; or into this many bytes "
    "of other memory, if they are handed to SetDecompressionMemory() before "
    "AllocateTensors(), and then the arena may be smaller."
)
_STATE = (
    "The model keeps state: the interpreter needs MicroResourceVariables for so many "
    "variables."
)
_VECTOR = (
    "One sample, and what TensorFlow Lite Micro computed of it on the host, by the "
    "index of input and output."
)
_VECTOR_NPU = (
    "One sample, and what TensorFlow Lite Micro computed of it on the host, of the "
    "file before it was compiled, by the index of input and output."
)
_PROMISE = (
    "Returns how many elements of an output are not what they should be: 0 on a device "
    "that works. Integers must be equal; floats may differ by a ten-thousandth of the "
    "output's largest value."
)
_PROMISE_NPU = (
    "Returns how many elements of an output are not what they should be: 0 on a device "
    "that works. They may differ by one step of an integer, since there was no NPU to "
    "compare with."
)

_HEADER = """\
/* {mark} {note} */
#ifndef KPRUNE_{upper}_H_
#define KPRUNE_{upper}_H_

#include <stdbool.h>
#include <stdint.h>

{memory}/* Operators, for the size of the resolver. */
#define {upper}_OPERATORS {operators}

/* Inputs and outputs by name. INDEX is what the interpreter's input() and output()
   take; a stored value means SCALE * (value - ZERO_POINT). Floats have neither.
   LABELS, if there are any, are what an array of strings is made with. */
#define {upper}_INPUTS {inputs}
#define {upper}_OUTPUTS {outputs}

{ports}#ifdef __cplusplus
extern "C" {{
#endif

/* The .tflite file, aligned to 16 bytes. */
extern const unsigned char {name}[];
extern const unsigned int {name}_len;

#ifdef __cplusplus
}}

/* Adds the operators that the model needs, and no other, to a
   MicroMutableOpResolver<{upper}_OPERATORS>. Returns whether all were added. */
template <typename Resolver>
bool {name}_add_operators(Resolver& resolver) {{
  /* 0 is kTfLiteOk, which not all versions have in the same namespace. */
{adding}
}}
#endif

#endif /* KPRUNE_{upper}_H_ */
"""

_SOURCE = """\
/* {mark} {note} */
#include "{stem}.h"

alignas(16) const unsigned char {name}[] = {{
{data}
}};
const unsigned int {name}_len = {length};
"""

_TEST_HEADER = """\
/* {mark} {note} */
#ifndef KPRUNE_{upper}_H_TEST_
#define KPRUNE_{upper}_H_TEST_

#include "{stem}.h"

#ifdef __cplusplus
extern "C" {{
#endif

{vector}
extern const void* const {name}_test_inputs[{upper}_INPUTS];
extern const unsigned int {name}_test_input_bytes[{upper}_INPUTS];
extern const void* const {name}_test_outputs[{upper}_OUTPUTS];
extern const unsigned int {name}_test_output_bytes[{upper}_OUTPUTS];

{promise}
unsigned int {name}_test_differences(unsigned int output, const void* computed);

#ifdef __cplusplus
}}
#endif

#endif /* KPRUNE_{upper}_H_TEST_ */
"""

_TEST_SOURCE = """\
/* {mark} {note} */
#include "{stem}_test.h"

namespace {{

template <typename T>
unsigned int differences(const T* expected, unsigned int count, double tolerance,
                         const void* computed) {{
  const T* found = static_cast<const T*>(computed);
  unsigned int result = 0;
  for (unsigned int i = 0; i < count; ++i) {{
    if (found[i] == expected[i]) continue;
    const double difference =
        static_cast<double>(found[i]) - static_cast<double>(expected[i]);
    const bool within = -tolerance <= difference && difference <= tolerance;
    if (tolerance == 0 || !within) ++result;  // NaN never is.
  }}
  return result;
}}

{arrays}
}}  // namespace

const void* const {name}_test_inputs[] = {{{inputs}}};
const unsigned int {name}_test_input_bytes[] = {{{input_bytes}}};
const void* const {name}_test_outputs[] = {{{outputs}}};
const unsigned int {name}_test_output_bytes[] = {{{output_bytes}}};

unsigned int {name}_test_differences(unsigned int output, const void* computed) {{
  switch (output) {{
{cases}
    default:
      return 1;  // There is no such output.
  }}
}}
"""


def identifier(stem: str) -> str:
    """Returns a C and C++ identifier for a file's stem.

    Characters that identifiers cannot have become underscores; a leading digit, a
    leading underscore (reserved for compilers) or a keyword gets "model_" in front.
    """
    name = re.sub(r"_+", "_", re.sub(r"\W", "_", stem, flags=re.ASCII)).rstrip("_")
    if not name or not name[0].isalpha() or name in _RESERVED:
        name = f"model_{name.lstrip('_')}".rstrip("_")
    return name


def check_free(path: Path) -> None:
    """Makes sure that the sources can be written without harm to anyone's own.

    Args:
        path: The `.tflite` file.

    Raises:
        ValueError: If the path's name cannot stand in an `#include`, or a file of one
            of the names exists that kprune did not write for it.
    """
    # The last range is what Python has for bytes that are not UTF-8.
    if re.search(r'["\\\r\n\udc80-\udcff]', path.stem):
        raise ValueError(
            f"C cannot include a file of the name {path.stem!r}. Choose a `path` "
            "without quotes, backslashes, line breaks and characters that are not "
            "UTF-8, or pass c_source=False."
        )
    for file in _paths(path):
        if file.exists():
            with file.open("rb") as opened:
                ours = _mark(path).encode() in opened.readline(4096)
            if not ours:
                raise ValueError(
                    f"{str(file)!r} exists and was not written by kprune for "
                    f"{path.name!r}. Move it, choose another `path`, or pass "
                    "c_source=False."
                )


def render(firmware: Firmware, path: Path, note: str) -> dict[Path, bytes]:
    """Returns the sources and headers of a model, as content by path.

    The headers are C11 and C++11, the sources C++11, without a library: TensorFlow Lite
    Micro is C++, and so is the firmware around it, but code in C may read the facts.
    The array is aligned to 16 bytes, as that runtime's own examples have it, and
    constant, so that it stays in flash. The test vector has files of its own: firmware
    that does not link them pays nothing.

    Args:
        firmware: The file, and what to know of it.
        path: Its path; the sources stand beside it.
        note: One line on where the model comes from.

    Raises:
        ValueError: If an input or output is of a type that C does not have.
    """
    name = identifier(path.stem)
    words = {
        "name": name,
        "upper": name.upper(),
        "stem": path.stem,
        "mark": _mark(path),
        "note": _remark(note),
    }
    contents = (
        _SOURCE.format(**words, **_array(firmware.content)),
        _HEADER.format(**words, **_facts(firmware, name)),
        _TEST_SOURCE.format(**words, **_vector(firmware)),
        _TEST_HEADER.format(**words, **_promise(firmware.memory)),
    )
    texts = zip(_paths(path), contents, strict=True)
    return {file: text.encode() for file, text in texts}


def _paths(path: Path) -> tuple[Path, ...]:
    endings = (".cc", ".h", "_test.cc", "_test.h")
    return tuple(path.with_name(path.stem + ending) for ending in endings)


def _mark(path: Path) -> str:
    return f"Written by kprune for {path.name}:"


def _remark(text: str) -> str:
    """Returns what can stand in a comment, which must not end early."""
    return text.replace("*/", "* /").replace("\n", " ")


def _comment(text: str) -> str:
    return textwrap.fill(f"/* {text} */", _COLUMNS, subsequent_indent="   ")


def _array(content: bytes) -> dict[str, object]:
    rows = _rows([f"0x{byte:02x}" for byte in content], 12)
    return {"data": rows, "length": len(content)}


def _facts(firmware: Firmware, name: str) -> dict[str, object]:
    upper = name.upper()
    calls = [f"resolver.{method}() == 0" for method in firmware.methods]
    adding = "  return " + " &&\n         ".join(calls) + ";"
    return {
        "memory": _memory(firmware, upper),
        # A resolver for no operators does not compile.
        "operators": len(calls) or 1,
        "inputs": len(firmware.example.inputs),
        "outputs": len(firmware.example.outputs),
        "ports": _ports(f"{upper}_INPUT", firmware.inputs)
        + _ports(f"{upper}_OUTPUT", firmware.outputs),
        "adding": adding if calls else "  (void)resolver;\n  return true;",
    }


def _memory(firmware: Firmware, upper: str) -> str:
    memory = firmware.memory
    facts: list[tuple[str, Mapping[str, object]]] = [
        (_PLANNED if memory.planned else _TRIED, {"ARENA_BYTES": memory.arena_bytes})
    ]
    if memory.decoding_bytes is not None:
        numbers = {
            "DECODING_BYTES": memory.decoding_bytes,
            "ARENA_BYTES_WITHOUT_DECODING": memory.arena_bytes_then,
        }
        facts.append((_DECODING, numbers))
    if firmware.variables:
        facts.append((_STATE, {"RESOURCE_VARIABLES": firmware.variables}))
    return "".join(
        _comment(comment) + "\n" + _macros(upper, numbers) + "\n"
        for comment, numbers in facts
    )


def _ports(prefix: str, ports: Iterable[Port]) -> str:
    """Returns the macros of all inputs, or all outputs."""
    text = ""
    taken: set[str] = set()
    for port in ports:
        base = re.sub(r"\W", "_", port.name, flags=re.ASCII).upper()
        word, number = base, 1
        while word in taken:  # Names may differ by case only.
            word, number = f"{base}_{number}", number + 1
        taken.add(word)
        tensor = port.tensor
        shape = ", ".join(map(str, tensor.shape))
        facts = {
            "INDEX": port.index,
            "TYPE": _type(port),
            "SHAPE": f"{{{shape}}}",
            "BYTES": tensor.size * np.dtype(tensor.type.lower()).itemsize,
        }
        if tensor.scale.size:
            facts["SCALE"] = _float(tensor.scale[0])
            facts["ZERO_POINT"] = f"({tensor.zero_point[0]})"
        if port.labels:
            strings = ", \\\n  ".join(map(_string, port.labels))
            facts["LABELS"] = f"{{ \\\n  {strings}}}"
        text += _comment(_remark(port.name)) + "\n"
        text += _macros(f"{prefix}_{word}", facts) + "\n"
    return text


def _macros(prefix: str, facts: Mapping[str, object]) -> str:
    return "".join(f"#define {prefix}_{key} {value}\n" for key, value in facts.items())


def _type(port: Port) -> str:
    if port.tensor.type not in _TYPES:
        raise ValueError(
            f"{port.name!r} is of the type {port.tensor.type}, which C does not have. "
            "Pass c_source=False."
        )
    return _TYPES[port.tensor.type]


def _vector(firmware: Firmware) -> dict[str, object]:
    example = firmware.example
    inputs = [f"input_{index}" for index in range(len(example.inputs))]
    outputs = [f"output_{index}" for index in range(len(example.outputs))]
    cases = [
        f"    case {index}:\n      return differences({name}, {values.size}, "
        f"{float(tolerance)!r}, computed);"
        for index, (name, values, tolerance) in enumerate(
            zip(outputs, example.outputs, firmware.tolerances, strict=True)
        )
    ]
    arrays = zip((*inputs, *outputs), (*example.inputs, *example.outputs), strict=True)
    return {
        "arrays": "\n".join(_values(name, values) for name, values in arrays),
        "inputs": ", ".join(inputs),
        "input_bytes": ", ".join(f"sizeof({name})" for name in inputs),
        "outputs": ", ".join(outputs),
        "output_bytes": ", ".join(f"sizeof({name})" for name in outputs),
        "cases": "\n".join(cases),
    }


def _values(name: str, values: np.ndarray) -> str:
    kind = _TYPES[values.dtype.name.upper()]
    flat = values.reshape(-1)
    if values.dtype.kind == "f":
        rows = _rows([_float(value) for value in flat], 5)
    else:
        rows = _rows([_integer(value) for value in flat], 12)
    return f"alignas(16) const {kind} {name}[] = {{\n{rows}\n}};\n"


def _promise(memory: Memory) -> dict[str, object]:
    return {
        "vector": _comment(_VECTOR_NPU if memory.planned else _VECTOR),
        "promise": _comment(_PROMISE_NPU if memory.planned else _PROMISE),
    }


def _rows(items: Sequence[str], columns: int) -> str:
    return "\n".join(
        "  " + " ".join(f"{item}," for item in items[start : start + columns])
        for start in range(0, len(items), columns)
    )


def _integer(value: np.generic) -> str:
    # C has no negative literals, and this one's positive is too large.
    return "INT64_MIN" if int(value) == -(2**63) else str(int(value))


def _string(text: str) -> str:
    """Returns a literal of the text in UTF-8, whatever the compiler takes sources for.

    Three octal digits end by themselves, and no two question marks stand together,
    which begin a trigraph.
    """
    plain = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{plain}"'


def _float(value: np.generic) -> str:
    """Returns the shortest literal that is read back as the same float."""
    return np.format_float_scientific(np.float32(value), trim="0") + "f"
