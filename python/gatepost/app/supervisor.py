"""The supervisor: one directory, one set of listening sockets, N workers, one control plane. It owns no mail.

Run by app.serve, after app.start (lock, sockets, workers executed) and app.ground (directory, certificate) have told the workers to begin:
it starts the control plane beside them, then `run/endpoints.json` is written: whoever sees it can connect. SIGTERM or SIGINT drains:
workers finish what they are at within the grace, then everything stops, 10 s at most. SIGHUP reads settings, rules and certificates anew.
Faults at start raise StartError or the layers' own errors, each with one line that says what to do.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import Coroutine

import structlog

from gatepost import __version__
from gatepost.app import banner, partitions
from gatepost.app.ground import Ground
from gatepost.app.listeners import ListenError
from gatepost.app.plane import ControlPlane
from gatepost.app.pool import WorkerProcess
from gatepost.app.snapshot import LiveRules
from gatepost.app.start import STOP_SECONDS, Started, StartError
from gatepost.config import Settings, SettingsError, load_settings
from gatepost.control.audit import AuditError
from gatepost.control.errors import ControlError
from gatepost.control.ports import ControlServerError, ListenerInfo, ServerFacts, WorkerPlace
from gatepost.directory import DirectoryError
from gatepost.queue.list_store import ListStore
from gatepost.server.tls import TlsContexts, TlsError

IMPLICIT_TLS = ("submissions", "pop3s", "imaps")

FAULTS = (SettingsError, ListenError, StartError, DirectoryError, TlsError, ControlServerError, AuditError)
"""What ends a start and an administrator can mend."""

log = structlog.get_logger()


class Supervisor:
    """One running server over one data directory."""

    def __init__(self, started: Started, ground: Ground, *, demo: bool) -> None:
        self._directory = ground.directory
        self._passwords = ground.passwords
        self._settings = started.settings
        self._config = started.config
        self._overrides = dict(started.overrides)
        self._demo = demo
        self._listeners = started.listeners
        self._pool = started.pool
        self._surplus = started.surplus
        self._stop = asyncio.Event()
        self._serving = False
        self._started = time.monotonic()
        self._started_at = time.time()
        self._tasks: set[asyncio.Task[object]] = set()

    async def run(self) -> int:
        """Start, stay until told to stop, drain. Returns the exit status."""
        self._handle_signals()
        data = self._settings.data
        self._pool.report_to(self._changed, self._retired)
        lists = ListStore(data)
        self._rules = LiveRules(self._directory, lists)
        workers = [w.index for w in self._pool.workers]
        self.plane = ControlPlane(
            lambda: self._settings, self._directory, self._rules, workers, self, drains=set(self._surplus), lists=lists
        )
        try:
            if await self._start_all():
                self._spawn(self._rules.poll())
                self._spawn(self._rules.keep_index())
                self._spawn(self.plane.quarantine.digests.run())
                self._spawn(self.plane.list_digests.run())
                self._serving = True
                self._changed()
                log.info("ready", data=str(data), workers=len(self._pool.workers), seconds=round(time.monotonic() - self._started, 2))
                banner.show(self._settings, self._published(), self._passwords, demo=self._demo)
                await self._stop.wait()
            log.info("stopping")
        finally:
            (data / "run" / "endpoints.json").unlink(missing_ok=True)
            await asyncio.gather(self._pool.stop(STOP_SECONDS), self.plane.stop(), return_exceptions=True)
            for task in list(self._tasks):
                task.cancel()
            log.info("stopped")
        return 0

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
            await self._pool.wait_ready()
        except RuntimeError as error:
            raise StartError(str(error)) from error

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
            await asyncio.to_thread(TlsContexts, lambda: fresh)  # the workers take it over; here it is only seen whether they can
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


def frozen_keys(old: Settings, new: Settings) -> list[str]:
    """Settings that differ but are only read at start."""
    keys = [k for k in ("data", "workers", "listen", "spool", "history") if getattr(old, k) != getattr(new, k)]
    keys += [f"scan.{k}" for k in ("scanners", "deadline_seconds") if getattr(old.scan, k) != getattr(new.scan, k)]
    return keys + [f"control.{k}" for k in type(old.control).model_fields if getattr(old.control, k) != getattr(new.control, k)]
