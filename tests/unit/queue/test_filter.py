"""The spool's filter against a plain one in Python, over generated messages and filters (property test)."""

import itertools
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.native import K_DEFERRED, K_DELIVERED, K_FAILED, K_HELD, K_RELEASED, Change, Spool
from gatepost.queue.views import Filter
from support.queue_filter import matches, matches_recipient
from support.spool import filled, wait_native

FAR = 4_000_000_000_000_000
ADDRESSES = ("", "Bob@Peer.test", "bob@peer.test", "eve+x@\u00c4.test", "postmaster", '"a@b"@c.test', "[x]@peer.test")
DESTINATIONS = ("smtp:Peer.test:may", "local:main", "smtp:\u00e4.test:dane", "")
PATTERNS = ("*", "b?b@*", "BOB@peer.TEST", "*@\u00e4.test", "?", "[x]@*", "*.test", "<>", "nobody*")
DETAILS = (
    b'{"code":451,"enhanced":"4.7.1","text":"Grey \xc3\x84 listed","host":"mx"}',
    b'{"reason":"down \\u00e4"}',
    b"no json",
    b"",
    b"[1]",
)
NOW = 2_000_000_000_000_000


@dataclass(frozen=True)
class Put:
    """A message: sender, (address, destination) of each recipient, octets, and (recipient, kind, detail) of what happened to it."""

    sender: str
    recipients: tuple[tuple[str, str], ...]
    size: int
    changes: tuple[tuple[int, int, bytes], ...]


puts = st.builds(
    Put,
    st.sampled_from(ADDRESSES),
    st.lists(st.tuples(st.sampled_from(ADDRESSES), st.sampled_from(DESTINATIONS)), min_size=1, max_size=3).map(tuple),
    st.sampled_from((10, 100, 3000)),
    st.lists(
        st.tuples(st.integers(-1, 2), st.sampled_from((K_DEFERRED, K_DELIVERED, K_FAILED, K_HELD, K_RELEASED)), st.sampled_from(DETAILS)),
        max_size=4,
    ).map(tuple),
)
filters = st.builds(
    Filter,
    sender=st.sampled_from(("", *PATTERNS)),
    recipient=st.sampled_from(("", *PATTERNS)),
    domain=st.sampled_from(("", "", "PEER.test", "\u00c4.test", "c.test", "postmaster")),
    destination=st.sampled_from(("", "", "SMTP:*", "local:?ain", "*", "smtp:peer.test:may")),
    state=st.sampled_from(("", "", "pending", "DELIVERED", "FAILED", "REMOVED")),
    held=st.sampled_from((None, None, True, False)),
    min_size=st.sampled_from((None, 50)),
    max_size=st.sampled_from((None, 50, 2000)),
    reply=st.sampled_from(("", "", "GREY", "\u00c4", "4.7.1 g", "no json", " ", "[1]", "mx")),
    newer_than=st.sampled_from((None, 10.0)),
)


def fill(spool: Spool, messages: list[Put]) -> None:
    tickets = itertools.count(1)
    changes: list[Change] = []
    for put in messages:
        incoming = filled(spool, b"x" * put.size)
        rows = [(address, "", destination, 0, b"", FAR, False) for address, destination in put.recipients]
        spool.commit(next(tickets), incoming, put.sender, rows, b"{}")
        changes += [(incoming.message_id, index, kind, FAR, detail) for index, kind, detail in put.changes]
    last = next(tickets)
    spool.sync(last)
    assert wait_native(spool, last)[0] is None
    spool.change(0, changes)


@settings(max_examples=60, deadline=None)
@given(messages=st.lists(puts, max_size=8), wanted=st.lists(filters, min_size=5, max_size=20))
def test_the_spool_finds_what_the_filter_means(tmp_path_factory: object, messages: list[Put], wanted: list[Filter]) -> None:
    path: Path = tmp_path_factory.mktemp("filter")  # type: ignore[attr-defined]
    spool = Spool(str(path / "p0"))
    fill(spool, messages)
    everything = [spool.get(message_id) for message_id in spool.list_ids(None, 100)]
    now = max((raw[2] for raw in everything), default=NOW)
    for one in wanted:
        expected = [raw for raw in everything if matches(one, raw, now)]
        native = one.native(now)
        assert spool.list(native, None, 100) == (expected, None), one
        assert spool.select(native, 100) == b"".join(raw[0] for raw in expected), one
        recipients = sum(matches_recipient(one, recipient) for raw in expected for recipient in raw[6])
        assert spool.count(native) == (len(expected), recipients), one
    spool.close()
