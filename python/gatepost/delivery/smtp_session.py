"""Opening a session with an SMTP or LMTP peer: connect, greeting, EHLO, TLS, AUTH. Gives a Session ready for MAIL FROM.

Called by smtp.py for each candidate address in turn. Invariants: every step has a deadline; with TLS required nothing but EHLO and
STARTTLS is sent in the clear; credentials travel under TLS or over loopback only. Fails with HostUnusable: try the next address.
"""

import asyncio
import base64
import ipaddress
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from gatepost.config.settings import Delivery
from gatepost.delivery.peer_reply import PeerReply, ProtocolViolation
from gatepost.delivery.smtp_connection import ConnectionLost, PeerTimeout, SmtpConnection
from gatepost.delivery.tls import ClientTls, public_key_digest
from gatepost.message.reply import RemoteReply
from gatepost.native import Relay
from gatepost.routing.model import TlsPolicy

MAX_CAPABILITIES = 100


class HostUnusable(Exception):
    """This host takes no mail from us now. `enhanced` is a 4.x.x code; `reply` what it said, if it said anything."""

    def __init__(self, reason: str, enhanced: str = "4.4.1", reply: RemoteReply | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.enhanced = enhanced
        self.reply = reply


class TlsHandshakeFailed(HostUnusable):
    """The handshake failed; opportunistic delivery may go on without TLS, on a new connection."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Where we connect: the name by which the host was found, one of its addresses, the port."""

    host: str
    address: str
    port: int

    def __str__(self) -> str:
        """'name[address]:port', the form of RemoteReply.host."""
        return f"{self.host}[{self.address}]:{self.port}"

    @property
    def loopback(self) -> bool:
        """True when octets to it never leave this machine."""
        return ipaddress.ip_address(self.address.partition("%")[0]).is_loopback


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """What the route and the settings ask of a session."""

    helo: str
    tls: TlsPolicy
    implicit_tls: bool
    lmtp: bool
    limits: Delivery
    username: str = ""
    password: Callable[[], str] | None = None
    source_address: str = ""
    pins: tuple[str, ...] = ()
    most: int = 100


@dataclass(slots=True)
class Session:
    """An open session. `tls` is '' on a plain one; `capabilities` are EHLO keywords, upper-case, with their parameters."""

    connection: SmtpConnection
    peer: Peer
    name: str
    lmtp: bool
    tls: str = ""
    capabilities: dict[str, str] = field(default_factory=dict)
    most: int = 100
    """Messages before it is closed."""
    deliveries: int = 0
    needs_reset: bool = False
    relay: Relay | None = None

    def remote(self, reply: PeerReply, command: str) -> RemoteReply:
        """The peer's words as the value that outcomes carry."""
        return RemoteReply(reply.code, reply.enhanced, reply.text, self.name, command)


async def open_session(peer: Peer, plan: SessionPlan, tls: ClientTls) -> Session:
    """Connect and get ready for MAIL. Raises HostUnusable (or TlsHandshakeFailed)."""
    try:
        session = await _connect(peer, plan, tls)
    except OSError as error:
        raise HostUnusable(f"connect to {peer}: {_os_text(error)}") from error
    try:
        await _prepare(session, plan, tls)
    except (ConnectionLost, PeerTimeout, ProtocolViolation) as error:
        session.connection.abort()
        raise HostUnusable(f"{peer}: {error}", "4.4.2") from error
    except BaseException:
        session.connection.abort()
        raise
    return session


async def _connect(peer: Peer, plan: SessionPlan, tls: ClientTls) -> Session:
    loop = asyncio.get_running_loop()
    source = (plan.source_address, 0) if plan.source_address else None
    try:
        async with asyncio.timeout(plan.limits.connect_seconds):
            _, connection = await loop.create_connection(SmtpConnection, peer.address, peer.port, local_addr=source)
    except TimeoutError as error:
        raise HostUnusable(f"connect to {peer}: timed out") from error
    session = Session(connection, peer, str(peer), plan.lmtp, most=plan.most)
    if plan.implicit_tls:
        try:
            await _handshake(session, plan, tls)
        except BaseException:
            connection.abort()
            raise
    return session


async def _prepare(session: Session, plan: SessionPlan, tls: ClientTls) -> None:
    greeting = (await session.connection.replies(1, plan.limits.connect_seconds, "the connection (greeting)"))[0]
    if greeting.code != 220:
        raise _refused(session, greeting, "connect")
    await _hello(session, plan)
    if plan.tls is not TlsPolicy.NONE and not session.tls:
        await _start_tls(session, plan, tls)
    if plan.username:
        await _authenticate(session, plan)


async def _hello(session: Session, plan: SessionPlan) -> None:
    verb = "LHLO" if plan.lmtp else "EHLO"
    reply = await _ask(session, f"{verb} {plan.helo}", plan)
    if reply.code == 250:
        session.capabilities = _capabilities(reply)
        return
    if 400 <= reply.code < 500 or plan.lmtp:
        raise _refused(session, reply, verb)
    # RFC 5321 3.2: a server that does not know EHLO may still take mail after HELO.
    reply = await _ask(session, f"HELO {plan.helo}", plan)
    if reply.code != 250:
        raise _refused(session, reply, "HELO")
    session.capabilities = {}


def _capabilities(reply: PeerReply) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in reply.lines[1:MAX_CAPABILITIES]:
        keyword, _, rest = line.strip().partition(" ")
        if keyword.upper().startswith("AUTH="):  # the form of a draft, still spoken by old servers
            keyword, rest = "AUTH", f"{keyword[5:]} {rest}"
        found.setdefault(keyword.upper(), rest.strip())
    return found


async def _start_tls(session: Session, plan: SessionPlan, tls: ClientTls) -> None:
    must = plan.tls is not TlsPolicy.OPPORTUNISTIC
    if "STARTTLS" not in session.capabilities:
        if must:
            session.connection.quit()
            raise HostUnusable(f"{session.name}: TLS is required but STARTTLS is not offered", "4.7.4")
        return
    reply = await _ask(session, "STARTTLS", plan)
    if reply.code != 220:
        if must or reply.code == 421:
            raise _refused(session, reply, "STARTTLS")
        return
    await _handshake(session, plan, tls)
    await _hello(session, plan)  # RFC 3207 4.2: what was learnt in the clear is forgotten


async def _handshake(session: Session, plan: SessionPlan, tls: ClientTls) -> None:
    verified = plan.tls is TlsPolicy.VERIFIED
    try:
        context = tls.context(verified)
        session.tls = await session.connection.start_tls(context, session.peer.host, plan.limits.connect_seconds)
    except ssl.SSLCertVerificationError as error:
        raise HostUnusable(f"{session.name}: certificate not accepted: {error.verify_message or error}", "4.7.5") from error
    except (OSError, ConnectionLost, PeerTimeout) as error:
        raise TlsHandshakeFailed(f"{session.name}: TLS handshake failed: {_os_text(error)}", "4.7.5") from error
    if plan.tls is TlsPolicy.PINNED and public_key_digest(session.connection.certificate) not in plan.pins:
        raise HostUnusable(f"{session.name}: its public key is none of those that the rule names", "4.7.5")


async def _authenticate(session: Session, plan: SessionPlan) -> None:
    if not session.tls and not session.peer.loopback:
        raise HostUnusable(f"{session.name}: credentials are not sent without TLS", "4.7.11")
    offered = session.capabilities.get("AUTH", "").upper().split()
    try:
        # The password may come from a file: not on the loop.
        password = await asyncio.to_thread(plan.password) if plan.password is not None else ""
    except (OSError, LookupError, ValueError) as error:
        raise HostUnusable(f"{session.name}: no password for {plan.username}: {error}", "4.7.8") from error
    if "PLAIN" in offered:
        token = base64.b64encode(f"\0{plan.username}\0{password}".encode()).decode()
        reply = await _ask(session, f"AUTH PLAIN {token}", plan, "AUTH PLAIN")
    elif "LOGIN" in offered:
        reply = await _login(session, plan, password)
    else:
        raise HostUnusable(f"{session.name}: offers neither AUTH PLAIN nor AUTH LOGIN", "4.7.4")
    if reply.code != 235:
        # A wrong password is our administrator's mistake, not the sender's: the mail waits, whatever the class of the reply.
        raise _refused(session, reply, "AUTH", "4.7.8")


async def _login(session: Session, plan: SessionPlan, password: str) -> PeerReply:
    reply = await _ask(session, "AUTH LOGIN", plan)
    for answer in (plan.username, password):
        if reply.code != 334:
            return reply
        reply = await _ask(session, base64.b64encode(answer.encode()).decode(), plan, "AUTH LOGIN")
    return reply


async def _ask(session: Session, line: str, plan: SessionPlan, what: str = "") -> PeerReply:
    session.connection.write(f"{line}\r\n".encode())
    return (await session.connection.replies(1, plan.limits.command_seconds, what or line))[0]


def _refused(session: Session, reply: PeerReply, command: str, enhanced: str = "4.3.2") -> HostUnusable:
    """A refused session is always temporary for the mail: the fault lies with the host, or with us, not with the message."""
    remote = session.remote(reply, command)
    session.connection.quit()
    words = f"{reply.code} {reply.enhanced} {reply.text}".replace("  ", " ")
    return HostUnusable(f"{session.name} refused {command}: {words}", enhanced, remote)


def _os_text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
