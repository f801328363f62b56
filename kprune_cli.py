"""The `kprune` command: arguments in, text and exit codes out.

This module changes when the command line does. It lies beside the package because
importing anything in `kprune` imports Keras and TensorFlow, which takes seconds and
prints a screenful: commands do so when they have to, and `--help` never does.
"""

import contextlib
import importlib.metadata
import io
import os
import re
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    import keras

REFUSED = 1
INTERRUPTED, TERMINATED = 130, 143
"""Exit codes; wrong usage is 2, as Typer has it."""

# The tables of help and demo need it. On a narrower terminal lines wrap, and nothing is
# cut.
_LEAST_WIDTH = 80

app = typer.Typer(
    name="kprune",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
CompiledModel = Annotated[
    Path, typer.Argument(help="The .keras file; best of a compiled model.")
]
Loss = Annotated[
    str | None,
    typer.Option(
        help="Keras's name of the loss.",
        show_default="what the file was saved with",
    ),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(help="With --loss: Keras's name of a metric, once for each."),
]


class _Terminated(KeyboardInterrupt):
    """The process is to end: what has to be said is the same as for Ctrl-C."""


def main() -> None:
    """Runs the command that the process's arguments name."""
    signal.signal(signal.SIGTERM, _terminate)
    if shutil.get_terminal_size().columns < _LEAST_WIDTH:
        os.environ.setdefault("TERMINAL_WIDTH", str(_LEAST_WIDTH))  # Typer's, for help.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # `None`, if the process has none.
            stream.reconfigure(errors="replace")
    app()


def _terminate(*_: Any) -> None:
    raise _Terminated


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        version = importlib.metadata.version("kprune")
    except importlib.metadata.PackageNotFoundError:  # Run from its source folder.
        with _loading():
            from kprune import __version__ as version
    typer.echo(f"kprune {version}")
    raise typer.Exit


@app.callback(
    epilog="Start with [bold]kprune demo[/bold]: real data, no network, a minute."
)
def _kprune(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version.",
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
) -> None:
    """Prune Keras 3 models, and see what the device gets from it."""


@app.command(
    epilog="Examples:  [bold]kprune demo[/bold]  |  "
    "[bold]kprune demo --sparsity 0.95 --out here[/bold]"
)
def demo(
    dataset: Annotated[
        str,
        typer.Option(
            help="[bold]digits[/bold], which needs no network, or "
            "[bold]fashion-mnist[/bold], which is downloaded once."
        ),
    ] = "digits",
    sparsity: Annotated[
        float, typer.Option(help="Fraction of zeros over all kernels, in [0, 1).")
    ] = 0.9,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Epochs per model: the first half dense, the second half pruning.",
            show_default="40 for digits, 4 for fashion-mnist",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path(
        "kprune-demo"
    ),
) -> None:
    """Train, prune, export and measure a small network: the whole job.

    Prints accuracy, sparsity, size, memory and time of the dense and the pruned
    network, in float32 and in int8, each measured on its file.
    """
    with _refusals():
        with _loading():
            from kprune import demo as job
            from kprune import demo_view
        with demo_view.Screen(_progress_console()) as screen:
            result = job.run(
                out,
                screen,
                dataset=dataset,
                sparsity=sparsity,
                epochs=epochs,
                seed=seed,
            )
    demo_view.show(result, _result_console())


@app.command(epilog="Example:  [bold]kprune inspect model.tflite[/bold]")
def inspect(
    file: Annotated[Path, typer.Argument(help="A .keras or .tflite file.")],
    json: Json = False,
) -> None:
    """Show the zeros in a file: per weight, in total, and what they change.

    Bars show how the values that are not zero lie between minus and plus the largest.
    """
    with _refusals():
        with _loading():
            import kprune
        with _progress_console().status("Reading"):
            found = kprune.inspect(file)
    typer.echo(found.to_json() if json else str(found))


@app.command(
    epilog="Example:  [bold]kprune compare dense.keras pruned.keras p.tflite[/bold]"
)
def compare(
    files: Annotated[list[Path], typer.Argument(help="The .keras or .tflite files.")],
    json: Json = False,
) -> None:
    """Put files side by side: bytes, parameters, zeros and multiplications.

    Of two .tflite files, [bold]kprune bench[/bold] tells times and outputs.
    """
    with _refusals():
        with _loading():
            from kprune.inspection import comparing
        with _progress_console().status("Reading"):
            found = comparing.compare(files)
    typer.echo(found.to_json() if json else str(found))


@app.command(
    epilog="Examples:  [bold]kprune report model-pruned[/bold]  |  "
    "[bold]kprune report dense.keras pruned.keras pruned.tflite[/bold]"
)
def report(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="The folder that [bold]kprune prune[/bold] wrote, alone; or .keras "
            "files, before and after, and .tflite files."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The .html file to write.")] = Path(
        "report.html"
    ),
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of writing a page.")
    ] = False,
) -> None:
    """Write one page on a model: before and after, files, times, what was refused.

    The page needs nothing but itself; its data are in it, as JSON.
    """
    with _refusals():
        with _loading():
            import kprune
            from kprune.export.files import check_path
        out = check_path(out, ".html")
        with _progress_console().status("Reading and counting"):
            found = kprune.overview(*sources)
        if not json:
            found.save(out)
    typer.echo(found.to_json() if json else f"Written: {out}")


