"""Fixtures for the tests of every folder. Loaded by tests/conftest.py."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.gatepost import Gatepost


@pytest.fixture
def gatepost_factory(tmp_path: Path) -> Iterator[Callable[..., Gatepost]]:
    """Makes running servers with the given settings, each in a directory of its own; ends them after the test.

    The directories have short names: a Unix socket's path has 107 octets at most.
    """
    with ExitStack() as stack:

        def make(**settings: Any) -> Gatepost:
            directory = tmp_path / f"s{len(list(tmp_path.iterdir()))}"
            directory.mkdir()
            return stack.enter_context(Gatepost(directory, **settings))

        yield make


@pytest.fixture(scope="module")
def gatepost(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gatepost]:
    """One running server for all tests of a module, two workers, with alice and bob; tests must not depend on each other's mail."""
    with Gatepost(tmp_path_factory.mktemp("gatepost"), workers=2) as server:
        yield server
