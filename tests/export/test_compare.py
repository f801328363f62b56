import numpy as np
import pytest

from kprune.export.compare import check, compare


def one(expected, received, step=None):
    (found,) = compare(
        ["y"], "LiteRT", [np.asarray(expected)], [np.asarray(received)], [step]
    )
    return found


def test_the_measures_are_what_they_say():
    found = one([[3.0, 4.0], [0.0, 0.0]], [[3.0, 4.5], [0.0, -0.5]], step=0.25)
    assert found.samples == 2
    assert found.max_abs == 0.5
    assert found.mean_abs == 0.25
    assert found.relative == pytest.approx(np.sqrt(0.5) / 5)
    assert found.max_steps == 2
    assert found.same_top == 1.0


def test_top_classes_are_compared_for_vectors_only():
    assert one([[1.0, 2.0], [2.0, 1.0]], [[2.0, 1.0], [2.0, 1.0]]).same_top == 0.5
    assert one([[1.0]], [[1.0]]).same_top is None
    assert one(np.ones((1, 2, 2)), np.ones((1, 2, 2))).same_top is None


def test_fewer_samples_are_compared_with_the_first_ones():
    found = one([[1.0], [2.0], [3.0]], [[1.0], [2.0]])
    assert (found.samples, found.max_abs) == (2, 0.0)


def test_an_output_of_zeros_has_no_relative_size():
    assert one([[0.0]], [[0.0]]).relative == 0.0
    assert one([[0.0]], [[1.0]]).relative == float("inf")


@pytest.mark.parametrize(
    ("quantization", "received"),
    [("none", 1.002), ("float16", 1.06), ("int8", 1.6), ("dynamic", 0.4)],
)
def test_what_computes_wrongly_is_refused(quantization, received):
    difference = one([[1.0, 0.0]], [[received, 0.0]])
    with pytest.raises(ValueError, match="Output 'y' in LiteRT differs .*Nothing was"):
        check([difference], quantization, None)
    check([difference], quantization, 0.9)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_is_refused_whatever_the_tolerance(value):
    with pytest.raises(ValueError, match="NaN or infinite"):
        check([one([[1.0]], [[value]])], "int8", 1e9)


def test_two_integer_steps_are_rounding_and_three_are_not():
    small = [[0.001, 0.001]]
    check([one(small, [[0.0, 0.0078]], step=1 / 256)], "int8", None)
    with pytest.raises(ValueError, match="differs"):
        check([one(small, [[0.0, 0.0127]], step=1 / 256)], "int8", None)


def test_rounding_noise_around_zero_is_no_difference():
    check([one([[0.0]], [[1e-8]])], "none", None)