@app.command(
    epilog="Examples:  [bold]kprune advise model.keras[/bold]  |  "
    "[bold]kprune advise model.keras --target ethos-u85-256 --sparsity 0.5[/bold]"
)
def advise(
    model: Annotated[Path, typer.Argument(help="The .keras file.")],
    target: Annotated[
        str,
        typer.Option(help="The device, as for [bold]kprune export[/bold]."),
    ] = "android",
    sparsity: Annotated[
        float, typer.Option(help="The share of zeros to ask about, in (0, 1).")
    ] = 0.8,
    json: Json = False,
) -> None:
    """Tell what each kind of pruning would bring on a device, and what hinders."""
    with _refusals():
        with _loading():
            import kprune
            from kprune.model_file import load_model
        with _progress_console().status("Converting"):
            found = kprune.advise(load_model(model), target, sparsity=sparsity)
    typer.echo(found.to_json() if json else str(found))


@app.command(
    epilog="Examples:  [bold]kprune prune m.keras --data d.npz --sparsity 0.8[/bold]  |"
    "  [bold]kprune prune m.keras --data data:make --recipe recipe.yaml[/bold]"
)
def prune(
    model: CompiledModel,
    data: Annotated[
        str | None,
        typer.Option(
            help="A .npz file with x and y, and x_val and y_val to measure on; or "
            "[bold]module:function[/bold], whose function returns a pair to train and "
            "to measure on, each a batched tf.data.Dataset or (x, y).",
            show_default="the recipe's",
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="A .yaml file of stages and targets, as kprune.Recipe writes it, "
            "instead of the next four.",
            show_default="one stage of pruning",
        ),
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(
            help="Fraction of zeros over all kernels, in [0, 1).", show_default="0.8"
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of training.", show_default="10")
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Where it falls from, along a cosine.",
            show_default="the model's own",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="A device to write an int8 file for, once for each.",
            show_default="android",
        ),
    ] = None,
    loss: Loss = None,
    metric: Metrics = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for all files.", show_default="MODEL-pruned"),
    ] = None,
    benchmark: Annotated[
        bool, typer.Option(help="Measure times, seconds for each file.")
    ] = True,
    json: Json = False,
) -> None:
    """Train a model while it is pruned, export it, and measure each file.

    A run that was stopped goes on when the same command is given again, after the
    last epoch that was done.
    """
    folder = Path(f"{model.stem}-pruned") if out is None else out
    with _refusals(lambda: _what_is_done(folder)):
        with _loading():
            import tensorflow

            from kprune.data_file import check_inputs, read_training_data
            from kprune.recipe import Export, Prune, Recipe
        tensorflow.get_logger().setLevel("ERROR")  # Many small models are compiled.
        if recipe is None:
            stage = Prune(
                0.8 if sparsity is None else sparsity,
                epochs=10 if epochs is None else epochs,
                learning_rate=learning_rate,
            )
            exports = tuple(Export(name) for name in target or ["android"])
            asked = Recipe((stage,), exports, data=data)
        elif (sparsity, epochs, learning_rate, target) == (None, None, None, None):
            asked = Recipe.load(recipe)
        else:
            raise ValueError(
                "--recipe says it all: write --sparsity, --epochs, --learning-rate and "
                f"--target into {str(recipe)!r}, or leave --recipe out."
            )
        given = _compiled(model, loss, metric)
        source = asked.data if data is None else data
        if source is None:
            raise ValueError("Name the data: --data d.npz, or --data module:function.")
        # The result has standard output for itself.
        with contextlib.redirect_stdout(sys.stderr):
            found = read_training_data(source)
            check_inputs(given, found)
            if found.note:
                typer.echo(f"note: {found.note}", err=True)
            with _as_refusals():
                result = asked.run(
                    given,
                    found.train,
                    found.validation,
                    folder,
                    benchmark=benchmark,
                    verbose=2 if _is_plain() else 1,
                )
    typer.echo(
        result.report.to_json()
        if json
        else f"{result.report}\n\nAs a page: {folder / 'report.html'}\n"
        f"Written to {folder}"
    )


