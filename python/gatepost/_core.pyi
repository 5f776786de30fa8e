"""Typed surface of the Rust extension. `gatepost.native` is the only importer; mypy.stubtest proves this file.

Bytes ids are 16-byte UUIDv7 (`MessageId`, mailbox, folder ids). Times are integer Unix microseconds unless said otherwise.
Methods marked *blocking* release the interpreter lock but may wait for the disk: call them from a thread.
Methods with a `ticket` return at once; the result arrives through `completions()` after `event_fd` turned readable.
"""

import builtins
from asyncio import Transport
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, final

from gatepost.native.shapes import (
    Cause,
    Change,
    HandlerRow,
    HistoryFilter,
    Job,
    MailboxRow,
    MimeField,
    MimeLeaf,
    MimePart,
    MimeReading,
    NativeFilter,
    RecipientSpec,
    RuleOutline,
    RuleRow,
    Summary,
    TracePage,
    Way,
)

__all__ = [
    "K_ACCEPTED",
    "K_DEFERRED",
    "K_DELIVERED",
    "K_EXPIRED",
    "K_FAILED",
    "K_HELD",
    "K_NOTE",
    "K_PURGED",
    "K_RELEASED",
    "K_REMOVED",
    "K_REROUTED",
    "K_RESTORED",
    "K_RETRY",
    "LINE_LIMIT",
    "R_BROKEN",
    "R_DRY",
    "R_GOING",
    "R_STOPPED",
    "Appender",
    "ClosedError",
    "Condition",
    "Connections",
    "CoreError",
    "DamagedError",
    "DiskFullError",
    "DkimBody",
    "ExistsError",
    "FetchStream",
    "FormatVersionError",
    "History",
    "Incoming",
    "Inspection",
    "InvalidError",
    "Line",
    "LockedError",
    "MailContent",
    "MailboxLock",
    "MimeMessage",
    "NotFoundError",
    "Reader",
    "Relay",
    "RuleIndex",
    "Spool",
    "Store",
    "StoredMessage",
    "SyncFailedError",
    "Wire",
    "analyse_name",
    "blocked_extension",
    "build_rule_index",
    "dkim_header",
    "inspect",
    "mime_decode",
    "name_matches",
    "new_message_id",
    "panic_on",
]

# ---- errors: one tree; each leaf is something the caller must treat differently ------------------------------------

class CoreError(Exception):
    """Base of every error raised by the extension."""

class DiskFullError(CoreError):
    """No space, or free space below the configured minimum: answer 452 4.3.1, try again later."""

class SyncFailedError(CoreError):
    """fsync failed or a write failed with EIO: the partition is fatally closed; answer 421 4.3.0, restart needed."""

class LockedError(CoreError):
    """Another process holds the directory."""

class DamagedError(CoreError):
    """A record failed its checksum; text names file and offset. Answer 451 4.3.0 for that message only."""

class FormatVersionError(CoreError):
    """Files were written by a newer (or unknown) format version."""

class NotFoundError(CoreError):
    """No such message, mailbox, folder or destination."""

class ExistsError(CoreError):
    """A folder of that name exists already."""

class InvalidError(CoreError):
    """The argument or the operation is not valid here; text says why."""

class ClosedError(CoreError):
    """The spool or store was closed."""

# ---- spool: one partition ------------------------------------------------------------------------------------------

@final
class Incoming:
    """One message being received. Buffers at most 256 KiB; anything more is already in the log. Dropping it aborts it."""

    @property
    def message_id(self) -> bytes: ...
    @property
    def size(self) -> int:
        """Octets of the message so far, without the prefix (dot-stuffing removed, line ends CRLF)."""
    @property
    def done(self) -> bool:
        """True once CRLF.CRLF was seen (dot mode) or `finish` was called."""
    @property
    def defect(self) -> str | None:
        """First reason to refuse: 'bare-cr' | 'bare-lf' | 'too-big' | 'disk-full' | 'closed' | None. After a defect the rest is swallowed:
        in dot mode until CRLF.CRLF. With allow_bare a bare CR or LF is stored as CRLF, and the end of data is never found behind it.
        """
    def feed(self, data: bytes | bytearray | memoryview, start: int = 0) -> int:
        """Dot mode: take octets of DATA from `data[start:]`, unstuff, stop after CRLF.CRLF. Returns the number consumed."""
    def feed_raw(self, data: bytes | bytearray | memoryview) -> None:
        """Raw mode (BDAT, LMTP-internal, Submit): take all octets as they are (bare CR/LF are kept and noted in `verdict`)."""
    def finish(self) -> None:
        """Raw mode: no more octets follow. A last line without CRLF gets one."""
    def verdict(self) -> tuple[str | None, int, bool, str]:
        """(defect, received_count, has_bare_cr_or_lf, message id in text form): what a receiver needs at the end of data. The defect can also
        be 'long-header': of more than 256 KiB, so that it is not known what stands in it.
        """
    def header(self) -> bytes:
        """The message's own header section (first 256 KiB at most), without the prefix."""
    @property
    def plain(self) -> bool:
        """The message is complete, at most 64 KiB and nothing but text: an inspection would find nothing (rust_core/scan/src/plain.rs)."""
    @property
    def total(self) -> int:
        """Octets with the prefix, after all edits."""
    def content(self) -> MailContent:
        """What it takes to look into it in a thread. Cheap; this object must live as long as that is used."""
    def edit(self, front: bytes, forged: bytes, edits: Sequence[tuple[int, int, bytes]] = ...) -> None:
        """Change a complete message: put `front` before everything, cut its own header fields named `forged` (of the first 256 KiB), and put octets
        in the place of ranges, which count from the message's first octet as received and do not overlap. *Blocks* when a range lies in
        the log: then call it in a thread. Raises InvalidError, DiskFullError, ClosedError.
        """
    def values(self, name: str) -> list[bytes] | None:
        """The values of a header field, unfolded and stripped; None: some line may be read in more than one way, so ask `header`."""
    def abort(self) -> None: ...

