"""The filter over the queue."""

from typing import Any

import pytest

from gatepost.message.envelope import Meta, Origin
from gatepost.native import Summary
from gatepost.queue.views import Filter, decode_summary
from gatepost.routing.model import Route, RouteKind

ROUTE = Route(RouteKind.SMTP, "bob@Peer.test").encode()
NOW = 1_000_000_000


def summary(**changes: Any) -> Summary:
    recipients = changes.pop(
        "recipients",
        [
            ("bob@peer.test", "", "smtp:peer.test:opportunistic", 0, ROUTE, "PENDING", False, 0, 2, b'{"code":451,"text":"Greylisted"}'),
            ("eve@other.test", "", "local:main", 0, ROUTE, "DELIVERED", True, 0, 1, b""),
        ],
    )
    return (
        b"\x01\xab" + b"\x00" * 14,
        5000,
        NOW - 60_000_000,
        changes.get("sender", "Alice@here.test"),
        Meta(Origin("SMTP")).encode(),
        False,
        recipients,
    )


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(),
        Filter(sender="alice@*"),
        Filter(sender="ALICE@HERE.TEST"),
        Filter(recipient="bob@*"),
        Filter(domain="PEER.test"),
        Filter(destination="smtp:*"),
        Filter(state="pending"),
        Filter(held=False),
        Filter(older_than=60, newer_than=60),
        Filter(min_size=5000, max_size=5000),
        Filter(reply="greylist"),
        Filter(reply="451"),
        Filter(id_prefix="01AB0000-00"),
        Filter(received_before=NOW),
        Filter(domain="peer.test", state="PENDING", reply="grey"),
    ],
)
def test_a_filter_that_holds_matches(wanted: Filter) -> None:
    assert wanted.matches(summary(), NOW)


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(sender="<>"),
        Filter(sender="lice@here.test"),
        Filter(recipient="mallory@*"),
        Filter(domain="other.test", state="PENDING"),
        Filter(held=True),
        Filter(older_than=61),
        Filter(newer_than=59),
        Filter(min_size=5001),
        Filter(max_size=4999),
        Filter(reply="quota"),
        Filter(id_prefix="02"),
        Filter(received_before=NOW - 61_000_000),
        Filter(sender="[a]lice@here.test"),
    ],
)
def test_a_filter_that_does_not_hold_does_not_match(wanted: Filter) -> None:
    assert not wanted.matches(summary(), NOW)


def test_the_null_reverse_path_has_a_name() -> None:
    assert Filter(sender="<>").matches(summary(sender=""), NOW)


def test_a_summary_is_decoded_whole() -> None:
    message = decode_summary(summary())
    assert message.recipients[0].route.address == "bob@Peer.test"
    assert message.recipients[0].last == {"code": 451, "text": "Greylisted"}
    assert message.recipients[0].pending
    assert not message.recipients[1].pending
