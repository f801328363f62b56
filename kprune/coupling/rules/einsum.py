"""EinsumDense, whose equation says which axis belongs to whom.

This module changes when Keras allows other equations.
"""

import re

import keras
import numpy as np

from kprune.coupling.layout import Layout
from kprune.coupling.registry import Call, Labels, coupling

L = keras.layers


@coupling(L.EinsumDense)
def einsum_dense(call: Call) -> Layout:
    """Reads, makes or passes on each axis, as the letters of its equation say."""
    layer, x = call.operation, call.input
    specs = _letters(layer.equation, len(x.shape))
    if specs is None:
        return call.barrier(f"has the equation {layer.equation!r}")[0]
    read, weight, written = specs
    if read[0] != written[0] or read[0] in weight:
        return call.barrier("does not keep the batch as the first axis")[0]
    labels = {letter: call.labels(x, axis) for axis, letter in enumerate(read)}
    for axis, letter in enumerate(weight):
        if letter not in labels:
            labels[letter] = call.fresh(layer.kernel.shape[axis])
    _fix_unknown(call, labels, written)
    _kernel(call, labels, specs)
    summed = set(read) - set(weight) - set(written)
    for letter in summed:
        along = labels[letter]
        if along is not None:
            call.builder.demand(along, f"{call.name} sums over this axis")
    _bias(call, labels, written)
    _output_shape(call, labels, written)
    for letter in written:
        call.activate(layer.activation, labels[letter])
    return call.output({axis: labels[letter] for axis, letter in enumerate(written)})


def _letters(equation: str, rank: int) -> tuple[str, str, str] | None:
    """Returns the letters of input, kernel and output; capitals stand for an ellipsis.

    `None` if the equation has letters twice in one of them, or capitals of its own.
    """
    match = re.fullmatch(r"([a-z.]+),([a-z]+)->([a-z.]+)", equation.replace(" ", ""))
    if match is None:
        return None
    read, weight, written = match.groups()
    elided = rank - len(read.replace("...", ""))
    capitals = "".join(chr(ord("A") + place) for place in range(elided))
    read, written = (spec.replace("...", capitals) for spec in (read, written))
    if any(len(set(spec)) != len(spec) for spec in (read, weight, written)):
        return None
    return read, weight, written


def _fix_unknown(call: Call, labels: dict[str, Labels], written: str) -> None:
    """Fixes axes whose size the graph does not know.

    That is so where `output_shape` says None; and Keras gives the sizes that an
    ellipsis stands for in the wrong order where they are several.
    """
    for axis, letter in enumerate(written):
        along, size = labels[letter], call.shapes[0][axis]
        if along is not None and len(along) != size:
            call.pin(along, f"{call.name} makes of it an axis of size {size}")
            labels[letter] = None


def _kernel(call: Call, labels: dict[str, Labels], specs: tuple[str, str, str]) -> None:
    layer, x = call.operation, call.input
    read, weight, written = specs
    roles: dict[str, dict[int, Labels]] = {"reads": {}, "makes": {}, "scales": {}}
    for axis, letter in enumerate(weight):
        passes = letter in read and letter in written
        role = "scales" if passes else "reads" if letter in read else "makes"
        roles[role][axis] = labels[letter]
    call.weight(layer.kernel, **roles, kind="units")  # type: ignore[arg-type]
    sizes = dict(zip(read, x.shape, strict=True))
    sizes |= dict(zip(weight, layer.kernel.shape, strict=True))
    letters = [letter for letter in sizes if letter != read[0]]
    call.product(
        [sizes[letter] for letter in letters],
        {place: labels[letter] for place, letter in enumerate(letters)},
    )


def _bias(call: Call, labels: dict[str, Labels], written: str) -> None:
    layer = call.operation
    if layer.bias is None:
        return
    given = [letter for letter in written if letter in layer.bias_axes]
    first = written.index(given[0])
    makes = {written.index(letter) - first: labels[letter] for letter in given}
    call.weight(layer.bias, makes=makes, scored=False)
    for letter in written:
        along = labels[letter]
        if letter not in given and along is not None:
            call.builder.spoil(along, f"{call.name} adds the same bias along this axis")


def _output_shape(call: Call, labels: dict[str, Labels], written: str) -> None:
    layer = call.operation
    asked = layer.partial_output_shape
    # Without the batch and what an ellipsis stands for.
    if layer.equation.startswith("..."):
        letters = written[-len(asked) :]
    else:
        letters = written[1 : 1 + len(asked)]

    def output_shape(alive: np.ndarray) -> tuple[int | None, ...]:
        sizes = []
        for letter, size in zip(letters, asked, strict=True):
            along = labels[letter]
            if size is not None and along is not None:
                size = int(np.count_nonzero(alive[along]))
            sizes.append(size)
        return tuple(sizes)

    call.resize("output_shape", output_shape)
