"""What kprune and tfmot each do in `benchmarks/peers/tfmot.py`, by the same code.

Reads one question per line from standard input, as JSON: the name of a method of
`Measured`, and its arguments. Answers with a line. This module changes when something
else is to be measured.

    python -m benchmarks.peers.tfmot_sides kprune digits.npz
"""

import json
import os
import sys
import tempfile
import warnings
from typing import Any

import numpy as np

from benchmarks import keras_layers, networks, protocol, step_timing

ASKED, LATER, FREQUENCY = 0.8, 0.82, 100
SPARSITIES = (0.5, 0.8, 0.9)
BATCH_SIZE = 32
CHECKPOINT_RAMP, CHECKPOINT_STEPS = 20, 60


class Kprune:
    """What differs on our side."""

    def __init__(self) -> None:
        import keras

        self.keras = keras

    def pruned(
        self,
        model: Any,
        sparsity: float,
        begin: int,
        end: int,
        frequency: int,
        evenly: bool = False,
    ) -> tuple[Any, list[Any]]:
        """Returns a model to compile and fit, and the callbacks of the fit.

        `evenly` prunes each kernel as far as the others, which is not the default.
        """
        import kprune

        schedule = kprune.PolynomialDecay(
            0.0, sparsity, begin, end, frequency=frequency
        )
        settings = {"allocation": "uniform"} if evenly else {}
        return model, [kprune.PruningCallback(schedule=schedule, **settings)]

    def stripped(self, model: Any) -> Any:
        """Returns the model without what pruning added."""
        import kprune

        return kprune.strip(model)

    def updates(self, model: Any) -> tuple[list[Any], list[Any]]:
        """Returns kernels, and functions that update masks: first and later."""
        import kprune
        from kprune.groups import find_groups
        from kprune.notices import Notices

        rule = kprune.Rule(kprune.ConstantSparsity(LATER))
        (group,) = find_groups(model, kprune.Plan(rule), Notices())[0]
        for weight in group.weights:
            weight.attach(None)
        functions = [lambda s=s: group.update(s) for s in (ASKED, LATER)]
        return [weight.variable for weight in group.weights], functions


class Tfmot:
    """What differs on theirs."""

    def __init__(self) -> None:
        import tensorflow_model_optimization as tfmot
        import tf_keras

        self.keras, self.sparsity = tf_keras, tfmot.sparsity.keras

    def pruned(
        self,
        model: Any,
        sparsity: float,
        begin: int,
        end: int,
        frequency: int,
        evenly: bool = True,
    ) -> tuple[Any, list[Any]]:
        """Returns a model to compile and fit, and the callbacks of the fit.

        Each kernel is pruned as far as the others, asked for or not.
        """
        schedule = self.sparsity.PolynomialDecay(
            0.0, sparsity, begin, end, frequency=frequency
        )
        pruned = self.sparsity.prune_low_magnitude(model, schedule)
        return pruned, [self.sparsity.UpdatePruningStep()]

    def stripped(self, model: Any) -> Any:
        """Returns the model without what pruning added."""
        return self.sparsity.strip_pruning(model)

    def updates(self, model: Any) -> tuple[list[Any], list[Any]]:
        """Returns kernels, and functions that update masks: first and later."""
        import tensorflow as tf

        # The ramp asks for the one sparsity at step 0 and for the other at step 1.
        schedule = self.sparsity.PolynomialDecay(ASKED, LATER, 0, 1, 1, frequency=1)
        layers = self.sparsity.prune_low_magnitude(model, schedule).layers

        @tf.function  # As in a compiled training step.
        def update() -> None:
            for layer in layers:
                layer.pruning_obj.conditional_mask_update()
                layer.pruning_obj.weight_mask_op()

        def at(step: int) -> None:
            for layer in layers:
                layer.pruning_step.assign(step)
            update()

        kernels = [layer.pruning_vars[0][0] for layer in layers]
        return kernels, [lambda: at(0), lambda: at(1)]


SIDES = {"kprune": Kprune, "tfmot": Tfmot}


