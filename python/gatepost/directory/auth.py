"""Authenticator: is this login who it says? Called by the SMTP, POP3 and IMAP hosts in each worker; SASL mechanisms are in sasl.py.

Invariants: no answer tells whether a user exists — unknown, disabled and passwordless users cost the same argon2 work and get the
same reason; work is bounded (threads, queue, deadline), and overload is a temporary failure; after `auth.max_failures` failures of
one login from one client within the window, further tries are put off without being looked at, right or wrong (failures.py).
Never raises for what a client sent or what the directory says: the result carries it.
"""

import asyncio
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from gatepost.config import Settings
from gatepost.directory import passwords
from gatepost.directory.errors import DirectoryError
from gatepost.directory.failures import FailureCounts
from gatepost.directory.sasl import (
    BAD_LOGIN,
    TOO_MANY,
    LoginExchange,
    PlainExchange,
    SaslExchange,
    ScramExchange,
    Unavailable,
    normalise_login,
)
from gatepost.directory.store import Directory
from gatepost.directory.values import Credentials, ScramKeys

CHECK_SECONDS = 15.0
"""Deadline of one check, queueing included."""
MAX_REMEMBERED = 10_000
"""Entries of the success cache, and of the failure counts: a few MiB each at most."""

BUSY = "too many logins at once, try again later"
UNAVAILABLE = "credentials cannot be checked now, try again later"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class AuthResult:
    """user: the address, '' when the login failed; then `reason` says why (for the log) and `temporary` whether to try again later."""

    user: str = ""
    reason: str = ""
    temporary: bool = False