@final
class MailContent:
    """A message on its way in, to be looked into. All methods are *blocking* and release the interpreter lock; for threads."""

    @property
    def size(self) -> int:
        """Octets, without the prefix."""
    def inspect(
        self, *, max_bytes: int, max_entries: int, max_depth: int, max_ratio: int, memory_bytes: int, milliseconds: int
    ) -> Inspection:
        """See `inspect`, of a message/rfc822. Reads it first; CoreError when that fails."""
    def read(self, start: int, length: int) -> bytes:
        """Octets from `start`, fewer at the end."""
    def part(self, body: int, end: int, coding: str) -> bytes:
        """A part's content by its `Inspection.place`. Raises InvalidError for an unknown coding."""

def dkim_header(fields: Sequence[bytes], relaxed: bool) -> bytes:
    """SHA-256 of header fields in canonical form (RFC 6376 3.7): each with its line end, the last one the signature's own, without its `b`."""

@final
class DkimBody:
    """SHA-256 of a body in canonical forms (RFC 6376 3.4). `take` releases the interpreter lock; for threads."""

    def __new__(cls, forms: Sequence[tuple[bool, int | None]]) -> DkimBody:
        """One digest for each (relaxed, `l=`: octets of the canonical form that count)."""
    def take(self, octets: bytes) -> None:
        """The next octets of the body; lines end in CRLF."""
    def finish(self) -> list[tuple[bytes, int]]:
        """Of each form the digest, and the octets it has in all. Nothing after the first call."""

K_ACCEPTED: int
"""Only in history: its first entry."""
K_DELIVERED: int
K_DEFERRED: int
K_FAILED: int
K_EXPIRED: int
K_REMOVED: int
K_HELD: int
K_RELEASED: int
K_RETRY: int
K_REROUTED: int
"""Only in history; its detail is JSON with 'address', 'destination' and the fields of its note."""
K_RESTORED: int
"""A removal undone."""
K_PURGED: int
"""The grace of a removal is over."""
K_NOTE: int
"""K_NOTE: a note in the history without a change of state (delay notice sent, operator remark)."""