class Measured:
    """What one side measures; each method returns what JSON can hold.

    Args:
        side: What differs between the sides.
        digits: Images and labels, to train on and to test with.
    """

    def __init__(self, side: Kprune | Tfmot, digits: dict[str, np.ndarray]) -> None:
        self._side, self._keras = side, side.keras
        self._digits = digits

    def machine(self) -> dict[str, Any]:
        """Returns what the numbers depend on."""
        return protocol.machine()

    def step(self, net: str, steps: int, rounds: int, frequency: int) -> dict[str, Any]:
        """Returns the ratio of training steps pruned / dense."""

        def pruned(model: Any, data: Any, measured: range) -> Any:
            begin, end = measured.start, measured.stop
            return self._side.pruned(model, 0.9, begin, end, frequency)

        network = networks.NETWORKS[net]
        return step_timing.measure(self._keras, network, pruned, steps, rounds)

    def mask_update(self) -> list[float]:
        """Returns the CPU milliseconds of a first and of a later update."""
        self._keras.utils.set_random_seed(0)
        model = networks.dense5m(self._keras)
        kernels, (first, later) = self._side.updates(model)
        dense = [np.array(kernel) for kernel in kernels]
        random = np.random.default_rng(0)
        first()  # Once untimed, to trace it.
        for kernel, values in zip(kernels, dense, strict=True):
            kernel.assign(values)
        _, first_seconds = protocol.timed(first)
        for kernel in kernels:
            values = np.array(kernel)
            noise = random.normal(0, 0.001, values.shape).astype("float32")
            kernel.assign(values + noise * (values != 0))
        _, later_seconds = protocol.timed(later)
        return [first_seconds * 1000, later_seconds * 1000]

    def checkpoint(self, step: int) -> float:
        """Returns the sparsity of a checkpoint that is written at a step."""
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/at_a_step.weights.h5"
            checkpoint = self._keras.callbacks.ModelCheckpoint(
                path, save_weights_only=True, save_freq=step
            )
            self._fit_for(
                CHECKPOINT_STEPS,
                self._pruned_cnn(ASKED, 0, CHECKPOINT_RAMP, 5),
                [checkpoint],
            )
            again, _ = self._pruned_cnn(ASKED, 0, CHECKPOINT_RAMP, 5)
            again.load_weights(path)
        return _sparsity(again)

    def achieved(self) -> float:
        """Returns the sparsity that is reached where 0.8 is asked for."""
        pruned = self._pruned_cnn(ASKED, 0, 150, FREQUENCY)
        self._fit_for(200, pruned, [])
        return _sparsity(self._side.stripped(pruned[0]))

    def accuracy(self, seed: int, epochs: int) -> dict[str, float]:
        """Returns test accuracies in percent: dense, and by sparsity."""
        x_train, y_train = self._digits["x_train"], self._digits["y_train"]
        test = self._digits["x_test"], self._digits["y_test"]

        def fit(model: Any, callbacks: list[Any], seed: int) -> float:
            self._compile(model)
            self._keras.utils.set_random_seed(seed)
            model.fit(
                x_train, y_train, BATCH_SIZE, epochs, callbacks=callbacks, verbose=0
            )
            return 100 * float(model.evaluate(*test, verbose=0)[1])

        self._keras.utils.set_random_seed(seed)
        dense = self._cnn()
        found = {"dense": fit(dense, [], seed)}
        # The final sparsity is reached by tfmot only if the frequency divides the ramp.
        frequency = 10
        half = -(-len(x_train) // BATCH_SIZE) * epochs // 2 // frequency * frequency
        for sparsity in SPARSITIES:
            model = self._cnn()
            model.set_weights(dense.get_weights())
            model, callbacks = self._side.pruned(model, sparsity, 0, half, frequency)
            found[str(sparsity)] = fit(model, callbacks, seed + 1000)
            found[f"sparsity at {sparsity}"] = _sparsity(self._side.stripped(model))
        return found

    def layers(self) -> dict[str, str]:
        """Returns what becomes of each layer that this Keras has."""
        names = [n for n in keras_layers.LAYERS if hasattr(self._keras.layers, n)]
        return {name: self._layer(name) for name in names}

    def _layer(self, name: str) -> str:
        model = keras_layers.build(self._keras, name)
        _, shape, _ = keras_layers.LAYERS[name]
        random = np.random.default_rng(0)
        x = random.normal(size=(16, *shape)).astype("float32")
        if shape is keras_layers.WORDS:
            x = random.integers(0, 16, (16, *shape))
        y = random.integers(0, 3, (16, 3)).astype("float32")
        before = _zeros(model)
        try:
            pruned, callbacks = self._side.pruned(model, 0.5, 0, 2, 1, evenly=True)
            pruned.compile("sgd", "mse")
            pruned.fit(x, y, 4, verbose=0, callbacks=callbacks)
            after = _zeros(self._side.stripped(pruned))
        except Exception as error:
            return f"refused: {type(error).__name__}: {str(error)[:80]}"
        # Some have zeros from the beginning.
        more = any(b > a for a, b in zip(before, after, strict=True))
        return "pruned" if more else "skipped"

    def _cnn(self) -> Any:
        layers = self._keras.layers
        return self._keras.Sequential(
            [
                self._keras.Input((8, 8, 1)),
                layers.Conv2D(12, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Flatten(),
                layers.Dense(64, activation="relu"),
                layers.Dense(10),
            ]
        )

    def _pruned_cnn(self, *ramp: Any) -> tuple[Any, list[Any]]:
        self._keras.utils.set_random_seed(0)
        return self._side.pruned(self._cnn(), *ramp)

    def _compile(self, model: Any) -> None:
        loss = self._keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])

    def _fit_for(
        self, steps: int, pruned: tuple[Any, list[Any]], callbacks: list[Any]
    ) -> None:
        """Fits for some steps in one epoch: at its end tfmot masks once more."""
        model, pruning = pruned
        x, y = self._digits["x_train"], self._digits["y_train"]
        rows = np.resize(np.arange(len(x)), steps * BATCH_SIZE)
        self._compile(model)
        model.fit(
            x[rows], y[rows], BATCH_SIZE, callbacks=[*pruning, *callbacks], verbose=0
        )


def _zeros(model: Any) -> list[int]:
    """Returns the zeros in each weight of the network but the head's."""
    head = {id(weight) for weight in model.get_layer("head").weights}
    return [
        int(np.sum(np.array(weight) == 0))
        for weight in model.trainable_weights
        if id(weight) not in head
    ]


def _sparsity(model: Any) -> float:
    """Returns the share of zeros in all kernels together."""
    kernels = [w for w in model.trainable_weights if len(w.shape) > 1]
    return float(np.mean(np.concatenate([np.ravel(k) for k in kernels]) == 0))


def main(side: str, digits: str) -> None:
    """Answers what comes on standard input, a line each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What libraries print must not come between the answers.
    warnings.simplefilter("ignore")  # Of layers that nothing can be pruned in.
    measured = Measured(SIDES[side](), dict(np.load(digits)))
    for line in sys.stdin:
        name, arguments = json.loads(line)
        answer = getattr(measured, name)(*arguments)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
