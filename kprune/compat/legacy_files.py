"""Files of Keras 2 (tf_keras): configuration, weights and optimizer, read without it.

There are three formats: `.h5`, `.keras`, and the folder that is a SavedModel. All end
up as a `LegacyFile`. This module changes when a format, or a variant of one, is to be
read.
"""

import abc
import dataclasses
import importlib
import io
import json
import os
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kprune.compat.legacy_models import Part, decoded
from kprune.rebuild import settle

CURE = "In the old environment (TF_USE_LEGACY_KERAS=1): model.save('model.h5')."
_EXPECTED = (
    "Expected what tf_keras (Keras 2) saves as a whole model: a '.h5' or '.keras' file "
    "or a SavedModel folder."
)


@dataclasses.dataclass
class PruningState:
    """What a wrapper of tfmot keeps among its weights.

    Args:
        masks: One per pruned weight, 1 where it is kept.
        thresholds: The least magnitude that is kept; 999 for m:n.
        step: How often the wrapper was called in training; -1 before that.
    """

    masks: list[np.ndarray] = dataclasses.field(default_factory=list)
    thresholds: list[float] = dataclasses.field(default_factory=list)
    step: int = -1

    def put(self, name: str, value: np.ndarray) -> None:
        """Takes the value of one of the wrapper's weights."""
        if name == "mask":
            self.masks.append(value)
        elif name == "threshold":
            self.thresholds.append(float(value))
        else:
            self.step = int(value)


class LegacyFile(abc.ABC):
    """A model that Keras 2 saved.

    Attributes:
        path: Where it is.
        config: The model's configuration.
        training: What it was compiled with: `loss`, `metrics`, `weighted_metrics`,
            `loss_weights` and `optimizer`; `None` if it was not, or was not saved.
    """

    path: Path
    config: Mapping[str, Any]
    training: Mapping[str, Any] | None

    @abc.abstractmethod
    def restore(self, root: Part) -> dict[str, PruningState]:
        """Gives the model its weights; returns what wrappers keep, by their layer.

        The keys are paths of the layers inside of the wrappers.

        Raises:
            ValueError: If the weights do not fit.
        """

    @abc.abstractmethod
    def optimizer_weights(self) -> list[np.ndarray]:
        """Returns the number of steps and what else the optimizer keeps, in order."""


def open_file(path: Any) -> LegacyFile:
    """Returns a file of Keras 2.

    Args:
        path: The file, or the folder that is a SavedModel.

    Raises:
        ValueError: If it is no such file, or damaged.
        TypeError: If it is no path.
    """
    if isinstance(path, keras.layers.Layer):
        raise ValueError(
            f"load reads files, and received {path!r}, which is of Keras 3 already: "
            "use it as it is."
        )
    if type(path).__module__.split(".")[0] in ("tf_keras", "tensorflow", "keras"):
        raise ValueError(
            f"load reads files, and received an object of type {type(path).__module__}."
            f"{type(path).__qualname__}. Keras 3 cannot use objects of Keras 2. {CURE} "
            "Then say load('model.h5')."
        )
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"load reads files. Received {path!r} of type {type(path).__name__}, "
            "expected a path."
        )
    file = Path(path)
    if not file.exists():
        raise ValueError(f"There is no file {str(file)!r}. {_EXPECTED}")
    if file.is_dir():
        return SavedModel(file)
    with file.open("rb") as stream:
        first = stream.read(8)
    if first.startswith(b"PK"):
        return KerasFile(file)
    if first == b"\x89HDF\r\n\x1a\n":
        return H5File(file)
    raise ValueError(f"{str(file)!r} is of no known format, or damaged. {_EXPECTED}")


