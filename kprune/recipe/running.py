"""A recipe at work: stage by stage, from what its folder has already.

This module changes when the order of that work, or what a folder holds, does.
"""

import contextlib
import dataclasses
import json
import math
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kprune import evidence
from kprune.distillation import distill
from kprune.export import export, tflite
from kprune.export.bench import bench
from kprune.export.choosing import target_of
from kprune.export.ends import of_file
from kprune.export.files import temporary_folder, write_together
from kprune.export.interface import of_model
from kprune.export.litert import Session
from kprune.export.samples import collect
from kprune.export.targets import Target
from kprune.foreign import received
from kprune.page.fits import read, record, write
from kprune.rebuild import graph_of, has_graph
from kprune.recipe.epochs import EpochKeeper
from kprune.recipe.order import shuffled
from kprune.recipe.page import of_run
from kprune.recipe.report import RecipeReport, StageRow
from kprune.recipe.stages import Prune, QuantizeAware, Shrink, Stage, Taught, Train
from kprune.recipe.written import snake
from kprune.report import FitRecord, Refusal, Report
from kprune.report.text import floats
from kprune.transform import hold_zeros

if TYPE_CHECKING:
    from kprune.recipe import Export, Recipe

_OWNER = "Recipe.run"
# Of training data, which a run looks at to calibrate: 256 samples of arrays.
_BATCHES = 8
_ALL = 2**60
_WARM_UP = 0.5


@dataclasses.dataclass(frozen=True)
class RecipeResult:
    """What `Recipe.run` made.

    Args:
        model: The model after the last stage, compiled.
        report: What was measured after each stage.
        folder: Where everything is.
    """

    model: keras.Model
    report: RecipeReport
    folder: Path


