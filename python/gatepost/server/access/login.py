"""Logging a POP3 or IMAP client in: passwords and SASL mechanisms, then the user's mailbox.

Used by both sessions. Which mechanisms exist and how often a client may fail is the Authenticator's business; here is what the
two protocols share: plain-text logins need TLS, a SCRAM server's last word travels as one more challenge (RFC 4422 4.1: these
profiles have no room for data with success), and a login ends in a `MailStore`.
"""

from dataclasses import dataclass

from gatepost.directory import Challenge as SaslChallenge
from gatepost.directory import Failure as SaslFailure
from gatepost.native import CoreError
from gatepost.server.access.mailstore import MailStore
from gatepost.server.context import ServerContext

_PLAIN_TEXT = frozenset({"PLAIN", "LOGIN"})


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """Who it is, and the mailbox."""

    user: str
    store: MailStore


@dataclass(frozen=True, slots=True)
class Refused:
    """Not logged in. temporary: the fault is ours, or there were too many tries."""

    reason: str
    temporary: bool


@dataclass(frozen=True, slots=True)
class Challenge:
    """The SASL exchange goes on."""

    data: bytes


def plain_text_allowed(context: ServerContext, *, tls: bool) -> bool:
    """Whether passwords may travel as they are (RFC 8314 section 3.3: under TLS only, unless the settings say otherwise)."""
    return tls or not context.settings().mail.require_tls_for_plaintext_auth


def mechanisms(context: ServerContext, *, tls: bool) -> tuple[str, ...]:
    """SASL mechanisms to offer."""
    allowed = plain_text_allowed(context, tls=tls)
    offered = context.auth.mechanisms(allowed)
    return offered if allowed else tuple(name for name in offered if name not in _PLAIN_TEXT)


async def check_password(context: ServerContext, user: str, password: str, client: str) -> LoggedIn | Refused:
    """USER/PASS and LOGIN."""
    result = await context.auth.verify_plain(user, password, client)
    if not result.user:
        return Refused(result.reason.capitalize(), result.temporary)
    return await _open(context, result.user)


class SaslLogin:
    """One AUTH or AUTHENTICATE."""

    __slots__ = ("_context", "_exchange", "_user")

    def __init__(self, context: ServerContext, mechanism: str, *, tls: bool, client: str) -> None:
        self._context = context
        self._exchange = context.auth.sasl(mechanism, tls=plain_text_allowed(context, tls=tls), channel=client)
        self._user = ""

    async def step(self, response: bytes | None) -> LoggedIn | Refused | Challenge:
        """Take the client's response; None asks a mechanism without an initial response to begin."""
        if self._user:
            return await _open(self._context, self._user)
        outcome = await self._exchange.step(response)
        if isinstance(outcome, SaslChallenge):
            return Challenge(outcome.data)
        if isinstance(outcome, SaslFailure):
            return Refused(outcome.reason.capitalize(), outcome.temporary)
        if outcome.final:
            self._user = outcome.user
            return Challenge(outcome.final)
        return await _open(self._context, outcome.user)


async def _open(context: ServerContext, user: str) -> LoggedIn | Refused:
    try:
        store = MailStore(*context.volumes.mailbox(user))
        await store.ensure()
    except CoreError as error:
        context.log.error("mailbox cannot be opened", user=user, error=str(error))
        return Refused("Mailbox is not available", temporary=True)
    return LoggedIn(user, store)