class H5File(LegacyFile):
    """A `.h5` file: configurations as attributes, weights by layer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as file:
            attributes = {name: _text(file.attrs[name]) for name in file.attrs}
            if "model_config" not in attributes:
                raise ValueError(
                    f"{str(path)!r} has no configuration of a model, it may hold "
                    f"weights only. {_EXPECTED} {CURE}"
                )
        _check_version(path, attributes.get("keras_version"))
        self.config = decoded(json.loads(attributes["model_config"]))
        training = attributes.get("training_config")
        self.training = _renamed(decoded(json.loads(training))) if training else None

    def restore(self, root: Part) -> dict[str, PruningState]:
        """Gives the model its weights, as `LegacyFile.restore`."""
        states: dict[str, PruningState] = {}
        with self._opened() as file:
            for part in root.parts or ():
                try:
                    named = list(_named_arrays(file["model_weights"][part.name]))
                except (KeyError, OSError) as error:
                    raise ValueError(
                        f"the weights of {part.name!r} are not all there: saving was "
                        "interrupted, as it is where tfmot wraps an LSTM or another "
                        "layer with several pruned weights, which it cannot save as "
                        "'.h5'. In the old environment: model.save('model.keras')."
                    ) from error
                states |= _assign(part, trained_variables(part) + _others(part), named)
        return states

    def optimizer_weights(self) -> list[np.ndarray]:
        """Returns what the optimizer keeps."""
        with self._opened() as file:
            if "optimizer_weights" not in file:
                return []
            return [array for _, array in _named_arrays(file["optimizer_weights"])]

    def _opened(self) -> Any:
        import h5py

        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            raise ValueError(
                f"{str(self.path)!r} is damaged, as by an interrupted copy: {error}. "
                "Copy or save it again."
            ) from error


class KerasFile(LegacyFile):
    """A `.keras` file: a zip archive of configurations and a file of weights.

    Weights are found by where their layer is: `layers/dense_1/vars/0` is in the second
    one of class Dense.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                metadata = json.loads(archive.read("metadata.json"))
                self.config = decoded(json.loads(archive.read("config.json")))
                self._weights = archive.read("model.weights.h5")
        except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
            raise ValueError(
                f"{str(path)!r} is damaged or no '.keras' file: {error}. {_EXPECTED}"
            ) from error
        _check_version(path, metadata.get("keras_version"))
        self.training = self.config.get("compile_config")

    def restore(self, root: Part) -> dict[str, PruningState]:
        """Gives the model its weights, as `LegacyFile.restore`."""
        store = _saving().H5IOStore(io.BytesIO(self._weights))
        try:
            return dict(self._restored(root, "", store))
        finally:
            store.close()

    def optimizer_weights(self) -> list[np.ndarray]:
        """Returns what the optimizer keeps."""
        import h5py

        with h5py.File(io.BytesIO(self._weights), "r") as file:
            found = file.get("optimizer/vars", {})
            return [np.asarray(found[str(i)]) for i in range(len(found))]

    def _restored(
        self, part: Part, folder: str, store: Any
    ) -> Iterator[tuple[str, PruningState]]:
        counts: defaultdict[str, int] = defaultdict(int)
        for inner in part.parts or ():
            name = _snake_case(inner.class_name)
            number = counts[name]
            counts[name] += 1
            path = f"{folder}layers/{name}" + (f"_{number}" if number else "")
            if inner.parts is not None:
                yield from self._restored(inner, f"{path}/", store)
            elif inner.wrapper is None:
                _load(inner, path, store)
            else:
                _load(inner, f"{path}/layer", store)
                yield inner.layer.path, _own_state(inner, store.get(path))


class SavedModel(LegacyFile):
    """A SavedModel folder, which holds the computation beside the configuration."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / "saved_model.pb").is_file():
            raise ValueError(
                f"The folder {str(path)!r} is no SavedModel: it has no saved_model.pb. "
                f"{_EXPECTED}"
            )
        metadata = path / "keras_metadata.pb"
        found = _first_object(metadata.read_bytes()) if metadata.is_file() else {}
        if not isinstance(found.get("model_config"), dict):
            raise ValueError(
                f"The SavedModel {str(path)!r} has no configuration of a Sequential or "
                "Functional model of Keras 2 (keras_metadata.pb), only a computation "
                f"that cannot be taken apart. {CURE}"
            )
        _check_version(path, found.get("keras_version"))
        self.config = decoded(found["model_config"])
        training = found.get("training_config")
        self.training = _renamed(decoded(training)) if training else None
        self._loaded: Any = None

    def restore(self, root: Part) -> dict[str, PruningState]:
        """Gives the model its weights, as `LegacyFile.restore`."""
        named = [(v.name, v.numpy()) for v in self.loaded().variables]
        variables = [
            variable
            for leaf in root.leaves()
            for variable in trained_variables(leaf) + _others(leaf)
        ]
        return _assign(root, variables, named)

    def optimizer_weights(self) -> list[np.ndarray]:
        """Returns what the optimizer keeps."""
        import tensorflow as tf

        reader = tf.train.load_checkpoint(str(self.path / "variables" / "variables"))
        names = reader.get_variable_to_shape_map()
        value, found = "/.ATTRIBUTES/VARIABLE_VALUE", []
        for name in ("_iterations", "iter"):
            if f"optimizer/{name}{value}" in names:
                found.append(reader.get_tensor(f"optimizer/{name}{value}"))
        while (name := f"optimizer/_variables/{len(found)}{value}") in names:
            found.append(reader.get_tensor(name))
        return found

    def loaded(self) -> Any:
        """Returns what TensorFlow makes of the folder."""
        import tensorflow as tf

        if self._loaded is None:
            try:
                self._loaded = tf.saved_model.load(str(self.path))
            except Exception as error:  # Of a dozen types.
                raise ValueError(
                    f"TensorFlow cannot load the SavedModel {str(self.path)!r}: "
                    f"{error} {CURE}"
                ) from error
        return self._loaded


def _check_version(path: Path, version: str | None) -> None:
    if version is not None and version.startswith("3"):
        raise ValueError(
            f"{str(path)!r} was saved by Keras {version}, which kprune's models are of "
            "already. Load it with keras.saving.load_model, or kprune.inspect it."
        )


def _renamed(training: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the training configuration in the words of the newer format."""
    found = dict(training)
    found["optimizer"] = found.pop("optimizer_config", None)
    return found


