"""While a worker opens its files it tells the supervisor, once a second, how far it is. Used by app.worker only.

What is told comes from the kernel's counters of this process (proc(5)): octets read, processor time. Recovery that gets further changes
them; one that hangs does not, and the supervisor gives it up. No effect on recovery itself. Needs the event loop to run, so opening is
done in threads.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator

from gatepost.app.parent_line import ParentLine

INTERVAL_SECONDS = 1.0


@contextlib.contextmanager
def progress(parent: ParentLine) -> Iterator[None]:
    """Tell it for the time of the block."""
    task = asyncio.get_running_loop().create_task(_tell(parent), name="progress")
    try:
        yield
    finally:
        task.cancel()


async def _tell(parent: ParentLine) -> None:
    while True:
        await asyncio.sleep(INTERVAL_SECONDS)
        parent.say("opening", f"recovering: {octets_read() >> 20} MiB read, {time.process_time():.1f} s of processor time")


def octets_read() -> int:
    """What this process has read so far, from the page cache too; 0 where the kernel does not say."""
    try:
        with open("/proc/self/io", "rb", buffering=0) as file:
            fields = dict(line.split(b": ") for line in file.read().splitlines())
        return int(fields[b"rchar"])
    except (OSError, ValueError, KeyError):
        return 0