@final
class Spool:
    def __new__(
        cls,
        directory: str,
        *,
        segment_bytes: int = 67108864,
        min_free_bytes: int = 0,
        resume_free_bytes: int = 0,
        tailed: bool = False,
        background: bool = False,
    ) -> Spool:
        """*blocking* Open or create a partition; recover it (checkpoint + replay). Raises LockedError, FormatVersionError, DiskFullError.

        tailed: a History will read its records; segments it has not read are kept, 256 MiB of them at most.
        background: return as soon as commits can be taken; what was there before is read meanwhile and not visible until all of it is.
        """
    @property
    def recovered(self) -> bool:
        """Everything that was there before is in the index and visible."""
    def when_recovered(self, ticket: int) -> None:
        """Completion when that is so, or with the error that ended the recovery; the partition is closed for good then."""
    @property
    def event_fd(self) -> int:
        """Non-blocking eventfd: readable when `completions()` has something. The owner must not close it."""
    @property
    def recovery(self) -> dict[str, int | float | list[str]]:
        """What opening found: messages, records, torn_bytes, damaged (list of 'file:offset: reason'), seconds, checkpoint (0/1)."""
    @property
    def fatal(self) -> CoreError | None:
        """The error that closed the partition for good (a failed sync or write)."""
    def begin(self, lead: bytes, tail: bytes, max_bytes: int, allow_bare: bool = False) -> Incoming:
        """Like `receive` with a new id; the prefix is `lead`, the id in text form, `tail`."""
    def receive(self, *, prefix: bytes, max_bytes: int, allow_bare: bool = False, message_id: bytes | None = None) -> Incoming:
        """Begin a message. `prefix` (trace header, CRLF-terminated lines, at most 128 KiB) is stored in front of it; max_bytes 0 = no bound.
        message_id: its id in the queue, made if None.
        """
    def pending_bytes(self) -> int:
        """Octets appended but not yet synced: back-pressure when this grows past a few MiB (await a `sync` ticket)."""
    def congested(self) -> bool:
        """So much waits for the disk (256 KiB per streaming message but no less than 512 KiB, 8 MiB at most) that receivers should pause until a `sync` ticket."""
    def low_space(self) -> bool:
        """Free space is below min_free_bytes, or was and is below resume_free_bytes: commits would fail with DiskFullError. At most a quarter of a
        second old.
        """
    def commit(self, ticket: int, incoming: Incoming, reverse_path: str, recipients: Sequence[RecipientSpec], meta: bytes) -> None:
        """The commit point. Completion with no error = message on disk. Ready recipients then appear as ready destinations.
        Raises (and then the ticket never completes) DiskFullError, SyncFailedError, ClosedError, and InvalidError when `incoming` is not whole,
        has a defect or was used already.
        """
    def change(self, ticket: int, changes: Sequence[Change]) -> int:
        """Append transitions in order. Illegal ones (unknown message, terminal state) are skipped; returns how many were not.

        ticket 0 = no completion wanted (on disk within about 10 ms). The in-memory state changes at once (so a job is not taken twice); the
        completion says it is on disk.
        """
    def reroute(
        self, ticket: int, message_id: bytes, recipient_index: int, address: str, destination: str, route: bytes, note: bytes
    ) -> None:
        """Give one pending recipient a new route; due now, no longer in flight. `note`: JSON object that says who did it, or b''.
        Raises NotFoundError, InvalidError.
        """
    def reroute_all(self, ticket: int, ways: Sequence[Way], note: bytes) -> int:
        """*blocking* Give pending recipients of many messages new routes, due now, held or let go as each says; those that are gone or not pending are
        passed over: how many were not. The completion says all is on disk. Raises InvalidError.
        """
    def undo(self, ticket: int, operation: str, ids: bytes, note: bytes) -> dict[str, int]:
        """*blocking* Put back what the records with `"op":"OPERATION"` in their detail changed in these messages (16 octets each); `note` is the
        detail of the records written and must have `"undo":"OPERATION"`. Returns messages by what became of them: undone, partly (some
        recipients), finished, changed (by a later operation), untouched, already, unreadable; and recipients put back. Completion = on disk.
        """
    def touched(self, operation: str, ids: bytes) -> int:
        """*blocking* How many of these messages the records with `"op":"OPERATION"` in their detail changed; what has left the queue is not told."""
    def purge(self, now_us: int, max: int) -> tuple[int, int]:
        """*blocking* End at most `max` graces of removed recipients that are over at now_us, oldest first: (when the next one is over,
        0 = none left; how many ended).
        """
    def sync(self, ticket: int) -> None:
        """Completion once everything appended so far is on disk."""
    def completions(self) -> tuple[list[tuple[int, CoreError | None]], list[str], list[tuple[bytes, str]]]:
        """Drain: finished tickets; names of destinations that have become ready (each once); (id, reverse-path) of plain messages (see Wire)
        that are on disk and have been acknowledged by this call. Never blocks.
        """
    def advance(self, now_us: int) -> int:
        """Move what is due to the ready queues (new ready destinations show in `completions`). Returns the next due time, 0 = none."""
    def take(self, destination: str, max_jobs: int, max_bytes: int = 0) -> list[Job]:
        """Pop ready messages of one destination, marking the recipients in flight until a change names them. One job groups all due recipients of a
        message for that destination. max_bytes > 0 bounds the sum of sizes (at least one job is returned).
        """
    def wait_for(
        self, destination: str, times: tuple[int, int], ages: tuple[int, int], detail: bytes, max_jobs: int
    ) -> tuple[bool, builtins.list[Job]]:
        """*blocking* What is ready for a destination that backs off, and what becomes so, waits for it: nothing is written, and until it is over `detail` and
        that time are shown as last and next attempt. times: now, until when (Unix µs). (there may be more jobs; at most max_jobs jobs taken, of messages
        that are older than the ages in microseconds: to be given up, to be told of a delay, 0 = never.) Shows in `completions` when there are more
        of these, or the time is over.
        """
    def done_waiting(self, destination: str) -> None:
        """What waits for a destination may be taken, and shows in `completions`."""
    def ready(self, destination: str) -> int:
        """Recipients of a destination that are due; 0 while it is waited for."""
    def give_back(self, message_id: bytes, recipient_indexes: Sequence[int]) -> None:
        """Undo `take` without an attempt (shutdown, destination paused)."""
    def get(self, message_id: bytes) -> Summary:
        """State of one live message. Raises NotFoundError."""
    def history(self, message_id: bytes) -> list[tuple[int, int, int, bytes]]:
        """*blocking* Journal of one live message, oldest first: (time_us, kind, recipient_index, detail)."""
    def list_ids(self, after: bytes | None, limit: int) -> list[bytes]:
        """Live message ids in id order after `after`."""
    def list(self, filter: NativeFilter, after: bytes | None, limit: int) -> tuple[list[Summary], bytes | None]:
        """*blocking* Up to `limit` messages that match, in id order after `after`, and where to go on (None: that was all). Looks for about 60 ms: a page
        may be short, even empty, and still have a next one. Raises InvalidError for a filter that makes no sense.
        """
    def count(self, filter: NativeFilter) -> tuple[int, int]:
        """*blocking* (messages, recipients) that match; recipients counts those that fit the filter's conditions on recipients."""
    def select(self, filter: NativeFilter, limit: int) -> bytes:
        """*blocking* Ids of the first `limit` messages that match, in id order, one behind the other."""
    def change_all(self, ticket: int, ids: bytes, kind: int, next_us: int, detail: bytes) -> int:
        """*blocking* One transition for all pending recipients of each message (ids one behind the other), in batches: others get their turn, and little
        waits for the disk. Illegal ones are skipped; returns how many messages were changed. ticket (0: none) as in `change`.
        """
    def changeable(self, ids: bytes, kind: int) -> bytes:
        """*blocking* Those of the ids for which `change_all` would change something now, in the same order."""
    def measure(self, ids: bytes) -> tuple[int, int, int, int, int]:
        """*blocking* Of those in the queue: (messages, pending recipients, held and being delivered among these, octets)."""
    def causes(self, limit: int) -> tuple[builtins.list[Cause], int, int]:
        """*blocking* Why pending recipients with a failed attempt wait: the `limit` largest groups, and recipients and messages of all groups."""
    def destinations_of(self, ids: bytes) -> builtins.list[str]:
        """*blocking* Destinations of the pending recipients of these messages, each once, sorted."""
    def stats(self) -> dict[str, int]:
        """messages, recipients, held, in_flight, bytes, removed, removed_bytes (in grace; not in the former), loading (1: not recovered yet), segments, disk_bytes, free_bytes, appended_records, syncs."""
    def destinations(self) -> builtins.list[tuple[str, int, int, int]]:
        """(destination, pending, ready, in_flight)."""
    def open(self, message_id: bytes) -> Reader:
        """Reader over prefix + message. Raises NotFoundError."""
    def checkpoint(self) -> None:
        """*blocking* Write an index checkpoint now (also done every 64 MiB of log and at close)."""
    def close(self) -> None:
        """*blocking* Sync, checkpoint, unlock. Idempotent."""

@final
class Reader:
    @property
    def size(self) -> int: ...
    def edited(self, edits: Sequence[tuple[int, int, bytes]]) -> Reader:
        """The message with octets from … to … replaced, from its beginning. Raises InvalidError when edits overlap or lie beyond the end."""
    def read(self, n: int = 65536) -> bytes:
        """Next at most n octets; b'' at the end. Raises DamagedError."""
    def read_dotted(self, n: int = 65536) -> bytes:
        """Next octets dot-stuffed for SMTP/POP3 DATA, and at the end CRLF.CRLF; b'' after that. Memory bounded by about 2n."""
    def header(self, limit: int = 65536) -> bytes:
        """The header section (prefix included), without moving the read position."""

