import shutil
import subprocess

import pytest

from kprune.export.csource import check_free, identifier, render

MAIN = """
#include <stdint.h>
#include <stdio.h>
#include "{header}"
int main(void) {{
  if ((uintptr_t){name} % 16 != 0 || {upper}_ARENA_BYTES != 4096) return 1;
  return fwrite({name}, 1, {name}_len, stdout) == {name}_len ? 0 : 2;
}}
"""


@pytest.mark.parametrize("compiler", ["gcc", "g++"])
@pytest.mark.parametrize("stem", ["model", "2 fast-nets", "class"])
def test_a_program_holds_the_files_bytes(tmp_path, compiler, stem):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    data = bytes(range(256)) * 3 + b"end"
    path = tmp_path / f"{stem}.tflite"
    for file, content in render(data, path, 4096, "a note */ with\na trap").items():
        file.write_bytes(content)
    name = identifier(stem)
    main = tmp_path / "main.c"
    main.write_text(MAIN.format(header=f"{stem}.h", name=name, upper=name.upper()))
    flags = ["-std=c11"] if compiler == "gcc" else ["-std=c++11"]
    subprocess.run(
        [
            *(compiler, *flags, "-Wall", "-Wextra", "-Wpedantic", "-Werror"),
            *(main, path.with_suffix(".c"), "-o", tmp_path / "main"),
        ],
        check=True,
    )
    done = subprocess.run([tmp_path / "main"], capture_output=True, check=True)
    assert done.stdout == data


def test_files_of_others_are_not_overwritten(tmp_path):
    path = tmp_path / "net.tflite"
    check_free(path)
    for file, content in render(b"data", path, 16, "first").items():
        file.write_bytes(content)
    check_free(path)
    path.with_suffix(".h").write_text("/* my own header */")
    with pytest.raises(ValueError, match="net.h' exists and was not written by kprune"):
        check_free(path)
    with pytest.raises(ValueError, match="C cannot include"):
        check_free(tmp_path / 'a"b.tflite')


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
