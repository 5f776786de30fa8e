"""Digests: collects what the workers have in quarantine by mailbox, sends a mail for each, once a day or week. Runs in the supervisor.

The workers count what they have for each recipient and name the newest messages; only those that a digest lists are read.

Invariants: a mailbox gets a digest of a day once, also when the server is stopped in the middle of sending: DIR/digest.json has how far
it came. That note is made durably, or a power failure could leave an empty one, which means "switched on just now", and nobody after it
would get the digest of that day; but only every NOTE_SECONDS, since a sync for each of 50,000 mailboxes is minutes of disk: a crash may
send again what was sent since the last one. Nothing new is no mail; in memory are 100,000 ids of each worker at most, and the entries of
one mailbox. A worker that is away is left out and logged; when no mail can be queued at all, the rest is tried again from where it stopped.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import grpc
import grpc.aio
import structlog

from gatepost.api.queue.v1 import queue_pb2 as queue_api
from gatepost.api.worker.v1 import worker_pb2 as worker_api
from gatepost.config import Settings
from gatepost.config.files import NewerFormatError, check_format, replace_file
from gatepost.control.errors import ControlError, from_rpc, not_found
from gatepost.control.workers import CALL_SECONDS, WorkerLink, WorkerLinks
from gatepost.directory import Directory, NotFound
from gatepost.message.address import AddressError, parse_address
from gatepost.queue.digest import MAX_ENTRIES, Digest, Entry, Link, Setting, build_digest, read_link
from gatepost.routing.decide import decide
from gatepost.routing.model import Question, RouteKind, RuleSet

FORMAT = 1
Described = worker_api.DescribeQuarantinedResponse.Described
FAR = 1 << 62
COUNT_SECONDS = 120.0
LOOK_SECONDS = 60.0
NOTE_SECONDS = 1.0
KEY = "digest-links"
LATER = frozenset((grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED))
"""Answers that are about the server, not about one mailbox."""

log = structlog.get_logger()


@dataclass(slots=True)
class Pile:
    """What is in quarantine for one mailbox: how many, and the newest as (id, recipient, worker)."""

    count: int = 0
    newest: list[tuple[bytes, str, int]] = field(default_factory=list)

    def add(self, share: worker_api.CountQuarantinedResponse.Share, worker: int) -> None:
        """What a worker has for one of its addresses."""
        self.count += share.count
        more = ((message_id, share.recipient, worker) for message_id in share.message_ids)
        self.newest = sorted([*self.newest, *more], reverse=True)[:MAX_ENTRIES]


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
        address = _key(mailbox)
        if address not in self._rule_set().mailboxes:
            raise not_found("mailbox", mailbox)
        pile = (await self._collect(only=address)).get(address)
        return await self._digest(await asyncio.to_thread(self._setting), address, pile) if pile else None

    async def run(self) -> None:
        """Send what is due, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.send_due(datetime.now().astimezone())
            except Exception as error:  # of whatever kind: there is a digest tomorrow, too
                log.error("digests of the quarantine are not sent; tried again", error=str(error), exc_info=not _is_ours(error))

    async def send_due(self, now: datetime) -> int:
        """Send the digests of the newest moment that is over, unless they were sent; how many mails."""
        moment = newest_moment(self._settings(), now)
        if moment is None:
            return 0
        known = await asyncio.to_thread(read_progress, self._path())
        if known is None:  # switched on just now: the first digest is that of the next moment
            await asyncio.to_thread(Progress(int(moment.timestamp()), None).write, self._path())
            return 0
        if known.moment >= int(moment.timestamp()) and known.after is None:
            return 0
        after = known.after if known.moment == int(moment.timestamp()) and known.after else ""
        return await self._send(moment, after)

    # ---- inside

    async def _send(self, moment: datetime, after: str) -> int:
        period = timedelta(days=7 if self._settings().quarantine.digest == "weekly" else 1)
        piles = await self._collect(moment - period, moment)
        setting, sent = await asyncio.to_thread(self._setting), 0
        progress = Progress(int(moment.timestamp()), after)
        noted = time.monotonic()
        try:
            for mailbox in sorted(piles):
                if mailbox <= after:
                    continue
                made = await self._digest(setting, mailbox, piles[mailbox])
                if made.listed:
                    await self._submit(mailbox, made.octets)
                    sent += 1
                progress = replace(progress, after=mailbox)
                if time.monotonic() - noted > NOTE_SECONDS:
                    await asyncio.to_thread(progress.write, self._path())
                    noted = time.monotonic()
            progress = replace(progress, after=None)
        finally:
            progress.write(self._path())  # here, not in a thread: the server may be stopping
        log.info("digests of the quarantine are sent", mails=sent)
        return sent

    async def _digest(self, setting: Setting, mailbox: str, pile: Pile) -> Digest:
        """The mail about a pile. What was released or deleted since it was counted is not told of."""
        entries: list[Entry] = []
        for worker in sorted({worker for _, _, worker in pile.newest}):
            theirs = {message_id: recipient for message_id, recipient, owner in reversed(pile.newest) if owner == worker}
            described = await self._described(self._links[worker], list(theirs))
            entries.extend(_entry(found, theirs[found.message_id]) for found in described)
        return await asyncio.to_thread(build_digest, setting, mailbox, entries, pile.count - len(pile.newest))

    async def _described(self, link: WorkerLink, ids: Sequence[bytes]) -> Sequence[Described]:
        try:
            request = worker_api.DescribeQuarantinedRequest(message_ids=ids)
            return (await link.worker.DescribeQuarantined(request, timeout=CALL_SECONDS)).messages
        except grpc.aio.AioRpcError as error:
            log.warning("a digest lacks the quarantine of a worker", worker=link.index, error=error.details())
            return ()

    async def _collect(self, since: datetime | None = None, until: datetime | None = None, only: str = "") -> dict[str, Pile]:
        """What came into quarantine in this time, by address of the mailbox it is for."""
        owners = _Owners(self._rule_set())
        request = worker_api.CountQuarantinedRequest(since=_micros(since, 0), until=_micros(until, FAR), newest=MAX_ENTRIES)
        piles: dict[str, Pile] = {}
        for link in self._links.all():
            async for share in self._counted(link, request):
                mailbox = owners.of(share.recipient)
                if mailbox and (not only or mailbox == only):
                    piles.setdefault(mailbox, Pile()).add(share, link.index)
        return piles

    async def _counted(
        self, link: WorkerLink, request: worker_api.CountQuarantinedRequest
    ) -> AsyncIterator[worker_api.CountQuarantinedResponse.Share]:
        try:
            async for answer in link.worker.CountQuarantined(request, timeout=COUNT_SECONDS):
                for share in answer.shares:
                    yield share
        except grpc.aio.AioRpcError as error:
            log.warning("a digest lacks the quarantine of a worker", worker=link.index, error=error.details())

    async def _submit(self, mailbox: str, octets: bytes) -> None:
        """Queue a mail with the null reverse-path: nobody hears when it is not delivered. Raises ControlError when none can be queued."""
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
            if error.code() in LATER:
                raise from_rpc(error) from error
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

    def write(self, path: Path) -> None:
        """*blocking* Durably."""
        replace_file(path, json.dumps({"format": FORMAT, "moment": self.moment, "after": self.after}).encode())


