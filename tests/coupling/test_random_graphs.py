"""Masked and smaller model compute the same, for random models and removed units.

About 250 models in a normal run. To try thousands, and see which rules they used:

    KPRUNE_RANDOM_GRAPHS=5000 python -m pytest tests/coupling/test_random_graphs.py -s
"""

import os

import numpy as np
import pytest
import random_graphs
from hypothesis import HealthCheck, event, given, reject, settings

from kprune.coupling.graph import analyse
from kprune.structure import proof
from kprune.structure.removal import Cut, remove

CASES = int(os.environ.get("KPRUNE_RANDOM_GRAPHS", "250"))
MANY = CASES > 250


class Seen:
    """What the cases had in them."""

    cases = 0
    removing = 0
    rules: set = set()


@random_graphs.plain_addition()
def difference(recipe):
    """Returns the model, how far the two are apart, and how many units were removed."""
    model = random_graphs.build(recipe)
    coupling = analyse(model)
    removed = random_graphs.removal(coupling, recipe.seed)
    inputs = random_graphs.samples(recipe)
    masked = proof.masked_outputs(model, coupling.masks(removed), inputs)
    small, _ = remove(coupling, Cut(coupling, removed))
    with np.errstate(all="ignore"):
        found = proof.equality(masked, proof.outputs(small, inputs), "random inputs")
    return model, found, int(np.count_nonzero(removed))


@settings(
    max_examples=CASES,
    deadline=None,
    derandomize=not MANY,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(random_graphs.recipes())
def check_masked_equals_shrunk(recipe):
    model, found, removed = difference(recipe)
    if not found.finite:
        reject()  # Such as the logarithm of a negative number, before any removal.
    event(f"removes {'something' if removed else 'nothing'}")
    Seen.cases += 1
    Seen.removing += removed > 0
    Seen.rules |= random_graphs.exercised(model)
    assert found.relative < 1e-4, f"{found}\n{removed} units removed"


# Random models do what Keras warns of, such as dropping a mask of time.
@pytest.mark.filterwarnings("error::kprune.PruningWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_masked_equals_shrunk_for_random_models_and_most_lose_something():
    check_masked_equals_shrunk()
    assert Seen.cases > CASES // 2
    assert Seen.removing > 0.7 * Seen.cases
    missed = never_exercised()
    print(f"\n{Seen.cases} models, {Seen.removing} of them lost something.")
    print(f"Never seen: {', '.join(missed) or 'no rule'}")
    if CASES >= 5000:
        assert not missed


def never_exercised():
    """Returns the names of classes with rules that no model so far had."""
    missed = random_graphs.classes_with_rules() - Seen.rules
    return sorted(f"{c.__module__.split('.')[-1]}.{c.__name__}" for c in missed)
