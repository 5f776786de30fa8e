"""Digests: collects what the workers have in quarantine by mailbox, sends a mail for each, once a day or week. Runs in the supervisor.

Invariants: a mailbox gets a digest of a day once, also when the server is stopped in the middle of sending (DIR/digest.json has how far
it came; a crash between a mail and that note may send one mailbox its digest again); nothing new is no mail; memory is bounded by
MAX_TOTAL entries. A worker that is away is left out and logged.
"""

import asyncio
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc.aio
import structlog

from gatepost.api.quarantine.v1 import quarantine_pb2 as api
from gatepost.api.queue.v1 import queue_pb2 as queue_api
from gatepost.config import Settings
from gatepost.control.errors import ControlError, not_found
from gatepost.control.quarantine_convert import withheld_addresses
from gatepost.control.workers import CALL_SECONDS, WorkerLink, WorkerLinks
from gatepost.directory import Directory, NotFound
from gatepost.message.address import AddressError, parse_address
from gatepost.message.ids import parse_message_id
from gatepost.message.verdict import QUARANTINE
from gatepost.queue.digest import MAX_ENTRIES, Digest, Entry, Link, Setting, build_digest, read_link
from gatepost.routing.decide import decide
from gatepost.routing.model import Question, RouteKind, RuleSet

MAX_TOTAL = 100_000
PAGE = 500
LOOK_SECONDS = 60.0
KEY = "digest-links"

log = structlog.get_logger()


@dataclass(slots=True)
class Pile:
    """What is in quarantine for one mailbox: the newest entries, and how many more."""

    entries: list[Entry] = field(default_factory=list)
    omitted: int = 0

    def add(self, entry: Entry, *, room: bool) -> bool:
        """Entries come oldest first. Whether one more is kept now than before."""
        if not room:
            self.omitted += 1
            return False
        self.entries.append(entry)
        if len(self.entries) > MAX_ENTRIES:
            del self.entries[0]
            self.omitted += 1
            return False
        return True


