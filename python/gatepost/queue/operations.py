"""What operators did to messages, on disk, so that it can be undone after a restart too. Used by actions.

Two files per operation in `path`: ID.json says what was done, ID.ids (16 octets per message) to which messages. Both are on disk
before the first message is touched; the journal says which of them were. Invariants: a file is replaced as a whole; an operation
found running at start was interrupted; at most MAX_OPERATIONS are kept and MAX_ID_OCTETS of ids, the oldest lose theirs first. A
damaged file is left alone and logged; one of a newer format raises NewerFormatError at start, and nothing is touched. Every method but
the properties *blocks*; they may be called from several threads.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import structlog

from gatepost.config.files import NewerFormatError, check_format, replace_file
from gatepost.message.ids import parse_message_id

FORMAT = 1
MAX_OPERATIONS = 1000
MAX_ID_OCTETS = 64 << 20
TOO_OLD = "the time in which it could be undone is over"
TOO_MANY = "newer operations took its place in the list of what can be undone"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Operation:
    """kind: hold, release, retry, remove, reroute or 'quarantine …' (quarantine.py); state: running, done, interrupted or undone. Times are
    Unix µs.

    until is 0 when it cannot be undone; reason says why. undo holds the counts of the newest undo (see Spool.undo).
    """

    operation_id: str
    kind: str
    actor: str
    started: int
    matched: int
    until: int
    reason: str = ""
    selection: str = ""
    state: str = "running"
    changed: int = 0
    undone_by: str = ""
    undone_at: int = 0
    undo: Mapping[str, int] = field(default_factory=dict)

    def why_not(self, now: int) -> str:
        """Why it cannot be undone now; '' when it can."""
        if self.reason:
            return self.reason
        if self.state == "running":
            return "it is still being carried out"
        return "" if self.until > now else TOO_OLD


class OperationLog:
    """The operations of one partition. `now` is Unix µs."""

    def __init__(self, path: Path, now: Callable[[], int]) -> None:
        self._path = path
        self._now = now
        self._lock = threading.Lock()
        self._known: dict[str, Operation] = {}
        self._octets: dict[str, int] = {}
        self._cut_short: list[str] = []
        self._load()

    def newest_first(self) -> Sequence[Operation]:
        """Every operation known."""
        with self._lock:
            return sorted(self._known.values(), key=lambda one: (one.started, one.operation_id), reverse=True)

    def get(self, operation_id: str) -> Operation | None:
        """One operation, None when it is not known (any more)."""
        with self._lock:
            return self._known.get(operation_id)

    def cut_short(self) -> Sequence[Operation]:
        """What was running when the process before this one ended, and can be looked into: its messages are known."""
        with self._lock:
            return [self._known[one] for one in self._cut_short if one in self._octets]

    def begin(self, operation: Operation, ids: bytes) -> None:
        """Write an operation down before it touches a message. Raises OSError: then nothing is known of it."""
        with self._lock:
            self._path.mkdir(mode=0o700, exist_ok=True)
            self._make_room(len(ids))
            if operation.until:
                replace_file(self._file(operation.operation_id, ".ids"), ids)
                self._octets[operation.operation_id] = len(ids)
            self._save(operation)

    def update(self, operation: Operation) -> None:
        """Write down how far it is. Raises OSError; in memory it is known all the same."""
        with self._lock:
            if operation.operation_id in self._known:
                self._known[operation.operation_id] = operation
                self._save(operation)

    def ids(self, operation: Operation) -> bytes:
        """Packed ids of its messages. Raises OSError."""
        return self._file(operation.operation_id, ".ids").read_bytes()

    def expire(self) -> int:
        """Drop the ids of what cannot be undone any more; when the next one is due (Unix µs, 0 = none)."""
        now = self._now()
        with self._lock:
            for operation in [self._known[one] for one in self._octets if self._known[one].until <= now]:
                self._give_up(operation, "")
            return min((self._known[one].until for one in self._octets), default=0)

    def _make_room(self, octets: int) -> None:
        oldest = sorted(self._known.values(), key=lambda one: one.started)
        for operation in oldest[: max(0, len(oldest) + 1 - MAX_OPERATIONS)]:
            self._give_up(operation, TOO_MANY)
            self._file(operation.operation_id, ".json").unlink(missing_ok=True)
            del self._known[operation.operation_id]
        for operation in oldest:
            if sum(self._octets.values()) + octets <= MAX_ID_OCTETS:
                return
            if operation.operation_id in self._octets:
                self._give_up(operation, TOO_MANY)

    def _give_up(self, operation: Operation, reason: str) -> None:
        self._file(operation.operation_id, ".ids").unlink(missing_ok=True)
        self._octets.pop(operation.operation_id, None)
        if reason and not operation.reason:
            self._known[operation.operation_id] = replace(operation, reason=reason)

    def _load(self) -> None:
        if not self._path.is_dir():
            return
        for file in self._path.glob("*.json"):
            try:
                fields = json.loads(file.read_bytes())
                found = fields.pop("format")
                check_format(file, found, FORMAT)
                if found != FORMAT:
                    raise ValueError("unknown format")
                operation = Operation(**fields)
                if parse_message_id(operation.operation_id) and operation.state == "running":
                    operation = replace(operation, state="interrupted")
                    self._cut_short.append(operation.operation_id)
            except NewerFormatError:
                raise
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                log.warning("an operation cannot be read; it cannot be undone", file=str(file), error=str(error))
                continue
            self._known[operation.operation_id] = operation
        self._load_ids()

    def _load_ids(self) -> None:
        for file in [*self._path.glob("*.ids"), *self._path.glob("*.new")]:
            operation = self._known.get(file.stem)
            if file.suffix == ".ids" and operation is not None and operation.until > self._now():
                self._octets[file.stem] = file.stat().st_size
            else:
                file.unlink(missing_ok=True)

    def _save(self, operation: Operation) -> None:
        self._known[operation.operation_id] = operation
        replace_file(self._file(operation.operation_id, ".json"), json.dumps({"format": FORMAT, **asdict(operation)}).encode())

    def _file(self, operation_id: str, suffix: str) -> Path:
        return self._path / f"{operation_id}{suffix}"
