"""How many messages were taken lately: what conditions ask as `rate.client(3600)`, and what is counted so that they can. Pure.

Sessions count each message they take, for the rates that a policy in force asks for and for no others; the counts are policy.counters',
so they hold over all workers of this machine. Messages are counted when they are taken, recipients' domains once for each recipient.
"""

from collections import Counter
from collections.abc import Callable, Iterable

from gatepost.expression import EvaluationError
from gatepost.routing.senders import NO_LIMIT, Want
from gatepost.routing.stage_facts import AddressFacts, Facts
from gatepost.routing.stages import Rate

Known = Callable[[str, int], int]
"""(key, seconds) → how many."""


def key(by: str, whom: str) -> str:
    """What is counted under."""
    return f"rate\0{by}\0{whom}"


def wants(rates: Iterable[Rate], client: str, user: str, sender: str, recipients: Iterable[str]) -> list[Want]:
    """What a message that was taken counts as."""
    known = AddressFacts(sender)
    single = {"client": client, "user": user.lower(), "sender": known.address, "sender_domain": known.domain}
    domains: Counter[str] = Counter()
    rates = list(rates)
    if any(by == "recipient_domain" for by, _ in rates):
        domains.update(AddressFacts(one).domain for one in recipients)
    made: list[Want] = []
    for by, seconds in rates:
        counted = domains if by == "recipient_domain" else Counter({single[by]: 1})
        made += [Want(key(by, whom), seconds, NO_LIMIT, amount) for whom, amount in counted.items() if whom or by.startswith("sender")]
    return made


def counting(known: Known | None, facts: Facts) -> Known:
    """The function behind `rate` for these facts. It raises EvaluationError where nothing is counted."""

    def count(by: str, seconds: int) -> int:
        if known is None:
            raise EvaluationError("nothing is counted here")
        try:
            return known(key(by, _whom(by, facts)), seconds)
        except OSError as error:
            raise EvaluationError(f"what was sent lately cannot be read: {error}") from error

    return count


def _whom(by: str, facts: Facts) -> str:
    match by:
        case "client":
            return str(facts.client.address)
        case "user":
            return str(facts.client.user).lower()
        case "sender":
            return str(facts.sender.address)
        case "sender_domain":
            return str(facts.sender.domain)
    return str(facts.recipient.domain)
