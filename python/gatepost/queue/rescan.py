"""Judging a queued message anew: by today's policy, with today's signatures. Used by quarantine and waiting; wired by app/.

The message is fed into a scratch reception of the spool, which is never committed, so that it is looked at as it was when it came in. One
at a time: memory and disk stay bounded. Nothing is changed. Raises NotFoundError and other CoreErrors.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from gatepost.message.envelope import Origin
from gatepost.native import Incoming, Reader
from gatepost.queue.views import QueuedMessage
from gatepost.routing.model import RuleSet
from gatepost.scan.facts import MailFacts, direction_of
from gatepost.scan.judge import Judgement
from gatepost.spool import AsyncSpool

FEED = 262_144

Trusted = Callable[[Origin], bool]
"""Whether who sent it may relay."""


class Judge(Protocol):
    """The gate, as far as it is needed here."""

    async def judge_again(self, incoming: Incoming, mail: MailFacts) -> Judgement:
        """What reception would decide; nothing is changed. Raises CoreError."""
        ...


class Rescan:
    """One per worker."""

    def __init__(self, spool: AsyncSpool, judge: Judge, rule_set: Callable[[], RuleSet], trusted: Trusted) -> None:
        self._spool = spool
        self._judge = judge
        self._rule_set = rule_set
        self._trusted = trusted
        self._one = asyncio.Lock()

    async def __call__(self, message: QueuedMessage, recipients: Sequence[str]) -> Judgement:
        """What would become of it for these recipients, in their order."""
        async with self._one:
            incoming = self._spool.receive(prefix=b"", max_bytes=0, allow_bare=True)
            try:
                await self._feed(incoming, self._spool.open_message(message.message_id))
                return await self._judge.judge_again(incoming, self._facts(message, recipients))
            finally:
                incoming.abort()

    async def _feed(self, incoming: Incoming, reader: Reader) -> None:
        while octets := await asyncio.to_thread(reader.read, FEED):
            incoming.feed_raw(octets)
            await self._spool.drain()
        incoming.finish()

    def _facts(self, message: QueuedMessage, recipients: Sequence[str]) -> MailFacts:
        """As reception makes them of a session; of each recipient the address that it has now."""
        origin = message.meta.origin
        trusted = self._trusted(origin)
        return MailFacts(
            sender=message.reverse_path,
            recipients=tuple(dict.fromkeys(recipients)),
            direction=direction_of(self._rule_set(), recipients, trusted=trusted),
            trusted=trusted,
            client_address=origin.client_address,
            helo=origin.helo,
            user=origin.user,
            size=message.size,
        )
