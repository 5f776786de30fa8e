"""The `gatepost` command: `serve` starts the supervisor here, which executes `worker`s, `scan` looks into a file, `scanners` tries
the scanners; every other word is the CLI, a gRPC client.

The words are told apart before anything heavy is imported, so that each half starts quickly. Options that stand before the word, as
the CLI takes them, go to these three as well.
"""

import gc
import os
import signal
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import cast

FLAGS = ("--json", "--no-tls", "--help")
"""Options of the CLI that take no value."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script. Returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    at = _word(words)
    word, rest = (words[at], words[at + 1 :] + words[:at]) if at < len(words) else ("", [])
    if word in ("serve", "worker"):
        return _server(word, rest)
    if word == "scan":
        from gatepost.app.scan_file import main as scan

        return scan(rest)
    if word == "scanners":
        from gatepost.app.scanners import main as scanners

        return scanners(rest)
    from gatepost.cli.main import main as cli

    return cli(words)


def _server(word: str, rest: Sequence[str]) -> int:
    """The supervisor, or a worker it executes. Raises OSError when there is no process left for the first."""
    gc.disable()  # until everything is imported: there is nothing to collect, and looking for it is a tenth of a start
    if word == "worker":
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to answer
        lean_imports()
        from gatepost.app.worker import main as worker

        return worker(rest)
    from gatepost.app.child import Child

    early = Child()  # there is always one worker: it imports what it needs while we read the settings
    try:
        lean_imports()
        from gatepost.app.serve import serve

        return serve(rest, early)
    finally:
        early.end()


def lean_imports() -> None:
    """Keep out what two libraries take along and a server has no use for, a tenth of a second each time one starts: pydantic looks through
    every installed package for plug-ins, structlog imports rich for coloured traces. Whoever wants rich later finds it.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if "rich" not in sys.modules:
        sys.modules["rich"] = cast("ModuleType", None)  # an ImportError for who asks, as if it were not installed
        import structlog.dev  # noqa: F401

        del sys.modules["rich"]


def _word(words: Sequence[str]) -> int:
    """Where the first word stands that is neither an option nor its value."""
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 1 if "=" in words[at] or words[at] in FLAGS else 2
    return at
