"""The commands of SMTP (RFC 5321 4.1.1) on one connection: greeting, HELO … QUIT, and what they may be called after.

`SmtpServer` makes one per connection. A method checks order, then syntax (protocol/smtp), then policy; SmtpError refuses. Message
content is in delivery of `DataPhase` (data.py), AUTH in auth.py. A mail transaction is one `Transaction`; it ends with the reply to the
end of data, RSET, a new HELO or EHLO, or TLS (RFC 5321 4.1.4). Recipients are routed at RCPT, and those routes are what is committed.
"""

from collections.abc import Awaitable, Sequence
from typing import Any

from aiosmtpd.smtp import Envelope as CommandEnvelope
from aiosmtpd.smtp import Session as CommandSession
from aiosmtpd.smtp import syntax

from gatepost.message.address import Address
from gatepost.message.envelope import Origin, Recipient
from gatepost.message.reply import Reply, SmtpError
from gatepost.policy.checks import NEED_LOGIN, TOO_BIG, check_own_address, check_utf8, postmaster_domain
from gatepost.policy.mail_auth import Results
from gatepost.policy.notices import Notices
from gatepost.policy.received import protocol_name
from gatepost.protocol.smtp.grammar import (
    MailArgument,
    MailParameters,
    RcptArgument,
    parse_helo,
    parse_mail,
    parse_rcpt,
)
from gatepost.queue.plan import ParticularPlan, Planned, Refused
from gatepost.queue.recorded import Asking
from gatepost.routing.senders import NO_CHOICE, Want, choice_of
from gatepost.routing.stage_facts import NOT_VERIFIED, UNKNOWN, AddressFacts, ClientFacts, Facts, RateFacts
from gatepost.routing.stages import Stage, StageAction
from gatepost.routing.trust import Client, Trust, trust_of
from gatepost.server.context import Listener
from gatepost.server.smtp.connection import Connection
from gatepost.server.smtp.policed import Effects, ask, changed_plan, route_facts
from gatepost.spool import PlannedRecipient

OK_MAIL = b"250 2.1.0 sender ok\r\n"
OK_RCPT = b"250 2.1.5 recipient ok\r\n"
OK = b"250 2.0.0 ok\r\n"
BYE = b"221 2.0.0 bye\r\n"
VRFY_ANSWER = b"252 2.5.2 cannot verify, but will take mail and try to deliver it\r\n"
GO_AHEAD_TLS = b"220 2.0.0 ready to start TLS\r\n"

NEED_EHLO = Reply(555, "5.5.4", "parameters need EHLO")
NEED_HELO = Reply(503, "5.5.1", "say HELO or EHLO first")
NEED_MAIL = Reply(503, "5.5.1", "MAIL first")
NESTED = Reply(503, "5.5.1", "a mail transaction is under way")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "too many recipients")
TOO_MANY_MESSAGES = Reply(421, "4.7.0", "too many messages in one session")
NO_EXPN = Reply(502, "5.5.1", "EXPN is not offered")
NO_TLS_TWICE = Reply(503, "5.5.1", "TLS is active already")
MAX_PLANNED = 20_000
"""Final recipients of one message, whatever its recipients expand to."""
HARVEST_FACTOR = 10
"""Refused recipients a session may have, as a multiple of max_bad_commands: stale lists pass, address guessing does not."""


NOT_COUNTED = Reply(451, "4.3.0", "limits cannot be counted now, try again later")


def limit_reply(seconds: int) -> Reply:
    """A sender has sent what it may; it is told when to come back."""
    time = f"{seconds} seconds" if seconds < 120 else f"{-(-seconds // 60)} minutes"
    return Reply(451, "4.7.1", f"you have sent as much as you may, come back in {time}")


def error(reply: Reply) -> SmtpError:
    """The exception that carries `reply`."""
    return SmtpError(reply.code, reply.enhanced, reply.text)


class ClientState(CommandSession):
    """aiosmtpd's Session with what we know of the client. Survives transactions; renewed by TLS."""

    peer: str
    ssl: dict[str, str] | None = None
    host_name: str | None = None
    extended_smtp = False
    authenticated: bool | None = None
    user = ""

    def __init__(self, peer: str, tls: str, trusted: bool) -> None:
        # Not super().__init__(): its deprecation machinery costs more than the rest of a session's set-up.
        self.peer = peer
        self.trusted = trusted
        if tls:
            self.ssl = {"tls": tls}


