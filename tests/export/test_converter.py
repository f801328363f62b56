"""The converter's process: kept, survived, and gone when it should be."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

import keras
import nets
import numpy as np
import pytest

from kprune.export import converter, export

L = keras.layers


def rolled():
    layers = [L.Input((5, 6)), L.Bidirectional(L.LSTM(4, name="inner"), name="both")]
    return keras.Sequential([*layers, L.Dense(2)], name="net")


def sequences():
    return np.random.default_rng(0).random((4, 5, 6), dtype="float32")


def pid():
    return converter._worker.process.pid


def stopped():
    """Returns the number of a process that will never answer."""
    converter.start()
    os.kill(pid(), signal.SIGSTOP)
    return pid()


def meanwhile(monkeypatch, action):
    """Does something while a conversion runs, not while its model is traced."""
    run = converter.run

    def run_and_act(folder):
        threading.Timer(0.5, action).start()
        return run(folder)

    monkeypatch.setattr(converter, "run", run_and_act)


def left_in(folder):
    """What is in a folder; TensorFlow's tracing puts files there that it removes."""
    return [p.name for p in folder.iterdir() if not p.name.startswith("__autograph")]


def gone(number, seconds=0.0):
    """Whether a process has ended, and nobody is to wait for it either."""
    end = time.monotonic() + seconds
    while True:
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.02)


def test_one_process_serves_many_conversions(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model, data = nets.cnn(), nets.images()
    first = nets.converted(model, "int8", data)
    number = pid()
    nets.converted(nets.two_inputs(), "none")
    assert nets.converted(model, "int8", data) == first
    assert pid() == number
    assert left_in(tmp_path) == []


def test_a_crash_is_survived_and_names_the_loops_and_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = nets.cnn()
    before = nets.converted(model, "int8", nets.images())
    number = pid()
    with pytest.raises(ValueError) as caught:
        nets.converted(rolled(), "int8", sequences())
    message = str(caught.value)
    for words in (
        "crashed with signal 11 (Segmentation fault) while it was calibrating",
        "on sample 1 of 4 (model 'net', quantization='int8')",
        "loops, which it crashes on: layer 'backward_inner', layer 'forward_inner'",
        "unroll=True",
        "quantization='none'",
    ):
        assert words in message
    assert gone(number)
    assert left_in(tmp_path) == []
    assert nets.converted(model, "int8", nets.images()) == before


@keras.saving.register_keras_serializable("test_converter")
class Repeated(L.Layer):
    """A loop that nothing in its configuration tells of."""

    def call(self, inputs):
        step = lambda i, x: (i + 1, keras.ops.tanh(x) + inputs)  # noqa: E731
        return keras.ops.while_loop(lambda i, x: i < 3, step, (0, inputs))[1]


def test_loops_of_the_users_own_are_named(tmp_path):
    model = keras.Sequential([L.Input((4,)), L.Dense(4), Repeated(name="my_loop")])
    data = np.random.default_rng(0).random((8, 4), dtype="float32")
    with pytest.raises(ValueError, match="layer 'my_loop'.*while_loop.*one step after"):
        export(model, tmp_path / "m.tflite", "android", "int8", data)
    assert list(tmp_path.iterdir()) == []
    report = export(model, tmp_path / "m.tflite", "android", "dynamic", data)
    assert report.operators["WHILE"] == 1


def test_a_process_that_hangs_is_ended(monkeypatch):
    number = stopped()
    monkeypatch.setattr(converter, "STEP_SECONDS", 0.5)
    with pytest.raises(
        ValueError, match="did not finish within 0.5 s while it was sta"
    ):
        nets.converted(nets.cnn(), "none")
    assert gone(number)


def test_a_process_that_ended_meanwhile_is_replaced():
    converter.start()
    number = pid()
    os.kill(number, signal.SIGKILL)
    nets.converted(nets.cnn(), "none")
    assert gone(number)
    assert pid() != number


def test_lack_of_memory_is_told(monkeypatch):
    number = stopped()
    meanwhile(monkeypatch, lambda: os.kill(number, signal.SIGKILL))
    with pytest.raises(ValueError, match="signal 9 .Killed.*take too much memory"):
        nets.converted(nets.cnn(), "none")


def test_an_interrupted_conversion_leaves_no_process_behind(monkeypatch):
    number = stopped()
    meanwhile(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGINT))
    # In the background of a shell, Ctrl-C is ignored.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            nets.converted(nets.cnn(), "none")
    finally:
        signal.signal(signal.SIGINT, former)
    assert gone(number)


def test_a_process_that_cannot_start_tells_why(monkeypatch):
    converter._end()
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(ValueError, match="(?s)exit code 1 while it was starting.*enco"):
        nets.converted(nets.cnn(), "none")


def test_threads_take_turns():
    models = [nets.cnn(), nets.two_inputs()]
    expected = [nets.converted(model, "none") for model in models]
    found = [None] * 4

    def work(index):
        found[index] = nets.converted(models[index % 2], "none")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(found))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected * 2


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_no_part_in_it():
    model = nets.cnn()
    expected = nets.converted(model, "none")
    number = pid()
    pipes = [p.fileno() for p in (converter._worker._jobs, converter._worker._answers)]
    child = os.fork()
    if child == 0:
        code = 0 if converter._worker is None else 1
        for pipe in pipes:
            try:
                os.fstat(pipe)
                code = 2
            except OSError as error:
                code = code if error.errno == errno.EBADF else 3
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert nets.converted(model, "none") == expected
    assert pid() == number


SCRIPT = """
    import os, pathlib, sys, tempfile
    from kprune.export import converter

    print("main")
    folder = pathlib.Path(sys.argv[1])
    if sys.argv[2] == "hanging":
        os.mkfifo(folder / "settings.json")  # Nobody writes into it.
    converter.start()
    print(converter._worker.process.pid, flush=True)
    outcome = converter.run(folder)
    print(outcome.kind, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["itself", "hanging"])
def test_it_ends_with_the_process_that_started_it(tmp_path, ending):
    script = tmp_path / "user.py"
    script.write_text(textwrap.dedent(SCRIPT))
    user = subprocess.Popen(
        [sys.executable, script, tmp_path, ending], stdout=subprocess.PIPE, text=True
    )
    with user:
        assert user.stdout.readline() == "main\n"
        number = int(user.stdout.readline())
        if ending == "hanging":
            end = time.monotonic() + 60
            while not (tmp_path / "printed.txt").exists():  # It is in the job.
                assert time.monotonic() < end
                time.sleep(0.05)
            time.sleep(0.2)
            assert not gone(number)
            user.kill()
        else:
            # There is no job in the folder. And nothing was run a second time.
            assert user.stdout.read() == "failed\n"
    assert gone(number, 20)
