"""Changes of a header that stage policies want: fields put in front, fields taken out, a word before the subject. Pure.

Used at reception, before the message is committed, and at delivery, while it is read.
"""

from collections.abc import Iterable

from gatepost.message.fields import FieldPlace
from gatepost.routing.stages import StageAction, StagePolicy
from gatepost.scan.notice import marked_subject

Edit = tuple[int, int, bytes]
"""From here to there, these octets instead."""


def header_edits(places: Iterable[FieldPlace], header: bytes, policies: Iterable[StagePolicy]) -> tuple[bytes, list[Edit]]:
    """(fields put in front, edits of the header as it is stored)."""
    places, policies = list(places), list(policies)
    front = b"".join(_field(one) for one in policies if one.action is StageAction.ADD_HEADER)
    gone = {one.header.lower() for one in policies if one.action is StageAction.REMOVE_HEADER}
    edits: list[Edit] = [(one.start, one.end, b"") for one in places if one.name in gone]
    tag = next((one.text for one in policies if one.action is StageAction.TAG), "")
    if tag:
        edits.append(_tagged(places, header, tag, gone))
    return front, edits


def _field(policy: StagePolicy) -> bytes:
    return f"{policy.header}: {policy.text}\r\n".encode()


def _tagged(places: list[FieldPlace], header: bytes, tag: str, gone: set[str]) -> Edit:
    for one in places:
        if one.name == "subject" and "subject" not in gone:
            return one.start, one.end, marked_subject(header[one.value : one.end], tag)
    return 0, 0, marked_subject(b"", tag)
