"""Drafts of the rule set: named documents in files of the data directory, changed until they are applied or thrown away.

Used by store.py. Invariants: a file is replaced as a whole (a crash leaves the old one or the new one); a draft is any text, checked when
it is asked for; at most MAX_DRAFTS. Fails with InvalidValue, NotFound, EtagMismatch, DirectoryError.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from gatepost.config.files import NewerFormatError, check_format, replace_file
from gatepost.directory import validation
from gatepost.directory.clock import now_us
from gatepost.directory.errors import DirectoryError, EtagMismatch, InvalidValue, NotFound
from gatepost.routing.document import MAX_OCTETS

MAX_DRAFTS = 100
FORMAT = 1
_HEAD = "# draft "
"""Begins the first line, which says in JSON whose the draft is; the document follows."""


@dataclass(frozen=True, slots=True)
class Draft:
    """name, who changed it last and when (Unix microseconds), the version of the rules it began from, the document's text, etag."""

    name: str
    author: str
    changed_at: int
    base: int
    text: str
    etag: str


class Drafts:
    """The drafts of one data directory; any thread may call, the supervisor alone does."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get(self, name: str) -> Draft:
        """Raises NotFound."""
        try:
            data = self._path(name).read_text("utf-8")
        except FileNotFoundError:
            raise NotFound(f"no draft {name!r}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DirectoryError(f"draft {name}: {error}") from error
        head, _, text = data.partition("\n")
        try:
            facts = json.loads(head.removeprefix(_HEAD))
            check_format(self._path(name), facts.get("format", FORMAT), FORMAT)
            return Draft(name, str(facts["author"]), int(facts["changed_at"]), int(facts["base"]), text, _etag(data))
        except NewerFormatError as error:
            raise DirectoryError(str(error)) from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DirectoryError(f"draft {name} is not one of Gatepost's: {error}") from error

    def listed(self) -> list[Draft]:
        """By name."""
        return [self.get(path.stem) for path in sorted(self._directory.glob("*.toml"))]

    def put(self, name: str, text: str, base: int, author: str, etag: str | None) -> Draft:
        """Add or replace. An etag is that of the draft to replace."""
        path = self._path(validation.name(name, "name"))
        if len(text.encode("utf-8", "replace")) > MAX_OCTETS:
            raise InvalidValue("text", f"must be at most {MAX_OCTETS:,} octets")
        if etag and (not path.exists() or self.get(name).etag != etag):
            raise EtagMismatch(f"draft {name} was changed by someone else since it was read", self.get(name).etag if path.exists() else "")
        if not path.exists() and len(list(self._directory.glob("*.toml"))) >= MAX_DRAFTS:
            raise InvalidValue("name", f"there are {MAX_DRAFTS} drafts already; discard some")
        facts = {"format": FORMAT, "author": author, "changed_at": now_us(), "base": base}
        self._write(path, f"{_HEAD}{json.dumps(facts)}\n{text}")
        return self.get(name)

    def remove(self, name: str) -> None:
        """Raises NotFound."""
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise NotFound(f"no draft {name!r}") from None

    def _path(self, name: str) -> Path:
        return self._directory / f"{validation.name(name, 'name')}.toml"

    def _write(self, path: Path, data: str) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, data.encode())
        except OSError as error:
            raise DirectoryError(f"{path}: {error.strerror}") from error


def _etag(data: str) -> str:
    return f"d{hashlib.sha256(data.encode()).hexdigest()[:16]}"
