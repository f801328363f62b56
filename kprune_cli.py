"""The `kprune` command: arguments in, text and exit codes out.

This module changes when the command line does. It lies beside the package because
importing anything in `kprune` imports Keras and TensorFlow, which takes seconds and
prints a screenful: commands do so when they have to, and `--help` never does.
"""

import contextlib
import importlib.metadata
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

REFUSED = 1
INTERRUPTED = 130
"""Exit codes; wrong usage is 2, as Typer has it."""

# The demo's tables need it. On a narrower terminal lines wrap, and nothing is cut.
_LEAST_WIDTH = 80

app = typer.Typer(
    name="kprune",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def main() -> None:
    """Runs the command that the process's arguments name."""
    app()


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
    """Show the zeros in a file: per weight, in total, and what they change."""
    with _refusals():
        with _loading():
            import kprune
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
        found = comparing.compare(files)
    typer.echo(found.to_json() if json else str(found))


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
    json: Json = False,
) -> None:
    """Convert a model, run the file on the device's runtime, and report.

    Nothing is written unless the file ran and agrees with Keras.
    """
    with _refusals():
        with _loading():
            import kprune
            from kprune.model_file import load_model
        with _progress_console().status("Converting, running and measuring"):
            report = kprune.export(
                load_model(model),
                out,
                target,
                quantization,
                None if data is None else _read_data(data),
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
            from kprune.export.device import instructions
        if device is not None:
            typer.echo(instructions(device, file, baseline))
            return
        with _progress_console().status("Running and timing"):
            report = kprune.bench(
                file,
                baseline,
                None if data is None else _read_data(data),
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


def _read_data(path: Path) -> Any:
    """Returns the array of a `.npy` file, or the arrays of a `.npz` file by name."""
    import numpy as np

    if path.suffix not in (".npy", ".npz"):
        raise ValueError(
            f"--data must be a '.npy' or '.npz' file. Received: {str(path)!r}. Write "
            "one with numpy.save or numpy.savez."
        )
    try:
        found = np.load(path, allow_pickle=False)
        if path.suffix == ".npy":
            return found
        with found:
            arrays = {name: found[name] for name in found.files}
    except FileNotFoundError:
        raise ValueError(f"There is no file {str(path)!r} (--data).") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"NumPy cannot read {str(path)!r} (--data): {error} Write it anew with "
            "numpy.save or numpy.savez, without Python objects in it."
        ) from error
    # One array can belong to one input only, whatever it is called.
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turns what users can cause into a message and an exit code."""
    console = Console(stderr=True, highlight=False)
    try:
        yield
    except (ValueError, OSError) as error:
        console.print("[bold red]Error:[/bold red]", end=" ")
        console.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(REFUSED) from error
    except KeyboardInterrupt:
        console.print("Stopped.")
        raise typer.Exit(INTERRUPTED) from None


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
        except BaseException:
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
