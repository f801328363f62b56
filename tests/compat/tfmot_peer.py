"""The real tfmot, in a process of its own: it turns the whole process to Keras 2.

Reads one case per line, as JSON, and answers with a line.
"""

import inspect
import json
import os
import sys
import warnings

import numpy as np
from tfmot_cases import Case


class Peer:
    """tfmot, asked by the names of its methods."""

    def __init__(self):
        import tensorflow_model_optimization as tfmot
        from tensorflow_model_optimization.python.core.keras.compat import keras

        self.sparsity, self.keras = tfmot.sparsity.keras, keras

    def masks(self, case):
        """Returns mask and threshold after each step, with weights that are given."""
        case = Case(**case)
        model, wrapper = self._model(case)
        callback = self.sparsity.UpdatePruningStep()
        callback.set_model(model)
        callback.on_train_begin()
        x = np.zeros((1, *case.input_shape), "float32")
        _, mask, threshold = wrapper.pruning_vars[0]
        answer = []
        for step in range(1, case.steps + 1):
            wrapper.layer.kernel.assign(case.weights(step) * mask.numpy())
            model(x, training=True)
            answer.append([mask.numpy().ravel().tolist(), float(threshold.numpy())])
        return answer

    def fitted(self, case):
        """Returns the kernel after a fit that moves no weight."""
        case = Case(**case)
        model, wrapper = self._model(case)
        model.compile(self.keras.optimizers.SGD(0.0), "mse")
        wrapper.layer.kernel.assign(case.weights(1))
        x = np.zeros((case.steps, *case.input_shape), "float32")
        y = np.zeros((case.steps, *model.output_shape[1:]), "float32")
        callback = self.sparsity.UpdatePruningStep()
        model.fit(x, y, batch_size=1, verbose=0, callbacks=[callback])
        return self.sparsity.strip_pruning(model).get_weights()[0].ravel().tolist()

    def schedule(self, name, arguments, steps):
        """Returns what a schedule says of some steps."""
        asked = getattr(self.sparsity, name)(*arguments)
        answers = [asked(np.int64(step)) for step in steps]
        return [[bool(due), float(amount)] for due, amount in answers]

    def names(self):
        """Returns the public names, and the arguments of each."""
        return {
            name: [str(p) for p in inspect.signature(value).parameters.values()]
            for name, value in vars(self.sparsity).items()
            if not name.startswith("_") and callable(value)
        }

    def mixed(self):
        """Returns what is said where objects go between tfmot and kprune."""
        import keras

        import kprune.compat.tfmot as ours

        theirs, dense = self.sparsity, keras.layers.Dense
        said = []
        for call in (
            lambda: ours.prune_low_magnitude(dense(3)),
            lambda: ours.prune_low_magnitude(dense(3), theirs.ConstantSparsity(0.5, 0)),
            lambda: ours.prune_low_magnitude(
                dense(3), pruning_policy=theirs.PruneForLatencyOnXNNPack()
            ),
            lambda: theirs.prune_low_magnitude(dense(3)),
        ):
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                try:
                    call()
                    said.append("")
                except (TypeError, ValueError) as error:
                    said.append(str(error))
            said[-1] += "".join(str(each.message) for each in warned)
        return said

    def _model(self, case):
        layers = self.keras.layers
        wrapper = self.sparsity.prune_low_magnitude(
            getattr(layers, case.layer)(*case.arguments, use_bias=False),
            getattr(self.sparsity, case.schedule[0])(*case.schedule[1]),
            block_size=tuple(case.block),
            block_pooling_type=case.pooling,
            sparsity_m_by_n=case.m_by_n and tuple(case.m_by_n),
        )
        inputs = self.keras.Input(case.input_shape)
        return self.keras.Sequential([inputs, wrapper]), wrapper


def main():
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peer = Peer()
    for line in sys.stdin:
        function, arguments = json.loads(line)
        answer = getattr(peer, function)(*arguments)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
