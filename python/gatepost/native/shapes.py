"""Shapes that cross the line to Rust in both directions. Times are Unix microseconds; ids 16 octets."""

from typing import TypedDict

RecipientSpec = tuple[str, str, str, int, bytes, int, bool]
"""(address, original_recipient, destination, notify_flags, route, next_attempt_us, held): destination is the scheduling key,
'' = none (already terminal by routing, e.g. discard); route is opaque bytes made by routing; original_recipient is the
RFC 3461 ORCPT form 'rfc822;a@b' or ''."""

Change = tuple[bytes, int, int, int, bytes]
"""(message_id, recipient_index, kind, next_attempt_us, detail). kind is one of the K_* constants; detail is opaque bytes (JSON of
the attempt). next_attempt_us is used by K_DEFERRED and K_RETRY, 0 = now, and by K_REMOVED: the end of its grace, 0 = at once and for good;
recipient_index -1 means every pending recipient."""

JobRecipient = tuple[int, str, str, int, bytes, int]
"""(index, address, original_recipient, notify_flags, route, attempts)."""

Job = tuple[bytes, int, int, str, bytes, list[JobRecipient]]
"""(message_id, size_with_prefix, received_at_us, reverse_path, meta, recipients)."""

RecipientState = tuple[str, str, str, int, bytes, str, bool, int, int, bytes]
"""(address, original_recipient, destination, notify_flags, route, state, held, next_attempt_us, attempts, last_detail);
state in 'PENDING','DELIVERED','FAILED','EXPIRED','REMOVED'."""

Summary = tuple[bytes, int, int, str, bytes, bool, list[RecipientState]]
"""(message_id, size_with_prefix, received_at_us, reverse_path, meta, in_flight, recipients)."""

Cause = tuple[tuple[str, str, int, str, str], tuple[int, int, int, int], tuple[bytes, str, bytes]]
"""Why recipients wait: ((class, enhanced, code, host, text), (recipients, held, messages, next_attempt_us),
(id of the oldest message, address, last_detail))."""

MimePart = tuple[int | None, str, tuple[int, int, int], tuple[int, int], str, str, list[int]]
"""(parent, 'leaf' | 'multipart' | 'message', (header, body, end) offsets, (header lines, body lines), type, encoding, children)."""

MimeField = tuple[bytes, int, int, int, int]
"""(name, start, value start, value end, end): offsets in the message; the value is raw, folds included."""

MimeReading = tuple[int, str, list[tuple[int, int, int]]]
"""(id, what this reader does differently, (leaf, name, decoding) of each leaf it shows)."""

MimeLeaf = tuple[
    list[int],
    tuple[int, int, int, int],
    int | None,
    list[tuple[str, str, str]],
    list[str],
    str | None,
    str | None,
    list[tuple[str, str]],
    int,
]
"""(readings, (header start, header end, body start, body end), decoded message it lies in or None: this one, (name, source, how) likeliest
first, declared types, disposition, charset, (method, how) of each decoding, depth)."""


class NativeFilter(TypedDict, total=False):
    """What to look for in the spool; a key that is missing asks for nothing, an unknown one is an InvalidError.

    sender, recipient and destination are globs (* and ?), domain is exact, case is ignored; sender '<>' is the null reverse-path.
    Sizes are octets with prefix, received_* Unix microseconds, all inclusive. reply is part of what the last attempt was told. Conditions
    on recipients (recipient, domain, destination, state, held, reply) must hold together for one recipient; held=True means held and
    pending. id_prefix is hexadecimal digits.
    """

    sender: str
    recipient: str
    domain: str
    destination: str
    state: str
    held: bool
    min_size: int
    max_size: int
    received_from: int
    received_to: int
    reply: str
    id_prefix: str


class HistoryFilter(TypedDict, total=False):
    """What to look for in the history; a key that is missing asks for nothing, an unknown one is an InvalidError.

    sender and recipient are an address, a domain or a glob, sender '<>' the null reverse-path; subject is words; host is exact; case is
    ignored. outcome is a recipient state; since and until are Unix microseconds of acceptance, inclusive.
    """

    sender: str
    recipient: str
    subject: str
    header_id: str
    host: str
    outcome: str
    held: bool
    since: int
    until: int


Way = tuple[bytes, int, str, str, bytes, bool]
"""(message_id, recipient_index, address, destination, route, held): where a pending recipient is to go."""

TraceRecipient = tuple[str, str, str, str, bool, int, int, int, bytes]
"""(address, original_recipient, destination, state, held, next_attempt_us, attempts, ended_us, last_detail); ended_us 0 = pending."""

TraceEvent = tuple[int, int, int, bytes]
"""(time_us, kind, recipient_index or -1, detail)."""

Trace = tuple[bytes, int, int, str, bytes, tuple[str, str, int], list[TraceRecipient], list[TraceRecipient], list[TraceEvent]]
"""(message_id, size, received_us, reverse_path, meta, (subject, Message-ID field, ended_us or 0), recipients, recipients at the later of
two moments, events oldest first)."""

TracePage = tuple[list[Trace], bytes | None, list[str], list[tuple[int, int]]]
"""(traces, id to go on after, or None; warnings; spans of time of which records that concern the question are missing, Unix µs)."""

RuleRow = tuple[int, int, int, tuple[str, str, str, str, str, str, str, str, str], int, int, int]
"""Place in the index, number of handlers, what their patterns are (1 prefixes and suffixes, 2 regular expressions, 4 '*'), (domain, kind,
host, tls, username, password_ref, text, policy, settings), port, flags (1 implicit TLS, 2 LMTP, 4 takes mail of untrusted senders),
revision."""
HandlerRow = tuple[str, str, str, str, str, str]
"""pattern, kind, targets (one a line), text, policy, options; as the columns of the directory."""
RuleOutline = tuple[int, int, int, str, bytes, HandlerRow | None]
"""Place, number of handlers, what their patterns are (as in RuleRow), domain, octets that are the same for rules that differ in domain and
handlers only, the handler that was asked for."""
MailboxRow = tuple[str, bytes, str, bool]
"""address, id, volume, enabled."""