class Running:
    """One recipe on one model, one folder.

    Args:
        recipe: The recipe.
        model: The given model.
        data: What to train on.
        validation_data: What to measure on.
        folder: Where to write.
        benchmark: Whether to time files.

    Raises:
        ValueError: If something does not fit. Nothing was written then, but for an
            empty folder.
        TypeError: If something is of the wrong type.
    """

    def __init__(
        self,
        recipe: "Recipe",
        model: Any,
        data: Any,
        validation_data: Any,
        folder: str | os.PathLike[str],
        benchmark: bool,
    ) -> None:
        recipe.to_yaml()  # What cannot be written down is refused.
        self._recipe, self._model, self._benchmark = recipe, model, benchmark
        self._compiling = _compiling(model)
        _check_rates(recipe, self._compiling["optimizer"])
        keras.utils.set_random_seed(recipe.seed)  # Data may be drawn by lot.
        self._data, self._steps = data, _steps(data, recipe.batch_size, "data")
        self._inputs = evidence.inputs_of(evidence.read(data, _BATCHES, _OWNER))
        _steps(validation_data, recipe.batch_size, "validation_data")
        self._held_out = _whole(validation_data)
        self._folder = Path(folder)
        self._check_folder()

    def run(self, verbose: Any) -> RecipeResult:
        """Does what is not done yet."""
        stages = self._recipe.stages
        say: Any = print if verbose else lambda _: None
        given = self._kept("0_given.keras")
        if given.exists():
            _check_whole(given)
        else:
            say("Trying all stages and targets on the given model")
            self._try_out()
            self._recipe.save(self._folder / "recipe.yaml")
            self._save(self._model, given)
        rows: list[StageRow] = []
        fits: list[FitRecord] = []
        path = teacher = given
        for number, stage in enumerate(stages, 1):
            name = snake(type(stage).__name__)
            made = self._kept(f"{number}_{name}.keras")
            with _named(number, stage):
                if not made.exists():
                    say(f"Stage {number} of {len(stages)}, {name}: training")
                    keeper = EpochKeeper(made, self._recipe.seed + number)
                    trained, fit = self._trained(number, path, teacher, keeper, verbose)
                    write(fit, made)
                    self._save(trained, made)
                    keeper.clear()
                fits.append(read(made))
                path = made
                if isinstance(stage, Train):
                    teacher = made
                if number == 1:
                    rows += self._dense_rows(teacher, say)
                rows += self._rows(number, stage, made, say)
        model = self._loaded(path)
        report = RecipeReport(tuple(rows), tuple(fits))
        write_together(
            {
                self._folder / "model.keras": path.read_bytes(),
                self._folder / "report.json": report.to_json().encode(),
            }
        )
        of_run(self._recipe, report, self._folder).save(self._folder / "report.html")
        return RecipeResult(model, report, self._folder)

    def _kept(self, name: str) -> Path:
        return self._folder / "stages" / name

    def _check_folder(self) -> None:
        """Makes the folder; refuses one that another recipe's run is in."""
        file, stages = self._folder / "recipe.yaml", self._kept("")
        if file.exists() or (stages.is_dir() and any(stages.iterdir())):
            try:
                found = type(self._recipe).load(file)
            except ValueError as error:
                raise ValueError(
                    f"{_OWNER}: {str(self._folder)!r} holds a run, and nothing says of "
                    f"which recipe: {error} Put that file back, as Recipe.save writes "
                    "it, or choose another folder."
                ) from error
            if found != self._recipe:
                raise ValueError(
                    f"{_OWNER}: {str(self._folder)!r} holds a run of another recipe, "
                    f"see {str(file)!r}. Choose another folder, or run that recipe, "
                    "kprune.Recipe.load(...)."
                )
        elif self._folder.is_dir() and any(self._folder.iterdir()):
            if not stages.is_dir():
                raise ValueError(
                    f"{_OWNER}: {str(self._folder)!r} holds other files. Name a "
                    "folder that is empty, or not there yet."
                )
        try:
            stages.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"{_OWNER}: cannot make the folder {str(self._folder)!r}: "
                f"{error.strerror}. Choose one that you may write to."
            ) from error

    def _try_out(self) -> None:
        """Does on the given model what stages and targets will be asked for."""
        with warnings.catch_warnings(), temporary_folder() as folder:
            # They are given again when it counts.
            warnings.simplefilter("ignore")
            file = folder / "model.keras"
            self._save(self._model, file)
            for number, stage in enumerate(self._recipe.stages, 1):
                model = self._loaded(file)
                with _named(number, stage):
                    stage.check(model)
                    if isinstance(stage, Taught) and stage.distill and stage.epochs:
                        distill(model, self._loaded(file))
            for item in self._recipe.export:
                self._exported(model, folder / "model.tflite", item)

    def _trained(
        self,
        number: int,
        path: Path,
        teacher: Path,
        keeper: EpochKeeper,
        verbose: Any,
    ) -> tuple[keras.Model, FitRecord]:
        """Returns the model that a stage makes of the one before, which is in a file.

        And what the fit has to tell.

        All models come from files, so that a run that goes on is like any other.
        """
        stage = self._recipe.stages[number - 1]
        keras.utils.set_random_seed(self._recipe.seed + number)
        before = self._recipe.stages[: number - 1]
        holds = any(isinstance(each, Prune) for each in before)
        kept, done = keeper.kept()
        model = self._loaded(kept or path)
        if holds:
            _hold(model)
        if kept is None:
            model = stage.begin(model, self._data, self._inputs)
            if holds:
                _hold(model)
        name = snake(type(stage).__name__)
        refused = _refused(stage, model) if kept is None else []
        if not stage.epochs:
            return model, record(name, model, refusals=refused)
        self._compile(model, stage)
        if kept is not None:
            model.optimizer.build(model.trainable_variables)
            model.load_weights(kept)
        learner: Any = model
        if isinstance(stage, Taught) and stage.distill:
            learner = distill(
                model,
                self._loaded(teacher),
                alpha=stage.alpha,
                temperature=stage.temperature,
            )
        callbacks = stage.callbacks(self._data)

        def tell(history: Mapping[str, Sequence[float]]) -> FitRecord:
            steps = int(learner.optimizer.iterations)
            before = keeper.before
            logs = history if before is None else before.logs_with(history)
            now = record(name, model, logs, steps, callbacks, refused)
            return now if before is None else now.after(before)

        keeper.tell = tell
        given: dict[str, Any] = {
            # Last, to see what the others make of an epoch's end.
            "callbacks": [*callbacks, keeper],
            "initial_epoch": done,
        }
        x = self._data
        # Keras shuffles no tf.data, and warns that it does not unless told so.
        given["shuffle"] = isinstance(x, keras.utils.PyDataset)
        if isinstance(x, tuple):
            seed, size = self._recipe.seed + number, self._recipe.batch_size
            x = shuffled(x, size, seed, range(done, stage.epochs))
            given["steps_per_epoch"] = self._steps
        history = learner.fit(x, epochs=stage.epochs, verbose=verbose, **given).history
        return model, tell(history)

    def _compile(self, model: keras.Model, stage: Stage | None = None) -> None:
        """Compiles a model as the given one, with an optimizer for a stage."""
        given = self._compiling["optimizer"]
        config = given.get_config()
        if stage is not None:
            peak = stage.learning_rate
            if peak is None:
                peak = stage.rate_share * config["learning_rate"]
            batches = config.get("gradient_accumulation_steps") or 1
            warm_up = int(_WARM_UP * self._steps / batches)
            config["learning_rate"] = keras.optimizers.schedules.CosineDecay(
                0.0 if warm_up else peak,
                max(1, stage.epochs * self._steps // batches - warm_up),
                warmup_target=peak if warm_up else None,
                warmup_steps=warm_up,
            )
        optimizer = type(given).from_config(config)
        model.compile(**{**self._compiling, "optimizer": optimizer})

    def _save(self, model: keras.Model, path: Path) -> None:
        """Writes a model, whole or not at all."""
        partial = path.with_name(f"partial_{path.name}")
        model.save(partial, include_optimizer=False)
        os.replace(partial, path)

    def _loaded(self, path: Path) -> keras.Model:
        _check_whole(path)
        model = keras.saving.load_model(path, compile=False)
        self._compile(model)
        return model

    def _dense_rows(self, path: Path, say: Any) -> list[StageRow]:
        """Returns what the dense float32 files are, one per target."""
        model = self._loaded(path)
        return [
            self._row("dense", model, self._dense(item), item, say, dense=True)
            for item in self._recipe.export
        ]

    def _dense(self, item: "Export") -> Path:
        return self._kept(f"dense_{item.name}.tflite")

    def _rows(self, number: int, stage: Stage, path: Path, say: Any) -> list[StageRow]:
        model, rows = self._loaded(path), []
        for item in self._recipe.export:
            file = path.with_name(f"{path.stem}_{item.name}.tflite")
            last = number == len(self._recipe.stages)
            if last:
                file = self._folder / f"{item.name}.tflite"
            name = snake(type(stage).__name__)
            rows.append(self._row(name, model, file, item, say, last=last))
        return rows

    def _row(
        self,
        name: str,
        model: keras.Model,
        file: Path,
        item: "Export",
        say: Any,
        dense: bool = False,
        last: bool = False,
    ) -> StageRow:
        """Returns a row, as it was measured before if it was and its file is there."""
        note = self._kept(f"{file.stem}.json")
        if (noted := _noted(note, file)) is not None:
            return noted
        say(f"Measuring {file.relative_to(self._folder)}")
        if dense:
            report = self._dense_file(model, file, item)
        else:
            report = self._exported(model, file, item, last=last and not item.encode)
        metrics = self._file_metrics(model, file)
        if item.encode and not dense:  # What LiteRT cannot run, with the same results.
            report = self._exported(model, file, item, last=last, encode=True)
        # Not with kprune: who imports it gets nothing else.
        from kprune_machine import machine

        x, y, weight = self._held_out
        row = StageRow(
            stage=name,
            target=item.name,
            quantization=report.quantization,
            path=str(file.relative_to(self._folder)),
            metrics=metrics,
            keras_metrics=floats(
                model.evaluate(x, y, sample_weight=weight, return_dict=True, verbose=0)
            ),
            size=report.size,
            arena=None if report.arena is None else report.arena.bytes,
            parameters=report.parameters,
            nonzero_parameters=report.nonzero_parameters,
            latency=() if dense else self._latency(file, item),
            notes=report.notes,
            machine=machine(),
        )
        text = json.dumps(dataclasses.asdict(row), indent=1)
        write_together({note: text.encode()})
        return row

    def _exported(
        self,
        model: keras.Model,
        file: Path,
        item: "Export",
        *,
        last: bool = False,
        encode: bool | None = None,
    ) -> Report:
        """Exports a model; only the last has to keep limits, and to agree with Keras.

        What int8 loses before the model is trained for it is in the table.
        """
        trained = last and self._recipe.is_quantized
        return export(
            model,
            file,
            item.target if last else _without_limits(item),
            item.quantization,
            None if trained else self._inputs,
            tolerance=None if last else math.inf,
            benchmark=False,
            c_source=last,
            encode=encode if item.encode else item.encode,
        )

    def _dense_file(self, model: keras.Model, file: Path, item: "Export") -> Report:
        """Exports a model in float32, for the target if it takes that."""
        target: Any = _without_limits(item)
        if "none" not in target.quantizations:
            target = "generic"
        return export(
            model, file, target, "none", self._inputs, benchmark=False, c_source=False
        )

    def _file_metrics(self, model: keras.Model, file: Path) -> dict[str, float]:
        """Returns what the compiled loss and metrics are of a file's outputs."""
        x, y, weight = self._held_out
        interface, data = of_model(model), file.read_bytes()
        count = len(keras.tree.flatten(x)[0])
        samples = collect(x, interface.inputs, count)
        outputs = Session(data, of_file(data, interface)).run(samples)
        structure = graph_of(model)._outputs_struct
        packed = keras.tree.pack_sequence_as(structure, outputs)
        ends = [
            keras.Input(array.shape[1:], name=name, dtype=array.dtype.name)
            for name, array in zip(interface.output_names, outputs, strict=True)
        ]
        same = keras.tree.pack_sequence_as(structure, ends)
        judge = keras.Model(same, same)
        self._compile(judge)
        return floats(
            judge.evaluate(packed, y, sample_weight=weight, return_dict=True, verbose=0)
        )

    def _latency(self, file: Path, item: "Export") -> tuple[Any, ...]:
        """Times a file beside the dense float32 one, where both can run."""
        target = target_of(item.target)
        if not self._benchmark or target.npu is not None:
            return ()
        runtimes = ["tflm"] if target.micro else []
        if not (item.encode and target.micro):
            runtimes.insert(0, "litert")
        found = [
            bench(file, self._dense(item), self._inputs, runtime=runtime).latency
            for runtime in runtimes
        ]
        return tuple(each for each in found if each is not None)


def _noted(note: Path, file: Path) -> StageRow | None:
    """Returns the row that was measured of a file, if both can be read."""
    try:
        tflite.parse(file.read_bytes())
        return StageRow.from_dict(json.loads(note.read_text()))
    except (OSError, KeyError, TypeError, ValueError):
        return None


def _check_whole(file: Path) -> None:
    """Refuses a model's file that is not as it was written."""
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip() is not None
    except PermissionError:
        raise
    except Exception:  # Of as many types as there are ways to be damaged.
        damaged = True
    if damaged:
        raise ValueError(
            f"{str(file)!r} is damaged. Put it back from a copy; or remove it, and run "
            "this again: what is missing is made anew."
        )


def _without_limits(item: "Export") -> Target:
    """Returns a target as if it had flash and memory for any file."""
    return dataclasses.replace(target_of(item.target), flash=None, arena=None)


def _compiling(model: Any) -> dict[str, Any]:
    """Returns what a model was compiled with; refuses one that recipes cannot take."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"{_OWNER}: `model` must be a Keras 3 model. {received(model)}")
    if not has_graph(model) or not model.built or graph_of(model) is None:
        raise ValueError(
            f"{_OWNER}: {model.name!r} must be a Sequential or Functional model that "
            "is built: begin it with keras.Input(shape)."
        )
    if not model.compiled or model.optimizer is None:
        raise ValueError(
            f"{_OWNER}: {model.name!r} is not compiled. Compile it with the loss, the "
            "metrics and the optimizer that all stages are to have."
        )
    config = dict(model._compile_config.config)
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return {**config, "optimizer": optimizer}


def _check_rates(recipe: "Recipe", optimizer: Any) -> None:
    """Refuses stages that have no learning rate."""
    rate = optimizer.get_config()["learning_rate"]
    for number, stage in enumerate(recipe.stages, 1):
        if stage.learning_rate is None and not isinstance(rate, int | float):
            raise ValueError(
                f"{_OWNER}: stage {number}, {snake(type(stage).__name__)}, has no "
                "`learning_rate`, and the model was compiled with a schedule of its "
                "own. Give each stage the peak of its rate, such as "
                "learning_rate=0.001."
            )


def _steps(data: Any, batch_size: int, name: str) -> int:
    """Returns the batches of an epoch."""
    if isinstance(data, tuple):
        if len(data) not in (2, 3):
            raise ValueError(
                f"{_OWNER}: `{name}` must be (x, y) or (x, y, sample_weight). Received "
                f"a tuple of {len(data)}."
            )
        return max(1, -(-len(keras.tree.flatten(data[0])[0]) // batch_size))
    try:
        return len(data)
    except TypeError as error:
        raise ValueError(
            f"{_OWNER}: `{name}` must be (x, y) of arrays, or a batched data set of "
            f"known length. Received {type(data).__name__}: {error} Give a "
            "tf.data.Dataset its length with tf.data.experimental.assert_cardinality."
        ) from error


def _whole(data: Any) -> tuple[Any, Any, Any]:
    """Returns all inputs, targets and weights, in memory."""
    if isinstance(data, tuple):
        return keras.utils.unpack_x_y_sample_weight(data)
    batches = evidence.read(data, _ALL, _OWNER)
    parts = [(batch.x, batch.y, batch.sample_weight) for batch in batches]
    return keras.tree.map_structure(
        lambda *each: (
            None if each[0] is None else np.concatenate(list(map(np.asarray, each)))
        ),
        *parts,
        none_is_leaf=True,
    )


def _hold(model: keras.Model) -> None:
    """Holds what is zero, if something is."""
    with contextlib.suppress(ValueError):
        hold_zeros(model)


def _refused(stage: Stage, model: keras.Model) -> list[Refusal]:
    """Returns what a stage did not do to its model, and why."""
    if isinstance(stage, Shrink):
        return list(model.shrink_report.plan.refusals)
    if isinstance(stage, QuantizeAware):
        layers = model.quantization_report.floats
        return [Refusal(layer.name, 0, layer.reason) for layer in layers]
    return []


@contextlib.contextmanager
def _named(number: int, stage: Stage) -> Iterator[None]:
    """Says in errors which stage they are of."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        name = snake(type(stage).__name__)
        raise kind(f"{_OWNER}: stage {number}, {name}: {error}") from error
