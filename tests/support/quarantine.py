"""Mail in quarantine without a scanner: committed into a partition as reception commits it, while no server has it open."""

import select
from collections.abc import Sequence
from pathlib import Path

from gatepost.message.envelope import Meta, Origin
from gatepost.message.verdict import QUARANTINE, Action, Answer, Finding, Verdict
from gatepost.native import Spool
from gatepost.routing.model import Route, RouteKind

INFECTED = Verdict(
    Action.QUARANTINE,
    "default",
    "infected",
    "a virus was found",
    (Finding("a.zip / b.exe", "executable", Action.QUARANTINE),),
    (Answer("clamd", "infected", "Eicar"),),
    1_700_000_000.0,
)
PROGRAM = Verdict(
    Action.QUARANTINE,
    "default",
    "program",
    "programs are not taken",
    (Finding("setup.exe", "executable", Action.QUARANTINE),),
    (),
    1_700_000_000.0,
)


def fill(
    partition: Path,
    count: int,
    recipients: Sequence[str],
    *,
    verdict: Verdict = PROGRAM,
    destination: str = QUARANTINE,
    sender: str = "mallory@evil.test",
    subject: str = "your invoice",
) -> list[str]:
    """Messages in quarantine for these recipients; their ids, in hexadecimal digits."""
    spool = Spool(str(partition), segment_bytes=16 << 20)
    meta = Meta(Origin("ESMTP", "192.0.2.9", 4711, "evil.test", listener="smtp"), rule_version=1, verdict=verdict).encode()
    specs = [
        (address, "", destination, 0, Route(RouteKind.SMTP, address, host="127.0.0.1", port=9).encode(), 1, True) for address in recipients
    ]
    ids = []
    for ticket in range(1, count + 1):
        message = spool.receive(prefix=b"Received: from evil.test\r\n", max_bytes=0)
        message.feed_raw(f"From: Mallory <{sender}>\r\nSubject: {subject} {ticket}\r\n\r\nbody\r\n".encode())
        message.finish()
        ids.append(message.message_id.hex())
        spool.commit(ticket, message, sender, specs, meta)
    done = 0
    while done < count:
        select.select([spool.event_fd], [], [], 1)
        done += len(spool.completions()[0])
    spool.close()
    return ids
