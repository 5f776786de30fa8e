"""The running server keeps to the dialogs of tests/dialogs/imap-*.dialog."""

import asyncio
from pathlib import Path

import pytest

from support.access import AccessHost
from support.dialogs import Player, load

DIALOGS = sorted((Path(__file__).parents[2] / "dialogs").glob("imap-*.dialog"))


def test_there_are_dialogs() -> None:
    assert len(DIALOGS) >= 6


@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
async def test_the_server_keeps_to_the_dialog(path: Path, tmp_path: Path) -> None:
    dialog = load(path)
    plain = dialog.head.get("plaintext") != "no"
    with AccessHost(tmp_path / "data", mail={"require_tls_for_plaintext_auth": not plain}) as host:
        reader, writer = await asyncio.open_connection("127.0.0.1", host.ports["imap"])
        await Player(dialog, reader, writer).play(lambda: 0)
        writer.close()
