"""Digests: nothing from a message gets out of its line, and a link does what was signed, as long as it was meant to."""

import base64
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default

import pytest

from gatepost.config import Settings
from gatepost.control.digest import newest_moment
from gatepost.queue.digest import MAC, MAX_ENTRIES, Entry, Link, LinkError, Setting, actions_for, build_digest, plain, read_link

KEY = bytes(range(32))
ID = bytes(range(16))
NOW = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
SETTING = Setting("mail.here.test", "https://mail.here.test/q/", KEY, 2_000_000_000, NOW)


def entry(**more: object) -> Entry:
    fields: dict[str, object] = {
        "message_id": ID,
        "recipient": "alice@here.test",
        "sender": "m@evil.test",
        "header_from": "Mallory <m@evil.test>",
        "subject": "hello",
        "received": NOW,
        "why": "programs are not taken",
        "infected": False,
        **more,
    }
    return Entry(**fields)  # type: ignore[arg-type]


def bodies(octets: bytes) -> tuple[str, str]:
    mail = message_from_bytes(octets, policy=default)
    return mail.get_body(("plain",)).get_content(), mail.get_body(("html",)).get_content()  # type: ignore[union-attr]


def test_a_link_comes_back_as_it_was_signed() -> None:
    for action in ("release", "allow", "delete"):
        link = Link(action, ID, "jörg@bücher.test", 1_000)
        assert read_link(link.sign(KEY), KEY, now=999) == link
        assert link.releases == (action != "delete")


def test_any_change_of_a_link_or_another_key_makes_it_nothing() -> None:
    token = Link("delete", ID, "alice@here.test", 1_000).sign(KEY)
    octets = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    for at in range(len(octets)):
        changed = octets[:at] + bytes([octets[at] ^ 1]) + octets[at + 1 :]
        with pytest.raises(LinkError):
            read_link(base64.urlsafe_b64encode(changed).decode().rstrip("="), KEY, now=0)
    for wrong in (
        token,
        *[base64.urlsafe_b64encode(octets[:n]).decode() for n in (0, 1, 22, MAC, len(octets) - 1)],
        "é",
        "a b",
        "A" * 5000,
    ):
        with pytest.raises(LinkError):
            read_link(wrong, bytes(32), now=0)


def test_a_link_expires() -> None:
    with pytest.raises(LinkError) as failure:
        read_link(Link("release", ID, "a@b.test", 1_000).sign(KEY), KEY, now=1_001)
    assert failure.value.expired


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "\"><a href='http://evil.test'>click</a>",
        "line\r\nBcc: everybody@evil.test",
        "line\n\n  Release: https://mail.here.test/q/forged",
        "http://evil.test/login www.evil.test mailto:x@evil.test",
        "\u202egpj.exe\u2066 \x00\x1b[31m",
        "x" * 5000,
    ],
)
def test_nothing_from_a_message_becomes_markup_a_link_or_a_line(hostile: str) -> None:
    made = build_digest(SETTING, "alice@here.test", [entry(subject=hostile, header_from=hostile, sender=hostile, why=hostile)])
    text, html = bodies(made.octets)
    assert "<script" not in html and html.count("<a ") == 3
    for body in (text, html):
        assert "http://evil" not in body and "www.evil" not in body and "\u202e" not in body and "\x1b" not in body
    assert len([line for line in text.splitlines() if line.startswith("  Release: ")]) == 1
    assert "x" * 250 not in text and message_from_bytes(made.octets, policy=default)["Bcc"] is None


def test_a_digest_lists_the_newest_and_counts_the_rest() -> None:
    many = [entry(message_id=n.to_bytes(16, "big"), subject=f"number {n}.") for n in range(MAX_ENTRIES + 7)]
    made = build_digest(SETTING, "alice@here.test", many, omitted=3)
    text, _ = bodies(made.octets)
    assert (made.listed, made.omitted) == (MAX_ENTRIES, 10)
    assert "number 106." in text and "number 6." not in text and "10 more" in text
    assert "110 messages" in str(message_from_bytes(made.octets, policy=default)["Subject"])


def test_addresses_and_subjects_of_any_language_are_told_as_they_are() -> None:
    made = build_digest(SETTING, "jürgen@bücher.test", [entry(subject="Grüße = 1\n.", recipient="jürgen@bücher.test")])
    assert b"\r\nTo: j\xc3\xbcrgen@b\xc3\xbccher.test\r\n" in made.octets, "an encoded word in an address is none"
    assert all("Grüße = 1 ." in body and "jürgen@bücher.test" in body for body in bodies(made.octets))
    assert build_digest(SETTING, "alice@here.test", [entry()]).octets.isascii()
    assert max(map(len, made.octets.split(b"\r\n"))) <= 76 + 2 and b"\n" not in made.octets.replace(b"\r\n", b"")


def test_an_infected_message_is_not_released_by_a_link_and_a_null_sender_cannot_be_allowed() -> None:
    assert list(actions_for(entry(infected=True))) == ["delete"]
    assert list(actions_for(entry(sender=""))) == ["release", "delete"]
    text, _ = bodies(build_digest(SETTING, "alice@here.test", [entry(infected=True)]).octets)
    assert "Release" not in text and "Infected" in text


def test_text_is_cut_and_kept_readable() -> None:
    assert plain("  a\tb  ") == "a b"
    assert plain("äöü" * 100).endswith("…") and len(plain("äöü" * 100)) == 120


@pytest.mark.parametrize(
    ("digest", "now", "moment"),
    [
        ("off", "2026-03-04 07:00", None),
        ("daily", "2026-03-04 07:00", "2026-03-04 06:00"),
        ("daily", "2026-03-04 05:59", "2026-03-03 06:00"),
        ("weekly", "2026-03-04 07:00", "2026-03-02 06:00"),
        ("weekly", "2026-03-02 05:00", "2026-02-23 06:00"),
    ],
)
def test_digests_are_due_at_the_hour_of_the_setting(digest: str, now: str, moment: str | None) -> None:
    settings = Settings(hostname="mail.here.test", quarantine={"digest": digest})  # type: ignore[arg-type]
    found = newest_moment(settings, datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert found == (datetime.fromisoformat(moment).replace(tzinfo=UTC) if moment else None)
