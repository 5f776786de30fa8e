"""An IMAP session: pulls events from the Receiver, has each command carried out by its handler, and tells the client what changed.

Handlers (the sibling modules) are coroutines `(session, command) -> str | None`: the text of the tagged OK, or None when the
handler answers by itself later. They raise Refused (NO), Rejected (BAD) or CoreError. Before every tagged response the session
brings its view of the selected folder up to date, with EXPUNGE responses only where RFC 3501 7.4.1 allows them.
"""

import asyncio
from collections.abc import Awaitable

from gatepost.native import CoreError, NotFoundError
from gatepost.protocol.imap import receiver as rx
from gatepost.protocol.imap.commands import ALLOWED, NO_EXPUNGE, Append, Command, State
from gatepost.protocol.imap.responses import tagged, untagged
from gatepost.protocol.imap.view import FolderView
from gatepost.server.access.connection import Connection
from gatepost.server.access.listener import AccessServer
from gatepost.server.access.login import SaslLogin
from gatepost.server.access.mailstore import MailStore
from gatepost.server.imap.append import Appending, append_end, append_start
from gatepost.server.imap.auth import capabilities, sasl_line
from gatepost.server.imap.handlers import HANDLERS
from gatepost.server.imap.outcome import USER_FAULTS, Refused, Rejected, refusal

PUSH_GAP_SECONDS = 0.05
"""While idling, changes are told at most this often: a burst of deliveries becomes a few EXISTS."""

_ASK_STORE = frozenset({"NOOP", "CHECK", "IDLE"})


