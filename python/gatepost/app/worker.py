"""One worker process: protocol servers, one partition of the spool, its deliveries, and a control socket for the supervisor.

Exec'ed (by app.pool) as `python -m gatepost worker`; begins when --word-fd closes. Tells the supervisor over --ready-fd how far
recovery is, that it is ready, that a disk failed (`parent_line`). Drains and leaves on SIGTERM or when the life line --life-fd closes.
Start-up errors end the process with one clear line. With --drain it empties a surplus partition: no listeners, and it leaves when nothing
is left.
"""

import argparse
import asyncio
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
import uvloop

from gatepost.app import logs
from gatepost.app.parent_line import ParentLine
from gatepost.app.progress import progress
from gatepost.app.wiring import WorkerParts
from gatepost.config import Settings, SettingsError, load_settings
from gatepost.config.files import NewerFormatError
from gatepost.control.server import ControlServerError
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
    arguments = _parse(argv)
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    parent = ParentLine(arguments.ready_fd)
    if not word_to_begin(arguments.word_fd, arguments.life_fd):
        return 0

    def load() -> Settings:
        return load_settings(arguments.config, arguments.data, json.loads(arguments.overrides))

    try:
        logs.configure(load(), f"worker-{arguments.index}")
        uvloop.run(_run(arguments, load, parent))
    except FAULTS as error:
        parent.say("fault", str(error))
        print(f"gatepost worker {arguments.index}: {error}", file=sys.stderr)
        return 1
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gatepost worker")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--overrides", default="{}")
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--sockets", default="{}")
    parser.add_argument("--drain", action="store_true")
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--life-fd", type=int, required=True)
    parser.add_argument("--word-fd", type=int, required=True)
    return parser.parse_args(argv)


def word_to_begin(word_fd: int, life_fd: int) -> bool:
    """Wait until the supervisor has directory and certificates ready. False when it is gone instead. Either is a pipe that closes."""
    closed, _, _ = select.select([word_fd, life_fd], [], [])
    return life_fd not in closed


def _adopt(plan: str) -> dict[str, list[socket.socket]]:
    """Sockets from inherited descriptors, by listener name."""
    adopted: dict[str, list[socket.socket]] = {}
    for name, numbers in json.loads(plan).items():
        adopted[name] = [socket.socket(fileno=number) for number in numbers]
        for sock in adopted[name]:
            sock.setblocking(False)
    return adopted


async def _run(arguments: argparse.Namespace, load: Callable[[], Settings], parent: ParentLine) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(arguments.life_fd, stop.set)
    with progress(parent):
        parts = await WorkerParts.build(load, arguments.index, drains=arguments.drain)
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = asyncio.create_task(_reload(parts))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    watch = asyncio.create_task(parts.watch_disk(parent, stop).run(), name="disk")
    emptied = asyncio.create_task(parts.emptied(stop)) if arguments.drain else None
    try:
        await parts.start(_adopt(arguments.sockets), stop)
        gc.set_threshold(GC_THRESHOLD)
        gc.freeze()  # what start-up made lives as long as the process: keep the collector off it
        gc.enable()
        parent.say("ready")
        await stop.wait()
    finally:
        loop.remove_reader(arguments.life_fd)
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
