"""A worker is killed in the middle of releasing quarantined mail: nothing is lost, nothing comes twice, and asking again finishes it.

Guards against: a recipient that is neither in quarantine nor on its way; a message that is released a second time. The quarantine is filled
without a server.
"""

import asyncio
import contextlib
import imaplib
import os
import random
import shutil
import signal
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from gatepost.client import ALL, GatepostClient, GatepostError
from support.gatepost import ALICE, PASSWORD, Gatepost
from support.processes import wait_until
from support.quarantine import fill

MESSAGES = 3_000
WAIT = 60

T = TypeVar("T")


@pytest.fixture
def server(tmp_path):
    with Gatepost(tmp_path, workers=1) as made:
        made.stop()
        shutil.rmtree(made.data / "spool" / "p0")
        fill(made.data / "spool" / "p0", MESSAGES, [ALICE])
        made.start()
        yield made


def ask(server: Gatepost, work: Callable[[GatepostClient], Awaitable[T]]) -> T:
    """Again until the worker answers."""

    async def body() -> T:
        async with asyncio.timeout(WAIT), GatepostClient(server.data) as client:
            return await work(client)

    end = time.monotonic() + WAIT
    while True:
        try:
            return asyncio.run(body())
        except GatepostError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def subjects(server: Gatepost) -> list[str]:
    """Of all mail in the mailbox."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with imaplib.IMAP4_SSL("127.0.0.1", server.port("imaps"), ssl_context=context) as imap:
        imap.login(ALICE, PASSWORD)
        imap.select()
        _, found = imap.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
        return [part[1].decode().strip() for part in found if isinstance(part, tuple)]


def test_a_release_that_is_cut_short_by_a_kill_loses_and_doubles_nothing(server):
    folder = server.data / "spool" / "p0" / "operations"
    (pid,) = server.worker_pids()

    def attempt() -> None:
        with contextlib.suppress(GatepostError):
            ask(server, lambda client: client.quarantine.release(ALL))

    thread = threading.Thread(target=attempt)
    thread.start()
    wait_until(lambda: list(folder.glob("*.json")), WAIT, "the operation is written down", 0.001)
    time.sleep(random.uniform(0, 0.15))
    os.kill(pid, signal.SIGKILL)
    thread.join(WAIT)
    assert not thread.is_alive()
    wait_until(lambda: server.worker_pids() not in ([pid], []), WAIT, "the worker is back")

    def left() -> int:
        return ask(server, lambda client: client.quarantine.release(ALL)).result.matched

    wait_until(lambda: left() == 0, WAIT, "nothing is in quarantine")
    wait_until(lambda: ask(server, lambda client: client.queue.stats()).total.messages == 0, WAIT, "the queue is empty")
    found = subjects(server)
    assert len(found) == len(set(found)) == MESSAGES
