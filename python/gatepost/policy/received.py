"""The trace header field a server adds on top of each message (RFC 5321 4.4), and the fields submission adds (RFC 6409 section 8).

Called once per message. Pure but for the clock, which is read to fill a date string that is kept for the second it is good for.
"""

import re
import time
from functools import lru_cache

from gatepost.message.envelope import Origin

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_HAS_DATE = re.compile(rb"^date[ \t]*:", re.IGNORECASE | re.MULTILINE)
_HAS_MESSAGE_ID = re.compile(rb"^message-id[ \t]*:", re.IGNORECASE | re.MULTILINE)


class _DateCache:
    second = -1
    text = ""


def format_date(second: int) -> str:
    """RFC 5322 3.3 date-time in UTC; not by strftime, whose names follow the locale."""
    t = time.gmtime(second)
    day, month = _DAYS[t.tm_wday], _MONTHS[t.tm_mon - 1]
    return f"{day}, {t.tm_mday} {month} {t.tm_year} {t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} +0000"


def current_date() -> str:
    """Now, formatted at most once per second."""
    second = int(time.time())
    if second != _DateCache.second:
        _DateCache.second, _DateCache.text = second, format_date(second)
    return _DateCache.text


def protocol_name(*, lmtp: bool, extended: bool, tls: bool, authenticated: bool, utf8: bool) -> str:
    """The WITH keyword (RFC 3848, RFC 6531 4.3). TLS and AUTH exist in the extended protocols only."""
    if not lmtp and not extended:
        return "SMTP"
    if utf8:
        name = "UTF8LMTP" if lmtp else "UTF8SMTP"
    else:
        name = "LMTP" if lmtp else "ESMTP"
    return f"{name}{'S' if tls else ''}{'A' if authenticated else ''}"


def address_literal(client: str) -> str:
    """'192.0.2.1' → '[192.0.2.1]', '2001:db8::1' → '[IPv6:2001:db8::1]' (RFC 5321 4.1.3)."""
    return f"[IPv6:{client}]" if ":" in client else f"[{client or '127.0.0.1'}]"


@lru_cache(maxsize=1024)
def received_lead(helo: str, client: str, by: str, protocol: str) -> bytes:
    """The Received field up to the message id; the same for all of a client's messages."""
    return f"Received: from {helo} ({address_literal(client)})\r\n\tby {by} with {protocol} id ".encode()


def received_tail(recipient: str, tls: str) -> bytes:
    """The field behind the message id, with its CRLF. `recipient` is '' unless the message has exactly one: more would betray blind copies.
    The cipher suite goes into the `tls` clause of RFC 8314 7.4.
    """
    for_clause = f"\r\n\tfor <{recipient}>" if recipient else ""
    tls_clause = f"\r\n\ttls {tls.split()[-1]}" if tls else ""
    return f"{for_clause}{tls_clause};\r\n\t{current_date()}\r\n".encode()


def received_field(origin: Origin, *, by: str, message_id: str, recipient: str) -> bytes:
    """The whole Received field (RFC 5321 4.4)."""
    lead = received_lead(origin.helo, origin.client_address, by, origin.protocol)
    return lead + message_id.encode() + received_tail(recipient, origin.tls)


def missing_fields(header: bytes, *, message_id: str, host: str) -> bytes:
    """Date and Message-ID lines for a submitted message that lacks them (RFC 6409 8.2, 8.3)."""
    lines = b""
    if not _HAS_DATE.search(header):
        lines += f"Date: {current_date()}\r\n".encode()
    if not _HAS_MESSAGE_ID.search(header):
        lines += f"Message-ID: <{message_id}@{host}>\r\n".encode()
    return lines
