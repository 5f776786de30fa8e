"""A listening SMTP, submission or LMTP server: accepts, counts, keeps time, stops.

app/ makes one per listener and worker, with the shared ServerContext. Settings are looked at anew for each connection, and what
is derived from them (EHLO reply, trusted networks) is built again only when the settings object changed. One timer a second checks
all sessions; there is no timer per session. `stop` lets messages under way finish, up to the grace.
"""

import asyncio
import socket
from collections.abc import Iterable, Iterator, Sequence

from gatepost.config import Settings
from gatepost.message.envelope import Recipient
from gatepost.message.reply import Reply, SmtpError
from gatepost.native import Incoming, Line, RecipientSpec, Wire
from gatepost.policy.checks import check_utf8
from gatepost.policy.trust import TrustedNetworks, is_loopback
from gatepost.protocol.smtp.grammar import MailArgument, parse_mail, parse_rcpt
from gatepost.queue.plan import ParticularPlan, Planned, Refused
from gatepost.queue.recorded import Asking, Counted
from gatepost.routing.model import RuleSet
from gatepost.routing.rates import Known, counting, wants
from gatepost.routing.senders import Want
from gatepost.routing.stage_facts import ClientFacts, Facts, PartlyKnown
from gatepost.routing.stages import Rate
from gatepost.routing.trust import Client, Trust, trust_of
from gatepost.scan.edits import FIELD
from gatepost.server.acceptor import ACCEPT_PAUSE, TlsAcceptor
from gatepost.server.context import Listener, ServerContext
from gatepost.server.smtp.auth import SmtpSession
from gatepost.server.smtp.connection import Connection
from gatepost.server.smtp.session import MAX_PLANNED
from gatepost.server.smtp.stages import Stages, facts_of

TICK_SECONDS = 0.5
BACKLOG = 2048
NO_SPACE = Reply(452, "4.3.1", "not enough disk space, try again later")
QUEUE_CLOSED = Reply(421, "4.3.0", "queue is not available, try again later")
LMTP_NOT_FOR_ALL = Reply(421, "4.7.1", "LMTP is for this machine and trusted networks only")
NOT_IN_TIME = "what was taken cannot be counted; conditions with a rate are not met in time"
STOPPING = Reply(421, "4.3.2", "server is shutting down, try again later")


