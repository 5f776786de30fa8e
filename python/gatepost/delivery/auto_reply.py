"""AutoReplyTransport: routes of kind auto-reply. The sender is told what the address has to say, once in an interval (RFC 3834).

Called by queue.scheduler. The answer enters the queue like a report of ours: null return path, not looked into. Invariants: the answer is
remembered before it is sent, and forgotten when it cannot be sent, so that a crash costs an answer and never repeats one; whatever
happens, the message itself is delivered by its other routes. A message that gets no answer counts as carried out; its journal says why.
Never raises.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from gatepost.delivery.answered import Answered
from gatepost.delivery.responses import Answer, build_answer, why_not
from gatepost.message.envelope import Envelope, Notify, Origin, Recipient
from gatepost.message.fields import HeaderView
from gatepost.message.reply import RemoteReply, SmtpError
from gatepost.native import CoreError, Reader
from gatepost.queue.submit import OWN, SubmissionRefused, Submitter
from gatepost.queue.transport import Deferred, Delivered, Job, JobRecipient, JobResult, Outcome
from gatepost.routing.model import RuleSet
from gatepost.routing.settings import AutoReply

DAY = 86_400
MAX_HEADER = 262_144

log = structlog.get_logger()


class AutoReplyTransport:
    """`answered` remembers who was answered; `rule_set` says what, at the moment of the answer."""

    batch = 1

    def __init__(
        self, open_message: Callable[[bytes], Reader], submitter: Submitter, rule_set: Callable[[], RuleSet], answered: Answered
    ) -> None:
        self._open_message = open_message
        self._submitter = submitter
        self._rule_set = rule_set
        self._answered = answered

    async def deliver(self, destination: str, jobs: Sequence[Job]) -> Sequence[JobResult]:
        """Answer each message, or say in its journal why not."""
        return [JobResult(tuple([await self._one(job, recipient) for recipient in job.recipients])) for job in jobs]

    async def close(self) -> None:
        """Close the memory."""
        await asyncio.to_thread(self._answered.close)

    async def _one(self, job: Job, recipient: JobRecipient) -> Outcome:
        reply = next((self._rule_set().auto_reply(ref) for kind, ref in recipient.route.edits if kind == "auto-reply"), None)
        if reply is None:
            return _done("no answer: the rule has none any more")
        try:
            header = HeaderView(await asyncio.to_thread(self._header, job.message_id))
            original = recipient.orcpt.partition(";")[2] or recipient.address
            reason = why_not(header, job.reverse_path, [recipient.address, original])
            if reason:
                return _done(f"no answer: {reason}")
            if not await asyncio.to_thread(self._answered.claim, recipient.address, job.reverse_path, reply.interval_days * DAY):
                return _done(f"no answer: {job.reverse_path} was answered within {reply.interval_days} days")
            return await self._answer(job, recipient, reply, header)
        except (SmtpError, CoreError, OSError) as error:
            return Deferred(f"the automatic answer cannot be given now: {error}", "4.3.0")

    def _header(self, message_id: bytes) -> bytes:
        return self._open_message(message_id).header(MAX_HEADER)

    async def _answer(self, job: Job, recipient: JobRecipient, reply: AutoReply, header: HeaderView) -> Outcome:
        answer = Answer(recipient.address, reply.text, reply.html, reply.subject, reply.from_name)
        message = build_answer(header, job.reverse_path, answer)
        body = "7BIT" if message.isascii() else "8BITMIME"
        to = Recipient(job.reverse_path, Notify.NEVER)
        try:
            await self._submitter.submit(Envelope("", (to,), Origin(OWN), body=body), message, trusted=True)
        except SubmissionRefused as error:
            return _done(f"no answer: {error}")
        except (SmtpError, CoreError, OSError):
            await asyncio.to_thread(self._answered.release, recipient.address, job.reverse_path)
            raise
        return _done(f"answered {job.reverse_path}")


def _done(text: str) -> Delivered:
    return Delivered(RemoteReply(250, "2.0.0", text, "auto-reply"))
