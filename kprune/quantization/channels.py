"""What is said when channels are to go from a model that rounds.

This module changes when they can.
"""

from typing import NoReturn

from kprune.coupling.registry import Call, coupling
from kprune.quantization.fake_quantization import (
    FakeQuantize,
    QuantizedScaling,
    QuantizedWeights,
)


@coupling(FakeQuantize, QuantizedScaling, QuantizedWeights)
def _refuse(call: Call) -> NoReturn:
    raise ValueError(
        f"Channels cannot be pruned or removed in a model that rounds to int8, as "
        f"{call.name} does: ranges and statistics are those of all channels. Do it "
        "before: small = kprune.shrink(model, ...), then kprune.quantize_aware(small)."
    )
