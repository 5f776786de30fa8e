"""Listing, counting and selecting by the native filter: every condition, alone and together, against what the messages are."""

from pathlib import Path

import pytest

from gatepost.native import K_DEFERRED, K_HELD, K_REMOVED, InvalidError, NativeFilter, Spool
from support.spool import filled, wait_native

FAR = 4_000_000_000_000_000


def put(spool: Spool, sender: str, *recipients: tuple[str, str], size: int = 10) -> bytes:
    """Commit a message that is due in the far future; not durable yet, which `put` of the next does not wait for."""
    incoming = filled(spool, b"x" * size)
    rows = [(address, "", destination, 0, b"route", FAR, False) for address, destination in recipients]
    spool.commit(1, incoming, sender, rows, b"{}")
    return incoming.message_id


def settle(spool: Spool) -> None:
    """Wait until all that was put is durable, and so visible."""
    spool.sync(9)
    assert wait_native(spool, 9)[0] is None


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(str(tmp_path / "p0"))


def selected(spool: Spool, wanted: NativeFilter) -> list[bytes]:
    packed = spool.select(wanted, 1000)
    return [packed[at : at + 16] for at in range(0, len(packed), 16)]


def test_each_condition_finds_its_messages(spool: Spool) -> None:
    one = put(spool, "Alice@Here.test", ("bob@peer.test", "smtp:peer.test:may"), ("EVE@Other.test", "local:main"))
    two = put(spool, "", ("bob@other.test", "local:main"), size=5000)
    settle(spool)
    spool.change(2, [(one, 0, K_DEFERRED, FAR, b'{"code":451,"text":"Greylisted","host":"mx.peer.test"}'), (two, 0, K_HELD, 0, b"{}")])
    assert wait_native(spool, 2)[0] is None
    found: list[tuple[NativeFilter, list[bytes]]] = [
        ({}, [one, two]),
        ({"sender": "alice@*"}, [one]),
        ({"sender": "<>"}, [two]),
        ({"sender": "lice@here.test"}, []),
        ({"recipient": "bob@*"}, [one, two]),
        ({"recipient": "?ve@other.TEST"}, [one]),
        ({"domain": "OTHER.test"}, [one, two]),
        ({"domain": "ther.test"}, []),
        ({"destination": "SMTP:*"}, [one]),
        ({"destination": "local:main", "recipient": "bob@*"}, [two]),
        ({"state": "pending"}, [one, two]),
        ({"state": "DELIVERED"}, []),
        ({"held": True}, [two]),
        ({"held": False}, [one]),
        ({"min_size": 1000}, [two]),
        ({"max_size": 1000}, [one]),
        ({"reply": "GREY"}, [one]),
        ({"reply": "451 "}, [one]),
        ({"reply": "mx.peer"}, [one]),
        ({"reply": "mx.peer", "recipient": "eve@*"}, []),
        ({"id_prefix": two.hex().upper()}, [two]),
        ({"received_from": 1}, [one, two]),
        ({"received_to": 1}, []),
    ]
    for wanted, ids in found:
        assert selected(spool, wanted) == ids, wanted
        assert spool.count(wanted)[0] == len(ids), wanted
        page, following = spool.list(wanted, None, 1000)
        assert [row[0] for row in page] == ids and following is None, wanted
    assert spool.count({"domain": "other.test"}) == (2, 2)
    assert spool.count({}) == (2, 3)


def test_pages_follow_each_other_without_gap(spool: Spool) -> None:
    ids = [put(spool, "a@b", (f"{n}@{'odd' if n % 2 else 'even'}.test", "d")) for n in range(50)]
    settle(spool)
    found: list[bytes] = []
    page, following = spool.list({"domain": "odd.test"}, None, 7)
    while True:
        found += [row[0] for row in page]
        if following is None:
            break
        page, following = spool.list({"domain": "odd.test"}, following, 7)
    assert found == ids[1::2]
    assert spool.select({}, 3) == b"".join(ids[:3])


def test_a_rerouted_recipient_is_found_where_it_goes_now(spool: Spool) -> None:
    one = put(spool, "a@b", ("old@old.test", "smtp:old"))
    settle(spool)
    spool.reroute(1, one, 0, "new@new.test", "smtp:new", b"route", b"")
    assert wait_native(spool, 1)[0] is None
    assert selected(spool, {"domain": "new.test", "destination": "smtp:new"}) == [one]
    assert selected(spool, {"domain": "old.test"}) == []


def test_nonsense_is_refused_not_ignored(spool: Spool) -> None:
    for wanted in ({"sendr": "x"}, {"state": "LOST"}, {"id_prefix": "xyz"}, {"id_prefix": "0" * 33}):
        with pytest.raises(InvalidError):
            spool.count(wanted)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="16 octets"):
        spool.change_all(0, b"123", K_HELD, 0, b"")


def test_a_change_of_many_skips_what_it_does_not_fit(spool: Spool) -> None:
    ids = [put(spool, "a@b", ("x@y.test", f"d{n % 3}")) for n in range(3000)]
    settle(spool)
    packed = b"".join(ids)
    assert spool.destinations_of(packed) == ["d0", "d1", "d2"]
    spool.change(0, [(ids[7], -1, K_HELD, 0, b"{}"), (ids[8], -1, K_REMOVED, 0, b"{}")])
    assert spool.changeable(packed, K_HELD) == packed[: 7 * 16] + packed[9 * 16 :]
    assert spool.change_all(3, packed + b"\0" * 16, K_HELD, 0, b'{"by":"me"}') == 2998
    assert wait_native(spool, 3)[0] is None
    assert spool.stats()["held"] == 2999 and spool.changeable(packed, K_HELD) == b""
    assert spool.history(ids[0])[-1][1:] == (K_HELD, -1, b'{"by":"me"}')
    assert spool.change_all(4, packed, K_REMOVED, 0, b"{}") == 2999
    assert wait_native(spool, 4)[0] is None
    assert spool.stats()["messages"] == 0
