"""PipeTransport: routes of kind pipe. Each recipient's copy is the standard input of a program that the administrator allows.

Called by queue.scheduler. Rules come over the network, so a rule alone runs nothing: the program must stand in `pipe.programs` of the
settings. The program gets Return-Path and Delivered-To in front, lines end in LF, and the envelope is in its environment
(docs/delivery.md). Its exit code is the outcome (sysexits): 0 delivered, 75 deferred, others failed; what is killed, cannot be started or
is not allowed is deferred: that is our administrator's trouble and no reason to return mail. Never raises.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import chain

from gatepost.config import Settings
from gatepost.delivery.changes import Circle, RouteChanges
from gatepost.delivery.program import Limits, RunEnd, run
from gatepost.message.ids import format_message_id
from gatepost.native import CoreError, Reader
from gatepost.queue.transport import Deferred, Delivered, Failed, Job, JobRecipient, JobResult, Outcome
from gatepost.routing.model import Program

PIECE = 65_536
EX_TEMPFAIL = 75
SHELL_FAILED = (126, 127)
"""What the shell says of a program that cannot be executed or is not there."""
PATH = "/usr/local/bin:/usr/bin:/bin"
MAX_REASON = 300

_STATUS = {64: "5.3.5", 65: "5.6.0", 66: "5.2.0", 67: "5.1.1", 68: "5.1.2", 69: "5.3.0", 73: "5.2.0", 76: "5.5.0", 77: "5.7.1", 78: "5.3.5"}
"""Exit codes of sysexits.h as RFC 3463 codes; others are 5.3.0."""


class PipeTransport:
    """`open_message` gives a reader for a message id."""

    batch = 1

    def __init__(self, settings: Callable[[], Settings], open_message: Callable[[bytes], Reader], changes: RouteChanges) -> None:
        self._settings = settings
        self._open_message = open_message
        self._changes = changes

    async def deliver(self, destination: str, jobs: Sequence[Job]) -> Sequence[JobResult]:
        """One run for each recipient, one after another."""
        return [JobResult(tuple([await self._one(job, recipient) for recipient in job.recipients])) for job in jobs]

    async def close(self) -> None:
        """Nothing to close: runs end with their lanes."""

    async def _one(self, job: Job, recipient: JobRecipient) -> Outcome:
        program = recipient.route.program
        allowed = self._settings().pipe.programs
        if program is None or not program.argv or program.argv[0] not in allowed:
            name = program.argv[0] if program is not None and program.argv else ""
            return Deferred(f"the program {name!r} is not in pipe.programs of the settings", "4.7.0")
        try:
            reader = await asyncio.to_thread(self._edited, job, recipient)
        except Circle as error:
            return Failed(f"the message has been through the list {error} before", "5.4.6")
        except CoreError as error:
            return Deferred(f"the queued message cannot be read: {error}", "4.3.0")
        sender = self._changes.sender(job.reverse_path, recipient.route)
        front = f"Return-Path: <{sender}>\nDelivered-To: {recipient.address}\n".encode("utf-8", "replace")
        limits = Limits(program.seconds, program.memory_octets, program.output_octets)
        end = await run(program.argv, _environment(job, recipient, sender), _content(front, reader), limits)
        return _outcome(program, end)

    def _edited(self, job: Job, recipient: JobRecipient) -> Reader:
        reader = self._open_message(job.message_id)
        return reader.edited(self._changes.edits(reader, job, recipient.route)) if recipient.route.edits else reader


def _environment(job: Job, recipient: JobRecipient, sender: str) -> dict[str, str]:
    """All that the program gets. Control characters cannot be in an address; if they are, they become spaces."""
    local, _, domain = recipient.address.rpartition("@")
    origin = job.meta.origin
    named = {
        "SENDER": sender,
        "RECIPIENT": recipient.address,
        "ORIGINAL_RECIPIENT": recipient.orcpt.partition(";")[2] or recipient.address,
        "LOCAL_PART": local,
        "DOMAIN": domain,
        "MESSAGE_ID": format_message_id(job.message_id),
        "SIZE": str(job.size),
        "CLIENT_ADDRESS": origin.client_address,
        "AUTHENTICATED_USER": origin.user,
    }
    cleaned = {name: "".join(c if c.isprintable() else " " for c in value) for name, value in named.items()}
    return {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/", **cleaned}


async def _content(front: bytes, reader: Reader) -> AsyncIterator[bytes]:
    """The message with LF line ends."""
    yield front
    held = b""
    for piece in chain(iter(lambda: reader.read(PIECE), b""), (b"",)):
        text = held + piece
        held = b"\r" if piece and text.endswith(b"\r") else b""
        text = text[: len(text) - len(held)].replace(b"\r\n", b"\n")
        if text:
            yield text
            await asyncio.sleep(0)


def _outcome(program: Program, end: RunEnd) -> Outcome:
    name = program.argv[0]
    said = " ".join(end.output.decode("utf-8", "replace").split())[:MAX_REASON]
    words = f": {said}" if said else ""
    if end.code is None:
        return Deferred(f"{name} {end.fault}{words}", "4.3.0")
    if end.code == 0:
        return Delivered()
    if end.code == EX_TEMPFAIL or end.code in SHELL_FAILED:
        return Deferred(f"{name} ended with exit code {end.code}{words}", "4.3.0")
    return Failed(f"{name} ended with exit code {end.code}{words}", _STATUS.get(end.code, "5.3.0"))
