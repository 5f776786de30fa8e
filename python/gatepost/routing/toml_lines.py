"""On which line of a TOML text each key stands: tomllib tells what is there, not where. Used for messages about rule documents.

Called only for text that tomllib took, so it looks for keys and skips values without judging them. What it cannot place (a key inside an
inline table) is placed where the nearest table around it is. Cost is linear in the text.
"""

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r'"""(?:[^\\"]|\\[\s\S]|"(?!""))*"{3,5}'
    r"|'''(?:[^']|'(?!''))*'{3,5}"
    r'|"(?:[^\\"\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[A-Za-z0-9_-]+"
    r"|\n|[^\S\n]+|[\s\S]"
)
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_SIMPLE = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}

Path = tuple[str, ...]


class Lines:
    """`of(path)`: the line, from 1, where a path of keys or the nearest table around it begins."""

    def __init__(self, text: str) -> None:
        self._known: dict[Path, int] = {(): 1}
        self._counts: dict[Path, int] = {}
        self._tokens: Iterator[tuple[str, int]] = _tokens(text)
        self._prefix: Path = ()
        self._read()

    def of(self, path: Path) -> int:
        """See the class."""
        while path not in self._known:
            path = path[:-1]
        return self._known[path]

    def _read(self) -> None:
        for token, line in self._tokens:
            if token == "[":
                self._header(line)
            elif token[0] not in " \t\r\n#":
                self._pair(token, line)

    def _header(self, line: int) -> None:
        keys, brackets = [], 1
        for token, _ in self._tokens:
            if token == "\n":
                break
            if token == "[":
                brackets += 1
            elif token not in ("]", ".") and token[0] not in " \t\r#":
                keys.append(_key(token))
        path = self._resolved(tuple(keys))
        if brackets == 2:
            self._known.setdefault(path, line)
            self._counts[path] = self._counts.get(path, -1) + 1
            path = (*path, str(self._counts[path]))
        self._prefix = path
        self._note(path, line)

    def _resolved(self, keys: Path) -> Path:
        """Keys that lead through an array of tables mean its last one."""
        path: Path = ()
        for n, key in enumerate(keys):
            path = (*path, key)
            if path in self._counts and n < len(keys) - 1:
                path = (*path, str(self._counts[path]))
        return path

    def _pair(self, token: str, line: int) -> None:
        keys = [_key(token)]
        for token, _ in self._tokens:  # up to '=', then the value
            if token == "=":
                break
            if token != "." and not token.isspace():
                keys.append(_key(token))
        self._note((*self._prefix, *keys), line)
        depth = 0
        for token, _ in self._tokens:
            depth += (token in "[{") - (token in "]}")
            if token == "\n" and depth <= 0:
                break

    def _note(self, path: Path, line: int) -> None:
        for n in range(1, len(path) + 1):
            self._known.setdefault(path[:n], line)


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    line = 1
    for match in _TOKEN.finditer(text):
        token = match.group()
        yield token, line
        line += token.count("\n")


def _key(token: str) -> str:
    if token[0] == '"':
        return _ESCAPE.sub(_unescaped, token[1:-1])
    return token[1:-1] if token[0] == "'" else token


def _unescaped(match: "re.Match[str]") -> str:
    short, long, single = match.groups()
    return _SIMPLE.get(single, single) if single else chr(int(short or long, 16))
