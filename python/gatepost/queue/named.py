"""The address that RCPT named for a recipient of the queue: handlers may have led elsewhere since, and policies go by what was named.

Called by rescans and dry runs. Pure. It stands in ORCPT then (queue/plan.py), but clients may say what they like there: it counts only if
mail to it is led to this recipient by the rules as they are now.
"""

from gatepost.message.address import AddressError, parse_address
from gatepost.routing.decide import decide
from gatepost.routing.model import Question, RuleSet


def named_address(rule_set: RuleSet, address: str, orcpt: str, delimiter: str) -> str:
    """`orcpt` is 'rfc822;address' (RFC 3461 4.2), or ''. The recipient's own address when it has no believable other."""
    kind, semicolon, named = orcpt.partition(";")
    if not semicolon or kind.lower() not in ("rfc822", "utf-8") or named.lower() == address.lower():
        return address
    try:
        named = str(parse_address(named))
    except AddressError:
        return address
    routes = decide(rule_set, Question("", named, trusted=True), delimiter=delimiter).routes
    return named if any(one.address.lower() == address.lower() for one in routes) else address