def newest_moment(settings: Settings, now: datetime) -> datetime | None:
    """The newest time of day (and on Mondays) at which digests are due that is over; None when they are off."""
    quarantine = settings.quarantine
    if quarantine.digest == "off":
        return None
    moment = now.replace(hour=quarantine.digest_hour, minute=0, second=0, microsecond=0)
    if moment > now:
        moment -= timedelta(days=1)
    return moment - timedelta(days=moment.weekday() if quarantine.digest == "weekly" else 0)


class _Owners:
    """Whose mailbox mail to an address goes to now. All mailboxes are gone through only if one has another name than its address."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._by_id: dict[bytes, str] | None = None

    def of(self, address: str) -> str:
        """The mailbox's address; '' when mail to that address goes to none."""
        routes = decide(self._rules, Question("", address, trusted=True)).routes
        local = next((one for one in routes if one.kind is RouteKind.LOCAL), None)
        if local is None:
            return ""
        key = _key(local.address)
        found = self._rules.mailboxes.get(key)
        return key if found is not None and found.mailbox_id == local.mailbox_id else self._by_its_id(local.mailbox_id)

    def _by_its_id(self, mailbox_id: bytes) -> str:
        if self._by_id is None:
            self._by_id = {one.mailbox_id: address for address, one in self._rules.mailboxes.items()}
        return self._by_id.get(mailbox_id, "")


def _key(address: str) -> str:
    try:
        return parse_address(address).key
    except AddressError:
        return ""


def _micros(moment: datetime | None, instead: int) -> int:
    return instead if moment is None else int(moment.timestamp() * 1_000_000)


def _entry(found: Described, recipient: str) -> Entry:
    return Entry(
        message_id=found.message_id,
        recipient=recipient,
        sender=found.sender,
        header_from=found.header_from,
        subject=found.subject,
        received=datetime.fromtimestamp(found.received / 1_000_000).astimezone(),
        why=found.why,
        infected=found.infected,
    )


def read_progress(path: Path) -> Progress | None:
    """*blocking* How far digests are sent; None when nobody knows. Raises NewerFormatError."""
    try:
        fields = json.loads(path.read_bytes())
        check_format(path, fields["format"], FORMAT)
        return Progress(int(fields["moment"]), fields["after"] if fields["after"] is None else str(fields["after"]))
    except NewerFormatError:
        raise
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _is_ours(error: Exception) -> bool:
    """Whether its text says it all."""
    return isinstance(error, ControlError | OSError | NewerFormatError)
