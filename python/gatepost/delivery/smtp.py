"""SmtpTransport: routes of kind smtp. One message per call; the scheduler's lanes call it in a loop, so sessions are reused.

Called by queue.scheduler. Invariants: a message goes again over a fresh connection only when the kept one turned out dead before the
peer had answered MAIL; once data were sent, a lost connection means Deferred (at least once, RFC 5321 4.2.5 / RFC 1047). Never raises.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from gatepost.config import Settings
from gatepost.delivery.changes import Circle, RouteChanges
from gatepost.delivery.next_hop import NextHops, NoRoute, Own
from gatepost.delivery.peer_reply import PeerReply, ProtocolViolation
from gatepost.delivery.pool import SessionPool
from gatepost.delivery.resolver import Resolver
from gatepost.delivery.smtp_client import Letter, Progress, envelope_octets, judge, no_ahead, transact
from gatepost.delivery.smtp_connection import ConnectionLost, PeerTimeout
from gatepost.delivery.smtp_row import LeftJob, Row, relay_for
from gatepost.delivery.smtp_session import HostUnusable, Peer, Session, SessionPlan, TlsHandshakeFailed, open_session
from gatepost.delivery.tls import ClientTls
from gatepost.message.address import domain_key
from gatepost.native import CoreError, NotFoundError, Reader
from gatepost.queue.transport import Deferred, Delivered, Failed, Job, JobRecipient, JobResult, Lane, Outcome
from gatepost.routing.model import DeliveryOptions, Route, RuleSet, TlsPolicy

NO_RULES = RuleSet(0, {}, {})
NO_OPTIONS = DeliveryOptions()
MAX_RECIPIENTS = 100
"""Recipients per transaction: what RFC 5321 4.5.3.1.8 says every server must take."""
MAX_ROUNDS = 32

log = structlog.get_logger()


@dataclass(slots=True)
class _Attempt:
    """What one job, or the recipients of it that get the same, need on the way through the transport."""

    destination: str
    job: Job
    route: Route
    sender: str
    tls: str = ""


class SmtpTransport:
    """`open_message` gives a reader for a message id; `secret` the password behind a password_ref; `own` what we are known by."""

    batch = 1
    lmtp = False

    def __init__(
        self,
        settings: Callable[[], Settings],
        resolver: Resolver,
        open_message: Callable[[bytes], Reader],
        *,
        tls: ClientTls | None = None,
        secret: Callable[[str], str] | None = None,
        own: Callable[[], Own] = Own,
        changes: RouteChanges | None = None,
    ) -> None:
        self._settings = settings
        self._changes = changes or RouteChanges(lambda: NO_RULES, lambda: settings().hostname)
        self._hops = NextHops(settings, resolver, own)
        self._open_message = open_message
        self._tls = tls or ClientTls(settings)
        self._secret = secret
        self._pool = SessionPool()

    async def deliver(self, destination: str, jobs: Sequence[Job]) -> Sequence[JobResult]:
        """Deliver each job in turn."""
        return [await self._job(destination, job) for job in jobs]

    async def chain(self, destination: str, lane: Lane) -> None:
        """What the lane gives: in rows over kept sessions that are fit for it, else job by job."""
        following = await self._rows(destination, lane)
        while following is not None:
            following = await self._link(destination, following, lane) or await self._rows(destination, lane)

    async def borrow(self, route: Route) -> Session:
        """An open session for a route, kept or new. Raises NoRoute, HostUnusable."""
        return self._pool.take(route.destination) or await self._open(route)

    def give_back(self, session: Session, route: Route) -> None:
        """Keep a session that was borrowed and has nothing under way."""
        self._keep(session, route.destination)

    async def close(self) -> None:
        """QUIT on all kept sessions."""
        await self._pool.close()

    async def _job(self, destination: str, job: Job) -> JobResult:
        groups: dict[tuple[object, ...], list[int]] = {}
        for place, one in enumerate(job.recipients):
            alike = self._changes.sender(job.reverse_path, one.route), one.route.edits, self._changes.personal(one.route)
            groups.setdefault(alike, []).append(place)
        outcomes: dict[int, Outcome] = {}
        tls = ""
        for places in groups.values():
            attempt = self._attempt(destination, job, [job.recipients[place] for place in places])
            outcomes.update(zip(places, await self._group(attempt), strict=True))
            tls = attempt.tls or tls
        return JobResult(tuple(outcomes[place] for place in range(len(job.recipients))), tls)

    def _attempt(self, destination: str, job: Job, recipients: Sequence[JobRecipient]) -> _Attempt:
        """For recipients that get the same."""
        route = recipients[0].route
        part = job if len(recipients) == len(job.recipients) else replace(job, recipients=tuple(recipients))
        return _Attempt(destination, part, route, self._changes.sender(job.reverse_path, route))

    async def _group(self, attempt: _Attempt) -> list[Outcome]:
        count = len(attempt.job.recipients)
        try:
            return await self._outcomes(attempt)
        except NoRoute as error:
            return [error.outcome] * count
        except HostUnusable as error:
            return [Deferred(error.reason, error.enhanced, error.reply, destination_down=True)] * count

    async def _rows(self, destination: str, lane: Lane) -> Job | None:
        """Rows over kept sessions, as long as there are any. Gives a job to carry out the other way, None when there is nothing to do."""
        while lane.may_go_on() and (spool := lane.direct()) is not None:
            session = self._pool.take(destination)
            relay = relay_for(session, destination, spool) if session is not None else None
            if session is None or relay is None:
                if session is not None:
                    self._pool.keep(destination, session, self._settings().delivery.connection_idle_seconds)
                break
            end = await Row(session, relay, lane, self._settings().delivery).run()
            lane.emptied(end.dry)
            if not end.fault:
                self._keep(session, destination)
            jobs = [(left, lane.adopt(left.raw, left.started)) for left in end.left]
            for left, job in jobs:
                if job is not None:
                    await lane.done(job, _fate(session, left, end.fault) or await self._job(destination, job))
            if end.dry:
                return None
        return lane.take()

    async def _link(self, destination: str, job: Job, lane: Lane) -> Job | None:
        """Jobs over one kept session, as long as that goes well. Gives a job that was taken from the lane and is still to do."""
        session = self._pool.take(destination) if len(job.recipients) == 1 else None
        if session is None:
            await lane.done(job, await self._job(destination, job))
            return None
        ahead, sent = _Ahead(session, lane, session.most), False
        while True:
            attempt, progress = self._attempt(destination, job, job.recipients), Progress()
            outcomes = await self._over(session, attempt, job.recipients, progress, sent=sent, ahead=ahead)
            if progress.answered or progress.data_sent:
                result = JobResult(tuple(outcomes), attempt.tls)
            else:
                result = await self._job(destination, job)  # the kept session was dead: a fresh one
            await lane.done(job, result)
            if ahead.job is None or session.connection.lost is not None:
                return ahead.left()
            job, sent = ahead.begin(), True

    async def _outcomes(self, attempt: _Attempt) -> list[Outcome]:
        """All recipients, in transactions of at most MAX_RECIPIENTS; those refused with 452 go again at once while others get through."""
        recipients = attempt.job.recipients
        outcomes: list[Outcome | None] = [None] * len(recipients)
        waiting = list(range(len(recipients)))
        for _ in range(MAX_ROUNDS + len(recipients) // MAX_RECIPIENTS):
            places, waiting = waiting[:MAX_RECIPIENTS], waiting[MAX_RECIPIENTS:]
            got = await self._transaction(attempt, [recipients[place] for place in places])
            for place, outcome in zip(places, got, strict=True):
                outcomes[place] = outcome
            if any(isinstance(outcome, Delivered) for outcome in got):
                waiting = [place for place, outcome in zip(places, got, strict=True) if _too_many(outcome)] + waiting
            elif waiting and isinstance(got[0], Deferred):
                break
            if not waiting:
                break
        last = next(outcome for outcome in outcomes if outcome is not None)
        return [outcome if outcome is not None else _same(last) for outcome in outcomes]

    async def _transaction(self, attempt: _Attempt, recipients: Sequence[JobRecipient]) -> list[Outcome]:
        session = self._pool.take(attempt.destination)
        if session is not None:
            progress = Progress()
            outcomes = await self._over(session, attempt, recipients, progress)
            if progress.answered or progress.data_sent:
                return outcomes
        session = await self._open(attempt.route)
        return await self._over(session, attempt, recipients, Progress())

    async def _over(
        self,
        session: Session,
        attempt: _Attempt,
        recipients: Sequence[JobRecipient],
        progress: Progress,
        *,
        sent: bool = False,
        ahead: "_Ahead | None" = None,
    ) -> list[Outcome]:
        """One transaction on one session, which is kept or dropped afterwards, unless the next one has begun on it."""
        attempt.tls = session.tls
        limits = self._settings().delivery
        try:
            reader = self._open_message(attempt.job.message_id)
            if attempt.route.edits:
                edits = await asyncio.to_thread(self._changes.edits, reader, attempt.job, attempt.route)
                reader = reader.edited(edits)
            letter = _letter(session, attempt, recipients, reader)
            if isinstance(letter, Failed):
                progress.answered = True
                self._done(session, attempt.destination)
                return [letter] * len(recipients)
            outcomes = await transact(session, letter, reader, limits, progress, sent=sent, ahead=ahead or no_ahead)
        except (ConnectionLost, PeerTimeout, ProtocolViolation) as error:
            session.connection.abort()
            when = " after the message was sent" if progress.data_sent else ""
            down = not progress.answered and not isinstance(error, ProtocolViolation)
            return [Deferred(f"{session.name}: {error}{when}", "4.4.2", destination_down=down)] * len(recipients)
        except Circle as error:
            progress.answered = True
            self._done(session, attempt.destination)
            return [Failed(f"the message has been through the list {error} before", "5.4.6")] * len(recipients)
        except CoreError as error:
            session.connection.abort()  # in the middle of data there is no other way to call the message off
            progress.answered = True
            return [_unreadable(error)] * len(recipients)
        except asyncio.CancelledError:
            session.connection.abort()
            raise
        if ahead is not None and ahead.job is not None:
            session.deliveries += 1
        elif progress.answered:
            self._done(session, attempt.destination)
        else:
            session.connection.quit()
        return outcomes

    def _done(self, session: Session, destination: str) -> None:
        session.deliveries += 1
        self._keep(session, destination)

    def _keep(self, session: Session, destination: str) -> None:
        limits = self._settings().delivery
        if session.deliveries < session.most and session.connection.idle_and_usable:
            self._pool.keep(destination, session, limits.connection_idle_seconds)
        else:
            session.connection.quit()

    async def _open(self, route: Route) -> Session:
        """The first candidate that lets us in. Raises NoRoute, or the HostUnusable of the last one tried."""
        plan = self._plan(route)
        fault = HostUnusable("no address to try")
        for peer in await self._hops.find(route):
            try:
                return await self._open_one(peer, plan)
            except HostUnusable as error:
                fault = error
                log.debug("host unusable", host=peer.host, address=peer.address, port=peer.port, reason=error.reason)
        raise fault

    async def _open_one(self, peer: Peer, plan: SessionPlan) -> Session:
        try:
            return await open_session(peer, plan, self._tls)
        except TlsHandshakeFailed:
            if plan.tls is not TlsPolicy.OPPORTUNISTIC or plan.implicit_tls:
                raise
            # RFC 7435: rather in the clear than not at all, when TLS was only an opportunity.
            return await open_session(peer, replace(plan, tls=TlsPolicy.NONE), self._tls)

    def _plan(self, route: Route) -> SessionPlan:
        settings = self._settings()
        secret, ref = self._secret, route.password_ref
        password = (lambda: secret(ref)) if secret is not None and ref else None
        options = route.options or NO_OPTIONS
        return SessionPlan(
            options.helo or settings.delivery.helo or settings.hostname,
            route.tls,
            route.implicit_tls,
            self.lmtp,
            settings.delivery,
            route.username,
            password,
            source_address=options.source_address or settings.delivery.source_address,
            pins=options.pins,
            most=options.messages_per_connection or settings.delivery.max_deliveries_per_connection,
        )


class _Ahead:
    """Begins the next transaction of a session behind the data of the present one. Only plain jobs with one recipient qualify."""

    def __init__(self, session: Session, lane: Lane, most: int) -> None:
        self._session = session
        self._lane = lane
        self._most = most
        self._spare: Job | None = None
        self.job: Job | None = None

    def __call__(self) -> bytes:
        """The envelope of the next job, b'' when there is none to begin now."""
        if self._spare is not None or self._session.deliveries + 1 >= self._most:
            return b""
        job = self._lane.next()
        letter = _plain_letter(self._session, job) if job is not None else None
        if letter is None:
            self._spare = job
            return b""
        self.job = job
        reset, self._session.needs_reset = self._session.needs_reset, False  # the end of data clears the transaction
        octets = envelope_octets(self._session, letter)
        self._session.needs_reset = reset
        return octets

    def begin(self) -> Job:
        """The job whose envelope was sent becomes the present one."""
        job, self.job = self.job, None
        assert job is not None
        return job

    def left(self) -> Job | None:
        """A job that was taken and not carried out."""
        job = self.job or self._spare
        self.job = self._spare = None
        return job


# ---- what the peer must be able to take


def _plain_letter(session: Session, job: Job) -> Letter | None:
    """The letter of a job that every peer can take; None when it needs a closer look."""
    addresses = [recipient.address for recipient in job.recipients]
    texts = (job.reverse_path, *addresses)
    if len(addresses) != 1 or job.recipients[0].route.return_path or job.recipients[0].route.edits:
        return None
    if job.meta.smtputf8 or not all(map(str.isascii, texts)) or not all(map(str.isprintable, texts)):
        return None
    limit = session.capabilities.get("SIZE", "")
    if limit.isdigit() and 0 < int(limit[:20]) < job.size:
        return None
    return Letter(job.reverse_path, job.meta, job.size, False, job.recipients, addresses)


def _letter(session: Session, attempt: _Attempt, recipients: Sequence[JobRecipient], reader: Reader) -> Letter | Failed:
    """The message in the form this peer takes, or why it cannot have it."""
    job = attempt.job
    size = reader.size if attempt.route.edits else job.size
    limit = session.capabilities.get("SIZE", "")
    if limit.isdigit() and 0 < int(limit[:20]) < size:
        return Failed(f"{session.name} takes messages of at most {limit} octets, this one has {size}", "5.3.4")
    addresses = [recipient.address for recipient in recipients]
    sender = attempt.sender
    if not all(map(str.isprintable, (sender, *addresses))):
        return Failed("an address of the envelope contains control characters", "5.1.3")
    ascii_only = all(map(str.isascii, (sender, *addresses)))
    if ascii_only and not job.meta.smtputf8:
        return Letter(sender, job.meta, size, False, recipients, addresses)
    utf8 = "SMTPUTF8" in session.capabilities
    if not ascii_only:
        if not utf8:
            downgraded = [_ascii_domain(one) for one in (sender, *addresses)]
            if not all(one.isascii() for one in downgraded) or _eight_bit_header(reader):
                return _needs_utf8(session)
            sender, *addresses = downgraded
    elif job.meta.smtputf8 and not utf8 and _eight_bit_header(reader):
        return _needs_utf8(session)
    return Letter(sender, job.meta, size, utf8, recipients, addresses)


def _needs_utf8(session: Session) -> Failed:
    return Failed(f"{session.name} does not support SMTPUTF8, which this message needs", "5.6.7", None)


def _eight_bit_header(reader: Reader) -> bool:
    return not reader.header().isascii()


def _ascii_domain(address: str) -> str:
    """The address with its domain as A-labels (RFC 5891), or as it is when it has none; a non-ASCII local part stays as it is."""
    local, at, domain = address.rpartition("@")
    return address if domain.isascii() else f"{local}{at}{domain_key(domain)}"


def _too_many(outcome: Outcome) -> bool:
    """452 to RCPT beside recipients that were taken: the transaction was full (RFC 5321 4.5.3.1.10)."""
    if not isinstance(outcome, Deferred) or outcome.reply is None or outcome.reply.command != "RCPT":
        return False
    return outcome.reply.code in (452, 552) and outcome.enhanced in ("4.5.3", "4.0.0")


def _fate(session: Session, left: LeftJob, fault: str) -> JobResult | None:
    """The outcome of a job that a row left; None when it may go over another session."""
    match left.fate:
        case "refused" if left.reply is not None:
            code, enhanced, lines = left.reply
            outcome: Outcome = judge(session, PeerReply(code, enhanced, tuple(lines)), left.text)
        case "unreadable":
            outcome = Deferred(f"the queued message cannot be read: {left.text}", "4.3.0")
        case "begun" | "sent":
            when = " after the message was sent" if left.fate == "sent" else ""
            outcome = Deferred(f"{session.name}: {fault}{when}", "4.4.2")
        case _:
            return None
    return JobResult((outcome,), session.tls)


def _same(outcome: Outcome) -> Outcome:
    """For recipients that were not tried any more, for the reason their predecessors met."""
    return outcome if isinstance(outcome, Deferred) else Deferred("not tried in this session", "4.4.2")


def _unreadable(error: CoreError) -> Outcome:
    if isinstance(error, NotFoundError):
        return Deferred("the message is no longer in the queue", "4.3.0")
    return Deferred(f"the queued message cannot be read: {error}", "4.3.0")
