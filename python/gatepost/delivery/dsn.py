"""Delivery status notifications: RFC 3464 in multipart/report (RFC 3462/6522), RFC 6533 for addresses beyond ASCII. Pure: Report → octets.

Called by queue.report through the `build` it is given. Invariants: lines have at most 998 octets and end with CRLF; nothing from the
message or a peer's reply can break out of a field (control characters become spaces); the same Report gives the same octets.
"""

import re
from datetime import UTC, datetime
from email.utils import format_datetime

from gatepost.message.ids import format_message_id
from gatepost.queue.report import Action, RecipientReport, Report

MAX_FIELD = 900
MAX_NAMED = 50
"""Recipients written out in the text for people; the machine part always has all."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")

_SUBJECTS = {
    Action.FAILED: "Your message could not be delivered",
    Action.DELAYED: "Your message is delayed",
    Action.DELIVERED: "Your message was delivered",
    Action.RELAYED: "Your message was passed on",
}

_OPENINGS = {
    Action.FAILED: "I am sorry to tell you that your message could not be delivered to one or more recipients.\n"
    "They are listed below, each with the reason. Nothing more will be tried for them.",
    Action.DELAYED: "Your message has not been delivered yet to the recipients below.\n"
    "This is only a notice: YOU DO NOT NEED TO SEND IT AGAIN. Delivery is still being tried.",
    Action.DELIVERED: "You asked to be told: your message was delivered to the recipients below.",
    Action.RELAYED: "You asked to be told: your message was passed on to the mail server of the recipients below,\n"
    "which does not send such notices. You may not hear more about it.",
}


def build_report(report: Report) -> bytes:
    """The whole DSN message, with header, ready to be queued with a null reverse-path."""
    parts = [_text_part(report), _status_part(report)]
    if report.original:
        parts.append(_original_part(report))
    boundary = f"=_{report.key}"
    while any(f"--{boundary}".encode() in part for part in parts):
        boundary += "_"
    body = b"".join(b"--" + boundary.encode() + b"\r\n" + part + b"\r\n" for part in parts)
    return _header(report, boundary) + b"\r\n" + body + b"--" + boundary.encode() + b"--\r\n"


def _header(report: Report, boundary: str) -> bytes:
    action = report.recipients[0].action
    lines = [
        f"From: Mail Delivery System <MAILER-DAEMON@{report.hostname}>",
        f"To: <{_clean(report.sender)}>",
        f"Subject: {_SUBJECTS[action]}",
        f"Date: {_date(report.now)}",
        f"Message-ID: <{report.key}@{report.hostname}>",
        "Auto-Submitted: auto-replied",  # RFC 3834 5.1: nobody's responder may answer this
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status;",
        f'\tboundary="{boundary}"',
    ]
    if not _seven_bit(report):
        lines.append("Content-Transfer-Encoding: 8bit")
    return _lines(lines)


def _seven_bit(report: Report) -> bool:
    return not report.utf8 and report.original.isascii() and all(one.reason.isascii() for one in report.recipients)


# ---- for people


def _text_part(report: Report) -> bytes:
    action = report.recipients[0].action
    lines = [f"This is the mail system at {report.hostname}.", "", *_OPENINGS[action].split("\n"), ""]
    for one in report.recipients[:MAX_NAMED]:
        lines += [f"  <{_clean(one.address)}>", *(f"    {line}" for line in _explain(one)), ""]
    more = len(report.recipients) - MAX_NAMED
    if more > 0:
        lines += [f"  … and {more} more, listed in the attached report.", ""]
    lines += _about(report)
    text = "\r\n".join(lines) + "\r\n"
    encoding = "7bit" if text.isascii() else "8bit"
    head = _lines(["Content-Type: text/plain; charset=utf-8", f"Content-Transfer-Encoding: {encoding}", ""])
    return head + text.encode("utf-8", "replace")


def _explain(one: RecipientReport) -> list[str]:
    lines = _wrapped(one.reason) if one.reason else []
    if one.action is Action.DELAYED and one.will_retry_until:
        lines.append(f"Tries go on until {_date(one.will_retry_until)}.")
    return lines or [f"Status {one.status}."]


def _about(report: Report) -> list[str]:
    what = "Your message" if report.full else "The header of your message"
    lines = [f"It arrived here on {_date(report.received_at)}, and its number in our queue was", f"{format_message_id(report.message_id)}."]
    if report.original:
        lines += ["", f"{what} is attached."]
    return lines


def _wrapped(text: str, width: int = 90) -> list[str]:
    lines, line = [], ""
    for word in _clean(text).split():
        if line and len(line) + len(word) + 1 > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word[:MAX_FIELD]
    return [*lines, line] if line else lines


# ---- for machines


def _status_part(report: Report) -> bytes:
    """RFC 3464 2.1, or RFC 6533 3 when UTF-8 is needed: per-message fields, then a group per recipient."""
    kind = "message/global-delivery-status" if report.utf8 else "message/delivery-status"
    groups = [_message_fields(report)] + [_recipient_fields(one, report.utf8) for one in report.recipients]
    text = "\r\n".join("".join(f"{line}\r\n" for line in group) for group in groups)
    encoding = "7bit" if text.isascii() else "8bit"
    return _lines([f"Content-Type: {kind}", f"Content-Transfer-Encoding: {encoding}", ""]) + text.encode("utf-8", "replace")


def _message_fields(report: Report) -> list[str]:
    fields = [f"Original-Envelope-Id: {_clean(report.envid)}"] if report.envid else []
    fields.append(f"Reporting-MTA: dns; {report.hostname}")
    fields.append(f"Arrival-Date: {_date(report.received_at)}")
    return fields


def _recipient_fields(one: RecipientReport, utf8: bool) -> list[str]:
    fields = []
    if one.orcpt:
        kind, _, address = one.orcpt.partition(";")
        fields.append(f"Original-Recipient: {_typed(kind or 'rfc822', address, utf8)}")
    fields.append(f"Final-Recipient: {_typed('rfc822', one.address, utf8)}")
    fields.append(f"Action: {one.action}")
    fields.append(f"Status: {one.status}")
    if one.reply is not None:
        fields.append(f"Remote-MTA: dns; {_clean(one.reply.host.partition('[')[0]) or 'unknown'}")
    fields += _diagnostic(one)
    if one.last_attempt:
        fields.append(f"Last-Attempt-Date: {_date(one.last_attempt)}")
    if one.action is Action.DELAYED and one.will_retry_until:
        fields.append(f"Will-Retry-Until: {_date(one.will_retry_until)}")
    return fields


def _typed(kind: str, address: str, utf8: bool) -> str:
    """RFC 6533 3: an address beyond ASCII has the type utf-8."""
    address = _clean(address)
    if address.isascii():
        return f"{_clean(kind)}; {address}"
    if utf8:
        return f"utf-8; {address}"
    return "utf-8; " + "".join(char if char.isascii() else f"\\x{{{ord(char):X}}}" for char in address)


def _diagnostic(one: RecipientReport) -> list[str]:
    if one.reply is not None:
        words = f"{one.reply.code} {one.reply.enhanced} {one.reply.text}".replace("  ", " ")
        return [f"Diagnostic-Code: smtp; {_ascii(words)}"]
    if one.reason:
        return [f"Diagnostic-Code: x-gatepost; {_ascii(one.reason)}"]
    return []


# ---- the message it is about


def _original_part(report: Report) -> bytes:
    kind = _original_kind(report)
    data = report.original if report.full else _header_only(report.original)
    encoding = "7bit" if data.isascii() else "8bit"
    return _lines([f"Content-Type: {kind}", f"Content-Transfer-Encoding: {encoding}", ""]) + data


def _original_kind(report: Report) -> str:
    if report.utf8:
        return "message/global" if report.full else "message/global-headers"
    return "message/rfc822" if report.full else "text/rfc822-headers"


def _header_only(original: bytes) -> bytes:
    end = original.find(b"\r\n\r\n")
    return original[: end + 2] if end >= 0 else original.rstrip(b"\r\n") + b"\r\n"


# ---- small things


def _lines(lines: list[str]) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode("utf-8", "replace")


def _clean(text: str) -> str:
    return _CONTROL.sub(" ", text)[:MAX_FIELD]


def _ascii(text: str) -> str:
    return _clean(text).encode("ascii", "replace").decode("ascii")


def _date(microseconds: int) -> str:
    return format_datetime(datetime.fromtimestamp(microseconds / 1_000_000, UTC))
