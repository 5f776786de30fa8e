"""The corpus as two other parsers read it, Python's `email` and fast-mail-parser (the crate `mailparse`), against our baseline. Every
difference is in differences-PARSER.txt, with its reason: the number of the reading of ours that the parser has, or words when it has none.
An explanation without a difference is a fault too.

The third, the crate mail-parser, is compared in rust_core/mime/tests/differential.rs. fast-mail-parser is a development tool: without it
its comparison is skipped. `GATEPOST_BLESS=1` writes the lists anew and keeps the words.
"""

import email
import email.message
import email.policy
import os
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
