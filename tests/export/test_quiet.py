import logging
import os
import sys

import pytest

from kprune.export.quiet import captured_output


def test_both_streams_are_caught_past_python(capfd):
    with captured_output() as caught:
        print("from python")
        os.write(1, b"to descriptor 1\n")
        os.write(2, b"to descriptor 2\n")
        print("error", file=sys.stderr)
    assert capfd.readouterr() == ("", "")
    for words in ("from python", "to descriptor 1", "to descriptor 2", "error"):
        assert words in caught.text
    assert len(caught.tail(2).splitlines()) == 2


def test_output_is_restored_after_an_error(capfd):
    with pytest.raises(KeyError), captured_output() as caught:
        os.write(2, b"last words\n")
        raise KeyError
    os.write(2, b"afterwards\n")
    assert caught.tail() == "last words"
    assert capfd.readouterr().err == "afterwards\n"


def test_tensorflows_own_logger_only_warns_meanwhile():
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("tensorflow")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        with captured_output():
            logger.info("a saved model was written")
            logger.warning("something is wrong")
        logger.info("afterwards")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    assert said == ["something is wrong", "afterwards"]


def test_logging_that_is_set_up_meanwhile_does_not_stay():
    root = logging.getLogger()
    before = list(root.handlers)
    root.handlers.clear()
    try:
        with captured_output() as caught:
            logging.warning("something is wrong")
        assert "something is wrong" in caught.text
        assert root.handlers == []
    finally:
        root.handlers[:] = before
