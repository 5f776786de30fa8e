"""Running servers for the tests of IMAP."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.access import AccessHost

PLAIN = {"mail": {"require_tls_for_plaintext_auth": False}}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[AccessHost]:
    """A fresh server that takes plain-text logins without TLS, too."""
    with AccessHost(tmp_path / "data", **PLAIN) as host:
        yield host


@pytest.fixture
def other(host: AccessHost) -> Iterator[AccessHost]:
    """A second store on the same volume, as another worker has it."""
    with AccessHost(host.data, stream="w1", **PLAIN) as other:
        yield other
