"""Times the training steps of several models, each in one `fit`, taking turns.

A `fit` of its own for every turn would time the tracing of the training step too. So
each model has one `fit`, in its own thread, that waits at the end of every epoch; only
one of them runs at any time. An epoch is one short turn, so that what else the machine
does meets all models alike; a round is as many turns as it takes for several mask
updates. Used by both sides, kprune's and its peers'. This module changes when steps are
to be timed in another way.
"""

import argparse
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks import fashion_mnist, networks, protocol
from benchmarks.protocol import rounds

BATCH_SIZE = 32
STEPS_PER_TURN = 25


class Lane:
    """A `fit` that runs one epoch each time it is told to.

    Args:
        keras: The Keras package whose `fit` it is.
        model: The compiled model.
        data: Inputs and labels.
        steps: Steps in all, with those of the first round, which warms up.
        callbacks: Further callbacks of the fit.
    """

    def __init__(
        self,
        keras: Any,
        model: Any,
        data: Any,
        steps: int,
        callbacks: list[Any],
    ) -> None:
        import tensorflow as tf

        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._left = epochs = steps // STEPS_PER_TURN
        gate = keras.callbacks.LambdaCallback(on_epoch_end=self._on_epoch_end)
        batches = tf.data.Dataset.from_tensor_slices(data).batch(BATCH_SIZE)

        def fit() -> None:
            self._go.acquire()
            try:
                model.fit(
                    batches.repeat().prefetch(2),
                    steps_per_epoch=STEPS_PER_TURN,
                    epochs=epochs,
                    verbose=0,
                    callbacks=[*callbacks, gate],
                )
            except BaseException as error:  # Raised again where epochs are asked for.
                self._error = error
            self._done.release()

        self._thread = threading.Thread(target=fit, daemon=True)
        self._thread.start()

    def turn(self) -> float:
        """Runs one turn; returns its seconds of CPU time, of all threads together."""
        begin = time.process_time()
        self._go.release()
        self._done.acquire()
        seconds = time.process_time() - begin
        if self._error is not None:
            raise self._error
        return seconds

    def _on_epoch_end(self, epoch: int, logs: Any) -> None:
        self._left -= 1
        if self._left:  # After the last epoch, `fit` returns and releases.
            self._done.release()
            self._go.acquire()


def compare(lanes: dict[str, Lane], steps: int, count: int) -> dict[str, list[float]]:
    """Returns per lane the CPU milliseconds per step of each round.

    Args:
        lanes: The fits to compare, of `steps * (count + 1)` steps each.
        steps: Steps per round, a multiple of `STEPS_PER_TURN`.
        count: Number of rounds after the one that warms up.
    """
    times: dict[str, list[float]] = {name: [] for name in lanes}
    for index in range(count + 1):
        totals = dict.fromkeys(lanes, 0.0)
        for order in rounds(list(lanes), steps // STEPS_PER_TURN):
            for name in order:
                totals[name] += lanes[name].turn()
        if index:
            for name, seconds in totals.items():
                times[name].append(seconds / steps * 1000)
            print("  ".join(f"{k} {v[-1]:.2f}" for k, v in times.items()), flush=True)
    return times


def measure(
    keras: Any,
    network: Callable[[Any], Any],
    change: Callable[[Any, Any, range], tuple[Any, list[Any]]],
    steps: int,
    count: int,
    names: tuple[str, str] = ("dense", "pruned"),
) -> dict[str, Any]:
    """Returns the ratio of a changed network's step to that of the plain one.

    Args:
        keras: The Keras package of both.
        network: Builds the network, given the package.
        change: Returns the changed model and the callbacks of its fit, given the model,
            its data and the steps that are measured.
        steps: Steps per round, a multiple of `STEPS_PER_TURN`.
        count: Number of rounds after the one that warms up.
        names: Of the plain and the changed network.
    """
    total = steps * (count + 1)

    def lane(changed: bool) -> Lane:
        keras.utils.set_random_seed(0)
        model = network(keras)
        data = networks.random_data(model)
        callbacks: list[Any] = []
        if changed:
            model, callbacks = change(model, data, range(steps, total))
        model.compile("adam", "sparse_categorical_crossentropy")
        return Lane(keras, model, data, total, callbacks)

    lanes = {name: lane(name == names[1]) for name in names}
    times = compare(lanes, steps, count)
    return {**protocol.ratio(times[names[1]], times[names[0]]), "milliseconds": times}


def options(docstring: str | None) -> argparse.Namespace:
    """Reads the command line of a script that times steps."""
    args = protocol.options(docstring, steps=300, rounds=9)
    if args.quick:
        args.steps, args.rounds = STEPS_PER_TURN, 2
    return args


def int8_main(
    keras: Any, benchmark: str, docstring: str | None, aware: Callable[..., Any]
) -> None:
    """Measures what rounding adds to a step: the script of kprune and of its peer."""
    args, names = options(docstring), ("float32", "int8")
    nets = {"resnet8": networks.resnet8, "dscnn": fashion_mnist.dscnn}
    results = {
        name: measure(keras, network, aware, args.steps, args.rounds, names)
        for name, network in nets.items()
    }
    protocol.finish(benchmark, results, args, steps=args.steps)
