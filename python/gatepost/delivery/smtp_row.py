"""Messages in a row over one kept SMTP session, driven by the native machine: no task, future or call of Python per message but the
socket's. Called by smtp.py for sessions that know PIPELINING.

The machine takes and journals; here are the socket, the deadline and the limits. Invariants: no more than one message is in the write
buffer; when `run` returns, nothing is under way and all that the machine did not finish is in `left`. Raises CancelledError only.
"""

import asyncio
from dataclasses import dataclass, field

from gatepost.config.settings import Delivery
from gatepost.delivery.smtp_session import Session
from gatepost.native import R_BROKEN, R_DRY, R_GOING, CoreError, Relay, Spool
from gatepost.native import Job as RawJob
from gatepost.queue.transport import RowLane

Reply = tuple[int, str, list[str]]


@dataclass(frozen=True, slots=True)
class LeftJob:
    """As in _core.pyi, for one job."""

    raw: RawJob
    started: int
    fate: str
    text: str
    reply: Reply | None


@dataclass(slots=True)
class RowEnd:
    """How a row ended. `dry`: nothing was left to take; `fault`: why the session is of no use any more."""

    dry: bool = False
    fault: str = ""
    left: list[LeftJob] = field(default_factory=list)


def relay_for(session: Session, destination: str, spool: Spool) -> Relay | None:
    """The machine of a session, made once; None when the session is not fit for rows."""
    if session.lmtp or "PIPELINING" not in session.capabilities:
        return None
    if session.relay is None:
        limit = session.capabilities.get("SIZE", "")
        session.relay = Relay(
            spool,
            destination,
            session.name,
            tls=session.tls,
            size="SIZE" in session.capabilities,
            size_limit=int(limit[:18]) if limit.isdigit() else 0,
            eight_bit="8BITMIME" in session.capabilities,
            dsn="DSN" in session.capabilities,
        )
    return session.relay


class Row:
    """One run of the machine over a session that is idle and usable."""

    def __init__(self, session: Session, relay: Relay, lane: RowLane, limits: Delivery) -> None:
        self._session = session
        self._relay = relay
        self._lane = lane
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._heard = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._fault = ""

    async def run(self) -> RowEnd:
        """Send until the spool has no more, the session's share is used up, or something is left to the caller."""
        session = self._session
        budget = session.most - session.deliveries
        self._step(*self._relay.begin(max(budget, 1), session.needs_reset))
        if not self._ended.done():
            session.connection.divert(self._data, self._lost)
        self._look()
        try:
            state = await self._ended
        except BaseException:
            session.connection.abort()
            self._lane.return_raw([one[0] for one in self._relay.left()])
            raise
        finally:
            self._ended.cancel()
            if self._timer is not None:
                self._timer.cancel()
            session.connection.divert(None, None)
        session.needs_reset = self._relay.needs_reset
        left = [LeftJob(*one) for one in self._relay.left()]
        if state == R_BROKEN:
            session.connection.abort()
        return RowEnd(state == R_DRY, self._fault, left)

    def _step(self, octets: bytes, state: int, delivered: int) -> None:
        if delivered:
            self._session.deliveries += delivered
            self._lane.delivered(delivered)
        if octets:
            self._session.connection.write(octets)
        if state != R_GOING and not self._ended.done():
            self._fault = self._relay.fault if state == R_BROKEN else ""
            self._ended.set_result(state)

    def _data(self, data: bytes) -> None:
        self._heard = self._loop.time()
        try:
            self._step(*self._relay.feed(data, self._lane.may_go_on()))
        except CoreError as error:
            self._break(str(error))

    def _lost(self, error: Exception) -> None:
        self._break(str(error))

    def _look(self) -> None:
        """The peer has its time for each answer, counted from what it said before. One timer, moved when it rings."""
        sending = self._relay.sending
        seconds = self._limits.data_seconds if sending else self._limits.command_seconds
        rest = self._heard + seconds - self._loop.time()
        if rest <= 0:
            self._break(f"no reply to {'the end of data' if sending else 'MAIL, RCPT, DATA'} within {seconds:g} s")
        else:
            self._timer = self._loop.call_later(min(rest, self._limits.command_seconds), self._look)

    def _break(self, fault: str) -> None:
        if not self._ended.done():
            self._fault = fault
            self._ended.set_result(R_BROKEN)
