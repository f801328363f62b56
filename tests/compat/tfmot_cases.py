"""What kprune and tfmot are both asked; known to both processes."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Case:
    """One layer, pruned for some steps with weights that a seed makes."""

    layer: str
    arguments: list
    input_shape: list
    shape: list
    schedule: list
    steps: int
    block: list = dataclasses.field(default_factory=lambda: [1, 1])
    pooling: str = "AVG"
    m_by_n: list | None = None
    seed: int = 0
    given: list | None = None

    def weights(self, step):
        if self.given is not None:
            return np.array(self.given, "float32")
        rng = np.random.default_rng((self.seed, step))
        return rng.normal(size=self.shape).astype("float32")