# ---- store: one volume, opened by one process (several processes may open the same volume) --------------------------

_Delivery = tuple[bytes, int, bytes, str, bytes, Sequence[tuple[int, int, bytes]]]
"""(message_id, recipient_index, mailbox_id, folder_name, prefix, edits): prefix = Return-Path and Delivered-To lines, CRLF-terminated;
edits as for Reader.edited.
(message_id, recipient_index) is the delivery key: the same key twice is stored once."""

_FolderInfo = tuple[bytes, str, str, bool, int, int, int, int, int, int, int]
"""(folder_id, name, special_use, subscribed, uid_validity, uid_next, messages, unseen, octets, highest_modseq, recent_from_uid).
name uses '/' as separator, UTF-8; INBOX is always 'INBOX'. special_use: '' or '\\Drafts' '\\Sent' '\\Junk' '\\Trash' '\\Archive'."""

_MessageInfo = tuple[int, int, int, int, list[str], bytes]
"""(uid, octets, internal_date_us, modseq, flags, email_id). flags: system flags with backslash, keywords as they are."""

@final
class Store:
    def __new__(
        cls, directory: str, *, stream: str, segment_bytes: int = 67108864, min_free_bytes: int = 0, resume_free_bytes: int = 0
    ) -> Store:
        """*blocking* Open or create a volume. `stream` names this process's own log inside it (one process per stream: LockedError);
        e.g. 'w0'. Recovers by replaying log tails into the SQLite index; streams of dead processes are replayed too.
        """
    @property
    def event_fd(self) -> int: ...
    @property
    def recovery(self) -> dict[str, int | float | list[str]]: ...
    def completions(self) -> list[tuple[int, CoreError | None, list[CoreError | None] | None]]:
        """Drain finished tickets: (ticket, error for all, error per delivery or None)."""
    def deliver(self, ticket: int, spool: Spool, deliveries: Sequence[_Delivery]) -> None:
        """Copy messages from the spool into mailboxes in a Rust thread: append, fdatasync, index in one SQLite transaction.

        Streams; memory per call is bounded. The mailbox is created (INBOX and special-use folders) when it does not exist; a missing
        folder falls back to INBOX.
        """
    def learn(self, route: bytes, mailbox_id: bytes, folder: str) -> None:
        """Tell `deliver_due` what a route that it gave back means."""
    def deliver_due(self, ticket: int, spool: Spool, destination: str, max_jobs: int) -> None:
        """Take due jobs of a destination, deliver them like `deliver`, and journal them, in a Rust thread. The result is in `rounds`."""
    def rounds(self) -> list[tuple[int, int, int, list[tuple[Job, list[CoreError | None] | None]]]]:
        """Drain finished tickets of `deliver_due`: (ticket, jobs taken, recipients delivered and journaled, jobs for the caller to finish).

        Such a job has an error or None per recipient; or None at all: not tried, since its route is not known or a report is due.
        """

    # Everything below is *blocking*.
    def ensure_mailbox(self, mailbox_id: bytes) -> None: ...
    def delete_mailbox(self, mailbox_id: bytes) -> None: ...
    def mailbox_usage(self, mailbox_id: bytes) -> tuple[int, int]:
        """(octets, messages)."""
    def lock_mailbox(self, mailbox_id: bytes) -> MailboxLock | None:
        """POP3's exclusive lock, across processes, freed by the kernel when the process dies. None when another holds it."""
    def folders(self, mailbox_id: bytes) -> list[_FolderInfo]: ...
    def folder(self, mailbox_id: bytes, name: str) -> _FolderInfo:
        """Raises NotFoundError."""
    def folder_by_id(self, folder_id: bytes) -> _FolderInfo:
        """Present state of a folder. Raises NotFoundError when it is gone."""
    def create_folder(self, mailbox_id: bytes, name: str, special_use: str = "") -> bytes:
        """Creates missing parents too. Raises ExistsError, InvalidError."""
    def rename_folder(self, mailbox_id: bytes, name: str, new_name: str) -> None:
        """Renames children too; renaming INBOX moves its messages (RFC 3501 6.3.5)."""
    def delete_folder(self, mailbox_id: bytes, name: str) -> None:
        """Deletes a folder with its messages; those below it stay. Raises NotFoundError; InvalidError for INBOX."""
    def subscribe(self, mailbox_id: bytes, name: str, subscribed: bool) -> None: ...
    def messages(self, folder_id: bytes, since_modseq: int = 0) -> list[_MessageInfo]:
        """Messages in uid order changed after since_modseq (0 = all)."""
    def uids(self, folder_id: bytes) -> bytes:
        """All uids ascending, as little-endian u32 (array('I'))."""
    def keywords(self, folder_id: bytes) -> list[str]:
        """Keywords in use in the folder, sorted."""
    def first_unseen(self, folder_id: bytes) -> int:
        r"""Uid of the first message without \Seen, 0 when there is none."""
    def claim_recent(self, folder_id: bytes) -> int:
        """First uid that is \\Recent to the caller (messages from there on were never claimed); claims them."""
    def changes(self, folder_id: bytes, since_modseq: int) -> tuple[int, list[_MessageInfo], list[int]]:
        """(highest_modseq, changed or new messages, expunged uids) since then."""
    def poll(self, since_modseq: int) -> tuple[int, list[bytes]]:
        """Volume-wide: (current modseq, ids of folders changed since) by any process. Microseconds when nothing changed."""
    def store_flags(
        self, folder_id: bytes, uids: Sequence[int], mode: str, flags: Sequence[str], unchanged_since: int = -1
    ) -> tuple[list[_MessageInfo], list[int]]:
        """Mode 'add' | 'remove' | 'set'. Returns (messages after the change, uids refused by unchanged_since). Durable on return."""
    def expunge(self, folder_id: bytes, uids: Sequence[int] | None) -> list[int]:
        """Remove messages that carry \\Deleted (None = all of them, else only among uids). Returns the uids removed. Durable on return."""
    def remove(self, folder_id: bytes, uids: Sequence[int]) -> list[int]:
        """Remove whatever the flags (POP3 DELE at QUIT)."""
    def copy(self, folder_id: bytes, uids: Sequence[int], target_folder_id: bytes, move: bool) -> tuple[int, list[tuple[int, int]]]:
        """(target uid_validity, [(source uid, target uid)]); all or nothing. No message bytes are copied within one mailbox."""
    def append(self, folder_id: bytes, flags: Sequence[str], internal_date_us: int) -> Appender: ...
    def fetch(
        self,
        folder_id: bytes,
        targets: Sequence[tuple[int, int]],
        items: Sequence[str],
        *,
        set_seen: bool = False,
        recent_from_uid: int = 0,
        utf8: bool = False,
    ) -> FetchStream:
        """IMAP FETCH responses for targets [(sequence number, uid)]; messages that are gone are passed over.

        items are upper-case RFC 3501/9051 items: 'UID' 'FLAGS' 'INTERNALDATE' 'RFC822.SIZE' 'ENVELOPE' 'BODY' 'BODYSTRUCTURE' 'MODSEQ'
        'EMAILID' 'RFC822' 'RFC822.HEADER' 'RFC822.TEXT' 'BODY[...]<n.m>' 'BODY.PEEK[...]<n.m>' 'BINARY[...]<n.m>' 'BINARY.PEEK[...]<n.m>'
        'BINARY.SIZE[...]'; another one is an InvalidError. set_seen: \\Seen is added where items without PEEK ask for it.
        """
    def search(self, folder_id: bytes, uids: Sequence[int], query: Sequence[object]) -> list[int]:
        """Uids (of those given, in order) that match. query is a prefix tree; a malformed one is an InvalidError.

        ['AND', q, ...] ['OR', q, ...] ['NOT', q] ['ALL'] ['UID', lo, hi, lo, hi ...] ['FLAG', name] ['HEADER', field, text] ['BODY', text]
        ['TEXT', text] ['LARGER', n] ['SMALLER', n] ['SINCE'|'BEFORE'|'ON', 'YYYY-MM-DD'] (internal date, UTC)
        ['SENTSINCE'|'SENTBEFORE'|'SENTON', 'YYYY-MM-DD'] ['MODSEQ', n]. Texts match case-insensitively, after decoding of RFC 2047,
        transfer encoding and charset; ['HEADER', field, ''] asks whether the field exists.
        """
    def message(self, folder_id: bytes, uid: int) -> StoredMessage: ...
    def checkpoint(self) -> None: ...
    def stats(self) -> dict[str, int]:
        """mailboxes, messages, octets, segments, disk_bytes, free_bytes."""
    def close(self) -> None: ...

