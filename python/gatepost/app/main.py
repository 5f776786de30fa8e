"""The `gatepost` command: `serve` starts the supervisor here, `scan` looks into a file, `scanners` tries
the scanners; every other word is the CLI, a gRPC client.

The words are told apart before anything heavy is imported, so that each half starts quickly.
"""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script. Returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] == "serve":
        from gatepost.app.serve import serve

        return serve(words[1:])
    if words and words[0] == "scan":
        from gatepost.app.scan_file import main as scan

        return scan(words[1:])
    if words and words[0] == "scanners":
        from gatepost.app.scanners import main as scanners

        return scanners(words[1:])
    from gatepost.cli.main import main as cli

    return cli(words)
