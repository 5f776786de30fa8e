"""What a route changes of a message: its return path, and octets put in for this recipient alone. Called by the transports.

The stored message stays as it was received; edits are applied while it is read. Settings are those in force at the delivery, by the
reference that the route carries: a list that is gone, or a footer that was taken away, changes nothing. Invariants: of a body nothing is
cut; where a change breaks the author's DKIM signature, a field, the log and the history say so, and a disclaimer does it only where its
rule wants that. Fails with Circle when a post has been through its list before.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import structlog

from gatepost.delivery.list_fields import ListLook, came_through, list_edits, tag_edits
from gatepost.delivery.surround import Around, Edit, Words, surround
from gatepost.message.fields import HeaderView
from gatepost.message.ids import format_message_id
from gatepost.message.list_link import ListAction, ListLink
from gatepost.message.srs import DAY_SECONDS, Srs
from gatepost.message.verp import verp
from gatepost.native import Reader
from gatepost.policy.header_edits import header_edits
from gatepost.queue.return_path import SRS, VERP, report_path
from gatepost.queue.transport import Job
from gatepost.routing.model import Route, RuleSet
from gatepost.routing.route import STAGE_EDIT
from gatepost.routing.settings import Disclaimer, ListSettings
from gatepost.scan.edits import SCAN_EDIT, renewed

MAX_HEADER = 1 << 20
FIELD = "X-Gatepost-Changed"
TOLD_MOST = 10_000
"""Messages whose notes are remembered, so that each is made once and not at each attempt."""

log = structlog.get_logger()


class Circle(Exception):
    """The post came back to a list that it has been through."""


class RouteChanges:
    """`hostname` says who made a change. `link_base` begins the links of lists, '' when there is no page behind them."""

    def __init__(
        self,
        rule_set: Callable[[], RuleSet],
        hostname: Callable[[], str],
        clock: Callable[[], float] = time.time,
        link_base: Callable[[], str] = str,
        note: Callable[[bytes, str], None] | None = None,
    ) -> None:
        """`note` puts a line into a message's history; called in threads."""
        self._note = note
        self._told: OrderedDict[tuple[bytes, str], None] = OrderedDict()
        self._link_base = link_base
        self._rule_set = rule_set
        self._hostname = hostname
        self._clock = clock

    def sender(self, reverse_path: str, route: Route) -> str:
        """What MAIL FROM and Return-Path say for this route."""
        if not route.return_path:
            return reverse_path
        key = self._rule_set().srs_key
        if route.return_path.startswith(SRS) and key:
            return Srs(key).encode(reverse_path, route.return_path.removeprefix(SRS), int(self._clock()) // DAY_SECONDS)
        if route.return_path.startswith(VERP) and key and reverse_path:
            return verp(route.return_path.removeprefix(VERP), route.member, key)
        return report_path(reverse_path, route)

    def personal(self, route: Route) -> str:
        """Whom the copy of this route is made for alone; '' where recipients may share one."""
        return route.member if route.list_address and self._link_base() else ""

    def edits(self, reader: Reader, job: Job, route: Route) -> list[Edit]:
        """The edits of this route. Reads from the disk. Raises Circle, CoreError."""
        octets = reader.header(MAX_HEADER)
        if not octets.endswith(b"\r\n\r\n"):
            return []  # no body, or no header that a reader would find the end of
        header = HeaderView(octets)
        edits: list[Edit] = []
        around, signed, spared = Around(Words(), Words(), job.message_id), "dkim-signature" in header, []
        for kind, ref in route.edits:
            if kind == "disclaimer" and signed and not self._on_signed(ref):
                spared.append(ref)
            else:
                around = self._one(kind, ref, header, edits, around, route)
        edits = self._by_policies(header, edits, route)
        broken = signed and bool(around.above or around.below or any(header.octets[start:end] for start, end, _ in edits))
        for ref in spared:
            if broken:  # there is no signature left to spare
                around = self._one("disclaimer", ref, header, edits, around, route)
            elif self._rule_set().disclaimer(ref) is not None:
                self._tell(job, f"disclaimer of {ref} left out: the mail is signed (DKIM)")
        body = surround(header, reader.size, around)
        if broken:
            at = len(octets) - 2
            edits.append((at, at, f"{FIELD}: {self._hostname()}; breaks=dkim-signature\r\n".encode()))
            self._tell(job, "changed for this recipient, which breaks its DKIM signature")
        return edits + body + [edit for kind, value in route.edits if kind == SCAN_EDIT for edit in renewed(header, value)]

    def _on_signed(self, ref: str) -> bool:
        disclaimer = self._rule_set().disclaimer(ref)
        return disclaimer is not None and disclaimer.on_signed

    def _tell(self, job: Job, text: str) -> None:
        """In the log and in the message's history, once."""
        key = job.message_id, text
        if key in self._told:
            return
        self._told[key] = None
        while len(self._told) > TOLD_MOST:
            self._told.popitem(last=False)
        log.info("signed mail", message=format_message_id(job.message_id), what=text)
        if self._note is not None:
            self._note(job.message_id, text)

    def _one(self, kind: str, ref: str, header: HeaderView, edits: list[Edit], around: Around, route: Route) -> Around:
        if kind == "list" and (settings := self._rule_set().list_settings(ref)) is not None:
            if came_through(header, ref):
                raise Circle(ref)
            if ref == route.list_address:
                edits += list_edits(header, replace(_look(ref, settings), one_click=self._one_click(ref, route.member)))
            else:
                edits += tag_edits(header, _look(ref, settings))
            return replace(around, below=_joined(around.below, Words(settings.footer_text, settings.footer_html)))
        if kind == "disclaimer" and (disclaimer := self._rule_set().disclaimer(ref)) is not None:
            return _disclaimed(around, disclaimer)
        return around

    def _by_policies(self, header: HeaderView, edits: list[Edit], route: Route) -> list[Edit]:
        """And what stage policies want of the header in this attempt; where a list changes the same field, the list's change holds."""
        names = {ref for kind, ref in route.edits if kind == STAGE_EDIT}
        if not names:
            return edits
        policies = [one for one in self._rule_set().stage_policies if one.name in names]
        front, mine = header_edits(header.places, header.octets, policies)
        apart = [one for one in mine if not any(one[0] < end and start < one[1] for start, end, _ in edits)]
        return [*([(0, 0, front)] if front else []), *edits, *apart]

    def _one_click(self, address: str, member: str) -> str:
        """The link that signs this member off; it does not expire, since posts are kept for years."""
        base, key = self._link_base(), self._rule_set().srs_key
        return f"{base}{ListLink(ListAction.UNSUBSCRIBE, address, member).sign(key)}" if base and key else ""


def _disclaimed(around: Around, disclaimer: Disclaimer) -> Around:
    above = _joined(Words(disclaimer.header_text, disclaimer.header_html), around.above)
    return replace(around, above=above, below=_joined(around.below, Words(disclaimer.footer_text, disclaimer.footer_html)))


def _joined(first: Words, second: Words) -> Words:
    """Two texts one under the other; a form that only one of them has stands for that one."""
    if not (first and second):
        return first or second
    html = "\n".join(one.in_html() for one in (first, second)) if first.html or second.html else ""
    return Words("\n".join(one.in_plain().strip("\n") for one in (first, second)), html)


def _look(address: str, settings: ListSettings) -> ListLook:
    def about(word: str) -> str:
        local, _, domain = address.rpartition("@")
        return f"{local}-{word}@{domain}"

    return ListLook(
        address=address,
        name=settings.name,
        subject_tag=settings.subject_tag,
        reply_to=settings.reply_to or "sender",
        owner=about("owner"),
        unsubscribe=f"mailto:{about('unsubscribe')}",
        help_url=f"mailto:{about('request')}?subject=help",
        subscribe=f"mailto:{about('subscribe')}" if settings.self_subscribe else "",
    )
