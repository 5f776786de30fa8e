"""SPF when a sender is known, DKIM and DMARC when the message is there. Asked by the sessions and by `explain`.

Invariants: each of the two ends within the deadline of the settings, whatever the DNS does; what is not known then is a temperror. Messages
whose bodies are digested take at most ROOM octets together; one that finds no room in time is a temperror as well. Never raises but
CancelledError.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from gatepost.native import CoreError
from gatepost.policy.dns import Dns
from gatepost.policy.mail_auth import dkim, dmarc
from gatepost.policy.mail_auth.dkim import Mail
from gatepost.policy.mail_auth.results import Outcome, Results, Signed, Spf, Word
from gatepost.policy.mail_auth.spf import check_host
from gatepost.scan.gate import Room

ROOM = 128 << 20
LATE = "no answer in time"

log = structlog.get_logger("gatepost.auth")


class Authentication:
    """One per worker. `seconds` is the deadline in force."""

    def __init__(self, dns: Dns, seconds: Callable[[], float], *, threads: int = 1) -> None:
        self._dns = dns
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(threads, "dkim")
        self._room = Room(ROOM)

    def close(self) -> None:
        """No more of it."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def spf(self, client: str, helo: str, sender: str) -> Spf:
        """Of the envelope sender and of HELO's name, asked side by side."""
        domain = sender.rpartition("@")[2]
        of_helo = self._spf_of(client, helo, f"postmaster@{helo}", helo)
        if not domain:
            found = await of_helo
            return Spf(found, found)
        both = await asyncio.gather(self._spf_of(client, helo, sender, domain), of_helo)
        return Spf(both[0], both[1])

    async def _spf_of(self, client: str, helo: str, sender: str, domain: str) -> Outcome:
        try:
            async with asyncio.timeout(self._seconds()):
                return await check_host(self._dns, client, helo, sender, domain)
        except TimeoutError:
            return Outcome(Word.TEMPERROR, domain, LATE)
        except Exception:
            log.exception("SPF could not be worked out", client=client, domain=domain)
            return Outcome(Word.TEMPERROR, domain, "a fault of ours")

    async def content(self, mail: Mail, spf: Spf) -> Results:
        """All results of a message whose SPF is known."""
        deadline = asyncio.get_running_loop().time() + self._seconds()
        signatures, ignored = await self._signatures(mail, deadline)
        try:
            async with asyncio.timeout_at(deadline):
                found, policy = await dmarc.evaluate(self._dns, mail.header, spf, signatures)
        except TimeoutError:
            found, policy = Outcome(Word.TEMPERROR, dmarc.author_domain(mail.header), LATE), ""
        except Exception:
            log.exception("DMARC could not be worked out")
            found, policy = Outcome(Word.TEMPERROR, "", "a fault of ours"), ""
        return Results(spf, tuple(signatures), found, policy, ignored)

    async def _signatures(self, mail: Mail, deadline: float) -> tuple[Sequence[Signed], int]:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._verified(mail)
        except TimeoutError:
            return [Signed(Word.TEMPERROR, reason=LATE)], 0
        except CoreError as fault:
            log.error("a message could not be read for its signatures", error=str(fault))
            return [Signed(Word.TEMPERROR, reason="the message cannot be read now")], 0
        except Exception:
            log.exception("DKIM could not be worked out")
            return [Signed(Word.TEMPERROR, reason="a fault of ours")], 0

    async def _verified(self, mail: Mail) -> tuple[Sequence[Signed], int]:
        if not await self._room.enter(mail.size):
            raise TimeoutError
        try:
            return await dkim.verify(self._dns, mail, self._threads)
        finally:
            self._room.leave(mail.size)
