"""SASL mechanisms, server side (RFC 4422): PLAIN (RFC 4616), LOGIN (an expired draft some clients speak), SCRAM-SHA-256 (RFC 7677).

Made by Authenticator.sasl; the SMTP, POP3 and IMAP hosts carry the octets (without base64, which is theirs). Invariants: an exchange
ends with one Success or Failure and takes nothing after it; a response is at most MAX_RESPONSE octets; a step never raises.
SCRAM's server-final message is in Success.final: a protocol that cannot send data with success sends it as one more challenge, to
which the client answers with nothing. Channel binding is not offered, so 'n' and 'y' are taken and 'p' is refused (RFC 5802 6).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gatepost.directory import validation
from gatepost.directory.errors import InvalidValue
from gatepost.directory.scram import ClientFirst, ScramError, ScramServer, parse_client_first
from gatepost.directory.values import Credentials

if TYPE_CHECKING:
    from gatepost.directory.auth import Authenticator, AuthResult

MAX_RESPONSE = 4096
MALFORMED = "malformed SASL response"
NO_PROXY = "acting for another user is not supported"
BAD_LOGIN = "wrong user name or password"
TOO_MANY = "too many failures, try again later"


@dataclass(frozen=True, slots=True)
class Challenge:
    """Send this and come back with the client's response."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Success:
    """Who it is. `final`: octets the client must still see (SCRAM's server-final), b'' for none."""

    user: str
    final: bytes = b""


@dataclass(frozen=True, slots=True)
class Failure:
    """Not who it says, or not to be told now. `reason` is for the log."""

    reason: str
    temporary: bool = False


class Unavailable(Exception):
    """The check could not be made now; the text is fit for a log."""


Step = Challenge | Success | Failure
MAX_LOGIN = 320


def normalise_login(login: str) -> str:
    """A login as the directory spells it. What is no address stays a key nobody has: it is counted and checked like any other."""
    text = login[:MAX_LOGIN].encode("utf-8", "replace").decode()  # no surrogates: SQLite takes UTF-8 only
    try:
        return validation.user_address(text)
    except InvalidValue:
        return text.lower()


def same_login(one: str, other: str) -> bool:
    """Whether two spellings name one user: an authorization identity is taken when it is the user itself (RFC 4422 3.4.1)."""
    return normalise_login(one) == normalise_login(other)


class SaslExchange(ABC):
    """One authentication. `step(None)` asks for the first challenge when the client sent no initial response."""

    def __init__(self, authenticator: "Authenticator", client: str) -> None:
        self._authenticator = authenticator
        self._client = client
        self._over = False

    async def step(self, response: bytes | None) -> Step:
        """Take the client's response; what to do next."""
        if self._over:
            return Failure("the exchange is over")
        if response is not None and len(response) > MAX_RESPONSE:
            outcome: Step = Failure("SASL response too long")
        else:
            outcome = await self._step(response)
        self._over = not isinstance(outcome, Challenge)
        return outcome

    @abstractmethod
    async def _step(self, response: bytes | None) -> Step: ...

    async def _check(self, login: str, password: str) -> Step:
        return _outcome(await self._authenticator.verify_plain(login, password, self._client))


def _outcome(result: "AuthResult") -> Step:
    return Success(result.user) if result.user else Failure(result.reason, result.temporary)


class PlainExchange(SaslExchange):
    """RFC 4616: [authzid] NUL authcid NUL passwd."""

    async def _step(self, response: bytes | None) -> Step:
        if response is None:
            return Challenge(b"")
        try:
            authzid, login, password = response.decode("utf-8").split("\0")
        except ValueError:  # also UnicodeDecodeError
            return Failure(MALFORMED)
        if not login or not password:
            return Failure(MALFORMED)
        if authzid and not same_login(authzid, login):
            return Failure(NO_PROXY)
        return await self._check(login, password)


class LoginExchange(SaslExchange):
    """draft-murchison-sasl-login: user name, then password, each asked for."""

    _login: str | None = None

    async def _step(self, response: bytes | None) -> Step:
        if response is None:
            return Challenge(b"Username:")
        try:
            text = response.decode("utf-8")
        except UnicodeDecodeError:
            return Failure(MALFORMED)
        if not text or "\0" in text:
            return Failure(MALFORMED)
        if self._login is None:
            self._login = text
            return Challenge(b"Password:")
        return await self._check(self._login, text)


class ScramExchange(SaslExchange):
    """RFC 5802 with SHA-256; the messages are scram.py's matter, the keys come from the directory, a thread's work."""

    _server: ScramServer | None = None
    _found: Credentials | None = None

    async def _step(self, response: bytes | None) -> Step:
        if response is None:
            return Challenge(b"")
        try:
            text = response.decode("utf-8")
            if self._server is None or self._found is None:
                return await self._client_first(parse_client_first(text))
            return self._client_final(self._server, self._found, text)
        except (UnicodeDecodeError, ScramError) as error:
            return Failure(f"{BAD_LOGIN} ({error})")

    async def _client_first(self, first: ClientFirst) -> Step:
        if first.authzid and not same_login(first.authzid, first.user):
            return Failure(NO_PROXY)
        try:
            self._found, keys = await self._authenticator.run(self._authenticator.scram_credentials, first.user)
        except Unavailable as error:
            return Failure(str(error), temporary=True)
        self._server = ScramServer(first, keys)
        return Challenge(self._server.first.encode())

    def _client_final(self, server: ScramServer, found: Credentials, text: str) -> Step:
        if not self._authenticator.begin_attempt(found.address, self._client):
            return Failure(TOO_MANY, temporary=True)
        final = server.finish(text)
        if not found.enabled:
            return Failure(BAD_LOGIN)
        self._authenticator.succeed(found.address, self._client)
        return Success(found.address, final.encode())
