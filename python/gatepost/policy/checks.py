"""Decisions on sender, recipient and finished message. Called by server/smtp; each returns the Reply that refuses, or None.

Pure: facts in, verdict out. Relaying itself is not decided here but by routing.decide, from `trusted`; these checks only narrow it.
"""

from dataclasses import dataclass

from gatepost.message.address import Address, domain_key
from gatepost.message.reply import Reply
from gatepost.routing.index import index_of
from gatepost.routing.model import RuleKind, RuleSet

NEED_UTF8 = Reply(553, "5.6.7", "a non-ASCII address needs the SMTPUTF8 parameter of MAIL")
NEED_LOGIN = Reply(530, "5.7.0", "authentication required")
NOT_OWN_ADDRESS = Reply(553, "5.7.1", "sender address belongs to another user")
TOO_BIG = Reply(552, "5.3.4", "message is larger than this server takes")
LONG_HEADER = Reply(552, "5.3.4", "header section is larger than this server takes (256 KiB)")
LOOP = Reply(554, "5.4.6", "too many hops, this message loops")
DEFECTS = {
    "bare-cr": Reply(550, "5.6.0", "bare CR is not allowed in messages, lines end with CR LF (RFC 5321 2.3.8)"),
    "bare-lf": Reply(550, "5.6.0", "bare LF is not allowed in messages, lines end with CR LF (RFC 5321 2.3.8)"),
    "too-big": TOO_BIG,
    "long-header": LONG_HEADER,
    "disk-full": Reply(452, "4.3.1", "not enough disk space, try again later"),
    "closed": Reply(421, "4.3.0", "queue is not available"),
}
SMUGGLING_DEFECTS = frozenset({"bare-cr", "bare-lf"})
BARE_IN_CHUNK = Reply(550, "5.6.0", "bare CR or LF needs BINARYMIME, which is not offered (RFC 3030)")


@dataclass(frozen=True, slots=True)
class MessageFacts:
    """What the native receiver saw in a message; of `Incoming.verdict()`."""

    received_count: int
    has_bare_newline: bool = False


def check_utf8(address: Address | None, smtputf8: bool) -> Reply | None:
    """RFC 6531 3.4: without SMTPUTF8 on MAIL both paths are US-ASCII."""
    if address is None or smtputf8 or address.is_ascii:
        return None
    return NEED_UTF8


def check_own_address(rule_set: RuleSet, sender: Address | None, user: str, delimiter: str) -> Reply | None:
    """A submitted message may not carry the hosted address of another user as its reverse-path (RFC 6409 6.1)."""
    if sender is None:
        return None
    key = sender.key
    local, _, domain = key.rpartition("@")
    base = f"{local.split(delimiter, 1)[0]}@{domain}" if delimiter else key
    own = user.lower()
    if own in (key, base):
        return None
    return NOT_OWN_ADDRESS if key in rule_set.mailboxes or base in rule_set.mailboxes else None


def check_message(facts: MessageFacts, max_hops: int) -> Reply | None:
    """After the end of data: loops, and line ends that could smuggle a second message past the next server."""
    if facts.has_bare_newline:
        return BARE_IN_CHUNK
    if facts.received_count > max_hops:
        return LOOP
    return None


def defect_reply(defect: str) -> Reply:
    """The reply to a message the native receiver refused while reading it."""
    return DEFECTS.get(defect) or Reply(451, "4.3.0", "message could not be taken")


def postmaster_domain(rule_set: RuleSet, hostname: str) -> str:
    """The domain meant by RCPT TO:<postmaster> (RFC 5321 4.1.1.3): our own name if hosted, else its parent, else the first hosted one."""
    name = domain_key(hostname)
    while name:
        rule = rule_set.rules.get(name)
        if rule is not None and rule.kind is RuleKind.HOSTED:
            return name
        name = name.partition(".")[2]
    return index_of(rule_set).first_hosted() or hostname
