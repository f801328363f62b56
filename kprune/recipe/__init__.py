"""`kprune.Recipe`: the whole road to a small file, as one object and one text.

This module changes when a recipe may say something new of the whole; its stages are in
`kprune.recipe.stages`.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import keras

from kprune.config import Config, check_seed
from kprune.export.choosing import choose, target_of
from kprune.export.files import write_together
from kprune.export.options import check_encoding
from kprune.recipe import written
from kprune.recipe.report import RecipeReport, StageRow
from kprune.recipe.running import RecipeResult, Running
from kprune.recipe.stages import Prune, QuantizeAware, Shrink, Stage, Train

__all__ = [
    "Export",
    "Prune",
    "QuantizeAware",
    "Recipe",
    "RecipeReport",
    "RecipeResult",
    "Shrink",
    "Stage",
    "StageRow",
    "Train",
]


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Export(Config):
    """A file that is made of the model after each stage.

    Args:
        target: As for `kprune.export`: a name, or a mapping that describes a device.
        quantization: As there; `"int8"` in a recipe with `QuantizeAware`.
        encode: As there: whether weights are stored in fewer bytes.

    Raises:
        ValueError: If the target is unknown, or cannot run what is asked for.
    """

    target: Any
    quantization: str = "int8"
    encode: bool | None = None

    def __post_init__(self) -> None:
        target = self.target
        if not isinstance(target, Mapping | str) or str(target).endswith(
            (".yaml", ".yml")
        ):
            raise ValueError(
                "Export: `target` must be a name, such as 'microcontroller', or a "
                "mapping, such as {'name': 'board', 'like': 'microcontroller', "
                "'flash': 262144}: a recipe holds all that it needs. Received "
                f"{target!r}."
            )
        chosen, quantization = choose(target, self.quantization)
        check_encoding(self.encode, None, chosen, quantization)

    @property
    def name(self) -> str:
        """The target's name."""
        return target_of(self.target).name


