"""One worker process: protocol servers, one partition of the spool, its deliveries, and a control socket for the supervisor.

Exec'ed (by app.child) as `python -m gatepost worker --line-fd N`; imports, then waits for its orders on that line. Tells the supervisor
over it how far recovery is, that it is ready, that a disk failed (`parent_line`). Drains and leaves on SIGTERM or when the line ends.
Start-up errors end the process with one clear line. Ordered to drain it empties a surplus partition: no listeners, and it leaves when
nothing is left.
"""

import argparse
import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog
import uvloop

from gatepost.app import logs
from gatepost.app.file_limit import raise_file_limit
from gatepost.app.parent_line import Orders, ParentLine, read_orders
from gatepost.app.progress import progress
from gatepost.app.wiring import WorkerParts
from gatepost.config import Settings, SettingsError, load_settings
from gatepost.config.files import NewerFormatError
from gatepost.control.ports import ControlServerError
from gatepost.directory import DirectoryError
from gatepost.native import CoreError
from gatepost.queue.paused import PausedFileError
from gatepost.scan.scanners.registry import ScannersError
from gatepost.server.tls import TlsError

DRAIN_SECONDS = 8.0
LAST_RESORT_SECONDS = 15
GC_THRESHOLD = 10_000
"""New objects between two looks for cycles. Sessions end without leaving any, so Python's 700 would cost a tenth of the interpreter's time
for nothing.
"""

FAULTS = (SettingsError, CoreError, DirectoryError, TlsError, ControlServerError, PausedFileError, NewerFormatError, ScannersError)

log = structlog.get_logger()


def main(argv: Sequence[str]) -> int:
    """Entry point. Returns the exit status."""
    os.umask(0o077)
    raise_file_limit()
    line = _line(argv)
    told = read_orders(line)
    if told is None:
        return 0
    orders, sockets = told
    parent = ParentLine(line.fileno())

    def load() -> Settings:
        return load_settings(orders.path(), Path(orders.data), orders.overrides)

    try:
        logs.configure(load(), f"worker-{orders.index}")
        uvloop.run(_run(orders, sockets, load, parent))
    except FAULTS as error:
        parent.say("fault", str(error))
        print(f"gatepost worker {orders.index}: {error}", file=sys.stderr)
        return 1
    return 0


def _line(argv: Sequence[str]) -> socket.socket:
    """The line to the supervisor, which no program that we execute shall hold."""
    parser = argparse.ArgumentParser(prog="gatepost worker", description="Executed by gatepost serve.")
    parser.add_argument("--line-fd", type=int, required=True)
    line = socket.socket(fileno=parser.parse_args(argv).line_fd)
    line.set_inheritable(False)
    return line


async def _run(orders: Orders, sockets: Mapping[str, Sequence[socket.socket]], load: Callable[[], Settings], parent: ParentLine) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(parent.fd, stop.set)  # nothing comes after the orders but the end
    with progress(parent):
        parts = await WorkerParts.build(load, orders.index, drains=orders.drain)
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = asyncio.create_task(_reload(parts))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    watch = asyncio.create_task(parts.watch_disk(parent, stop).run(), name="disk")
    emptied = asyncio.create_task(parts.emptied(stop)) if orders.drain else None
    try:
        await parts.start(sockets, stop, lambda: parent.say("taking"))
        gc.set_threshold(GC_THRESHOLD)
        gc.freeze()  # what start-up made lives as long as the process: keep the collector off it
        gc.enable()
        parent.say("ready")
        await stop.wait()
    finally:
        loop.remove_reader(parent.fd)
        watch.cancel()
        signal.alarm(LAST_RESORT_SECONDS)  # nobody is left to kill an orphan whose shutdown hangs: SIGALRM ends it
        await parts.stop(DRAIN_SECONDS)
    if emptied is not None and emptied.done() and emptied.result() and parts.spool.fatal is None:
        parent.say("empty")
    elif emptied is not None:
        emptied.cancel()


async def _reload(parts: WorkerParts) -> None:
    try:
        await parts.reload(settings=True)
    except (SettingsError, TlsError, OSError) as error:
        log.error("reload refused; the settings in force stay", error=str(error))
