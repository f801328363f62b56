"""In which order the epochs of a stage go through arrays.

This module changes when they see their samples in another way.
"""

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


def shuffled(
    arrays: tuple[Any, ...], batch_size: int, seed: int, epochs: range
) -> "tf.data.Dataset":
    """Returns the batches of epochs, one after another, each in an order of its own.

    It follows from the seed and the epoch alone, whatever the first epoch is. `fit`
    shuffles arrays itself, but after `keras.utils.set_random_seed` in the same order
    in each epoch, so that the same samples meet in a batch again and again.

    Args:
        arrays: The inputs, the targets and the weights of the samples, as `fit` takes
            them, with samples along the first axis; what is `None` is left out.
        batch_size: Samples of a batch, at least 1. The last one of an epoch may have
            fewer.
        seed: At least 0.
        epochs: Counted from 0.
    """
    import tensorflow as tf

    given = tuple(array for array in arrays if array is not None)
    count = len(keras.tree.flatten(given)[0])
    drawn = int(np.random.default_rng(seed).integers(2**31))
    with tf.device("CPU"):  # Where batches are put together.
        whole = keras.tree.map_structure(_tensor, keras.tree.lists_to_tuples(given))

    def batches(epoch: Any) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(count), tf.stack([drawn, epoch])
        )
        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size)

    def taken(chosen: Any) -> Any:
        return keras.tree.map_structure(lambda part: tf.gather(part, chosen), whole)

    numbers = tf.data.Dataset.range(epochs.start, epochs.stop)
    # A data set's end waits for the autotuner's thread, which may sleep for seconds.
    options = tf.data.Options()
    options.autotune.enabled = False
    return numbers.flat_map(batches).map(taken).prefetch(2).with_options(options)


def _tensor(array: Any) -> Any:
    """Returns a tensor, of Keras's own type where there are floats, as `fit` does."""
    import tensorflow as tf

    found = np.asarray(array)
    if np.issubdtype(found.dtype, np.floating):
        found = found.astype(keras.config.floatx(), copy=False)
    return tf.constant(found)
