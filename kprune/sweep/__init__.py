"""`kprune.sweep`: a search over recipes, for accuracy against what files cost.

Optuna searches and remembers; recipes run in processes of their own. This module
changes when trials are to be started, or taken up again, in another way.
"""

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kprune import evidence
from kprune.config import check_seed
from kprune.data_file import check_inputs, read_training_data
from kprune.export.files import temporary_folder, write_together
from kprune.foreign import received
from kprune.guards import mode_of
from kprune.model_file import load_model
from kprune.naming import nearest
from kprune.recipe import Recipe
from kprune.sweep.report import COSTS, SweepReport, SweepTrial

__all__ = ["SweepReport", "SweepTrial", "sweep"]

_OWNER = "sweep"
_COMMAND = [sys.executable, "-P", "-m", f"{__name__}.worker"]
_POLL = 0.1  # Seconds between two looks at the processes.
_STATES = {"COMPLETE": "complete", "FAIL": "failed", "PRUNED": "pruned"}
_AGAIN = "instead_of"
"""Attribute of a trial that takes the place of one that was killed: its number."""


def sweep(
    space: Callable[[Any], Recipe],
    model: keras.Model,
    data: str,
    folder: str | os.PathLike[str],
    *,
    trials: int = 20,
    workers: int = 1,
    objectives: Sequence[str] | Mapping[str, str] = ("accuracy", "bytes"),
    sampler: Any = "tpe",
    seed: int = 0,
    benchmark: bool = False,
    verbose: Any = "auto",
) -> SweepReport:
    """Searches for the recipes that no other one beats, with Optuna.

        >>> from kprune.recipe import Prune, Recipe
        >>> def space(trial):
        ...     sparsity = trial.suggest_float("sparsity", 0.5, 0.95)
        ...     return Recipe((Prune(sparsity, epochs=4),), "microcontroller")
        >>> report = kprune.sweep(
        ...     space, model, "mydata:make", "swept", trials=30, workers=4
        ... )  # doctest: +SKIP

    All is kept in the folder: Optuna's journal, `study.log`, which its other tools
    read, the given model, and in `trials` a folder per recipe, as `Recipe.run` makes
    it. The same call goes on where one was stopped. A trial that was killed in the
    middle is tried again once, from the recipe's stage that it was in; one that failed
    is listed with the reason. With one worker, the result is that of a sweep that was
    not stopped.

    Args:
        space: Returns the recipe of a trial, an `optuna.Trial`, which it asks for what
            to choose: `trial.suggest_float(...)`. It may raise `optuna.TrialPruned` for
            choices that do not go together. It runs in this process.
        model: A built, compiled model, as `Recipe.run` takes it. A sweep that goes on
            begins with the one in its folder. Classes of your own have to be registered
            where the module of `data` is imported.
        data: What `kprune prune --data` takes, a `.npz` file or `"module:function"`:
            each process reads it anew.
        folder: Where to write; it is made if it is not there.
        trials: How many recipes to try in all, at least 1, those before a stop and
            those that failed included.
        workers: How many processes run recipes at a time, at least 1.
        objectives: What to search for: names of compiled metrics and losses, of the
            exported file on the validation data; and `"bytes"`, `"gzip_bytes"`,
            `"arena_bytes"`, `"macs"`, `"nonzero_macs"` and `"milliseconds"` of the
            file of the recipe's first target. Or a mapping from names to `"max"` or
            `"min"`, for metrics whose names do not tell.
        sampler: `"tpe"`, `"nsga2"`, `"random"`, or a sampler of Optuna's.
        seed: At least 0; of the named samplers.
        benchmark: Whether files are timed, even if `"milliseconds"` is no objective.
            Processes that run side by side make times uncertain.
        verbose: 0 shows nothing, 1 or `"auto"` a bar of the trials.

    Returns:
        All trials and the Pareto front. `print` it, or `plot` it.

    Raises:
        ValueError: If the model, the data or an objective do not fit, the folder holds
            another sweep or one that is running, or all trials failed.
        TypeError: If something is of the wrong type.
        ImportError: If Optuna is not installed.
    """
    optuna = _optuna()
    _check_numbers(trials=trials, workers=workers)
    check_seed(_OWNER, seed)
    if not callable(space):
        raise TypeError(
            f"{_OWNER}: `space` must be a function from an optuna.Trial to a "
            f"kprune.Recipe. Received {space!r}."
        )
    sampling = _sampling(optuna, sampler, seed)
    modes = _modes(objectives)
    root = Path(folder).resolve()
    _check_folder(root)
    prepared = _prepared(root, model, data, modes)
    with _locked(root), _quiet(optuna):
        if prepared:
            write_together(prepared)
        study = _study(optuna, root, modes)
        searching = _Search(
            optuna, study, sampling, space, root, modes, data,
            benchmark or "milliseconds" in modes,
        )  # fmt: skip
        searching.run(trials, workers, verbose)
        report = searching.report()
        write_together({root / "report.json": report.to_json().encode()})
    if not report.front:
        reasons = dict.fromkeys(trial.reason for trial in report.trials)
        raise ValueError(
            f"{_OWNER}: none of the {len(report.trials)} trials is complete. Their "
            "reasons:\n" + "\n".join(f"  {reason}" for reason in reasons)
        )
    return report


