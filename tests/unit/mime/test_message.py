"""`gatepost.mime`: the values that Python sees, and that big messages leave the event loop alone."""

import asyncio
import base64
from pathlib import Path

import pytest

from gatepost.mime import decode, parse, parse_in_thread
from gatepost.native import InvalidError

READINGS = Path(__file__).parents[2] / "corpus" / "mime" / "readings"
LETTER = (
    b"From: a@x.test\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n folded\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\ncaf=E9  =\r\nau lait\r\n"
    b"--b\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename*=utf-8''r%C3%A9sum%C3%A9.pdf\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\nJVBERi0=\r\n--b--\r\n"
)


def test_parts_fields_and_contents_of_a_letter_are_given_with_their_offsets():
    message = parse(LETTER)
    assert [(part.kind, part.content_type) for part in message.parts] == [
        ("multipart", "multipart/mixed"), ("leaf", "text/plain"), ("leaf", "application/pdf"),
    ]  # fmt: skip
    for part in message.parts:
        assert LETTER[part.header : part.body].endswith(b"\r\n\r\n")
    assert LETTER[message.parts[1].body : message.parts[1].end] == b"caf=E9  =\r\nau lait"
    subject = message.fields()[1]
    assert (subject.name, subject.value) == ("Subject", b" =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n folded")
    assert LETTER[subject.start : subject.end].startswith(b"Subject:")
    assert message.text() == "café  au lait"
    assert message.preview() == "café au lait"
    assert message.html() is None
    (pdf,) = message.attachments
    assert (pdf.names, message.content(pdf)) == (("résumé.pdf",), b"%PDF-")
    assert message.section("2") == b"JVBERi0="
    assert message.section("7") is None
    assert (message.defects, message.ambiguous, message.incomplete, len(message.readings)) == ((), False, False, 1)


def test_an_ambiguous_message_shows_what_each_reader_sees():
    message = parse((READINGS / "boundary-twice.eml").read_bytes())
    assert message.ambiguous
    assert "repeated-parameter" in {defect.kind for defect in message.defects}
    contents = {reading.label: [message.decode(one.leaf, one.decoding) for one in reading.shown] for reading in message.readings}
    hidden = b"payload of the hidden part"
    assert hidden not in contents[""]
    assert hidden in contents["the last of repeated parameters counts"]


def test_names_are_candidates_of_which_each_reading_takes_one():
    message = parse((READINGS / "name-twice.eml").read_bytes())
    assert [name.text for name in message.leaves[0].names] == ["harmless.txt", "hidden.exe"]
    assert [reading.shown[0].name for reading in message.readings] == ["harmless.txt", "hidden.exe"]


def test_wrong_arguments_are_named():
    message = parse(LETTER)
    for call in (lambda: message.decode(9), lambda: message.decode(0, 9), lambda: message.fields(9), lambda: message.section("1.x")):
        with pytest.raises(InvalidError):
            call()
    with pytest.raises(InvalidError, match="rot13"):
        decode("rot13", b"")


def test_transfer_encodings_are_undone():
    octets = bytes(range(256)) * 500
    assert decode("base64", base64.encodebytes(octets)) == octets
    assert decode("Quoted-Printable", b"a=3Db=\r\nc") == b"a=bc"


async def test_the_event_loop_goes_on_while_a_big_message_is_read():
    # The open quote, the backslash and the comment open choices: the message is run through again, as often as the caps allow.
    head = b'Content-Type: multipart/mixed; boundary="b; boundary=b\\c; (d)\r\n\r\n'
    big = head + b"--b\r\n\r\n" + b"--bx " * 4_000_000 + b"\r\n--b--\r\n"
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.create_task(tick())
    async with asyncio.timeout(60):
        message = await parse_in_thread(big)
    ticking.cancel()
    assert message.ambiguous or message.incomplete
    assert ticks > 10


def test_contents_are_characters_where_a_leaf_is_text_and_octets_else():
    data = b"".join(
        (
            b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\ncaf\xe9\r\n",
            b"--b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>\xff\xc3\xa9</p>\r\n--b\r\nContent-Type: image/png\r\n",
            b"Content-Transfer-Encoding: base64\r\n\r\niVBORw0KGgo=\r\n--b--\r\n",
        )
    )
    assert parse(data).contents() == ["café", "<p>\ufffdé</p>", b"\x89PNG\r\n\x1a\n"]
    assert parse(data).contents(4) == ["café", "", b""]