@final
class MailboxLock:
    def release(self) -> None: ...

@final
class Appender:
    """One IMAP APPEND / import; buffers at most 256 KiB, the rest is in the log already. Dropping it aborts."""

    def feed(self, data: bytes | bytearray | memoryview) -> None: ...
    def commit(self) -> tuple[int, int]:
        """*blocking* (uid_validity, uid). Durable on return."""

@final
class FetchStream:
    def read(self, n: int = 65536) -> bytes:
        """*blocking* Next octets of the responses ('* 1 FETCH (...)\\r\\n'...), about n at a time; b'' at the end.

        A damaged message gets only the items that need no octets of it; DamagedError is raised once, after all responses.
        """
    def seen(self) -> list[_MessageInfo]:
        """After the end: messages whose \\Seen this fetch set (their FLAGS were included in the responses)."""

@final
class StoredMessage:
    """A message of a mailbox as a byte stream (POP3 RETR/TOP)."""

    @property
    def size(self) -> int: ...
    def read(self, n: int = 65536) -> bytes: ...
    def read_dotted(self, n: int = 65536, body_lines: int = -1) -> bytes:
        """Dot-stuffed octets, CRLF.CRLF at the end; body_lines >= 0 stops after that many body lines (TOP)."""

# ---- relay: messages in a row over one SMTP session -----------------------------------------------------------------

R_GOING: int
R_DRY: int
R_STOPPED: int
R_BROKEN: int

_Reply = tuple[int, str, list[str]]
"""(code, enhanced status code or '', texts)."""

_LeftJob = tuple[Job, int, str, str, _Reply | None]
"""(job, Unix microseconds when it began, fate, command or fault, reply). Fates: 'untried' (it may go over another session), 'begun' (MAIL was
answered, no data went), 'sent' (data went, no answer), 'unreadable', 'refused' (reply is to command).
"""

@final
class Relay:
    """Takes plain small jobs of a destination from the spool, sends them one behind the other over a session that knows PIPELINING, journals
    what the peer took. Octets in, octets out; the caller reads, writes and keeps deadlines. `size_limit` 0 is none.
    """

    def __new__(
        cls,
        spool: Spool,
        destination: str,
        host: str,
        *,
        tls: str = ...,
        size: bool = False,
        size_limit: int = 0,
        eight_bit: bool = False,
        dsn: bool = False,
    ) -> Relay: ...
    def begin(self, budget: int, reset: bool) -> tuple[bytes, int, int]:
        """Begin with at most `budget` jobs; `reset`: RSET first. (octets to write, state, jobs delivered)."""
    def feed(self, data: bytes, more: bool) -> tuple[bytes, int, int]:
        """What the peer said; `more`: further jobs may be taken. R_GOING: go on; R_DRY: nothing to do and nothing to take; R_STOPPED: nothing under
        way, see `left`; R_BROKEN: drop the session, see `fault` and `left`.
        """
    @property
    def fault(self) -> str: ...
    @property
    def needs_reset(self) -> bool:
        """The peer needs RSET before the next MAIL."""
    @property
    def sending(self) -> bool:
        """Data were sent whose end the peer has not answered."""
    def left(self) -> list[_LeftJob]:
        """Jobs that are the caller's to finish from now on, in order; also those under way."""

