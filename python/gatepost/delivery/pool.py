"""Open sessions kept for the next message, by destination. Used by smtp.py, from one event loop.

Invariants: a kept session has nothing under way; it is closed with QUIT when idle for `connection_idle_seconds` (one timer for all);
at most MAX_IDLE are kept, the oldest goes first. The newest idle session is handed out first, so that a quiet destination shrinks.
"""

import asyncio
from collections import OrderedDict

from gatepost.delivery.smtp_session import Session

MAX_IDLE = 256
CLOSE_SECONDS = 1.0


class SessionPool:
    """Idle sessions. `take` may give None: open a new one."""

    def __init__(self) -> None:
        self._idle: dict[str, list[Session]] = {}
        self._expiry: OrderedDict[int, tuple[float, str, Session]] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Number of idle sessions."""
        return len(self._expiry)

    def take(self, destination: str) -> Session | None:
        """The most recently used session of a destination that still stands."""
        kept = self._idle.get(destination)
        while kept:
            session = kept.pop()
            self._expiry.pop(id(session), None)
            if not kept:
                del self._idle[destination]
            if session.connection.idle_and_usable:
                return session
            session.connection.abort()
        return None

    def keep(self, destination: str, session: Session, seconds: float) -> None:
        """Keep a session for `seconds` of idleness."""
        if seconds <= 0 or not session.connection.idle_and_usable:
            session.connection.quit()
            return
        loop = asyncio.get_running_loop()
        self._idle.setdefault(destination, []).append(session)
        self._expiry[id(session)] = (loop.time() + seconds, destination, session)
        while len(self._expiry) > MAX_IDLE:
            self._drop_oldest()
        if self._timer is None:
            self._timer = loop.call_later(seconds, self._expire)

    async def close(self) -> None:
        """QUIT everywhere; what has not closed after CLOSE_SECONDS is cut."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        sessions = [session for _, _, session in self._expiry.values()]
        self._expiry.clear()
        self._idle.clear()
        for session in sessions:
            session.connection.quit()
        waits = [session.connection.closed(CLOSE_SECONDS) for session in sessions]
        await asyncio.gather(*waits)

    def _expire(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        while self._expiry:
            due, _, _ = next(iter(self._expiry.values()))
            if due > loop.time():
                self._timer = loop.call_at(due, self._expire)
                return
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, (_, destination, session) = self._expiry.popitem(last=False)
        kept = self._idle.get(destination, [])
        if session in kept:
            kept.remove(session)
        if not kept:
            self._idle.pop(destination, None)
        session.connection.quit()