class Authenticator:
    """One per worker process. `settings` gives what is in force; its `auth` section rules. `clock` is monotonic seconds."""

    def __init__(
        self, directory: Directory, settings: Callable[[], Settings] | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._directory = directory
        defaults = None if settings else Settings()
        self._settings: Callable[[], Settings] = settings or (lambda: defaults or Settings())
        self._clock = clock
        auth = self._settings().auth
        self._threads = ThreadPoolExecutor(auth.hash_threads, thread_name_prefix="auth")
        self._running = 0
        self._cache_key = secrets.token_bytes(32)
        self._cache: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._generation = 0
        self._failures = FailureCounts()
        self._checks: dict[tuple[bytes, str], asyncio.Task[AuthResult]] = {}

    def invalidate(self) -> None:
        """Forget remembered successes: call it whenever the directory changed."""
        self._generation += 1
        self._cache.clear()

    def close(self) -> None:
        """End the threads; checks that run are finished, queued ones are dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    # ---- mechanisms ------------------------------------------------------------------------------------------------

    def mechanisms(self, tls: bool) -> tuple[str, ...]:
        """What to offer, strongest first. `tls`: the channel is private, or the host's settings allow passwords on it all the same."""
        if tls or not self._settings().smtp.require_tls_for_plaintext_auth:
            return ("SCRAM-SHA-256", "PLAIN", "LOGIN")
        return ("SCRAM-SHA-256",)

    def sasl(self, mechanism: str, *, tls: bool, channel: str) -> SaslExchange:
        """Begin an exchange. `channel` is the client's address, which failures are counted by. Raises ValueError if not offered."""
        name = mechanism.upper()
        if name not in self.mechanisms(tls):
            raise ValueError(f"{mechanism} is not offered here")
        if name == "PLAIN":
            return PlainExchange(self, channel)
        return LoginExchange(self, channel) if name == "LOGIN" else ScramExchange(self, channel)

    # ---- passwords -------------------------------------------------------------------------------------------------

    async def verify_plain(self, login: str, password: str, client: str) -> AuthResult:
        """Check a password. `login` is the full address, any case; `client` the peer's IP address."""
        account = normalise_login(login)
        key = hmac.digest(self._cache_key, f"{account}\0{password}".encode("utf-8", "surrogatepass"), "sha256")
        question = (key, network_of(client))
        # A mail program opens several connections at once: the same question is worked out, and counted, once.
        check = self._checks.get(question)
        if check is None:
            check = asyncio.get_running_loop().create_task(self._verify(account, password, client, key))
            self._checks[question] = check
            check.add_done_callback(lambda _: self._checks.pop(question, None))
        return await asyncio.shield(check)

    async def _verify(self, account: str, password: str, client: str, key: bytes) -> AuthResult:
        if not self.begin_attempt(account, client):
            return AuthResult(reason=TOO_MANY, temporary=True)
        user = self._remembered(key)
        if user is None:
            generation = self._generation
            try:
                user = await self.run(self._check_password, account, password)
            except Unavailable as error:
                self.undo_attempt(account, client)
                return AuthResult(reason=str(error), temporary=True)
            if user and generation == self._generation:
                self._remember(key, user)
        if not user:
            return AuthResult(reason=BAD_LOGIN)
        self.succeed(account, client)
        return AuthResult(user)

    def _check_password(self, account: str, password: str) -> str:
        """In a thread: the user's address, or '' — after the same work in every case."""
        found = self._directory.credentials(account)
        if found is None or not found.enabled or not found.password_hash:
            passwords.verify_password(passwords.NOBODYS_HASH, password)
            return ""
        return found.address if passwords.verify_password(found.password_hash, password) else ""

    def scram_credentials(self, login: str) -> tuple[Credentials, ScramKeys]:
        """In a thread: what a SCRAM exchange runs against. For nobody: keys that fit no password, with a salt that stays the same."""
        account = normalise_login(login)
        found = self._directory.credentials(account)
        if found is not None and found.scram is not None:
            return found, found.scram
        salt = hmac.digest(self._directory.pepper(), account.encode("utf-8", "surrogatepass"), "sha256")[:16]
        keys = ScramKeys(salt, passwords.SCRAM_ITERATIONS, secrets.token_bytes(32), secrets.token_bytes(32))
        return Credentials(account, False, "", keys), keys

    async def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Run `function` in one of the few threads. Raises Unavailable: too much to do, too slow, or no directory."""
        auth = self._settings().auth
        if self._running >= auth.hash_threads + auth.hash_queue:
            raise Unavailable(BUSY)
        self._running += 1
        # The count falls when the thread is done, not when the waiting ends: an abandoned check still takes a thread.
        future = asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        future.add_done_callback(self._finished)
        try:
            return await asyncio.wait_for(asyncio.shield(future), CHECK_SECONDS)
        except TimeoutError:
            raise Unavailable(BUSY) from None
        except DirectoryError as error:
            raise Unavailable(f"{UNAVAILABLE} ({error})") from error

    def _finished(self, future: "asyncio.Future[Result]") -> None:
        self._running -= 1
        if not future.cancelled():
            future.exception()  # read, so that an abandoned check's error is not reported as never retrieved

    # ---- remembered successes --------------------------------------------------------------------------------------

    def _remembered(self, key: bytes) -> str | None:
        entry = self._cache.get(key)
        if entry is None or entry[1] <= self._clock():
            return None
        self._cache.move_to_end(key)
        return entry[0]

    def _remember(self, key: bytes, user: str) -> None:
        seconds = self._settings().auth.cache_seconds
        if seconds <= 0:
            return
        self._cache[key] = (user, self._clock() + seconds)
        if len(self._cache) > MAX_REMEMBERED:
            self._cache.popitem(last=False)

    # ---- failures --------------------------------------------------------------------------------------------------

    def begin_attempt(self, account: str, client: str) -> bool:
        """Count an attempt as failed until `succeed` says otherwise, so that parallel guesses count too. False: put it off."""
        auth = self._settings().auth
        key = (network_of(client), account)
        window, most = auth.failure_window_seconds, auth.max_failures
        return self._failures.begin(key, self._clock(), window=window, most=most, room=MAX_REMEMBERED)

    def undo_attempt(self, account: str, client: str) -> None:
        """The attempt was not looked at, for a reason of ours: it does not count, those before it do."""
        self._failures.undo((network_of(client), account))

    def succeed(self, account: str, client: str) -> None:
        """The right password: this login starts afresh."""
        self._failures.drop((network_of(client), account))


def network_of(client: str) -> str:
    """Whom failures are counted by: the IPv4 address, or the IPv6 /64, which one household or attacker holds as a whole."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv4Address):
        return client
    mapped = address.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)).network_address)