# ---- small helpers -------------------------------------------------------------------------------------------------

def new_message_id() -> bytes:
    """UUIDv7, monotonic within the process."""

# ---- sockets and command lines of the receiving servers --------------------------------------------------------------

LINE_LIMIT: int
"""Octets a command line may have at most, with CR LF."""

@final
class Connections:
    """Open connections of one worker, in all and per client address."""

    def __new__(cls) -> Connections: ...
    @property
    def total(self) -> int: ...
    @property
    def clients(self) -> int:
        """Addresses that have open connections."""
    def of_client(self, client: str) -> int: ...
    def admit(self, client: str, max_total: int, max_per_client: int | None) -> Literal["", "total", "client"]:
        """Count one more and return '', or what is used up. `release` once for each that was admitted."""
    def release(self, client: str) -> None: ...

@final
class Condition:
    """What a condition on a message says, as far as that follows from its size and header. Made of the steps of routing/stage_steps.py; steps that
    are not understood have no answer.
    """

    def __new__(cls, steps: Sequence[tuple[str, str, int, str]]) -> Condition: ...
    def holds(self, size: int, header: bytes) -> bool | None:
        """None: the condition itself is to be asked."""

@final
class Wire:
    """The sockets of one SMTP listener: an epoll set whose `fd` stands in the event loop. All calls come from the loop's thread."""

    def __new__(
        cls, host: Any, commands: Mapping[bytes, tuple[Callable[[Any, str], Any], int]], spool: Spool, connections: Connections
    ) -> Wire:
        """`commands` has the method of each verb, and the octets its line may have with CR LF.

        Messages committed to `spool` in one turn go to the disk together. Of `host`, the server, are called:

        open_session(line, address, port)           makes the session of a new connection: counts it, greets it
        resume_session(line, address, port)         makes the session of a connection that was counted and greeted natively
        current_settings(), use(settings)           the settings object; called when it is another than at `agree`
        standing(address)                           (no limit of connections, trusted, what may concern the client as bits)
        rule_set()                                  the present rule set; a new object when it has changed
        plain_sender(argument)                      (parsed, reverse-path, BODY, has parameters, what may concern it), or None where
                                                        `smtp_MAIL` is to decide
        plain_recipient(rule_set, argument, trusted)  (parsed, plan, address, has parameters, recipients as for `commit`, rule version,
                                                        field for a message that is only text or None, text is judged, too, what may
                                                        concern it), or None
        concerned_name(name)                        what may concern a client that calls itself so, as bits
        may_hold(stage, bits, (address, name, trusted, messages taken), reverse-path or None, (recipient, plan, is written to be text) or None,
            Incoming or None)                       whether a policy of a stage ('helo', 'mail', 'rcpt', 'data') behind these bits may
                                                        hold; then the session has it
        """
    @property
    def fd(self) -> int:
        """Readable while `turn` has something to do."""
    @property
    def plain(self) -> tuple[int, int, int]:
        """Open connections without a session; connections taken, and messages accepted, without one so far."""
    def configure(self, allow_bare: bool) -> None:
        """Whether a bare LF ends a command line."""
    def agree(self, terms: Mapping[str, Any] | None, settings: object) -> None:
        """Take plain mail without sessions, under `terms` that were made from `settings`; None: every connection gets a session at once.
        Terms: greeting, helo_reply, ehlo_reply (octets); hostname, listener; allow_bare; max_message_bytes, max_hops, max_recipients,
        max_planned, max_messages (0: any), max_connections, max_connections_per_client; at_connect, at_mail, at_rcpt: the bits that keep from
        being plain, when client, name, sender and recipient share them, as far as they are known then; at_helo, asked_at_mail, asked_at_rcpt,
        at_data: those of policies that are asked first, and conditions: [(bit, Condition)] of those at data; asks_helo: `concerned_name` is asked;
        counts, records: `take_taken` and `take_asked` have answers. What was remembered is forgotten.
        """
    def take_asked(self) -> list[tuple[str, str, bool, str, str, int]]:
        """What plain mail asked of the rules since the last call: (sender, recipient, trusted, client, HELO, how often). Bounded."""
    def take_taken(self) -> list[tuple[str, str, bool, str, str, int]]:
        """Plain messages that were taken since the last call, in the same form, HELO left out. Bounded."""
    def receive(self, receiving: bool) -> None:
        """Whether plain MAIL is taken; at first it is not."""
    def wake(self, limits: tuple[float, float, float] | None = None) -> None:
        """Make sessions of the connections without one: of all, or of those that are over one of the limits, in seconds: silence between
        commands, silence within a message, age of the connection.
        """
    def set_now(self, now: float) -> None:
        """The loop's clock, for `Line.active`."""
    def listen(self, fd: int) -> None:
        """Take connections from a listening socket, which stays the caller's."""
    def accept_again(self) -> None:
        """After `turn` raised."""
    def stop_listening(self) -> None:
        """No new connections; plain messages under way are finished, and their sessions then told to shut down."""
    def line(self) -> Line:
        """A line without a socket, for a session whose octets come through a transport."""
    def turn(self) -> None:
        """Take connections, read, run commands, write, as far as it goes without waiting. Raises OSError when a connection cannot be accepted:
        none is taken until `accept_again`.
        """

