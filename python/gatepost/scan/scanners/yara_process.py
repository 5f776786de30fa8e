"""The process in which YARA-X scans; `yara` starts it and speaks to it over standard input and output. Imports nothing of Gatepost.

YARA-X's Python binding keeps the interpreter lock for a whole scan, so a thread would stop its worker; and what crashes or eats memory
over foreign octets does so here, under a limit. Request: a letter ('P' probe, 'S' scan), seconds and length as big-endian u32, octets.
Answer: a line of JSON: `version` with `rules` ([name, outcome, score] each), or `refused`, or `fault`. Ends when its input does.
"""

import hashlib
import json
import resource
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

import yara_x

SUFFIXES = (".yar", ".yara")
MAX_RULE_FILES = 10_000
MAX_RULE_BYTES = 64 << 20
MAX_MATCHES = 1_000
"""Per pattern and scan."""
MAX_NAMED = 50
HEAD = struct.Struct("!cII")


class Rules:
    """The rules of a directory, compiled once and again when a file changes. Faulty new ones leave the old in force."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen = ""
        self._rules: yara_x.Rules | None = None
        self.version = ""
        self.warning = ""

    def refresh(self) -> None:
        """Look for changes. Raises OSError, ValueError or yara_x.CompileError while there are no rules at all."""
        files = sorted(path for path in self._directory.rglob("*") if path.suffix in SUFFIXES and path.is_file())
        stats = [(str(path), status.st_mtime_ns, status.st_size) for path in files for status in [path.stat()]]
        seen = hashlib.sha256(repr(stats).encode()).hexdigest()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            if not files:
                raise ValueError(f"no rules (*.yar, *.yara) in {self._directory}")
            if len(files) > MAX_RULE_FILES or sum(size for _, _, size in stats) > MAX_RULE_BYTES:
                raise ValueError(f"more than {MAX_RULE_FILES} files or {MAX_RULE_BYTES} octets of rules")
            self._compile(files)
        except (OSError, ValueError, yara_x.CompileError) as fault:
            if self._rules is None:
                self._seen = ""
                raise
            self.warning = f"changed rules are not used: {str(fault)[:500]}"

    def _compile(self, files: list[Path]) -> None:
        compiler = yara_x.Compiler()
        compiler.enable_includes(False)
        digest = hashlib.sha256()
        for path in files:
            text = path.read_bytes()
            digest.update(hashlib.sha256(text).digest())
            compiler.new_namespace(str(path.relative_to(self._directory)))
            compiler.add_source(text.decode(), origin=str(path))
        self._rules = compiler.build()
        self.version, self.warning = f"yara {digest.hexdigest()[:16]}", ""

    def scan(self, data: bytes, seconds: int) -> list[tuple[str, str, float]]:
        """Matching rules: name, outcome, score. Raises yara_x.TimeoutError, yara_x.ScanError."""
        assert self._rules is not None
        scanner = yara_x.Scanner(self._rules)
        scanner.set_timeout(max(seconds, 1))
        scanner.max_matches_per_pattern(MAX_MATCHES)
        found = [_found(rule) for rule in scanner.scan(data).matching_rules]
        return sorted(found, key=lambda one: (one[1] != "infected", -one[2], one[0]))[:MAX_NAMED]


def _found(rule: Any) -> tuple[str, str, float]:
    meta = dict(rule.metadata)
    score = meta.get("score", 0)
    outcome = "suspicious" if "suspicious" in rule.tags or meta.get("outcome") == "suspicious" else "infected"
    return rule.identifier, outcome, float(score) if isinstance(score, int | float) else 0.0


def answer(rules: Rules, letter: bytes, seconds: int, data: bytes) -> dict[str, Any]:
    """What to say to one request."""
    try:
        if letter == b"P" or not rules.version:
            rules.refresh()
        found = rules.scan(data, seconds) if letter == b"S" else []
    except (yara_x.TimeoutError, MemoryError) as fault:
        return {"refused": "too much work for the rules" if isinstance(fault, yara_x.TimeoutError) else "too much memory"}
    except Exception as fault:
        return {"fault": f"{type(fault).__name__}: {str(fault)[:1000]}"}
    return {"version": rules.version, "rules": found, "warning": rules.warning}


def serve(source: BinaryIO, sink: BinaryIO, directory: Path) -> None:
    """Answer until the input ends."""
    rules = Rules(directory)
    while len(head := source.read(HEAD.size)) == HEAD.size:
        letter, seconds, length = HEAD.unpack(head)
        data = source.read(length)
        if len(data) < length:
            return
        sink.write(json.dumps(answer(rules, letter, seconds, data)).encode() + b"\n")
        sink.flush()


def main() -> None:
    """Arguments: the rules' directory, and the most memory in octets."""
    limit = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(sys.stdin.buffer, sys.stdout.buffer, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
