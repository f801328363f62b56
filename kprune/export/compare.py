"""How far a file's outputs are from Keras's, and when that is too far to write it.

This module changes when another measure of agreement is reported.
"""

from collections.abc import Sequence

import numpy as np

from kprune.report import OutputDifference

# The largest relative difference (L2 norm of the difference over the norm of Keras's
# output) that a right conversion may show. Measured: 1e-7 for "none", 1e-3 for
# "float16", up to 0.1 for the integer ones on trained networks; broken files (sparse
# int8 in TensorFlow Lite Micro) show 1.3 to 2.2.
LIMITS = {
    "none": 1e-3,
    "float16": 0.05,
    "dynamic": 0.5,
    "int4": 0.5,
    "int8": 0.5,
    "int16x8": 0.5,
}


def compare(
    names: Sequence[str],
    runtime: str,
    expected: Sequence[np.ndarray],
    received: Sequence[np.ndarray],
    steps: Sequence[float | None],
) -> tuple[OutputDifference, ...]:
    """Measures the difference of each output over all samples.

    Args:
        names: Names of the outputs.
        runtime: The runtime that computed `received`.
        expected: Keras's outputs, samples along the first axis.
        received: The runtime's outputs as real numbers; may hold fewer samples, then
            the first ones are compared.
        steps: For each output, the real value of one integer step; `None` for floats.
    """
    return tuple(
        _difference(name, runtime, keras[: len(device)], device, step)
        for name, keras, device, step in zip(
            names, expected, received, steps, strict=True
        )
    )


def _difference(
    name: str,
    runtime: str,
    expected: np.ndarray,
    received: np.ndarray,
    step: float | None,
) -> OutputDifference:
    right = expected.astype(np.float64)
    got = received.astype(np.float64).reshape(right.shape)
    error = np.abs(got - right)
    size = float(np.linalg.norm(right))
    length = float(np.linalg.norm(error))
    if length == 0.0:
        relative = 0.0
    else:
        relative = length / size if size else float("inf")
    agreement = None
    if right.ndim == 2 and right.shape[1] > 1:
        agreement = float((right.argmax(1) == got.argmax(1)).mean())
    return OutputDifference(
        output=name,
        runtime=runtime,
        samples=len(right),
        max_abs=float(error.max(initial=0.0)),
        mean_abs=float(error.mean()) if error.size else 0.0,
        relative=relative,
        step=step,
        same_top=agreement,
        finite=bool(np.isfinite(got).all()),
    )


def check(
    differences: Sequence[OutputDifference], quantization: str, tolerance: float | None
) -> None:
    """Refuses a file that computes wrongly.

    An integer output is allowed two of its own steps whatever its relative difference:
    small values vanish in a coarse step, which is quantisation and no error.

    Args:
        differences: What was measured.
        quantization: A key of `LIMITS`.
        tolerance: The largest relative difference; `None` for `LIMITS`.

    Raises:
        ValueError: If an output is not finite or too far off.
    """
    limit = LIMITS[quantization] if tolerance is None else tolerance
    for item in differences:
        where = f"Output {item.output!r} in {item.runtime}"
        if not item.finite:
            raise ValueError(
                f"{where} has values that are NaN or infinite; Keras's are finite. "
                "Nothing was written. Export with quantization='none' to see whether "
                "the model or the quantisation overflows."
            )
        within_steps = item.step is not None and item.max_abs <= 2 * item.step
        if item.relative > limit and not within_steps and item.max_abs > 1e-6:
            cure = (
                "Pass representative_data that covers what the model will see, try "
                "quantization='int16x8', keep the worst layers in float32 "
                "(`float_layers`; kprune.quantization_sensitivity names them), or "
                "allow it with `tolerance`."
                if quantization in ("int8", "int16x8", "dynamic", "int4")
                else "This points to an error in the converter or the runtime; please "
                "report it with the model."
            )
            raise ValueError(
                f"{where} differs from Keras by {item.relative:.2g} of its size "
                f"(largest difference {item.max_abs:.3g}); expected at most {limit:g} "
                f"for quantization={quantization!r}. Nothing was written. {cure}"
            )
