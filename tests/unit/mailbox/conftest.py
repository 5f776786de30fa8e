"""A spool and a volume of our own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gatepost.native import Spool, Store


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """An empty partition."""
    partition = Spool(str(tmp_path / "spool"))
    yield partition
    partition.close()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Where the volume is."""
    return tmp_path / "volume"


@pytest.fixture
def store(volume: Path) -> Iterator[Store]:
    """An empty volume."""
    opened = Store(str(volume), stream="w0")
    yield opened
    opened.close()