@keras.saving.register_keras_serializable("kprune")
@dataclasses.dataclass(frozen=True)
class Recipe(Config):
    """The road from a model to a small file: stages of training, and what is measured.

    A recipe is the same as a text in YAML, with `save` and `load`: what is written
    beside the files that it made makes them again.

    Args:
        stages: `Train` first or not at all, then any of `Shrink` and `Prune`, then
            `QuantizeAware` or not, of `kprune.recipe`. Zeros that a stage makes stay.
        export: The files that are made after each stage: names of targets, or `Export`.
        batch_size: Of training, at least 1, where the data are arrays.
        seed: At least 0. Each stage begins with `keras.utils.set_random_seed` of it
            plus the stage's number, and each epoch with one that follows from both, as
            does the order in which arrays are shuffled for it.
        data: What the recipe is for, or where its data are; for the reader of the text.

    Raises:
        ValueError: If stages are in an order that does not work, a value is out of its
            range, or a target cannot run what is asked for.
        TypeError: If something is of another type.

    Example:
        >>> from kprune.recipe import Prune, Recipe, Train
        >>> print(Recipe((Train(epochs=8), Prune(0.8, epochs=4))).to_yaml().strip())
        stages:
        - train:
            epochs: 8
        - prune:
            epochs: 4
            sparsity: 0.8
        export:
        - microcontroller
    """

    stages: tuple[Stage, ...]
    export: tuple[Export, ...] = ("microcontroller",)  # type: ignore[assignment]
    batch_size: int = 32
    seed: int = 0
    data: str | None = None

    def __post_init__(self) -> None:
        stages: Any = self.stages
        stages = (stages,) if isinstance(stages, Stage) else tuple(stages)
        object.__setattr__(self, "stages", stages)
        for stage in stages:
            if not isinstance(stage, Stage):
                raise TypeError(
                    "Recipe: `stages` must be stages of kprune.recipe, such as "
                    f"Prune(0.8, epochs=4). Received {stage!r} of type "
                    f"{type(stage).__name__}."
                )
        _check_order(stages)
        self._put_exports()
        if type(self.batch_size) is not int or self.batch_size < 1:
            raise ValueError(
                "Recipe: `batch_size` must be a whole number of at least 1. Received "
                f"{self.batch_size!r}."
            )
        check_seed("Recipe", self.seed)
        if self.data is not None and not isinstance(self.data, str):
            raise TypeError(f"Recipe: `data` must be a text. Received {self.data!r}.")

    def _put_exports(self) -> None:
        given: Any = self.export
        several = given if isinstance(given, list | tuple) else (given,)
        exports = tuple(e if isinstance(e, Export) else Export(e) for e in several)
        object.__setattr__(self, "export", exports)
        names = [export.name for export in exports]
        if not names or len(set(names)) < len(names):
            raise ValueError(
                "Recipe: `export` needs at least one target, and each once. Received "
                f"{names}."
            )
        for export in exports:
            if self.is_quantized and export.quantization != "int8":
                raise ValueError(
                    "Recipe: `export`: QuantizeAware trains for int8. Received "
                    f"quantization={export.quantization!r} for {export.name!r}. Leave "
                    "it, or the stage, out."
                )

    @property
    def is_quantized(self) -> bool:
        """Whether the last stage trains for int8."""
        return isinstance(self.stages[-1], QuantizeAware)

    def to_yaml(self) -> str:
        """Returns the recipe as text.

        Raises:
            ValueError: If a plan holds functions, layers or classes.
        """
        return written.write(self)

    @classmethod
    def from_yaml(cls, text: str, source: str = "recipe") -> Self:
        """Returns the recipe that a text describes.

        Args:
            text: YAML, as `to_yaml` writes it.
            source: Where it is from, for messages.

        Raises:
            ValueError: If something in it is wrong; the message has the line, and the
                nearest name for one that is unknown.
        """
        return written.read(cls, text, source)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the recipe as a YAML file, whole or not at all.

        Raises:
            ValueError: If it cannot be written.
        """
        write_together({Path(path): self.to_yaml().encode()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Returns the recipe in a YAML file.

        Raises:
            ValueError: If the file cannot be read, or as for `from_yaml`.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"Cannot read the recipe {str(path)!r}: {error}."
            ) from error
        return cls.from_yaml(text, str(path))

    def run(
        self,
        model: keras.Model,
        data: Any,
        validation_data: Any,
        folder: str | os.PathLike[str],
        *,
        benchmark: bool = True,
        verbose: Any = "auto",
    ) -> RecipeResult:
        """Trains, exports and measures the model, stage by stage.

        What can be checked is checked before training begins: data, stages and targets
        on the given model, which is exported once for that. In the folder come to be
        `recipe.yaml`, `model.keras`, `report.json`, the page `report.html` and for each
        target `TARGET.tflite` with its sources; and in `stages` the model and the files
        of each stage. A run that was interrupted goes on after the last epoch that was
        done, and ends with the same weights, unless data are drawn by lot in a way of
        their own, as `tf.data.Dataset.shuffle` does.

        Args:
            model: A built, compiled Sequential or Functional model. It is left as it
                was. Its loss and metrics are those of all stages, and its optimizer's
                class and settings.
            data: What to train on: `(x, y)` or `(x, y, sample_weight)` of arrays, a
                batched `tf.data.Dataset` of known length or a `PyDataset`. Files are
                calibrated on up to 256 of its inputs.
            validation_data: What to measure on, in the same forms. All of it is read
                into memory, and run through each file.
            folder: Where to write; it is made if it is not there.
            benchmark: Whether files are timed, in two seconds per file and runtime.
            verbose: As for `fit`; above 0 it also says what is being done.

        Returns:
            The last model, and the report: `print(result.report)`.

        Raises:
            ValueError: If the model, the data or the folder do not fit; the folder
                holds a run of another recipe; or as `shrink`, `distill`,
                `quantize_aware`, `PruningCallback` and `export` raise it, with the
                stage.
            TypeError: If something is of the wrong type.
        """
        running = Running(self, model, data, validation_data, folder, benchmark)
        return running.run(verbose)


def _check_order(stages: tuple[Stage, ...]) -> None:
    if not stages:
        raise ValueError(
            "Recipe: `stages` is empty. Give some, such as (Train(epochs=8), "
            "Prune(0.8, epochs=4))."
        )
    if any(isinstance(stage, Train) for stage in stages[1:]):
        raise ValueError(
            "Recipe: `stages`: Train comes first, and once. Other stages train the "
            "model, too: give them more epochs."
        )
    if any(isinstance(stage, QuantizeAware) for stage in stages[:-1]):
        raise ValueError(
            "Recipe: `stages`: QuantizeAware comes last. Remove channels and prune "
            "before; what is zero stays so."
        )
    pruned = False
    for stage in stages:
        if pruned and isinstance(stage, Prune):
            raise ValueError(
                "Recipe: `stages`: a second Prune would begin with the first one's "
                "zeros taken back. Say all in one, Prune(plan=...), with a schedule "
                "such as kprune.CyclicRamp for several rounds; or let Shrink remove "
                "the channels that the first one made zero before the second."
            )
        pruned = isinstance(stage, Prune) or (pruned and not isinstance(stage, Shrink))
