"""The corpus as Python's `email` reads it, against our baseline. Every difference is in differences-email.txt, with its reason: the number
of the reading of ours that `email` has, or words when it has none. An explanation without a difference is a fault too.
"""

import email
import email.message
import email.policy
from pathlib import Path

from gatepost.mime import Message, Reading, parse

CORPUS = Path(__file__).parents[2] / "corpus" / "mime"
EXPLAINED = CORPUS / "differences-email.txt"

View = list[tuple[str, bytes]]


def as_email_reads_it(data: bytes) -> View:
    parsed = email.message_from_bytes(data, policy=email.policy.compat32)
    leaves = [part for part in parsed.walk() if not part.is_multipart()]
    return [(leaf.get_content_type(), content(leaf)) for leaf in leaves]


def content(leaf: email.message.Message) -> bytes:
    payload = leaf.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def as_we_read_it(message: Message, reading: Reading) -> View:
    return [(message.leaves[one.leaf].types[0], message.decode(one.leaf, one.decoding)) for one in reading.shown]


def difference(data: bytes) -> str | None:
    """None when `email` has our baseline, else the reading that it has, or that it has none."""
    theirs = as_email_reads_it(data)
    message = parse(data)
    for reading in message.readings:
        if as_we_read_it(message, reading) == theirs:
            return f"reading {reading.id}" if reading.id else None
    return "no reading"


def explained() -> dict[str, str]:
    """File → what is said about it: 'reading N', or 'no reading: why'."""
    lines = [line for line in EXPLAINED.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split(" | ", 1) for line in lines)


def test_every_difference_to_email_is_explained_and_every_explanation_is_needed():
    files = sorted(CORPUS.rglob("*.eml"))
    assert len(files) >= 75, "the corpus is gone"
    known = explained()
    found = {str(file.relative_to(CORPUS)): difference(file.read_bytes()) for file in files}
    wrong = [f"{name}: found {what}, explained {known.get(name)}" for name, what in found.items() if not agrees(what, known.get(name))]
    assert not wrong, "\n".join(wrong)
    assert set(known) <= set(found)


def agrees(found: str | None, said: str | None) -> bool:
    if found is None or said is None:
        return found is None and said is None
    return said == found or (found == "no reading" and said.startswith("no reading: "))