@final
class Line:
    """The native half of a session. Plain mail needs no session at all: the line asks the server (see Wire) and commits. Before the first
    command that is not plain it calls the session's `catch_up(helo, extended, messages, sender, recipients)`, with what plain_sender and
    plain_recipient had parsed and planned; then the session has the say until `hand_back`. A plain message with a defect is the session's to
    refuse: `adopt(incoming)`; one that cannot be committed, too: `commit_failed(identity, error)`. Else it calls the session's `bad_line(what)`, `got_line(text)`, `unknown_command(line)`,
    `command_failed(exception)`, `hold(awaitable)`, `end_of_data()`, `congested()`, `turn_over()` and `connection_lost(None)`; one that raises
    ends the connection. What is called from within a command takes effect when the command has returned.
    """

    @property
    def active(self) -> float:
        """When the client last sent a whole line or octets of a message, or an operation ended."""
    @property
    def started(self) -> float:
        """When the connection began."""
    @property
    def committing(self) -> bool:
        """A message waits for the disk."""
    @committing.setter
    def committing(self, committing: bool) -> None: ...
    @property
    def kept(self) -> int:
        """Octets of input kept because the session waits; at most 64 KiB and one read."""
    @property
    def in_data(self) -> bool:
        """Octets of a message are being read."""
    @property
    def blocked(self) -> bool:
        """Replies wait because the client does not read them."""
    @property
    def dropping(self) -> bool:
        """The connection ends or has ended: nothing more is sent, and input is dropped."""
    def send(self, octets: bytes) -> None:
        """Queue a reply; it leaves at the end of the turn, or with `flush`."""
    def flush(self) -> None: ...
    def hold(self) -> None:
        """Run no commands until `release` and `go_on`."""
    def release(self) -> None: ...
    def want_line(self) -> None:
        """Though held, hand over one line, by `got_line`."""
    def hand_back(self, helo: str, extended: bool, messages: int) -> None:
        """The session has no transaction, TLS or login: go on natively, as far as all is plain. Nothing without a socket."""
    def next_turn(self) -> None:
        """Go on after `turn_over`."""
    def go_on(self) -> None:
        """Run kept input unless held."""
    def take_data(self, incoming: Incoming, taken: int = 0) -> None:
        """Input goes to `incoming` up to the end of data; `taken` octets of the message were read before."""
    def take_by(self, sink: Callable[[bytes], int] | None) -> None:
        """Input goes to `sink`, which returns how much it used, until this is called with None."""
    def close(self) -> None:
        """Close once everything is sent."""
    def end_output(self) -> None:
        """Send what is queued, then our half of the stream ends; input is read and dropped until the client's half ends, too. Under TLS: close."""
    def abort(self) -> None:
        """Reset the connection."""
    def detach(self) -> int | None:
        """The socket's descriptor, now the caller's; kept input and what is behind the running command are dropped. None without a socket."""
    def attach(self, session: Any, transport: Transport) -> None:
        """From now on replies go to `transport`, and its protocol hands over octets by `feed`, and calls `block` and `lost`."""
    def feed(self, data: bytes) -> None: ...
    def block(self, blocked: bool) -> None: ...
    def lost(self) -> None:
        """The transport is gone, or never came to be. Idempotent."""

@final
class History:
    """What became of the messages of one partition (rust_core/history). All methods are *blocking*, and may be called from any thread."""

    def __new__(cls, directory: str, spool: Spool | None, *, age_seconds: int, max_bytes: int) -> History:
        """Open or create; with a spool (opened with tailed=True) a thread of low priority follows it, without one it is only read.

        age_seconds and max_bytes bound what is kept. Raises CoreError when the directory cannot be used.
        """
    def catch_up(self, milliseconds: int) -> bool:
        """Wait until everything that had happened before the call is in, so long at most. False when it is not."""
    def search(
        self,
        wanted: HistoryFilter,
        *,
        at: int | None = None,
        later: int | None = None,
        passed: bool = False,
        after: bytes | None = None,
        limit: int = 100,
        ascending: bool = False,
        milliseconds: int = 1000,
    ) -> TracePage:
        """Messages by id, newest first unless ascending, behind `after`; ends early, with an id to go on after, when the time is over.

        at (Unix µs): those in the queue at that moment, as they were. at and later: those in the queue at one of two moments that differ
        at the other, with `passed` also what came and left in between. Raises InvalidError.
        """
    def find(self, low: bytes, high: bytes, limit: int) -> TracePage:
        """Messages whose id lies in the range, both ends inclusive."""
    def expire(self) -> None:
        """Unlink what is too old or too much; for a history without a spool, the thread of the others does it."""
    def take_notices(self) -> list[str]:
        """What an administrator should read since the last call: damaged files, failures to write."""
    def stats(self) -> dict[str, int]:
        """messages and records written and cpu_us of the thread since opening; bytes and files on disk."""
    def close(self, milliseconds: int) -> bool:
        """Catch up, so long at most, write everything onto the disk, end the thread. False when something is left for the next time. Idempotent."""

@final
class Inspection:
    """What was found in an attachment or message. Entries are converted one at a time."""

    @property
    def verdict(self) -> str:
        """One of complete, partial, bomb, timeout."""
    @property
    def stop(self) -> str | None:
        """The limit that ended it: bytes, entries, depth, ratio, time."""
    @property
    def produced(self) -> int:
        """Octets that came out of decoders."""
    @property
    def flags(self) -> list[str]:
        """All flags of all entries."""
    def __len__(self) -> int: ...
    def entry(self, number: int) -> tuple[int | None, int, str, str, str, str, str, int, list[str], list[str], list[str], bytes | None]:
        """(parent, depth, name, declared type, true type, media type, class, size, flags, signs, defects, SHA-256).
        Raises IndexError.
        """
    def place(self, number: int) -> tuple[int, int, int, str] | None:
        """Of an entry that is a part of the message inspected: where its header, its body and what follows begin, and how the body is decoded
        . Raises IndexError.
        """

def inspect(
    data: bytes,
    name: str = "",
    declared: str = "",
    *,
    max_bytes: int,
    max_entries: int,
    max_depth: int,
    max_ratio: int,
    memory_bytes: int,
    milliseconds: int,
) -> Inspection:
    """Look into `data`, which claims that name and media type. Releases the interpreter lock; never raises for what is in `data`."""

