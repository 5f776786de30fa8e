"""Digests of mailing lists: sends what waits to the members who read digests, when it is large or a day old. Runs in the supervisor.

Invariants: what waits is on disk (ListStore) until every member of that issue has got it, so a restart goes on where it stopped; a crash
between a mail and its note may send one member its digest again, under the same Message-ID. Who no longer reads digests gets none.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import grpc.aio
import structlog

from gatepost.api.queue.v1 import queue_pb2 as queue_api
from gatepost.config import Settings
from gatepost.control.errors import ControlError
from gatepost.control.workers import CALL_SECONDS, WorkerLinks
from gatepost.delivery.list_mails import DigestMail, digest
from gatepost.message.list_link import ListAction, ListLink
from gatepost.message.verp import bounces_address, verp
from gatepost.queue.list_actions import PLAIN, ListRefused, members_of
from gatepost.queue.list_store import DAY, Issue, ListStore
from gatepost.routing.members import MemberState
from gatepost.routing.model import RuleSet
from gatepost.routing.settings import ListSettings

LOOK_SECONDS = 30.0
PIECE = 1 << 16

log = structlog.get_logger()


class ListDigests:
    """One per server. `clock` gives Unix seconds."""

    def __init__(
        self,
        links: WorkerLinks,
        store: ListStore,
        rules: Callable[[], RuleSet],
        settings: Callable[[], Settings],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._links = links
        self._store = store
        self._rules = rules
        self._settings = settings
        self._clock = clock

    async def run(self) -> None:
        """Send what is due, for ever."""
        while True:
            try:
                await self.send_due()
            except (ControlError, OSError, grpc.aio.AioRpcError) as error:
                log.error("digests of lists are not sent; tried again", error=str(error))
            await asyncio.sleep(LOOK_SECONDS)

    async def send_due(self) -> int:
        """Begin and finish every issue that is due; how many mails. Raises ControlError, OSError, AioRpcError: the rest is sent later."""
        sent = 0
        for address, (octets, first) in (await asyncio.to_thread(self._store.waiting)).items():
            settings = self._rules().list_settings(address) or PLAIN
            if octets < 0 or octets >= settings.digest_octets or self._clock() - first >= DAY:
                issue = await asyncio.to_thread(self._store.begin_issue, address)
                sent += await self._send(issue, settings)
        return sent

    async def _send(self, issue: Issue, settings: ListSettings) -> int:
        sent = 0
        for key, member in await asyncio.to_thread(self._readers, issue.list) if issue.posts else ():
            if key > issue.after:
                await self._submit(issue, settings, member)
                await asyncio.to_thread(self._store.sent, issue, key)
                sent += 1
        await asyncio.to_thread(self._store.end_issue, issue)
        log.info("digest of a list is sent", list=issue.list, number=issue.number, posts=len(issue.posts), mails=sent)
        return sent

    def _readers(self, address: str) -> list[tuple[str, str]]:
        """*blocking* Who reads digests: key and address, by key."""
        try:
            known = members_of(self._rules(), self._store, address)
        except ListRefused:
            return []  # the list is gone, and what waited for it goes too
        chosen = ((key, one.member) for key, one in known.items())
        return sorted((key, one.address) for key, one in chosen if one.digest and one.state is MemberState.SUBSCRIBED)

    async def _submit(self, issue: Issue, settings: ListSettings, member: str) -> None:
        key, base = self._rules().srs_key, self._settings().lists.link_base
        one_click = f"{base}{ListLink(ListAction.UNSUBSCRIBE, issue.list, member).sign(key)}" if base and key else ""
        posts, now = [octets for octets, _ in issue.posts], datetime.fromtimestamp(self._clock(), UTC)
        octets = digest(DigestMail(issue.list, settings.name, issue.number, member, posts, now, one_click))
        sender = verp(issue.list, member, key) if settings.verp else settings.errors_to or bounces_address(issue.list)
        header = queue_api.SubmitHeader(sender=sender, recipients=[queue_api.SubmitRecipient(address=member)])

        async def requests() -> AsyncIterator[queue_api.SubmitMessageRequest]:
            yield queue_api.SubmitMessageRequest(header=header)
            for start in range(0, len(octets), PIECE):
                yield queue_api.SubmitMessageRequest(chunk=octets[start : start + PIECE])
            yield queue_api.SubmitMessageRequest(finish=queue_api.SubmitFinish(size=len(octets)))

        link = await self._links.pick_healthy()
        try:
            await link.queue.SubmitMessage(requests(), timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            log.warning("a digest cannot be sent", list=issue.list, member=member, error=error.details())
