"""What the queue shows of itself, and the filter as the spool takes it."""

from typing import Any

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


def test_ages_become_times_and_what_is_not_asked_is_left_out() -> None:
    wanted = Filter(older_than=60, newer_than=0.5, max_size=7, held=False, received_before=NOW).native(NOW)
    assert wanted["received_to"] == NOW - 60_000_000
    assert wanted["received_from"] == NOW - 500_000
    assert (wanted["max_size"], wanted["held"]) == (7, False)
    assert not {"min_size"} & wanted.keys()
    assert Filter(older_than=1e9).native(NOW)["received_to"] == 0


def test_a_summary_is_decoded_whole() -> None:
    message = decode_summary(summary())
    assert message.recipients[0].route.address == "bob@Peer.test"
    assert message.recipients[0].last == {"code": 451, "text": "Greylisted"}
    assert message.recipients[0].pending
    assert not message.recipients[1].pending
