"""What the axes of a weight are, and the order in which runtimes store them.

Keras keeps a dense kernel as (inputs, outputs) and a convolution as (height, width,
inputs, outputs); the runtimes keep (outputs, inputs) and (outputs, height, width,
inputs), and that is where a block of four consecutive weights has to be one. This
module changes when a weight needs an axis of another kind.
"""

import dataclasses
import math

import numpy as np

KINDS = {"o": "outputs", "s": "space", "i": "inputs"}


@dataclasses.dataclass(frozen=True)
class Axes:
    """What the axes of a weight are, one letter per axis.

    Args:
        letters: `"o"` for what the layer makes, `"i"` for what it reads, `"s"` for the
            window in between. Axes of one kind are taken together: `"ioo"`, the query
            kernel of attention, is a matrix from inputs to heads times dimensions.

    Example:
        >>> Axes("ssio").arranged(np.zeros((3, 5, 16, 32))).shape
        (32, 3, 5, 16)
    """

    letters: str

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the arranged shape, (outputs, *space, inputs), of a weight's."""
        sizes = {kind: [] for kind in KINDS}  # type: dict[str, list[int]]
        for letter, size in zip(self.letters, shape, strict=True):
            sizes[letter].append(size)
        return math.prod(sizes["o"]), *sizes["s"], math.prod(sizes["i"])

    def arranged(self, array: np.ndarray) -> np.ndarray:
        """Returns an array of the weight's shape as (outputs, *space, inputs).

        It is a view wherever NumPy can make one.
        """
        shape = self.shape(array.shape)
        return array.transpose(self._order()).reshape(shape)

    def restored(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Returns an arranged array as it was, in the weight's shape."""
        order = self._order()
        return array.reshape([shape[axis] for axis in order]).transpose(
            np.argsort(order)
        )

    def _order(self) -> list[int]:
        return [
            axis
            for kind in KINDS
            for axis, letter in enumerate(self.letters)
            if letter == kind
        ]
