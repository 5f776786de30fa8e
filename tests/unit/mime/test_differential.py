"""The corpus as two other parsers read it, Python's `email` and fast-mail-parser (the crate `mailparse`), against our baseline. Every
difference is in differences-PARSER.txt, with its reason: the number of the reading of ours that the parser has, or words when it has none.
An explanation without a difference is a fault too.

The third, the crate mail-parser, is compared in rust_core/mime/tests/differential.rs. fast-mail-parser is a development tool: without it
its comparison is skipped. `GATEPOST_BLESS=1` writes the lists anew and keeps the words.

The same for the corpus with damage at random places, where each difference must have one of the reasons in differences-mutated.txt.
"""

import email
import email.message
import email.policy
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatepost.mime import Message, Reading, parse

CORPUS = Path(__file__).parents[2] / "corpus" / "mime"

View = list[tuple[str, bytes]] | str
"""Type and content of each leaf, or words when the parser refuses the message."""


def as_email_reads_it(data: bytes) -> View:
    parsed = email.message_from_bytes(data, policy=email.policy.compat32)
    leaves = [part for part in parsed.walk() if not part.is_multipart()]
    return [(leaf.get_content_type(), content(leaf)) for leaf in leaves]


def content(leaf: email.message.Message) -> bytes:
    payload = leaf.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def as_fast_mail_parser_reads_it(data: bytes) -> View:
    parser: Any = pytest.importorskip("fast_mail_parser")
    try:
        parts = list(parser.walk(parser.parse_email_tree(data)))
    except parser.ParseError as fault:
        return f"refused: {fault}"
    # A message within the message is a node with one child: its root.
    return [(part.content_type.lower(), part.content) for part in parts if not part.children and part.content is not None]


PARSERS: dict[str, Callable[[bytes], View]] = {"email": as_email_reads_it, "fast-mail-parser": as_fast_mail_parser_reads_it}


def as_we_read_it(message: Message, reading: Reading) -> View:
    return [(message.leaves[one.leaf].types[0], message.decode(one.leaf, one.decoding)) for one in reading.shown]


def difference(theirs: View, data: bytes) -> str | None:
    """None when the parser has our baseline, else the reading that it has, or that it has none."""
    message = parse(data)
    for reading in message.readings:
        if as_we_read_it(message, reading) == theirs:
            return f"reading {reading.id}" if reading.id else None
    return "no reading"


def explained(file: Path) -> dict[str, str]:
    """File → what is said about it: 'reading N', or 'no reading: why'."""
    lines = [line for line in file.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split(" | ", 1) for line in lines)


@pytest.mark.parametrize("parser", PARSERS)
def test_every_difference_to_another_parser_is_explained_and_every_explanation_is_needed(parser: str) -> None:
    files = sorted(CORPUS.rglob("*.eml"))
    assert len(files) >= 150, "the corpus is gone"
    found = {str(file.relative_to(CORPUS)): difference(PARSERS[parser](data), data) for file in files for data in [file.read_bytes()]}
    listed = CORPUS / f"differences-{parser}.txt"
    known = explained(listed)
    if os.environ.get("GATEPOST_BLESS"):
        bless(listed, known, found)
    wrong = [f"{name}: found {what}, explained {known.get(name)}" for name, what in found.items() if not agrees(what, known.get(name))]
    assert not wrong, "\n".join(wrong)
    assert set(known) <= set(found)


def bless(listed: Path, known: dict[str, str], found: dict[str, str | None]) -> None:
    comments = [line for line in listed.read_text("utf-8").splitlines() if line.startswith("#")]
    lines = [f"{name} | {known[name] if agrees(what, known.get(name)) else what}" for name, what in sorted(found.items()) if what]
    listed.write_text("\n".join([*comments, *lines, ""]), "utf-8")


def agrees(found: str | None, said: str | None) -> bool:
    if found is None or said is None:
        return found is None and said is None
    return said == found or (found == "no reading" and said.startswith("no reading: "))


PIECES = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"--b",
        b"--",
        b'"',
        b";",
        b"(",
        b")",
        b"=",
        b"\\",
        b"*",
        b"\xe9",
        b":",
        b"\r\n\r\n",
        b"--b--\r\n",
    ),
    *(b"Content-Type: text/plain\r\n", b"Content-Transfer-Encoding: base64\r\n"),
)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """One to three octets, pieces or lines go, come or change places."""
    for _ in range(chance.randint(1, 3)):
        at, what = chance.randrange(len(data)), chance.randrange(6)
        lines = data.splitlines(keepends=True)
        one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        if what == 0:
            data = data[:at] + data[at + chance.randint(1, 8) :] or b"\n"
        elif what == 1:
            data = data[:at] + chance.choice(PIECES) + data[at:]
        elif what == 2:
            data = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        else:
            changed = {3: lines[:one] + lines[other:], 4: [*lines[:one], lines[other], *lines[one:]], 5: [*lines[one:], *lines[:one]]}[what]
            data = b"".join(changed) or b"\n"
    return data


def reason(theirs: View, data: bytes) -> str | None:
    """Why a parser has not our baseline, as differences-mutated.txt names it; None when it has."""
    what = difference(theirs, data)
    if what is None or isinstance(theirs, str):
        return what and "refused"
    if what != "no reading":
        return "another reading"
    message = parse(data)
    ours = {message.decode(leaf.number, way).rstrip(b"\r\n") for leaf in message.leaves for way in range(len(leaf.decodings))} | {b""}
    missing = [octets.rstrip(b"\r\n") for _, octets in theirs if octets.rstrip(b"\r\n") not in ours]
    if not missing:
        return "same contents"
    if all(octets in data for octets in missing):
        return "octets as they are"
    if message.ambiguous or message.incomplete:
        return "not clear"
    return "piece" if b"message/partial" in data else "unknown"


@pytest.mark.parametrize("parser", PARSERS)
def test_every_difference_on_damaged_messages_has_a_known_reason(parser: str) -> None:
    known = explained(CORPUS / "differences-mutated.txt")
    unknown = []
    for file in sorted(CORPUS.rglob("*.eml")):
        whole = file.read_bytes()
        for seed in range(3 if len(whole) < 20_000 else 0):
            data = damaged(whole, random.Random(f"{file.name} {seed}"))
            if (why := reason(PARSERS[parser](data), data)) and why not in known:
                unknown.append((file.name, seed, why))
    assert not unknown
