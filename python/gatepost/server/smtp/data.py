"""DATA and BDAT: message content from the connection into the spool, and the reply that the commit decides.

End of data is CR LF . CR LF and nothing else; the native receiver finds it, undoes dot-stuffing and notes defects. A message with a
defect is read to its proper end, refused, and after a bare CR or LF the connection is closed: what follows could be a smuggled
transaction. Then it passes the gate (scan/gate.py); while it is inspected the line is held. 250 is sent only after `spool.commit` said
that the message is on disk.
"""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, cast

from aiosmtpd.smtp import syntax

from gatepost.message.envelope import Envelope, Origin
from gatepost.message.fields import HeaderView
from gatepost.message.ids import format_message_id
from gatepost.message.reply import Reply, SmtpError
from gatepost.message.verdict import Verdict
from gatepost.native import CoreError, Incoming, new_message_id
from gatepost.policy.authors import authors
from gatepost.policy.checks import SMUGGLING_DEFECTS, TOO_BIG, MessageFacts, check_message, defect_reply
from gatepost.policy.header_edits import header_edits
from gatepost.policy.mail_auth import Mail
from gatepost.policy.mail_auth.field import field_of, forged
from gatepost.policy.received import missing_fields, received_lead, received_tail
from gatepost.protocol.smtp.grammar import parse_bdat
from gatepost.queue.authors import judge_authors
from gatepost.queue.passage import copies, pass_through
from gatepost.queue.plan import merge_planned, size_limit
from gatepost.routing.senders import NO_CHOICE
from gatepost.routing.stage_facts import NOT_VERIFIED, AddressFacts, scan_facts
from gatepost.routing.stage_facts import MessageFacts as MailSeen
from gatepost.routing.stages import Stage
from gatepost.scan.facts import MailFacts
from gatepost.scan.gate import FAULT, UNSEEN, Gate, Passage
from gatepost.scan.judge import Fate
from gatepost.server.smtp.changes import Pending, masqueraded
from gatepost.server.smtp.intake import Intake
from gatepost.server.smtp.policed import changed_plan, copies_for, verdict_with, with_results
from gatepost.server.smtp.session import NEED_MAIL, Commands, Transaction, error
from gatepost.server.smtp.stages import Fields
from gatepost.spool import reply_for

GO_AHEAD = b"354 end data with <CR><LF>.<CR><LF>\r\n"
NO_RECIPIENTS = Reply(554, "5.5.1", "no valid recipients")
MIXED = Reply(503, "5.5.1", "DATA after BDAT is not allowed")
CHUNKS_FAILED = Reply(503, "5.5.1", "message was refused, send RSET")
DRAIN_EVERY = 262_144
"""Octets between looks at how much the spool has not synced yet."""
TOLD = 20
"""Recipients and findings of a refused message that the log tells."""


