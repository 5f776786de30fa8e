"""Running servers for the tests of IMAP."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.access import PLAIN, AccessHost, HostProcess


@pytest.fixture
def host(tmp_path: Path) -> Iterator[AccessHost]:
    """A fresh server that takes plain-text logins without TLS, too."""
    with AccessHost(tmp_path / "data", **PLAIN) as host:
        yield host


@pytest.fixture
def other(host: AccessHost) -> Iterator[HostProcess]:
    """A second process on the same volume, as another worker is."""
    with HostProcess(host.data, "w1") as other:
        yield other