class Digests:
    """One per server."""

    def __init__(self, links: WorkerLinks, directory: Directory, rule_set: Callable[[], RuleSet], settings: Callable[[], Settings]) -> None:
        self._links = links
        self._directory = directory
        self._rule_set = rule_set
        self._settings = settings

    def read_link(self, token: str) -> Link:
        """*blocking* Raises LinkError."""
        return read_link(token, self._key(), time.time())

    async def preview(self, mailbox: str) -> Digest | None:
        """The digest of one mailbox with all that is in quarantine for it; None when that is nothing. Raises ControlError."""
        try:
            address = parse_address(mailbox).key
        except AddressError:
            raise not_found("mailbox", mailbox) from None
        if address not in self._rule_set().mailboxes:
            raise not_found("mailbox", mailbox)
        pile = (await self._collect(None, only=address)).get(address)
        return build_digest(await asyncio.to_thread(self._setting), address, pile.entries, pile.omitted) if pile else None

    async def run(self) -> None:
        """Send what is due, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.send_due(datetime.now().astimezone())
            except (ControlError, OSError) as error:
                log.error("digests of the quarantine are not sent; tried again", error=str(error))

    async def send_due(self, now: datetime) -> int:
        """Send the digests of the newest moment that is over, unless they were sent; how many mails."""
        moment = newest_moment(self._settings(), now)
        if moment is None:
            return 0
        known = await asyncio.to_thread(_read, self._path())
        if known is None:  # switched on just now: the first digest is that of the next moment
            await asyncio.to_thread(_write, self._path(), Progress(int(moment.timestamp()), None))
            return 0
        if known.moment >= int(moment.timestamp()) and known.after is None:
            return 0
        after = known.after if known.moment == int(moment.timestamp()) and known.after else ""
        return await self._send(moment, after)

    # ---- inside

    async def _send(self, moment: datetime, after: str) -> int:
        period = timedelta(days=7 if self._settings().quarantine.digest == "weekly" else 1)
        piles = await self._collect(moment - period, until=moment)
        setting, sent, stamp = await asyncio.to_thread(self._setting), 0, int(moment.timestamp())
        for mailbox in sorted(piles):
            if mailbox > after:
                pile = piles[mailbox]
                await self._submit(mailbox, build_digest(setting, mailbox, pile.entries, pile.omitted).octets)
                await asyncio.to_thread(_write, self._path(), Progress(stamp, mailbox))
                sent += 1
        await asyncio.to_thread(_write, self._path(), Progress(stamp, None))
        log.info("digests of the quarantine are sent", mails=sent)
        return sent

    async def _collect(self, since: datetime | None, until: datetime | None = None, only: str = "") -> dict[str, Pile]:
        """What came into quarantine in this time, by address of the mailbox it is for."""
        rules = self._rule_set()
        names = {one.mailbox_id: address for address, one in rules.mailboxes.items()}
        piles: dict[str, Pile] = {}
        kept = 0
        async for found in self._quarantined(since):
            received = found.message.received_time.ToDatetime(UTC)
            if until is not None and received >= until:
                continue
            for address in withheld_addresses(found.message, [QUARANTINE]):
                mailbox = _mailbox_of(rules, names, address)
                if mailbox and (not only or mailbox == only):
                    entry = _entry(found, address, received)
                    kept += piles.setdefault(mailbox, Pile()).add(entry, room=kept < MAX_TOTAL)
        return piles

    async def _quarantined(self, since: datetime | None) -> AsyncIterator[api.QuarantinedMessage]:
        """Every message in quarantine, oldest first within a worker."""
        wanted = api.QuarantineFilter(state=api.QUARANTINE_STATE_QUARANTINED)
        if since is not None:
            wanted.newer_than.FromTimedelta(max(timedelta(0), datetime.now(UTC) - since))
        for link in self._links.all():
            token = ""
            while True:
                request = api.ListQuarantinedRequest(filter=wanted, page_size=PAGE, page_token=token)
                try:
                    answer = await link.quarantine.ListQuarantined(request, timeout=CALL_SECONDS)
                except grpc.aio.AioRpcError as error:
                    log.warning("a digest lacks the quarantine of a worker", worker=link.index, error=error.details())
                    break
                for found in answer.messages:
                    yield await self._whole(link, found)
                token = answer.next_page_token
                if not token:
                    break

    async def _whole(self, link: WorkerLink, found: api.QuarantinedMessage) -> api.QuarantinedMessage:
        """With all its recipients, which a page does not always have."""
        if found.message.recipient_count <= len(found.message.recipients):
            return found
        try:
            request = api.GetQuarantinedRequest(message_id=found.message.message_id)
            return (await link.quarantine.GetQuarantined(request, timeout=CALL_SECONDS)).message
        except grpc.aio.AioRpcError:
            return found

    async def _submit(self, mailbox: str, octets: bytes) -> None:
        """Queue a mail with the null reverse-path: nobody is told when it cannot be delivered. Raises ControlError."""
        link = await self._links.pick_healthy()
        header = queue_api.SubmitHeader(sender="", recipients=[queue_api.SubmitRecipient(address=mailbox, notify=["NEVER"])])

        async def requests() -> AsyncIterator[queue_api.SubmitMessageRequest]:
            yield queue_api.SubmitMessageRequest(header=header)
            for start in range(0, len(octets), 1 << 16):
                yield queue_api.SubmitMessageRequest(chunk=octets[start : start + (1 << 16)])
            yield queue_api.SubmitMessageRequest(finish=queue_api.SubmitFinish(size=len(octets)))

        try:
            await link.queue.SubmitMessage(requests(), timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            log.warning("a digest cannot be sent", mailbox=mailbox, error=error.details())

    def _setting(self) -> Setting:
        """*blocking* What all digests made now have in common."""
        settings = self._settings()
        base = settings.quarantine.link_base or f"https://{settings.hostname}/quarantine/"
        expires = int(time.time() + settings.quarantine.link_days * 86_400)
        return Setting(settings.hostname, base, self._key(), expires, datetime.now().astimezone())

    def _key(self) -> bytes:
        """*blocking* What links are signed with; made when it is first needed."""
        try:
            return bytes.fromhex(self._directory.secret(KEY))
        except NotFound:
            self._directory.put_secret(KEY, secrets.token_hex(32))
            return bytes.fromhex(self._directory.secret(KEY))

    def _path(self) -> Path:
        return self._settings().data / "digest.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """The moment whose digests are being sent (Unix seconds), and the mailbox that got the last one; None: all are sent."""

    moment: int
    after: str | None


def newest_moment(settings: Settings, now: datetime) -> datetime | None:
    """The newest time of day (and on Mondays) at which digests are due that is over; None when they are off."""
    quarantine = settings.quarantine
    if quarantine.digest == "off":
        return None
    moment = now.replace(hour=quarantine.digest_hour, minute=0, second=0, microsecond=0)
    if moment > now:
        moment -= timedelta(days=1)
    return moment - timedelta(days=moment.weekday() if quarantine.digest == "weekly" else 0)


def _mailbox_of(rules: RuleSet, names: dict[bytes, str], address: str) -> str:
    """The mailbox that mail to this address goes to now; '' when it goes to none."""
    routes = decide(rules, Question("", address, trusted=True)).routes
    return next((names.get(one.mailbox_id, "") for one in routes if one.kind is RouteKind.LOCAL), "")


def _entry(found: api.QuarantinedMessage, recipient: str, received: datetime) -> Entry:
    verdict = found.verdict
    return Entry(
        message_id=parse_message_id(found.message.message_id),
        recipient=recipient,
        sender=found.message.sender,
        header_from=found.header_from[:200],
        subject=found.subject[:200],
        received=received.astimezone(),
        why=(verdict.reason or verdict.text)[:300],
        infected=found.infected,
    )


def _read(path: Path) -> Progress | None:
    try:
        fields = json.loads(path.read_bytes())
        return Progress(int(fields["moment"]), fields["after"] if fields["after"] is None else str(fields["after"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(path: Path, progress: Progress) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"format": 1, "moment": progress.moment, "after": progress.after}))
    os.replace(fresh, path)
