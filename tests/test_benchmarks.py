"""What the benchmarks compute, beside running and timing things."""

import keras
import numpy as np
import pytest
from test_layers_of_keras import EXAMPLES

from benchmarks import comparison, keras_layers
from benchmarks.comparison import NETWORKS, SPARSITIES
from benchmarks.peers import tfmot


@pytest.mark.parametrize("net", NETWORKS)
def test_networks_have_the_parameters_that_are_counted(net: str) -> None:
    network = NETWORKS[net]
    model = network.build(keras, network.widths)
    assert model.count_params() == network.parameters(network.widths)
    kernels = [v for v in model.weights if "bias" not in v.name]
    sizes = sum(int(np.prod(kernel.shape)) for kernel in kernels)
    assert model.count_params() - sizes == network.biases


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("net", NETWORKS)
def test_small_networks_are_no_smaller_and_hardly_larger_than_what_is_left(
    net: str, sparsity: float
) -> None:
    network = NETWORKS[net]
    kernels = network.parameters(network.widths) - network.biases
    left = network.biases + kernels * (1 - sparsity)
    small = network.parameters(network.small_widths(sparsity))
    # One unit of the GRU, the coarser of the two, is 6 % of the smallest.
    assert left - 1 < small < 1.06 * left


def test_shuffled_masks_keep_as_many_of_each_kernel_elsewhere() -> None:
    masks = [np.arange(600).reshape(20, 30) < 60, np.ones((3, 4), bool)]
    shuffled = comparison.shuffled(masks, seed=1)
    assert [m.sum() for m in shuffled] == [60, 12]
    assert [m.shape for m in shuffled] == [(20, 30), (3, 4)]
    assert (shuffled[0] != masks[0]).any()
    again = comparison.shuffled(masks, seed=1)
    other = comparison.shuffled(masks, seed=2)
    assert (again[0] == shuffled[0]).all() and (other[0] != shuffled[0]).any()


def row(method: str, sparsity: float, *accuracies: float) -> list[dict[str, object]]:
    return [
        {
            "net": "lenet",
            "method": method,
            "sparsity": sparsity,
            "parameters_left": 100,
            "accuracy": accuracy,
        }
        for accuracy in accuracies
    ]


def checks(rows: list[dict[str, object]]) -> dict[tuple[str, float], dict[str, object]]:
    return {
        (f"{r['check']} {r['against']}", r["sparsity"]): r
        for r in comparison.summarise(rows)
        if "check" in r
    }


def test_the_best_has_to_lead_by_more_than_the_larger_spread() -> None:
    rows = [
        *row("dense", 0.0, 95.0),
        *row("magnitude, global", 0.9, 90.0, 91.0, 92.0),
        *row("Taylor", 0.9, 80.0, 80.0, 80.0),
        *row("random", 0.9, 88.0, 88.5, 89.5),  # 2.33 behind.
        *row("shuffled masks", 0.9, 87.0, 89.5, 89.0),  # 2.5 behind, 2.5 wide.
        *row("tfmot", 0.9, 91.0, 91.0, 91.0),
    ]
    found = checks(rows)
    assert {r["method"] for r in found.values()} == {"magnitude, global"}
    lead = found["best random", 0.9]
    assert (lead["lead"], lead["spread"], lead["met"]) == (2.333, 2.0, True)
    assert not found["best shuffled masks", 0.9]["met"]
    assert found["best tfmot", 0.9]["met"]  # As good will do.
    assert not checks([*rows, *row("tfmot", 0.9, 91.1)])["best tfmot", 0.9]["met"]


def test_below_the_high_sparsities_only_tfmot_is_a_target() -> None:
    found = checks(
        [
            *row("RigL", 0.5, 90.0),
            *row("random", 0.5, 89.0),
            *row("static random", 0.5, 89.0),
            *row("tfmot", 0.5, 91.0),
            *row("RigL", 0.95, 89.0, 89.1),
            *row("static random", 0.95, 88.0, 88.1),
            *row("random", 0.95, 80.0),
        ]
    )
    assert "met" not in found["best random", 0.5]
    assert not found["best tfmot", 0.5]["met"]
    assert found["best static random", 0.95]["met"]
    assert "met" not in found["RigL static random", 0.95]
    assert "met" not in found["best random", 0.95]  # One seed has no spread.


def test_rigl_is_held_against_static_random_where_it_is_not_the_best_too() -> None:
    found = checks(
        [
            *row("magnitude, ERK", 0.9, 92.0, 92.2),
            *row("RigL", 0.9, 90.0, 90.4),
            *row("static random", 0.9, 90.0, 90.0),
        ]
    )
    assert found["best static random", 0.9]["met"]
    verdict = found["RigL static random", 0.9]
    assert (verdict["lead"], verdict["met"]) == (0.2, False)


@pytest.mark.parametrize(
    ("better", "values", "expected"),
    [
        ("less", (1.0, 1.2), "ahead"),
        ("less", (1.2, 1.0), "behind"),
        ("more", (1.2, 1.0), "ahead"),
        ("more", (1.0, 1.05), "equal"),
        (0.8, (0.8, 0.7), "equal"),  # The difference is as large as what is none.
        (0.8, (0.8, 1.0), "ahead"),
        (0.8, (0.6, 0.85), "behind"),
    ],
)
def test_a_side_is_ahead_by_more_than_what_is_no_difference(
    better: str | float, values: tuple[float, float], expected: str
) -> None:
    assert tfmot.row("ratio", better, values, margin=0.1)["kprune_is"] == expected


def test_the_wider_range_of_both_sides_is_no_difference() -> None:
    ranges = ((1.0, 1.1), (1.1, 1.4))
    found = tfmot.row("ms", "less", (1.05, 1.3), ranges)
    assert (found["margin"], found["kprune_is"]) == (0.3, "equal")


def test_only_layers_of_both_kerases_are_compared() -> None:
    ours = {"Dense": "pruned", "GRU": "pruned", "PReLU": "skipped", "New": "pruned"}
    theirs = {"Dense": "pruned", "GRU": "refused: why", "PReLU": "skipped"}
    pruned, refused = tfmot.layers({"kprune": ours, "tfmot": theirs}).values()
    assert pruned["values"] == {"kprune": 2, "tfmot": 1}
    assert refused["values"] == {"kprune": 0, "tfmot": 1}
    assert pruned["skipped"] == {"kprune": 1, "tfmot": 1}
    assert pruned["kprune_is"] == refused["kprune_is"] == "ahead"


def test_every_layer_of_keras_is_tried_on_both_sides() -> None:
    ours = {name for name in keras_layers.LAYERS if hasattr(keras.layers, name)}
    assert ours == set(EXAMPLES) - {"Wrapper"}


@pytest.mark.parametrize("name", ["Dense", "Attention", "ReversibleEmbedding"])
def test_a_model_is_built_around_a_layer(name: str) -> None:
    model = keras_layers.build(keras, name)
    assert any(type(layer).__name__ == name for layer in model.layers)
    assert model.output_shape == (None, 3)
