"""One mail transaction over an open session (RFC 5321 3.3, RFC 2920, RFC 3461, RFC 2033): envelope, data, one outcome per recipient.

Called by smtp.py. Invariants: the message is streamed, at most a few 64 KiB pieces are in memory; a recipient counts as delivered
only after the peer's 2yz to the end of data. After an exception (ConnectionLost, PeerTimeout, ProtocolViolation, CoreError) the
session must be dropped; `Progress` then tells whether anything of the message may have arrived.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gatepost.config.settings import Delivery
from gatepost.delivery.peer_reply import PeerReply, ProtocolViolation
from gatepost.delivery.smtp_connection import ConnectionLost
from gatepost.delivery.smtp_session import Session
from gatepost.delivery.xtext import encode_orcpt, encode_xtext
from gatepost.message.envelope import Meta, Notify
from gatepost.native import Reader
from gatepost.queue.transport import Deferred, Delivered, Failed, JobRecipient, Outcome

CHUNK = 65536
END = b"\r\n.\r\n"


@dataclass(frozen=True, slots=True)
class Letter:
    """What is sent in one transaction. `sender` and `addresses` are in the form that goes on the wire."""

    sender: str
    meta: Meta
    size: int
    utf8: bool
    recipients: Sequence[JobRecipient]
    addresses: Sequence[str]


@dataclass(slots=True)
class Progress:
    """How far a transaction came: whether the peer has answered MAIL, and whether message data were sent."""

    answered: bool = False
    data_sent: bool = False


def no_ahead() -> bytes:
    """Nothing is to be sent behind the data."""
    return b""


def envelope_octets(session: Session, letter: Letter) -> bytes:
    """MAIL, RCPT … and DATA as one group (RFC 2920 3.1)."""
    return ("\r\n".join(_commands(session, letter)) + "\r\n").encode()


async def transact(
    session: Session,
    letter: Letter,
    reader: Reader,
    limits: Delivery,
    progress: Progress,
    *,
    sent: bool = False,
    ahead: Callable[[], bytes] = no_ahead,
) -> list[Outcome]:
    """Carry the transaction out; outcomes in the order of letter.recipients.

    With PIPELINING the end of the data and the next transaction's envelope may share a packet (RFC 2920 3.1): `ahead` is asked for
    that envelope when a short message is written, and the transaction that follows is told that it was `sent`.
    """
    if "PIPELINING" in session.capabilities:
        if not sent:
            session.connection.write(envelope_octets(session, letter))
        count = len(letter.recipients) + (3 if session.needs_reset else 2)
        replies = await session.connection.replies(count, limits.command_seconds, "MAIL, RCPT, DATA")
    else:
        replies = await _one_by_one(session, _commands(session, letter), limits)
    if (session.needs_reset and not 200 <= replies.pop(0).code < 300) or not replies:
        raise session.connection.lost or ConnectionLost("the peer refused RSET")
    progress.answered = replies[0].code != 421
    mail, *rcpts = replies[: len(letter.recipients) + 1]
    data = replies[len(letter.recipients) + 1] if len(replies) > len(letter.recipients) + 1 else None
    session.needs_reset = True
    outcomes: list[Outcome | None] = _envelope_outcomes(session, mail, rcpts, len(letter.recipients))
    accepted = [place for place, outcome in enumerate(outcomes) if outcome is None]
    if data is not None and data.code == 354:
        await _data(session, outcomes, accepted, _Content(reader, limits, progress, ahead))
    else:
        for place in accepted:
            outcomes[place] = judge(session, data, "DATA") if data else _lost(session)
    return [outcome if outcome is not None else _lost(session) for outcome in outcomes]


# ---- envelope


def _commands(session: Session, letter: Letter) -> list[str]:
    capabilities = session.capabilities
    dsn = "DSN" in capabilities
    lines = ["RSET"] if session.needs_reset else []
    lines.append(_mail(letter, capabilities, dsn))
    for recipient, address in zip(letter.recipients, letter.addresses, strict=True):
        lines.append(_rcpt(recipient, address, letter.utf8) if dsn else f"RCPT TO:<{address}>")
    lines.append("DATA")
    return lines


def _mail(letter: Letter, capabilities: dict[str, str], dsn: bool) -> str:
    line = f"MAIL FROM:<{letter.sender}>"
    meta = letter.meta
    if "SIZE" in capabilities:
        line += f" SIZE={letter.size}"
    if meta.body != "7BIT" and "8BITMIME" in capabilities:
        line += " BODY=8BITMIME"
    if letter.utf8:
        line += " SMTPUTF8"
    if dsn and meta.ret:
        line += f" RET={meta.ret}"
    if dsn and meta.envid:
        line += f" ENVID={encode_xtext(meta.envid)}"
    return line


def _rcpt(recipient: JobRecipient, address: str, utf8: bool) -> str:
    line = f"RCPT TO:<{address}>"
    if not recipient.notify:
        pass
    elif recipient.notify & Notify.NEVER:
        line += " NOTIFY=NEVER"
    else:
        names = [flag.name for flag in (Notify.SUCCESS, Notify.FAILURE, Notify.DELAY) if flag in recipient.notify]
        line += f" NOTIFY={','.join(name for name in names if name)}"
    if recipient.orcpt:
        line += f" ORCPT={encode_orcpt(recipient.orcpt, utf8)}"
    return line


async def _one_by_one(session: Session, commands: list[str], limits: Delivery) -> list[PeerReply]:
    """Without PIPELINING: stop behind a refused MAIL, and do not say DATA when no recipient was taken."""
    first = 1 if session.needs_reset else 0
    replies: list[PeerReply] = []
    for place, command in enumerate(commands):
        last = place == len(commands) - 1
        if last and not any(200 <= reply.code < 300 for reply in replies[first + 1 :]):
            break
        session.connection.write(f"{command}\r\n".encode())
        what = command[:4]
        replies += await session.connection.replies(1, limits.data_seconds if last else limits.command_seconds, what)
        if place == first and not 200 <= replies[-1].code < 300:
            break
    return replies


def _envelope_outcomes(session: Session, mail: PeerReply, rcpts: Sequence[PeerReply], count: int) -> list[Outcome | None]:
    """None = accepted so far."""
    if not 200 <= mail.code < 300:
        return [judge(session, mail, "MAIL")] * count
    outcomes: list[Outcome | None] = []
    for reply in rcpts:
        if 200 <= reply.code < 300:
            outcomes.append(None)
        elif reply.code == 552 and count > 1:
            # RFC 5321 4.5.3.1.10: 552 to RCPT is an old way to say 452, too many recipients.
            outcomes.append(Deferred(_words(session, reply, "RCPT"), "4.5.3", session.remote(reply, "RCPT")))
        else:
            outcomes.append(judge(session, reply, "RCPT"))
    if len(outcomes) < count:
        outcomes += [_lost(session)] * (count - len(outcomes))
    return outcomes


# ---- data


@dataclass(frozen=True, slots=True)
class _Content:
    """What _data sends, and how."""

    reader: Reader
    limits: Delivery
    progress: Progress
    ahead: Callable[[], bytes]


async def _data(session: Session, outcomes: list[Outcome | None], accepted: list[int], content: _Content) -> None:
    limits = content.limits
    connection = session.connection
    if not accepted:
        # RFC 2920 3.1: every recipient was refused, yet the peer waits for data: give it none.
        if session.lmtp:
            raise ProtocolViolation("the peer accepts DATA without a recipient")
        connection.write(b".\r\n")
        await connection.replies(1, limits.data_seconds, "the end of data")
        return
    content.progress.data_sent = True
    await _stream(session, content)
    wanted = len(accepted) if session.lmtp else 1
    replies = await connection.replies(wanted, limits.data_seconds, "the end of data")
    session.needs_reset = False
    dsn = "DSN" in session.capabilities
    for number, place in enumerate(accepted):
        if session.lmtp and number >= len(replies):
            outcomes[place] = _lost(session)
            continue
        outcomes[place] = judge(session, replies[number if session.lmtp else 0], "end of data", dsn)


async def _stream(session: Session, content: _Content) -> None:
    connection, reader, limits = session.connection, content.reader, content.limits
    chunk = reader.read_dotted(CHUNK)  # the first piece is most often the whole message and in the page cache
    if len(chunk) < CHUNK and chunk.endswith(END):
        connection.write(chunk + content.ahead())
        return
    connection.write(chunk)
    loop = asyncio.get_running_loop()
    while chunk and connection.lost is None:
        await connection.drain(limits.data_seconds)
        chunk = await loop.run_in_executor(None, reader.read_dotted, CHUNK)
        connection.write(chunk)


# ---- outcomes


def judge(session: Session, reply: PeerReply, command: str, relayed_dsn: bool = False) -> Outcome:
    """The peer's reply as an outcome: 2yz delivered, 5yz failed, 421 destination down, everything else deferred (RFC 5321 4.2.1)."""
    remote = session.remote(reply, command)
    if 200 <= reply.code < 300:
        return Delivered(remote, relayed_dsn)
    if 500 <= reply.code < 600:
        enhanced = reply.enhanced if reply.enhanced.startswith("5") else "5.0.0"
        return Failed(_words(session, reply, command), enhanced, remote)
    enhanced = reply.enhanced if reply.enhanced.startswith("4") else "4.0.0"
    return Deferred(_words(session, reply, command), enhanced, remote, destination_down=reply.code == 421)


def _words(session: Session, reply: PeerReply, command: str) -> str:
    enhanced = f"{reply.enhanced} " if reply.enhanced else ""
    return f"{session.name} said: {reply.code} {enhanced}{reply.text} (in reply to {command})"


def _lost(session: Session) -> Deferred:
    return Deferred(f"{session.name}: {session.connection.lost or ConnectionLost('no reply')}", "4.4.2")
