"""Compilers for the host and for Cortex-M, and an emulator of the latter."""

import functools
import shutil
import subprocess
from pathlib import Path

from tools import need

STAND_IN = Path(__file__).with_name("tflm_stand_in")
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
# Processor: what the compiler needs to know, and QEMU's name of a board with it.
CORTEX_M = {
    "cortex-m4": ("-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
    "cortex-m55": ("-mthumb", "-mfloat-abi=hard"),
}
BOARDS = {"cortex-m4": "mps2-an386", "cortex-m55": "mps3-an547"}
FIRMWARE = ("-std=c++17", "-fno-exceptions", "-fno-rtti", "-O2", "-fdata-sections")


def run(*command):
    """Runs a command and returns its output; a failure shows the command's words."""
    done = subprocess.run(list(map(str, command)), capture_output=True, timeout=120)
    words = done.stderr.decode(errors="replace")
    assert done.returncode == 0, f"{command} returned {done.returncode}:\n{words}"
    return done.stdout


def host(*arguments, language="c++", standard="c++11"):
    """Compiles for this machine."""
    compiler = {"c": "gcc", "c++": "g++"}[language]
    need(compiler, shutil.which(compiler))
    run(compiler, f"-std={standard}", *STRICT, *arguments)


def macros(header):
    """Returns the macros of a C header, by name, as the preprocessor has them."""
    need("gcc", shutil.which("gcc"))
    lines = run("gcc", "-dM", "-E", "-x", "c", header).decode().splitlines()
    words = (line.split(maxsplit=2) for line in lines)
    return {name: "".join(rest) for _, name, *rest in words}


def cross(processor, *arguments):
    """Compiles for a Cortex-M."""
    need("gcc-arm-none-eabi with libstdc++-arm-none-eabi-newlib", _cross_compiles())
    flags = (f"-mcpu={processor}", *CORTEX_M[processor], *FIRMWARE, *STRICT)
    run("arm-none-eabi-g++", *flags, *arguments)


def emulate(processor, program):
    """Runs a program on an emulated Cortex-M and returns what it printed."""
    need("qemu-system-arm", shutil.which("qemu-system-arm"))
    return run(
        *("qemu-system-arm", "-M", BOARDS[processor], "-display", "none"),
        *("-monitor", "none", "-serial", "none"),
        *("-semihosting-config", "enable=on,target=native", "-kernel", program),
    )


@functools.cache
def _cross_compiles():
    """Whether the compiler is there, and C++'s headers, which are another package."""
    if shutil.which("arm-none-eabi-g++") is None:
        return False
    command = ("arm-none-eabi-g++", "-fsyntax-only", "-x", "c++", "-")
    done = subprocess.run(command, input=b"#include <cstring>\n", capture_output=True)
    return done.returncode == 0


def kotlin(stand_ins, sources, program):
    """Compiles Kotlin for the JVM, beside stand-ins in Java, and returns how to run it.

    Args:
        stand_ins: A folder of Java sources in folders by their package.
        sources: The Kotlin sources.
        program: The `.jar` file to write.
    """
    need("default-jdk-headless", shutil.which("javac"))
    need("kotlin", shutil.which("kotlinc"))
    classes = program.with_suffix(".classes")
    java = sorted(stand_ins.rglob("*.java"))
    run("javac", "-Xlint:all", "-Werror", "--release", "8", "-d", classes, *java)
    run(
        *("kotlinc", "-Werror", "-jvm-target", "1.8", "-classpath", classes),
        *("-include-runtime", *sources, "-d", program),
    )
    return ("java", "-Dfile.encoding=UTF-8", "-classpath", f"{program}:{classes}")
