"""Tools that are no Python packages, such as compilers and a browser."""

import os

import pytest


def need(what, there):
    """Fails or skips a test whose tool, a Debian package, is not installed."""
    if there:
        return
    missing = f"{what} is not installed: apt-get install it"
    if os.environ.get("KPRUNE_REQUIRE_TOOLS"):
        pytest.fail(missing)
    pytest.skip(missing)