class SmtpServer:
    """One listener of one worker."""

    session_class: type[Connection] = SmtpSession

    def __init__(self, context: ServerContext, listener: Listener | str = Listener.SMTP) -> None:
        self.context = context
        self.listener = Listener(listener)
        self.needs_login = self.listener.needs_login
        self.log = context.log
        self.stopping = False
        self.accepted = self.refused = self._connected = 0
        self.not_receiving: Reply | None = None
        self.plain = self.listener is Listener.SMTP
        """Plain mail is taken natively."""
        self._sessions: set[Connection] = set()
        self.wire = Wire(self, self.session_class.commands, context.spool.native, context.connections.native)
        self._sockets: list[socket.socket] = []
        self._acceptor = TlsAcceptor(context.tls, context.log, self.listener)
        self._ticker: asyncio.Task[None] | None = None
        self._empty = asyncio.Event()
        self._ehlo: dict[tuple[bool, tuple[str, ...]], bytes] = {}
        self.use(context.settings())

    @property
    def stats(self) -> dict[str, int]:
        """sessions (open now), connected, accepted and refused messages since start."""
        without, connected, accepted = self.wire.plain
        return {
            "sessions": len(self._sessions) + without,
            "connected": self._connected + connected,
            "accepted": self.accepted + accepted,
            "refused": self.refused,
        }

    @property
    def sessions(self) -> set[Connection]:
        """All open connections; those the native side served without a session get one."""
        self.wire.wake()
        return self._sessions

    def use(self, settings: Settings) -> None:
        """Derive what depends on the settings."""
        self.settings = settings
        self.limits = settings.smtp
        self.trusted = TrustedNetworks(settings.trust.networks)
        self.wire.configure(settings.smtp.allow_bare_newlines)
        self.greeting = f"220 {self.context.hostname} {'LMTP' if self.listener is Listener.LMTP else 'ESMTP'} Gatepost\r\n".encode()
        self.helo_reply = f"250 {self.context.hostname}\r\n".encode()
        self._ehlo.clear()
        self.stages = Stages(self.context.rule_set(), settings.authentication.verify)
        if self.plain and not self.stopping:
            self.wire.agree(self._terms(), settings)

    def rules_changed(self) -> None:
        """Other rules are in force: what concerns clients and senders is found anew, also for connections that are open."""
        self._count_plain()
        self.stages = Stages(self.context.rule_set(), self.settings.authentication.verify)
        if self.plain and not self.stopping:
            self.wire.agree(self._terms(), self.settings)

    def _terms(self) -> dict[str, object]:
        smtp = self.limits
        return {
            "greeting": self.greeting,
            "helo_reply": self.helo_reply,
            "ehlo_reply": self.ehlo_reply(tls=False),
            "hostname": self.context.hostname,
            "listener": self.listener.value,
            "allow_bare": smtp.allow_bare_newlines,
            "max_message_bytes": smtp.max_message_bytes,
            "max_hops": smtp.max_hops,
            "max_recipients": smtp.max_recipients,
            "max_planned": MAX_PLANNED,
            "max_messages": smtp.max_messages_per_session,
            "max_connections": smtp.max_connections,
            "max_connections_per_client": smtp.max_connections_per_client,
            "at_connect": self.stages.at_connect,
            "at_helo": self.stages.at_helo,
            "at_mail": self.stages.at_mail,
            "at_rcpt": self.stages.at_rcpt,
            "asked_at_mail": self.stages.asked_at_mail,
            "asked_at_rcpt": self.stages.asked_at_rcpt,
            "at_data": self.stages.at_data,
            "conditions": self.stages.conditions,
            "asks_helo": self.stages.asks_helo,
            "counts": self._rates is not None,
            "records": self.context.recorder is not None,
            "scan_field": FIELD.encode() if self.context.gate is not None else b"",
        }

    # ---- life --------------------------------------------------------------------------------------------------------

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Listen on bound sockets."""
        self.loop = asyncio.get_running_loop()
        self._look_at_clock()
        self.stopping = False
        self.use(self.context.settings())
        self._look_at_spool()
        self._ticker = self.loop.create_task(self._tick())
        for sock in sockets:
            if self.listener.implicit_tls:
                self._acceptor.start(sock, BACKLOG, self._make_session, self._admit_tls, self.forget)
            else:
                self._listen(sock)

    def _listen(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
        sock.listen(BACKLOG)
        if not self._sockets:
            self.loop.add_reader(self.wire.fd, self._turn)
        self._sockets.append(sock)
        self.wire.listen(sock.fileno())

    def _turn(self) -> None:
        """Sockets are ready."""
        try:
            self.wire.turn()
        except OSError as error:
            self.log.error("cannot accept", listener=self.listener, error=str(error))
            self.loop.call_later(ACCEPT_PAUSE, self._accept_again)

    def _accept_again(self) -> None:
        if self._sockets:
            self.wire.accept_again()

    def _make_session(self) -> Connection:
        return self.session_class(self)

    def _admit_tls(self, session: Connection) -> bool:
        return self.admit(session) is None

    async def stop(self, grace: float) -> None:
        """Stop accepting; idle sessions get 421 and close; messages under way may finish within `grace` seconds."""
        self.stopping = True
        self.wire.stop_listening()
        for sock in self._sockets:
            sock.close()
        self._acceptor.close()
        self._count_plain(flush=True)
        for session in list(self.sessions):
            session.shut_down()
        if self._sessions:
            self._empty.clear()
            try:
                await asyncio.wait_for(self._empty.wait(), grace)
            except TimeoutError:
                self.log.warning("sessions cut off at shutdown", count=len(self._sessions), listener=self.listener)
        for session in list(self._sessions):
            session.abort()
        if self._sockets:
            self._sockets.clear()
            self.loop.remove_reader(self.wire.fd)
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._look_at_clock()
            self._look_at_spool()
            self._look_at_sessions()
            self._count_plain(flush=True)

    def _look_at_clock(self) -> None:
        self.now = self.loop.time()
        self.wire.set_now(self.now)

    def _look_at_spool(self) -> None:
        self.not_receiving = self._spool_state()
        self.wire.receive(self.not_receiving is None)

    def _look_at_sessions(self) -> None:
        smtp = self.limits
        self.wire.wake((smtp.idle_seconds, smtp.data_seconds, smtp.session_seconds))
        for session in list(self._sessions):
            session.check_time(self.now)

    def _spool_state(self) -> Reply | None:
        """Why no message can be taken now, if so."""
        spool = self.context.spool
        if spool.fatal is not None:
            return QUEUE_CLOSED
        return NO_SPACE if spool.low_space else None

    @property
    def farewell(self) -> Reply:
        """Why sessions have to go now: the queue failed, or the server stops."""
        return STOPPING if self.context.spool.fatal is None else QUEUE_CLOSED

    # ---- what the native side asks (see Wire) ------------------------------------------------------------------------

    def open_session(self, line: Line, client: str, port: int) -> Connection:
        """A new connection: counted, greeted or turned away."""
        session = self.session_class(self, line)
        session.begin(client, port)
        return session

    def resume_session(self, line: Line, client: str, port: int) -> Connection:
        """A connection that was counted and greeted natively."""
        session = self.session_class(self, line)
        session.resume(client, port)
        self._sessions.add(session)
        return session

    def current_settings(self) -> Settings:
        """The settings now."""
        return self.context.settings()

    def rule_set(self) -> RuleSet:
        """The rules now."""
        return self.context.rule_set()

    def standing(self, client: str) -> tuple[bool, bool, int]:
        """Whether it may have as many connections as it likes, whether it is trusted, and what may concern it."""
        who = Client(client)
        trusted = trust_of(self.stages.rule_set, who, Trust(client in self.trusted, "")).trusted
        return self._is_near(client), trusted, self.stages.of_client(who, trusted=trusted)

    def concerned_name(self, name: str) -> int:
        """What may concern a client that calls itself so."""
        return self.stages.of_name(name)

    def plain_sender(self, argument: str) -> tuple[MailArgument, str, str, bool, int] | None:
        """A MAIL that there is nothing to decide about: (parsed, reverse-path, BODY, has parameters, what may concern it)."""
        try:
            mail = parse_mail(argument)
        except SmtpError:
            return None
        given = mail.parameters
        plain = not (given.smtputf8 or given.ret or given.envid) and given.size <= self.limits.max_message_bytes
        if not plain or check_utf8(mail.sender, smtputf8=False) is not None:
            return None
        return mail, mail.text, given.body, mail.extended, self.stages.of_sender(mail.text)

    def plain_recipient(
        self, rule_set: RuleSet, argument: str, trusted: bool
    ) -> tuple[Recipient, Planned, str, bool, list[RecipientSpec], int, bytes | None, bool, int] | None:
        """A RCPT that is accepted without DSN parameters: (parsed, plan, address, has parameters, what the commit needs, rule version,
        what `Gate.plain` says, what may concern it).
        """
        try:
            rcpt = parse_rcpt(argument)
        except SmtpError:
            return None
        if rcpt.mailbox is None or rcpt.parameters.notify or rcpt.parameters.orcpt or check_utf8(rcpt.mailbox, smtputf8=False) is not None:
            return None
        recipient = Recipient(rcpt.text)
        plan = self.context.planner.plan(rule_set, "", recipient, trusted=trusted, delimiter=self.limits.recipient_delimiter)
        if isinstance(plan, Refused | ParticularPlan):
            return None
        gate = self.context.gate
        field, judged = (None, False) if gate is None else gate.plain(rule_set, rcpt.text, trusted=trusted)
        concerns = self.stages.of_recipient(rcpt.text, plan, trusted=trusted, looked_at=field is not None)
        specs = [one.spec() for one in plan]
        return recipient, plan, rcpt.text, rcpt.extended, specs, rule_set.version, field, judged, concerns

    def may_hold(
        self,
        stage: str,
        bits: int,
        client: tuple[str, str, bool, int],
        sender: str | None,
        recipient: tuple[str, Planned, bool] | None,
        incoming: Incoming | None,
    ) -> bool:
        """Whether a policy of a stage behind these bits may hold for plain mail. client: address, name, trusted, messages taken so far."""
        address, name, trusted, messages = client
        who = ClientFacts(address, self.listener.value, trusted=trusted, helo=name)
        facts = facts_of(who, sender, recipient, incoming)
        facts.rate = PartlyKnown(messages=messages, count=self.counting(facts))
        return self.stages.may_hold(stage, bits, facts)

    def asked(self) -> Iterator[Counted]:
        """What was taken natively since the last call, for the recorder."""
        for sender, recipient, trusted, client, helo, times in self.wire.take_asked():
            yield Asking(sender, recipient, trusted, client, helo=helo, listener=self.listener.value), times

    # ---- how much was sent lately ------------------------------------------------------------------------------------

    @property
    def _rates(self) -> frozenset[Rate] | None:
        """What conditions in force ask for, if there is anything and it can be counted."""
        policies = self.stages.policies
        return policies.rates if policies is not None and policies.rates and self.context.counters is not None else None

    def counting(self, facts: Facts) -> Known:
        """The function behind `rate` for these facts."""
        return counting(self._known if self.context.counters is not None else None, facts)

    def _known(self, key: str, seconds: int) -> int:
        self._count_plain()
        counters = self.context.counters
        return counters.known(key, seconds) if counters is not None else 0

    def count(self, client: str, user: str, sender: str, recipients: Iterable[str]) -> None:
        """Count a message that was taken, as far as conditions ask for it."""
        if (rates := self._rates) is not None:
            self._note(wants(rates, client, user, sender, recipients))

    def _note(self, counted: list[Want], times: int = 1) -> None:
        try:
            if self.context.counters is not None:
                self.context.counters.note(counted, times)
        except OSError as fault:
            self.log.error(NOT_IN_TIME, error=str(fault))

    def _count_plain(self, *, flush: bool = False) -> None:
        """Likewise what was taken natively since the last call. flush: for all workers to see."""
        if self._rates is None or self.context.counters is None:
            return
        for sender, recipient, _, client, _, times in self.wire.take_taken():
            self._note(self.stages.counted(client, sender, recipient), times)
        try:
            if flush:
                self.context.counters.flush()
        except OSError as fault:
            self.log.error(NOT_IN_TIME, error=str(fault))

    # ---- what sessions ask -------------------------------------------------------------------------------------------

    def admit(self, session: Connection) -> Reply | None:
        """Count a new connection, or say why it is turned away."""
        settings = self.context.settings()
        if settings is not self.settings:
            self.use(settings)
        client = session.client
        self._connected += 1
        if self.stopping:
            return self.farewell
        if self.listener is Listener.LMTP and not self._is_near(client):
            return LMTP_NOT_FOR_ALL
        smtp = settings.smtp
        refusal = self.context.connections.admit(client, smtp.max_connections, smtp.max_connections_per_client, self._is_near)
        if refusal is not None:
            self.log.info("connection refused", client=client, listener=self.listener, reply=refusal.text)
            return refusal
        self._sessions.add(session)
        return None

    def _is_near(self, client: str) -> bool:
        """On this machine or in a trusted network: no limit per client, and LMTP."""
        return is_loopback(client) or client in self.trusted

    def forget(self, session: Connection) -> None:
        """A connection is gone; one that was turned away was never counted."""
        if session in self._sessions:
            self._sessions.remove(session)
            self.context.connections.release(session.client)
            if self.stopping and not self._sessions:
                self._empty.set()

    def ehlo_reply(self, *, tls: bool) -> bytes:
        """The EHLO or LHLO reply; kept per set of mechanisms."""
        mechanisms = () if self.listener is Listener.LMTP else self.context.auth.mechanisms(tls)
        known = self._ehlo.get((tls, mechanisms))
        if known is None:
            known = self._ehlo[(tls, mechanisms)] = self._build_ehlo(tls, mechanisms)
        return known

    def _build_ehlo(self, tls: bool, mechanisms: tuple[str, ...]) -> bytes:
        lines = [
            self.context.hostname,
            "PIPELINING",
            f"SIZE {self.settings.smtp.max_message_bytes}",
            "8BITMIME",
            "SMTPUTF8",
            "ENHANCEDSTATUSCODES",
            "CHUNKING",
            "DSN",
        ]
        if not tls:
            lines.append("STARTTLS")
        if mechanisms:
            lines.append(f"AUTH {' '.join(mechanisms)}")
        lines.append("HELP")
        return Reply(250, "", "\n".join(lines)).encode()
