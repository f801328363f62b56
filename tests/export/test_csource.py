"""The text of the sources, for files and names of every kind."""

import ctypes
import dataclasses
import os

import compilers
import numpy as np
import pytest

from kprune.export import tflite
from kprune.export.csource import check_free, identifier, render
from kprune.export.firmware import Firmware, Memory, Port
from kprune.export.tflm import Example

DATA = bytes(range(256)) * 3 + b"end"
NOTE = "a note */ with\na trap"


def tensor(type_name="INT8", shape=(1, 2), scale=0.5, zero=-3):
    scales = np.array([] if scale is None else [scale], np.float32)
    zeros = np.array([] if scale is None else [zero])
    return tflite.Tensor(0, "", shape, type_name, None, False, scales, zeros, 0)


def firmware(**changes):
    values = np.array([[-128, 127]], np.int8)
    facts = Firmware(
        content=DATA,
        inputs=(Port("x", 0, tensor()),),
        outputs=(Port("y", 0, tensor()),),
        methods=("AddConv2D",),
        variables=0,
        memory=Memory(4096),
        example=Example((values,), (values,)),
        tolerances=(0.0,),
    )
    return dataclasses.replace(facts, **changes)


def written(path, facts=None):
    for file, content in render(facts or firmware(), path, NOTE).items():
        file.write_bytes(content)
    return path


MAIN = """
#include <stdio.h>
#include "{stem}_test.h"
int main(void) {{
  if ((uintptr_t){name} % 16 != 0 || {upper}_ARENA_BYTES != 4096) return 1;
  if ({name}_test_differences(0, {name}_test_outputs[0]) != 0) return 2;
  return fwrite({name}, 1, {name}_len, stdout) == {name}_len ? 0 : 3;
}}
"""


@pytest.mark.parametrize("language", ["c", "c++"])
@pytest.mark.parametrize("stem", ["model", "2 fast-nets", "class", "a*b"])
def test_a_program_holds_the_files_bytes(tmp_path, language, stem):
    """One in C, too: only the sources are C++."""
    written(tmp_path / f"{stem}.tflite")
    name = identifier(stem)
    main = tmp_path / f"main.{language}"
    main.write_text(MAIN.format(stem=stem, name=name, upper=name.upper()))
    objects = []
    for source in (f"{stem}.cc", f"{stem}_test.cc"):
        objects.append(tmp_path / f"{source}.o")
        compilers.host("-c", tmp_path / source, "-o", objects[-1])
    standard = {"c": "c11", "c++": "c++11"}[language]
    compilers.host(
        *("-x", language, main, "-x", "none", *objects, "-o", tmp_path / "main"),
        language=language,
        standard=standard,
    )
    assert compilers.run(tmp_path / "main") == DATA


@pytest.mark.parametrize(
    ("type_name", "values"),
    [
        ("INT8", [-128, 127]),
        ("UINT8", [0, 255]),
        ("INT16", [-(2**15), 2**15 - 1]),
        ("INT32", [-(2**31), 2**31 - 1]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("FLOAT32", [1.0, -1 / 3]),
        ("FLOAT32", [3.4028235e38, 1e-45]),
        ("BOOL", [True, False]),
    ],
)
def test_values_of_every_type_are_read_back_bit_for_bit(tmp_path, type_name, values):
    array = np.array([values], type_name.lower())
    port = Port("x", 0, tensor(type_name, scale=None))
    facts = firmware(
        inputs=(port,), outputs=(port,), example=Example((array,), (array,))
    )
    written(tmp_path / "m.tflite", facts)
    source, library = tmp_path / "m_test.cc", tmp_path / "m.so"
    compilers.host("-shared", "-fPIC", source, "-o", library)
    loaded = ctypes.CDLL(library)
    stored = ctypes.c_void_p.in_dll(loaded, "m_test_outputs")
    assert ctypes.string_at(stored.value, array.nbytes) == array.tobytes()
    assert loaded.m_test_differences(0, array.tobytes()) == 0
    assert loaded.m_test_differences(0, array[:, ::-1].tobytes()) == 2
    found = compilers.macros(tmp_path / "m.h")
    assert found["M_INPUT_X_BYTES"] == str(array.nbytes)
    assert "M_INPUT_X_SCALE" not in found


def test_names_that_differ_by_case_only_get_macros_of_their_own(tmp_path):
    ports = [
        Port(name, place, tensor()) for place, name in enumerate(["a", "A", "a_1"])
    ]
    written(tmp_path / "m.tflite", firmware(inputs=tuple(ports)))
    found = compilers.macros(tmp_path / "m.h")
    names = {name for name in found if name.endswith("_INDEX")}
    assert len(names) == 4  # And the output.
    assert {found[name] for name in names} == {"0", "1", "2"}


def test_a_type_that_c_does_not_have_is_refused(tmp_path):
    facts = firmware(inputs=(Port("x", 0, tensor("COMPLEX64")),))
    with pytest.raises(
        ValueError, match="'x' is of the type COMPLEX64.*c_source=False"
    ):
        render(facts, tmp_path / "m.tflite", NOTE)


@pytest.mark.parametrize("ending", [".cc", ".h", "_test.cc", "_test.h"])
def test_files_of_others_are_not_overwritten(tmp_path, ending):
    path = tmp_path / "net.tflite"
    check_free(path)
    written(path)
    check_free(path)
    path.with_name(f"net{ending}").write_text("/* my own */")
    with pytest.raises(ValueError, match=f"net{ending}' exists and was not written"):
        check_free(path)


def test_files_of_another_model_are_not_overwritten(tmp_path):
    written(tmp_path / "net.tflite")
    with pytest.raises(ValueError, match="was not written by kprune for 'net_test.tf"):
        check_free(tmp_path / "net_test.tflite")


@pytest.mark.parametrize("stem", ['a"b', "a\\b", "a\nb", os.fsdecode(b"a\xffb")])
def test_names_that_no_include_can_hold_are_refused(tmp_path, stem):
    with pytest.raises(ValueError, match="C cannot include"):
        check_free(tmp_path / f"{stem}.tflite")


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("model", "model"),
        ("my-net.v2", "my_net_v2"),
        ("2net", "model_2net"),
        ("_x", "model_x"),
        ("int", "model_int"),
        ("naïve net", "na_ve_net"),
        ("é", "model"),
    ],
)
def test_names_are_valid_in_c_and_say_what_they_are(stem, name):
    assert identifier(stem) == name
