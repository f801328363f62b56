"""One module per family of operations; importing the package registers them all.

This module changes when a family is added.
"""

from kprune.coupling.rules import (  # noqa: F401
    applications,
    arranging,
    attention,
    convolution,
    dense,
    einsum,
    elementwise,
    embedding,
    merging,
    normalization,
    operations,
    pooling,
    products,
    recurrent,
    shaping,
    slicing,
    wrappers,
)
