"""Words around messages of all shapes: read back by the standard library's parser, and whole where something is signed."""

from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest

from gatepost.delivery.surround import Around, Edit, Words, surround
from gatepost.message.fields import HeaderView

BELOW = Words("Sent by a list.\nLeave: https://x.test/u", "<p>Sent by a <b>list</b></p>")
AROUND = Around(Words(), BELOW, b"seed")


def apply(message: bytes, edits: list[Edit]) -> bytes:
    out, at = b"", 0
    for start, end, with_ in sorted(edits, key=lambda edit: edit[:2]):
        assert start >= at, "edits overlap"
        out += message[at:start] + with_
        at = end
    return out + message[at:]


def changed(message: bytes, around: Around = AROUND) -> bytes:
    head = HeaderView(message[: message.index(b"\r\n\r\n") + 4])
    return apply(message, surround(head, len(message), around))


def parsed(octets: bytes) -> EmailMessage:
    message = message_from_bytes(octets, policy=policy.default)
    assert isinstance(message, EmailMessage)
    assert not any(part.defects for part in message.walk())
    return message


def letter(content: str, body: bytes) -> bytes:
    return b"From: a@x.test\r\nMIME-Version: 1.0\r\n" + content.encode() + b"Subject: hi\r\n\r\n" + body


@pytest.mark.parametrize(
    ("content", "body"),
    [
        ("", b"hello\r\n"),
        ("Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n", "grüße\r\n".encode()),
        ("Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n", b"gr=FC=DFe=\r\n"),
    ],
)
def test_plain_text_gets_the_words_in_its_own_part(content: str, body: bytes) -> None:
    message = letter(content, body)
    result = changed(message)
    assert result.startswith(message)
    text = parsed(result).get_content()
    assert text.splitlines()[-2:] == ["Sent by a list.", "Leave: https://x.test/u"]


def test_words_stand_above_as_well() -> None:
    result = parsed(changed(letter("", b"hello\r\n"), Around(Words("EXTERNAL"), Words("bye"), b"s")))
    assert result.get_content().splitlines() == ["EXTERNAL", "", "hello", "", "bye"]


def test_html_gets_the_html_words_and_plain_ones_escaped() -> None:
    message = letter("Content-Type: text/html; charset=utf-8\r\n", b"<html><body>hi</body></html>\r\n")
    assert "<p>Sent by a <b>list</b></p>" in parsed(changed(message)).get_content()
    assert "<p>a &lt; b</p>" in parsed(changed(message, Around(Words(), Words("a < b"), b"s"))).get_content()


@pytest.mark.parametrize(
    ("content", "body"),
    [
        ("Content-Type: text/plain; charset=us-ascii\r\n", b"hello\r\n"),
        ("Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n", b"aGVsbG8NCg==\r\n"),
        ("Content-Type: text/plain; charset=utf-16le\r\nContent-Transfer-Encoding: 8bit\r\n", "hello\r\n".encode("utf-16le")),
        ('Content-Type: application/pdf\r\nContent-Disposition: attachment; filename="a.pdf"\r\n', b"%PDF\r\n"),
    ],
)
def test_what_cannot_hold_the_words_becomes_a_part_beside_them(content: str, body: bytes) -> None:
    message = letter(content, body)
    result = parsed(changed(message, Around(Words("oben ü"), Words("unten ß"), b"s")))
    assert result.get_content_type() == "multipart/mixed"
    above, middle, below = result.iter_parts()
    assert (above.get_content().strip(), below.get_content().strip()) == ("oben ü", "unten ß")
    assert middle.get_content() == parsed(message).get_content()
    assert result["Subject"] == "hi" and len(result.get_all("Content-Type", [])) == 1


def test_a_signed_message_is_whole_inside_the_wrap() -> None:
    signed = (
        b"--b\r\nContent-Type: text/plain\r\n\r\nsigned words  \r\n--b\r\nContent-Type: application/pgp-signature\r\n\r\nXXXX\r\n--b--\r\n"
    )
    message = letter('Content-Type: multipart/signed; micalg=pgp-sha256;\r\n\tboundary="b"\r\n', signed)
    result = changed(message)
    assert signed in result
    original, footer = parsed(result).iter_parts()
    assert original.get_content_type() == "multipart/signed"
    assert [part.get_content_type() for part in footer.iter_parts()] == ["text/plain", "text/html"]


def test_alternatives_stay_alternatives_and_an_eight_bit_body_stays_declared() -> None:
    body = b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>x</p>\r\n--b--\r\n"
    result = parsed(changed(letter("Content-Type: multipart/alternative; boundary=b\r\nContent-Transfer-Encoding: 8bit\r\n", body)))
    assert result["Content-Transfer-Encoding"] == "8bit"
    assert [part.get_content_type() for part in result.iter_parts()] == ["multipart/alternative", "multipart/alternative"]


def test_a_message_without_mime_version_gets_one_with_the_wrap() -> None:
    message = b"From: a@x.test\r\nContent-Type: image/png\r\n\r\nxx\r\n"
    assert parsed(changed(message))["MIME-Version"] == "1.0"


def test_nothing_to_say_changes_nothing() -> None:
    message = letter("", b"hello\r\n")
    assert changed(message, Around(Words(), Words(), b"s")) == message