class Messages(Commands):
    """Adds DATA and BDAT."""

    no_recipients = NO_RECIPIENTS
    _intake: Intake | None = None
    _origin: Origin
    _committed: tuple[str, int] = ("", 0)
    """Id in text form and number of recipients of the message being committed."""
    _passage = UNSEEN
    _pending: Pending | None = None
    """Changes of the message being committed that come from elsewhere than the gate."""
    _fates: dict[str, Fate]
    _chunk_left = 0
    _chunk_size = 0
    _chunk_last = False
    _chunk_refusal: Reply | None = None
    _chunks_failed = False
    _next_drain = 0

    @property
    def receiving_chunks(self) -> bool:
        """True between the first BDAT and the last."""
        return self._intake is not None or self._chunks_failed

    def end_transaction(self) -> None:
        """Forget sender, recipients and what was received."""
        self.envelope = None
        self._chunks_failed = False
        self.drop_intake()
        lasting = self._session_effects.done or self._helo_effects.done
        if self.server.plain and not (self.tls or self.session.user or lasting):
            self.line.hand_back(self.session.host_name or "", self.session.extended_smtp, self.messages)

    def drop_intake(self) -> None:
        """Abort a message that is not whole."""
        intake, self._intake = self._intake, None
        if intake is not None:
            intake.abort()

    def on_lost(self) -> None:
        """Nothing of an unfinished message is kept."""
        self.drop_intake()

    # ---- DATA --------------------------------------------------------------------------------------------------------

    @syntax("DATA")
    def smtp_DATA(self, arg: str) -> None:
        """RFC 5321 4.1.1.4."""
        if arg.strip():
            raise SmtpError(501, "5.5.4", "syntax: DATA")
        if self.receiving_chunks:
            raise error(MIXED)
        if self.envelope is not None and not self.envelope.recipients:
            self.reply(self.no_recipients)  # not counted: pipelining clients send DATA whatever became of RCPT (RFC 2920 3.1)
            return
        self._need_recipients()
        self._begin()
        assert self._intake is not None
        if self._intake.incoming is None:
            self.line.take_by(self._take_header)
        else:
            self.line.take_data(self._intake.incoming)
        self.line.send(GO_AHEAD)

    def _need_recipients(self) -> None:
        if self.envelope is None:
            raise error(NEED_MAIL)
        if not self.envelope.recipients:
            raise error(self.no_recipients)

    def _begin(self) -> None:
        """Start the message in the spool, on submission not before its header is known."""
        server = self.server
        self._origin = self.origin()
        self._next_drain = DRAIN_EVERY
        try:
            if server.needs_login:
                self._intake = Intake(None, self._open_submitted)
            else:
                self._intake = Intake(self._open_message(), self._open_submitted)
        except CoreError as fault:
            raise error(reply_for(fault)) from fault

    def _trace_field(self) -> tuple[bytes, bytes]:
        """What stands before and behind the message's id."""
        envelope, origin = self.envelope, self._origin
        assert envelope is not None
        lead = received_lead(origin.helo, origin.client_address, self.server.context.hostname, origin.protocol)
        recipients = envelope.recipients
        return lead, received_tail(recipients[0].address if len(recipients) == 1 else "", origin.tls)

    def _open_message(self) -> Incoming:
        smtp = self.server.limits
        lead, tail = self._trace_field()
        return self.server.context.spool.begin(lead, tail, self._largest(), smtp.allow_bare_newlines)

    def _largest(self) -> int:
        """Octets that the server and every recipient take: the native side refuses more at the end of data."""
        most = self.server.limits.max_message_bytes
        own = size_limit(self.envelope.plans) if self.envelope is not None else 0
        return min(own, most) if own else most

    def _open_submitted(self, header: bytes | None) -> Incoming:
        """With the fields its header lacks."""
        server = self.server
        message_id = new_message_id()
        identity = format_message_id(message_id)
        lead, tail = self._trace_field()
        prefix = lead + identity.encode() + tail
        if header is not None:
            prefix += missing_fields(header, message_id=identity, host=server.context.hostname)
        smtp = server.limits
        return server.context.spool.receive(
            prefix=prefix, max_bytes=self._largest(), allow_bare=smtp.allow_bare_newlines, message_id=message_id
        )

    def _take_header(self, data: bytes) -> int:
        """Sink while a submitted message's header is kept back; the native side takes over behind it."""
        intake = self._intake
        assert intake is not None
        used = intake.feed(data)
        if intake.done:
            self.line.take_by(None)
            self.end_of_data()
        elif intake.incoming is not None:
            self.line.take_data(intake.incoming, intake.taken)
        return used

    def end_of_data(self) -> None:
        """CR LF . CR LF was seen."""
        assert self._intake is not None
        assert self._intake.incoming is not None
        self._end_of_message(self._intake.incoming, chunked=False)

    def congested(self) -> None:
        """Back-pressure: a client that is faster than the disk waits."""
        self.hold(self.server.context.spool.drain())

    # ---- BDAT (RFC 3030) ---------------------------------------------------------------------------------------------

    @syntax("BDAT size [LAST]")
    def smtp_BDAT(self, arg: str) -> None:
        """A chunk of counted octets follows at once, so whatever is wrong, they are read before the reply is sent."""
        self._chunk_size, self._chunk_last = parse_bdat(arg)
        self._chunk_left = self._chunk_size
        try:
            self._chunk_refusal = self._check_chunk()
        except SmtpError as refusal:
            self._chunk_refusal = refusal.reply
        if self._chunk_left:
            self.line.take_by(self._take_chunk)
        else:
            self._end_of_chunk()

    def _check_chunk(self) -> Reply | None:
        if self._chunks_failed:
            return CHUNKS_FAILED
        self._need_recipients()
        if self._intake is None:
            self._begin()
        assert self._intake is not None
        if self._intake.taken + self._chunk_size > self.server.settings.smtp.max_message_bytes:
            return TOO_BIG
        return None

    def _take_chunk(self, data: bytes) -> int:
        """Sink while the octets of a chunk arrive."""
        used = min(len(data), self._chunk_left)
        if self._chunk_refusal is None:
            assert self._intake is not None
            self._intake.feed_raw(memoryview(data)[:used])
            if self._intake.taken >= self._next_drain:
                self._next_drain = self._intake.taken + DRAIN_EVERY
                if self.server.context.spool.congested():
                    self.congested()
        self._chunk_left -= used
        if not self._chunk_left:
            self.line.take_by(None)
            self._end_of_chunk()
        return used

    def _end_of_chunk(self) -> None:
        refusal = self._chunk_refusal
        if refusal is not None:
            self._chunks_failed = self.envelope is not None
            self.drop_intake()
            self.refuse(refusal)
        elif self._chunk_last:
            assert self._intake is not None
            self._end_of_message(self._intake.finish(), chunked=True)
        else:
            self.send(f"250 2.0.0 {self._chunk_size} octets taken\r\n".encode())

    # ---- end of message ----------------------------------------------------------------------------------------------

    def _end_of_message(self, incoming: Incoming, *, chunked: bool) -> None:
        """Last checks, then the one commit point."""
        envelope = self.envelope
        assert envelope is not None
        defect, received, bare, identity = incoming.verdict()
        refusal = defect_reply(defect) if defect is not None else self._check_facts(received, bare and chunked)
        if refusal is not None:
            self._refuse_message(refusal, closing=defect in SMUGGLING_DEFECTS)
            return
        verified = envelope.auth is not NOT_VERIFIED
        self._pending = Pending(incoming) if verified or self.server.stages.policies is not None else None
        if envelope.choice is not NO_CHOICE:
            refusal = self._by_sender(incoming, envelope)
            if refusal is not None:
                self._refuse_message(refusal, closing=False)
                return
        self._intake = None
        self._committed = identity, len(envelope.recipients)
        self._pass_gate(incoming)

    def _by_sender(self, incoming: Incoming, envelope: Transaction) -> Reply | None:
        """What sender rules have to say of a whole message: who may stand in From, limits, other addresses."""
        choice, header = envelope.choice, incoming.header()
        refusals = (choice.refusal(address, "From") for address in authors(header)) if choice.allowed is not None else ()
        refusal = next((one for one in refusals if one is not None), None)
        refusal = refusal or self.over_limit(choice.wants(1, len(envelope.recipients)), count=True)
        if refusal is None and choice.masquerade is not None and envelope.mail_from:
            before = envelope.mail_from.rpartition("@")[2]
            self._pending = self._pending or Pending(incoming)
            self._pending.edits += masqueraded(header, before, choice.masquerade.masquerade)
        return refusal

    def _pass_gate(self, message: Incoming) -> None:
        """Have a message looked into, then commit it."""
        gate, envelope = self.server.context.gate, self.envelope
        assert envelope is not None
        if envelope.auth is not NOT_VERIFIED:
            mailed = self._facts(gate).recipients if gate is not None else ()
            self._wait_for(self._authenticated(message, envelope, gate), message, mailed)
            return
        if gate is None:
            self._commit_or_refuse(message, UNSEEN)
            return
        mail, incoming = self._facts(gate), cast(Incoming, self._pending or message)
        try:
            passage = gate.glance(incoming, mail)
        except CoreError as fault:
            self._refuse_message(reply_for(fault), closing=False)
            return
        if passage is not None:
            self._commit_or_refuse(message, passage)
            return
        self._wait_for(gate.inspect(incoming, mail), message, mail.recipients)

    def _wait_for(self, passage: Coroutine[Any, Any, Passage], message: Incoming, mailed: tuple[str, ...]) -> None:
        """Hold the line until it is known how a message passes."""
        self.line.committing = True
        self.line.hold()
        asyncio.ensure_future(passage).add_done_callback(partial(self._inspected, message, mailed))

    async def _authenticated(self, message: Incoming, envelope: Transaction, gate: Gate | None) -> Passage:
        """Find out where a message comes from, have its header say so, and pass the gate."""
        context, origin, pending = self.server.context, self._origin, self._pending
        authentication = context.authentication
        assert authentication is not None
        assert pending is not None
        known = envelope.results  # of rules that came into force since MAIL nothing is known yet
        spf = known.spf if known is not None else await authentication.spf(self.client, origin.helo, envelope.mail_from)
        header = message.header()
        results = await authentication.content(Mail(header, message.size, message.content().read), spf)
        envelope.results, envelope.auth = results, results.facts()
        pending.front += field_of(context.hostname, results, envelope.mail_from, origin.helo)
        pending.edits += [(one.start, one.end, b"") for one in forged(HeaderView(header), context.hostname)]
        if gate is None:
            return UNSEEN
        mail, incoming = self._facts(gate), cast(Incoming, pending)
        passage = gate.glance(incoming, mail)
        return passage if passage is not None else await gate.inspect(incoming, mail)

    def _facts(self, gate: Gate) -> MailFacts:
        envelope, context = self.envelope, self.server.context
        assert envelope is not None
        addresses = [one.address for one in envelope.recipients]
        return gate.facts(
            context.rule_set(), addresses, trusted=envelope.trusted, sender=envelope.mail_from, origin=self._origin, replies_each=self.lmtp
        )

    def _inspected(self, incoming: Incoming, mailed: tuple[str, ...], inspection: "asyncio.Future[Passage]") -> None:
        """The gate has decided; until now nothing was promised, so a client that went away has to send the message again."""
        fault = None if inspection.cancelled() else inspection.exception()
        passage = Passage(refused=FAULT) if inspection.cancelled() or fault is not None else inspection.result()
        if fault is not None:
            self.server.log.error("a message could not be looked into", exc_info=fault, client=self.client)
        if self._lost:
            incoming.abort()
            return
        refused = passage.refused or self._ask_about_data(incoming, passage)
        if refused is None:
            self._commit(incoming, passage, mailed)
            return
        incoming.abort()
        self.line.committing = False
        self.line.release()
        self._refuse_message(refused, closing=False, verdict=passage.verdict)
        self._go_on(leaving=False)

    def _commit_or_refuse(self, incoming: Incoming, passage: Passage) -> None:
        """Of a message that did not have to wait."""
        refused = self._ask_about_data(incoming, passage)
        if refused is None:
            self._commit(incoming, passage)
        else:
            incoming.abort()
            self._refuse_message(refused, closing=False)

    def _ask_about_data(self, incoming: Incoming, passage: Passage) -> Reply | None:
        """Stage policies: what they refuse, and the changes of the header that they want."""
        envelope = self.envelope
        assert envelope is not None
        if self.server.stages.policies is None:
            return None
        fields, verdict = Fields(incoming), passage.verdict
        message = MailSeen(incoming.size, [one.address for one in envelope.recipients], fields)
        scan = scan_facts(verdict)
        facts = {"sender": AddressFacts(envelope.mail_from), "message": message, "scan": scan, "auth": envelope.auth}
        refused = self.ask_policies(Stage.DATA, envelope.effects, trusted=envelope.trusted, **facts)
        if refused is None and envelope.effects.done:
            view = fields.view
            front, edits = header_edits(view.places, view.octets, envelope.effects.done)
            if self._pending is not None:
                self._pending.front += front
                self._pending.edits += edits
        return refused

    def _commit(self, incoming: Incoming, passage: Passage, mailed: tuple[str, ...] = ()) -> None:
        """The one commit point."""
        envelope, context = self.envelope, self.server.context
        assert envelope is not None
        self.line.committing = True
        self.line.hold()
        if self._pending is not None:
            try:
                self._pending.finish()
            except CoreError as fault:
                incoming.abort()
                self._after_commit(fault)
                return
        rule_set = context.rule_set()
        if envelope.effects.done or envelope.withheld:
            passage = self._with_effects(passage, envelope)
        if envelope.results is not None:
            passage = replace(passage, verdict=with_results(passage.verdict, envelope.results, time.time()))
        plans = pass_through(passage, mailed, envelope.recipients, judge_authors(envelope.plans, incoming.header))
        plans += copies(context.planner, passage, rule_set, context.hostname, self.server.limits.recipient_delimiter)
        planned = plans[0] if len(plans) == 1 else merge_planned(plans)
        self._fates = dict(zip(mailed, passage.fates, strict=False))
        self._passage = passage
        committed = self._committed_envelope(passage.verdict)
        context.spool.commit_then(incoming, committed, planned, rule_set.version, self._after_commit)

    def _with_effects(self, passage: Passage, envelope: Transaction) -> Passage:
        """What stage policies want done with the recipients of a message."""
        everyone = (envelope.effects, *envelope.withheld)
        both = zip(envelope.plans, envelope.recipients, strict=True)
        envelope.plans = [changed_plan(plan, recipient, envelope.effects) for plan, recipient in both]
        extra = tuple(one.address for one in copies_for(everyone))
        return replace(passage, copies=(*passage.copies, *extra), verdict=verdict_with(passage.verdict, everyone, time.time()))

    def _check_facts(self, received: int, bare: bool) -> Reply | None:
        """Bare line ends: DATA has them refused or mended by the native receiver, but chunks are kept octet for octet, so they are
        refused whatever the settings say.
        """
        return check_message(MessageFacts(received, bare), self.server.limits.max_hops)

    def _committed_envelope(self, verdict: Verdict | None) -> Envelope:
        envelope = self.envelope
        assert envelope is not None
        given = envelope.parameters
        recipients = tuple(envelope.recipients)
        sender = envelope.choice.masked(envelope.mail_from)
        return Envelope(sender, recipients, self._origin, given.envid, given.ret, given.body, given.smtputf8, verdict=verdict)

    def _refuse_message(self, refusal: Reply, *, closing: bool, verdict: Verdict | None = None) -> None:
        """Refuse a message that was read to its end."""
        assert self.envelope is not None
        count = len(self.envelope.recipients)
        self.server.refused += 1
        about: dict[str, object] = {"client": self.client, "sender": self.envelope.mail_from, "reply": f"{refusal.code} {refusal.text}"}
        if verdict is not None:
            recipients = [one.address for one in self.envelope.recipients[:TOLD]]
            about |= {"recipients": recipients, "verdict": verdict.text, "findings": [one.path for one in verdict.findings[:TOLD]]}
        self.server.log.info("message refused", **about)
        self.end_transaction()
        self.answer_message(refusal, count)
        if closing or refusal.code == 421:
            self.close_soon()

    def adopt(self, incoming: Incoming) -> None:
        """A plain message ended and is not to be taken: `catch_up` was called before."""
        self._origin = self.origin()
        self._intake = Intake(incoming, self._open_submitted)
        self.end_of_data()

    def commit_failed(self, identity: str, fault: CoreError) -> None:
        """A plain message could not be committed: `catch_up` was called before."""
        self._committed = identity, 1
        self._after_commit(fault)

    def _after_commit(self, fault: CoreError | None) -> None:
        """The spool's verdict is there: 250 if the message is on disk, else why not."""
        self.line.committing = False
        identity, recipients = self._committed
        if fault is None:
            self.server.accepted += 1
            self._count_taken()
            reply = Reply(250, "2.0.0", f"{identity} queued")
        else:
            reply = reply_for(fault)
        if self._lost:
            return
        self.messages += 1
        replies = self._replies(reply) if fault is None else None
        self.end_transaction()
        self.line.release()
        if replies is None:
            self.answer_message(reply, recipients)
        else:
            for one in replies:
                self.reply(one)
        self._go_on(leaving=reply.code == 421)

    def _count_taken(self) -> None:
        """For conditions that ask how much was sent lately."""
        envelope = self.envelope
        if envelope is not None:
            self.server.count(self.client, self.session.user, envelope.mail_from, [one.address for one in envelope.recipients])

    def _go_on(self, *, leaving: bool) -> None:
        """The message that held the line is answered: run what the client sent behind it, or end the session."""
        if leaving or self.server.stopping:
            self.flush()
            self.shut_down()
        self.line.go_on()

    def _replies(self, taken: Reply) -> list[Reply] | None:
        """LMTP (RFC 2033 4.2): one per recipient when some are refused by policy and others not."""
        if not self.lmtp or self.envelope is None or not self._fates:
            return None
        fates = [self._fates.get(one.address, Fate.DELIVER) for one in self.envelope.recipients]
        return [self._passage.refusal(fate) or taken for fate in fates]

    def answer_message(self, reply: Reply, recipients: int) -> None:
        """The reply to the end of data: one in SMTP, one per recipient in LMTP."""
        self.reply(reply)