@app.command(
    epilog="Examples:  [bold]kprune sensitivity m.keras --data d.npz[/bold]  |  "
    "[bold]kprune sensitivity m.keras --data data:make --sparsities 0.5,0.8,0.9 "
    "--plot s.png --lost 0.01[/bold]"
)
def sensitivity(
    model: CompiledModel,
    data: Annotated[
        str,
        typer.Option(
            help="As for [bold]kprune prune[/bold]: a .npz file, or "
            "[bold]module:function[/bold]. What is to measure on is measured on."
        ),
    ],
    sparsities: Annotated[
        str | None,
        typer.Option(
            help="Shares of zeros to try, in [0, 1), with commas between them.",
            show_default="0.25,0.5,0.7,0.8,0.9,0.95",
        ),
    ] = None,
    granularity: Annotated[
        str,
        typer.Option(
            help="What is pruned as a unit: [bold]element[/bold], [bold]channel[/bold] "
            "or [bold]kernel[/bold]."
        ),
    ] = "element",
    criterion: Annotated[
        str, typer.Option(help="What makes a weight worth keeping.")
    ] = "magnitude",
    measure: Annotated[
        str | None,
        typer.Option(
            help="Name of the metric to measure.",
            show_default="the first compiled one, or the loss",
        ),
    ] = None,
    lost: Annotated[
        float | None,
        typer.Option(
            help="Show the sparsities at which each weight alone loses no more than "
            "that, for allocation= in Python and in recipes."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="A .png or .svg file to draw the curves in.")
    ] = None,
    loss: Loss = None,
    metric: Metrics = None,
    json: Json = False,
) -> None:
    """Measure what the model loses where one weight alone is pruned.

    Nothing is trained, and the file stays as it is.
    """
    with _refusals():
        with _loading():
            import kprune
            from kprune.data_file import check_inputs, read_training_data
            from kprune.export.files import picture_path
        if plot is not None:
            picture_path("--plot", plot)
        shares = None if sparsities is None else _numbers("--sparsities", sparsities)
        given = _compiled(model, loss, metric)
        # The result has standard output for itself.
        with contextlib.redirect_stdout(sys.stderr), _as_refusals():
            found = read_training_data(data)
            check_inputs(given, found)
            report = kprune.sensitivity(
                given,
                found.validation,
                shares,
                metric=measure,
                criterion=criterion,
                granularity=granularity,
                verbose=0 if _is_plain() else 1,
            )
            allocation = None if lost is None else report.allocation(lost)
            if plot is not None:
                report.plot(plot)
    if json:
        typer.echo(report.to_json(lost))
        return
    typer.echo(str(report))
    if allocation is not None:
        typer.echo(f"\nEach alone loses at most {lost:g} with allocation={allocation}")
    if plot is not None:
        typer.echo(f"\nDrawn in {plot}")


