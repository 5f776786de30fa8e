"""Every tests/dialogs/{smtp,lmtp}-*.dialog against a running server."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from support.dialogs import Player, load
from support.receiving import Receiver

FOLDER = Path(__file__).resolve().parents[2] / "dialogs"
FILES = sorted([*FOLDER.glob("smtp-*.dialog"), *FOLDER.glob("lmtp-*.dialog")])


def test_there_are_dialogs() -> None:
    assert len(FILES) >= 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_the_dialog_runs_as_written(path: Path, receive: Callable[..., Awaitable[Receiver]]) -> None:
    dialog = load(path)
    sections = json.loads(dialog.head.get("settings", "{}"))
    if dialog.head.get("trusted") == "yes":
        sections["trust"] = {"networks": ["127.0.0.0/8"]}
    listener = dialog.head.get("listener", "smtp")
    running = await receive(listener, **sections)
    client = await running.connect(tls=listener == "submissions")
    await Player(dialog, client.reader, client.writer).play(running.count)
    await client.close()
