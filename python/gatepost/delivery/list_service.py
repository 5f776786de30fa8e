"""ListTransport: routes of kind list. What is written to a mailing list itself: commands, bounces, posts that wait, posts for a digest.

Called by queue.scheduler. Everything is kept in the ListStore before the outcome is journaled, and is there once however often a message is
delivered; a mail of ours may be repeated after a crash. Nothing is changed by a mail that asks: it is confirmed first, by a signed word
that comes back. Programs get no answer (RFC 3834 2), and one address one question in ASK_SECONDS. Never raises.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence

import structlog

from gatepost.config import Settings
from gatepost.delivery import list_mails
from gatepost.delivery.answered import Answered
from gatepost.delivery.responses import why_not
from gatepost.message.envelope import Envelope, Notify, Origin, Recipient
from gatepost.message.fields import HeaderView
from gatepost.message.ids import format_message_id
from gatepost.message.list_link import ListAction, ListLink, ListLinkError, read_list_link
from gatepost.message.reply import RemoteReply, SmtpError
from gatepost.message.verp import member_of
from gatepost.native import CoreError, Reader
from gatepost.queue.authors import authors_of
from gatepost.queue.list_actions import PLAIN, ListRefused, carry_out, is_member, may_subscribe, owners_of
from gatepost.queue.list_store import HeldPost, ListStore
from gatepost.queue.submit import OWN, SubmissionRefused, Submitter
from gatepost.queue.transport import Deferred, Delivered, Job, JobRecipient, JobResult, Outcome
from gatepost.routing.model import RuleSet

MAX_HEADER = 262_144
MAX_BODY = 65_536
"""Octets of a command or a bounce that are looked at."""
MAX_POST = 512 << 10
"""Larger posts stand in a digest with their header alone."""
ASK_SECONDS = 300
CONFIRM_SECONDS = 3 * 86_400
MODERATE_SECONDS = 14 * 86_400
_CONFIRM = re.compile(r"\bconfirm[:\s]+([A-Za-z0-9_-]{40,1200})")
_FAILED = re.compile(rb"(?im)^action:[ \t]*failed[ \t]*\r?$")
_WORDS = {
    "subscribe": ListAction.SUBSCRIBE,
    "unsubscribe": ListAction.UNSUBSCRIBE,
    "digest on": ListAction.DIGEST,
    "digest off": ListAction.EACH,
}
_ASKED = {
    ListAction.SUBSCRIBE: "subscribe",
    ListAction.UNSUBSCRIBE: "unsubscribe",
    ListAction.DIGEST: "send a daily digest to",
    ListAction.EACH: "send each post by itself to",
}

log = structlog.get_logger()


class ListTransport:
    """`store` remembers; `answered` keeps questions from being repeated; `rule_set` and `settings` are those in force."""

    batch = 1

    def __init__(
        self,
        open_message: Callable[[bytes], Reader],
        submitter: Submitter,
        rule_set: Callable[[], RuleSet],
        settings: Callable[[], Settings],
        store: ListStore,
        answered: Answered,
    ) -> None:
        self._open_message = open_message
        self._submitter = submitter
        self._rule_set = rule_set
        self._settings = settings
        self._store = store
        self._answered = answered

    async def deliver(self, destination: str, jobs: Sequence[Job]) -> Sequence[JobResult]:
        """Carry out each, or say in its journal why not."""
        return [JobResult(tuple([await self._one(job, recipient) for recipient in job.recipients])) for job in jobs]

    async def close(self) -> None:
        """Nothing to close: the store is the worker's."""

    async def _one(self, job: Job, recipient: JobRecipient) -> Outcome:
        word, address = next(iter(recipient.route.edits), ("", ""))
        if self._rule_set().list_handler(address) is None:
            return _done(f"{address} is no list any more")
        try:
            match word:
                case "bounce":
                    return await self._bounce(job, recipient, address)
                case "notice":
                    return await self._notice(job, address)
                case "digest":
                    return await self._digest(job, address)
                case _:
                    return await self._command(job, recipient, address, word)
        except (SmtpError, CoreError, OSError) as error:
            return Deferred(f"the list cannot do that now: {error}", "4.3.0")

    def _read(self, message_id: bytes, limit: int) -> tuple[HeaderView, bytes]:
        """*blocking* The header, and the message up to a limit."""
        reader = self._open_message(message_id)
        header = HeaderView(reader.header(MAX_HEADER))
        octets = b""
        while len(octets) < limit and (piece := reader.read(min(65_536, limit - len(octets)))):
            octets += piece
        return header, octets

    # ---- commands ----------------------------------------------------------------------------------------------------

    async def _command(self, job: Job, recipient: JobRecipient, address: str, word: str) -> Outcome:
        header, octets = await asyncio.to_thread(self._read, job.message_id, MAX_BODY)
        reason = why_not(header, job.reverse_path, [recipient.address, recipient.orcpt.partition(";")[2] or recipient.address])
        if reason:
            return _done(f"no answer: {reason}")
        authors = authors_of(header)
        member = authors[0] if len(authors) == 1 else job.reverse_path
        body = octets.partition(b"\r\n\r\n")[2].decode("utf-8", "replace")
        told = _CONFIRM.search(header.text("subject")) or _CONFIRM.search(body)
        if told is not None:
            return await self._confirmed(address, member, told[1])
        action = ListAction(word) if word in ("subscribe", "unsubscribe") else _action(header.text("subject"), body)
        return await self._ask(address, member, action)

    async def _ask(self, address: str, member: str, action: ListAction | None) -> Outcome:
        """Ask back, say why not, or help; each address once in a while, whoever writes in its name."""
        if not await asyncio.to_thread(self._answered.claim, f"{action or 'help'}:{address}", member, ASK_SECONDS):
            return _done(f"no answer: {member} was answered within {ASK_SECONDS} seconds")
        if action is None:
            return await self._send(member, list_mails.help_text(address, member), f"told {member} what can be asked for")
        refusal = await asyncio.to_thread(self._refusal, address, member, action)
        if refusal:
            return await self._send(member, list_mails.done(address, member, refusal), refusal)
        token = ListLink(action, address, member, int(time.time()) + CONFIRM_SECONDS).sign(self._rule_set().srs_key)
        base = self._settings().lists.link_base
        mail = list_mails.confirmation(address, member, _ASKED[action], token, f"{base}{token}" if base else "")
        return await self._send(member, mail, f"asked {member} whether to {action}")

    def _refusal(self, address: str, member: str, action: ListAction) -> str:
        rules = self._rule_set()
        if not rules.srs_key:
            return "this server has no key to sign with"
        if action is ListAction.SUBSCRIBE:
            return "" if may_subscribe(rules, address, member) else f"{address} takes new members by its owners' word only"
        known = is_member(rules, self._store, address, member)
        return "" if known is not None else f"{member} is no member of {address}"

    async def _confirmed(self, address: str, member: str, token: str) -> Outcome:
        rules = self._rule_set()
        try:
            link = read_list_link(token, rules.srs_key, time.time())
            if link.list.lower() != address.lower():
                raise ListLinkError("that word is for another list")
            text = await asyncio.to_thread(carry_out, rules, self._store, link)
        except (ListLinkError, ListRefused) as error:
            return await self._send(member, list_mails.done(address, member, str(error)), f"not done: {error}")
        log.info("list member asked", list=address, member=link.subject, action=str(link.action))
        return await self._send(link.subject, list_mails.done(address, link.subject, text), text)

    # ---- bounces -----------------------------------------------------------------------------------------------------

    async def _bounce(self, job: Job, recipient: JobRecipient, address: str) -> Outcome:
        rules = self._rule_set()
        member, tagged = member_of(recipient.address, address, rules.srs_key)
        if job.reverse_path or not (tagged or job.meta.origin.protocol == OWN):
            return _done("not counted: no report about a return path that this server gave")
        header, octets = await asyncio.to_thread(self._read, job.message_id, MAX_BODY)
        if "delivery-status" not in header.first("content-type").lower() or not _FAILED.search(octets):
            return _done("not counted: it reports no failure")
        if await asyncio.to_thread(is_member, rules, self._store, address, member) is None:
            return _done(f"not counted: {member} is no member")
        settings = rules.list_settings(address) or PLAIN
        limit = settings.bounce_limit
        if limit <= 0 or not await asyncio.to_thread(self._store.bounced, address, member, job.message_id, limit, settings.bounce_days):
            return _done(f"counted against {member}")
        log.warning("list member disabled after bounces", list=address, member=member)
        for owner in owners_of(rules, address):
            await self._send(owner, list_mails.member_disabled(address, owner, member, limit), "")
        return _done(f"{member} is disabled after {limit} bounces")

    # ---- posts -------------------------------------------------------------------------------------------------------

    async def _notice(self, job: Job, address: str) -> Outcome:
        header, _ = await asyncio.to_thread(self._read, job.message_id, 0)
        author, subject = header.text("from"), header.text("subject")
        post = HeldPost(address, job.message_id, job.reverse_path, author, subject, job.received_at // 1_000_000)
        if not await asyncio.to_thread(self._store.hold, post):
            return _done("the owners were told")
        identity, base, key = format_message_id(job.message_id), self._settings().lists.link_base, self._rule_set().srs_key
        shown = (("From", author), ("Sender", job.reverse_path), ("Subject", subject), ("Id", identity))
        expires = int(time.time()) + MODERATE_SECONDS
        links = [
            (str(action).capitalize(), base + ListLink(action, address, identity, expires).sign(key))
            for action in (ListAction.APPROVE, ListAction.REJECT)
            if base and key
        ]
        for owner in owners_of(self._rule_set(), address):
            await self._send(owner, list_mails.post_waits(address, owner, shown, links, identity), "")
        return _done("the owners are told")

    async def _digest(self, job: Job, address: str) -> Outcome:
        header, octets = await asyncio.to_thread(self._read, job.message_id, MAX_POST + 1)
        if len(octets) > MAX_POST:
            fields = b"".join(
                header.octets[one.start : one.end] for one in header.places if one.name not in ("content-type", "content-transfer-encoding")
            )
            octets = fields + b"\r\n(This post is too large for a digest.)\r\n"
        new = await asyncio.to_thread(self._store.collect, address, job.message_id, octets)
        return _done("it is in the next digest" if new else "it is in a digest already")

    async def _send(self, to: str, message: bytes, told: str) -> Outcome:
        envelope = Envelope("", (Recipient(to, Notify.NEVER),), Origin(OWN), body="7BIT" if message.isascii() else "8BITMIME")
        try:
            await self._submitter.submit(envelope, message, trusted=True)
        except SubmissionRefused as error:
            log.warning("a list cannot reach somebody", to=to, reason=str(error))
            return _done(f"{to} cannot be told: {error}")
        return _done(told)


def _action(subject: str, body: str) -> ListAction | None:
    """The command of a mail to LIST-request: its subject, else one of its first lines."""
    for line in (re.sub(r"(?i)^(re|aw|fwd?):\s*", "", subject), *body.splitlines()[:5]):
        words = " ".join(line.lower().split())
        if words in _WORDS:
            return _WORDS[words]
    return None


def _done(text: str) -> Delivered:
    return Delivered(RemoteReply(250, "2.0.0", text, "list"))