@dataclasses.dataclass
class _Search:
    """Asks Optuna for trials, runs them in processes, and tells it what came out."""

    optuna: Any
    study: Any
    sampling: Callable[[int], Any]
    space: Callable[[Any], Recipe]
    root: Path
    modes: dict[str, str]
    data: str
    benchmark: bool

    def run(self, wanted: int, workers: int, verbose: Any) -> None:
        """Runs trials until there are as many as wanted."""
        for trial in self.study.trials:
            if trial.state.name == "RUNNING":  # Of a sweep that is no more.
                self._conclude(trial, "the sweep was stopped")
        bar = keras.utils.Progbar(
            wanted, verbose=1 if verbose == "auto" else verbose, unit_name="trial"
        )
        done = -1
        running: dict[int, subprocess.Popen[bytes]] = {}
        try:
            while True:
                if done != len(self._counted()):
                    done = len(self._counted())
                    bar.update(min(done, wanted))
                while len(running) < workers and done + len(running) < wanted:
                    number, process = self._start(workers)
                    if process is not None:
                        running[number] = process
                    done = len(self._counted())
                if not running:
                    break
                for number, process in list(running.items()):
                    if process.poll() is not None:
                        self._end(number, running.pop(number))
                time.sleep(_POLL)
        finally:
            for process in running.values():
                process.kill()
                process.communicate()

    def _counted(self) -> list[Any]:
        """Returns the finished trials, without those that others take the place of."""
        trials = self.study.get_trials(deepcopy=False)
        replaced = {trial.user_attrs.get(_AGAIN) for trial in trials}
        return [t for t in trials if t.state.is_finished() and t.number not in replaced]

    def _start(self, workers: int) -> tuple[int, Any]:
        """Returns the next trial's number and process; `None` if there is none."""
        # Anew for each: a sweep that goes on draws what it would have drawn.
        self.study.sampler = self.sampling(len(self.study.trials) - self._num_killed())
        trial = self.study.ask()
        paths = self._paths(trial)
        try:
            recipe = self.space(trial)
            if not isinstance(recipe, Recipe):
                raise TypeError(
                    f"`space` must return a kprune.Recipe. Received {recipe!r}."
                )
            recipe.save(paths["recipe"])
        except self.optuna.TrialPruned as error:
            self._tell(trial.number, "PRUNED", str(error) or "given up by the space")
            return trial.number, None
        except Exception as error:  # Of the user's function.
            self._tell(trial.number, "FAIL", f"{type(error).__name__}: {error}")
            return trial.number, None
        return trial.number, self._process(paths, workers)

    def _num_killed(self) -> int:
        return sum(_AGAIN in trial.user_attrs for trial in self.study.trials)

    def _process(self, paths: dict[str, Path], workers: int) -> Any:
        job = {
            **{name: str(path) for name, path in paths.items()},
            "model": str(self.root / "model.keras"),
            "data": self.data,
            "benchmark": self.benchmark,
        }
        threads = str(max(1, (os.cpu_count() or 1) // workers))
        with paths["log"].open("ab") as log:
            # A session of its own keeps Ctrl-C for this process, which ends that one.
            return subprocess.Popen(
                [*_COMMAND, json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={
                    "TF_NUM_INTRAOP_THREADS": threads,
                    "TF_CPP_MIN_LOG_LEVEL": "3",
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                },
            )

    def _end(self, number: int, process: "subprocess.Popen[bytes]") -> None:
        """Tells Optuna what became of a trial whose process has ended."""
        process.communicate()  # Closes the pipe.
        code = process.returncode
        words = f"exit code {code}"
        if code < 0:
            words = f"signal {-code} ({signal.strsignal(-code)})"
        trial = self.study.trials[number]
        log = self._paths(trial)["log"]
        self._conclude(trial, f"its process ended with {words}; see {log}")

    def _conclude(self, trial: Any, otherwise: str) -> None:
        """Tells Optuna what is in the file that a trial left, if it did."""
        path = self._paths(trial)["result"]
        if not path.exists():
            self._give_up(trial, otherwise)
            return
        result = json.loads(path.read_text())
        measures = result.get("measures", {})
        values = [measures.get(name) for name in self.modes]
        missing = [
            name
            for name, value in zip(self.modes, values, strict=True)
            if value is None or not math.isfinite(value)
        ]
        if "error" in result:
            self._tell(trial.number, "FAIL", result["error"])
        elif missing:
            reason = f"there is no finite {missing[0]!r} of its file"
            self._tell(trial.number, "FAIL", reason)
        else:
            self.study.tell(trial.number, values)

    def _give_up(self, trial: Any, reason: str) -> None:
        """Ends a trial that was killed, and asks for it again, once."""
        self._tell(trial.number, "FAIL", reason)
        if _AGAIN not in trial.user_attrs:
            self.study.enqueue_trial(trial.params, {_AGAIN: trial.number})

    def _tell(self, number: int, state: str, reason: str) -> None:
        path = self._paths(self.study.trials[number])["result"]
        write_together({path: json.dumps({"error": reason}).encode()})
        self.study.tell(number, state=self.optuna.trial.TrialState[state])

    def _paths(self, trial: Any) -> dict[str, Path]:
        """Returns where a trial's files are: its folder is that of the one before."""
        trials = self.root / "trials"
        trials.mkdir(exist_ok=True)
        name = f"{trial.number:04}"
        folder = f"{trial.user_attrs.get(_AGAIN, trial.number):04}"
        return {
            "folder": trials / folder,
            "recipe": trials / f"{name}.yaml",
            "result": trials / f"{name}.json",
            "log": trials / f"{name}.log",
        }

    def report(self) -> SweepReport:
        """Returns what became of all trials."""
        instead = {
            trial.user_attrs[_AGAIN]: trial.number
            for trial in self.study.trials
            if _AGAIN in trial.user_attrs
        }
        found = []
        for trial in self.study.trials:
            if not trial.state.is_finished():
                continue
            paths, state = self._paths(trial), _STATES[trial.state.name]
            result = json.loads(paths["result"].read_text())
            reason = "" if state == "complete" else result["error"]
            if trial.number in instead:
                state = "again"
                reason += f"; trial {instead[trial.number]} takes its place"
            found.append(
                SweepTrial(
                    number=trial.number,
                    state=state,  # type: ignore[arg-type]
                    params=dict(trial.params),
                    measures=result.get("measures", {}),
                    reason=reason,
                    folder=str(paths["folder"].relative_to(self.root)),
                )
            )
        front = [trial.number for trial in self.study.best_trials]
        return SweepReport(self.modes, tuple(found), tuple(sorted(front)))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            f"{_OWNER}: searching needs Optuna, which the extra `search` brings: "
            "pip install optuna"
        ) from error
    return optuna


@contextlib.contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Keeps what Optuna says of each trial off the screen."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _sampling(optuna: Any, sampler: Any, seed: int) -> Callable[[int], Any]:
    """Returns what gives the sampler of a trial by the trial's place."""
    samplers = optuna.samplers
    if isinstance(sampler, samplers.GridSampler | samplers.BruteForceSampler):
        raise ValueError(
            f"{_OWNER}: {type(sampler).__name__} ends a study itself, which only "
            "`study.optimize` lets it do. Use another sampler, such as 'random'."
        )
    if isinstance(sampler, samplers.BaseSampler):
        return lambda place: sampler
    named = {
        "tpe": samplers.TPESampler,
        "nsga2": samplers.NSGAIISampler,
        "random": samplers.RandomSampler,
    }
    if sampler not in named:
        raise ValueError(
            f"{_OWNER}: `sampler` must be one of {sorted(named)}, or a sampler of "
            f"optuna.samplers. Received {sampler!r}."
        )

    def made(place: int) -> Any:
        drawn = np.random.SeedSequence([seed, place]).generate_state(1)
        return named[sampler](seed=int(drawn[0]))

    return made


def _modes(objectives: Any) -> dict[str, str]:
    """Returns for each objective whether more or less of it is better."""
    if isinstance(objectives, Mapping):
        modes = dict(objectives)
    elif isinstance(objectives, str):
        raise TypeError(
            f"{_OWNER}: `objectives` must be several names, such as ('accuracy', "
            f"'bytes'). Received {objectives!r}."
        )
    else:
        modes = {}
        for name in objectives:
            try:
                modes[name] = "min" if name in COSTS else mode_of(_OWNER, name)
            except ValueError as error:
                raise ValueError(
                    f"{_OWNER}: the name {name!r} does not tell whether higher or "
                    f"lower is better. Say objectives={{{name!r}: 'max', ...}}."
                ) from error
    if not modes or not set(modes.values()) <= {"max", "min"}:
        raise ValueError(
            f"{_OWNER}: `objectives` must have at least one name, each with 'max' or "
            f"'min'. Received {objectives!r}."
        )
    return modes


def _check_numbers(**numbers: Any) -> None:
    for name, value in numbers.items():
        if type(value) is not int or value < 1:
            raise ValueError(
                f"{_OWNER}: `{name}` must be a whole number of at least 1. Received "
                f"{value!r}."
            )


def _check_folder(root: Path) -> None:
    """Makes the folder; refuses one that holds something else."""
    if root.is_dir() and any(root.iterdir()) and not (root / "lock").exists():
        raise ValueError(
            f"{_OWNER}: {str(root)!r} holds other files. Name a folder that is empty, "
            "or not there yet."
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{_OWNER}: cannot make the folder {str(root)!r}: {error.strerror}."
        ) from error


def _prepared(
    root: Path, model: Any, data: Any, modes: Mapping[str, str]
) -> dict[Path, bytes]:
    """Returns what is to be written first, after trying it as processes will.

    Raises:
        ValueError: If the model, the data or an objective do not fit.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"{_OWNER}: `model` must be a Keras 3 model. {received(model)}")
    if not isinstance(data, str):
        raise TypeError(
            f"{_OWNER}: `data` must be a text, the path of a '.npz' file or "
            "'module:function': each process reads the data itself. Received type "
            f"{type(data).__name__}."
        )
    if not model.compiled:
        raise ValueError(
            f"{_OWNER}: {model.name!r} is not compiled. Compile it with the loss, the "
            "metrics and the optimizer that all recipes are to have."
        )
    kept = root / "model.keras"
    with temporary_folder() as folder:
        file = folder / "model.keras"
        model.save(file)
        content = file.read_bytes()
        copy = load_model(file, compile=True)
    if kept.exists():
        shapes = [
            [tuple(v.shape) for v in each.weights]
            for each in (copy, load_model(kept, compile=True))
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{_OWNER}: {str(root)!r} holds a sweep of another model, see "
                f"{str(kept)!r}. Choose another folder."
            )
    found = read_training_data(data)
    check_inputs(copy, found)
    (batch,) = evidence.read(found.validation, 1, _OWNER)
    copy.run_eagerly = True  # To trace it takes longer than one batch.
    metrics = copy.evaluate(
        batch.x, batch.y, sample_weight=batch.sample_weight, verbose=0, return_dict=True
    )
    for name in modes:
        if name not in (*COSTS, *metrics):
            near = nearest(name, [*COSTS, *metrics])
            hint = f" Did you mean {near!r}?" if near else ""
            raise ValueError(
                f"{_OWNER}: nothing is called {name!r}.{hint} Objectives are the "
                f"model's {', '.join(metrics)}, and {', '.join(COSTS)}."
            )
    return {} if kept.exists() else {kept: content}


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keeps a second sweep out of the folder; the system takes the lock off."""
    with (root / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"{_OWNER}: another sweep is at work in {str(root)!r}. Wait for it, or "
                "give it more `workers`."
            ) from error
        yield


def _study(optuna: Any, root: Path, modes: dict[str, str]) -> Any:
    backend = optuna.storages.journal.JournalFileBackend(str(root / "study.log"))
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name="kprune",
        directions=[f"{mode}imize" for mode in modes.values()],
        load_if_exists=True,
    )
    before = study.user_attrs.setdefault("objectives", modes)
    if before != modes:
        raise ValueError(
            f"{_OWNER}: the sweep in {str(root)!r} has the objectives {before}. "
            f"Received {modes}. Choose another folder."
        )
    study.set_user_attr("objectives", modes)
    return study
