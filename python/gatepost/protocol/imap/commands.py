"""What a client can ask for: one frozen value per kind of command, and the table of states each is allowed in.

Made by parse.py, carried out by server/imap. `name` is the command in capitals, with 'UID ' in front for the UID forms.
"""

from dataclasses import dataclass
from enum import Enum

from gatepost.protocol.imap.sequence import Ranges


class State(Enum):
    """RFC 3501 section 3, without the logout state: a session that logs out is gone."""

    NOT_AUTHENTICATED = "not authenticated"
    AUTHENTICATED = "authenticated"
    SELECTED = "selected"


_ANY = frozenset(State)
_FRESH = frozenset({State.NOT_AUTHENTICATED})
_USER = frozenset({State.AUTHENTICATED, State.SELECTED})
_FOLDER = frozenset({State.SELECTED})

ALLOWED: dict[str, frozenset[State]] = {
    "CAPABILITY": _ANY,
    "NOOP": _ANY,
    "LOGOUT": _ANY,
    "ID": _ANY,
    "STARTTLS": _FRESH,
    "AUTHENTICATE": _FRESH,
    "LOGIN": _FRESH,
    "ENABLE": _USER,
    "SELECT": _USER,
    "EXAMINE": _USER,
    "CREATE": _USER,
    "DELETE": _USER,
    "RENAME": _USER,
    "SUBSCRIBE": _USER,
    "UNSUBSCRIBE": _USER,
    "LIST": _USER,
    "LSUB": _USER,
    "NAMESPACE": _USER,
    "STATUS": _USER,
    "APPEND": _USER,
    "IDLE": _USER,
    "CHECK": _FOLDER,
    "CLOSE": _FOLDER,
    "UNSELECT": _FOLDER,
    "EXPUNGE": _FOLDER,
    "SEARCH": _FOLDER,
    "FETCH": _FOLDER,
    "STORE": _FOLDER,
    "COPY": _FOLDER,
    "MOVE": _FOLDER,
    "UID SEARCH": _FOLDER,
    "UID FETCH": _FOLDER,
    "UID STORE": _FOLDER,
    "UID COPY": _FOLDER,
    "UID MOVE": _FOLDER,
    "UID EXPUNGE": _FOLDER,
}
"""The whole state table: a command not in it is unknown, one in a state outside its set gets BAD."""

NO_EXPUNGE = frozenset({"FETCH", "STORE", "SEARCH"})
"""While one of these runs no EXPUNGE response may be sent (RFC 3501 7.4.1)."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command without arguments, and the base of those with."""

    tag: str
    name: str

    @property
    def uid(self) -> bool:
        """True for the UID form of a command."""
        return self.name.startswith("UID ")


@dataclass(frozen=True, slots=True)
class Login(Command):
    """LOGIN."""

    user: str
    password: str


@dataclass(frozen=True, slots=True)
class Authenticate(Command):
    """AUTHENTICATE; `initial` is the decoded initial response (RFC 4959) or None."""

    mechanism: str
    initial: bytes | None


@dataclass(frozen=True, slots=True)
class FolderCommand(Command):
    """SELECT, EXAMINE, DELETE, SUBSCRIBE, UNSUBSCRIBE."""

    folder: str


@dataclass(frozen=True, slots=True)
class Create(Command):
    """CREATE, with the special use of RFC 6154 or ''."""

    folder: str
    special_use: str


@dataclass(frozen=True, slots=True)
class Rename(Command):
    """RENAME."""

    folder: str
    new_name: str


@dataclass(frozen=True, slots=True)
class ListFolders(Command):
    """LIST (also RFC 5258, 5819, 6154) and LSUB. `extended`: options or several patterns were given."""

    reference: str
    patterns: tuple[str, ...]
    selection: frozenset[str] = frozenset()
    returns: frozenset[str] = frozenset()
    status_items: tuple[str, ...] = ()
    extended: bool = False


@dataclass(frozen=True, slots=True)
class Status(Command):
    """STATUS."""

    folder: str
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Append(Command):
    """APPEND up to its literal: `size` octets follow. `waits`: the client sends them only after a continuation."""

    folder: str
    flags: tuple[str, ...]
    internal_date: int | None
    size: int
    waits: bool


@dataclass(frozen=True, slots=True)
class Search(Command):
    """SEARCH. `key` is the tree of search.py; `returns` the options of RFC 4731, None for a plain SEARCH.

    `charset_known` False asks for NO [BADCHARSET].
    """

    key: list[object]
    returns: frozenset[str] | None
    charset_known: bool


@dataclass(frozen=True, slots=True)
class Fetch(Command):
    """FETCH. `items` are normalised for the store; `marks_seen` when one of them reads a body without PEEK."""

    ranges: Ranges
    items: tuple[str, ...]
    marks_seen: bool


@dataclass(frozen=True, slots=True)
class Store(Command):
    """STORE. mode: 'add', 'remove' or 'set'."""

    ranges: Ranges
    mode: str
    silent: bool
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Copy(Command):
    """COPY and MOVE (RFC 6851)."""

    ranges: Ranges
    folder: str


@dataclass(frozen=True, slots=True)
class UidExpunge(Command):
    """UID EXPUNGE (RFC 4315)."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Enable(Command):
    """ENABLE (RFC 5161)."""

    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Id(Command):
    """ID (RFC 2971): what the client says of itself."""

    fields: tuple[tuple[str, str], ...]
