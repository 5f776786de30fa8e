"""The supervisor: one directory, one set of listening sockets, N workers, one control plane. It owns no mail.

Run by app.serve. Order of start: data directory and its lock, directory (migrated), certificate, sockets, workers and control
plane side by side; then `run/endpoints.json` is written: whoever sees it can connect. SIGTERM or SIGINT drains: workers finish what
they are at within the grace, then everything stops, 10 s at most. SIGHUP reads settings, rules and certificates anew. Faults at
start raise StartError or the layers' own errors, each with one line that says what to do.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import IO

import structlog

from gatepost import __version__
from gatepost.app import banner, partitions
from gatepost.app.demo import ensure_demo
from gatepost.app.listeners import ListenerSet
from gatepost.app.plane import ControlPlane
from gatepost.app.pool import WorkerPool, WorkerProcess
from gatepost.app.snapshot import LiveRules
from gatepost.config import Endpoint, Settings, SettingsError, load_settings, parse_endpoint
from gatepost.control.errors import ControlError
from gatepost.control.ports import ListenerInfo, ServerFacts, WorkerPlace
from gatepost.directory import Directory
from gatepost.queue.list_store import ListStore
from gatepost.queue.paused import PausedFileError
from gatepost.server.tls import TlsContexts, TlsError

STOP_SECONDS = 9.0
MAIL_LISTENERS = ("smtp", "submission", "submissions", "lmtp", "pop3", "pop3s", "imap", "imaps")
IMPLICIT_TLS = ("submissions", "pop3s", "imaps")

log = structlog.get_logger()


class StartError(Exception):
    """The server cannot start; the text says why and what to do."""


class Supervisor:
    """One running server over one data directory."""

    def __init__(self, settings: Settings, config: Path | None, overrides: Mapping[str, object], *, demo: bool) -> None:
        self._settings = settings
        self._config = config
        self._overrides = dict(overrides)
        self._demo = demo
        self._stop = asyncio.Event()
        self._serving = False
        self._started = time.monotonic()
        self._started_at = time.time()
        self._tasks: set[asyncio.Task[object]] = set()

    async def run(self) -> int:
        """Start, stay until told to stop, drain. Returns the exit status."""
        data = self._settings.data
        make_layout(data)
        with hold_lock(data):
            directory = Directory(data / "directory.db", migrate=True)
            passwords = ensure_demo(directory, data) if self._demo else {}
            self._tls = TlsContexts(lambda: self._settings)
            self._listeners = ListenerSet.reserve(wanted(self._settings))
            self._handle_signals()
            try:
                await self._serve(directory, passwords)
            finally:
                self._listeners.close()
                directory.close()
        return 0

    async def _serve(self, directory: Directory, passwords: Mapping[str, str]) -> None:
        data = self._settings.data
        left = await asyncio.to_thread(prepare_partitions, data / "spool", self._settings.workers)
        self._pool = WorkerPool(
            self._settings.workers,
            self._listeners,
            self._arguments(),
            self._changed,
            surplus=left,
            on_retired=self._retired,
        )
        lists = ListStore(data)
        self._rules = LiveRules(directory, lists)
        workers = [w.index for w in self._pool.workers]
        self.plane = ControlPlane(lambda: self._settings, directory, self._rules, workers, self, drains=set(left), lists=lists)
        try:
            if await self._start_all():
                self._spawn(self._rules.poll())
                self._spawn(self._rules.keep_index())
                self._spawn(self.plane.quarantine.digests.run())
                self._spawn(self.plane.list_digests.run())
                self._serving = True
                self._changed()
                log.info("ready", data=str(data), workers=len(self._pool.workers), seconds=round(time.monotonic() - self._started, 2))
                banner.show(self._settings, self._published(), passwords, demo=self._demo)
                await self._stop.wait()
            log.info("stopping")
        finally:
            (data / "run" / "endpoints.json").unlink(missing_ok=True)
            await asyncio.gather(self._pool.stop(STOP_SECONDS), self.plane.stop(), return_exceptions=True)
            for task in list(self._tasks):
                task.cancel()
            log.info("stopped")

    async def _start_all(self) -> bool:
        """Start workers and control plane. False when told to stop before they were ready: a recovery may take long."""
        starting = asyncio.create_task(self._start_both())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not self._stop.is_set():
            await starting
            return True
        starting.cancel()
        # However it ended: nobody waits for the start any more, and what went wrong with it is of no use now.
        await asyncio.gather(starting, return_exceptions=True)
        return False

    async def _start_both(self) -> None:
        await asyncio.gather(self._start_pool(), self.plane.start())

    async def _retired(self, index: int) -> None:
        """A surplus partition is empty and its worker has closed it: remove it."""
        await self.plane.retired(index)
        data = self._settings.data
        (data / "run" / f"worker-{index}.sock").unlink(missing_ok=True)
        try:
            await asyncio.to_thread(partitions.remove, data / "spool", index)
            log.info("surplus partition removed", partition=f"p{index}")
        except (OSError, partitions.PartitionInUse) as error:
            log.error(
                "surplus partition is empty but cannot be removed; the next start tries again", partition=f"p{index}", error=str(error)
            )

    async def _start_pool(self) -> None:
        try:
            await self._pool.start()
        except RuntimeError as error:
            raise StartError(str(error)) from error

    def _arguments(self) -> list[str]:
        words = ["--data", str(self._settings.data), "--overrides", json.dumps(self._overrides)]
        return words + (["--config", str(self._config)] if self._config else [])

    # ---- what ServerService asks of us ----

    def drain(self) -> None:
        """Begin to stop."""
        self._stop.set()

    def status(self) -> ServerFacts:
        """Facts as of now."""
        data = self._settings.data
        listeners = [
            ListenerInfo(name, str(endpoint), implicit_tls=name in IMPLICIT_TLS)
            for name, group in self._listeners.endpoints.items()
            for endpoint in group
        ]
        listeners += [ListenerInfo("control", text, self._settings.control.tcp_tls) for text in self.plane.tcp_endpoints]
        listeners.append(ListenerInfo("control", f"unix:{self.plane.unix_path}"))
        return ServerFacts(
            version=__version__,
            hostname=self._settings.hostname,
            data=str(data),
            started_at=self._started_at,
            pid=os.getpid(),
            workers=[self._place(worker) for worker in self._pool.workers],
            listeners=listeners,
            paths=[str(data / "spool"), str(data / "volumes")],
        )

    def _place(self, worker: WorkerProcess) -> WorkerPlace:
        running = "failed" if worker.failure else "retiring" if worker.drains else "running"
        state = running if worker.pid and worker.ready.is_set() else "starting" if not worker.restarts else "restarting"
        detail = worker.failure or worker.detail
        return WorkerPlace(worker.index, worker.pid, "draining" if self._stop.is_set() else state, worker.restarts, detail)

    async def reload(self) -> list[str]:
        """Read settings, rules and certificates anew, here and in the workers. Returns the keys that need a restart.

        Raises SettingsError when the file does not hold; then everything stays as it was.
        """
        before, fresh = self._settings, await asyncio.to_thread(load_settings, self._config, self._settings.data, self._overrides)
        needs_restart = frozen_keys(before, fresh)
        self._settings = fresh
        try:
            certificates = await asyncio.to_thread(self.plane.read_certificates)
            await asyncio.to_thread(self._tls.reload)
        except (TlsError, OSError) as error:
            self._settings = before
            raise ValueError(str(error)) from error
        await self._rules.refresh()
        await self.plane.reloaded(certificates)
        log.info("reloaded", restart_needed=needs_restart)
        return needs_restart

    # ---- inside ----

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self._reload_logged()))

    async def _reload_logged(self) -> None:
        try:
            await self.reload()
        except (SettingsError, OSError, ValueError) as error:
            log.error("reload refused; the settings in force stay", error=str(error))
        except ControlError as error:
            log.error("reloaded here, but not in every worker", error=str(error))

    def _spawn(self, work: Coroutine[object, object, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _published(self) -> dict[str, object]:
        """What `run/endpoints.json` says."""
        listeners = {name: [str(e) for e in group] for name, group in self._listeners.endpoints.items()}
        workers = [
            {"index": w.index, "pid": w.pid if w.ready.is_set() else 0, **({"drains": True} if w.drains else {})}
            for w in self._pool.workers
        ]
        return {"pid": os.getpid(), **listeners, "control_tcp": self.plane.tcp_endpoints, "workers": workers}

    def _changed(self) -> None:
        """A worker came, went, or told something new."""
        if self._stop.is_set() or not self._serving:
            return
        try:
            self._publish()
        except OSError as error:
            log.error("run/endpoints.json cannot be written", error=str(error))
        self._spawn(self.plane.tell_health({worker.index: not worker.failure for worker in self._pool.workers}))

    def _publish(self) -> None:
        path = self._settings.data / "run" / "endpoints.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._published(), indent=1) + "\n")
        temporary.replace(path)


def wanted(settings: Settings) -> dict[str, list[Endpoint]]:
    """Listener name → endpoints, for the mail protocols."""
    return {name: [parse_endpoint(text) for text in getattr(settings.listen, name)] for name in MAIL_LISTENERS}


def prepare_partitions(spool: Path, workers: int) -> list[int]:
    """*blocking* Finish what an earlier start began, spread the pauses. Returns the surplus partitions. Raises StartError."""
    try:
        partitions.delete_tombstones(spool)
        left = partitions.surplus(spool, workers)
        partitions.spread_pauses(spool, workers)
    except (OSError, PausedFileError) as error:
        raise StartError(f"spool directory {spool}: {error}") from error
    if left:
        log.info(
            "partitions from an earlier start are drained and then removed", partitions=[f"p{index}" for index in left], workers=workers
        )
    return left


def frozen_keys(old: Settings, new: Settings) -> list[str]:
    """Settings that differ but are only read at start."""
    keys = [k for k in ("data", "workers", "listen", "spool", "history") if getattr(old, k) != getattr(new, k)]
    keys += [f"scan.{k}" for k in ("scanners", "deadline_seconds") if getattr(old.scan, k) != getattr(new.scan, k)]
    return keys + [f"control.{k}" for k in type(old.control).model_fields if getattr(old.control, k) != getattr(new.control, k)]


def make_layout(data: Path) -> None:
    """The data directory and its rooms, private to the owner. Raises StartError."""
    try:
        for room in (data, data / "run", data / "spool", data / "volumes", data / "secrets"):
            room.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"data directory {data}: {error.strerror or error}; give another by --data") from error


@contextlib.contextmanager
def hold_lock(data: Path) -> Iterator[IO[str]]:
    """The lock that keeps a second server off the directory. Raises StartError naming the holder."""
    with open(data / "run" / "supervisor.lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise StartError(f"{data} is in use by another gatepost (pid {holder}); stop it, or give another --data") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield file
        file.truncate(0)
