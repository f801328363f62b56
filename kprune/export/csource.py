"""A `.tflite` file as C source, for firmware without a file system.

This module changes when the C that firmware needs does.
"""

import re
from pathlib import Path

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


_MARK = "Written by kprune"

_TRIED = """\
Bytes of tensor arena that worked on a 64-bit host with the reference kernels.
   Optimised kernels may need more: check AllocateTensors on the device."""
_PLANNED = """\
Bytes of SRAM that Vela plans for activations. TensorFlow Lite Micro's own
   structures come on top, some thousand bytes: check AllocateTensors on the device."""


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
    """Makes sure that the C files can be written without harm to anyone's own.

    Args:
        path: The `.tflite` file.

    Raises:
        ValueError: If the path's name cannot stand in an `#include`, or a file of one
            of the names exists that kprune did not write.
    """
    if re.search(r'["\\\n]', path.stem):
        raise ValueError(
            f"C cannot include a file of the name {path.stem!r}. Choose a `path` "
            "without quotes, backslashes and line breaks, or pass c_source=False."
        )
    for file in (path.with_suffix(".c"), path.with_suffix(".h")):
        if file.exists():
            with file.open("rb") as opened:
                ours = _MARK.encode() in opened.readline(4096)
            if not ours:
                raise ValueError(
                    f"{str(file)!r} exists and was not written by kprune. Move it, "
                    "choose another `path`, or pass c_source=False."
                )


def render(
    data: bytes,
    path: Path,
    arena_bytes: int,
    note: str,
    decoding_bytes: int | None = None,
    compiled: bool = False,
) -> dict[Path, bytes]:
    """Returns the source and header of a model, as content by path.

    Both compile as C11 and as C++11, without a library. The array is aligned to 16
    bytes, as TensorFlow Lite Micro's own examples have it, and constant, so that it
    stays in flash.

    Args:
        data: The `.tflite` file.
        path: Its path; the C files stand beside it, with the suffixes .c and .h.
        arena_bytes: Bytes of tensor arena that the model needs.
        note: One line on where the model comes from.
        decoding_bytes: Memory that holds what is decoded of weights, in bytes, if any
            are encoded.
        compiled: Whether the file was compiled for an NPU, and the arena is what its
            compiler plans.
    """
    name = identifier(path.stem)
    upper = name.upper()
    header_path, source_path = path.with_suffix(".h"), path.with_suffix(".c")
    # A comment must not end early, whatever the note holds.
    remark = f"{_MARK}: " + note.replace("*/", "* /").replace("\n", " ")
    decoding = ""
    if decoding_bytes is not None:
        decoding = f"""
/* Weights are decoded while the model runs: the operator resolver needs AddDecode().
   They take their place in the arena, or in as many bytes that are handed to
   SetDecompressionMemory() before AllocateTensors(). */
#define {upper}_DECODING_BYTES {decoding_bytes}
"""
    header = f"""\
/* {remark} */
#ifndef KPRUNE_{upper}_H_
#define KPRUNE_{upper}_H_

/* {_PLANNED if compiled else _TRIED} */
#define {upper}_ARENA_BYTES {arena_bytes}
{decoding}
#ifdef __cplusplus
extern "C" {{
#endif

extern const unsigned char {name}[];
extern const unsigned int {name}_len;

#ifdef __cplusplus
}}
#endif

#endif /* KPRUNE_{upper}_H_ */
"""
    rows = "\n".join(
        "  " + " ".join(f"0x{byte:02x}," for byte in data[start : start + 12])
        for start in range(0, len(data), 12)
    )
    source = f"""\
/* {remark} */
#include "{header_path.name}"

#ifndef __cplusplus
#include <stdalign.h>
#endif

alignas(16) const unsigned char {name}[] = {{
{rows}
}};
const unsigned int {name}_len = {len(data)};
"""
    return {source_path: source.encode(), header_path: header.encode()}
