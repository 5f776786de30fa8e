"""Judging a queued message anew: by today's policy, with today's signatures. Used by quarantine and waiting; wired by app/.

The message is fed into a scratch reception of the spool, which is never committed, so that it is looked at as it was when it came in. One
at a time: memory and disk stay bounded. Nothing is changed. Raises NotFoundError and other CoreErrors.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from gatepost.message.envelope import Origin
from gatepost.native import Incoming, Reader
from gatepost.queue.named import named_address
from gatepost.queue.views import QueuedMessage, RecipientStatus
from gatepost.routing.model import RuleSet
from gatepost.scan.facts import MailFacts, direction_of
from gatepost.scan.judge import Judgement
from gatepost.scan.policies import Policies
from gatepost.spool import AsyncSpool

FEED = 262_144

Trusted = Callable[[Origin], bool]
"""Whether who sent it may relay."""


class Judge(Protocol):
    """The gate, as far as it is needed here."""

    def policies(self) -> Policies:
        """Those in force."""
        ...

    async def judge_again(self, incoming: Incoming, mail: MailFacts) -> Judgement:
        """What reception would decide; nothing is changed. Raises CoreError."""
        ...


class Rescan:
    """One per worker."""

    def __init__(
        self, spool: AsyncSpool, judge: Judge, rule_set: Callable[[], RuleSet], trusted: Trusted, delimiter: Callable[[], str]
    ) -> None:
        self._delimiter = delimiter
        self._spool = spool
        self._judge = judge
        self._rule_set = rule_set
        self._trusted = trusted
        self._one = asyncio.Lock()

    async def __call__(self, message: QueuedMessage, recipients: Sequence[RecipientStatus]) -> Judgement:
        """What would become of it for these recipients; `fates` are theirs, in order."""
        named = self.named(recipients)
        async with self._one:
            incoming = self._spool.receive(prefix=b"", max_bytes=0, allow_bare=True)
            try:
                await self._feed(incoming, self._spool.open_message(message.message_id))
                facts = self.facts(message, named)
                judgement = await self._judge.judge_again(incoming, facts)
            finally:
                incoming.abort()
        fates = dict(zip(facts.recipients, judgement.fates, strict=True))
        return replace(judgement, fates=tuple(fates[one] for one in named))

    def named(self, recipients: Sequence[RecipientStatus]) -> list[str]:
        """What RCPT named for each."""
        return [named_address(self._rule_set(), one.address, one.orcpt, self._delimiter()) for one in recipients]

    def wait_seconds(self, message: QueuedMessage, recipient: RecipientStatus) -> float:
        """How long the policy that holds for a recipient lets mail wait for a scanner."""
        policies = self._judge.policies()
        (name,) = policies.of(self.facts(message, self.named([recipient])))
        return policies.get(name).outage_minutes * 60.0

    async def _feed(self, incoming: Incoming, reader: Reader) -> None:
        while octets := await asyncio.to_thread(reader.read, FEED):
            incoming.feed_raw(octets)
            await self._spool.drain()
        incoming.finish()

    def facts(self, message: QueuedMessage, recipients: Sequence[str]) -> MailFacts:
        """As reception made them of the session; `recipients` as RCPT named them."""
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