@app.command(
    epilog="Examples:  [bold]kprune sweep m.keras search:space --data d.npz[/bold]  |"
    "  [bold]kprune sweep m.keras search:space --data data:make --trials 40 "
    "--workers 4 --objective accuracy --objective macs --plot sweep.png[/bold]"
)
def sweep(
    model: CompiledModel,
    space: Annotated[
        str,
        typer.Argument(
            help="[bold]module:function[/bold], whose function takes an optuna.Trial "
            "and returns a kprune.Recipe."
        ),
    ],
    data: Annotated[str, typer.Option(help="As for [bold]kprune prune[/bold].")],
    trials: Annotated[int, typer.Option(help="How many recipes to try in all.")] = 20,
    workers: Annotated[int, typer.Option(help="How many at a time.")] = 1,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            help="What to search for, once for each: a compiled metric, bytes, "
            "gzip_bytes, arena_bytes, macs, nonzero_macs or milliseconds.",
            show_default="accuracy and bytes",
        ),
    ] = None,
    sampler: Annotated[
        str, typer.Option(help="Optuna's: tpe, nsga2 or random.")
    ] = "tpe",
    seed: Annotated[int, typer.Option(help="Seed of the sampler.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(help="A .png or .svg file to draw the trials in.")
    ] = None,
    loss: Loss = None,
    metric: Metrics = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for all files.", show_default="MODEL-swept"),
    ] = None,
    json: Json = False,
) -> None:
    """Search for the recipes that none beats in accuracy and in what files cost.

    A sweep that was stopped goes on when the same command is given again.
    """
    folder = Path(f"{model.stem}-swept") if out is None else out
    with _refusals(
        lambda: (
            f"What is done is in {folder}. Give the same command again to go on."
            if folder.exists()
            else "Nothing was written."
        )
    ):
        with _loading():
            import kprune
            from kprune.data_file import read_function
            from kprune.export.files import picture_path
        if plot is not None:
            picture_path("--plot", plot)
        given = _compiled(model, loss, metric)
        # The result has standard output for itself.
        with contextlib.redirect_stdout(sys.stderr), _as_refusals():
            report = kprune.sweep(
                read_function(space),
                given,
                data,
                folder,
                trials=trials,
                workers=workers,
                objectives=objective or ("accuracy", "bytes"),
                sampler=sampler,
                seed=seed,
                verbose=0 if _is_plain() else 1,
            )
            if plot is not None:
                report.plot(plot)
    if json:
        typer.echo(report.to_json())
        return
    typer.echo(f"{report}\n\nWritten to {folder}")
    if plot is not None:
        typer.echo(f"Drawn in {plot}")


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(
            f"{option} takes numbers with commas between them, such as 0.5,0.8. "
            f"Received: {text!r}."
        ) from error


def _is_plain() -> bool:
    """Returns whether bars and colours are out of place on standard error."""
    return not sys.stderr.isatty() or bool(os.environ.get("NO_COLOR"))


@contextlib.contextmanager
def _as_refusals() -> Iterator[None]:
    """Turns what data cause in TensorFlow and Keras, and extras, into refusals."""
    import tensorflow

    try:
        yield
    except tensorflow.errors.OpError as error:
        # The calls that built the operation are Keras's and ours.
        calls = r"Detected at node .*?\n\n(?=Received|[A-Z]\w+Error|Traceback)"
        said = re.sub(calls, "", error.message, flags=re.DOTALL)
        raise ValueError(f"TensorFlow stopped: {said}") from error
    # Of data, whose types Keras does not take; of an extra that is not installed.
    except (TypeError, ImportError) as error:
        raise ValueError(str(error)) from error


