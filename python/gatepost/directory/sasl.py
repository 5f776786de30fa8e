"""SASL mechanisms, server side (RFC 4422): PLAIN (RFC 4616), LOGIN (an expired draft some clients speak), SCRAM-SHA-256 (RFC 7677).

Made by Authenticator.sasl; the SMTP, POP3 and IMAP hosts carry the octets (without base64, which is theirs). Invariants: an exchange
ends with one Success or Failure and takes nothing after it; a response is at most MAX_RESPONSE octets; a step never raises.
SCRAM's server-final message is in Success.final: a protocol that cannot send data with success sends it as one more challenge, to
which the client answers with nothing. Channel binding is not offered, so 'n' and 'y' are taken and 'p' is refused (RFC 5802 6).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gatepost.directory.errors import DirectoryError
from gatepost.directory.values import Credentials

if TYPE_CHECKING:
    from gatepost.directory.auth import Authenticator, AuthResult

MAX_RESPONSE = 4096
MALFORMED = "malformed SASL response"


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


Step = Challenge | Success | Failure


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
        if authzid and authzid.lower() != login.lower():
            return Failure("acting for another user is not supported")
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
    """RFC 5802 with SHA-256 by scramp; the keys come from the directory, a thread's work."""

    _server: Any = None
    _found: Credentials | None = None
    _fault: DirectoryError | None = None
    """What the directory said: scramp hides what its call-back raises."""

    async def _step(self, response: bytes | None) -> Step:
        if response is None:
            return Challenge(b"")
        try:
            text = response.decode("utf-8")
        except UnicodeDecodeError:
            return Failure(MALFORMED)
        return await (self._client_first(text) if self._server is None else self._client_final(text))

    async def _client_first(self, text: str) -> Step:
        from gatepost.directory.auth import Unavailable

        try:
            return await self._authenticator.run(self._begin, text)
        except Unavailable as error:
            return Failure(str(error), temporary=True)

    def _begin(self, text: str) -> Step:
        """In a thread: read client-first, look the user up, make server-first."""
        from scramp import ScramException, ScramMechanism  # 0.15 s of import, for the first client that uses it

        server = ScramMechanism("SCRAM-SHA-256").make_server(self._keys)
        try:
            server.set_client_first(text)
            first = server.get_server_first()
        except ScramException as error:
            if self._fault is not None:
                raise self._fault from None
            return Failure(f"{MALFORMED}: {error}")
        self._server = server
        return Challenge(first.encode())

    def _keys(self, login: str) -> tuple[bytes, bytes, bytes, int]:
        try:
            self._found, keys = self._authenticator.scram_credentials(login)
        except DirectoryError as error:
            self._fault = error
            raise
        return keys.salt, keys.stored_key, keys.server_key, keys.iterations

    async def _client_final(self, text: str) -> Step:
        from scramp import ScramException

        from gatepost.directory.auth import BAD_LOGIN, TOO_MANY

        found = self._found
        if found is None or not self._authenticator.begin_attempt(found.address, self._client):
            return Failure(TOO_MANY, temporary=True)
        try:
            self._server.set_client_final(text)
            final = self._server.get_server_final()
        except ScramException as error:
            return Failure(f"{BAD_LOGIN} ({error})")
        if not found.enabled:
            return Failure(BAD_LOGIN)
        self._authenticator.succeed(found.address, self._client)
        return Success(found.address, final.encode())