def trained_variables(part: Part) -> list[keras.Variable]:
    """Returns what is trained, in the order of Keras 2."""
    if part.parts is None:
        return list(part.layer.trainable_weights)
    if not part.layer.trainable:
        return []
    return [variable for inner in part.parts for variable in trained_variables(inner)]


def _others(part: Part) -> list[keras.Variable]:
    if part.parts is None:
        return list(part.layer.non_trainable_weights)
    return [variable for inner in part.parts for variable in _others(inner)]


def _assign(
    part: Part,
    variables: Sequence[keras.Variable],
    named: Sequence[tuple[str, np.ndarray]],
) -> dict[str, PruningState]:
    """Gives variables their values; returns what is of the wrappers among them."""
    wrappers = {leaf.name: leaf for leaf in part.leaves() if leaf.wrapper is not None}
    states = {leaf.layer.path: PruningState() for leaf in wrappers.values()}
    values = []
    for name, value in named:
        path, _, own = f"/{name.partition(':')[0]}".rpartition("/")
        owner = next((each for each in wrappers if path.endswith(f"/{each}")), "")
        # Where the wrapper built its layer, the layer's weights are under it, too.
        if owner in wrappers and own in ("mask", "threshold", "pruning_step"):
            states[wrappers[owner].layer.path].put(own, value)
        else:
            values.append(value)
    shapes = [tuple(variable.shape) for variable in variables]
    found = [tuple(value.shape) for value in values]
    if shapes != found:
        raise ValueError(
            f"the weights of {part.name!r} do not fit: Keras 3 makes {shapes}, and the "
            f"file has {found}."
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    settle(part.layer)
    return states


def _named_arrays(group: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the weights under a group of a `.h5` file, in their order."""
    names, chunk = group.attrs.get("weight_names"), 0
    if names is None:  # Many of them are spread over several attributes.
        names = []
        while f"weight_names{chunk}" in group.attrs:
            names.extend(group.attrs[f"weight_names{chunk}"])
            chunk += 1
    for name in names:
        yield _text(name), np.asarray(group[_text(name)])


def _load(part: Part, path: str, store: Any) -> None:
    """Gives a layer its weights out of a `.keras` file."""
    failed: set[int] = set()
    errors: dict[int, tuple[Any, Exception]] = {}
    _saving()._load_state(
        part.layer, store, None, path, failed_saveables=failed, error_msgs=errors
    )
    for saveable, error in errors.values():
        # Keras 2 keeps the seeds of dropout elsewhere: it begins anew.
        if isinstance(saveable, keras.Layer) and saveable.weights:
            raise ValueError(
                f"the weights of {part.name!r} do not fit: {error}"
            ) from error


def _own_state(part: Part, store: Mapping[str, Any]) -> PruningState:
    """Returns what a wrapper keeps beside its layer's weights.

    These are the pruned weights once more, mask and threshold of each, and the step.
    """
    values = [np.asarray(store[str(i)]) for i in range(len(store.keys()))]
    count, rest = divmod(len(values) - 1, 3)
    if rest:
        raise ValueError(f"the wrapper {part.name!r} has {len(values)} weights.")
    state = PruningState(step=int(values[-1]))
    for i in range(count, 3 * count, 2):
        state.put("mask", values[i])
        state.put("threshold", values[i + 1])
    return state


def _first_object(metadata: bytes) -> Any:
    """Returns the root's JSON out of a `keras_metadata.pb`, where it stands first."""
    text = metadata[max(metadata.find(b'{"'), 0) :].decode("utf-8", "replace")
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except ValueError:
        return {}


def _snake_case(name: str) -> str:
    return str(importlib.import_module("keras.src.utils.naming").to_snake_case(name))


def _saving() -> Any:
    """Returns Keras's own reader of weights; Keras offers it for whole models only."""
    return importlib.import_module("keras.src.saving.saving_lib")


def _text(value: Any) -> Any:
    return value.decode("utf-8") if isinstance(value, bytes) else value
