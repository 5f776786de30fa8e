"""Real directories in real files."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gatepost.directory import Directory
from gatepost.routing.model import DomainRule, RuleKind


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "directory.db"


@pytest.fixture
def directory(path: Path) -> Iterator[Directory]:
    """An empty directory."""
    made = Directory(path, migrate=True)
    yield made
    made.close()


@pytest.fixture
def hosting(directory: Directory) -> Directory:
    """A directory that hosts example.test, without users."""
    directory.put_rule(DomainRule("example.test", RuleKind.HOSTED), create=True, author="set-up")
    return directory
