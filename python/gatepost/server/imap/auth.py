"""Commands about the session itself: capabilities, TLS, login, ID, ENABLE, LOGOUT (RFC 3501 6.1-6.2, RFC 2971, 4959, 5161)."""

import base64
from typing import TYPE_CHECKING

from gatepost import __version__
from gatepost.protocol.imap import commands as c
from gatepost.protocol.imap.cursor import ParseError
from gatepost.protocol.imap.parse import decode_base64
from gatepost.protocol.imap.responses import untagged
from gatepost.server.access.login import Challenge, LoggedIn, Refused, SaslLogin, check_password, mechanisms, plain_text_allowed
from gatepost.server.imap.outcome import Refused as No

if TYPE_CHECKING:
    from gatepost.server.imap.connection import ImapConnection

BASE = (
    "IMAP4rev1 LITERAL+ SASL-IR ID ENABLE IDLE NAMESPACE CHILDREN UNSELECT UIDPLUS MOVE ESEARCH SPECIAL-USE CREATE-SPECIAL-USE "
    "LIST-EXTENDED LIST-STATUS STATUS=SIZE"
)
"""Each is complete; docs/mail-clients.md says what each is."""


def append_limit(session: "ImapConnection") -> int:
    """Largest message that APPEND takes (RFC 7889)."""
    settings = session.server.context.settings()
    return min(settings.mail.max_literal_bytes, settings.smtp.max_message_bytes)


def capabilities(session: "ImapConnection") -> str:
    """What holds in the present state; login mechanisms and STARTTLS only before login (RFC 3501 6.2.1)."""
    words = [BASE, f"APPENDLIMIT={append_limit(session)}"]
    if session.state is c.State.NOT_AUTHENTICATED:
        context = session.server.context
        words += [] if session.tls else ["STARTTLS"]
        words += [] if plain_text_allowed(context, tls=session.tls) else ["LOGINDISABLED"]
        words += [f"AUTH={name}" for name in mechanisms(context, tls=session.tls)]
    return " ".join(words)


async def capability(session: "ImapConnection", _command: c.Command) -> str:
    """CAPABILITY."""
    session.write(untagged(f"CAPABILITY {capabilities(session)}"))
    return "CAPABILITY completed"


async def noop(_session: "ImapConnection", _command: c.Command) -> str:
    """NOOP: changes are told before the answer, as after any command."""
    return "NOOP completed"


async def logout(session: "ImapConnection", command: c.Command) -> None:
    """LOGOUT."""
    session.farewell("Logging out")
    session.answer(command.tag, "OK", "LOGOUT completed")
    session.close()


async def identify(session: "ImapConnection", _command: c.Id) -> str:
    """ID: both sides say who they are; nothing depends on it."""
    session.write(untagged(f'ID ("name" "Gatepost" "version" "{__version__}")'))
    return "ID completed"


async def enable(session: "ImapConnection", _command: c.Enable) -> str:
    """ENABLE: no extension of ours changes anything when enabled, so nothing is."""
    session.write(untagged("ENABLED"))
    return "ENABLE completed"


async def starttls(session: "ImapConnection", command: c.Command) -> None:
    """STARTTLS. What the client pipelined behind it in the clear is thrown away."""
    if session.tls:
        raise No("TLS is active already")
    await session.start_tls(f"{command.tag} OK Begin TLS negotiation\r\n".encode())
    session.receiver.discard_buffered()


async def login(session: "ImapConnection", command: c.Login) -> str | None:
    """LOGIN."""
    if not plain_text_allowed(session.server.context, tls=session.tls):
        raise No("[PRIVACYREQUIRED] Plain-text login needs TLS")
    outcome = await check_password(session.server.context, command.user, command.password, session.client)
    return _settle(session, command.tag, outcome)


async def authenticate(session: "ImapConnection", command: c.Authenticate) -> str | None:
    """AUTHENTICATE: the exchange goes on with `sasl_line`."""
    context = session.server.context
    if command.mechanism not in mechanisms(context, tls=session.tls):
        raise No("[CANNOT] Mechanism not available")
    session.sasl = SaslLogin(context, command.mechanism, tls=session.tls, client=session.client)
    session.sasl_tag = command.tag
    return await _step(session, command.initial)


async def sasl_line(session: "ImapConnection", line: bytes) -> None:
    """The client's answer to a challenge."""
    tag = session.sasl_tag
    try:
        if line == b"*":
            raise ParseError("Authentication cancelled")
        text = await _step(session, decode_base64(line))
    except ParseError as error:
        session.sasl = None
        session.answer(tag, "BAD", str(error))
    except No as refused:
        session.answer(tag, "NO", str(refused))
    else:
        if text is not None:
            session.answer(tag, "OK", text)


async def _step(session: "ImapConnection", response: bytes | None) -> str | None:
    assert session.sasl is not None
    outcome = await session.sasl.step(response)
    if isinstance(outcome, Challenge):
        session.write(challenge_line(outcome.data))
        session.receiver.expect_line()
        return None
    session.sasl = None
    return _settle(session, session.sasl_tag, outcome)


def challenge_line(data: bytes) -> bytes:
    """A continuation request that carries a challenge in base64."""
    return b"+ " + base64.b64encode(data) + b"\r\n"


def _settle(session: "ImapConnection", tag: str, outcome: LoggedIn | Refused | Challenge) -> str | None:
    """Enter AUTHENTICATED, or refuse and count."""
    context = session.server.context
    if isinstance(outcome, LoggedIn):
        session.user = outcome.user
        session.store_or_none = outcome.store
        session.receiver.limit = max(context.settings().mail.max_command_bytes, session.receiver.limit)
        session.restart_clock()
        session.server.log.info("login", protocol="imap", user=outcome.user, client=session.client, tls=session.tls)
        return f"[CAPABILITY {capabilities(session)}] Logged in"
    assert isinstance(outcome, Refused)
    session.failures += 1
    session.server.log.info("login refused", protocol="imap", client=session.client, reason=outcome.reason)
    text = f"[{'UNAVAILABLE' if outcome.temporary else 'AUTHENTICATIONFAILED'}] {outcome.reason}"
    if session.failures < context.settings().mail.max_failed_logins:
        raise No(text)
    session.answer(tag, "NO", text)
    session.farewell("Too many failed logins")
    session.close()
    return None
