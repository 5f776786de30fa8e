"""`gatepost serve`: parse its options, run the supervisor, print what listens where.

Called by app.main. Faults in options, settings or start-up end it with one line on standard error each and exit status 1 (2 for
usage); no trace is shown for what an administrator can mend.
"""

import argparse
import asyncio
import errno
import gc
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from gatepost.app import ground, logs
from gatepost.app.child import Child
from gatepost.app.file_limit import raise_file_limit
from gatepost.app.start import first_steps
from gatepost.config import Settings, load_settings

YIELD_SECONDS = 2.0
"""How long the supervisor leaves the processor to workers that start, when there are as many as processors."""
FULL = (errno.ENOSPC, errno.EDQUOT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gatepost serve", description="Start the mail server and stay in the foreground.")
    parser.add_argument("--data", type=Path, help="directory for everything the server writes (default: GATEPOST_DATA, else ./var)")
    parser.add_argument("--config", type=Path, help="TOML file of settings; docs/configuration.md lists them")
    parser.add_argument("--workers", type=int, help="worker processes (default: one per core)")
    parser.add_argument("--demo", action="store_true", help="on an empty directory, make domain example.test with alice and bob")
    return parser


def serve(argv: Sequence[str], early: Child | None = None) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit status. `early`: a worker that was executed already, for us to use."""
    options = _parser().parse_args(argv)
    raise_file_limit()
    os.umask(0o077)  # mail, queue and secrets are the owner's alone, on volumes in shared directories too
    overrides: dict[str, object] = {} if options.workers is None else {"workers": options.workers}
    data = options.data or (Path(os.environ["GATEPOST_DATA"]) if os.environ.get("GATEPOST_DATA") else None)
    try:
        settings = load_settings(options.config, data, overrides)
        logs.configure(settings, "supervisor")
        return asyncio.run(_run(settings, options, overrides, early))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        text = _what_to_mend(error)
        if not text:
            raise
        print(f"gatepost: {text}", file=sys.stderr)
        return 1


async def _run(settings: Settings, options: argparse.Namespace, overrides: Mapping[str, object], early: Child | None) -> int:
    async with first_steps(settings, options.config, overrides, early) as started:
        ground.check(settings)
        if ground.stands(settings, demo=options.demo):
            started.pool.begin()
            if settings.workers >= len(os.sched_getaffinity(0)):
                await started.pool.wait_taking(YIELD_SECONDS)  # what we import next would slow them down
        with ground.laid(settings, demo=options.demo) as found:
            started.pool.begin()
            from gatepost.app.supervisor import Supervisor  # the workers open their partitions meanwhile

            gc.enable()
            return await Supervisor(started, found, demo=options.demo).run()


def _what_to_mend(error: Exception) -> str:
    """The line for the administrator; empty when only a trace helps."""
    from gatepost.app.supervisor import FAULTS

    if isinstance(error, FAULTS):
        return str(error)
    if isinstance(error, OSError) and error.errno in FULL:
        return f"the data directory's disk is full ({error.strerror}): free a few megabytes and start again"
    return ""