class ImapConnection(Connection):
    """One client."""

    __slots__ = (
        "_bad",
        "_push",
        "_receiver",
        "appending",
        "dirty",
        "failures",
        "idle_tag",
        "sasl",
        "sasl_tag",
        "store_or_none",
        "told",
        "user",
        "view_or_none",
    )

    def __init__(self, server: AccessServer) -> None:
        super().__init__(server)
        self._receiver = rx.Receiver()
        self._bad = 0
        self._push: asyncio.TimerHandle | None = None
        self.user = ""
        self.store_or_none: MailStore | None = None
        self.view_or_none: FolderView | None = None
        self.dirty = False
        self.told: dict[int, int] = {}
        self.idle_tag = ""
        self.sasl: SaslLogin | None = None
        self.sasl_tag = ""
        self.failures = 0
        self.appending: Appending | None = None

    # ---- what handlers use

    @property
    def receiver(self) -> rx.Receiver:
        """The protocol machine."""
        return self._receiver

    @property
    def store(self) -> MailStore:
        """The user's mailbox; there is one in every state but NOT_AUTHENTICATED."""
        assert self.store_or_none is not None
        return self.store_or_none

    @property
    def view(self) -> FolderView:
        """The selected folder; there is one in SELECTED."""
        assert self.view_or_none is not None
        return self.view_or_none

    @property
    def state(self) -> State:
        """RFC 3501 section 3."""
        if self.store_or_none is None:
            return State.NOT_AUTHENTICATED
        return State.AUTHENTICATED if self.view_or_none is None else State.SELECTED

    def open_view(self, view: FolderView) -> None:
        """Select: follow the folder's changes from now on."""
        self.view_or_none = view
        self.dirty = True
        self.store.watch(view.folder_id, self._folder_changed)

    def close_view(self) -> None:
        """Leave the selected folder, if there is one."""
        view, self.view_or_none = self.view_or_none, None
        self.told = {}
        if view is not None:
            self.store.unwatch(view.folder_id, self._folder_changed)

    def answer(self, tag: str, status: str, text: str) -> None:
        """Write a tagged response."""
        self.write(tagged(tag, status, text))

    # ---- Connection

    @property
    def machine(self) -> rx.Receiver:
        """The protocol machine."""
        return self._receiver

    def greet(self) -> None:
        """Greeting (RFC 3501 7.1.1) with the capabilities, which saves most clients a round trip."""
        self.write(untagged(f"OK [CAPABILITY {capabilities(self)}] {self.server.context.hostname} IMAP server ready"))

    def farewell(self, reason: str) -> None:
        """BYE."""
        self.write(untagged(f"BYE {reason}"))

    def patience(self) -> tuple[float, bool]:
        """Time to log in, then the autologout time (RFC 3501 5.4: 30 minutes at least)."""
        mail = self.server.context.settings().mail
        return (mail.login_seconds, False) if self.store_or_none is None else (mail.imap_idle_seconds, True)

    def release(self) -> None:
        """Stop following the folder; an unfinished APPEND is dropped and leaves nothing."""
        self.close_view()
        self.appending = None
        if self._push is not None:
            self._push.cancel()
            self._push = None

    async def work(self) -> None:
        """Carry out events; while idling, push changes."""
        while not self.closed and not self.stopping:
            event = self._receiver.next_event()
            if event is not None:
                await self._take(event)
                await self.taken()
            elif self.idle_tag and self.dirty:
                await self._synchronise(may_expunge=True)
                await self.drain()
            else:
                return

    # ---- events

    async def _take(self, event: rx.Event) -> None:
        if isinstance(event, Append):
            await self._guard(event, append_start(self, event))
        elif isinstance(event, Command):
            await self._command(event)
        elif isinstance(event, rx.AppendData):
            assert self.appending is not None
            await self.appending.feed(event.data)
            self.resume_input()
        elif isinstance(event, rx.AppendEnd):
            assert self.appending is not None
            await self._guard(self.appending.command, append_end(self))
        elif isinstance(event, rx.Line):
            await self._line(event.data)
        elif isinstance(event, rx.Continue):
            self.write(b"+ Ready for the literal\r\n")
        elif isinstance(event, rx.Malformed):
            self.appending = None
            self._reject(event.tag, event.text)
        else:
            self.farewell(event.text)
            self.close()

    async def _command(self, command: Command) -> None:
        if self.state not in ALLOWED[command.name]:
            self._reject(command.tag, f"{command.name} is not allowed when {self.state.value}")
            return
        await self._guard(command, HANDLERS[command.name](self, command))

    async def _guard(self, command: Command, work: Awaitable[str | None]) -> None:
        """Await a handler, and answer what it returns or raises."""
        try:
            text = await work
        except Refused as no:
            status, text = "NO", str(no)
        except Rejected as bad:
            self._reject(command.tag, str(bad))
            return
        except CoreError as error:
            if not isinstance(error, USER_FAULTS):
                self.server.log.error("imap command failed", command=command.name, user=self.user, error=str(error))
            status, text = "NO", refusal(error)
        else:
            if text is None:
                return
            status = "OK"
            self._bad = 0
        await self.finish(command, status, text)

    async def finish(self, command: Command, status: str, text: str) -> None:
        """Tell what changed, then the tagged response."""
        await self._synchronise(may_expunge=command.name not in NO_EXPUNGE, ask=command.name in _ASK_STORE)
        if not self.stopping:
            self.answer(command.tag, status, text)

    def _reject(self, tag: str | None, text: str) -> None:
        """BAD; too many of them end the session."""
        self.write(tagged(tag, "BAD", text) if tag else untagged(f"BAD {text}"))
        self._bad += 1
        if self._bad >= self.server.context.settings().smtp.max_bad_commands:
            self.farewell("Too many errors")
            self.close()

    async def _line(self, line: bytes) -> None:
        if self.sasl is not None:
            await sasl_line(self, line)
            return
        tag, self.idle_tag = self.idle_tag, ""
        if line.upper() != b"DONE":
            self._reject(tag, "Expected DONE")
            return
        await self.finish(Command(tag, "IDLE"), "OK", "IDLE terminated")

    # ---- changes

    def _folder_changed(self) -> None:
        """The store's call when anybody changed the selected folder."""
        self.dirty = True
        if self.idle_tag and self._push is None and not self.closed:
            self._push = self.loop.call_later(PUSH_GAP_SECONDS, self._push_changes)

    def _push_changes(self) -> None:
        self._push = None
        self.wake()

    async def _synchronise(self, *, may_expunge: bool, ask: bool = False) -> None:
        """Bring the view up to date and write what the client must see."""
        view = self.view_or_none
        if view is None:
            return
        if not self.dirty and not ask:
            self.write(b"".join(view.release_expunges() if may_expunge else ()))
            return
        self.dirty = False
        try:
            modseq, changed, expunged = await self.store.changes(view.folder_id, view.modseq)
            if not view.read_only and any(message[0] > view.newest for message in changed):
                view.claimed(await self.store.claim_recent(view.folder_id))
        except NotFoundError:
            # RFC 2180 section 3.3: a session whose folder was deleted may be ended.
            self.farewell("The selected folder was deleted")
            self.close()
            return
        except CoreError as error:
            self.server.log.error("folder cannot be read", user=self.user, error=str(error))
            return
        self.write(b"".join(view.apply(modseq, changed, expunged, may_expunge=may_expunge, told=self.told)))
        self.told = {}
