"""A POP3 session: carries out what Pop3Machine asks, against the directory and the mail store.

The mailbox lock is taken at login and given back after QUIT or when the connection is gone (RFC 1939 section 4); the kernel
frees it should the process die. Messages are streamed: four 64 KiB blocks at most are in memory for a session.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from gatepost.native import CoreError, MailboxLock
from gatepost.protocol.pop3 import machine as pop3
from gatepost.server.access.connection import Connection
from gatepost.server.access.listener import AccessServer
from gatepost.server.access.login import Challenge, LoggedIn, Refused, SaslLogin, check_password, mechanisms, plain_text_allowed
from gatepost.server.access.mailstore import READ_SIZE, READS_PER_HOP, MailStore


class Pop3Server(AccessServer):
    """Listens for POP3."""

    protocol = "pop3"

    def factory(self) -> Callable[[], Connection]:
        """A session for each connection."""
        return partial(Pop3Connection, self)


class Pop3Connection(Connection):
    """One client."""

    __slots__ = ("_failures", "_folder_id", "_lock", "_machine", "_sasl", "_store", "_user")

    def __init__(self, server: AccessServer) -> None:
        super().__init__(server)
        self._machine = pop3.Pop3Machine(self._offer(), max_bad=server.context.settings().smtp.max_bad_commands)
        self._store: MailStore | None = None
        self._lock: MailboxLock | None = None
        self._folder_id = b""
        self._user = ""
        self._sasl: SaslLogin | None = None
        self._failures = 0

    def _offer(self) -> pop3.Offer:
        context = self.server.context
        tls = self.tls
        return pop3.Offer(stls=not tls, user=plain_text_allowed(context, tls=tls), mechanisms=mechanisms(context, tls=tls))

    # ---- Connection

    @property
    def machine(self) -> pop3.Pop3Machine:
        """The protocol machine."""
        return self._machine

    def greet(self) -> None:
        """Greeting (RFC 1939 section 4)."""
        self.write(f"+OK {self.server.context.hostname} POP3 server ready\r\n".encode())

    def farewell(self, reason: str) -> None:
        """A last negative response; RFC 2449 8.1.1 allows [SYS/TEMP] on any."""
        self.write(f"-ERR [SYS/TEMP] {reason}\r\n".encode())

    def patience(self) -> tuple[float, bool]:
        """Time to log in, then the idle time."""
        mail = self.server.context.settings().mail
        return (mail.pop3_idle_seconds, True) if self._machine.authenticated else (mail.login_seconds, False)

    def release(self) -> None:
        """Give the lock back. Marks of DELE are forgotten with the machine: nothing is deleted without QUIT."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    async def work(self) -> None:
        """Carry out events."""
        while not self.closed and not self.stopping:
            event = self._machine.next_event()
            if event is None:
                return
            await _ACTIONS[type(event)](self, event)
            await self.taken()

    # ---- events

    async def _send(self, event: pop3.Send) -> None:
        self.write(event.data)

    async def _close(self, _event: pop3.Close) -> None:
        self.close()

    async def _start_tls(self, event: pop3.StartTls) -> None:
        await self.start_tls(event.reply)
        self._machine.tls_started(self._offer())

    async def _password(self, event: pop3.Password) -> None:
        await self._outcome(await check_password(self.server.context, event.user, event.password, self.client))

    async def _sasl_start(self, event: pop3.SaslStart) -> None:
        self._sasl = SaslLogin(self.server.context, event.mechanism, tls=self.tls, client=self.client)
        await self._outcome(await self._sasl.step(event.initial))

    async def _sasl_response(self, event: pop3.SaslResponse) -> None:
        assert self._sasl is not None
        await self._outcome(await self._sasl.step(event.data))

    async def _outcome(self, outcome: LoggedIn | Refused | Challenge) -> None:
        if isinstance(outcome, Challenge):
            self.write(self._machine.challenged(outcome.data).data)
            return
        self._sasl = None
        if isinstance(outcome, LoggedIn):
            self.write((await self._open(outcome)).data)
            self.restart_clock()
            return
        self._failures += 1
        self.server.log.info("login refused", protocol="pop3", client=self.client, reason=outcome.reason)
        self.write(self._machine.refused("SYS/TEMP" if outcome.temporary else "AUTH", outcome.reason).data)
        if self._failures >= self.server.context.settings().mail.max_failed_logins:
            self.close()

    async def _open(self, login: LoggedIn) -> pop3.Send:
        """Take the lock and the list of messages."""
        store = login.store
        try:
            self._lock = await store.lock()
            if self._lock is None:
                return self._machine.refused("IN-USE", "Another POP3 session has this mailbox open")
            info = await store.folder("INBOX")
            messages = await store.messages(info[0])
        except CoreError as error:
            self.server.log.error("mailbox cannot be read", user=login.user, error=str(error))
            self.release()
            return self._machine.refused("SYS/TEMP", "Mailbox is not available")
        self._store, self._user, self._folder_id = store, login.user, info[0]
        self.server.log.info("login", protocol="pop3", user=login.user, client=self.client, tls=self.tls)
        return self._machine.logged_in(info[4], ((message[0], message[1]) for message in messages))

    async def _retrieve(self, event: pop3.Retrieve) -> None:
        assert self._store is not None
        try:
            message = await self._store.message(self._folder_id, event.uid)
            blocks = await self._store.call(_read_dotted, message.read_dotted, event.lines)
        except CoreError as error:
            # Removed by an IMAP session, or damaged: this message only (RFC 3206 section 4).
            self.server.log.warning("message cannot be read", user=self._user, uid=event.uid, error=str(error))
            self.write(b"-ERR [SYS/TEMP] Message cannot be read\r\n")
            return
        self.write(b"+OK %d octets\r\n" % event.octets)
        await self._stream(message.read_dotted, event.lines, blocks)

    async def _stream(self, read: Callable[[int, int], bytes], lines: int, blocks: list[bytes]) -> None:
        assert self._store is not None
        while True:
            for block in blocks:
                self.write(block)
            if not blocks[-1]:
                return
            await self.drain()
            try:
                blocks = await self._store.call(_read_dotted, read, lines)
            except CoreError as error:
                # The client already has the beginning: only a broken connection tells it that the rest is missing.
                self.server.log.error("message damaged", user=self._user, error=str(error))
                raise ConnectionAbortedError from error

    async def _update(self, event: pop3.Update) -> None:
        """The UPDATE state: remove what is marked, then give the lock back before the client hears of it."""
        assert self._store is not None
        removed = 0
        failed = False
        try:
            if event.uids:
                removed = len(await self._store.remove(self._folder_id, event.uids))
        except CoreError as error:
            self.server.log.error("messages cannot be removed", user=self._user, error=str(error))
            failed = True
        lock, self._lock = self._lock, None
        if lock is not None:
            await self._store.call(lock.release)
        self.write(self._machine.updated(removed, failed=failed).data)


def _read_dotted(read: Callable[[int, int], bytes], lines: int) -> list[bytes]:
    """Some blocks of a message in one hop; the last is b'' at the end."""
    blocks: list[bytes] = []
    while len(blocks) < READS_PER_HOP:
        blocks.append(read(READ_SIZE, lines))
        if not blocks[-1]:
            break
    return blocks


_ACTIONS: dict[type, Callable[..., Awaitable[None]]] = {
    pop3.Send: Pop3Connection._send,
    pop3.Close: Pop3Connection._close,
    pop3.StartTls: Pop3Connection._start_tls,
    pop3.Password: Pop3Connection._password,
    pop3.SaslStart: Pop3Connection._sasl_start,
    pop3.SaslResponse: Pop3Connection._sasl_response,
    pop3.Retrieve: Pop3Connection._retrieve,
    pop3.Update: Pop3Connection._update,
}
