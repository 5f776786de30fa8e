"""The `gatepost` command: `serve` starts the supervisor here, `scan` looks into a file, `scanners` tries
the scanners; every other word is the CLI, a gRPC client.

The words are told apart before anything heavy is imported, so that each half starts quickly. Options that stand before the word, as
the CLI takes them, go to these three as well.
"""

import sys
from collections.abc import Sequence

FLAGS = ("--json", "--no-tls", "--help")
"""Options of the CLI that take no value."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script. Returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    at = _word(words)
    word, rest = (words[at], words[at + 1 :] + words[:at]) if at < len(words) else ("", [])
    if word == "serve":
        from gatepost.app.serve import serve

        return serve(rest)
    if word == "scan":
        from gatepost.app.scan_file import main as scan

        return scan(rest)
    if word == "scanners":
        from gatepost.app.scanners import main as scanners

        return scanners(rest)
    from gatepost.cli.main import main as cli

    return cli(words)


def _word(words: Sequence[str]) -> int:
    """Where the first word stands that is neither an option nor its value."""
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 1 if "=" in words[at] or words[at] in FLAGS else 2
    return at