def panic_on(mark: bytes) -> None:
    """For tests: the inspection of content that holds `mark` panics from now on, in this whole process."""

def analyse_name(name: str) -> tuple[str, str, list[str]]:
    """(folded name, extension, what is odd about it), of a file's name."""

def name_matches(glob: str, name: str) -> bool:
    """Whether the folded name matches: `*` any run, `?` one character, case ignored."""

def blocked_extension(extension: str) -> bool:
    """Whether Outlook or Gmail block that extension (lower case, without dot)."""

# ---- MIME -------------------------------------------------------------------------------------------------------------

@final
class MimeMessage:
    """A message and every plausible reading of it (docs/mime.md). Never fails on content: what is wrong is a defect.

    Offsets are octets of `data`. Construction and methods that decode release the interpreter lock for big input; call them from a
    thread when the message may be big. `limit` bounds decoded octets.
    """

    def __new__(cls, data: bytes) -> MimeMessage: ...
    @property
    def data(self) -> bytes: ...
    @property
    def ambiguous(self) -> bool:
        """Readers would see different parts, names or contents."""
    @property
    def incomplete(self) -> bool:
        """A cap was reached: there is more than the leaves show."""
    def parts(self) -> list[MimePart]:
        """The baseline reading, in the order of the header blocks; 0 is the message."""
    def fields(self, part: int) -> list[MimeField]:
        """Header fields of a part. InvalidError: no such part."""
    def defects(self) -> list[tuple[str, int]]:
        """(kind, offset), by offset."""
    def readings(self) -> list[MimeReading]:
        """0 is the baseline."""
    def leaves(self) -> list[MimeLeaf]:
        """Leaves of all readings, each once."""
    def decode(self, leaf: int, decoding: int, limit: int) -> tuple[bytes, bool]:
        """(octets, there are more). InvalidError: no such leaf or decoding."""
    def text(self, limit: int) -> str | None: ...
    def html(self, limit: int) -> str | None: ...
    def contents(self, limit: int) -> list[str | bytes]:
        """What each leaf of the baseline holds: texts as characters, all else as octets; at most `limit` octets are decoded."""
    def preview(self, characters: int) -> str: ...
    def attachments(self, limit: int) -> list[tuple[list[str], str, str, int]]:
        """(names, declared type, source of the names, leaf) of the baseline; files in uuencode and TNEF too."""
    def attachment(self, number: int, limit: int) -> tuple[bytes, bool]:
        """Octets of one of `attachments`, (octets, there are more). InvalidError: no such attachment."""
    def envelope(self) -> bytes:
        """IMAP ENVELOPE (RFC 3501 7.4.2)."""
    def body_structure(self) -> bytes:
        """IMAP BODYSTRUCTURE."""
    def section(self, text: str) -> bytes | None:
        """BODY[text]; None: no such part. InvalidError: no section specification."""

def mime_decode(encoding: str, data: bytes) -> bytes:
    """Undo a transfer encoding as lenient readers do. InvalidError: unknown encoding."""

def build_rule_index(directory: str, target: str) -> tuple[int, int]:
    """*blocking* Make the index of a directory's newest rule set and put it at `target`: (version, octets). On an error `target` is as it was.

    Only in a process that has the directory open in no other way. Raises DiskFullError, CoreError.
    """

@final
class RuleIndex:
    """The mapped index of a rule set (rust_core/rules). A rule is known by its place, which holds for one file. Look-ups never fail."""

    def __new__(cls, path: str) -> RuleIndex:
        """*blocking* Map it and prove its checksum. Raises DamagedError, FormatVersionError, CoreError (not there)."""
    @property
    def version(self) -> int:
        """Of the rule set."""
    @property
    def stamp(self) -> int:
        """When that version came to be, Unix µs; 0 for version 0."""
    @property
    def rule_count(self) -> int:
        """Domain rules."""
    @property
    def handler_count(self) -> int:
        """Address handlers."""
    @property
    def mailbox_count(self) -> int:
        """Mailboxes."""
    def fits(self, identity: str) -> bool:
        """Whether it was made of the directory that this text ('SCHEMA PEPPER') tells from others."""
    def find_rule(self, domain: str) -> int | None:
        """The place of the rule for exactly this domain."""
    def next_of_kind(self, kind: str, start: int) -> str | None:
        """The domain of the first rule of a kind, from a place on, that names one domain."""
    def ask(self, domain: str, local: str) -> RuleOutline | None:
        """The rule that decides a domain: the exact one, else the longest '*.suffix', else '*'; and its handler of exactly this local part."""
    def rule(self, domain: str) -> RuleRow | None:
        """The rule for exactly this domain."""
    def rules(self, start: int, limit: int) -> list[RuleRow]:
        """By domain, from a place on."""
    def exact(self, rule: int, local: str) -> HandlerRow | None:
        """The handler of exactly this local part."""
    def named(self, rule: int, pattern: str) -> HandlerRow | None:
        """The handler with this pattern."""
    def fitting(self, rule: int, local: str) -> list[HandlerRow]:
        """Prefixes and suffixes that fit, best first."""
    def expressions(self, rule: int) -> list[HandlerRow]:
        """Handlers that are regular expressions, by their text."""
    def handlers(self, rule: int, start: int, limit: int) -> list[HandlerRow]:
        """All, from the n-th on; exact ones by pattern, then prefixes, suffixes, the others."""
    def mailbox(self, address: str) -> MailboxRow | None:
        """Of an address in stored form."""
    def mailboxes(self, start: int, limit: int) -> list[MailboxRow]:
        """By domain and address, from a place on."""
    def first_mailbox(self, domain: str) -> int:
        """The place of the domain's first mailbox, or of the one that stands where it would."""
    def postmasters(self, start: int, limit: int) -> list[MailboxRow]:
        """Mailboxes named postmaster by address, from the n-th on."""