class Transaction(CommandEnvelope):
    """aiosmtpd's Envelope with parsed parameters and the routes of each recipient."""

    def __init__(self, mail_from: str, parameters: MailParameters) -> None:
        self.mail_from: str = mail_from
        self.parameters = parameters
        self.smtp_utf8 = parameters.smtputf8
        self.trusted = False
        """May this sender relay?"""
        self.choice = NO_CHOICE
        """What sender rules say."""
        self.results: Results | None = None
        """Where it comes from, as far as it is verified."""
        self.auth: Any = NOT_VERIFIED
        """The same for conditions; UNKNOWN while it is to be verified and was not."""
        self.effects = Effects()
        """What stage policies want done with the message."""
        self.withheld: list[Effects] = []
        """Likewise, with recipients."""
        self.recipients: list[Recipient] = []
        self.plans: list[tuple[PlannedRecipient, ...]] = []
        self.planned = 0
        """Final recipients so far: forwards make several of one."""

    def keep(self, mine: Effects) -> None:
        """What policies want because of a recipient that was taken; its plan is changed already."""
        own = (StageAction.HOLD, StageAction.QUARANTINE, StageAction.REROUTE)
        self.effects.done += [one for one in mine.done if one.action not in own]
        self.withheld.append(mine)


class Commands(Connection):
    """Every command but DATA, BDAT and AUTH."""

    session: ClientState
    envelope: Transaction | None
    lmtp = False

    def start_state(self) -> None:
        """A client we know nothing of but its address."""
        self.session = ClientState(self.client, self.tls, self.client in self.server.trusted)
        self.envelope = None
        self.messages = 0
        self.refused_recipients = 0
        self._session_effects, self._helo_effects = Effects(), Effects()

    def catch_up(
        self, helo: str, extended: bool, messages: int, sender: MailArgument | None, recipients: Sequence[tuple[Recipient, Planned]]
    ) -> None:
        """What was said while the native side answered: the recipients were promised, so their plans stay."""
        self.session.host_name = helo or None
        self.session.extended_smtp = extended
        self.messages = messages
        if sender is None:
            return
        self.envelope = self._begin_transaction(sender)
        for recipient, plan in recipients:
            self.envelope.recipients.append(recipient)
            self.envelope.plans.append(plan)
            self.envelope.planned += len(plan)

    def greet(self) -> None:
        """220, or what a policy says."""
        self.start_state()
        refused = self.ask_policies(Stage.CONNECT, self._session_effects)
        if refused is not None:
            self.close_with(refused)
            return
        self.line.send(self.server.greeting)

    def ask_policies(self, stage: Stage, effects: Effects, *, trusted: bool | None = None, **facts: object) -> Reply | None:
        """What the policies of a stage refuse, if anything; what else they want done goes into `effects`."""
        policies = self.server.stages.policies
        if policies is None or not policies.by_stage[stage]:
            return None
        known, context = Facts(client=self._client_facts(trusted)), self.server.context
        for name, value in facts.items():
            setattr(known, name, value)
        known.rate = RateFacts(self.messages, self.refused_recipients, self.server.counting(known))
        tell = Notices(self.server.log, context.events)
        return ask(policies, stage, known, effects, lambda wants: self.over_limit(wants, count=True), tell)

    def _client_facts(self, trusted: bool | None) -> ClientFacts:
        session = self.session
        relays = self._is_trusted(None) if trusted is None else trusted
        names = (self.client, self.server.listener.value, session.user)
        return ClientFacts(*names, bool(self.tls), relays, session.host_name or "", self.certificate[1])

    def on_tls(self) -> None:
        """RFC 3207 4.2: begin anew, without a second greeting. What policies want because of the connection stays."""
        wanted = self._session_effects
        self.start_state()
        self._session_effects = wanted

    def end_transaction(self) -> None:
        """Forget sender and recipients."""
        self.envelope = None

    # ---- session commands --------------------------------------------------------------------------------------------

    @syntax("HELO hostname")
    def smtp_HELO(self, hostname: str) -> None:
        """RFC 5321 4.1.1.1; no extensions."""
        self._hello(hostname)
        self.session.extended_smtp = False
        self.end_transaction()
        self.line.send(self.server.helo_reply)

    @syntax("EHLO hostname")
    def smtp_EHLO(self, hostname: str) -> None:
        """RFC 5321 4.1.1.1; also ends a transaction."""
        self._hello(hostname)
        self.session.extended_smtp = True
        self.end_transaction()
        self.send(self.server.ehlo_reply(tls=bool(self.tls)))

    def _hello(self, hostname: str) -> None:
        self.session.host_name = parse_helo(hostname)
        self._helo_effects = Effects()
        refused = self.ask_policies(Stage.HELO, self._helo_effects)
        if refused is not None:
            self.session.host_name = None
            raise error(refused)

    @syntax("NOOP [text]")
    def smtp_NOOP(self, arg: str) -> None:
        """Nothing, politely."""
        self.send(OK)

    @syntax("RSET")
    def smtp_RSET(self, arg: str) -> None:
        """End the transaction, keep the session."""
        if arg.strip():
            raise SmtpError(501, "5.5.4", "syntax: RSET")
        self.end_transaction()
        self.send(OK)

    @syntax("QUIT")
    def smtp_QUIT(self, arg: str) -> None:
        """Say good-bye and close."""
        self.line.send(BYE)
        self.line.close()

    @syntax("VRFY address")
    def smtp_VRFY(self, arg: str) -> None:
        """RFC 5321 7.3: no confirmation of who exists."""
        if not arg.strip():
            raise SmtpError(501, "5.5.4", "syntax: VRFY address")
        self.send(VRFY_ANSWER)

    async def smtp_EXPN(self, arg: str) -> None:
        """Lists are not shown."""
        raise error(NO_EXPN)

    @syntax("HELP [command]")
    def smtp_HELP(self, arg: str) -> None:
        """Names the commands, or the syntax of one."""
        if arg.strip():
            method, _ = self.commands.get(arg.strip().upper().encode("utf-8"), (None, 0))
            text = getattr(method, "__smtp_syntax__", None)
            if text is None:
                raise SmtpError(504, "5.5.4", "no help for that")
            self.send(f"214 2.0.0 syntax: {text}\r\n".encode())
            return
        names = " ".join(sorted(name.decode() for name in self.commands))
        self.send(f"214 2.0.0 commands: {names}\r\n".encode())

    @syntax("STARTTLS")
    def smtp_STARTTLS(self, arg: str) -> None:
        """RFC 3207. What was pipelined behind it is discarded, and the session begins anew under TLS."""
        if arg.strip():
            raise SmtpError(501, "5.5.4", "syntax: STARTTLS")
        if self.tls:
            raise error(NO_TLS_TWICE)
        self.send(GO_AHEAD_TLS)
        self.begin_tls()

    # ---- transaction commands ----------------------------------------------------------------------------------------

    @syntax("MAIL FROM:<address> [parameters]")
    def smtp_MAIL(self, arg: str) -> Awaitable[None] | None:
        """RFC 5321 4.1.1.2 with SIZE, BODY, SMTPUTF8, RET, ENVID, AUTH."""
        session, server = self.session, self.server
        if session.host_name is None:
            raise error(NEED_HELO)
        if server.needs_login and not session.user:
            raise error(NEED_LOGIN)
        if self.envelope is not None:
            raise error(NESTED)
        mail = parse_mail(arg)
        if mail.extended and not session.extended_smtp:
            raise error(NEED_EHLO)
        refusal = self._check_sender(mail.sender, mail.parameters)
        if refusal is not None:
            raise error(refusal)
        made = self._begin_transaction(mail)
        refusal = made.choice.refusal(mail.text) or self.over_limit(made.choice.wants(1, 0))
        if refusal is not None:
            raise error(refusal)
        if made.auth is UNKNOWN:
            return self._verified_sender(made)
        self._take_sender(made)
        return None

    async def _verified_sender(self, made: Transaction) -> None:
        """Wait for what the DNS says of a sender."""
        authentication = self.server.context.authentication
        assert authentication is not None
        spf = await authentication.spf(self.client, self.session.host_name or "", made.mail_from)
        made.results = Results(spf)
        made.auth = made.results.facts()
        self._take_sender(made)

    def _take_sender(self, made: Transaction) -> None:
        """The beginning of a transaction, unless policies refuse it."""
        about = {"sender": AddressFacts(made.mail_from), "auth": made.auth}
        refusal = self.ask_policies(Stage.MAIL, made.effects, trusted=made.trusted, **about)
        if refusal is not None:
            raise error(refusal)
        self.envelope = made
        self.line.send(OK_MAIL)

    def _begin_transaction(self, mail: MailArgument) -> Transaction:
        made = Transaction(mail.text, mail.parameters)
        made.trusted = self._is_trusted(mail.text)
        made.effects.done += self._session_effects.done + self._helo_effects.done
        if self._is_verified(made):
            made.auth = UNKNOWN
        rule_set = self.server.context.rule_set()
        if rule_set.sender_rules:
            made.choice = choice_of(rule_set, self.who(mail.text))
        return made

    def _is_verified(self, made: Transaction) -> bool:
        """Whether it is looked for where a message comes from: over SMTP, from those who are not trusted."""
        server = self.server
        if not server.stages.verifies or made.trusted or self.session.user or server.context.authentication is None:
            return False
        return server.listener is Listener.SMTP

    def over_limit(self, wants: Sequence[Want], *, count: bool = False) -> Reply | None:
        """Why so much more is not taken now; with `count` it is counted where it is."""
        counters = self.server.context.counters
        if not wants or counters is None:
            return None
        try:
            seconds = counters.take(wants) if count else counters.wait(wants)
        except OSError as fault:
            self.server.log.error("limits cannot be counted; mail of limited senders waits", error=str(fault))
            return NOT_COUNTED
        return limit_reply(seconds) if seconds else None

    def _is_trusted(self, sender: str | None) -> bool:
        rule_set, session = self.server.context.rule_set(), self.session
        if not rule_set.trust:
            return session.trusted
        return trust_of(rule_set, self.who(sender), Trust(session.trusted, "")).trusted

    def who(self, sender: str | None = None) -> Client:
        """Who is there, as trust entries and sender rules see it."""
        return Client(self.client, self.session.user, *self.certificate, sender)

    def _check_sender(self, sender: Address | None, parameters: MailParameters) -> Reply | None:
        """Order: what is wrong for good, then what may pass later."""
        server = self.server
        smtp = server.limits
        refusal = check_utf8(sender, parameters.smtputf8)
        if refusal is None and parameters.size > smtp.max_message_bytes:
            refusal = TOO_BIG
        if refusal is None and server.needs_login:
            refusal = check_own_address(server.context.rule_set(), sender, self.session.user, smtp.recipient_delimiter)
        limit = smtp.max_messages_per_session
        if refusal is None and limit and self.messages >= limit:
            refusal = TOO_MANY_MESSAGES
        return refusal or server.not_receiving

    @syntax("RCPT TO:<address> [parameters]")
    def smtp_RCPT(self, arg: str) -> Awaitable[None] | None:
        """RFC 5321 4.1.1.3 with NOTIFY and ORCPT. The routes are decided here, so an unknown recipient is refused here."""
        envelope = self.envelope
        if envelope is None:
            raise error(NEED_MAIL)
        if self.receiving_chunks:
            raise error(NESTED)
        rcpt = parse_rcpt(arg)
        if rcpt.extended and not self.session.extended_smtp:
            raise error(NEED_EHLO)
        smtp = self.server.limits
        if len(envelope.recipients) >= smtp.max_recipients:
            self.reply(TOO_MANY_RECIPIENTS)  # not counted as an error: RFC 5321 4.5.3.1.10 makes it a client's normal life
            return None
        recipient = Recipient(self._recipient_address(rcpt, envelope), rcpt.parameters.notify, rcpt.parameters.orcpt)
        refusal = self.over_limit(envelope.choice.wants(0, len(envelope.recipients) + 1))
        if refusal is not None:
            self.reply(refusal)
            return None
        self._record(envelope, recipient.address)
        mine = Effects()
        refusal = self.ask_policies(Stage.RCPT, mine, trusted=envelope.trusted, **self._about(envelope, recipient))
        if refusal is not None:
            self._refuse_recipient(Refused(recipient, refusal))
            return None
        plan = self.server.context.planner.plan(
            self.server.context.rule_set(),
            envelope.mail_from,
            recipient,
            trusted=envelope.trusted,
            delimiter=smtp.recipient_delimiter,
            size=envelope.parameters.size,
            tls=bool(self.tls),
            client=self.client,
            user=self.session.user,
        )
        if isinstance(plan, Refused):
            self._refuse_recipient(plan)
            return None
        verifier, check = self.server.context.verifier, plan.verify if isinstance(plan, ParticularPlan) else None
        if verifier is None or check is None:
            self._take_recipient(recipient, plan, mine)
            return None
        return self._verified(verifier.ask(check), recipient, plan, mine)

    def _record(self, envelope: Transaction, recipient: str) -> None:
        """For rehearsals: who asks, before anything has been said to it."""
        recorder, session = self.server.context.recorder, self.session
        if recorder is not None:
            names = session.user, bool(self.tls), session.host_name or "", self.server.listener.value, *self.certificate
            recorder.note(Asking(envelope.mail_from, recipient, envelope.trusted, self.client, *names))

    async def _verified(self, answer: Awaitable[Reply | None], recipient: Recipient, plan: Planned, mine: Effects) -> None:
        """Wait for the next hop's word on a recipient."""
        refusal = await answer
        if refusal is None:
            self._take_recipient(recipient, plan, mine)
        else:
            self._refuse_recipient(Refused(recipient, refusal))

    def _about(self, envelope: Transaction, recipient: Recipient) -> dict[str, Any]:
        return {"sender": AddressFacts(envelope.mail_from), "recipient": AddressFacts(recipient.address), "auth": envelope.auth}

    def _take_recipient(self, recipient: Recipient, plan: Planned, mine: Effects) -> None:
        """A routed recipient, unless policies refuse it."""
        envelope = self.envelope
        assert envelope is not None  # only the end of a transaction takes it away, and no command runs beside this one
        if self.server.stages.policies is not None:
            about = self._about(envelope, recipient)
            refusal = self.ask_policies(Stage.ROUTE, mine, trusted=envelope.trusted, route=route_facts(plan), **about)
            if refusal is not None:
                self._refuse_recipient(Refused(recipient, refusal))
                return
            plan = changed_plan(plan, recipient, mine)
            envelope.keep(mine)
        envelope.planned += len(plan)
        if envelope.planned > MAX_PLANNED:
            self.reply(TOO_MANY_RECIPIENTS)
            return
        envelope.recipients.append(recipient)
        envelope.plans.append(plan)
        self.line.send(OK_RCPT)

    def _recipient_address(self, rcpt: RcptArgument, envelope: Transaction) -> str:
        if rcpt.mailbox is None:
            return f"{rcpt.path}@{postmaster_domain(self.server.context.rule_set(), self.server.context.hostname)}"
        refusal = check_utf8(rcpt.mailbox, envelope.smtp_utf8)
        if refusal is not None:
            raise error(refusal)
        return rcpt.text

    def _refuse_recipient(self, refused: Refused) -> None:
        self.reply(refused.reply)
        self.refused_recipients += 1
        self.server.log.info(
            "recipient refused",
            client=self.client,
            recipient=refused.recipient.address,
            reply=f"{refused.reply.code} {refused.reply.enhanced}",
        )
        if self.refused_recipients >= HARVEST_FACTOR * self.server.settings.smtp.max_bad_commands:
            self.close_with(Reply(421, "4.7.0", "too many refused recipients"))

    # ---- shared ------------------------------------------------------------------------------------------------------

    @property
    def receiving_chunks(self) -> bool:
        """True between the first BDAT and the last; data.py knows."""
        return False

    def origin(self) -> Origin:
        """Where the message of this transaction comes from."""
        session, envelope = self.session, self.envelope
        protocol = protocol_name(
            lmtp=self.lmtp,
            extended=session.extended_smtp,
            tls=bool(self.tls),
            authenticated=bool(session.user),
            utf8=envelope is not None and envelope.smtp_utf8,
        )
        return Origin(protocol, self.client, self.client_port, session.host_name or "", session.user, self.tls, self.server.listener)
