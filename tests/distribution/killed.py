"""Trains with BackupAndRestore, and kills its own process at a step if told so.

    python killed.py BACKUP_FOLDER SAVE_FREQUENCY STEP_OR_NEVER OUT.npz

Run by tests/test_distribution.py. Writes the weights of the trained model.
"""

import os
import signal
import sys

import keras
import numpy as np

import kprune

L = keras.layers
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Batches(keras.utils.PyDataset):
    """The same twelve batches in the same order in each epoch."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        return rng.normal(size=(8, 20)).astype("float32"), rng.integers(0, 3, 8)


class Kill(keras.callbacks.Callback):
    """Ends the process, as a power cut would, after so many steps of its own."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder, frequency, step, out):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [L.Input((20,)), L.Dense(32, activation="tanh"), L.Dense(3)]
    )
    model.compile(keras.optimizers.Adam(0.01), LOSS)
    frequency = frequency if frequency == "epoch" else int(frequency)
    callbacks = [
        kprune.PruningCallback(sparsity=0.8),
        keras.callbacks.BackupAndRestore(folder, save_freq=frequency),
    ]
    if step != "never":
        callbacks.append(Kill(int(step)))
    model.fit(Batches(), epochs=5, shuffle=False, verbose=0, callbacks=callbacks)
    np.savez(out, *model.get_weights())


if __name__ == "__main__":
    main(*sys.argv[1:])