def _compiled(path: Path, loss: str | None, metrics: list[str] | None) -> "keras.Model":
    """Returns the model in a file, compiled as it was saved or as the user says."""
    import keras

    from kprune.model_file import load_model

    model = load_model(path, compile=loss is None)
    if loss is not None:
        keras.losses.get(loss)  # Raises for a name that is not one.
        model.compile("adam", loss, metrics=metrics or [])
    elif metrics:
        raise ValueError("--metric goes with --loss: give both, or neither.")
    elif not model.compiled:
        raise ValueError(
            f"{str(path)!r} was saved without a loss. Say it, such as --loss "
            "sparse_categorical_crossentropy --metric accuracy (for a model that "
            "returns probabilities); or compile the model and save it again."
        )
    return model


def _what_is_done(folder: Path) -> str:
    """Returns what a run that was stopped has left, and how to go on."""
    done = sorted(path.name for path in (folder / "stages").glob("[0-9]*_*.keras"))
    if not done:
        return "Nothing was written."
    return (
        f"{folder / 'stages'} holds {', '.join(done)}. Give the same command again to "
        "go on from there."
    )


@app.command(
    epilog="Examples:  [bold]kprune shrink m.keras small.keras[/bold]  |  "
    "[bold]kprune shrink m.keras small.keras --budget macs=0.5 --dry-run[/bold]"
)
def shrink(
    model: Annotated[Path, typer.Argument(help="The .keras file.")],
    out: Annotated[Path, typer.Argument(help="The .keras file to write.")],
    sparsity: Annotated[
        float | None,
        typer.Option(
            help="Fraction of the channels to remove, in [0, 1): those of least "
            "magnitude.",
            show_default="only channels that are zero",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="What the result may cost, instead: [bold]macs=0.5[/bold]; or "
            "params=, flash_bytes=, arena_bytes= or latency_ratio=. Below 1: of what "
            "it costs now."
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="With --budget: the device that it is for.")
    ] = None,
    blocks: Annotated[
        int | None, typer.Option(help="How many residual blocks to remove.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Inputs to compare the models on: a .npy file, or a .npz file with "
            "one array for each input, under the input's name.",
            show_default="random values",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option(help="Show what would be removed, and write nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Remove channels, and prove that the smaller model computes the same.

    The same as the model with these channels set to zero: train it afterwards, unless
    they were zero.
    """
    with _refusals():
        with _loading():
            import kprune
            from kprune.data_file import read_inputs
            from kprune.export.files import check_path, write_model
            from kprune.model_file import load_model
        out = check_path(out, ".keras")
        if target is not None and budget is None:
            raise ValueError("--target goes with --budget: give both, or neither.")
        limit = None if budget is None else kprune.Budget.from_text(budget, target)
        act: Any = kprune.plan_shrink if dry_run else kprune.shrink
        given = load_model(model, compile=True)
        inputs = None if data is None else read_inputs(data)
        with _progress_console().status("Choosing, removing and comparing"):
            found = act(given, sparsity, budget=limit, blocks=blocks, data=inputs)
        if not dry_run:
            write_model(found, out)
            found = found.shrink_report
    typer.echo(found.to_json() if json else str(found))


@app.command(
    epilog="Examples:  [bold]kprune export m.keras m.tflite[/bold]  |  "
    "[bold]kprune export m.keras m.tflite --target microcontroller --data x.npy "
    "--encode[/bold]"
)
def export(
    model: Annotated[Path, typer.Argument(help="The .keras file.")],
    out: Annotated[Path, typer.Argument(help="The .tflite file to write.")],
    target: Annotated[
        str,
        typer.Option(
            help="[bold]android[/bold] (LiteRT), [bold]microcontroller[/bold] "
            "(TensorFlow Lite Micro; C++ source beside the file) or an NPU such as "
            "[bold]ethos-u55-128[/bold] (compiled with Vela, too)."
        ),
    ] = "android",
    quantization: Annotated[
        str | None,
        typer.Option(
            help="none, float16, dynamic, int4 (android), int8 or int16x8.",
            show_default="dynamic for android, int8 for microcontroller",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Representative inputs, needed for int8 and int16x8: a .npy file, or "
            "a .npz file with one array for each input, under the input's name."
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(help="The most samples of the data to use.")
    ] = 200,
    dense: Annotated[
        Path | None,
        typer.Option(help="A .tflite file of the dense model to compare sizes with."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="The largest relative difference from Keras to accept.",
            show_default="by quantization",
        ),
    ] = None,
    benchmark: Annotated[
        bool, typer.Option(help="Measure times, about four seconds.")
    ] = True,
    c_source: Annotated[
        bool, typer.Option(help="Write sources for a microcontroller.")
    ] = True,
    encode: Annotated[
        bool | None,
        typer.Option(
            help="Store weights without their zeros: for a microcontroller as bits, "
            "decoded while the model runs (operator DECODE); for android in float32 "
            "and float16, unpacked when the file is loaded.",
            show_default="for android, where its runtime skips zeros",
        ),
    ] = None,
    decoding_bytes: Annotated[
        int | None,
        typer.Option(
            help="The most bytes of a weight that --encode encodes.",
            show_default="any",
        ),
    ] = None,
    slim: Annotated[
        bool | None,
        typer.Option(
            help="Leave out what no runtime reads, such as names of tensors.",
            show_default="for microcontrollers only",
        ),
    ] = None,
    flash: Annotated[
        int | None,
        typer.Option(help="The most bytes of the file.", show_default="any"),
    ] = None,
    arena: Annotated[
        int | None,
        typer.Option(
            help="The most bytes of arena on a microcontroller.", show_default="any"
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="A text file of class names, one per line, for the file (android) or "
            "the header (microcontrollers)."
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="An .html file to write the report to, as a page."),
    ] = None,
    json: Json = False,
) -> None:
    """Convert a model, run the file on the device's runtime, and report.

    Nothing is written unless the file ran and agrees with Keras.
    """
    with _refusals():
        with _loading():
            import kprune
            from kprune.data_file import read_inputs
            from kprune.export.files import check_path
            from kprune.model_file import load_model
        html = None if html is None else check_path(html, ".html")
        with _progress_console().status("Converting, running and measuring"):
            given = load_model(model)
            report = kprune.export(
                given,
                out,
                target,
                quantization,
                None if data is None else read_inputs(data),
                dense=dense,
                num_samples=samples,
                tolerance=tolerance,
                benchmark=benchmark,
                c_source=c_source,
                encode=encode,
                decoding_bytes=decoding_bytes,
                slim=slim,
                flash=flash,
                arena=arena,
                labels=labels,
            )
            if html is not None:
                kprune.overview(given, report).save(html)
    typer.echo(report.to_json() if json else str(report))


@app.command(
    epilog="Examples:  [bold]kprune bench m.tflite[/bold]  |  "
    "[bold]kprune bench small.tflite --baseline dense.tflite[/bold]  |  "
    "[bold]kprune bench m.tflite --device android[/bold]"
)
def bench(
    file: Annotated[Path, typer.Argument(help="The .tflite file.")],
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="A .tflite file with the same inputs and outputs, to take turns with."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Inputs to run on, as real values: a .npy file, or a .npz file with "
            "one array for each input, under the input's name.",
            show_default="random values",
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="[bold]litert[/bold], or [bold]tflm[/bold] for TensorFlow Lite Micro "
            "with its reference kernels.",
            show_default="litert, and tflm for encoded weights",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(help="The most samples to compare outputs on.")
    ] = 32,
    seconds: Annotated[
        float, typer.Option(help="The most seconds to spend on times.")
    ] = 2.0,
    device: Annotated[
        str | None,
        typer.Option(
            help="Measure nothing, and show how to time the file on a device: "
            "[bold]android[/bold] (with adb) or [bold]board[/bold]."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Time a file here, alone or in turns with a baseline.

    Prints CPU milliseconds of one thread and bytes; beside a baseline also the
    ratio of the times, and how far the outputs are apart.
    """
    with _refusals():
        if device is not None and json:
            raise ValueError("--device prints text to read. Leave --json out.")
        with _loading():
            import kprune
            from kprune.data_file import read_inputs
            from kprune.export.device import instructions
        if device is not None:
            typer.echo(instructions(device, file, baseline))
            return
        with _progress_console().status("Running and timing"):
            report = kprune.bench(
                file,
                baseline,
                None if data is None else read_inputs(data),
                runtime=runtime,
                num_samples=samples,
                seconds=seconds,
            )
    typer.echo(report.to_json() if json else str(report))


@app.command(
    epilog="Examples:  [bold]kprune targets[/bold]  |  "
    "[bold]kprune targets microcontroller[/bold]  |  "
    "[bold]kprune targets board.yaml --json[/bold]"
)
def targets(
    target: Annotated[
        str | None,
        typer.Argument(
            help="A target's name, or the .yaml file of one, to see all that is known.",
            show_default="a table of all",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show the devices: what each can run, what pays on it, and the sources."""
    with _refusals():
        with _loading():
            from kprune.export import catalogue
            from kprune.export.choosing import target_of
            from kprune.export.targets import TARGETS
        shown = list(TARGETS.values()) if target is None else [target_of(target)]
    if json:
        typer.echo(catalogue.to_json(shown))
    else:
        typer.echo(
            catalogue.listing(shown) if target is None else catalogue.details(*shown)
        )


@app.command(
    epilog="Example:  [bold]kprune doctor[/bold]. Its exit code is 1 if something that "
    "kprune needs is missing or does not load."
)
def doctor(json: Json = False) -> None:
    """Show what is installed, whether it loads, and what extras would bring."""
    import kprune_doctor

    with _refusals(), _progress_console().status("Importing each package"):
        found = kprune_doctor.checkup()
    typer.echo(found.to_json() if json else str(found))
    if not found.healthy:
        raise typer.Exit(REFUSED)


@contextlib.contextmanager
def _refusals(left: Callable[[], str] = str) -> Iterator[None]:
    """Turns what users can cause into a message and an exit code.

    Args:
        left: Says what is left when the user stops the command.
    """
    console = Console(stderr=True, highlight=False)

    def warn(message: Any, *_: Any) -> None:
        console.print(f"warning: {message}", markup=False, soft_wrap=True)

    # Python adds the line of code that a warning is of, which is none of the user's.
    printed = warnings.showwarning
    warnings.showwarning = warn  # type: ignore[assignment]
    try:
        yield
    except (ValueError, OSError) as error:
        console.print("[bold red]Error:[/bold red]", end=" ")
        console.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(REFUSED) from error
    except KeyboardInterrupt as stop:
        console.print(f"Stopped. {left()}".strip(), markup=False, soft_wrap=True)
        ended = isinstance(stop, _Terminated)
        raise typer.Exit(TERMINATED if ended else INTERRUPTED) from None
    finally:
        warnings.showwarning = printed


@contextlib.contextmanager
def _loading() -> Iterator[None]:
    """Keeps what TensorFlow logs while it is imported off the screen.

    Its first lines come before any setting for them is read, so that standard error
    itself is put aside; if the import fails, what was put aside is shown.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # The converter and the training that holds zeros are TensorFlow's.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with (
        _progress_console().status("Loading TensorFlow"),
        tempfile.TemporaryFile() as aside,
    ):
        screen = os.dup(2)
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except Exception:
            aside.seek(0)
            os.write(screen, aside.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)


def _progress_console() -> Console:
    """Returns a console on standard error.

    On a terminal it writes to a duplicate, which still reaches the screen while
    standard error is put aside.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        console = Console(file=os.fdopen(os.dup(2), "w"))
    return console


def _result_console() -> Console:
    console = Console()
    return Console(width=max(console.width, _LEAST_WIDTH))


if __name__ == "__main__":
    main()
